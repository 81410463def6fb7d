"""The takeovers page over HTTP, without scripts."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from app.bootstrap import Services
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.conftest import Browser, add_person, app_over, browser_client, sign_in

PAGE = {"accept": "text/html"}


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    return await open_api(running_services, running_client)


@pytest.fixture
async def rita(running_services: Services, api: Api) -> AsyncIterator[Browser]:
    person = await add_person(running_services, "secretary", [api.clinic.tenant_id])
    async with browser_client(app_over(running_services)) as opened:
        yield await sign_in(running_services, opened, person)


async def send(browser: Browser, path: str, **form: str) -> httpx.Response:
    return await browser.client.post(path, data={"_csrf": browser.csrf_token, **form}, headers=PAGE)


async def shown(browser: Browser, path: str = "/takeovers") -> str:
    answer = await browser.client.get(path, headers=PAGE)
    assert answer.status_code == 200
    return answer.text


async def test_a_secretary_takes_a_conversation_from_the_contact_answers_and_gives_it_back(api: Api, rita: Browser) -> None:
    assert 'action="/takeovers/open"' in await shown(rita, f"/contacts/{api.clinic.slug}/{CONTACT}")
    opened = await send(rita, "/takeovers/open", clinic=api.clinic.slug, contact_id=CONTACT, reason="pediu uma pessoa")
    where = opened.headers["location"]
    assert where.startswith("/takeovers?takeover=")
    page = await shown(rita, where)
    assert "pediu uma pessoa" in page
    assert "O robô não responde desde" in page
    assert re.search(r'href="/takeovers">Assumidas? <span class="num">1</span>', await shown(rita, "/manual"))
    number = where.partition("takeover=")[2]
    for act, more in (("start", {}), ("reply", {"text": "Oi, Maria."}), ("close", {"reason": "resolvido"})):
        done = await send(rita, "/takeovers/act", ticket_id=number, act=act, **more)
        assert done.headers["location"] == where
    assert "Devolvida" in await shown(rita, where)
    assert "Nenhuma conversa está com uma pessoa." in await shown(rita)
    assert not (await api.get(f"/contacts/{CONTACT}"))["takeover_active"]


async def test_a_refused_answer_says_so_and_keeps_what_was_typed(api: Api, rita: Browser) -> None:
    answer = await api.call("POST", "/takeovers", json={"contact_id": CONTACT, "reason": "x"})
    number = answer.json()["takeover_id"]
    await api.call("POST", f"/takeovers/{number}/start")
    assert (await send(rita, f"/takeovers/act?takeover={number}", ticket_id=number, act="start", rev="1")).status_code == 409
    late = await send(rita, f"/takeovers/act?takeover={number}", ticket_id=number, act="reply", rev="1", text="Oi, Maria <3")
    assert late.status_code == 409
    assert "Nada foi feito" in late.text
    assert "O que você digitou continua aqui." in late.text
    assert ">Oi, Maria &lt;3</textarea>" in late.text
    assert "Assumir no lugar de" in late.text
    taken = {"act": "start", "text": "Oi, Maria <3", "reason": "o programa parou"}
    mine = await send(rita, f"/takeovers/act?takeover={number}", ticket_id=number, **taken)
    assert mine.status_code == 200
    assert 'id="takeover_text"' in mine.text
    assert ">Oi, Maria &lt;3</textarea>" in mine.text
    assert "Nada foi feito" not in mine.text
    back = await rita.client.get(f"/takeovers/act?takeover={number}", headers=PAGE)
    assert back.headers["location"] == f"/takeovers?takeover={number}"
    assert (await send(rita, "/takeovers/act", ticket_id=number, act="reply", text=" ")).status_code == 400
    assert (await send(rita, "/takeovers/open", clinic=api.clinic.slug, contact_id=CONTACT, reason="eu")).status_code == 409


async def test_conversations_of_another_clinic_do_not_exist(api: Api, rita: Browser) -> None:
    stranger = await open_api(api.services, api.client, "clinica-vizinha")
    answer = await stranger.call("POST", "/takeovers", json={"contact_id": CONTACT, "reason": "segredo"})
    number = answer.json()["takeover_id"]
    assert "segredo" not in await shown(rita, f"/takeovers?takeover={number}")
    assert (await send(rita, "/takeovers/act", ticket_id=number, act="close", reason="x")).status_code == 404
    assert (await send(rita, "/takeovers/open", clinic="clinica-vizinha", contact_id=CONTACT, reason="x")).status_code == 404
