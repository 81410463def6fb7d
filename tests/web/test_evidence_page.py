"""The evidence page over HTTP: what is listed, asked for, downloaded under audit, and checked when uploaded."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from litestar import Litestar

from app.bootstrap import Services
from app.clock import ManualClock
from app.store import evidence
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.conftest import Browser, add_person, browser_client, sign_in
from tests.web.safe_mode_driver import send, serve

pytestmark = pytest.mark.story("S-PC-04-003")
PAGE = {"accept": "text/html"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite: the statements are tried on both elsewhere."""
    return sqlite_url


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    made = await open_api(services, client)
    await send(made, made.command(payload=made.slot(1, "a-1"), correlation_id="corr-1"))
    await serve(made)
    return made


@pytest.fixture
async def manager(app: Litestar, services: Services, api: Api) -> AsyncIterator[Browser]:
    """Runs the clinic."""
    person = await add_person(services, "manager", [api.clinic.tenant_id])
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, person)


async def built(browser: Browser, kind: str, subject: str, **fields: str) -> str:
    """Ask for a pack by the form; returns its id."""
    form = {"_csrf": browser.csrf_token, "kind": kind, "subject": subject, **fields}
    answer = await browser.client.post("/evidence/build", data=form, headers=browser.headers)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].partition("pack=")[2]


async def test_a_manager_builds_downloads_and_checks_a_pack(manager: Browser, api: Api) -> None:
    empty = (await manager.client.get("/evidence", params={"kind": "flow", "subject": "corr-1"}, headers=PAGE)).text
    assert 'value="corr-1"' in empty
    pack_id = await built(manager, "flow", "corr-1")
    shown = (await manager.client.get("/evidence", params={"pack": pack_id}, headers=PAGE)).text
    assert f"/evidence/download/{pack_id}.zip" in shown
    assert "applied_once" in shown
    given = await manager.client.get(f"/evidence/download/{pack_id}.zip")
    assert given.status_code == 200
    trail = (await manager.client.get("/audit", params={"what": "evidence.download"}, headers=PAGE)).text
    assert f"evidence/{pack_id}" in trail
    for content, said in (
        (given.content, "Íntegra: nenhum byte mudou"),
        (given.content.replace(b"applied_once", b"applied_0nce"), "linha"),
    ):
        checked = await manager.client.post(
            "/evidence/verify",
            data={"_csrf": manager.csrf_token},
            files={"file": ("pack.zip", content, "application/zip")},
            headers={**manager.headers, **PAGE},
        )
        assert checked.status_code == 200
        assert said in checked.text
    assert "Não está íntegra" in checked.text


async def test_the_page_says_how_many_flows_have_no_pack(manager: Browser, api: Api, manual_clock: ManualClock) -> None:
    await send(api, api.command("follow_up", {"text": "Oi"}, correlation_id="corr-2"))
    await serve(api)
    manual_clock.advance(seconds=11)  # what has just ended may still get its own
    for n, said in (
        (0, "Dos 2 fluxos que terminaram na última hora, 2 não têm pacote"),
        (1, "Dos 2 fluxos que terminaram na última hora, 1 não tem pacote"),
        (2, None),
    ):
        if n:
            await built(manager, "flow", f"corr-{n}")
        page = (await manager.client.get("/evidence", headers=PAGE)).text
        assert said is None or said in page
        assert ("fluxos que terminaram" in page) is (said is not None)
    manual_clock.advance(hours=1)
    assert "fluxos que terminaram" not in (await manager.client.get("/evidence", headers=PAGE)).text


async def test_packs_that_flows_made_by_themselves_do_not_hide_what_people_look_for(manager: Browser, api: Api) -> None:
    asked: dict[str, Any] = {"tenant_id": api.clinic.tenant_id, "now": api.now, "reason": "ended"}
    await api.services.db.write(evidence.request, **asked, kind="flow", subject="corr-1")
    await api.services.db.write(evidence.request, **asked, kind="replay", subject="rep-1")
    for params, seen in (({}, False), ({"all": "yes"}, True), ({"kind": "flow", "subject": "corr-1"}, True)):
        rows = (await manager.client.get("/evidence", params=params, headers=PAGE)).text.partition('id="evidence_form"')[0]
        assert ("corr-1</code>" in rows) is seen
        assert ("rep-1</code>" in rows) is ("subject" not in params)


async def test_times_of_the_form_are_the_clinics(manager: Browser, api: Api) -> None:
    pack_id = await built(manager, "contact", CONTACT, **{"from": "2026-11-23T09:00", "until": "2026-11-23T09:30"})
    pack = await api.get(f"/evidence-packs/{pack_id}")
    assert (pack["from"], pack["until"]) == ("2026-11-23T12:00:00Z", "2026-11-23T12:30:00Z")


async def test_what_cannot_be_used_is_refused_with_a_sentence(manager: Browser) -> None:
    for fields, status in (
        ({"kind": "drill", "subject": "x"}, 400),
        ({"kind": "flow", "subject": " "}, 400),
        ({"kind": "flow", "subject": "corr-nobody"}, 404),
        ({"kind": "alert", "subject": "a-nobody"}, 404),
        ({"kind": "contact", "subject": CONTACT, "from": "yesterday"}, 400),
    ):
        form = {"_csrf": manager.csrf_token, **fields}
        assert (await manager.client.post("/evidence/build", data=form, headers=manager.headers)).status_code == status, fields
    answer = await manager.client.post("/evidence/verify", data={"_csrf": manager.csrf_token}, headers={**manager.headers, **PAGE})
    assert answer.status_code == 200
    assert "Não está íntegra" in answer.text
    assert (await manager.client.post("/evidence/full", data={"_csrf": manager.csrf_token})).status_code == 403


async def test_a_secretary_has_no_evidence_and_the_neighbour_not_ours(
    app: Litestar, services: Services, api: Api, manager: Browser, client: httpx.AsyncClient
) -> None:
    pack_id = await built(manager, "flow", "corr-1")
    other = await open_api(services, client, "clinica-vizinha")
    for role, tenant_id, status in (("secretary", api.clinic.tenant_id, 403), ("manager", other.clinic.tenant_id, 404)):
        async with browser_client(app) as opened:
            browser = await sign_in(services, opened, await add_person(services, role, [tenant_id]))
            assert (await browser.client.get(f"/evidence/download/{pack_id}.zip")).status_code == status
            page = await browser.client.get("/evidence", params={"pack": pack_id}, headers=PAGE)
            assert page.status_code == (403 if role == "secretary" else 200)
            assert "corr-1" not in page.text
            api_answer = await browser.client.get("/api/v1/evidence/corr-1")
            assert api_answer.status_code in (403, 404)  # a clinic made this very second is not in the list yet
            lane = await browser.client.get(f"/contacts/{api.clinic.slug}/{CONTACT}", headers=PAGE)
            assert "/evidence?" not in lane.text


async def test_a_superadmin_gets_the_whole_of_it_and_says_why(
    app: Litestar, services: Services, api: Api, manager: Browser
) -> None:
    pack_id = await built(manager, "flow", "corr-1")
    async with browser_client(app) as opened:
        browser = await sign_in(services, opened, await add_person(services, "superadmin", []))
        form = {"_csrf": browser.csrf_token, "pack_id": pack_id}
        assert (await browser.client.post("/evidence/full", data=form, headers=browser.headers)).status_code == 400
        answer = await browser.client.post("/evidence/full", data=form | {"reason": "ordem judicial"}, headers=browser.headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
        trail = (await browser.client.get("/audit", params={"what": "evidence.full"}, headers=PAGE)).text
        assert "ordem judicial" in trail
