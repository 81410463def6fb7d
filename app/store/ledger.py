"""The effect's transaction: state, effect, ledger, outbox and stream event, all or nothing.

`apply` takes lane plans that were decided from one read and compares again everything they were decided on. The
compare-and-set on the lane row (`last_committed`, versions, takeover, pause) is what makes an effect happen once and in
order; locks appear nowhere in the argument. A lane that lost a race is left out and nothing happens to it. A conflict on an
agenda entity raises `LostRace`: the whole transaction is rolled back and the caller goes on without those lanes.

Time is read inside the transaction, once its mode rows are locked, and again before it ends: a transaction that waited is
judged, and dated, by when it really happened. What came too late by then is left out and decided again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, text

from app.domain.facts import Mode, OpenTakeover
from app.domain.reasons import Reason
from app.domain.states import EFFECT_RESULTS, SENSITIVE
from app.store.bulk import Bundle, encode, insert_rows, joined_rows, update_rows
from app.store.carried_out import close_carried_out
from app.store.effects import Writes, age_s, chain, collect, of_the_attempt
from app.store.events import publish_with
from app.store.lanes import GLOBAL_SCOPE, LaneKey, merge_modes
from app.store.lines import say
from app.store.locks import lock_name, release_with
from app.store.outbox import enqueue_with
from app.store.plans import Attempt, LanePlan, LostRace
from app.store.results import result_row
from app.store.tables import Appointment, AppointmentVersion, InboxCommand, Lane, Ledger, ModeRow, Proposal, Ticket, table
from app.store.tasks import open_tasks

_LANE, _COMMAND, _LEDGER = table(Lane), table(InboxCommand), table(Ledger)
_APPOINTMENT, _VERSION = table(Appointment), table(AppointmentVersion)
_PROPOSAL, _TICKET, _MODE = table(Proposal), table(Ticket), table(ModeRow)

SAME_PAUSE = "(t.paused_at IS NULL) = (r.was_paused_at IS NULL) AND t.step_credit >= r.step_credit"
"""Part of the compare-and-set: nobody paused or released the lane since it was read, and the steps it takes are still there."""


def apply(
    conn: Connection, plans: Sequence[LanePlan], attempt: Attempt, *, lanes_last: bool = False, leave_busy: bool = False
) -> list[LanePlan]:
    """Write the plans; returns those that were written. Raises `LostRace` or IntegrityError (then nothing was).

    The lanes are compared and advanced first, and those that lost a race are left out. With `lanes_last` the entries and the
    messages are written before that: the rows of the lanes, which intake needs too, are locked for a moment instead of the
    whole transaction. What is compared is the same; a lane that lost its race then costs the transaction (`LostRace`).

    With `leave_busy` (PostgreSQL) lanes that another such transaction is at are left out at once. Their claims should have kept
    the two apart, but Redis forgets; then one would wait for a place in the ledger and the other for the lane.
    """
    modes, locks = _lock_modes(conn, plans), [lock_name(plan.key) for plan in plans]
    if leave_busy:
        busy = _busy(conn, plans)
        plans = [plan for plan in plans if plan.key not in busy]
    now = attempt.clock()
    applied = [plan for plan in plans if _still_allowed(plan, modes[plan.key[0]], now)]
    chains = {plan.key: chain(plan, modes[plan.key[0]], now) for plan in applied}
    if not lanes_last:
        won = _advance_lanes(conn, applied, chains, now)
        applied = [plan for plan in applied if plan.key in won]
    writes = Writes()
    # in one order everywhere: two nodes that are at the same lanes meet at the first of them, and neither waits for the other
    for plan in sorted(applied, key=lambda plan: plan.key):
        writes.ledger.extend(chains[plan.key])
        collect(writes, plan, now)
        if plan.tell_results:
            writes.outbox.extend(result_row(row, now) for row in chains[plan.key] if row["command_id"] is not None)
    bundle = Bundle(conn)
    bundle.insert(_LEDGER, writes.ledger, common=of_the_attempt(attempt, now))
    enqueue_with(bundle, writes.outbox)
    publish_with(bundle, writes.events, now)
    if attempt.lock_token is not None:
        release_with(bundle, locks, attempt.lock_token)
    _write_commands(bundle, conn, writes, now)
    if lanes_last:
        lost = {plan.key for plan in applied} - _advance_lanes(conn, applied, chains, now)
        if lost:
            raise LostRace(lost)
    _write_agenda(conn, writes)
    insert_rows(conn, _VERSION, writes.versions)
    _park_rest(conn, applied, now)
    _write_proposals(conn, writes, now)
    insert_rows(conn, _TICKET, writes.tickets)
    for ticket in writes.tickets:
        told = {name: ticket[name] for name in ("correlation_id", "tenant_id", "contact_id", "ticket_id")}
        say(conn, "ticket_opened", flow_id="F-04", status="open", **told)
    open_tasks(conn, writes.tasks)
    done = (e for plan in applied for e in plan.entries if e.decision.state in EFFECT_RESULTS)
    close_carried_out(conn, [e.command for e in done if e.command is not None], now)
    late = {plan.key for plan in applied if not _in_time(plan, modes[plan.key[0]], attempt.clock())}
    if late:  # rows of others held this transaction up for so long
        raise LostRace(late)
    return applied


_BUSY = text(
    "SELECT tenant_id, contact_id FROM json_to_recordset(CAST(:rows AS json)) AS r(tenant_id text, contact_id text) "
    "WHERE NOT pg_try_advisory_xact_lock(hashtextextended(tenant_id || ':' || contact_id, 1))"
)
"""Seed 1: the claims of `store.locks` hash their names with 0."""


def _busy(conn: Connection, plans: Sequence[LanePlan]) -> set[LaneKey]:
    """Lanes at which another transaction that asked the same is at this moment; the others are ours until the commit."""
    rows = [{"tenant_id": plan.key[0], "contact_id": plan.key[1]} for plan in plans]
    return {(row.tenant_id, row.contact_id) for row in conn.execute(_BUSY, {"rows": encode(rows, conn.dialect.name)})}


def _lock_modes(conn: Connection, plans: Sequence[LanePlan]) -> dict[str, Mode]:
    """Mode of each plan's tenant as it is now; the share lock keeps it so until the commit."""
    tenants = {plan.key[0] for plan in plans}
    query = select(_MODE).where(_MODE.c.scope.in_(sorted({GLOBAL_SCOPE, *tenants})))
    if conn.dialect.name == "postgresql":
        query = query.with_for_update(read=True)
    rows: Mapping[str, Row[Any]] = {row.scope: row for row in conn.execute(query)}
    return {tenant_id: merge_modes(rows.get(GLOBAL_SCOPE), rows.get(tenant_id)) for tenant_id in tenants}


