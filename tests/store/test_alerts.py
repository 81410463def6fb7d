"""Alerts in the database: raised once, climbed, acknowledged with one effect, and the deadline of their scope."""

import asyncio
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Row, select, text, update

from app.domain.envelopes import canonical_json
from app.errors import Conflict, NotFound
from app.store import alerts
from app.store.alert_ladder import ladder
from app.store.alerts import Acknowledged, Raised, raise_alert
from app.store.bulk import insert_rows
from app.store.database import Database
from app.store.safe_deadline import lock_mode
from app.store.safe_mode import enter_overdue
from app.store.tables import AckRecord, Alert, AlertStep, AuditEntry, EventLog, ModeRow, SettingsDoc, Ticket, table
from app.store.verify import verify
from tests import builders
from tests.builders import NOON

ALERT, STEP, ACK, MODE = table(Alert), table(AlertStep), table(AckRecord), table(ModeRow)
TENANT = "ten-sol"


def minutes(count: float) -> datetime:
    return NOON + timedelta(minutes=count)


async def open_one(db: Database, at: float = 0, **fields: Any) -> Raised:
    given: dict[str, Any] = {
        "tenant_id": TENANT,
        "trigger": "n8n_down",
        "severity": "critical",
        "summary": "n8n does not answer",
        "dedup_key": "n8n-1",
        "correlation_id": "corr-1",
        "now": minutes(at),
    }
    return await db.write(lambda conn: raise_alert(conn, **{**given, **fields}))


async def ack(db: Database, alert_id: str, at: float, by: str = "user:ana", **options: Any) -> Acknowledged:
    now = minutes(at)
    return await db.write(lambda conn: alerts.acknowledge(conn, alert_id, by=by, how="console", now=now, **options))


async def alert_row(db: Database, alert_id: str) -> Row[Any]:
    return await db.read(lambda conn: conn.execute(select(ALERT).where(ALERT.c.alert_id == alert_id)).one())


async def step_rows(db: Database, alert_id: str) -> list[Row[Any]]:
    query = select(STEP).where(STEP.c.alert_id == alert_id).order_by(STEP.c.due_at, STEP.c.step_key)
    return await db.read(lambda conn: list(conn.execute(query)))


async def deadline(db: Database, scope: str = TENANT) -> datetime | None:
    found: datetime | None = await db.read(
        lambda conn: conn.execute(select(MODE.c.safe_deadline).where(MODE.c.scope == scope)).scalar()
    )
    return found


@pytest.fixture(autouse=True)
async def clinic(db: Database) -> None:
    await db.write(lambda conn: builders.tenant(conn, tenant_id=TENANT))


# --- raising ------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-001")
async def test_a_critical_alert_brings_its_whole_ladder_and_the_deadline(db: Database) -> None:
    raised = await open_one(db)
    assert (raised.fresh, raised.safe_mode_at, await deadline(db)) == (True, minutes(15), minutes(15))
    steps = await step_rows(db, raised.alert_id)
    whatsapp = [(s.n, s.due_at) for s in steps if s.channel == "superadmin_whatsapp"]
    assert whatsapp == [(n + 1, minutes(5 * n)) for n in range(7)]
    assert [(s.n, s.due_at) for s in steps if s.channel == "ops"] == [(1, NOON)]
    states = [(s.action, s.due_at) for s in steps if s.action != "send"]
    assert states == [("raise_warning", minutes(5)), ("raise_high", minutes(10)), ("enter_safe_mode", minutes(15))]

    def traces(conn: Connection) -> tuple[list[str], set[str]]:
        audit, events = table(AuditEntry), table(EventLog)
        topics = {r.topic for r in conn.execute(select(events).where(events.c.tenant_id == TENANT))}
        return [r.action for r in conn.execute(select(audit))], topics

    assert await db.read(traces) == (["alert.raise"], {"alerts", "safe_mode"})


async def test_an_alert_of_the_installation_sets_the_global_deadline(db: Database) -> None:
    await open_one(db, tenant_id=None)
    assert (await deadline(db, "global"), await deadline(db)) == (minutes(15), None)


