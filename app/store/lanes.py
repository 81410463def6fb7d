"""What dispatch and the committer read: which lanes could be served, and the facts of those chosen.

Reads only. Nothing here decides and nothing here is trusted later: `store.ledger.apply` compares every version again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

import msgspec
from msgspec.structs import replace as changed
from sqlalchemy import Connection, Integer, Row, Select, String, bindparam, case, func, null, or_, select, union_all

from app.domain.envelopes import COMMAND_TYPES, REQUESTERS, SOURCES, Command, parse_time
from app.domain.facts import Appointment as AppointmentFact
from app.domain.facts import GuardianLink, KeyUse, Mode
from app.domain.lanes import LaneCandidate
from app.domain.states import AppointmentStatus, ModeState, State
from app.store.bulk import joined_rows
from app.store.columns import UTCDateTime
from app.store.tables import Appointment, Guardian, Hold, InboxCommand, Lane, ModeRow, Patient, Therapist, table

LaneKey = tuple[str, str]
Known = Callable[[str, str, datetime], Command | None]
"""(tenant, command id, when it was accepted) to the command, if whoever asks has it at hand."""
GLOBAL_SCOPE = "global"
_KEY = ("tenant_id", "contact_id")
AROUND = timedelta(hours=4)
"""How far around a wanted slot the agenda is read, to name free alternatives."""

PARKED_BY = ("safe_mode", "contingency")
"""`lane.blocked_by` of parked lanes: only a drain (store.drain) or a replay batch opens them."""

_LANE, _COMMAND, _APPOINTMENT = table(Lane), table(InboxCommand), table(Appointment)
_GUARDIAN, _PATIENT, _THERAPIST = table(Guardian), table(Patient), table(Therapist)
_MODE, _HOLD = table(ModeRow), table(Hold)
_STANDING = (
    "tenant_id contact_id command_id commit_order status reason accepted_at waiting_since withdrawn was_parked replayed"
).split()
"""Columns of a command that say where it stands; all others keep what was accepted."""


def _candidates_query() -> Select[Any]:
    best = case((_LANE.c.wait_0 > 0, 0), (_LANE.c.wait_1 > 0, 1), (_LANE.c.wait_2 > 0, 2), else_=3)
    tenant, now, per_tenant = _LANE.c.tenant_id, bindparam("now", type_=UTCDateTime()), bindparam("per_tenant", type_=Integer())
    held = select(_HOLD.c.tenant_id).where(_HOLD.c.command_type == "*")
    without = bindparam("without", expanding=True, type_=String())
    ready = (
        select(
            tenant,
            _LANE.c.contact_id,
            best.label("best"),
            _LANE.c.ready_since,
            _LANE.c.waiting,
            func.row_number().over(partition_by=tenant, order_by=(best, _LANE.c.ready_since)).label("by_class"),
            func.row_number().over(partition_by=tenant, order_by=_LANE.c.ready_since).label("by_age"),
        )
        .where(
            _LANE.c.waiting > 0,
            or_(_LANE.c.not_before.is_(None), _LANE.c.not_before <= now),
            or_(_LANE.c.paused_at.is_(None), _LANE.c.step_credit > 0),
            tenant.not_in(held),
            tenant.not_in(without),
        )
        .subquery()
    )
    return select(ready).where(or_(ready.c.by_class <= per_tenant, ready.c.by_age <= per_tenant))


_CANDIDATES = _candidates_query()
"""Built once: dispatch asks at every poll, and building costs more than answering."""
_NEXT_DUE = select(func.min(_LANE.c.not_before)).where(
    _LANE.c.waiting > 0, _LANE.c.not_before > bindparam("now", type_=UTCDateTime()), _LANE.c.paused_at.is_(None)
)


_STEERING = union_all(
    select(
        _MODE.c.scope, _MODE.c.state, _MODE.c.epoch, _MODE.c.safe_deadline, _MODE.c.contingency, null().label("held_type")
    ).where(_MODE.c.scope.in_(bindparam("scopes", expanding=True))),
    select(_HOLD.c.tenant_id, null(), null(), null(), null(), _HOLD.c.command_type).where(
        _HOLD.c.tenant_id.in_(bindparam("tenants", expanding=True))
    ),
)
"""The modes, and what people hold, in one answer: a row with `held_type` is a hold of that type by the clinic `scope`."""


def candidates(conn: Connection, now: datetime, per_tenant: int, without: Sequence[str] = ()) -> list[LaneCandidate]:
    """Lanes with something to do now: of each tenant, but those `without`, the best `per_tenant` by class and by age.

    Both orders are cut per tenant, so a flooding tenant never hides another and an old lane never falls off the list.
    """
    rows = conn.execute(_CANDIDATES, {"now": now, "per_tenant": per_tenant, "without": without})
    return [
        LaneCandidate(
            tenant_id=r.tenant_id, contact_id=r.contact_id, best_rank=r.best, ready_since=r.ready_since or now, waiting=r.waiting
        )
        for r in rows
    ]


def candidates_or_due(
    conn: Connection, now: datetime, per_tenant: int, without: Sequence[str] = ()
) -> tuple[list[LaneCandidate], datetime | None]:
    """The candidates; when there are none, the moment at which the earliest lane that waits for its time wants to be looked at."""
    found = candidates(conn, now, per_tenant, without)
    return found, None if found else conn.execute(_NEXT_DUE, {"now": now}).scalar()


@dataclass(slots=True)
class LaneFacts:
    """One lane as read: its row and its next pending commands in order (`following` = accepted_at of the one after)."""

    row: Row[Any]
    commands: list[Command] = field(default_factory=list)
    rows: list[Row[Any]] = field(default_factory=list)
    more: datetime | None = None
    extra: int = 0
    """Commands of a dry run behind the real ones."""
    key: LaneKey = field(init=False)
    """(tenant, contact)."""

    def __post_init__(self) -> None:
        self.key = (self.row.tenant_id, self.row.contact_id)


@dataclass(slots=True)
class Facts:
    """All that deciding a set of lanes needs, read in one transaction."""

    lanes: dict[LaneKey, LaneFacts] = field(default_factory=dict)
    modes: dict[str, Row[Any]] = field(default_factory=dict)
    held_types: set[tuple[str, str]] = field(default_factory=set)
    key_uses: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    """Other commands that carry the key of one of these."""
    appointments: dict[tuple[str, str], AppointmentFact] = field(default_factory=dict)
    guardians: dict[tuple[str, str, str], GuardianLink] = field(default_factory=dict)
    patients: set[tuple[str, str]] = field(default_factory=set)
    therapists: set[tuple[str, str]] = field(default_factory=set)
    booked: dict[tuple[str, str], list[AppointmentFact]] = field(default_factory=dict)
    """Active appointments per (tenant, therapist) around the wanted slots."""

    def mode_of(self, tenant_id: str) -> Mode:
        """The stricter of the tenant's and the global row; a scope without a row is normal."""
        return merge_modes(self.modes.get(GLOBAL_SCOPE), self.modes.get(tenant_id))

    def key_use(self, command: Command) -> KeyUse | None:
        """The first holder of the command's key, when that is another command."""
        if not self.key_uses:
            return None
        others = [
            row
            for row in self.key_uses.get((command.tenant_id, command.idempotency_key), ())
            if row.command_id != command.command_id
        ]
        if not others:
            return None
        first = min(others, key=_acceptance)
        lane = self.lanes.get((command.tenant_id, command.contact_id))
        own = next((row for row in lane.rows if row.command_id == command.command_id), None) if lane is not None else None
        if own is not None and _acceptance(own) < _acceptance(first):
            return None
        return KeyUse(
            command_id=first.command_id, fingerprint=first.fingerprint, result=State(first.result) if first.result else None
        )


