"""Day-before confirmations (F-03) on the manual clock: on their minute, none twice, none at night, answers through the gate."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DataError

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.d1 import D1
from app.store import d1
from app.store.bulk import insert_rows
from app.store.tables import Alert, AlertStep, Appointment, D1StepRow, Guardian, ManualTask, Outbox, table
from tests.web.api_client import CONTACT, PATIENT, THERAPIST, Api, open_api
from tests.web.conftest import Browser, add_person, app_over, browser_client, sign_in
from tests.web.safe_mode_driver import deliver

STEP, OUTBOX, TASK, ALERT = table(D1StepRow), table(Outbox), table(ManualTask), table(Alert)
APPOINTMENT, ALERT_STEP = table(Appointment), table(AlertStep)
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


def local(day: int, hour: int, minute: int = 0, *, zone: ZoneInfo = SAO_PAULO) -> datetime:
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


async def test_the_second_days_alert_is_told_where_the_evening_is_the_next_day_in_utc(api: Api) -> None:
    """In Rio Branco 19:00 is past midnight UTC: Wednesday evening and Thursday morning are two days, each with its alert."""
    zone = ZoneInfo("America/Rio_Branco")
    await api.put(f"/settings/{api.clinic.slug}", {"timezone": "America/Rio_Branco"})
    loop = D1(api.services.db, clock(api))
    await book(api, "a-wed", local(25, 19, zone=zone))
    await book(api, "a-thu", local(26, 9, zone=zone))
    await at(api, loop, local(24, 17, zone=zone))
    assert await told(api) == [("a-wed", "open", 1)]
    await at(api, loop, local(25, 17, zone=zone))
    assert sorted(await told(api)) == [("a-thu", "open", 1), ("a-wed", "open", 1), ("a-wed", "open", 1)]  # one: before opening


async def told(api: Api) -> list[tuple[str, str, int]]:
    """The alerts about unconfirmed appointments: which, their status, and how often they were raised."""

    def read(conn: Connection) -> list[Any]:
        mine = select(ALERT).where(ALERT.c.trigger == "day_before_unconfirmed").order_by(ALERT.c.raised_at, ALERT.c.dedup_key)
        return [(r.correlation_id.removeprefix("d1-"), r.status, r.seen_count) for r in conn.execute(mine)]

    return await api.services.db.read(read)


async def test_one_message_speaks_for_all_unconfirmed_appointments_and_reaches_secretary_and_manager(api: Api) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14))
    await book(api, "a-2", local(25, 15), therapist_id="t-2")
    await at(api, loop, local(24, 17))
    await api.services.alerts.tick()
    await api.services.alerts.close()

    def read(conn: Connection) -> tuple[list[str], set[str]]:
        steps = select(ALERT_STEP.c.channel).where(ALERT_STEP.c.outcome == "sent").order_by(ALERT_STEP.c.channel)
        return [*conn.execute(steps).scalars()], {r.owner for r in conn.execute(select(ALERT.c.owner))}

    channels, owners = await api.services.db.read(read)
    assert channels == ["manager", "ops_chat", "secretary"]
    assert owners == {"secretary,manager"}


async def test_a_secretary_sees_the_alert_and_is_led_to_the_tasks(api: Api, services: Services) -> None:
    person = await add_person(services, "secretary", [api.clinic.tenant_id])
    await book(api, "a-1", local(25, 14))
    await at(api, D1(services.db, clock(api)), local(24, 17))
    async with browser_client(app_over(services)) as opened:
        desk = await sign_in(services, opened, person)
        page = (await desk.client.get("/", headers={"accept": "text/html"})).text
    assert 'href="/manual">Consulta de quarta-feira, 25/11 às 14:00 sem confirmação' in page


@pytest.mark.parametrize(
    ("changed", "resolution"),
    [
        ({"status": "confirmed"}, "family_answered"),
        ({"status": "cancelled"}, "appointment_changed"),
        ({"start_at": local(27, 14), "end_at": local(27, 15)}, "appointment_changed"),
    ],
)
async def test_what_is_open_about_an_appointment_ends_when_nobody_needs_to_call(
    api: Api, changed: dict[str, Any], resolution: str
) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14))
    await book(api, "a-2", local(25, 15), therapist_id="t-2")
    await at(api, loop, local(24, 17))
    await api.services.db.write(
        lambda c: c.execute(update(APPOINTMENT).where(APPOINTMENT.c.appointment_id == "a-1").values(**changed))
    )
    await at(api, loop, local(24, 17, 1))
    assert await tasks_of(api) == {"a-1": ("resolved", resolution), "a-2": ("open", None)}
    assert await told(api) == [("a-1", "resolved", 1), ("a-2", "open", 1)]


async def test_a_task_that_somebody_has_taken_stays_with_them(api: Api) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14))
    await at(api, loop, local(24, 16))

    def change(conn: Connection) -> None:
        conn.execute(update(TASK).values(status="claimed", owner="user:rita"))
        conn.execute(update(APPOINTMENT).values(status="confirmed"))

    await api.services.db.write(change)
    await at(api, loop, local(24, 16, 1))
    assert await tasks_of(api) == {"a-1": ("claimed", None)}


async def tasks_of(api: Api) -> dict[str, tuple[str, str | None]]:
    def read(conn: Connection) -> Any:
        return {r.item_id: (r.status, r.resolution) for r in conn.execute(select(TASK))}

    return await api.services.db.read(read)


@pytest.mark.parametrize(("patient", "contact"), [(PATIENT, CONTACT), ("p-unverified", CONTACT), ("p-nobody", None)])
async def test_the_task_says_which_appointment_whose_and_whom_to_call(api: Api, patient: str, contact: str | None) -> None:
    await api.put("/patients/p-unverified", {"name": "Lia"})
    row = {"tenant_id": api.clinic.tenant_id, "patient_id": "p-unverified", "contact_id": CONTACT, "can_schedule": True}
    row |= {"can_cancel": False, "is_primary": True, "granted_by": "system:test", "reason": "cadastro", "updated_at": api.now}
    await api.services.db.write(insert_rows, table(Guardian), [row])
    await book(api, "a-1", local(25, 14), patient_id=patient)
    await at(api, D1(api.services.db, clock(api)), local(24, 16))
    (listed,) = (await api.get("/manual-tasks"))["items"]
    task = await api.get(f"/manual-tasks/{listed['task_id']}")
    assert (task["patient_id"], task["contact_id"]) == (patient, contact)
    assert (task["appointment"]["appointment_id"], task["appointment"]["start_at"]) == ("a-1", "2026-11-25T17:00:00Z")
    assert task["can_apply"] is False


async def test_a_visit_that_began_while_nobody_looked_has_its_steps_written_down_as_missed(api: Api) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14))
    await at(api, loop, local(25, 15), local(25, 16))
    assert {(action, outcome) for _, action, _, outcome, _ in await steps(api)} == {
        (action, "missed") for action in ("ask_family", "open_task", "alert_staff", "notify_opening")
    }
    assert await told(api) == []
    assert await tasks_of(api) == {}


async def test_a_question_that_could_not_be_sent_by_day_is_not_sent_at_night_and_the_agenda_says_so(api: Api) -> None:
    loop = D1(api.services.db, clock(api))
    await book(api, "a-1", local(25, 14))
    await at(api, loop, local(24, 9))  # asked, and then the node is gone
    clock(api).set(local(25, 2))
    await deliver(api)
    await loop.tick()
    assert await count(api, OUTBOX, OUTBOX.c.step == "ask", OUTBOX.c.status == "failed", OUTBOX.c.sent_at.is_(None)) == 1
    assert next((action, outcome) for _, action, _, outcome, _ in await steps(api)) == ("ask_family", "missed")
    assert await tasks_of(api) == {"a-1": ("open", None)}


async def test_one_appointment_that_the_database_refuses_takes_nothing_from_the_others(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(conn: Connection, of: d1.Unanswered, *args: Any, **kwargs: Any) -> str | None:
        if of.appointment_id == "a-bad":
            raise DataError("INSERT INTO d1_step ...", {}, Exception("value too long for type character varying(200)"))
        return honest(conn, of, *args, **kwargs)

    honest = d1.run
    monkeypatch.setattr(d1, "run", run)
    for n, name in enumerate(("a-1", "a-bad", "a-2")):
        await book(api, name, local(25, 13 + n))
    await at(api, D1(api.services.db, clock(api)), local(24, 9))
    assert sorted(name for name, *_ in await steps(api)) == ["a-1", "a-2"]


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
    async with browser_client(app_over(services)) as opened:
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