async def test_the_same_key_counts_up_and_changes_nothing_else(db: Database) -> None:
    first = await open_one(db)
    again = await open_one(db, 3)
    row = await alert_row(db, first.alert_id)
    assert (again.alert_id, again.fresh, again.safe_mode_at) == (first.alert_id, False, minutes(15))
    assert (row.seen_count, row.last_seen_at, row.raised_at) == (2, minutes(3), NOON)
    assert len(await step_rows(db, first.alert_id)) == 11
    elsewhere = await open_one(db, 3, tenant_id=None)
    assert elsewhere.alert_id != first.alert_id


async def test_many_who_raise_at_once_raise_one(db: Database) -> None:
    raised = await asyncio.gather(*(open_one(db) for _ in range(8)))
    assert len({r.alert_id for r in raised}) == 1
    assert sum(r.fresh for r in raised) == 1
    assert (await alert_row(db, raised[0].alert_id)).seen_count == 8


async def test_a_rise_to_critical_starts_the_critical_ladder_from_then(db: Database) -> None:
    first = await open_one(db, severity="warning")
    assert first.safe_mode_at is None
    await ack(db, first.alert_id, 1)
    worse = await open_one(db, 20, severity="critical")
    assert (worse.fresh, worse.safe_mode_at, await deadline(db)) == (True, minutes(35), minutes(35))
    old, row = await alert_row(db, first.alert_id), await alert_row(db, worse.alert_id)
    assert (old.status, old.resolved_by, old.acked_at) == ("resolved", "system:alerts", minutes(1))
    assert (row.status, row.severity, row.acked_at, row.raised_at) == ("open", "critical", None, minutes(20))
    open_steps = [s for s in await step_rows(db, worse.alert_id) if s.done_at is None]
    assert min(s.due_at for s in open_steps) == minutes(20)
    assert len(open_steps) == 11
    milder = await open_one(db, 21, severity="warning")
    assert (milder.alert_id, milder.fresh) == (worse.alert_id, False)


async def test_after_a_rise_the_same_people_pass_on_and_acknowledge_anew(db: Database) -> None:
    me = "recipient:superadmin_whatsapp"

    async def pass_on(alert_id: str, at: float) -> str | None:
        done = await db.write(
            lambda conn: alerts.pass_on(
                conn, alert_id, by=me, how="link", now=minutes(at), recipient="superadmin_whatsapp", step_id=None
            )
        )
        return done.recipient

    mild = await open_one(db, severity="high")
    assert await pass_on(mild.alert_id, 1) is not None
    await ack(db, mild.alert_id, 2, by=me)
    worse = await open_one(db, 3)
    assert await pass_on(worse.alert_id, 4) == "ops"
    assert [s.recipient for s in await step_rows(db, worse.alert_id) if s.step_key.startswith("pass_on:")] == ["ops"]
    done = await ack(db, worse.alert_id, 5, by=me)
    assert (done.effective, done.in_time, done.row.ack_delay_s) == (True, True, 120.0)
    records = await db.read(lambda conn: conn.execute(select(ACK).order_by(ACK.c.at)).all())
    assert [(r.alert_id == worse.alert_id, r.kind, r.effective) for r in records] == [
        (False, "pass_on", True),
        (False, "ack", True),
        (True, "pass_on", True),
        (True, "ack", True),
    ]
    assert await db.read(verify) == []


async def test_becoming_worse_is_no_flapping(db: Database) -> None:
    for severity, at in (("warning", 0), ("high", 1), ("critical", 2)):
        await open_one(db, at, severity=severity)
    ended = await db.write(
        lambda conn: alerts.resolve_by_key(conn, tenant_id=TENANT, dedup_key="n8n-1", by="key:prometheus", now=minutes(3))
    )
    assert ended is not None
    assert (ended.status, await deadline(db)) == ("resolved", None)


@pytest.mark.story("S-PC-03-001")
async def test_an_acknowledged_alert_that_rested_is_a_new_one_when_it_comes_back(db: Database) -> None:
    first = await open_one(db)
    await ack(db, first.alert_id, 2)
    for at in (20, 50):  # each within half an hour of the one before
        assert not (await open_one(db, at)).fresh
    later = await open_one(db, 80.1)
    assert (later.fresh, later.safe_mode_at, await deadline(db)) == (True, minutes(95.1), minutes(95.1))
    assert len([s for s in await step_rows(db, later.alert_id) if s.done_at is None]) == 11
    old = await alert_row(db, first.alert_id)
    assert (old.status, old.resolved_by, old.seen_count) == ("resolved", "system:alerts", 3)
    assert await db.read(verify) == []


