"""An outage as a manager sees it: contingency on, requests parked, a dry run, then exactly what it said."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from playwright.sync_api import BrowserContext, Page, expect

from e2e.clinic import until
from e2e.conftest import MANAGER, House, Noise, live
from e2e.test_looks import AXE, RUN


def test_contingency_dry_run_replay_and_report(own_house: House, people: Callable[..., BrowserContext], noise: Noise) -> None:
    clinic = own_house.clinic
    families = [clinic.family(name) for name in ("Maria", "João", "Ana")]
    page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page, MANAGER)
    page.goto("/replay")
    live(page)
    switch(page, "whatsapp", "o provedor parou de responder")
    banner = page.locator("[data-kind=contingency]")
    expect(banner).to_contain_text("o provedor parou de responder")
    for contact_id in families:
        clinic.command(contact_id)
    late = (datetime.now(UTC) - timedelta(hours=3)).isoformat()  # noqa: TID251  # the test is outside the product
    clinic.command(families[0], occurred_at=late)
    until(lambda: clinic.call("GET", "/contingency")["parked"] == 4, "all are parked")
    expect(page.locator("#replay_backlog")).to_contain_text("Agendar")
    expect(page.locator("#run")).to_have_count(0)
    page.locator("#ask_rate").select_option("300")
    page.get_by_role("button", name="Simular", exact=True).click()
    expect(page.locator("#plan_said")).to_contain_text("de 4 pedidos, 3 saem, 1 venceu. Nada foi enviado ainda.")
    expect(page.locator("#replay_plan tbody tr")).to_have_count(4)
    assert clinic.call("GET", "/contingency")["parked"] == 4
    button = page.locator("#run")
    expect(button).to_have_text("Reenviar 3")
    button.click()
    expect(page.locator("#replay_plan")).to_contain_text("Espera o fim da contingência")
    switch(page, "whatsapp", "o provedor voltou")
    expect(banner).to_have_count(0)
    expect(page.locator("#plan_said")).to_contain_text("4 de 4 prontos: 3 saíram, 1 foram para uma pessoa.")
    with page.expect_download() as download:
        page.get_by_role("link", name="Relatório (CSV)").click()
    rows = download.value.path().read_text("utf-8").splitlines()
    assert [row.count(",replayed,replayed,") for row in rows[1:]].count(1) == 3
    assert sum("expired_manual" in row for row in rows) == 1
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    noise.expected += ("Content Security Policy", "policy: style-src")  # axe tries inline styles of its own
    page.evaluate(AXE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert page.evaluate(RUN) == [], scheme


def switch(page: Page, channel: str, reason: str) -> None:
    """Open the channel's switch, say why, press the button."""
    row = page.locator(f"#channel_{channel}")
    row.locator("summary").click()
    row.locator("input[name=reason]").fill(reason)
    row.get_by_role("button").click()
