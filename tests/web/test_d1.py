"""Day-before confirmations (F-03) on the manual clock: on their minute, none twice, none at night, answers through the gate."""

import re
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.d1 import D1
from app.store.bulk import insert_rows
from app.store.tables import Alert, Appointment, D1StepRow, ManualTask, Outbox, table
from app.web.app import create_app
from tests.web.api_client import CONTACT, PATIENT, THERAPIST, Api, open_api
from tests.web.conftest import Browser, add_person, browser_client, sign_in

STEP, OUTBOX, TASK, ALERT = table(D1StepRow), table(Outbox), table(ManualTask), table(Alert)
SAO_PAULO = ZoneInfo("America/Sao_Paulo")


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


def clock(api: Api) -> ManualClock:
    found = api.services.clock
    assert isinstance(found, ManualClock)
    return found


async def book(api: Api, name: str, start_at: datetime, **values: Any) -> None:
    """An appointment that stands since long ago."""
    row = {
        "tenant_id": api.clinic.tenant_id,
        "appointment_id": name,
        "patient_id": PATIENT,
        "therapist_id": THERAPIST,
        "start_at": start_at,
        "end_at": start_at + timedelta(minutes=50),
        "status": "scheduled",
        "version": 1,
        "as_of": start_at - timedelta(days=30),
        **values,
    }
    await api.services.db.write(insert_rows, table(Appointment), [row])


async def steps(api: Api) -> list[tuple[str, str, datetime, str, bool]]:
    def read(conn: Connection) -> list[Any]:
        return [
            (r.appointment_id, r.action, r.done_at, r.outcome, bool(r.late))
            for r in conn.execute(select(STEP).order_by(STEP.c.done_at, STEP.c.action))
        ]

    return await api.services.db.read(read)


async def count(api: Api, of: Any, *where: Any) -> int:
    return await api.services.db.read(lambda conn: len(conn.execute(select(of).where(*where)).all()))


async def at(api: Api, loop: D1, *moments: datetime) -> None:
    for moment in moments:
        clock(api).set(moment)
        await loop.tick()


def local(day: int, hour: int, minute: int = 0, zone: ZoneInfo = SAO_PAULO) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=zone).astimezone(UTC)


async def test_the_day_before_runs_on_its_minutes_and_each_step_once(api: Api) -> None:
    loop, other = D1(api.services.db, clock(api)), D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14))
    minute = local(24, 8)
    while minute <= local(25, 14):
        await at(api, loop, minute)
        await other.tick()  # a second node looks at the same moment
        minute += timedelta(minutes=5)
    found = await steps(api)
    assert [(action, outcome, late) for _, action, _, outcome, late in found] == [
        ("ask_family", "done", False),
        ("open_task", "done", False),
        ("alert_staff", "done", False),
        ("notify_opening", "done", False),
    ]
    assert [done for _, _, done, _, _ in found] == [local(24, 9), local(24, 16), local(24, 17), local(25, 7, 30)]
    assert await count(api, OUTBOX, OUTBOX.c.step == "ask") == 1
    assert await count(api, TASK, TASK.c.cause == "day_before_unconfirmed") == 1
    assert await count(api, ALERT, ALERT.c.trigger == "day_before_unconfirmed") == 2


async def test_downtime_drops_the_question_and_catches_up_with_the_staff(api: Api) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14))
    await at(api, loop, local(24, 22))  # the server was away all day
    found = {action: (outcome, late) for _, action, _, outcome, late in await steps(api)}
    assert found == {"ask_family": ("missed", True), "open_task": ("done", True), "alert_staff": ("done", False)}
    assert await count(api, OUTBOX, OUTBOX.c.step == "ask") == 0  # nobody is written to at night


async def test_what_is_confirmed_cancelled_moved_or_booked_late_is_left_alone(api: Api) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-confirmed", local(25, 9), status="confirmed")
    await book(api, "a-cancelled", local(25, 10), status="cancelled")
    await at(api, loop, local(24, 9, 30))
    assert await steps(api) == []


async def test_without_a_guardian_who_may_be_asked_a_person_is_told(api: Api) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14), patient_id="p-nobody")
    await at(api, loop, local(24, 9, 30), local(24, 16))
    assert [(action, outcome) for _, action, _, outcome, _ in await steps(api)] == [("ask_family", "nobody"), ("open_task", "done")]


