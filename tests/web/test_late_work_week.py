"""A week with a change of the clocks on a manual clock: the day before, the SLA of takeovers and the outbox, on their minute.

Santiago goes to summer time in the night to Sunday, 6 September 2026: that day begins at 01:00. The clinic opens on Saturday and on
Sunday too, so the week has work on both sides of it.
"""

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import Connection, insert, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.d1 import D1
from app.engine.outbox import OutboxLoop, OutboxPolicy
from app.engine.takeover import Takeovers
from app.store.bulk import insert_rows
from app.store.outbox import backlog
from app.store.tables import Alert, Appointment, AuditEntry, D1StepRow, Outbox, Ticket, table
from tests.web.api_client import PATIENT, THERAPIST, Api, open_api

ZONE = ZoneInfo("America/Santiago")
FIRST, DAYS = date(2026, 9, 3), 7
CLOSES = time(18)
VISIT_AT, ASKS_AT = time(15), time(17, 50)
STEP_MIN = 60


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite: what is shown here is the clock's, not the database's."""
    return sqlite_url


def at(day: date, moment: time) -> datetime:
    return datetime.combine(day, moment, tzinfo=ZONE).astimezone(UTC)


def expected() -> dict[str, list[datetime]]:
    """Every moment of the week at which a step is due."""
    days = [FIRST + timedelta(days=n) for n in range(DAYS)]
    before = [day - timedelta(days=1) for day in days]
    return {
        "ask_family": [at(day, time(9)) for day in before],
        "open_task": [at(day, time(16)) for day in before],
        "alert_staff": [at(day, time(17)) for day in before],
        "notify_opening": [at(day, time(8, 30)) for day in days],
        # a family asks for a person ten minutes before closing: five minutes are left for the next morning
        "sla_warning": [at(day, CLOSES) for day in days],
        "sla_breached": [at(day + timedelta(days=1), time(9, 5)) for day in days],
        "escalated": [at(day + timedelta(days=1), time(9, 20)) for day in days],
    }


async def furnish(api: Api) -> None:
    hours = {day: [["09:00", "18:00"]] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")}
    await api.put(f"/settings/{api.clinic.slug}", {"timezone": "America/Santiago", "hours": hours, "national_holidays": ""})
    visits = [
        {
            "tenant_id": api.clinic.tenant_id,
            "appointment_id": f"a-{n}",
            "patient_id": PATIENT,
            "therapist_id": THERAPIST,
            "start_at": at(FIRST + timedelta(days=n), VISIT_AT),
            "end_at": at(FIRST + timedelta(days=n), VISIT_AT) + timedelta(minutes=50),
            "status": "scheduled",
            "version": 1,
            "as_of": datetime(2026, 8, 1, tzinfo=UTC),
        }
        for n in range(DAYS)
    ]
    tickets = [
        {
            "ticket_id": f"t-{n}",
            "tenant_id": api.clinic.tenant_id,
            "kind": "takeover",
            "state": "open",
            "contact_id": f"c-{n}",
            "reason": "family_request",
            "opened_at": at(FIRST + timedelta(days=n), ASKS_AT),
            "correlation_id": f"corr-{n}",
        }
        for n in range(DAYS)
    ]
    await api.services.db.write(insert_rows, table(Appointment), visits)
    await api.services.db.write(lambda conn: conn.execute(insert(table(Ticket)), tickets))


async def test_every_step_of_the_week_is_on_its_minute_once_and_never_at_night(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock
) -> None:
    begins, ends = at(FIRST - timedelta(days=1), time(0, 30)), at(FIRST + timedelta(days=DAYS), time(10))
    manual_clock.set(begins)
    api = await open_api(services, client)
    await furnish(api)
    outbox = OutboxLoop(services.db, manual_clock, services.channels, services.metrics, policy=OutboxPolicy(linger_s=0.0))
    loops: list[D1 | Takeovers] = [
        D1(services.db, manual_clock),
        D1(services.db, manual_clock),
        Takeovers(services.db, manual_clock),
    ]
    steps = expected()
    due = {moment for moments in steps.values() for moment in moments}
    minutes = {begins + timedelta(minutes=n) for n in range(0, int((ends - begins).total_seconds() // 60), STEP_MIN)}
    around = {moment + timedelta(minutes=n) for moment in due for n in (-1, 0, 1)}
    for minute in sorted(minutes | around):  # a minute before, on and after each step, and through the nights
        manual_clock.set(minute)
        for loop in loops:
            await loop.tick()
        while (await services.db.read(backlog)).count:
            await outbox.tick()
    await outbox.close()
    done = await services.db.read(what_happened)
    assert done == {name: sorted(moments) for name, moments in steps.items()}
    sent = await services.db.read(lambda conn: list(conn.execute(select(table(Outbox))).all()))
    asked = [row for row in sent if row.step == "ask"]
    assert [row.status for row in asked] == ["sent"] * DAYS
    assert sorted(row.sent_at for row in asked) == sorted(steps["ask_family"])
    assert all(time(8) <= row.sent_at.astimezone(ZONE).time() < time(20) for row in sent if row.contact_id)
    assert {(a - b) for a, b in zip(steps["ask_family"][1:], steps["ask_family"], strict=False)} == {
        timedelta(hours=24),
        timedelta(hours=23),
    }, "the week has a day of 23 hours"


def what_happened(conn: Connection) -> dict[str, list[datetime]]:
    """When each step was taken; a step that happened twice is in the list twice."""
    found: dict[str, list[datetime]] = {}
    for row in conn.execute(select(table(D1StepRow))):
        assert (row.outcome, row.late) == ("done", False)
        found.setdefault(row.action, []).append(row.done_at)
    names = {"takeover_sla_warning": "sla_warning", "takeover_sla": "sla_breached", "takeover_sla_escalated": "escalated"}
    told = Counter[str]()
    for row in conn.execute(select(table(Alert)).where(table(Alert).c.trigger.in_(names))):
        assert row.seen_count == 1
        found.setdefault(names[row.trigger], []).append(row.raised_at)
        told[row.trigger] += 1
    assert set(told.values()) == {DAYS}
    written = conn.execute(select(table(AuditEntry)).where(table(AuditEntry).c.action == "takeover_sla"))
    assert len(written.all()) == 3 * DAYS
    return {name: sorted(moments) for name, moments in found.items()}