def _acceptance(row: Any) -> tuple[datetime, float, str]:
    """What tells which of two holders of a key was there first; one without a place comes after one of the same moment with one."""
    return row.accepted_at, float("inf") if row.commit_order is None else row.commit_order, row.command_id


def merge_modes(everywhere: Row[Any] | None, own: Row[Any] | None) -> Mode:
    """One `Mode` out of the global and the tenant's row; epochs add up, so a change of either is seen."""
    rows = [r for r in (everywhere, own) if r is not None]
    if not rows:
        return Mode()
    states = {r.state for r in rows}
    order = (ModeState.SAFE_MODE_ACTIVE, ModeState.RECOVERING, ModeState.DRAINING)
    deadlines = [r.safe_deadline for r in rows if r.safe_deadline is not None]
    return Mode(
        state=next((s for s in order if s in states), ModeState.NORMAL),
        epoch=sum(r.epoch for r in rows),
        safe_deadline=min(deadlines, default=None),
        contingency=any(r.contingency for r in rows),
    )


def gather(
    conn: Connection, keys: Sequence[LaneKey], chain: int, extra: Sequence[Command] = (), known: Known | None = None
) -> Facts:
    """Read the lanes, up to `chain` next commands of each, and everything those commands touch.

    Of commands that are `known`, only where they stand is read.
    `extra` commands, which nobody sent, take the next places of their lanes: what would become of them (a dry run).
    """
    facts = Facts()
    if not keys:
        return facts
    key_rows = [{"tenant_id": t, "contact_id": c} for t, c in keys]
    for row in joined_rows(conn, _LANE, key_rows, keys=_KEY, columns=_LANE.c.keys()):
        facts.lanes[(row.tenant_id, row.contact_id)] = LaneFacts(row)
    # in the order given, which the dry run relies on
    facts.lanes = {key: facts.lanes[key] for key in keys if key in facts.lanes}
    _load_commands(conn, facts, chain, known)
    for command in extra:
        lane = facts.lanes[(command.tenant_id, command.contact_id)]
        lane.commands.append(changed(command, commit_order=lane.row.last_assigned + lane.extra + 1))
        lane.extra += 1
    tenants = sorted({t for t, _ in keys})
    for row in conn.execute(_STEERING, {"scopes": [*tenants, GLOBAL_SCOPE], "tenants": tenants}):
        if row.held_type is None:
            facts.modes[row.scope] = row
        else:
            facts.held_types.add((row.scope, row.held_type))
    _load_key_uses(conn, facts)
    _load_agenda(conn, facts)
    return facts