async def test_a_week_with_a_change_of_the_clocks_in_a_timezone_that_has_one(api: Api) -> None:
    """Lisbon leaves summer time on Sunday 25 October 2026; clinics there open on Saturday and Sunday too."""
    zone = ZoneInfo("Europe/Lisbon")
    week = {name: [["09:00", "18:00"]] for name in ("sat", "sun")}
    await api.put(f"/settings/{api.clinic.slug}", {"timezone": "Europe/Lisbon", "hours": week, "national_holidays": None})
    loop = D1(api.services.db, clock(api))
    days = [date(2026, 10, 22) + timedelta(days=n) for n in range(7)]
    for n, day in enumerate(days):
        await book(api, f"a-{n}", datetime.combine(day, time(15), tzinfo=zone).astimezone(UTC))
    minute, end = datetime(2026, 10, 20, 22, 0, tzinfo=UTC), datetime(2026, 10, 28, 16, 0, tzinfo=UTC)
    while minute <= end:
        await at(api, loop, minute)
        minute += timedelta(minutes=10)
    found = await steps(api)
    assert Counter(action for _, action, _, _, _ in found) == dict.fromkeys(
        ("ask_family", "open_task", "alert_staff", "notify_opening"), len(days)
    )
    wall = {(action, done.astimezone(zone).strftime("%H:%M")) for _, action, done, _, _ in found}
    assert wall == {
        ("ask_family", "09:00"),
        ("open_task", "16:00"),
        ("alert_staff", "17:00"),
        ("notify_opening", "07:30"),
        ("notify_opening", "08:30"),
    }
    assert not any(late for *_, late in found)


# --- the answer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "status", "result"),
    [
        ({"text": "CONFIRMAR"}, "confirmed", "applied_once"),
        ({"text": "Confirmo", "button_id": "d1:yes"}, "confirmed", "applied_once"),
        ({"text": "ok"}, "scheduled", None),
    ],
)
async def test_the_familys_answer_goes_through_the_gate(
    running_services: Services, running_client: httpx.AsyncClient, payload: dict[str, str], status: str, result: str | None
) -> None:
    api = await open_api(running_services, running_client)
    start = (api.now + timedelta(days=1)).replace(microsecond=0)
    await book(api, "a-1", start)
    asked = {"tenant_id": api.clinic.tenant_id, "appointment_id": "a-1", "start_at": start, "action": "ask_family"}
    asked |= {"done_at": api.now, "late": False, "outcome": "done", "contact_id": CONTACT}
    await api.services.db.write(insert_rows, STEP, [asked])
    heard = (await api.call("POST", "/events", json=api.event(payload=payload))).json()
    event = await api.processed(heard["event_id"])
    if result is None:
        assert (await api.get("/appointments/a-1"))["status"] == status
        return
    await api.once("/appointments/a-1", lambda a: a["status"] == status)
    lane = (await api.get(f"/contacts/{CONTACT}/lane"))["items"]
    (command,) = [i for i in lane if i["kind"] == "command"]
    assert command["command_type"] == "d1_confirmation"
    assert (await api.get(f"/commands/{command['id']}"))["causation_id"] == event["event_id"]


async def test_a_no_hands_the_conversation_to_a_person(running_services: Services, running_client: httpx.AsyncClient) -> None:
    api = await open_api(running_services, running_client)
    start = (api.now + timedelta(days=1)).replace(microsecond=0)
    await book(api, "a-1", start)
    asked = {"tenant_id": api.clinic.tenant_id, "appointment_id": "a-1", "start_at": start, "action": "ask_family"}
    asked |= {"done_at": api.now, "late": False, "outcome": "done", "contact_id": CONTACT}
    await api.services.db.write(insert_rows, STEP, [asked])
    await api.call("POST", "/events", json=api.event(payload={"text": "Não vamos poder", "button_id": "d1:no"}))
    await api.once(f"/contacts/{CONTACT}", lambda c: c["takeover_active"])
    assert (await api.get("/appointments/a-1"))["status"] == "scheduled"


async def test_the_agenda_says_how_far_the_day_before_has_come(api: Api, services: Services, client: httpx.AsyncClient) -> None:
    """Asked, no answer, task, alert: each on the appointment itself, and nothing once the family has confirmed."""
    person = await add_person(services, "secretary", [api.clinic.tenant_id])
    loop = D1(api.services.db, clock(api))
    visit = datetime(2026, 11, 25, 10, 0, tzinfo=SAO_PAULO)
    await book(api, "a-1", visit)
    told = []
    async with browser_client(create_app(services)) as opened:
        for hour in (8, 9, 16, 17):
            await at(api, loop, datetime(2026, 11, 24, hour, 0, 30, tzinfo=SAO_PAULO))
            desk = await sign_in(services, opened, person)  # a session does not outlive the hours in between
            told.append(await _day_before(desk))
        confirmed = table(Appointment).update().values(status="confirmed")
        await services.db.write(lambda conn: conn.execute(confirmed))
        told.append(await _day_before(desk))
    assert told == [
        None,
        "Perguntada às 09:00, ainda sem resposta.",
        "Sem resposta: há uma tarefa aberta desde 16:00.",
        "Sem resposta: secretaria e gestão foram avisadas às 17:00.",
        None,
    ]


async def _day_before(desk: Browser) -> str | None:
    """What the agenda says about the day before of its only appointment; its summary counts the same."""
    page = await desk.client.get("/agenda?day=2026-11-25", headers={"accept": "text/html"})
    assert page.status_code == 200
    found = re.findall(r"(?:Perguntada às|Sem resposta:|Não perguntada|Ninguém pôde)[^<]*", page.text)
    assert ("perguntada na véspera, sem resposta" in page.text) is bool(found)
    return found[0] if found else None