async def test_an_ack_is_not_forgotten_because_the_alert_was_seen_long_before_it(db: Database) -> None:
    first = await open_one(db)
    await ack(db, first.alert_id, 40)
    assert not (await open_one(db, 41)).fresh


async def test_an_escalated_alert_is_heard_again_and_an_open_critical_one_is_still_the_same(db: Database) -> None:
    await open_one(db, severity="high", dedup_key="mild")
    critical = await open_one(db)
    await db.write(alerts.climb_due, minutes(40))
    await db.write(lambda conn: conn.execute(update(STEP).values(done_at=minutes(30), outcome="sent")))
    assert (await open_one(db, 60, severity="high", dedup_key="mild")).fresh
    again = await open_one(db, 60)
    assert (again.alert_id, again.fresh) == (critical.alert_id, False)


async def test_an_operational_alert_is_routed_by_its_trigger(db: Database) -> None:
    raised = await open_one(db, severity="high", trigger="takeover")
    steps = await step_rows(db, raised.alert_id)
    assert [(s.action, s.channel, s.due_at) for s in steps if s.due_at == NOON] == [("send", "ops_chat", NOON)]
    assert {(s.action, s.channel) for s in steps if s.due_at == minutes(10)} == {
        ("escalate", ""),
        ("send", "superadmin_whatsapp"),
    }
    assert (raised.safe_mode_at, await deadline(db)) == (None, None)
    assert (await alert_row(db, raised.alert_id)).owner == "sre"


async def test_the_policy_of_the_moment_is_copied_onto_the_alert(db: Database) -> None:
    def routing(conn: Connection, channels: list[str]) -> None:
        data = canonical_json({"routing": {"critical": {"channels": channels, "owner": "ops"}}})
        values = {"data_json": data, "updated_at": NOON, "updated_by": "user:ana"}
        found = conn.execute(update(table(SettingsDoc)).where(table(SettingsDoc).c.scope == TENANT).values(**values))
        if not found.rowcount:
            insert_rows(conn, table(SettingsDoc), [{"scope": TENANT, "version": 1, **values}])

    await db.write(routing, ["sirene", "superadmin_whatsapp", "email"])
    raised = await open_one(db)
    await db.write(routing, ["ops"])
    row = await alert_row(db, raised.alert_id)
    assert {s.channel for s in await step_rows(db, raised.alert_id)} == {"", "sirene", "superadmin_whatsapp", "email"}
    assert ([s.channel for s in ladder(row) if s.minute == 0], row.owner) == (
        ["sirene", "superadmin_whatsapp", "email"],
        "ops",
    )


# --- ACK ----------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-001")
async def test_an_ack_one_second_before_the_deadline_keeps_safe_mode_away(db: Database) -> None:
    raised = await open_one(db)
    done = await ack(db, raised.alert_id, 15 - 1 / 60)
    assert (done.effective, done.in_time, done.row.result, done.row.status) == (True, True, "ack_received", "acknowledged")
    assert (done.row.level, done.row.ack_delay_s, await deadline(db)) == ("high", 899.0, None)
    outcomes = {s.step_key: s.outcome for s in await step_rows(db, raised.alert_id)}
    assert (outcomes["raise_warning"], outcomes["raise_high"], outcomes["enter_safe_mode"]) == ("done", "done", "stopped")
    assert {outcomes[f"send:superadmin_whatsapp:{n}"] for n in range(1, 8)} == {"stopped"}


@pytest.mark.story("S-PC-03-002")
async def test_an_ack_exactly_at_the_deadline_lifts_nothing(db: Database) -> None:
    raised = await open_one(db)
    done = await ack(db, raised.alert_id, 15)
    assert (done.effective, done.in_time, done.row.result) == (True, False, "ack_timeout_escalated")
    assert (done.row.level, done.row.status, await deadline(db)) == ("safe_mode", "acknowledged", minutes(15))


async def test_the_deadline_is_that_of_the_earliest_alert_still_open(db: Database) -> None:
    first = await open_one(db)
    second = await open_one(db, 4, dedup_key="redis-1")
    assert await deadline(db) == minutes(15)
    await ack(db, first.alert_id, 6)
    assert await deadline(db) == minutes(19)
    await ack(db, second.alert_id, 7)
    assert await deadline(db) is None


