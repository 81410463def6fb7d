"""The live stream on the screen: one for all tabs, honest about silence, and never in a person's way."""

import re
import time
from collections.abc import Callable

from playwright.sync_api import BrowserContext, Page, Route, expect

from e2e.clinic import Clinic, until
from e2e.conftest import House, Noise, live

GONE = ("net::ERR_", "status of 502", "Failed to fetch", "htmx:")
"""What the console says while the server is away."""

SAY_EVERY_S = 20
"""static/js/regions.js."""
STOPWATCH = """([where, text]) => {
    const began = performance.now(), watch = window.watch = {shown: Infinity, answer: 0, still: 0};
    let last = began;
    const beat = setInterval(() => { watch.still += Math.max(0, performance.now() - last - 50); last = performance.now(); }, 10);
    new MutationObserver((_, observer) => {
        if (!document.querySelector(where).textContent.includes(text)) return;
        observer.disconnect();
        clearInterval(beat);
        watch.shown = performance.now() - began;
        for (const one of performance.getEntriesByType('resource')) if (one.startTime >= began) watch.answer += one.duration;
    }).observe(document.querySelector(where), {childList: true, subtree: true, characterData: true});
}"""
"""When a text is shown (ms from now on), how long answers to what was asked meanwhile took, and how long the page stood still."""


def test_after_a_restart_of_the_server_the_screen_is_true_without_a_reload(
    people: Callable[..., BrowserContext], own_house: House, noise: Noise
) -> None:
    noise.expected = GONE
    clinic = own_house.clinic
    page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page)
    page.goto("/queue")
    live(page)
    page.evaluate("window.neverReloaded = true")
    stays, leaves = clinic.family("Fica Alves"), clinic.family("Sai Borges")
    clinic.waiting(stays, 3)
    clinic.waiting(leaves, 2)
    rows = page.locator("#queue_rows tr[data-row]")
    expect(rows).to_have_count(2)
    page.route("**/stream*", lambda route: route.abort())  # the browser hears nothing of what happens now
    own_house.server.stop()
    own_house.server.start()
    clinic.command(leaves, commit_order=1, wait=True)
    clinic.waiting(clinic.family("Chega Costa"), 6)
    page.unroute("**/stream*")
    expect(page.locator("#queue_rows")).to_contain_text("Chega Costa", timeout=30_000)
    expect(page.locator("#queue_rows")).to_contain_text("Fica Alves")
    expect(page.locator("#queue_rows")).not_to_contain_text("Sai Borges")
    expect(rows).to_have_count(2)
    live(page)
    assert page.evaluate("window.neverReloaded")


def test_after_bad_answers_the_stream_comes_back_with_its_cursor(
    people: Callable[..., BrowserContext], own_house: House, noise: Noise
) -> None:
    noise.expected = GONE
    page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page)
    page.goto("/queue")
    live(page)
    own_house.clinic.waiting(own_house.clinic.family("Cursor Dias"), 2)
    expect(page.locator("#queue_rows")).to_contain_text("Cursor Dias")
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=502, body="bad gateway")

    def tried_again() -> bool:
        page.wait_for_timeout(100)  # routes are only answered while playwright runs
        return len(asked) >= 3

    page.route("**/stream*", refuse)
    own_house.server.stop()
    own_house.server.start()
    until(tried_again, "it tries again after an HTTP error", limit_s=20)
    page.unroute("**/stream*")
    with page.expect_request("**/stream*") as again:
        pass
    assert int(again.value.url.split("since=")[1]) > 0
    live(page)


