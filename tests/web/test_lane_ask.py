"""The contact's page: a person's command through the gate, and what was known at a moment."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest

from app.bootstrap import Services
from tests.web.api_client import CONTACT, PATIENT, THERAPIST, Api, open_api
from tests.web.conftest import Browser, add_person, app_over, browser_client, sign_in

PAGE = {"accept": "text/html"}
ZONE = ZoneInfo("America/Sao_Paulo")


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    """The clinic, with its engine running."""
    return await open_api(running_services, running_client)


@pytest.fixture
async def desk(running_services: Services, api: Api) -> AsyncIterator[Browser]:
    """A secretary of the clinic."""
    person = await add_person(running_services, "secretary", [api.clinic.tenant_id])
    async with browser_client(app_over(running_services)) as opened:
        yield await sign_in(running_services, opened, person)


async def look(desk: Browser, address: str) -> str:
    """The page's text without tags."""
    answer = await desk.client.get(address, headers=PAGE)
    assert answer.status_code == 200, answer.text[:500]
    return answer.text


def plain(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def form_of(text: str, command_type: str) -> dict[str, str]:
    """Every field of the form of an act, as the page filled it."""
    form = next(part for part in text.split("<form")[1:] if f'name="command_type" value="{command_type}"' in part)
    inputs = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<input[^>]*>", form.split("</form>")[0])]
    return {i["name"]: i.get("value", "") for i in inputs if i.get("type") != "checkbox"}


async def ask(desk: Browser, sent: dict[str, str]) -> str:
    """Send a form of the page; the page that it leads to, which is the family's again."""
    answer = await desk.client.post("/agenda/ask", data=sent, headers=PAGE)
    assert answer.status_code == 303, answer.text[:500]
    assert answer.headers["location"].startswith(f"/contacts/clinica-aurora/{CONTACT}?done=")
    return await look(desk, answer.headers["location"])


async def test_a_person_changes_the_agenda_from_the_familys_page_through_the_gate(desk: Browser, api: Api) -> None:
    lane = f"/contacts/{api.clinic.slug}/{CONTACT}"
    form = form_of(await look(desk, lane), "schedule")
    assert (form["contact"], form["patient_id"]) == (CONTACT, PATIENT), "the family and its only child are filled in"
    slot = {"therapist_id": THERAPIST, "date": "2027-03-10", "time": "09:00", "minutes": "50", "reason": "a mãe ligou"}
    refused = plain(await ask(desk, form | slot))
    assert "Falta a confirmação explícita" in refused
    shown = await ask(desk, form | slot | {"confirmed": "on"})
    assert "Agendar: Feito" in plain(shown)
    (visit,) = (await api.get("/appointments"))["items"]
    picked = await look(desk, f"{lane}?pick={visit['appointment_id']}")
    moved = form_of(picked, "reschedule") | {"time": "10:00", "confirmed": "on", "reason": "mudou"}
    assert "Remarcar: Feito" in plain(await ask(desk, moved))
    stale = await desk.client.post("/agenda/ask", data=moved | {"time": "11:00"}, headers=PAGE)
    assert stale.status_code == 409
    cancelled = form_of(await look(desk, f"{lane}?pick={visit['appointment_id']}"), "cancel")
    assert "Cancelar: Feito" in plain(await ask(desk, cancelled | {"confirmed": "on", "reason": "viagem"}))
    (visit,) = (await api.get("/appointments"))["items"]
    assert (visit["status"], visit["version"]) == ("cancelled", 3)


async def test_what_was_known_at_a_moment_is_what_the_records_say_of_then(desk: Browser, api: Api) -> None:
    lane, clock = f"/contacts/{api.clinic.slug}/{CONTACT}", api.services.clock
    start = clock.now() - timedelta(hours=1)
    await api.one(api.command(payload=api.slot(1, "a-1")))
    before = clock.now()
    await api.call("DELETE", f"/patients/{PATIENT}/guardians/{CONTACT}")
    await api.one(api.command("cancel", commit_order=2, entity_version=1, payload={"appointment_id": "a-1"}))

    async def known(at: datetime) -> str:
        text = await look(desk, f"{lane}?known={at.astimezone(ZONE).replace(tzinfo=None).isoformat()}")
        return plain(text.split('id="known_facts"', 1)[1].split("</section>")[0])

    then, now, early = await known(before), await known(clock.now()), await known(start)
    assert "agendar, cancelar, remarcar" in then
    assert "marcada · versão 1" in then
    assert "nº 1 Agendar Feito" in then
    assert "nº 2" not in then
    assert "retirada" in now
    assert "nº 2 Cancelar Sem permissão" in now
    assert "Pedidos feitos até nº 0" in early
    assert "marcada" not in early
    nothing = await look(desk, f"{lane}?known=ontem")
    assert 'id="known_facts"' not in nothing