async def test_a_deadline_that_passed_holds_whatever_is_acknowledged_later(db: Database) -> None:
    first = await open_one(db)
    later = await open_one(db, 10, dedup_key="redis-1")
    assert (await ack(db, later.alert_id, 16)).in_time
    assert await deadline(db) == minutes(15)
    await ack(db, first.alert_id, 17)
    assert await deadline(db) == minutes(15)
    assert await db.write(alerts.reset_deadline, TENANT, minutes(40)) is None
    assert await deadline(db) is None


@pytest.mark.story("S-PC-03-001")
async def test_two_simultaneous_acks_leave_a_record_each_and_one_effect(db: Database) -> None:
    raised = await open_one(db)
    done = await asyncio.gather(*(ack(db, raised.alert_id, 2, by=f"user:{name}") for name in ("ana", "bia")))
    assert sorted(d.effective for d in done) == [False, True]
    again = await ack(db, raised.alert_id, 3, by="user:ana")
    assert not again.effective
    records = await db.read(lambda conn: conn.execute(select(ACK).order_by(ACK.c.by)).all())
    assert [(r.by, r.kind) for r in records] == [("user:ana", "ack"), ("user:bia", "ack")]
    assert sum(r.effective for r in records) == 1
    trail = await db.read(lambda conn: [r.action for r in conn.execute(select(table(AuditEntry)))])
    assert trail.count("alert.ack") == 1


async def test_an_ack_of_an_outdated_view_is_refused_unless_somebody_else_was_faster(db: Database) -> None:
    raised = await open_one(db)
    seen = (await alert_row(db, raised.alert_id)).rev
    await open_one(db, 1)
    with pytest.raises(Conflict):
        await ack(db, raised.alert_id, 2, rev=seen)
    await ack(db, raised.alert_id, 2, rev=seen + 1)
    assert not (await ack(db, raised.alert_id, 2, by="user:bia", rev=seen)).effective
    with pytest.raises(NotFound):
        await ack(db, "none", 2)


@pytest.mark.story("S-PC-04-002")
async def test_an_operational_alert_has_its_sla(db: Database) -> None:
    kinds = [await open_one(db, severity="high", trigger="takeover", dedup_key=f"t-{i}", tenant_id=None) for i in range(3)]
    assert (await ack(db, kinds[0].alert_id, 10)).row.result == "alert_fired_acknowledged"
    climbed = await db.write(alerts.climb_due, minutes(10))
    assert climbed == []
    climbed = await db.write(alerts.climb_due, minutes(11))
    assert [(row.alert_id, actions) for row, actions in climbed] == [(k.alert_id, ["escalate"]) for k in kinds[1:]]
    row = await alert_row(db, kinds[1].alert_id)
    assert (row.level, row.result) == ("escalated", "alert_fired_no_ack_escalated")
    assert (await ack(db, kinds[1].alert_id, 12)).row.result == "alert_fired_no_ack_escalated"


@pytest.mark.story("S-PC-04-002")
@pytest.mark.parametrize("tenant_id", [TENANT, None])
async def test_an_escalated_alert_is_an_incident_that_ends_with_it(db: Database, tenant_id: str | None) -> None:
    raised = await open_one(db, severity="high", trigger="takeover", tenant_id=tenant_id)

    async def incident() -> Row[Any] | None:
        return await db.read(lambda conn: conn.execute(select(table(Ticket))).one_or_none())

    await db.write(alerts.climb_due, minutes(10))
    assert await incident() is None
    for at in (10.5, 11):
        await db.write(alerts.climb_due, minutes(at))
    opened = await incident()
    assert opened is not None
    assert (opened.tenant_id, opened.kind, opened.state) == (tenant_id or "global", "critical", "open")
    assert (opened.cause_id, opened.opened_at, opened.correlation_id) == (raised.alert_id, minutes(10.5), "corr-1")
    await ack(db, raised.alert_id, 12)
    taken = await incident()
    assert taken is not None
    assert (taken.state, taken.owner) == ("in_progress", "user:ana")
    await db.write(lambda conn: alerts.resolve(conn, raised.alert_id, by="user:ana", now=minutes(13), reason="fixed"))
    closed = await incident()
    assert closed is not None
    assert (closed.state, closed.closed_at, closed.close_reason) == ("resolved", minutes(13), "fixed")