def front_of(conn: Connection, key: LaneKey) -> Facts:
    """The lane, its mode and its first command, and nothing that the command names: what handing it to a person needs."""
    facts = Facts()
    for row in joined_rows(conn, _LANE, [{"tenant_id": key[0], "contact_id": key[1]}], keys=_KEY, columns=_LANE.c.keys()):
        facts.lanes[key] = LaneFacts(row)
    _load_commands(conn, facts, 1)
    facts.modes = {r.scope: r for r in conn.execute(select(_MODE).where(_MODE.c.scope.in_([key[0], GLOBAL_SCOPE])))}
    return facts


def _load_commands(conn: Connection, facts: Facts, chain: int, known: Known | None = None) -> None:
    """The next commands of each lane: a range of places first; the few lanes that begin with a wide gap one by one."""
    ranges = [
        {
            "tenant_id": lane.row.tenant_id,
            "contact_id": lane.row.contact_id,
            "was_commit_order": lane.row.last_committed + chain + 1,
        }
        for lane in facts.lanes.values()
    ]
    if not ranges:
        return
    rows = joined_rows(
        conn,
        _COMMAND,
        ranges,
        keys=_KEY,
        columns=_COMMAND.c.keys() if known is None else _STANDING,
        where="t.done_at IS NULL AND t.commit_order <= r.was_commit_order",
        flags={"shares_key": _SHARES_KEY},
        tail="ORDER BY t.tenant_id, t.contact_id, t.commit_order",
    )
    for row in rows:
        _add_row(facts, row, chain)
    for lane in facts.lanes.values():
        if not lane.rows and lane.row.waiting:
            first = (
                select(_COMMAND)
                .where(
                    _COMMAND.c.tenant_id == lane.row.tenant_id,
                    _COMMAND.c.contact_id == lane.row.contact_id,
                    _COMMAND.c.done_at.is_(None),
                    _COMMAND.c.commit_order.is_not(None),
                )
                .order_by(_COMMAND.c.commit_order)
                .limit(chain)
            )
            for row in conn.execute(first):
                _add_row(facts, row, chain)
    if known is None:
        for lane in facts.lanes.values():
            lane.commands += [command_of(row) for row in lane.rows]
    else:
        _fill_in(conn, facts, known)


