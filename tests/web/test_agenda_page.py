"""The agenda on the screen and a person's requests from it, decided by the running engine."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import select

from app.bootstrap import Services
from app.store.tables import AuditEntry, table
from app.store.verify import verify
from tests.web.api_client import CONTACT, PATIENT, THERAPIST, Api, open_api
from tests.web.conftest import Browser, add_person, app_over, browser_client, sign_in

PAGE = {"accept": "text/html"}
ZONE = ZoneInfo("America/Sao_Paulo")
DAY = "2027-03-10"


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


def form(desk: Browser, api: Api, key: str, **fields: str) -> dict[str, str]:
    """What the page's form for a new appointment sends."""
    slot = {"patient_id": PATIENT, "therapist_id": THERAPIST, "date": DAY, "time": "09:00", "minutes": "50"}
    who = {"contact": CONTACT, "confirmed": "on", "reason": "a mãe ligou", "key": key, "day": DAY}
    return {"_csrf": desk.csrf_token, "clinic": api.clinic.slug, "command_type": "schedule", **slot, **who, **fields}


async def ask(desk: Browser, sent: dict[str, str]) -> str:
    """Send the form; the page that it leads to."""
    answer = await desk.client.post("/agenda/ask", data=sent, headers=PAGE)
    assert answer.status_code == 303, answer.text
    shown = await desk.client.get(answer.headers["location"], headers=PAGE)
    assert shown.status_code == 200
    return shown.text


async def agenda(api: Api) -> list[Any]:
    items: list[Any] = (await api.get("/appointments"))["items"]
    return items


async def asked(api: Api) -> list[Any]:
    """What the audit trail says about requests from the page."""
    entries = table(AuditEntry)
    read = select(entries.c.reason, entries.c.actor).where(entries.c.action == "agenda.ask")
    return await api.services.db.read(lambda conn: list(conn.execute(read)))


async def sound(api: Api) -> None:
    assert await api.services.db.read(lambda conn: list(verify(conn))) == []


async def test_a_person_schedules_reschedules_and_cancels_through_the_gate(desk: Browser, api: Api) -> None:
    page = await ask(desk, form(desk, api, "k1"))
    assert "09:00-09:50" in page
    assert "ainda não confirmada" in page
    (booked,) = await agenda(api)
    assert datetime.fromisoformat(booked["start"]) == datetime(2027, 3, 10, 9, tzinfo=ZONE)
    name = booked["appointment_id"]
    for part in ("agenda_act", "agenda_rows"):
        headers = {**PAGE, "HX-Request": "true", "HX-Target": part}
        assert (await desk.client.get("/agenda", params={"day": DAY, "pick": name}, headers=headers)).status_code == 200
    change = form(desk, api, "k2", appointment_id=name, command_type="reschedule", time="11:00", seen="1")
    assert "11:00-11:50" in await ask(desk, change)
    assert "cancelada" in await ask(desk, form(desk, api, "k3", appointment_id=name, command_type="cancel", seen="2"))
    versions = (await api.get(f"/appointments/{name}/versions"))["items"]
    assert [(v["version"], v["status"]) for v in versions] == [(1, "scheduled"), (2, "scheduled"), (3, "cancelled")]
    at = versions[1]["at"]
    assert [v["version"] for v in (await api.get(f"/appointments/{name}/versions", at=at))["items"]] == [2]
    assert (await api.call("GET", "/appointments/none/versions")).status_code == 404
    command = await api.get(f"/commands/{versions[0]['command_id']}")
    assert (command["requested_by"], command["result"]) == ("human", "applied_once")

    assert [(entry.reason, entry.actor) for entry in await asked(api)] == [("a mãe ligou", f"user:{desk.person.user_id}")] * 3
    await sound(api)


async def test_the_same_press_twice_is_one_appointment(desk: Browser, api: Api) -> None:
    sent = form(desk, api, "k1")
    await ask(desk, sent)
    await ask(desk, sent)
    assert len(await agenda(api)) == 1
    assert len(await asked(api)) == 1
    await sound(api)


