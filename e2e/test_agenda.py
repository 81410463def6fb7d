"""The agenda on the screen: a person schedules without scripts, sees what came of it, and in safe mode is told what to do."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from e2e.conftest import SECRETARY, House, Noise, live
from e2e.test_looks import axe, prefer

__all__ = ["axe"]

DAY = "2029-05-14"


def test_a_secretary_schedules_without_scripts_and_a_second_one_reads_free_times(
    people: Callable[..., BrowserContext], house: House
) -> None:
    contact = house.clinic.family("Lúcia Agenda")
    page = people(base_url=house.server.url, java_script_enabled=False).new_page()
    house.sign_in(page, SECRETARY)
    for time, said in (("09:00", "Feito"), ("09:20", "Livre agora:")):
        page.goto(f"/agenda?day={DAY}")
        page.locator("#agenda_new summary").click()
        page.locator("#contact_schedule").fill(contact)
        page.locator("#patient_schedule").fill("p-pedro")
        page.locator("#time_schedule").fill(time)
        page.locator("#reason_schedule").fill("a família ligou")
        page.get_by_label("A família confirmou isto explicitamente").check()
        page.get_by_role("button", name="Agendar").click()
        expect(page.locator("#agenda_done")).to_contain_text(said)
    expect(page.locator("#agenda_rows .slot")).to_have_count(1)
    expect(page.locator("#agenda_rows .slot")).to_contain_text("09:00-09:50")


def test_what_is_booked_elsewhere_appears_without_a_reload(desk: BrowserContext, house: House) -> None:
    page = desk.new_page()
    page.goto("/agenda?day=2029-06-04&span=week")
    live(page)
    expect(page.locator("#agenda_rows .slot")).to_have_count(0)
    contact = house.clinic.family("Semana Nova")
    slot = {"therapist_id": "t-ana", "start": "2029-06-07T13:00:00Z", "end": "2029-06-07T13:50:00Z"}
    house.clinic.command(contact, wait=True, payload=slot)
    expect(page.locator("#agenda_rows .slot")).to_contain_text("10:00-10:50")


@pytest.mark.parametrize(("width", "language", "theme"), [(360, "en", "dark"), (1366, "pt_BR", "light")])
def test_the_agenda_is_accessible_and_never_scrolls_sideways(
    people: Callable[..., BrowserContext], house: House, axe: Callable[[Page], list[str]], width: int, language: str, theme: str
) -> None:
    contact = house.clinic.family("Beatriz Carolina de Albuquerque e Vasconcelos")
    start = {360: "2029-07-10T13:00:00Z", 1366: "2029-07-10T15:00:00Z"}[width]
    slot = {"therapist_id": "t-ana", "start": start, "end": start.replace(":00:00", ":50:00")}
    made = house.clinic.command(contact, wait=True, payload=slot)
    house.clinic.waiting(contact, 9, payload=slot)
    page = people(base_url=house.server.url, viewport={"width": width, "height": 800}).new_page()
    house.sign_in(page, SECRETARY)
    prefer(page, language=language, theme=theme)
    for path in ("/agenda?day=2029-07-10", f"/agenda?day=2029-07-10&span=week&pick=apt-{made['command_id']}"):
        page.goto(path)
        live(page)
        expect(page.locator("#agenda_rows .slot-ghost").first).to_be_visible()
        for details in page.locator("main details").all():
            details.evaluate("element => { element.open = true; }")
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
    prefer(page, language="pt_BR", theme="auto")


@pytest.mark.story("S-PC-03-002")
def test_in_safe_mode_the_button_keeps_its_focus_says_why_and_books_nothing(
    own_house: House, people: Callable[..., BrowserContext], axe: Callable[[Page], list[str]], noise: Noise
) -> None:
    noise.expected += ("status of 409",)
    clinic = own_house.clinic
    contact = clinic.family("Rosa Parada")
    page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page)
    page.goto(f"/agenda?day={DAY}")
    live(page)
    clinic.call("POST", "/safe-mode/enter", json={"reason": "o Redis parou de responder"})
    clinic.command(contact, payload={"therapist_id": "t-ana", "start": f"{DAY}T17:00:00Z", "end": f"{DAY}T17:50:00Z"})
    # both show up on the open page
    expect(page.locator("#agenda_rows .slot-ghost")).to_contain_text("14:00-14:50")
    said = "Não dá para agendar agora: modo seguro ligado desde"
    expect(page.locator("#blocked_schedule")).to_contain_text(said)
    page.locator("#agenda_new summary").click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert axe(page) == []

    page.locator("#contact_schedule").fill(contact)
    page.locator("#patient_schedule").fill("p-pedro")
    page.locator("#time_schedule").fill("09:00")
    page.locator("#reason_schedule").fill("a família ligou")
    button = page.get_by_role("button", name="Agendar")
    button.focus()
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{own_house.server.url}/agenda/ask")
    expect(page.get_by_text(said)).to_be_visible()
    expect(page.get_by_text("assumir a conversa ou ligar para a família")).to_be_visible()
    page.goto(f"/agenda?day={DAY}")
    expect(page.locator("#agenda_rows .slot")).to_have_count(1)
    expect(page.locator("#agenda_rows .slot-ghost")).to_have_count(1)