# --- climbing -----------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-001")
async def test_levels_come_at_five_ten_and_fifteen_and_late_ones_say_so(db: Database) -> None:
    raised = await open_one(db)
    seen = []
    for at in (4.9, 5, 10, 15):
        await db.write(alerts.climb_due, minutes(at))
        row = await alert_row(db, raised.alert_id)
        seen.append((row.level, row.result))
    assert seen == [("raised", None), ("warning", None), ("high", None), ("safe_mode", "ack_timeout_escalated")]
    other = await open_one(db, 20, dedup_key="redis-1")
    await db.write(alerts.climb_due, minutes(50))
    states = [s for s in await step_rows(db, other.alert_id) if s.action != "send"]
    assert [(s.outcome, s.late) for s in states] == [("done", True)] * 3
    assert (await alert_row(db, other.alert_id)).level == "safe_mode"


# --- passing on, resolving ----------------------------------------------------------------------------------------------


async def test_passing_on_tells_the_next_recipient_and_is_no_ack(db: Database) -> None:
    raised = await open_one(db)
    me = "recipient:superadmin_whatsapp"

    async def pass_on(by: str) -> str | None:
        done = await db.write(
            lambda conn: alerts.pass_on(
                conn, raised.alert_id, by=by, how="link", now=minutes(1), recipient=by.removeprefix("recipient:")
            )
        )
        return done.recipient

    assert [await pass_on(me), await pass_on(me)] == ["ops", "ops"]
    assert [await pass_on("recipient:ops"), await pass_on("recipient:superadmin_sms")] == ["superadmin_sms", None]
    row = await alert_row(db, raised.alert_id)
    assert (row.status, row.acked_at, await deadline(db)) == ("open", None, minutes(15))
    told = [(s.channel, s.due_at) for s in await step_rows(db, raised.alert_id) if s.step_key.startswith("pass_on:")]
    assert told == [("ops", minutes(1)), ("superadmin_sms", minutes(1))]
    await ack(db, raised.alert_id, 2)
    assert await pass_on("recipient:other") is None


async def test_resolving_ends_the_messages_and_in_time_the_deadline(db: Database) -> None:
    raised = await open_one(db)
    row = await db.write(lambda conn: alerts.resolve(conn, raised.alert_id, by="user:ana", now=minutes(6), reason="fixed"))
    assert (row.status, row.result, row.acked_at, row.level, await deadline(db)) == ("resolved", None, None, "warning", None)
    assert all(s.done_at is not None for s in await step_rows(db, raised.alert_id))
    again = await open_one(db, 7)
    assert again.fresh
    assert again.alert_id != raised.alert_id


async def test_resolving_after_the_deadline_lifts_nothing_and_can_still_be_acknowledged(db: Database) -> None:
    raised = await open_one(db)
    row = await db.write(lambda conn: alerts.resolve(conn, raised.alert_id, by="user:ana", now=minutes(15)))
    assert (row.result, row.level, await deadline(db)) == ("ack_timeout_escalated", "safe_mode", minutes(15))
    done = await ack(db, raised.alert_id, 16)
    assert (done.effective, done.in_time, done.row.status) == (True, False, "resolved")
    assert done.row.acked_at == minutes(16)


async def test_an_alert_that_flaps_stays_open_quietly_until_it_rests(db: Database) -> None:
    async def end(at: float) -> Row[Any]:
        now = minutes(at)
        row = await db.write(
            lambda conn: alerts.resolve_by_key(conn, tenant_id=TENANT, dedup_key="n8n-1", by="key:prometheus", now=now)
        )
        assert row is not None
        return row

    await open_one(db)
    assert (await end(1)).status == "resolved"
    second = await open_one(db, 2)
    damped = await end(3)
    assert (damped.status, damped.ended_at, await deadline(db)) == ("open", minutes(3), minutes(17))
    back = await open_one(db, 4)
    assert (back.alert_id, back.fresh) == (second.alert_id, False)
    assert (await alert_row(db, second.alert_id)).ended_at is None
    assert (await end(5)).status == "open"
    assert await db.write(alerts.settle_flapping, minutes(19)) == []
    assert await db.write(alerts.settle_flapping, minutes(20)) == [second.alert_id]
    assert (await alert_row(db, second.alert_id)).status == "resolved"