async def test_the_same_form_sent_again_after_the_familys_yes_is_decided_anew(desk: Browser, api: Api) -> None:
    await ask(desk, form(desk, api, "k1", confirmed=""))
    assert await agenda(api) == []
    assert "09:00-09:50" in await ask(desk, form(desk, api, "k1"))
    assert len(await agenda(api)) == 1
    assert [entry.reason for entry in await asked(api)] == ["a mãe ligou"] * 2
    await sound(api)


async def test_the_same_form_sent_again_after_a_permission_was_registered_is_decided_anew(desk: Browser, api: Api) -> None:
    await api.put("/contacts/c-rui", {"phone": "+5511912345678", "name": "Rui"})
    assert "Sem permissão" in await ask(desk, form(desk, api, "k1", contact="c-rui"))
    rights = {"can_schedule": True, "verified_by": "gestao", "verification_method": "in_person", "reason": "guarda"}
    await api.put(f"/patients/{PATIENT}/guardians/c-rui", rights)
    assert "09:00-09:50" in await ask(desk, form(desk, api, "k1", contact="c-rui"))
    assert len(await agenda(api)) == 1
    await sound(api)


async def test_a_taken_slot_is_refused_and_free_times_are_named(desk: Browser, api: Api) -> None:
    await ask(desk, form(desk, api, "k1"))
    answer = await desk.client.post("/agenda/ask", data=form(desk, api, "k2", time="09:20"), headers=PAGE)
    page = (await desk.client.get(answer.headers["location"], headers=PAGE)).text
    assert "Livre agora:" in page
    assert "08:10" in page
    assert "09:50" in page
    command = await api.get(f"/commands/{answer.headers['location'].split('done=')[1]}")
    assert (command["status"], command["reason"]) == ("blocked_agenda_conflict", "slot_taken")
    starts = [datetime.fromisoformat(moment).astimezone(ZONE) for moment in command["alternatives"]]
    assert [f"{start:%H:%M}" for start in starts] == ["08:10", "09:50"]
    assert len(await agenda(api)) == 1


async def test_a_person_without_the_familys_confirmation_or_permission_is_refused(desk: Browser, api: Api) -> None:
    assert "Livre agora" not in await ask(desk, form(desk, api, "k1", confirmed=""))
    await api.put("/contacts/c-rui", {"phone": "+5511912345678", "name": "Rui"})
    page = await ask(desk, form(desk, api, "k2", contact="(11) 91234-5678"))
    assert "Sem permissão" in page
    assert await agenda(api) == []


async def test_an_appointment_that_changed_meanwhile_is_left_alone(desk: Browser, api: Api) -> None:
    await ask(desk, form(desk, api, "k1"))
    (booked,) = await agenda(api)
    late = form(desk, api, "k2", appointment_id=booked["appointment_id"], command_type="cancel", seen="7")
    assert (await desk.client.post("/agenda/ask", data=late, headers=PAGE)).status_code == 409
    assert (await agenda(api))[0]["version"] == 1


@pytest.mark.parametrize(
    "wrong",
    [{"minutes": "0"}, {"minutes": "x"}, {"date": "10/03/2027"}, {"reason": " "}, {"command_type": "takeover"}, {"contact": ""}],
)
async def test_an_unusable_form_is_refused(desk: Browser, api: Api, wrong: dict[str, str]) -> None:
    assert (await desk.client.post("/agenda/ask", data=form(desk, api, "k1", **wrong), headers=PAGE)).status_code == 400
    other = form(desk, api, "k1", clinic="clinica-vizinha")
    assert (await desk.client.post("/agenda/ask", data=other, headers=PAGE)).status_code == 403
    assert await agenda(api) == []