def _still_allowed(plan: LanePlan, mode: Mode, now: datetime) -> bool:
    """Whether the plan was decided under this mode (people's holds raise its epoch too), and is still in time."""
    return mode.epoch == plan.mode.epoch and mode.contingency == plan.mode.contingency and _in_time(plan, mode, now)


def _in_time(plan: LanePlan, mode: Mode, now: datetime) -> bool:
    """Whether every effect of the plan may happen at `now`: before the safe deadline, and inside the fence it was decided by.

    A command that was not late when it was decided, and is now, has not been asked by the fences: it is decided again.
    """
    for entry in plan.entries:
        command, decision = entry.command, entry.decision
        if command is None or decision.effect is None:
            continue
        if command.command_type in SENSITIVE and mode.safe_mode_blocks(now):
            return False
        limit_s = decision.ttl_limit_s if decision.late else plan.late_after.total_seconds()
        age = age_s(command, now)
        if age is not None and limit_s is not None and age > limit_s:
            return False
    return True


def _advance_lanes(
    conn: Connection, plans: Sequence[LanePlan], chains: dict[LaneKey, list[dict[str, Any]]], now: datetime
) -> set[tuple[Any, ...]]:
    """The compare-and-set: `last_committed` n-1 -> n on the versions decided on; returns the lanes that matched."""
    rows = []
    for plan in plans:
        row, done = plan.facts.row, [0, 0, 0, 0]
        takeover_id = row.takeover_id
        for entry in plan.entries:
            if entry.command is not None:
                done[entry.command.priority.rank] += 1
            if isinstance(entry.decision.effect, OpenTakeover):
                takeover_id = entry.new_id
        ledger = chains[plan.key]
        rows.append(
            {
                "tenant_id": row.tenant_id,
                "contact_id": row.contact_id,
                "was_last_committed": row.last_committed,
                "was_conversation_version": row.conversation_version,
                "was_guardian_version": row.guardian_version,
                "was_takeover_id": row.takeover_id or "",
                "was_waiting": row.waiting,
                "was_blocked_by": row.blocked_by or "",
                "was_replay_id": row.replay_id or "",
                "was_paused_at": row.paused_at,
                "last_committed": row.last_committed + len(plan.entries),
                "wait_0": done[0],
                "wait_1": done[1],
                "wait_2": done[2],
                "wait_3": done[3],
                "waiting": sum(done),
                "takeover_id": takeover_id,
                "chain_hash": ledger[-1]["hash"] if ledger else row.chain_hash,
                "not_before": plan.not_before,
                "ready_since": plan.next_ready_since,
                "blocked_by": plan.blocked_by,
                "blocked_since": (row.blocked_since if row.blocked_by == plan.blocked_by else now) if plan.blocked_by else None,
                "step_credit": plan.steps_used,
            }
        )
    return update_rows(
        conn,
        _LANE,
        rows,
        keys=("tenant_id", "contact_id"),
        in_order=True,
        assign=("last_committed", "takeover_id", "chain_hash", "blocked_by", "blocked_since"),
        expressions={
            **{f"wait_{i}": f"t.wait_{i} - r.wait_{i}" for i in range(4)},
            "waiting": "t.waiting - r.waiting",
            "step_credit": "t.step_credit - r.step_credit",
            # a command accepted since the read makes the lane ready again at once
            "not_before": "CASE WHEN t.waiting = r.was_waiting THEN r.not_before END",
            "ready_since": "CASE WHEN t.waiting - r.waiting > 0 THEN coalesce(r.ready_since, t.ready_since) END",
        },
        guard="t.last_committed = r.was_last_committed AND t.conversation_version = r.was_conversation_version "
        "AND t.guardian_version = r.was_guardian_version AND coalesce(t.takeover_id, '') = r.was_takeover_id "
        f"AND {SAME_PAUSE} "
        # a drain or a replay batch opened, took or gave back the lane since the read: decided again, never shut again
        "AND coalesce(t.blocked_by, '') = r.was_blocked_by AND coalesce(t.replay_id, '') = r.was_replay_id",
    )


