"""My account: everybody sees and ends their own sessions, and changes their own password; nobody else's can be named."""

import re
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select

from app.bootstrap import Services
from app.credentials import verify_password
from app.store import accounts
from app.store.tables import AuditEntry, table
from app.web.console.account import browser_name, session_ref
from tests.web.conftest import PASSWORD, Browser, Clinic, add_person, browser_client, sign_in

PAGE = {"accept": "text/html"}
NEW = "uma frase que ninguem conhece"


async def post(browser: Browser, act: str, **form: str) -> httpx.Response:
    return await browser.client.post("/account", data={"_csrf": browser.csrf_token, "act": act, **form}, headers=PAGE)


async def actions(services: Services) -> list[str]:
    audit = table(AuditEntry)
    query = select(audit.c.action).where(audit.c.chain == "global").order_by(audit.c.number)
    return await services.db.read(lambda conn: list(conn.execute(query).scalars()))


@pytest.mark.parametrize("role", ["secretary", "manager", "superadmin"])
async def test_everybody_sees_their_own_sessions_and_ends_the_others(
    app: Litestar, services: Services, tenant: Clinic, role: str
) -> None:
    person = await add_person(services, role, [tenant.tenant_id])
    stranger = await add_person(services, "secretary", [tenant.tenant_id])
    async with browser_client(app) as here, browser_client(app) as there, browser_client(app) as elsewhere:
        mine, other, foreign = [await sign_in(services, c, p) for c, p in ((here, person), (there, person), (elsewhere, stranger))]
        text = (await here.get("/account", headers=PAGE)).text
        assert re.findall(r'id="session_(\w+)"', text) == [session_ref(b.session_hash) for b in (mine, other)]
        assert mine.session_hash not in text, "the stored hash stays on the server"
        refused = await post(mine, "end_session", session=session_ref(foreign.session_hash))
        assert refused.status_code == 409
        assert (await elsewhere.get("/account", headers=PAGE)).status_code == 200
        assert (await post(mine, "end_session", session=session_ref(other.session_hash))).status_code == 303
        assert (await there.get("/account", headers=PAGE)).status_code == 303, "to the sign-in form"
        assert (await here.get("/account", headers=PAGE)).status_code == 200
        assert await actions(services) == ["session.end"]
        await sign_in(services, there, person)
        assert (await post(mine, "end_others")).status_code == 303
        assert len(await services.db.read(accounts.sessions_of_user, person.user_id, services.clock.now())) == 1


async def test_without_its_token_nothing_happens(secretary_session: Browser) -> None:
    answer = await secretary_session.client.post("/account", data={"act": "end_others"}, headers=PAGE)
    assert answer.status_code == 403


async def test_a_person_changes_their_password_and_every_other_session_ends(
    app: Litestar, services: Services, secretary_session: Browser
) -> None:
    person = secretary_session.person
    async with browser_client(app) as there:
        await sign_in(services, there, person)
        changed = await post(secretary_session, "change_password", old=PASSWORD, new=NEW, again=NEW)
        assert (changed.status_code, changed.headers["location"]) == (303, "/account?done=change_password")
        assert (await there.get("/account", headers=PAGE)).status_code == 303
    assert (await secretary_session.client.get("/account", headers=PAGE)).status_code == 200, "with the new cookie"
    (left,) = await services.db.read(accounts.sessions_of_user, person.user_id, services.clock.now())
    assert left.key_hash != secretary_session.session_hash, "the session is a new one"
    row = await services.db.read(accounts.find_user, person.user_id)
    assert row is not None
    assert verify_password(row.password_hash, NEW)
    assert await actions(services) == ["user.change_password"]


@pytest.mark.parametrize(
    ("old", "new", "again", "said"),
    [
        ("wrong", NEW, NEW, "A senha atual não confere"),
        (PASSWORD, NEW, NEW + "x", "não são iguais"),
        (PASSWORD, PASSWORD, PASSWORD, "é a mesma"),
        (PASSWORD, "curta", "curta", "pelo menos 12"),
        (PASSWORD, "Senha@123456", "Senha@123456", "vazamentos"),
    ],
)
async def test_a_password_that_does_not_do_is_refused_with_its_reason(
    services: Services, secretary_session: Browser, old: str, new: str, again: str, said: str
) -> None:
    before = await services.db.read(accounts.find_user, secretary_session.person.user_id)
    answer = await post(secretary_session, "change_password", old=old, new=new, again=again)
    assert answer.status_code == 400
    assert said in answer.text
    after: Any = await services.db.read(accounts.find_user, secretary_session.person.user_id)
    assert before is not None
    assert after.password_hash == before.password_hash


async def test_guessing_at_an_open_screen_is_slowed_down(services: Services, secretary_session: Browser) -> None:
    await services.db.write(
        lambda conn: [accounts.record_login_failure(conn, secretary_session.person.user_id, services.clock.now()) for _ in range(5)]
    )
    answer = await post(secretary_session, "change_password", old=PASSWORD, new=NEW, again=NEW)
    assert answer.status_code == 429


def test_a_browser_is_named_as_people_call_it() -> None:
    edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36 Edg/130.0"
    assert browser_name(edge) == "Edge, Windows"
    phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Version/17.0 Mobile/15E148 Safari/604.1"
    assert browser_name(phone) == "Safari, iPhone"
    assert browser_name("curl/8") == ""
