"""The effect's transaction: state, effect, ledger, outbox and stream event, all or nothing.

`apply` takes lane plans that were decided from one read and compares again everything they were decided on. The
compare-and-set on the lane row (`last_committed`, versions, takeover, pause) is what makes an effect happen once and in
order; locks appear nowhere in the argument. A lane that lost a race is left out and nothing happens to it. A conflict on an
agenda entity raises `LostRace`: the whole transaction is rolled back and the caller goes on without those lanes.

Time is read inside the transaction, once its mode rows are locked, and again before it ends: a transaction that waited is
judged, and dated, by when it really happened. What came too late by then is left out and decided again.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace as changed
from sqlalchemy import Connection, Row, select, text

from app.domain import family_texts
from app.domain.confirmation import confirms
from app.domain.envelopes import Command
from app.domain.facts import Appointment as AppointmentFact
from app.domain.facts import BookAppointment, ChangeAppointment, Decision, Mode, OpenTakeover, SendMessage
from app.domain.ledger_chain import entry_hash
from app.domain.manual import due_after
from app.domain.reasons import Reason
from app.domain.states import EFFECT_RESULTS, SENSITIVE, CommandType, State
from app.store.bulk import Bundle, encode, insert_rows, joined_rows, update_rows
from app.store.carried_out import close_carried_out
from app.store.events import publish_with
from app.store.lanes import GLOBAL_SCOPE, PARKED_BY, LaneFacts, LaneKey, merge_modes, wanted_slot
from app.store.lines import say
from app.store.locks import lock_name, release_with
from app.store.outbox import enqueue_with, outbox_row
from app.store.results import result_row
from app.store.tables import Appointment, AppointmentVersion, InboxCommand, Lane, Ledger, ModeRow, Proposal, Ticket, table
from app.store.tasks import open_tasks, task_row

_LANE, _COMMAND, _LEDGER = table(Lane), table(InboxCommand), table(Ledger)
_APPOINTMENT, _VERSION = table(Appointment), table(AppointmentVersion)
_PROPOSAL, _TICKET, _MODE = table(Proposal), table(Ticket), table(ModeRow)

SAME_PAUSE = "(t.paused_at IS NULL) = (r.was_paused_at IS NULL) AND t.step_credit >= r.step_credit"
"""Part of the compare-and-set: nobody paused or released the lane since it was read, and the steps it takes are still there."""

MANUAL_RESULTS = frozenset(
    {
        State.EXPIRED_MANUAL,
        State.CONFLICT_BLOCKED,
        State.INVALID_PAYLOAD_MANUAL,
        State.INVALID_EVENT_MANUAL,
        State.MANUAL_REVIEW_REQUIRED,
        State.BLOCKED_AGENDA_CONFLICT,
    }
)
"""Terminal results that become a task for a person."""

HASHED_FIELDS = (
    "tenant_id",
    "contact_id",
    "commit_order",
    "command_id",
    "command_type",
    "result",
    "reason",
    "effect_key",
    "entity_id",
    "entity_version",
    "conversation_version",
    "guardian_version",
    "takeover_active",
    "mode_epoch",
    "late",
    "correlation_id",
    "committed_at",
)
"""Fields of an entry that its hash covers, in this order."""


class LostRace(Exception):
    """Agenda entities changed under these lanes; the transaction must be rolled back."""

    def __init__(self, keys: set[LaneKey]) -> None:
        super().__init__(f"{len(keys)} lane(s) lost a race")
        self.keys = keys


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a lane that gets its terminal result. `command` is None for a tombstone."""

    order: int
    decision: Decision
    command: Command | None
    accepted_at: datetime
    target: AppointmentFact | None = None
    """The appointment before the effect."""
    new_id: str = ""
    """Spare id for the ticket, task or message that the entry opens."""


class PendingChange(msgspec.Struct, frozen=True, kw_only=True):
    """A command that stays pending, with its state made visible."""

    command_id: str
    state: State
    reason: str


