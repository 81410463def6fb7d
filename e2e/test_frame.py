"""What every page owes a person: news while she types, the truth after a bad answer, a voice that speaks once, and the keyboard."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Route, StorageState, expect

from e2e.clinic import Clinic, until
from e2e.conftest import House, Noise, live
from e2e.test_alerts import raise_alert

LISTEN = """() => {
    window.spoken = [];
    for (const id of ['say', 'shout'])
        new MutationObserver((records) => {
            for (const record of records) for (const node of record.addedNodes) spoken.push([id, node.textContent]);
        }).observe(document.getElementById(id), {childList: true});
}"""
COVERED = """() => {
    const element = document.activeElement, box = element.getBoundingClientRect();
    if (element === document.body) return '';
    const top = document.elementFromPoint(box.left + Math.min(box.width, 40) / 2, box.top + box.height / 2);
    const free = top && (element.contains(top) || top.contains(element));
    const inside = (box.top >= 0 && box.bottom <= innerHeight) || box.height > innerHeight / 2;
    return free && inside ? '' : `${element.tagName} ${element.textContent.trim().slice(0, 40)} ${box.top}..${box.bottom}`;
}"""


@pytest.fixture
def office(
    people: Callable[..., BrowserContext], house: House, secretary_state: StorageState, manager_state: StorageState
) -> Callable[..., BrowserContext]:
    """Browsers at `house`: of a secretary, or of a manager."""

    def make(role: str = "secretary", **options: Any) -> BrowserContext:
        state = manager_state if role == "manager" else secretary_state
        return people(storage_state=state, base_url=house.server.url, **options)

    return make


@pytest.fixture
def conversation(clinic: Clinic) -> Iterator[tuple[str, str]]:
    """A family that asked for a person: contact and ticket; given back afterwards."""
    contact_id = clinic.family("Marina Tavares")
    ticket = clinic.call("POST", "/takeovers", json={"contact_id": contact_id, "reason": "a família pediu"})
    yield contact_id, ticket["ticket_id"]
    if clinic.call("GET", f"/contacts/{contact_id}")["takeover_active"]:
        clinic.call("POST", f"/takeovers/{ticket['ticket_id']}/close", json={"reason": "fim do teste"})


def late_request(clinic: Clinic, name: str) -> str:
    """A task of manual review: the id."""
    moment = datetime.now(UTC) - timedelta(hours=3)  # noqa: TID251  # the test is outside the product
    contact_id = clinic.family(name)
    clinic.command(contact_id, occurred_at=moment.isoformat(), wait=True)
    tasks = clinic.call("GET", "/manual-tasks")["items"]
    return str(next(t["task_id"] for t in tasks if t["contact_id"] == contact_id))


def test_who_types_an_answer_hears_that_the_family_wrote_again(
    office: Callable[..., BrowserContext], clinic: Clinic, conversation: tuple[str, str]
) -> None:
    contact_id, ticket_id = conversation
    page = office().new_page()
    page.goto(f"/takeovers?takeover={ticket_id}")
    live(page)
    detail, text = page.locator("#takeover_detail"), page.locator("#takeover_text")
    text.fill("Oi, Marina, vou ver")
    clinic.message(contact_id, "na verdade é urgente")
    expect(detail.locator("[data-held]")).to_have_text(re.compile("Pausado: 1 novidade"))
    expect(detail).not_to_contain_text("na verdade é urgente")
    detail.get_by_role("button", name="Mostrar agora").click()
    expect(detail).to_contain_text("na verdade é urgente")
    expect(text).to_have_value("Oi, Marina, vou ver")


def test_a_held_region_without_rows_tells_of_news_too(office: Callable[..., BrowserContext], clinic: Clinic) -> None:
    task_id = late_request(clinic, "Sem Linhas")
    page = office().new_page()
    page.goto(f"/manual?task={task_id}")
    live(page)
    page.locator("#task_note").fill("liguei")
    clinic.call("POST", f"/manual-tasks/{task_id}/claim")
    expect(page.locator("#manual_detail [data-held]")).to_have_text(re.compile("Pausado: 1 novidade"))
    expect(page.locator("#task_note")).to_have_value("liguei")


def test_a_region_that_got_a_bad_answer_is_fetched_again_without_another_event(
    desk: BrowserContext, clinic: Clinic, noise: Noise
) -> None:
    noise.expected = ("status of 503", "Response Status Error Code 503")
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    refused: list[str] = []

    def once(route: Route) -> None:
        if route.request.headers.get("hx-target") != "queue_rows" or refused:
            route.continue_()
            return
        refused.append(route.request.url)
        route.fulfill(status=503, body="later")

    page.route("**/queue", once)
    clinic.waiting(clinic.family("Depois Do Erro"), 3)
    expect(page.locator("#queue_rows")).to_contain_text("Depois Do Erro")
    assert refused
    page.unroute_all(behavior="ignoreErrors")


def test_safe_mode_is_said_loudly_once_when_it_begins_and_once_when_it_ends_whatever_else_is_up(desk: BrowserContext) -> None:
    page = desk.new_page()
    page.goto("/stories")
    live(page)
    page.evaluate(LISTEN)
    page.evaluate(
        """() => {
            const scope = document.getElementById('banner').dataset.scope;
            const show = (kind, said) => kora.regions.state({scope, fragments: {
                banner: kind ? `<section class="banner" data-kind="${kind}" data-said="${said}"><h2>${said}</h2></section>` : ''}});
            show('contingency', 'A contingência está ligada. 0 pedidos.');
            for (let n = 1; n < 7; n++) show('contingency', `A contingência está ligada. ${n} pedidos.`);
            show('safe_mode', 'Modo seguro ligado. 6 pedidos.');
            for (let n = 7; n < 12; n++) show('safe_mode', `Modo seguro ligado. ${n} pedidos.`);
            show('contingency', 'A contingência está ligada. 11 pedidos.');
            show('', '');
        }"""
    )
    page.wait_for_timeout(100)  # observers report after the script that changed the page
    assert page.evaluate("spoken") == [
        ["say", "A contingência está ligada. 0 pedidos."],
        ["shout", "Modo seguro ligado. 6 pedidos."],
        ["shout", "Modo seguro desligado. A contingência está ligada. 11 pedidos."],
    ]


def test_countdowns_speak_at_five_two_and_one_minute_and_the_one_to_safe_mode_loudly(desk: BrowserContext) -> None:
    page = desk.new_page()
    page.clock.install()
    page.goto("/stories")
    live(page)
    # from here on the page's time is the test's: on a busy machine looks come late, and some marks would never be looked at
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 9)
    page.evaluate("kora.clock.set = () => {}")  # what the stream says of the time meanwhile
    page.clock.run_for(1100)  # the countdowns of the page itself have been looked at
    page.evaluate(LISTEN)
    page.evaluate(
        """() => {
            const at = (s) => new Date(kora.clock.now() + s * 1000).toISOString();
            const clock = (s, more) => `<time data-left ${more} datetime="${at(s)}"></time>`;
            document.querySelector('main').insertAdjacentHTML('beforeend', '<p>' +
                [301.5, 121.5, 61.5, 241].map((s) => clock(s, `data-speak="Resposta ${s}"`)).join('') +
                clock(1, 'id="ends"') + clock(-120, 'id="over" data-over') +
                `<span hidden data-failsafe="${at(61.5)}"></span></p>`);
        }"""
    )
    page.clock.run_for(2000)
    expect(page.locator("#ends")).to_have_text("venceu; aguardando o servidor")
    expect(page.locator("#over")).to_have_text(re.compile("venceu há 2 min"))
    page.clock.run_for(2500)
    expect(page.locator("#ends")).to_have_text("venceu; aguardando o servidor")  # the browser never says more by itself
    loud = [text for voice, text in page.evaluate("spoken") if voice == "shout"]
    assert len(loud) == 1
    assert re.fullmatch(r"O modo seguro liga sozinho: faltam (1 min|59 s)", loud[0])
    said = Counter(text.partition(":")[0] for voice, text in page.evaluate("spoken") if voice == "say")
    # each at its mark, and a new one that has passed one already at once
    assert said == {
        "O modo seguro liga sozinho": 1,
        "Resposta 301.5": 1,
        "Resposta 241": 1,
        "Resposta 121.5": 2,
        "Resposta 61.5": 2,
    }


def test_a_browser_of_another_timezone_is_told_whose_time_it_sees(people: Callable[..., BrowserContext], house: House) -> None:
    page = people(base_url=house.server.url, timezone_id="America/Manaus").new_page()
    house.sign_in(page)
    live(page)
    expect(page.locator("#zone_note")).to_contain_text("Brasília (GMT-03:00). Este aparelho está em GMT-04:00.")
    here = people(base_url=house.server.url).new_page()
    here.goto("/login")
    assert here.locator("#zone_note").count() == 0


def test_without_locks_each_tab_keeps_a_stream_of_its_own(desk: BrowserContext, clinic: Clinic) -> None:
    page = desk.new_page()
    page.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', {value: undefined})")  # plain http in a LAN
    page.goto("/queue")
    live(page)
    clinic.waiting(clinic.family("Sem Cadeado"), 3)
    expect(page.locator("#queue_rows")).to_contain_text("Sem Cadeado")


def test_a_row_that_somebody_settled_stays_struck_through_with_the_name(
    office: Callable[..., BrowserContext], clinic: Clinic
) -> None:
    task_id, other_id = late_request(clinic, "Riscada Souza"), late_request(clinic, "Fica Souza")
    page, other = office().new_page(), office("manager").new_page()
    page.goto(f"/manual?task={other_id}")
    live(page)
    row = page.locator(f"#task_{task_id}")
    row.locator(".row-link").focus()
    other.goto(f"/manual?task={task_id}")
    other.locator("#task_outcome").select_option("not_needed")
    other.get_by_role("button", name="Encerrar esta tarefa").click()
    expect(row).to_have_class(re.compile(r"\bgone\b"))
    expect(row.locator(".gone-by")).to_have_text(re.compile(r"encerrada por Manager às \d\d:\d\d"))
    assert row.evaluate("row => getComputedStyle(row).textDecorationLine") == "line-through"
    page.evaluate("document.activeElement.blur()")
    expect(row).to_have_count(0)


def test_a_takes_on_the_alert_of_the_focused_row_and_no_other(desk: BrowserContext, clinic: Clinic) -> None:
    first, second = (raise_alert(clinic)["alert_id"] for _ in range(2))
    page = desk.new_page()
    page.goto(f"/alerts?alert={first}")
    live(page)
    page.locator(f"#alert_{second} .row-link").focus()
    page.keyboard.press("a")  # the other one is open: this one is shown first
    page.wait_for_url(f"**/alerts?*alert={second}*")
    live(page)
    assert clinic.call("GET", f"/alerts/{first}")["status"] == "open"
    expect(page.locator(f"#alert_{second} .row-link")).to_be_focused()
    page.keyboard.press("a")
    expect(page.locator("#alert_detail")).to_contain_text("assumiu no painel")
    assert [clinic.call("GET", f"/alerts/{a}")["status"] for a in (first, second)] == ["open", "acknowledged"]
    expect(page.locator(f"#alert_{second} .row-link")).to_be_focused()
    clinic.call("POST", f"/alerts/{first}/ack")


def tab_to(page: Page, target: str, limit: int = 80) -> None:
    """Press Tab until the element has the focus, as a person without a mouse does."""
    for _ in range(limit):
        if page.evaluate("selector => document.activeElement.matches(selector)", target):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{limit} times Tab did not reach {target}")


def test_a_conversation_is_taken_answered_and_given_back_by_keyboard_alone(
    office: Callable[..., BrowserContext], clinic: Clinic, conversation: tuple[str, str]
) -> None:
    contact_id, ticket_id = conversation
    page = office().new_page()
    page.goto(f"/takeovers?takeover={ticket_id}")
    live(page)
    row, detail = page.locator(f"#takeover_{ticket_id} .row-link"), page.locator("#takeover_detail")
    tab_to(page, "#takeover_detail button[value=start]")
    page.keyboard.press("Enter")
    expect(row).to_be_focused()
    live(page)
    page.keyboard.press("r")
    expect(page.locator("#takeover_text")).to_be_focused()
    page.keyboard.type("Oi, aqui é a recepção.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(detail).to_contain_text("A família já tem resposta")
    expect(row).to_be_focused()
    live(page)
    page.keyboard.press("r")
    tab_to(page, "#takeover_close summary")
    page.keyboard.press("Enter")
    tab_to(page, "#takeover_reason")
    page.keyboard.type("resolvido")
    page.keyboard.press("Enter")
    expect(detail).to_contain_text("Devolvida")
    assert not clinic.call("GET", f"/contacts/{contact_id}")["takeover_active"]
    # its row has left the list: the focus is on another one, or at the content's beginning
    until(lambda: page.evaluate("document.activeElement.closest('main') !== null"), "the focus is in the content")


@pytest.mark.parametrize(("path", "width", "height"), [("/manual", 360, 640), ("/queue", 360, 640), ("/manual", 1366, 400)])
def test_what_has_the_focus_is_never_covered(
    office: Callable[..., BrowserContext], clinic: Clinic, path: str, width: int, height: int
) -> None:
    for name in ("Foco Um", "Foco Dois", "Foco Três"):
        late_request(clinic, name)
        clinic.waiting(clinic.family(name), 3)
    page = office(viewport={"width": width, "height": height}, reduced_motion="reduce").new_page()
    page.goto(path)
    live(page)
    page.locator("#main").focus()
    for _ in range(22):
        page.keyboard.press("Tab")
        assert page.evaluate(COVERED) == ""
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        assert page.evaluate(COVERED) == ""


def test_what_came_in_can_be_read_in_the_light_theme(office: Callable[..., BrowserContext], clinic: Clinic) -> None:
    page = office(color_scheme="light").new_page()
    page.goto(f"/manual?task={late_request(clinic, 'Claro Dias')}")
    page.locator("#task_facts summary").click()
    colours = page.locator(".payload").evaluate("e => [getComputedStyle(e).color, getComputedStyle(document.body).color]")
    assert colours[0] == colours[1]