# --- writing ------------------------------------------------------------------------------------------------------------


def _write_agenda(conn: Connection, writes: Writes) -> None:
    insert_rows(conn, _APPOINTMENT, writes.booked)
    moved = list(writes.changed.values())
    matched = update_rows(
        conn,
        _APPOINTMENT,
        moved,
        keys=("tenant_id", "appointment_id"),
        assign=("start_at", "end_at", "status", "version", "as_of"),
        guard="t.version = r.was_version",
    )
    lost = set(writes.changed) - matched
    if lost:
        raise LostRace({writes.owners[key] for key in lost})
    if conn.dialect.name == "sqlite":
        _refuse_overlaps(conn, writes)


def _refuse_overlaps(conn: Connection, writes: Writes) -> None:
    """SQLite has no exclusion constraint: look for overlaps of what was just written, in the same transaction."""
    touched = [*writes.booked, *writes.changed.values()]
    active = [row for row in touched if row["status"] != "cancelled"]
    if not active:
        return
    keys = [
        {
            "tenant_id": r["tenant_id"],
            "therapist_id": r["therapist_id"],
            "was_appointment_id": r["appointment_id"],
            "was_start_at": r["start_at"],
            "was_end_at": r["end_at"],
        }
        for r in active
    ]
    clashes = joined_rows(
        conn,
        _APPOINTMENT,
        keys,
        keys=("tenant_id", "therapist_id"),
        columns=("tenant_id", "appointment_id"),
        where="t.status <> 'cancelled' AND t.appointment_id <> r.was_appointment_id "
        "AND t.start_at < r.was_end_at AND t.end_at > r.was_start_at",
    ).all()
    if clashes:
        ours = {(r["tenant_id"], r["appointment_id"]) for r in active}
        named = {(row.tenant_id, row.appointment_id) for row in clashes} & ours
        raise LostRace({writes.owners[key] for key in named or ours})


