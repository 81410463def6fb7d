"""One contact: who it is, why its lane waits, and the causal timeline of its messages and commands.

Commands stand in `commit_order`, messages in `sequence`; the two are joined by time. A command never rises above one with
a higher commit order, whatever the order in which they arrived.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, or_, select

from app.store.locks import locks_held
from app.store.tables import (
    Appointment,
    Contact,
    Guardian,
    Hold,
    InboxCommand,
    InboxMessage,
    Lane,
    Ledger,
    Patient,
    Proposal,
    Tenant,
    Therapist,
    table,
)
from app.store.views.queue import lane_place, starts_of
from app.store.views.scope import Clinic, clinic_of

_CONTACT, _LANE, _COMMAND, _MESSAGE = table(Contact), table(Lane), table(InboxCommand), table(InboxMessage)
_LEDGER, _GUARDIAN, _PATIENT, _THERAPIST = table(Ledger), table(Guardian), table(Patient), table(Therapist)
_APPOINTMENT, _PROPOSAL, _HOLD, _TENANT = table(Appointment), table(Proposal), table(Hold), table(Tenant)

TIMELINE_ROWS: Final = 60
APPOINTMENTS_MAX: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneHead:
    """The contact and its lane: who, versions, how far, and what it waits for."""

    clinic: Clinic
    contact_id: str
    name: str | None
    phone: str | None
    conversation_version: int
    guardian_version: int
    last_sequence: int
    last_processed: int
    unheard: int
    last_assigned: int
    last_committed: int
    waiting: int
    position: int | None
    """Dispatch position inside the clinic, 1 = next; None while dispatch does not look at the lane, or nothing waits."""
    blocked_by: str | None
    blocked_since: datetime | None
    next_look_at: datetime | None
    paused_since: datetime | None
    paused_by: str | None
    paused_reason: str | None
    locked: bool
    """Whether a node is at it now, as far as locks in the database tell."""
    held_since: datetime | None
    held_reason: str | None
    takeover: bool
    proposal_until: datetime | None
    """Until when an open proposal waits for the family's CONFIRMAR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineItem:
    """A message or a command. `number` is its sequence or commit order; None for a command that got no place."""

    kind: str
    """message | command | gap."""
    item_id: str
    number: int | None
    at: datetime
    done_at: datetime | None
    status: str
    reason: str | None
    rank: int
    correlation_id: str
    # commands
    command_type: str | None = None
    requested_by: str | None = None
    starts_at: datetime | None = None
    result: str | None = None
    occurred_at: datetime | None = None
    waiting_since: datetime | None = None
    was_parked: bool = False
    replayed: bool = False
    confirmed: bool = False
    idempotency_key: str | None = None
    conversation_version: int | None = None
    guardian_version: int | None = None
    entity_version: int | None = None
    as_of: datetime | None = None
    causation_id: str | None = None
    ledger_entity: str | None = None
    ledger_entity_version: int | None = None
    lock_mode: str | None = None
    node_id: str | None = None
    chain_hash: str | None = None
    # messages
    text: str = ""
    event_type: str | None = None
    intent: str | None = None
    source: str | None = None
    made_command_id: str | None = None
    # gaps
    gap_until: int | None = None
    """Last number of a run of places that nobody has taken."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Newest first; `older` is the time from which the next page goes on."""

    items: tuple[TimelineItem, ...]
    older: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What the contact may do for one patient."""

    patient_id: str
    patient_name: str | None
    is_primary: bool
    can_schedule: bool
    can_cancel: bool
    verified: bool
    revoked_at: datetime | None
    verified_by: str | None
    verified_at: datetime | None
    method: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """An appointment of a patient that the contact has to do with."""

    appointment_id: str
    patient_id: str
    patient_name: str | None
    therapist_name: str | None
    start_at: datetime
    end_at: datetime
    status: str
    version: int
    as_of: datetime


def lane_head(conn: Connection, tenant_id: str, contact_id: str, now: datetime) -> LaneHead | None:
    """The contact's head; None when there is no such contact."""
    row = conn.execute(
        select(_CONTACT.c.name, _CONTACT.c.phone, _LANE)
        .select_from(_CONTACT)
        .outerjoin(_LANE, _same(_LANE, _CONTACT))
        .where(_CONTACT.c.tenant_id == tenant_id, _CONTACT.c.contact_id == contact_id)
    ).first()
    if row is None:
        return None
    clinic = clinic_of(conn.execute(select(_TENANT).where(_TENANT.c.tenant_id == tenant_id)).one())
    hold = _hold(conn, tenant_id, contact_id) if row.waiting else None
    proposal = conn.execute(
        select(_PROPOSAL.c.expires_at).where(
            _PROPOSAL.c.tenant_id == tenant_id,
            _PROPOSAL.c.contact_id == contact_id,
            _PROPOSAL.c.closed_at.is_(None),
            _PROPOSAL.c.expires_at > now,
        )
    ).scalar()
    return LaneHead(
        clinic=clinic,
        contact_id=contact_id,
        name=row.name,
        phone=row.phone,
        conversation_version=row.conversation_version if row.conversation_version is not None else 1,
        guardian_version=row.guardian_version or 0,
        last_sequence=row.last_sequence or 0,
        last_processed=row.last_processed or 0,
        unheard=row.unheard or 0,
        last_assigned=row.last_assigned or 0,
        last_committed=row.last_committed or 0,
        waiting=row.waiting or 0,
        position=lane_place(conn, tenant_id, contact_id, now) if row.waiting else None,
        blocked_by=row.blocked_by,
        blocked_since=row.blocked_since,
        next_look_at=row.not_before,
        locked=bool(row.waiting and locks_held(conn, [(tenant_id, contact_id)], now)),
        paused_since=row.paused_at,
        paused_by=row.paused_by,
        paused_reason=row.paused_reason,
        held_since=hold.since if hold else None,
        held_reason=hold.reason if hold else None,
        takeover=row.takeover_id is not None,
        proposal_until=proposal,
    )


