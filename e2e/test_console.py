"""The main path of a person: sign in, see what waits and why, without reloading; sign out."""

import re
import signal
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from app.web.stream import RECHECK_S
from e2e.clinic import Clinic, until
from e2e.conftest import MANAGER, SECRETARY, House, Noise, live
from tests.services import busy

PAGES = ("/", "/queue", "/contacts")


def test_a_wrong_password_says_so_and_a_right_one_opens_the_page_that_was_wanted(
    people: Callable[..., BrowserContext], house: House, noise: Noise
) -> None:
    noise.expected = ("status of 401", "status of 403", "status of 422")
    page = people().new_page()
    page.goto(f"{house.server.url}/queue?class=new_lead")
    assert urlsplit(page.url).path == "/login"
    page.locator("#email").fill(house.admin)
    page.locator("#password").fill("not the password")
    page.locator("form button").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.locator("#email").fill(house.admin)
    page.locator("#password").fill(house.admin_password)
    page.locator("form button").click()
    page.wait_for_url(f"{house.server.url}/queue?class=new_lead")
    live(page)


@pytest.mark.parametrize("email", [None, SECRETARY, MANAGER])
def test_every_role_reaches_every_page_without_a_word_in_the_console(
    people: Callable[..., BrowserContext], house: House, noise: Noise, email: str | None
) -> None:
    contact = house.clinic.family("Visita")
    page = people(base_url=house.server.url).new_page()
    house.sign_in(page, email)
    for path in (*PAGES, f"/contacts/sol/{contact}"):
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
        live(page)
        assert page.evaluate("document.querySelectorAll('[style]').length") == 0
    assert noise.said == []
    assert noise.hosts == {urlsplit(house.server.url).netloc}


def test_a_request_appears_in_the_queue_and_in_the_count_without_a_reload(desk: BrowserContext, clinic: Clinic) -> None:
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    page.evaluate("window.neverReloaded = true")
    contact = clinic.family("Joana Nova")
    before = page.locator("#queue_count").text_content() or ""
    clinic.waiting(contact, 4)
    row = page.locator("#queue_rows tr[data-row]", has_text="Joana Nova")
    expect(row).to_be_visible()
    expect(page.locator("#queue_count")).not_to_have_text(before)
    expect(row.locator(".commit")).to_have_text(re.compile(r"4\s*$"))
    assert page.evaluate("window.neverReloaded")
    # and it leaves when what it waited for arrives
    for order in (1, 2, 3):
        clinic.command(contact, commit_order=order)
    expect(row).to_have_count(0)


def test_the_lane_shows_commit_order_and_priority_apart(desk: BrowserContext, clinic: Clinic) -> None:
    contact = clinic.family("Rita Ordem")
    clinic.waiting(contact, 3, command_type="follow_up", payload={"text": "Tudo bem?"})
    clinic.waiting(contact, 4, command_type="takeover", payload={"reason": "pediu uma pessoa"})
    page = desk.new_page()
    page.goto(f"/contacts/sol/{contact}")
    live(page)
    entries = page.locator("#lane_timeline .entry-command")
    expect(entries).to_have_count(2)
    newest, oldest = entries.nth(0), entries.nth(1)
    expect(newest.locator(".order")).to_have_text(re.compile(r"4\s*$"))
    expect(oldest.locator(".order")).to_have_text(re.compile(r"3\s*$"))
    expect(newest.locator(".meta")).to_contain_text("P1 Crítica")  # more urgent, and still behind
    expect(oldest.locator(".meta")).to_contain_text("P4 Baixa")
    expect(page.locator("#lane_timeline .entry-gap")).to_have_count(1)
    # what was missing arrives: both are decided, in commit order
    clinic.command(contact, commit_order=1)
    clinic.command(contact, commit_order=2)
    expect(page.locator("#lane_timeline .entry-gap")).to_have_count(0)
    expect(page.locator("#lane_timeline .entry-waiting")).to_have_count(0)


def test_a_filter_is_in_the_address_and_survives_a_reload(desk: BrowserContext, clinic: Clinic) -> None:
    contact, other = clinic.family("Filtrada Lima"), clinic.family("Outra Souza")
    clinic.waiting(contact, 7)
    clinic.waiting(other, 7)
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    page.locator("#filter_contact").fill("Filtrada")
    rows = page.locator("#queue_rows tr[data-row]")
    expect(rows).to_have_count(1)
    page.wait_for_url("**contact=Filtrada**")
    page.reload()
    live(page)
    expect(rows).to_have_count(1)
    expect(page.locator("#filter_contact")).to_have_value("Filtrada")
    # what changes outside the filter stays outside; what changes inside comes, so the region did look again
    clinic.waiting(other, 8)
    clinic.waiting(contact, 8)
    expect(rows).to_have_count(2)
    expect(page.locator("#queue_rows")).not_to_contain_text("Outra Souza")


def test_the_language_switch_changes_every_word(people: Callable[..., BrowserContext], house: House) -> None:
    page = people(base_url=house.server.url).new_page()
    house.sign_in(page, SECRETARY)
    expect(page.locator("html")).to_have_attribute("lang", "pt-BR")
    page.get_by_role("button", name="Switch to English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    for path in PAGES:
        page.goto(path)
        live(page)
        words = page.locator("body").inner_text()
        assert not re.search(r"\b(Fila|Contatos|Visão geral|Atrasado|Ao vivo)\b", words), path
    page.get_by_role("button", name="Mudar para português").click()
    expect(page.locator("html")).to_have_attribute("lang", "pt-BR")


def test_shortcuts_move_and_open_and_are_silent_in_fields(desk: BrowserContext, clinic: Clinic) -> None:
    clinic.waiting(clinic.family("Tecla Ramos"), 5)
    page = desk.new_page()
    page.goto("/")
    live(page)
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("gf?jp")
    expect(page.locator("#search")).to_have_value("gf?jp")
    expect(page.locator("#help")).not_to_be_visible()
    assert urlsplit(page.url).path == "/"
    page.locator("#search").fill("")
    page.locator("#search").blur()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).not_to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url("**/queue")
    live(page)
    page.keyboard.press("j")
    expect(page.locator("#queue_rows .row-link").first).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/contacts/sol/**")


def test_signing_out_ends_the_streams_of_all_tabs_at_once(
    people: Callable[..., BrowserContext], own_house: House, noise: Noise
) -> None:
    noise.expected = ("status of 401",)
    context = people(base_url=own_house.server.url)
    first, second = context.new_page(), context.new_page()
    own_house.sign_in(first)
    live(first)
    second.goto("/queue")
    live(second)
    until(lambda: own_house.metric("kora_stream_clients") == 1, "one stream for two tabs")
    second.locator("button.person").click()
    second.get_by_role("button", name="Sair").click()
    second.wait_for_url("**/login")
    # at once, and not only when a stream looks whether its session is still good
    until(lambda: own_house.metric("kora_stream_clients") == 0, "no stream is left", limit_s=RECHECK_S / 4)
    first.wait_for_url("**/login**")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_within_two_seconds_with_an_open_stream(
    people: Callable[..., BrowserContext], own_house: House, noise: Noise, how: signal.Signals
) -> None:
    noise.expected = ("net::ERR_", "Failed to fetch", "htmx:")
    page: Page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page)
    live(page)
    began = time.monotonic()
    assert own_house.server.stop(how) == 0
    assert time.monotonic() - began < 2 * busy()
