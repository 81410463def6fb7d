"""Safe mode on the screen: the banner everywhere, a refused exit, and the strip that goes back to zero and says why."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from e2e.clinic import Clinic
from e2e.conftest import House, Noise, Plan, live
from e2e.test_looks import AXE, RUN

TICKS = ("ack_validated", "recovery_action_logged", "ops_notified", "ticket_in_recovery")


@pytest.fixture
def fast_house(plan: Plan, tmp_path: Path) -> Iterator[House]:
    """A clinic in which a minute passes in a second."""
    opened = plan.open(tmp_path, KORA_TIME_SCALE="60")
    yield opened
    opened.server.kill()
    opened.server.log.unlink(missing_ok=True)


def break_a_channel(clinic: Clinic, families: list[str]) -> None:
    """The families' channel refuses every call from now on."""
    dead = {"base_url": "http://127.0.0.1:9", "instance": "sol", "api_key": "k"}
    clinic.call("PUT", "/settings/sol", json={"evolution": dead})
    for contact_id in families:
        clinic.command(contact_id, "follow_up", payload={"text": "oi"}, patient_id=None)


def test_the_banner_a_refused_exit_and_the_strip_that_names_what_set_it_back(
    fast_house: House, people: Callable[..., BrowserContext], noise: Noise
) -> None:
    noise.expected = ("Content Security Policy", "policy: style-src")  # axe's own inline styles
    clinic, context = fast_house.clinic, people(base_url=fast_house.server.url)
    page, elsewhere = context.new_page(), context.new_page()
    fast_house.sign_in(page)
    elsewhere.goto("/queue")
    live(elsewhere)
    page.goto("/safe-mode")
    expect(page.locator("#safe_now")).to_contain_text("Modo seguro desligado")

    # switched on by hand: every open page says so, once and loudly, and leads here
    page.locator("#safe_reason").fill("O Redis parou de responder")
    page.get_by_role("button", name="Ligar o modo seguro").click()
    banner = elsewhere.locator("#banner")
    expect(banner).to_contain_text("Modo seguro ligado")
    expect(banner).to_contain_text("O Redis parou de responder")
    expect(elsewhere.locator("#shout")).to_contain_text("Modo seguro ligado")
    clinic.command(clinic.family("Ana Alves"))
    expect(banner).to_contain_text("1 pedido está parado")
    banner.get_by_role("link", name="Ver o que falta para recuperar").click()
    expect(elsewhere).to_have_url(f"{fast_house.server.url}/safe-mode")

    # without the gates it stays
    page.get_by_role("button", name="Encerrar o modo seguro").click()
    expect(page.locator("#exit_answer")).to_contain_text("A saída foi recusada. Falta: o que foi feito")
    expect(page.locator(".gates .gate-open")).to_have_count(3)  # no alert is behind it

    # with them the strip fills; typed text survives the updates meanwhile
    families = [clinic.family(f"Família {n}") for n in range(6)]
    page.locator("#safe_action").fill("Redis reiniciado")
    page.locator("#safe_step").fill("redis-3")
    for name in TICKS:
        page.locator(f"input[name={name}]").check()
    page.get_by_role("button", name="Salvar recuperação").click()
    expect(page.locator(".gates .gate-done")).to_have_count(3)
    page.get_by_role("button", name="Encerrar o modo seguro").click()
    expect(page.locator("#safe_now")).to_contain_text("Saindo do modo seguro")
    expect(page.locator(".strip-green").nth(1)).to_be_visible()

    # a channel dies before the ten minutes are over, which on a busy machine is soon; the page is paused for a look at it
    page.keyboard.press("p")
    break_a_channel(clinic, families)
    assert page.locator(".strip-green").count() >= 2
    page.evaluate(AXE)
    assert page.evaluate(RUN) == []

    # back to zero, by name, and the attempt is over
    page.keyboard.press("p")
    expect(page.locator(".strip-reset")).to_contain_text("um canal falhou")
    expect(page.locator(".strip-green")).to_have_count(0)
    expect(page.locator("#exit_answer")).to_contain_text("A saída foi interrompida: um canal falhou")
    expect(page.locator(".check-red")).to_contain_text("os canais respondem")

    # the story tells it, also on a narrow phone without JavaScript
    phone = people(
        base_url=fast_house.server.url,
        viewport={"width": 360, "height": 800},
        java_script_enabled=False,
        storage_state=context.storage_state(),
    ).new_page()
    phone.goto("/safe-mode")
    phone.locator(".story summary").first.click()
    expect(phone.locator(".story-lines").first).to_contain_text("A saída foi interrompida: um canal falhou.")
    assert phone.locator("html").evaluate("(e) => e.scrollWidth") <= 360