def _same(left: Any, right: Any) -> Any:
    return and_(left.c.tenant_id == right.c.tenant_id, left.c.contact_id == right.c.contact_id)


def _hold(conn: Connection, tenant_id: str, contact_id: str) -> Row[Any] | None:
    """A person's pause that stops the front command: of the whole clinic, or of its type."""
    front = (
        select(_COMMAND.c.command_type)
        .where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.contact_id == contact_id, *_PENDING)
        .order_by(_COMMAND.c.commit_order)
        .limit(1)
        .scalar_subquery()
    )
    query = select(_HOLD).where(_HOLD.c.tenant_id == tenant_id, or_(_HOLD.c.command_type == "*", _HOLD.c.command_type == front))
    return conn.execute(query.order_by(_HOLD.c.command_type)).first()


_PENDING: Final = (_COMMAND.c.done_at.is_(None), _COMMAND.c.commit_order.is_not(None))


# --- timeline -----------------------------------------------------------------------------------------------------------


def timeline(
    conn: Connection, tenant_id: str, contact_id: str, *, before: datetime | None = None, limit: int = TIMELINE_ROWS
) -> Timeline:
    """The newest messages and commands (before a time), with the places in between that nobody has taken."""
    commands = _commands(conn, tenant_id, contact_id, before, limit)
    messages = _messages(conn, tenant_id, contact_id, before, limit)
    from_the_end = before is None and len(commands) < limit
    placed = _with_gaps(commands, _last_committed(conn, tenant_id, contact_id) if from_the_end else None)
    placed = sorted([*placed, *_tombstones(conn, tenant_id, contact_id, before, limit)], key=lambda item: item.number or 0)
    refused = [c for c in commands if c.number is None]
    merged: list[tuple[datetime, int, TimelineItem]] = [(at, item.number or 0, item) for at, item in _causal(placed)]
    merged += [(item.at, 0, item) for item in refused]
    merged += [(item.at, item.number or 0, item) for item in messages]
    # at the same instant a message comes before the command that it led to
    merged.sort(key=lambda entry: (entry[0], entry[2].kind != "message", entry[1]), reverse=True)
    full = len(commands) == limit or len(messages) == limit
    shown = merged[:limit] if full else merged
    older = min((item.at for _, _, item in shown), default=None) if full or len(merged) > len(shown) else None
    return Timeline(tuple(item for _, _, item in shown), older)