@pytest.mark.story("S-PC-03-002")
async def test_in_safe_mode_the_button_and_a_direct_post_say_the_same_and_ghosts_are_shown(desk: Browser, api: Api) -> None:
    entered = await api.call("POST", "/safe-mode/enter", json={"reason": "o Redis parou de responder"})
    assert entered.status_code == 200
    start = datetime(2027, 3, 10, 17, tzinfo=UTC)
    slot = {"therapist_id": THERAPIST, "start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat()}
    parked = await api.one(api.command("schedule", slot), wait=0)
    await api.once(f"/commands/{parked['command_id']}", lambda c: c["status"] == "pending_safe_mode")
    page = (await desk.client.get("/agenda", params={"day": DAY}, headers=PAGE)).text
    said = "Não dá para agendar agora: modo seguro ligado desde"
    assert said in page
    assert 'aria-disabled="true"' in page
    assert "disabled=" not in page.replace('aria-disabled="true"', "")
    assert "slot-ghost" in page
    assert "14:00-14:50" in page
    refused = await desk.client.post("/agenda/ask", data=form(desk, api, "k1"), headers=PAGE)
    assert refused.status_code == 409
    assert said in refused.text
    assert "assumir a conversa ou ligar para a família" in refused.text
    assert await agenda(api) == []


async def test_day_and_week_are_in_the_address_and_in_the_clinics_timezone(desk: Browser, api: Api) -> None:
    late = datetime(2027, 3, 11, 1, 30, tzinfo=UTC)  # 22:30 on the tenth, in the clinic
    slot = {"therapist_id": THERAPIST, "start": late.isoformat(), "end": (late + timedelta(minutes=30)).isoformat()}
    assert (await api.one(api.command("schedule", slot)))["result"] == "applied_once"
    for params in (
        {"day": DAY},
        {"day": DAY, "span": "week"},
        {"day": "2027-03-14", "span": "week"},
        {"day": DAY, "therapist": THERAPIST},
    ):
        assert "22:30-23:00" in (await desk.client.get("/agenda", params=params, headers=PAGE)).text, params
    for params in ({"day": "2027-03-11"}, {"day": "nonsense"}, {"day": DAY, "therapist": "t-other"}):
        assert "22:30-23:00" not in (await desk.client.get("/agenda", params=params, headers=PAGE)).text, params
    assert (await desk.client.get("/agenda", params={"pick": "none"}, headers=PAGE)).status_code == 404


async def test_who_sees_several_clinics_is_offered_each_ones_agenda(running_services: Services, api: Api) -> None:
    other = await open_api(running_services, api.client, "clinica-vizinha")
    person = await add_person(running_services, "manager", [api.clinic.tenant_id, other.clinic.tenant_id])
    async with browser_client(app_over(running_services)) as opened:
        boss = await sign_in(running_services, opened, person)
        page = (await boss.client.get("/agenda", params={"day": DAY}, headers=PAGE)).text
        assert 'name="command_type"' not in page
        for clinic in (api.clinic, other.clinic):
            assert f'href="/agenda?clinic={clinic.slug}&amp;day={DAY}"' in page
            shown = await boss.client.get("/agenda", params={"clinic": clinic.slug, "day": DAY}, headers=PAGE)
            assert 'name="command_type"' in shown.text


async def test_undecided_requests_beyond_the_limit_are_not_hidden_in_silence(
    desk: Browser, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.views.agenda.GHOSTS_MAX", 1)
    assert (await api.call("POST", "/safe-mode/enter", json={"reason": "o Redis parou"})).status_code == 200
    said = "Há muitos pedidos sem decisão"
    for hour, shown in ((12, False), (14, True)):
        start = datetime(2027, 3, 10, hour, tzinfo=UTC)
        slot = {"therapist_id": THERAPIST, "start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat()}
        await api.one(api.command("schedule", slot), wait=0)
        page = (await desk.client.get("/agenda", params={"day": DAY}, headers=PAGE)).text
        assert (said in page) is shown


async def test_contingency_says_that_the_request_waits(desk: Browser, api: Api) -> None:
    assert "guarda o lugar" not in (await desk.client.get("/agenda", headers=PAGE)).text
    await api.put("/contingency", {"channel": "whatsapp", "active": True, "reason": "fora do ar"})
    assert "Contingência ligada desde" in (await desk.client.get("/agenda", headers=PAGE)).text