_SHARES_KEY = (
    "EXISTS (SELECT 1 FROM command o WHERE o.tenant_id = t.tenant_id AND o.idempotency_key = t.idempotency_key "
    "AND o.command_id <> t.command_id)"
)
"""Whether another command carries the same key."""


def _add_row(facts: Facts, row: Row[Any], chain: int) -> None:
    lane = facts.lanes[(row.tenant_id, row.contact_id)]
    if len(lane.rows) == chain:
        lane.more = row.accepted_at
    else:
        lane.rows.append(row)


def _fill_in(conn: Connection, facts: Facts, known: Known) -> None:
    """The commands behind the rows: those that are known as they are, the others read whole."""
    found = [
        (lane, row, known(row.tenant_id, row.command_id, row.accepted_at)) for lane in facts.lanes.values() for row in lane.rows
    ]
    keys = [{"tenant_id": row.tenant_id, "command_id": row.command_id} for _, row, command in found if command is None]
    read = joined_rows(conn, _COMMAND, keys, keys=("tenant_id", "command_id"), columns=_COMMAND.c.keys()).all() if keys else []
    whole = {(row.tenant_id, row.command_id): command_of(row) for row in read}
    for lane, row, known_one in found:
        command = known_one or whole[(row.tenant_id, row.command_id)]
        if command.was_parked != row.was_parked or command.replayed != row.replayed:
            command = changed(command, was_parked=bool(row.was_parked), replayed=bool(row.replayed))
        lane.commands.append(command)


def command_of(row: Any) -> Command:
    """The domain value of a `command` row."""
    return Command(
        command_id=row.command_id,
        tenant_id=row.tenant_id,
        contact_id=row.contact_id,
        command_type=COMMAND_TYPES[row.command_type],
        idempotency_key=row.idempotency_key,
        fingerprint=row.fingerprint,
        requested_by=REQUESTERS[row.requested_by],
        requested_by_id=row.requested_by_id,
        confirmed_by_contact=bool(row.confirmed_by_contact),
        correlation_id=row.correlation_id,
        correlation_generated=bool(row.correlation_generated),
        payload=msgspec.json.decode(row.payload_json),
        conversation_id=row.conversation_id,
        patient_id=row.patient_id,
        guardian_version=row.guardian_version,
        conversation_version=row.conversation_version,
        entity_version=row.entity_version,
        as_of=row.as_of,
        occurred_at=row.occurred_at,
        commit_order=row.commit_order,
        causation_id=row.causation_id,
        source=SOURCES[row.source],
        was_parked=bool(row.was_parked),
        replayed=bool(row.replayed),
    )


def _commands(facts: Facts) -> Iterable[Command]:
    for lane in facts.lanes.values():
        yield from lane.commands


def _load_key_uses(conn: Connection, facts: Facts) -> None:
    """Others that carry a key of these commands: as good as always none, which their rows say; nobody said it of a dry run's."""
    keys = [
        {"tenant_id": c.tenant_id, "idempotency_key": c.idempotency_key, "was_command_id": c.command_id}
        for lane in facts.lanes.values()
        for row, c in zip_longest(lane.rows, lane.commands)
        if getattr(row, "shares_key", True)
    ]
    if not keys:
        return
    rows = joined_rows(
        conn,
        _COMMAND,
        keys,
        keys=("tenant_id", "idempotency_key"),
        columns=("tenant_id", "idempotency_key", "command_id", "commit_order", "accepted_at", "fingerprint", "result"),
        where="t.command_id <> r.was_command_id",
    )
    for row in rows:
        facts.key_uses.setdefault((row.tenant_id, row.idempotency_key), []).append(row)