def _commands(conn: Connection, tenant_id: str, contact_id: str, before: datetime | None, limit: int) -> list[TimelineItem]:
    """Newest first: what still waits, then by commit order; commands without a place by time."""
    ledger = and_(
        _LEDGER.c.tenant_id == _COMMAND.c.tenant_id,
        _LEDGER.c.contact_id == _COMMAND.c.contact_id,
        _LEDGER.c.commit_order == _COMMAND.c.commit_order,
    )
    entry = (
        *(_LEDGER.c[name] for name in ("entity_id", "lock_mode", "node_id", "hash")),
        _LEDGER.c.entity_version.label("made_version"),
    )
    query = (
        select(_COMMAND, *entry)
        .outerjoin(_LEDGER, ledger)
        .where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.contact_id == contact_id)
        .order_by(_COMMAND.c.accepted_at.desc(), _COMMAND.c.commit_order.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(_COMMAND.c.accepted_at < before)
    rows = conn.execute(query).all()
    starts = starts_of(conn, rows)
    return [_command_item(row, starts.get((tenant_id, row.command_id))) for row in rows]


def _command_item(row: Row[Any], starts_at: datetime | None) -> TimelineItem:
    return TimelineItem(
        kind="command",
        item_id=row.command_id,
        number=row.commit_order,
        at=row.accepted_at,
        done_at=row.done_at,
        status=row.status,
        reason=row.reason,
        rank=row.priority,
        correlation_id=row.correlation_id,
        command_type=row.command_type,
        requested_by=row.requested_by,
        starts_at=starts_at,
        result=row.result,
        occurred_at=row.occurred_at,
        waiting_since=row.waiting_since,
        was_parked=bool(row.was_parked),
        replayed=bool(row.replayed),
        confirmed=bool(row.confirmed_by_contact),
        idempotency_key=row.idempotency_key,
        conversation_version=row.conversation_version,
        guardian_version=row.guardian_version,
        entity_version=row.entity_version,
        as_of=row.as_of,
        causation_id=row.causation_id,
        ledger_entity=row.entity_id,
        ledger_entity_version=row.made_version,
        lock_mode=row.lock_mode,
        node_id=row.node_id,
        chain_hash=row.hash,
    )


def _messages(conn: Connection, tenant_id: str, contact_id: str, before: datetime | None, limit: int) -> list[TimelineItem]:
    query = (
        select(_MESSAGE)
        .where(_MESSAGE.c.tenant_id == tenant_id, _MESSAGE.c.contact_id == contact_id)
        .order_by(_MESSAGE.c.sequence.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(_MESSAGE.c.received_at < before)
    return [
        TimelineItem(
            kind="message",
            item_id=row.event_id,
            number=row.sequence,
            at=row.received_at,
            done_at=row.done_at,
            status=row.status,
            reason=row.reason,
            rank=row.priority,
            correlation_id=row.correlation_id,
            occurred_at=row.occurred_at,
            conversation_version=row.conversation_version,
            text=_text_of(row.payload_json),
            event_type=row.event_type,
            intent=row.intent,
            source=row.source,
            made_command_id=row.made_command_id,
        )
        for row in conn.execute(query)
    ]


def _text_of(payload_json: str) -> str:
    value = msgspec.json.decode(payload_json).get("text")
    return value if isinstance(value, str) else ""


def _last_committed(conn: Connection, tenant_id: str, contact_id: str) -> int:
    query = select(_LANE.c.last_committed).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)
    return conn.execute(query).scalar() or 0


def _with_gaps(commands: Sequence[TimelineItem], last_committed: int | None) -> list[TimelineItem]:
    """Commands by commit order, and a `gap` for each run of places ahead that no command has taken.

    `last_committed` None: what comes before the first of these commands is not known.
    """
    placed = sorted((c for c in commands if c.number is not None), key=lambda c: c.number or 0)
    known: list[TimelineItem] = []
    expected = None if last_committed is None else last_committed + 1
    for item in placed:
        number = item.number or 0
        if expected is not None and number > expected and item.done_at is None:
            known.append(_gap(expected, number - 1, item))
        expected = max(expected or 0, number + 1)
        known.append(item)
    return known


def _tombstones(conn: Connection, tenant_id: str, contact_id: str, before: datetime | None, limit: int) -> list[TimelineItem]:
    """Places that the lane went past without a command, with their ledger entries."""
    query = (
        select(_LEDGER)
        .where(_LEDGER.c.tenant_id == tenant_id, _LEDGER.c.contact_id == contact_id, _LEDGER.c.command_id.is_(None))
        .order_by(_LEDGER.c.commit_order.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(_LEDGER.c.accepted_at < before)
    return [
        TimelineItem(
            kind="gap",
            item_id=f"gap-{row.commit_order}",
            number=row.commit_order,
            gap_until=row.commit_order,
            at=row.accepted_at,
            done_at=row.committed_at,
            status=row.result,
            reason=row.reason,
            rank=3,
            correlation_id=row.correlation_id,
            chain_hash=row.hash,
        )
        for row in conn.execute(query)
    ]


def _gap(first: int, last: int, behind: TimelineItem) -> TimelineItem:
    return TimelineItem(
        kind="gap",
        item_id=f"gap-{first}",
        number=first,
        gap_until=last,
        at=behind.at,
        done_at=None,
        status="waiting_previous_commit",
        reason="previous_missing",
        rank=behind.rank,
        correlation_id="",
    )


def _causal(items: Sequence[TimelineItem]) -> Iterator[tuple[datetime, TimelineItem]]:
    """Each item, by commit order, with the time at which it stands: never before one of a lower commit order."""
    latest: datetime | None = None
    for item in items:
        latest = item.at if latest is None else max(latest, item.at)
        yield latest, item


# --- around the lane ----------------------------------------------------------------------------------------------------


def permissions(conn: Connection, tenant_id: str, contact_id: str) -> tuple[Permission, ...]:
    """Every permission that the contact has or had."""
    patient = and_(_PATIENT.c.tenant_id == _GUARDIAN.c.tenant_id, _PATIENT.c.patient_id == _GUARDIAN.c.patient_id)
    query = (
        select(_GUARDIAN, _PATIENT.c.name.label("patient_name"))
        .outerjoin(_PATIENT, patient)
        .where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.contact_id == contact_id)
        .order_by(_GUARDIAN.c.revoked_at.is_not(None), _GUARDIAN.c.patient_id)
    )
    return tuple(
        Permission(
            patient_id=row.patient_id,
            patient_name=row.patient_name,
            is_primary=bool(row.is_primary),
            can_schedule=bool(row.can_schedule),
            can_cancel=bool(row.can_cancel),
            verified=bool(row.verified_by and row.verification_method and row.verified_at),
            revoked_at=row.revoked_at,
            verified_by=row.verified_by,
            verified_at=row.verified_at,
            method=row.verification_method,
        )
        for row in conn.execute(query)
    )


def visits(conn: Connection, tenant_id: str, contact_id: str, now: datetime) -> tuple[Visit, ...]:
    """Coming appointments of the contact's patients, and of patients that its commands name; the nearest first."""
    own = select(_GUARDIAN.c.patient_id).where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.contact_id == contact_id)
    pending = select(_COMMAND.c.patient_id).where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.contact_id == contact_id, *_PENDING)
    patient = and_(_PATIENT.c.tenant_id == _APPOINTMENT.c.tenant_id, _PATIENT.c.patient_id == _APPOINTMENT.c.patient_id)
    therapist = and_(_THERAPIST.c.tenant_id == _APPOINTMENT.c.tenant_id, _THERAPIST.c.therapist_id == _APPOINTMENT.c.therapist_id)
    query = (
        select(_APPOINTMENT, _PATIENT.c.name.label("patient_name"), _THERAPIST.c.name.label("therapist_name"))
        .outerjoin(_PATIENT, patient)
        .outerjoin(_THERAPIST, therapist)
        .where(
            _APPOINTMENT.c.tenant_id == tenant_id,
            or_(_APPOINTMENT.c.patient_id.in_(own), _APPOINTMENT.c.patient_id.in_(pending)),
            _APPOINTMENT.c.end_at > now,
        )
        .order_by(_APPOINTMENT.c.status == "cancelled", _APPOINTMENT.c.start_at)
        .limit(APPOINTMENTS_MAX)
    )
    return tuple(
        Visit(
            appointment_id=row.appointment_id,
            patient_id=row.patient_id,
            patient_name=row.patient_name,
            therapist_name=row.therapist_name,
            start_at=row.start_at,
            end_at=row.end_at,
            status=row.status,
            version=row.version,
            as_of=row.as_of,
        )
        for row in conn.execute(query)
    )
