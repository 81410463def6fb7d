"""An alert on a phone at night and in the console: seen, taken on, passed on, with and without JavaScript."""

import re
import sqlite3
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, StorageState, expect

from e2e.clinic import Clinic, until
from e2e.conftest import House, Noise, live
from e2e.test_looks import AXE, RUN

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 800}, "has_touch": True}
_NUMBERS = count(1)


def raise_alert(clinic: Clinic, **fields: Any) -> Any:
    """A critical alert of the clinic; returns its document."""
    number = next(_NUMBERS)
    given = {
        "trigger": f"redis_down_{number}",
        "severity": "critical",
        "summary": "Envios parados: o Redis não responde",
        "dedup_key": f"redis-{number}",
    }
    return clinic.call("POST", "/alerts", json=given | fields)


def link(house: House, alert_id: str, channel: str = "superadmin_whatsapp") -> str:
    """The address in the message of an alert, as it arrived on the simulated phone."""
    file = house.server.database_url.removeprefix("sqlite:///")
    found: list[str] = []

    def arrived() -> bool:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as conn:
            query = (
                "SELECT p.body FROM phone_message p JOIN alert_step s ON s.step_id = p.idempotency_key "
                "WHERE s.alert_id = ? AND s.channel = ? ORDER BY s.n DESC"
            )
            found[:] = [row[0] for row in conn.execute(query, (alert_id, channel))]
        return bool(found)

    until(arrived, "the message on the phone")
    match = re.search(r"https?://\S+/ack/\S+", found[0])
    assert match is not None
    return match.group()


def axe(page: Page, noise: Noise) -> list[str]:
    noise.expected += ("Content Security Policy", "policy: style-src")
    page.evaluate(AXE)
    found: list[str] = page.evaluate(RUN)
    return found


@pytest.mark.story("S-PC-03-001")
@pytest.mark.parametrize("javascript", [True, False], ids=["js", "no-js"])
def test_the_ack_page_is_one_big_button_in_the_thumbs_reach(
    people: Callable[..., BrowserContext], house: House, clinic: Clinic, javascript: bool
) -> None:
    alert_id = raise_alert(clinic)["alert_id"]
    page = people(**PHONE, java_script_enabled=javascript).new_page()
    for _ in range(3):
        page.goto(link(house, alert_id))
    assert clinic.call("GET", f"/alerts/{alert_id}")["status"] == "open"
    button = page.get_by_role("button", name="Estou cuidando")
    box = button.bounding_box()
    assert box is not None
    assert box["height"] >= 64
    assert box["y"] >= 800 * 0.6
    assert box["y"] + box["height"] <= 800
    assert page.evaluate("document.documentElement.scrollWidth") <= 360 if javascript else True
    button.tap()
    expect(page.get_by_role("status")).to_contain_text("Confirmado às")
    expect(page.get_by_role("button")).to_have_count(0)
    found = clinic.call("GET", f"/alerts/{alert_id}")
    assert (found["status"], found["result"], found["ack_how"]) == ("acknowledged", "ack_received", "link")
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("Confirmado às")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_ack_page(
    people: Callable[..., BrowserContext], house: House, clinic: Clinic, noise: Noise, scheme: str
) -> None:
    alert_id = raise_alert(clinic)["alert_id"]
    page = people(**PHONE, color_scheme=scheme).new_page()
    page.goto(link(house, alert_id))
    assert axe(page, noise) == []
    page.get_by_role("button", name="passar adiante").tap()
    expect(page.get_by_role("status")).to_contain_text("Passado adiante")
    assert axe(page, noise) == []
    page.get_by_role("button", name="Estou cuidando").tap()
    expect(page.get_by_role("status")).to_contain_text("Confirmado às")
    assert axe(page, noise) == []
    noise.expected += ("404",)
    page.goto(f"{house.server.url}/ack/wrong")
    expect(page.get_by_role("heading")).to_have_text("Este link não vale")
    assert axe(page, noise) == []


def test_the_countdown_runs_on_the_servers_time(people: Callable[..., BrowserContext], house: House, clinic: Clinic) -> None:
    alert_id = raise_alert(clinic)["alert_id"]
    page = people(**PHONE).new_page()
    page.clock.install(time="2020-02-02T02:02:02Z")  # the phone's own clock is wrong
    page.goto(link(house, alert_id))
    shown = page.locator("time[data-countdown]")
    expect(shown).to_have_text(re.compile(r"14 min \d+ s"))
    page.clock.fast_forward(30_000)
    expect(shown).to_have_text(re.compile(r"14 min [012]?\d s"))
    page.clock.fast_forward(15 * 60_000)
    expect(shown).to_have_text("venceu; aguardando o servidor")
    assert clinic.call("GET", f"/alerts/{alert_id}")["level"] == "raised"
    clinic.call("POST", f"/alerts/{alert_id}/ack")


# --- the console --------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-001")
def test_an_alert_appears_by_itself_and_is_taken_on_by_keyboard_alone(desk: BrowserContext, clinic: Clinic) -> None:
    page = desk.new_page()
    page.goto("/alerts")
    live(page)
    alert_id = raise_alert(clinic)["alert_id"]
    row = page.locator(f"#alert_{alert_id}")
    expect(row).to_contain_text("Ninguém assumiu")
    with page.expect_navigation(url="**/alerts*"):  # to the address where it is already: only the navigation tells
        page.keyboard.press("g")
        page.keyboard.press("a")
    live(page)
    row.locator("a").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/alerts?*alert={alert_id}*")
    expect(page.locator("#alert_detail")).to_contain_text("tentativa 7")
    page.keyboard.press("a")
    expect(page.locator("#alert_detail")).to_contain_text("assumiu no painel")
    expect(row).to_contain_text("Assumido")
    assert clinic.call("GET", f"/alerts/{alert_id}")["status"] == "acknowledged"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_alerts_page_and_nothing_scrolls_sideways(
    people: Callable[..., BrowserContext], house: House, clinic: Clinic, noise: Noise, admin_state: StorageState, scheme: str
) -> None:
    alert_id = raise_alert(clinic, summary="UmNomeDeServiçoMuitoCompridoQueNãoTemEspaçosNemPausas não responde")["alert_id"]
    page = people(storage_state=admin_state, base_url=house.server.url, color_scheme=scheme).new_page()
    page.goto(f"/alerts?alert={alert_id}")
    live(page)
    assert axe(page, noise) == []
    for width in (320, 360, 768, 1024, 1366):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    clinic.call("POST", f"/alerts/{alert_id}/ack")


def test_a_channel_is_tested_with_one_click(
    people: Callable[..., BrowserContext], house: House, noise: Noise, admin_state: StorageState
) -> None:
    page = people(storage_state=admin_state, base_url=house.server.url).new_page()
    page.goto("/channels")
    live(page)
    page.get_by_role("button", name="Testar ops", exact=True).click()
    expect(page.locator("#channel_rows")).to_contain_text("chegou")
    assert axe(page, noise) == []
    for width in (320, 360, 768, 1366):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
