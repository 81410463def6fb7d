"""The console's pages over HTTP: who sees what, in which words, and each live part alone as in its page."""

import re
import sys
from dataclasses import fields, is_dataclass
from datetime import timedelta
from html.parser import HTMLParser

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import Connection, insert

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.stream import Audience
from app.store.tables import InboxCommand, InboxMessage, ModeRow, table
from app.web import phone
from app.web.console import routes
from app.web.console.overview import nice_top
from app.web.console.pages import GROUPS, PAGES, ROLE_NAMES
from app.web.console.render import VIEWS, View
from app.web.fragments import FRAGMENTS, FRAME, STATE, TOPICS
from app.web.i18n import LOCALES, environment
from app.web.stream import position, renderer
from tests.builders import NOON, clinic
from tests.store.test_views import command_row, message_row, waiting_lane
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in, unmasked

PAGE = {"accept": "text/html"}


class Outside(HTMLParser):
    """Text of a fragment that is in no element of it."""

    EMPTY = frozenset("input br img hr meta link use path".split())

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.found = 0, ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.depth += tag not in self.EMPTY

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag not in self.EMPTY

    def handle_data(self, data: str) -> None:
        if self.depth == 0:
            self.found += data.strip()

    @classmethod
    def words(cls, html: str) -> str:
        """What stands outside."""
        parser = cls()
        parser.feed(html)
        return parser.found


assert {routes.__name__, phone.__name__} <= sys.modules.keys()  # views are declared where their addresses are


@pytest.fixture
async def filled(services: Services, tenant: Clinic) -> Clinic:
    """The tenant with a family, something waiting and something in the past."""
    await services.db.write(clinic, tenant_id="ten-other")

    def fill(conn: Connection) -> None:
        waiting_lane(conn, tenant.tenant_id, "c/ana & 1", NOON - timedelta(minutes=3), [1, 2], blocked_by="gap", blocked_since=NOON)
        waiting_lane(conn, tenant.tenant_id, "c-bia", NOON - timedelta(minutes=1), [0])
        row = message_row("c-bia", 1, NOON - timedelta(minutes=2), "<script>alert(1)</script> oi")
        conn.execute(insert(table(InboxMessage)).values({**row, "tenant_id": tenant.tenant_id}))
        done = command_row(
            tenant.tenant_id, "c-bia", None, at=NOON, status="blocked_conflict", result="blocked_conflict", done_at=NOON
        )
        conn.execute(insert(table(InboxCommand)).values(done))

    await services.db.write(fill)
    return tenant


async def page(browser: Browser, path: str, **headers: str) -> httpx.Response:
    return await browser.client.get(path, headers={**PAGE, **headers})


LANE = "/contacts/clinica-aurora/c%2Fana%20%26%201"


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("path", ["/", "/queue", "/contacts", LANE, "/contacts/clinica-aurora/c-bia"])
async def test_every_page_is_whole_without_scripts(
    services: Services, filled: Clinic, secretary_session: Browser, path: str, locale: str
) -> None:
    await secretary_session.client.post("/preferences", data={"language": locale, "_csrf": secretary_session.csrf_token})
    answer = await page(secretary_session, path)
    assert answer.status_code == 200
    assert f'<html lang="{locale.replace("_", "-")}"' in answer.text
    assert answer.text.count("<h1>") == 1
    assert " style=" not in answer.text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=", answer.text)
    assert "<script>alert" not in answer.text
    ids = re.findall(r'\sid="([^"]+)"', answer.text)
    assert len(ids) == len(set(ids)), "an id is there twice"


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.template)
async def test_each_fragment_alone_is_what_its_page_shows(
    filled: Clinic, secretary_session: Browser, admin_session: Browser, view: View
) -> None:
    viewer = secretary_session if "secretary" in view.page.roles else admin_session
    address = {"lane.html": LANE, "tickets.html": "/manual/tickets"}.get(view.template, view.page.url)
    whole = unmasked((await page(viewer, address)).text)
    for name in (*FRAME, *view.fragments):
        assert whole.count(f'id="{name}"') == 1, f"{name} has no element"
        alone = await page(viewer, address, **{"HX-Request": "true", "HX-Target": name})
        assert alone.status_code == 200
        assert "<html" not in alone.text
        assert unmasked(alone.text).strip() in whole
        # the live swap of a fragment moves its elements: text that stands beside them would be lost
        assert not Outside.words(alone.text), f"{name} has text outside of its elements"


