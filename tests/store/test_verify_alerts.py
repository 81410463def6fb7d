"""What `kora verify` finds about alerts: nothing in a real history, and every way of changing one row."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Connection, delete, insert, literal, select, update

from app.domain.envelopes import canonical_json
from app.store import alerts, nodes
from app.store.alert_ladder import climb_due
from app.store.bulk import insert_rows
from app.store.database import Database
from app.store.safe_mode import enter_overdue
from app.store.tables import AckRecord, Alert, AlertStep, ModeRow, SafeCause, SettingsDoc, table
from app.store.verify import verify
from app.store.verify.alerts import (
    acks_are_what_they_say,
    claims_take_turns,
    deadlines_are_in_force,
    ladders_are_whole,
    nothing_is_claimed_after_an_ack,
    passed_deadlines_entered_safe_mode,
    steps_are_not_forgotten,
)
from tests import builders
from tests.builders import NOON

ALERT, STEP, RECORD, MODE, CAUSE = (table(t) for t in (Alert, AlertStep, AckRecord, ModeRow, SafeCause))


def history(conn: Connection) -> None:
    """Acknowledged in time, too late and with an SLA; climbed in severity; passed on; resolved; open; a storm of two."""
    builders.tenant(conn, tenant_id="ten-sol")
    people = canonical_json({"channels": {"superadmin_whatsapp": ["simulator:ana", "simulator:bia"]}})
    shared = {"scope": "global", "version": 1, "data_json": people, "updated_at": NOON, "updated_by": "system:test"}
    insert_rows(conn, table(SettingsDoc), [shared])

    def open_one(key: str, minute: float = 0, severity: str = "critical", tenant_id: str | None = "ten-sol") -> str:
        return alerts.raise_alert(
            conn,
            tenant_id=tenant_id,
            trigger=key.rstrip("2"),
            severity=severity,
            summary=key,
            dedup_key=key,
            correlation_id=None,
            now=NOON + timedelta(minutes=minute),
        ).alert_id

    def ack(alert_id: str, minute: float, by: str = "user:ana") -> None:
        alerts.acknowledge(conn, alert_id, by=by, how="api", now=NOON + timedelta(minutes=minute))

    in_time, late, sla = open_one("in-time"), open_one("late"), open_one("sla", severity="high", tenant_id=None)
    worse = open_one("worse", severity="warning")
    ack(worse, 1)
    open_one("worse", 2)
    passed, over = open_one("passed"), open_one("over")
    open_one("open", 3, tenant_id=None)
    open_one("storm"), open_one("storm2", 0.5)
    alerts.pass_on(conn, passed, by="recipient:ops", how="link", now=NOON, recipient="ops")
    ack(in_time, 4)
    ack(in_time, 5, by="user:bia")
    ack(sla, 5)
    alerts.resolve(conn, over, by="user:ana", now=NOON + timedelta(minutes=6))
    climb_due(conn, NOON + timedelta(minutes=16))
    ack(late, 17)
    enter_overdue(conn, "ten-sol", NOON + timedelta(minutes=17))
    nodes.beat(conn, "n1", "database", "{}", NOON + timedelta(minutes=17))


@pytest.fixture
async def told(db: Database) -> Database:
    await db.write(history)
    return db


async def test_a_real_history_of_alerts_has_no_violation(told: Database) -> None:
    assert await told.read(verify) == []


CHANGES: dict[str, tuple[str, Callable[[Connection], object]]] = {
    "an ACK without its record": ("alert_ack", lambda conn: conn.execute(delete(RECORD).where(RECORD.c.effective))),
    "an ACK without its moment": (
        "alert_ack",
        lambda conn: conn.execute(update(ALERT).where(ALERT.c.status == "acknowledged").values(acked_at=None)),
    ),
    "a late ACK that says it was in time": (
        "alert_ack",
        lambda conn: conn.execute(update(ALERT).where(ALERT.c.dedup_key == "late").values(result="ack_received")),
    ),
    "an ACK in time that says it was late": (
        "alert_ack",
        lambda conn: conn.execute(update(ALERT).where(ALERT.c.dedup_key == "in-time").values(result="ack_timeout_escalated")),
    ),
    "an open alert that says it was acknowledged": (
        "alert_ack",
        lambda conn: conn.execute(update(ALERT).where(ALERT.c.dedup_key == "open").values(result="ack_received")),
    ),
    "an ACK in time of an alert that safe mode began by": (
        "alert_ack",
        lambda conn: conn.execute(
            insert(CAUSE).from_select(
                ["episode_id", "cause_id", "kind", "summary", "at", "by"],
                select(literal("e"), ALERT.c.alert_id, literal("alert"), literal("s"), ALERT.c.safe_mode_at, literal("b")).where(
                    ALERT.c.dedup_key == "in-time"
                ),
            )
        ),
    ),
    "a message claimed after the ACK": (
        "alert_step_after_ack",
        lambda conn: conn.execute(update(STEP).where(STEP.c.n == 7).values(begun_at=NOON + timedelta(hours=1))),
    ),
    "a message that still waits after the ACK": (
        "alert_step_after_ack",
        lambda conn: conn.execute(update(STEP).where(STEP.c.n == 7).values(done_at=None, outcome=None)),
    ),
    "a ladder without a rung": (
        "alert_ladder",
        lambda conn: conn.execute(delete(STEP).where(STEP.c.step_key == "raise_high")),
    ),
    "a ladder that reaches one person only": (
        "alert_ladder",
        lambda conn: conn.execute(delete(STEP).where(STEP.c.recipient == "superadmin_whatsapp:2", STEP.c.n == 5)),
    ),
    "a rung that is done in silence": (
        "alert_ladder",
        lambda conn: conn.execute(update(STEP).where(STEP.c.outcome == "stopped").values(outcome=None)),
    ),
    "a deadline that is not in force": (
        "alert_deadline",
        lambda conn: conn.execute(update(MODE).values(safe_deadline=None)),
    ),
    "a deadline that was put off": (
        "alert_deadline",
        lambda conn: conn.execute(update(MODE).values(safe_deadline=NOON + timedelta(hours=3))),
    ),
    "a rung that a living node forgot": (
        "alert_step_overdue",
        lambda conn: nodes.beat(conn, "n1", "database", "{}", NOON + timedelta(minutes=25)),
    ),
    "a message claimed more often than leases fit in": (
        "alert_step_tries",
        lambda conn: conn.execute(update(STEP).where(STEP.c.n == 7).values(tries=3, begun_at=STEP.c.due_at)),
    ),
    "a moment of safe mode that is not the ladder's": (
        "alert_safe_mode",
        lambda conn: conn.execute(update(ALERT).where(ALERT.c.dedup_key == "in-time").values(safe_mode_at=NOON)),
    ),
    "a deadline that passed and no episode, though it was taken on later": ("alert_safe_mode", lambda conn: _forget(conn, "late")),
    "an episode that begins later than the deadline": (
        "alert_safe_mode",
        lambda conn: conn.execute(update(CAUSE).where(CAUSE.c.kind == "alert").values(at=NOON + timedelta(minutes=16))),
    ),
}


def _forget(conn: Connection, key: str) -> None:
    """The episode does not know the alert; a node lived on for long enough to have written it."""
    alert_id = conn.execute(select(ALERT.c.alert_id).where(ALERT.c.dedup_key == key)).scalar_one()
    conn.execute(delete(CAUSE).where(CAUSE.c.cause_id == alert_id))
    nodes.beat(conn, "n1", "database", "{}", NOON + timedelta(minutes=25))


CHECKS = (
    acks_are_what_they_say,
    nothing_is_claimed_after_an_ack,
    ladders_are_whole,
    steps_are_not_forgotten,
    claims_take_turns,
    deadlines_are_in_force,
    passed_deadlines_entered_safe_mode,
)


@pytest.mark.parametrize("what", CHANGES)
async def test_one_change_is_found(told: Database, what: str) -> None:
    code, change = CHANGES[what]

    def tamper(conn: Connection) -> set[str]:
        change(conn)
        return {violation.code for check in CHECKS for violation in check(conn)}

    assert code in await told.write(tamper)