def test_nine_tabs_share_one_stream_and_survive_the_tab_that_has_it(desk: BrowserContext, house: House, clinic: Clinic) -> None:
    pages = []
    for _ in range(9):
        page = desk.new_page()
        page.goto("/queue")
        pages.append(page)
    for page in pages:
        live(page)
    until(lambda: house.metric("kora_stream_clients") == 1, "one stream for nine tabs")
    clinic.waiting(clinic.family("Nove Abas"), 3)
    for page in pages:
        expect(page.locator("#queue_rows")).to_contain_text("Nove Abas")
    leader = next(page for page in pages if page.evaluate("kora.live.leading()"))
    leader.close()
    pages.remove(leader)
    until(lambda: sum(page.evaluate("kora.live.leading()") for page in pages) == 1, "another tab takes over")
    clinic.waiting(clinic.family("Oito Abas"), 3)
    for page in pages:
        expect(page.locator("#queue_rows")).to_contain_text("Oito Abas")


def test_a_late_tab_shows_everything_at_once(desk: BrowserContext, clinic: Clinic) -> None:
    first = desk.new_page()
    first.goto("/queue")
    live(first)
    clinic.waiting(clinic.family("Antes Silva"), 3)
    late = desk.new_page()
    late.goto("/queue")
    expect(late.locator("#queue_rows")).to_contain_text("Antes Silva")
    live(late)


def test_silence_is_shown_as_delayed_then_as_disconnected_and_both_clear(
    people: Callable[..., BrowserContext], own_house: House, noise: Noise
) -> None:
    noise.expected = GONE
    page = people(base_url=own_house.server.url).new_page()
    page.clock.install()
    own_house.sign_in(page)
    live(page)
    root, title = page.locator("html"), page.title()
    expect(page.locator("#live_chip")).to_have_text(re.compile(r"Ao vivo.*\d\d:\d\d:\d\d"))
    own_house.server.freeze()
    try:
        page.clock.fast_forward(11_000)
        expect(root).to_have_attribute("data-live", "stale")
        expect(page.locator("#live_chip")).to_contain_text("Atrasado")
        expect(page.locator("#banner_off")).not_to_be_visible()
        page.clock.fast_forward(20_000)
        expect(root).to_have_attribute("data-live", "down")
        expect(page.locator("#banner_off")).to_be_visible()
        expect(page.locator("#shout")).not_to_be_empty()
        assert page.title() != title
        assert page.title().endswith(title)
    finally:
        own_house.server.thaw()
    live(page)
    expect(page.locator("#banner_off")).not_to_be_visible()
    assert page.title() == title


def test_a_region_with_the_focus_in_it_is_held_and_catches_up_within_a_second(desk: BrowserContext, clinic: Clinic) -> None:
    clinic.waiting(clinic.family("Foco Primeiro"), 3)
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    page.locator("#queue_rows .row-link", has_text="Foco Primeiro").focus()
    clinic.waiting(clinic.family("Foco Segundo"), 3)
    bar = page.locator("#queue_rows [data-held]")
    expect(bar).to_be_visible()
    expect(bar).to_contain_text("Pausado: 1 novidade")
    clinic.waiting(clinic.family("Foco Terceiro"), 3)
    expect(bar).to_contain_text("Pausado: 2 novidades")
    expect(page.locator("#queue_rows tr[data-row]", has_text="Foco Segundo")).to_have_count(0)
    expect(page.locator("#queue_rows .row-link", has_text="Foco Primeiro")).to_be_focused()
    page.evaluate(STOPWATCH, ["#queue_rows", "Foco Terceiro"])
    page.evaluate("document.activeElement.blur()")
    expect(page.locator("#queue_rows")).to_contain_text("Foco Terceiro")
    took = page.evaluate("watch")
    assert took["shown"] - took["answer"] - took["still"] < 1000, took
    expect(bar).not_to_be_visible()


def test_a_row_that_is_gone_stays_struck_through_while_the_region_is_held(desk: BrowserContext, clinic: Clinic) -> None:
    contact = clinic.family("Vai Embora")
    clinic.waiting(contact, 2)
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    row = page.locator("#queue_rows tr[data-row]", has_text="Vai Embora")
    row.locator(".row-link").focus()
    clinic.command(contact, commit_order=1, wait=True)
    expect(row).to_have_class(re.compile(r"\bgone\b"))
    page.evaluate("document.activeElement.blur()")
    expect(row).to_have_count(0)