def test_every_fragment_is_declared_where_it_stands() -> None:
    shown = {name for view in VIEWS for name in view.fragments} | set(FRAME)
    assert shown == set(FRAGMENTS)
    for fragment in FRAGMENTS.values():
        assert fragment.id in environment("en").get_template(fragment.template).blocks
        assert is_dataclass(fragment.context)
        assert fragment.topics <= TOPICS
        assert fragment.topics or not fragment.state


def test_state_fragments_hold_no_name_phone_or_text() -> None:
    for fragment in STATE:
        names = {f.name for f in fields(fragment.context)}
        assert not names & {"name", "phone", "contact_id", "contact_name", "text"}


def test_the_registry_of_pages_is_sound() -> None:
    assert {p.id for p in PAGES} == {view.page.id for view in VIEWS}
    assert {p.group for p in PAGES} <= set(GROUPS)
    assert {r for p in PAGES for r in p.roles} <= set(ROLE_NAMES)
    keys = [p.key for p in PAGES if p.key]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set("gjkp/?")
    assert {p.count for p in PAGES if p.count} <= {f.id for f in STATE}


async def test_pages_need_a_session(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    answer = await client.get("/queue?state=pending_safe_mode", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fqueue%3Fstate%3Dpending_safe_mode")
    assert (await client.get("/queue", headers={**PAGE, **key})).status_code in (401, 403)
    assert (await client.get("/stream", headers=key)).status_code in (401, 403)


async def test_another_clinic_does_not_exist_for_people_who_do_not_work_there(
    services: Services, filled: Clinic, secretary_session: Browser
) -> None:
    for path in ("/queue?clinic=other", "/contacts/other/c-maria", "/contacts?clinic=ten-other", "/?clinic=nobody"):
        answer = await page(secretary_session, path)
        assert answer.status_code == 404, path
        assert "Maria" not in answer.text
        assert "Não encontrado" in answer.text
    assert "Maria" not in (await page(secretary_session, "/contacts?q=maria")).text
    assert (await page(secretary_session, "/contacts/clinica-aurora/c-nobody")).status_code == 404


async def test_a_superadmin_sees_all_clinics_or_the_chosen_one(services: Services, filled: Clinic, admin_session: Browser) -> None:
    everything = (await page(admin_session, "/contacts")).text
    assert "Maria" in everything
    assert "Name c-bia" in everything
    one = await page(admin_session, "/contacts?clinic=clinica-aurora")
    assert "Maria" not in one.text
    assert 'href="/queue?clinic=clinica-aurora"' in one.text
    # the choice stays, also where the address does not name it
    assert "Maria" not in (await page(admin_session, "/contacts")).text
    assert "Maria" in (await page(admin_session, "/contacts?clinic=all")).text


async def test_filters_and_cursor_come_from_the_address(filled: Clinic, secretary_session: Browser) -> None:
    urgent = (await page(secretary_session, "/queue?class=urgent_takeover&contact=bia&state=&type=nonsense")).text
    assert "Name c-bia" in urgent
    assert "c/ana" not in urgent
    assert '<option value="urgent_takeover" selected>' in urgent
    for path in ("/queue?cursor=abc", "/queue?cursor=1.²", "/contacts?cursor=%%%", "/contacts?cursor=WzFd", LANE + "?before=today"):
        assert (await page(secretary_session, path)).status_code == 400, path
    assert (await page(secretary_session, "/queue?cursor=9999999.1")).status_code == 200


async def test_the_queue_tells_the_two_orders_apart(filled: Clinic, secretary_session: Browser) -> None:
    html = (await page(secretary_session, "/queue")).text
    rows = re.findall(r'<tr id="row_[^"]*".*?</tr>', html, re.DOTALL)
    said = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in rows]
    assert said[0].startswith("1 P1 Crítica Name c-bia nº 1 ")
    assert "Próximo a sair." in said[0]
    assert "fora da saída" in said[1]
    assert "Espera a nº 1 deste contato." in said[2]


async def test_an_item_of_the_lane_is_found_by_its_id(filled: Clinic, secretary_session: Browser) -> None:
    html = (await page(secretary_session, f"/contacts?q=corr-{filled.tenant_id}-c-bia-1")).text
    assert "/contacts/clinica-aurora/c-bia?item=" in html


async def test_preferences_are_the_persons_own(services: Services, tenant: Clinic, secretary_session: Browser) -> None:
    client, token = secretary_session.client, secretary_session.csrf_token
    form = {"language": "en", "theme": "dark", "shortcuts": "off", "next": "/queue", "_csrf": token}
    answer = await client.post("/preferences", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue")
    html = (await page(secretary_session, "/queue")).text
    assert 'lang="en" data-theme="dark"' in html
    assert 'name="kora-keys"' in html
    assert 'data-on="no"' in html
    # unknown values and missing fields change nothing; another site is not a place to go on to
    answer = await client.post("/preferences", data={"theme": "pink", "next": "//evil.example", "_csrf": token})
    assert answer.headers["location"] == "/"
    assert 'lang="en" data-theme="dark"' in (await page(secretary_session, "/queue")).text
    assert (await client.post("/preferences", data={"theme": "light", "_csrf": "wrong"})).status_code == 403
    assert (
        "Sign in" in (await client.get("/login", headers=PAGE, follow_redirects=False)).text
        or client.cookies.get("kora_lang") == "en"
    )


async def test_the_banner_is_on_every_page_and_in_the_state_of_the_audience(
    services: Services, filled: Clinic, secretary_session: Browser, manual_clock: ManualClock
) -> None:
    mode = {
        "state": "safe_mode_active",
        "epoch": 1,
        "since": NOON,
        "reason": "o Redis parou",
        "contingency": False,
    }
    row = table(ModeRow)
    await services.db.write(lambda conn: conn.execute(row.update().where(row.c.scope == filled.tenant_id).values(mode)))
    manual_clock.advance(minutes=12)
    for path in ("/", "/queue", "/contacts", LANE):
        text = re.sub(r"<[^>]+>", "", (await page(secretary_session, path)).text)
        assert re.search(r"Modo seguro ligado\s+há 12 min \(desde 09:00\)", text), path
    fragments = await renderer(services)(Audience((filled.tenant_id,), "secretary", "pt_BR"), frozenset({"queue"}))
    assert set(fragments) == {"banner", "queue_count", "numbers", "lock_mode"}
    assert "Motivo: o Redis parou." in fragments["banner"]
    other = await renderer(services)(Audience(("ten-other",), "secretary", "en"), frozenset())
    assert other["banner"].strip() == ""
    assert await renderer(services)(Audience(("ten-other",), "secretary", "en"), frozenset({"nothing"})) == {}


async def test_errors_are_pages_in_the_readers_language(client: httpx.AsyncClient, secretary_session: Browser) -> None:
    answer = await page(secretary_session, "/no-such-page")
    assert answer.status_code == 404
    assert "Não encontrado" in answer.text
    answer = await client.get("/no-such-page", headers={**PAGE, "accept-language": "en-GB,en;q=0.9,pt;q=0.1"})
    assert "Not found" in answer.text


async def test_a_person_without_a_clinic_sees_an_empty_console(app: Litestar, services: Services) -> None:
    person = await add_person(services, "secretary", ())
    async with browser_client(app) as opened:
        lonely = await sign_in(services, opened, person)
        for path in ("/", "/queue", "/contacts"):
            answer = await page(lonely, path)
            assert answer.status_code == 200
            assert "Nenhuma clínica" in answer.text


@pytest.mark.parametrize(
    ("text", "expected"), [("12", 12), ("0", 0), (None, None), ("-1", None), ("1e9", None), ("²", None), ("9" * 30, None)]
)
def test_a_position_is_a_number_or_nothing(text: str | None, expected: int | None) -> None:
    assert position(text) == expected


@pytest.mark.parametrize(("highest", "top"), [(0, 2), (2, 2), (3, 4), (7, 10), (11, 20), (61, 100), (100, 100), (250, 400)])
def test_an_axis_ends_at_a_round_number(highest: int, top: int) -> None:
    assert nice_top(highest) == top