def _load_agenda(conn: Connection, facts: Facts) -> None:
    """Appointments, guardians, patients and therapists named by the commands, and what is booked around wanted slots."""
    commands = [c for c in _commands(facts) if c.touches_agenda]
    if not commands:
        return
    named = {(c.tenant_id, c.appointment_id) for c in commands if c.appointment_id}
    if named:
        keys = [{"tenant_id": t, "appointment_id": a} for t, a in sorted(named)]
        rows = joined_rows(conn, _APPOINTMENT, keys, keys=("tenant_id", "appointment_id"), columns=_APPOINTMENT.c.keys())
        facts.appointments = {(row.tenant_id, row.appointment_id): appointment_of(row) for row in rows}
    people: set[tuple[str, str, str]] = set()
    windows: dict[tuple[str, str], tuple[datetime, datetime]] = {}
    for command in commands:
        target = facts.appointments.get((command.tenant_id, command.appointment_id or ""))
        patient = target.patient_id if target else command.patient_id
        for patient_id in {patient, command.patient_id} - {None}:
            people.add((command.tenant_id, str(patient_id), command.contact_id))
        therapist = target.therapist_id if target else command.therapist_id
        slot = wanted_slot(command)
        if slot and therapist is not None:
            low, high = windows.get((command.tenant_id, therapist), slot)
            windows[(command.tenant_id, therapist)] = (min(low, slot[0] - AROUND), max(high, slot[1] + AROUND))
    _load_people(conn, facts, commands, people)
    if windows:
        _load_booked(conn, facts, windows)


def appointment_of(row: Any) -> AppointmentFact:
    """The domain value of an `appointment` row."""
    return AppointmentFact(
        appointment_id=row.appointment_id,
        patient_id=row.patient_id,
        therapist_id=row.therapist_id,
        start_at=row.start_at,
        end_at=row.end_at,
        status=AppointmentStatus(row.status),
        version=row.version,
        as_of=row.as_of,
    )


def wanted_slot(command: Command) -> tuple[datetime, datetime] | None:
    """The interval a schedule or reschedule asks for, when it can be read."""
    if "start" not in command.payload:
        return None
    try:
        start, end = parse_time(command.payload.get("start")), parse_time(command.payload.get("end"))
    except ValueError:
        return None
    return (start, end) if start < end else None


def _load_people(conn: Connection, facts: Facts, commands: Sequence[Command], people: set[tuple[str, str, str]]) -> None:
    if people:
        keys = [{"tenant_id": t, "patient_id": p, "contact_id": c} for t, p, c in sorted(people)]
        triple = ("tenant_id", "patient_id", "contact_id")
        for row in joined_rows(conn, _GUARDIAN, keys, keys=triple, columns=_GUARDIAN.c.keys()):
            facts.guardians[(row.tenant_id, row.patient_id, row.contact_id)] = guardian_of(row)
        patients = [{"tenant_id": t, "patient_id": p} for t, p in sorted({(t, p) for t, p, _ in people})]
        pair = ("tenant_id", "patient_id")
        facts.patients = {(r.tenant_id, r.patient_id) for r in joined_rows(conn, _PATIENT, patients, keys=pair, columns=pair)}
    therapists = {(c.tenant_id, c.therapist_id) for c in commands if c.therapist_id is not None}
    rows = [{"tenant_id": t, "therapist_id": n} for t, n in sorted(therapists)]
    if rows:
        pair = ("tenant_id", "therapist_id")
        facts.therapists = {(r.tenant_id, r.therapist_id) for r in joined_rows(conn, _THERAPIST, rows, keys=pair, columns=pair)}


def guardian_of(row: Any) -> GuardianLink:
    """The domain value of a `guardian` row; a link without proof is unverified."""
    return GuardianLink(
        can_schedule=bool(row.can_schedule),
        can_cancel=bool(row.can_cancel),
        is_primary=bool(row.is_primary),
        verified=bool(row.verified_by and row.verification_method and row.verified_at),
        revoked=row.revoked_at is not None,
    )


def _load_booked(conn: Connection, facts: Facts, windows: dict[tuple[str, str], tuple[datetime, datetime]]) -> None:
    """Active appointments that overlap the window of each therapist."""
    keys = []
    for (tenant_id, therapist_id), (low, high) in windows.items():
        facts.booked[(tenant_id, therapist_id)] = []
        keys.append({"tenant_id": tenant_id, "therapist_id": therapist_id, "was_start_at": low, "was_end_at": high})
    rows = joined_rows(
        conn,
        _APPOINTMENT,
        keys,
        keys=("tenant_id", "therapist_id"),
        columns=_APPOINTMENT.c.keys(),
        where="t.status <> 'cancelled' AND t.start_at < r.was_end_at AND t.end_at > r.was_start_at",
    )
    for row in rows:
        facts.booked[(row.tenant_id, row.therapist_id)].append(appointment_of(row))