def test_p_pauses_everything_and_goes_on(desk: BrowserContext, clinic: Clinic) -> None:
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    page.keyboard.press("p")
    clinic.waiting(clinic.family("Pausa Geral"), 3)
    expect(page.locator("#queue_rows [data-held]")).to_be_visible()
    expect(page.locator("#queue_rows tr[data-row]", has_text="Pausa Geral")).to_have_count(0)
    page.keyboard.press("p")
    expect(page.locator("#queue_rows tr[data-row]", has_text="Pausa Geral")).to_be_visible()


def test_what_a_person_typed_ticked_and_opened_survives_twenty_events(desk: BrowserContext, clinic: Clinic) -> None:
    contact = clinic.family("Vinte Eventos")
    clinic.message(contact, "Bom dia, tudo bem?")
    page = desk.new_page()
    field = '<label>Nota <input id="probe_text" value=""></label><label><input type="checkbox" id="probe_tick"> Feito</label>'

    def with_form(route: Route) -> None:
        # a form inside a live region, as later pages have one
        if route.request.headers.get("hx-target", "lane_summary") != "lane_summary":
            route.continue_()
            return
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("</section>", f"{field}</section>", 1))

    page.route(f"**/contacts/sol/{contact}", with_form)
    page.goto(f"/contacts/sol/{contact}")
    live(page)
    page.locator("#lane_timeline details summary").first.click()
    page.locator("#probe_text").fill("ligar às 15h")
    page.locator("#probe_tick").check()
    page.evaluate("document.activeElement.blur()")
    shown = page.locator("#lane_timeline .entry-message")
    kept = page.evaluate_handle("document.querySelector('#lane_timeline .entry-message details')")
    for number in range(20):
        clinic.message(contact, f"mensagem {number}")
    expect(shown).to_have_count(21)
    expect(page.locator("#probe_text")).to_have_value("ligar às 15h")
    expect(page.locator("#probe_tick")).to_be_checked()
    assert kept.evaluate("element => element.isConnected && element.open")
    assert page.locator("#lane_timeline details[open]").count() == 1
    page.unroute_all(behavior="ignoreErrors")


def test_fifty_events_are_at_most_one_polite_sentence_per_region(desk: BrowserContext, clinic: Clinic) -> None:
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    page.evaluate(
        """() => {
            window.spoken = [];
            for (const id of ['say', 'shout'])
                new MutationObserver(() => spoken.push(id)).observe(document.getElementById(id), {childList: true});
        }"""
    )
    contact = clinic.family("Cinquenta")
    began = time.monotonic()
    for order in range(2, 52):
        clinic.waiting(contact, order)
    last = page.locator("#queue_rows tr[data-row]", has_text="Cinquenta").first
    expect(last).to_be_visible()
    page.wait_for_timeout(1500)
    said = page.evaluate("spoken.filter((id) => id === 'say').length")
    assert 1 <= said <= 1 + (time.monotonic() - began) // SAY_EVERY_S
    assert page.evaluate("spoken.includes('shout')") is False


def test_a_thousand_updates_leave_the_page_as_small_as_it_was(desk: BrowserContext) -> None:
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    nodes = _nodes(page)
    # through the very functions that the stream calls, faster than any server would
    page.evaluate(
        """async () => {
            const { regions } = window.kora;
            for (let i = 0; i < 1000; i += 1) {
                regions.nudge([{ tenant: null, topic: 'queue', refs: [] }]);
                if (i % 50 === 0) await new Promise((done) => setTimeout(done, 5));
            }
        }"""
    )
    page.wait_for_timeout(2500)
    assert abs(_nodes(page) - nodes) <= 5


def _nodes(page: Page) -> int:
    return int(page.evaluate("document.querySelectorAll('*').length"))