@dataclass(slots=True, kw_only=True)
class LanePlan:
    """What one attempt wants to do with one lane."""

    facts: LaneFacts
    mode: Mode
    timezone: str = "America/Sao_Paulo"
    ttl: timedelta = timedelta(hours=2)
    late_after: timedelta = timedelta(seconds=60)
    """Age at which the fences must have been asked (domain.facts.GatePolicy)."""
    entries: list[Entry] = field(default_factory=list)
    pending: list[PendingChange] = field(default_factory=list)
    not_before: datetime | None = None
    blocked_by: str | None = None
    next_ready_since: datetime | None = None
    steps_used: int = 0
    tell_results: bool = False
    """Whether the clinic's webhook hears of every result."""
    park_rest: tuple[State, int] | None = None
    """Every command after this place is parked in this state too, also those beyond what was read."""

    @property
    def key(self) -> LaneKey:
        """(tenant, contact)."""
        return self.facts.key

    @property
    def changes_anything(self) -> bool:
        """Whether there is something to write."""
        row = self.facts.row
        return bool(self.entries or self.pending or self.not_before != row.not_before or self.blocked_by != row.blocked_by)

    @property
    def left(self) -> int:
        """Commands that still wait after this plan, of those known when the lane was read."""
        return int(self.facts.row.waiting) - sum(entry.command is not None for entry in self.entries)

    @property
    def empties(self) -> bool:
        """Whether nothing waits after this plan."""
        return self.left == 0

    def poisoned(self) -> "LanePlan":
        """The same lane with its front command handed to a person: what the database keeps refusing must not stop it."""
        front = self.entries[0]
        decision = Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=Reason.UNEXPECTED_FAILURE, terminal=True)
        alone = replace(self, entries=[changed(front, decision=decision)], pending=[], park_rest=None)
        alone.steps_used = min(self.steps_used, int(front.command is not None))
        alone.stay_shut()
        return alone

    def stay_shut(self) -> None:
        """Leave a parked lane that still has something to wait for as it is: only a drain or a replay batch opens it."""
        row = self.facts.row
        parked = row.blocked_by in PARKED_BY and self.left > 0
        self.blocked_by, self.not_before = (row.blocked_by, row.not_before) if parked else (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Who applies, and under which lock. `clock` is asked inside the transaction, which may have waited for its turn."""

    token: str
    node_id: str
    clock: Callable[[], datetime]
    lock_backend: State | str
    lock_mode: str
    lock_ms: float
    lock_token: str | None = None
    """Whose the lanes' locks are where they are rows (`store.locks`): the commit gives them back."""


@dataclass(slots=True)
class _Writes:
    ledger: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    """Commands that get their terminal result."""
    pending: list[dict[str, Any]] = field(default_factory=list)
    """Commands that stay pending in another state."""
    versions: list[dict[str, Any]] = field(default_factory=list)
    booked: list[dict[str, Any]] = field(default_factory=list)
    changed: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    owners: dict[tuple[str, str], LaneKey] = field(default_factory=dict)
    """Lane behind each written (tenant, appointment)."""
    lanes: dict[tuple[str, str], LaneKey] = field(default_factory=dict)
    """Lane behind each written (tenant, command)."""
    outbox: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    tickets: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    events: dict[tuple[str | None, str], set[str]] = field(default_factory=lambda: defaultdict(set))


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
    chains = {plan.key: _chain(plan, modes[plan.key[0]], now) for plan in applied}
    if not lanes_last:
        won = _advance_lanes(conn, applied, chains, now)
        applied = [plan for plan in applied if plan.key in won]
    writes = _Writes()
    # in one order everywhere: two nodes that are at the same lanes meet at the first of them, and neither waits for the other
    for plan in sorted(applied, key=lambda plan: plan.key):
        writes.ledger.extend(chains[plan.key])
        _collect(writes, plan, now)
        if plan.tell_results:
            writes.outbox.extend(result_row(row, now) for row in chains[plan.key] if row["command_id"] is not None)
    bundle = Bundle(conn)
    bundle.insert(_LEDGER, writes.ledger, common=_of_the_attempt(attempt, now))
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
        age_s = _age_s(command, now)
        if age_s is not None and limit_s is not None and age_s > limit_s:
            return False
    return True


def _age_s(command: Command, now: datetime) -> float | None:
    return (now - command.occurred_at).total_seconds() if command.occurred_at is not None else None


def _of_the_attempt(attempt: Attempt, now: datetime) -> dict[str, Any]:
    """What all entries of one transaction have in common."""
    return {
        "lock_backend": attempt.lock_backend,
        "lock_mode": attempt.lock_mode,
        "lock_ms": attempt.lock_ms,
        "node_id": attempt.node_id,
        "attempt": attempt.token,
        "committed_at": now,
    }


def _chain(plan: LanePlan, mode: Mode, now: datetime) -> list[dict[str, Any]]:
    """The ledger rows of a plan, each hashed over the one before; without what all entries have in common."""
    row = plan.facts.row
    previous = row.chain_hash
    takeover = row.takeover_id is not None
    rows = []
    for entry in plan.entries:
        decision, command = entry.decision, entry.command
        happened = decision.state in EFFECT_RESULTS
        entity_id, entity_version = _entity(entry)
        fields: dict[str, Any] = {  # exactly HASHED_FIELDS; below, what is not hashed is added
            "tenant_id": row.tenant_id,
            "contact_id": row.contact_id,
            "commit_order": entry.order,
            "command_id": command.command_id if command else None,
            "command_type": command.command_type if command else None,
            "result": decision.state,
            "reason": decision.reason,
            "effect_key": command.idempotency_key if command and happened else None,
            "entity_id": entity_id if happened else None,
            "entity_version": entity_version if happened else None,
            "conversation_version": row.conversation_version,
            "guardian_version": row.guardian_version,
            "takeover_active": takeover,
            "mode_epoch": plan.mode.epoch,
            "late": decision.late,
            "correlation_id": command.correlation_id if command else f"lane-{row.tenant_id}-{row.contact_id}"[:220],
            "committed_at": now,
        }
        digest = entry_hash(previous, fields)
        del fields["committed_at"]
        fields["safe_deadline"] = mode.safe_deadline
        # of the moment of the effect, not of the decision
        fields["event_age_s"] = _age_s(command, now) if command and decision.late else decision.event_age_s
        fields["ttl_limit_s"] = decision.ttl_limit_s
        fields["accepted_at"] = entry.accepted_at
        fields["prev_hash"] = previous
        fields["hash"] = digest
        rows.append(fields)
        previous = digest
        takeover = takeover or isinstance(decision.effect, OpenTakeover)
    return rows


def _entity(entry: Entry) -> tuple[str | None, int | None]:
    effect = entry.decision.effect
    if isinstance(effect, BookAppointment):
        return effect.appointment_id, 1
    if isinstance(effect, ChangeAppointment):
        return effect.appointment_id, effect.expected_version + 1
    return None, None


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


# --- collecting rows ----------------------------------------------------------------------------------------------------


def _collect(writes: _Writes, plan: LanePlan, now: datetime) -> None:
    tenant_id, contact_id = plan.key
    writes.events[(tenant_id, "queue")].add(contact_id)
    writes.events[(tenant_id, "lane")].add(contact_id)
    for change in plan.pending:
        writes.lanes[(tenant_id, change.command_id)] = plan.key
        writes.pending.append(
            {
                "tenant_id": tenant_id,
                "command_id": change.command_id,
                "status": change.state,
                "reason": change.reason,
                "was_parked": change.state in (State.PENDING_SAFE_MODE, State.PENDING_CONTINGENCY),
            }
        )
    for entry in plan.entries:
        _collect_entry(writes, plan, entry, now)


def _collect_entry(writes: _Writes, plan: LanePlan, entry: Entry, now: datetime) -> None:
    (tenant_id, contact_id), decision, command = plan.key, entry.decision, entry.command
    overtaken = command is not None and family_texts.overtaken(command, decision)
    done = decision.effect is not None or decision.state is State.DUPLICATE_IGNORED
    unfulfilled = command is not None and confirms(command) and not done and not overtaken
    if decision.state in MANUAL_RESULTS or unfulfilled:
        writes.events[(tenant_id, "manual")].add(entry.new_id)
        name = command.command_id if command else f"{contact_id}:{entry.order}"
        writes.tasks.append(
            task_row(
                tenant_id=tenant_id,
                task_id=entry.new_id,
                dedup_key=f"command:{name}",
                cause=decision.state,
                reason=decision.reason,
                priority=command.priority.rank if command else 1,
                contact_id=contact_id,
                command_id=command.command_id if command else None,
                correlation_id=command.correlation_id if command else f"lane-{tenant_id}-{contact_id}"[:220],
                now=now,
                due_at=now + due_after(command.priority.rank if command else 1),
            )
        )
    if command is None:
        return
    writes.lanes[(tenant_id, command.command_id)] = plan.key
    status = State.COMMITTED_CAUSAL if decision.state in EFFECT_RESULTS else decision.state
    writes.ended.append(
        {
            "tenant_id": tenant_id,
            "command_id": command.command_id,
            "status": status,
            "result": decision.state,
            "reason": decision.reason,
        }
    )
    _collect_effect(writes, plan, entry, command, now)
    if unfulfilled:  # the family said CONFIRMAR: it hears of it, and somebody sees to it
        writes.outbox.append(_say(plan, command, "answer", family_texts.confirmation_kept(), now))
    if family_texts.opens_proposal(command, decision):
        writes.proposals.append(
            {
                "tenant_id": tenant_id,
                "command_id": command.command_id,
                "contact_id": contact_id,
                "opened_at": now,
                "expires_at": now + plan.ttl,
            }
        )
        start = entry.target.start_at if entry.target and command.command_type is CommandType.CANCEL else _wanted_start(command)
        words = family_texts.proposal(command.command_type, start, plan.timezone)
        if overtaken:
            words = family_texts.asked_again(words)
        writes.outbox.append(_say(plan, command, "proposal", words, now))


def _wanted_start(command: Command) -> datetime | None:
    slot = wanted_slot(command)
    return slot[0] if slot else None


def _collect_effect(writes: _Writes, plan: LanePlan, entry: Entry, command: Command, now: datetime) -> None:
    (tenant_id, contact_id), effect = plan.key, entry.decision.effect
    if isinstance(effect, BookAppointment):
        facts = {"therapist_id": effect.therapist_id, "start_at": effect.start_at, "end_at": effect.end_at, "status": "scheduled"}
        _collect_version(writes, plan, command, effect.appointment_id, 1, facts, now)
        as_of = command.as_of or now
        row = {"tenant_id": tenant_id, "appointment_id": effect.appointment_id, "patient_id": effect.patient_id, **facts}
        writes.booked.append(row | {"version": 1, "as_of": as_of})
    elif isinstance(effect, ChangeAppointment):
        assert entry.target is not None
        facts = {
            "therapist_id": entry.target.therapist_id,
            "start_at": effect.start_at,
            "end_at": effect.end_at,
            "status": effect.status,
        }
        _collect_version(writes, plan, command, effect.appointment_id, effect.expected_version + 1, facts, now)
        as_of = max(command.as_of or now, entry.target.as_of)
        key = (tenant_id, effect.appointment_id)
        booked = next((b for b in writes.booked if (b["tenant_id"], b["appointment_id"]) == key), None)
        change = {**facts, "version": effect.expected_version + 1, "as_of": as_of}
        if booked is not None:  # booked earlier in this very transaction
            booked |= change
        elif key in writes.changed:
            writes.changed[key] |= change
        else:
            writes.changed[key] = {
                "tenant_id": tenant_id,
                "appointment_id": key[1],
                "was_version": effect.expected_version,
            } | change
    elif isinstance(effect, SendMessage):
        writes.outbox.append(_say(plan, command, "effect", effect.text, now))
    elif isinstance(effect, OpenTakeover):
        writes.events[(tenant_id, "tickets")].add(entry.new_id)
        writes.tickets.append(
            {
                "ticket_id": entry.new_id,
                "tenant_id": tenant_id,
                "kind": "takeover",
                "state": "open",
                "contact_id": contact_id,
                "cause_id": command.command_id,
                "reason": effect.reason[:500],
                "opened_at": now,
                "due_at": now + timedelta(minutes=15),
                "correlation_id": command.correlation_id,
            }
        )
    if effect is not None:
        words = family_texts.answer(command.command_type, effect, plan.timezone)
        if words is not None:
            writes.outbox.append(_say(plan, command, "answer", words, now))


def _collect_version(
    writes: _Writes, plan: LanePlan, command: Command, appointment_id: str, version: int, facts: dict[str, Any], now: datetime
) -> None:
    tenant_id = plan.key[0]
    writes.owners[(tenant_id, appointment_id)] = plan.key
    writes.events[(tenant_id, "agenda")].add(appointment_id)
    row = {"tenant_id": tenant_id, "appointment_id": appointment_id, "version": version, "command_id": command.command_id, **facts}
    writes.versions.append(row | {"as_of": command.as_of or now, "at": now})


def _say(plan: LanePlan, command: Command, step: str, words: str, now: datetime) -> dict[str, Any]:
    tenant_id, contact_id = plan.key
    return outbox_row(
        tenant_id=tenant_id,
        cause_id=command.command_id,
        step=step,
        kind="family_message",
        contact_id=contact_id,
        body={"text": words},
        correlation_id=command.correlation_id,
        now=now,
    )


# --- writing ------------------------------------------------------------------------------------------------------------


def _write_agenda(conn: Connection, writes: _Writes) -> None:
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


def _refuse_overlaps(conn: Connection, writes: _Writes) -> None:
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


def _write_commands(bundle: Bundle, conn: Connection, writes: _Writes, now: datetime) -> None:
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


def _write_proposals(conn: Connection, writes: _Writes, now: datetime) -> None:
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