# --- storms -------------------------------------------------------------------------------------------------------------


async def test_a_storm_of_one_kind_is_one_group_until_a_minute_passes_without_it(db: Database) -> None:
    first = await open_one(db)
    others = [await open_one(db, 0.9 * i, dedup_key=f"n8n-{i}") for i in range(2, 6)]
    kind = await open_one(db, 4, dedup_key="redis", trigger="redis_down")
    after = await open_one(db, 5.6, dedup_key="n8n-9")
    groups = {r.alert_id: (await alert_row(db, r.alert_id)).group_id for r in (first, *others, kind, after)}
    # 0 and 1.8 are more than a minute apart, the others are not
    assert [groups[o.alert_id] for o in others] == [others[0].alert_id] * 4
    assert {groups[first.alert_id], groups[kind.alert_id], groups[after.alert_id]} == {
        first.alert_id,
        kind.alert_id,
        after.alert_id,
    }
    assert (await alert_row(db, others[1].alert_id)).safe_mode_at == minutes(17.7)
    # who looked at minute 3 takes on what was there then
    done = await ack(db, others[0].alert_id, 5, whole_group=True, seen_until=minutes(3))
    assert (done.effective, done.others) == (True, 1)
    assert [(await alert_row(db, o.alert_id)).status for o in others] == ["acknowledged"] * 2 + ["open"] * 2
    # somebody took it on: what comes now is not left to a voice that was answered
    await ack(db, after.alert_id, 5.7)
    fresh = await open_one(db, 5.8, dedup_key="n8n-10")
    assert (await alert_row(db, fresh.alert_id)).group_id == fresh.alert_id


@pytest.mark.story("S-PC-03-001")
@pytest.mark.parametrize("severity", ["critical", "high"])
async def test_raises_at_the_same_moment_make_one_group_of_each_kind(db: Database, severity: str) -> None:
    await asyncio.gather(*(open_one(db, severity=severity, trigger=f"kind-{i % 3}", dedup_key=f"k-{i}") for i in range(30)))
    rows = await db.read(lambda conn: conn.execute(select(ALERT.c.trigger, ALERT.c.group_id).distinct()).all())
    assert sorted(r.trigger for r in rows) == ["kind-0", "kind-1", "kind-2"]


# --- the time of an act -------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-002")
@pytest.mark.parametrize("what", ["ack", "resolve"])
async def test_an_act_that_waits_for_the_entry_of_safe_mode_comes_after_it(db: Database, what: str) -> None:
    """The entry holds the mode at 15:00; the act was asked for before, and reads the clock when it has its turn."""
    raised = await open_one(db)
    clock = [minutes(14.99)]
    entered, begun = threading.Event(), threading.Event()

    def entry(conn: Connection) -> None:
        lock_mode(conn, TENANT)
        begun.set()
        if not db.is_sqlite:  # SQLite has one writer: the act begins only when the entry is over
            conn.execute(text("SELECT pg_sleep(0.3)"))
        clock[0] = minutes(15)
        assert enter_overdue(conn, TENANT, clock[0]) is not None
        entered.set()

    async def act() -> Row[Any]:
        await asyncio.to_thread(begun.wait, 10)
        now = lambda: clock[0]  # noqa: E731 - the clock of the act
        if what == "resolve":
            return await db.write(lambda conn: alerts.resolve(conn, raised.alert_id, by="user:ana", now=now))
        return (await db.write(lambda conn: alerts.acknowledge(conn, raised.alert_id, by="user:ana", how="link", now=now))).row

    _, row = await asyncio.gather(db.write(entry), act())
    assert entered.is_set()
    assert (row.level, row.result, await deadline(db)) == ("safe_mode", "ack_timeout_escalated", minutes(15))
    assert await db.read(verify) == []


async def test_a_node_whose_clock_is_behind_does_not_undo_a_deadline_that_passed(db: Database) -> None:
    raised = await open_one(db)
    await db.write(alerts.climb_due, minutes(15))
    done = await ack(db, raised.alert_id, 14.9)
    assert (done.in_time, done.row.result, done.row.level) == (False, "ack_timeout_escalated", "safe_mode")