def _write_commands(bundle: Bundle, conn: Connection, writes: Writes, now: datetime) -> None:
    """The results with the rest of the bundle, then what commands stay pending for; raises `LostRace`."""
    bundle.update(
        _COMMAND,
        writes.ended,
        keys=("tenant_id", "command_id"),
        assign=("status", "result", "reason"),
        expressions={"attempts": "t.attempts + 1"},
        common={"done_at": now},
        guard="t.done_at IS NULL",
    )
    matched = bundle.run()
    either = "(t.was_parked OR r.was_parked)" if conn.dialect.name == "postgresql" else "max(t.was_parked, r.was_parked)"
    matched |= update_rows(
        conn,
        _COMMAND,
        [row | {"waiting_since": now} for row in writes.pending],
        keys=("tenant_id", "command_id"),
        assign=("status", "reason"),
        expressions={"was_parked": either, "waiting_since": "coalesce(t.waiting_since, r.waiting_since)"},
        guard="t.done_at IS NULL",
    )
    lost = {(row["tenant_id"], row["command_id"]) for row in (*writes.ended, *writes.pending)} - matched
    if lost:
        raise LostRace({writes.lanes[key] for key in lost})


def _park_rest(conn: Connection, plans: Sequence[LanePlan], now: datetime) -> None:
    """What comes behind a parked command is parked, however long the lane is."""
    rows = [
        {
            "tenant_id": plan.key[0],
            "contact_id": plan.key[1],
            "was_commit_order": plan.park_rest[1],
            "status": plan.park_rest[0],
            "reason": Reason.BEHIND_PARKED,
            "waiting_since": now,
        }
        for plan in plans
        if plan.park_rest is not None
    ]
    update_rows(
        conn,
        _COMMAND,
        rows,
        keys=("tenant_id", "contact_id"),
        assign=("status", "reason"),
        expressions={"was_parked": "true", "waiting_since": "coalesce(t.waiting_since, r.waiting_since)"},
        guard="t.done_at IS NULL AND t.commit_order > r.was_commit_order AND t.status <> r.status",
    )


def _write_proposals(conn: Connection, writes: Writes, now: datetime) -> None:
    """Open proposals; the latest of a contact supersedes what was open, in this transaction too."""
    if not writes.proposals:
        return
    latest = {(row["tenant_id"], row["contact_id"]): row for row in writes.proposals}
    close_proposals(conn, list(latest), "superseded", now)
    rows = []
    for row in writes.proposals:
        open_now = latest[(row["tenant_id"], row["contact_id"])] is row
        rows.append(row | {"closed_at": None if open_now else now, "outcome": None if open_now else "superseded"})
    insert_rows(conn, _PROPOSAL, rows)


def close_proposals(conn: Connection, keys: Sequence[LaneKey], outcome: str, now: datetime) -> None:
    """Close the open proposal of each contact."""
    rows = [{"tenant_id": t, "contact_id": c, "closed_at": now, "outcome": outcome} for t, c in keys]
    update_rows(
        conn, _PROPOSAL, rows, keys=("tenant_id", "contact_id"), assign=("closed_at", "outcome"), guard="t.closed_at IS NULL"
    )


def result_of(conn: Connection, tenant_id: str, command_id: str) -> str | None:
    """The terminal result of a command, None while it is pending."""
    row = conn.execute(
        select(_COMMAND.c.result).where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.command_id == command_id)
    ).first()
    return row.result if row else None


def database_now(conn: Connection) -> datetime | None:
    """The database server's clock (PostgreSQL); None on SQLite, which has no clock of its own."""
    if conn.dialect.name != "postgresql":
        return None
    moment: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment
