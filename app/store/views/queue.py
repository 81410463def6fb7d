"""The queue as people see it: every waiting command, lanes in dispatch order, commands in commit order.

The order of lanes is the rule of `domain.lanes.rank`, written in SQL so that ten thousand waiting rows stay fast; a test
compares the two. Lanes that dispatch does not look at (a gap, parked, paused, held) have no dispatch position and come
after the others, oldest stop first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Integer, Row, Subquery, and_, case, func, literal_column, or_, select

from app.domain.envelopes import parse_time
from app.domain.lanes import DEFAULT_POLICY
from app.store.bulk import joined_rows
from app.store.tables import Appointment, Contact, Hold, InboxCommand, Lane, Ticket, table
from app.store.views.scope import Clinic, Scope, clinics, within

_LANE, _COMMAND, _CONTACT = table(Lane), table(InboxCommand), table(Contact)
_HOLD, _APPOINTMENT, _TICKET = table(Hold), table(Appointment), table(Ticket)

PAGE_ROWS: Final = 50
_ZERO: Final = literal_column("0", Integer)
"""As a literal: SQLite uses a partial index only when it sees the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFilter:
    """What a person wants to see; empty = everything. `contact` is a part of a name, phone or contact id."""

    statuses: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    types: tuple[str, ...] = ()
    contact: str = ""

    @property
    def active(self) -> bool:
        """Whether anything is filtered."""
        return bool(self.statuses or self.ranks or self.types or self.contact)


@dataclass(frozen=True, slots=True, order=True)
class QueueCursor:
    """The last row seen: place of its lane, and its commit order."""

    place: int
    commit_order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """One waiting command, with the facts that say why it waits."""

    clinic: Clinic
    contact_id: str
    contact_name: str | None
    command_id: str
    command_type: str
    rank: int
    """Priority class, 0 (urgent) to 3: dispatch only."""
    commit_order: int
    status: str
    reason: str | None
    accepted_at: datetime
    waiting_since: datetime | None
    requested_by: str
    starts_at: datetime | None
    """Start of the appointment at stake, when it can be told."""
    place: int
    """Place of the lane among all waiting lanes of the scope."""
    position: int | None
    """Dispatch position of the lane, 1 = next; None while dispatch does not look at it, and behind the front command."""
    front: bool
    waits_for: int | None
    """The commit order directly before, while that is not done."""
    blocked_by: str | None
    blocked_since: datetime | None
    next_look_at: datetime | None
    paused_since: datetime | None
    paused_reason: str | None
    owner: str | None
    """Who has the conversation, else who paused the contact: actor of the audit trail."""
    held: bool
    """Whether a person paused the clinic, or this type of command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePage:
    """Some rows, how many there are with this filter, and where the next page begins."""

    rows: tuple[QueueRow, ...]
    total: int
    lanes: int
    next_cursor: QueueCursor | None


@dataclass(frozen=True, slots=True)
class _Ordered:
    lanes: Subquery
    """Every waiting lane of the scope with `place` and `position`."""
    held_types: frozenset[tuple[str, str]] = field(default_factory=frozenset)


def queue_page(
    conn: Connection, scope: Scope, wanted: QueueFilter, now: datetime, *, after: QueueCursor | None = None, limit: int = PAGE_ROWS
) -> QueuePage:
    """One page of the queue behind `after`."""
    ordered = _ordered(conn, scope, now)
    lanes = ordered.lanes
    chosen = select(lanes)
    if after is not None:
        chosen = chosen.where(lanes.c.place >= after.place)
    if not wanted.active:
        # every lane has a row, so so many lanes are enough to fill the page
        chosen = chosen.order_by(lanes.c.place).limit(limit + 1)
    here = chosen.subquery("here")
    query = (
        select(here, *_columns(), _CONTACT.c.name.label("contact_name"))
        .join(_COMMAND, and_(_COMMAND.c.tenant_id == here.c.tenant_id, _COMMAND.c.contact_id == here.c.contact_id))
        .outerjoin(_CONTACT, and_(_CONTACT.c.tenant_id == here.c.tenant_id, _CONTACT.c.contact_id == here.c.contact_id))
        .where(*_pending(), *_matches(wanted))
        .order_by(here.c.place, _COMMAND.c.commit_order)
        .limit(limit + 1)
    )
    if after is not None:
        query = query.where(or_(here.c.place > after.place, _COMMAND.c.commit_order > after.commit_order))
    found = conn.execute(query).all()
    rows = found[:limit]
    total, lane_count = _totals(conn, scope, wanted)
    names = clinics(conn, [row.tenant_id for row in rows])
    starts, owners = starts_of(conn, rows), owners_of(conn, rows)
    shown = tuple(
        _row_of(
            row,
            names[row.tenant_id],
            starts.get((row.tenant_id, row.command_id)),
            ordered.held_types,
            owners.get((row.tenant_id, row.contact_id)),
        )
        for row in rows
    )
    cursor = QueueCursor(rows[-1].place, rows[-1].commit_order) if len(found) > limit else None
    return QueuePage(rows=shown, total=total, lanes=lane_count, next_cursor=cursor)


def waiting_total(conn: Connection, scope: Scope) -> int:
    """How many commands wait, parked ones included."""
    query = select(func.coalesce(func.sum(_LANE.c.waiting), 0)).where(within(_LANE.c.tenant_id, scope), _LANE.c.waiting > _ZERO)
    return int(conn.execute(query).scalar_one())


def lane_place(conn: Connection, tenant_id: str, contact_id: str, now: datetime) -> int | None:
    """Dispatch position of one lane inside its clinic, 1 = next; None while dispatch does not look at it."""
    return lane_places(conn, tenant_id, [contact_id], now).get(contact_id)


def lane_places(conn: Connection, tenant_id: str, contact_ids: Sequence[str], now: datetime) -> dict[str, int]:
    """Dispatch positions of lanes inside their clinic, by contact; without those that dispatch does not look at."""
    lanes = _ordered(conn, (tenant_id,), now).lanes
    wanted = (lanes.c.contact_id.in_(list(contact_ids)), lanes.c.position.is_not(None))
    return {row.contact_id: row.position for row in conn.execute(select(lanes.c.contact_id, lanes.c.position).where(*wanted))}


# --- order --------------------------------------------------------------------------------------------------------------


def _ordered(conn: Connection, scope: Scope, now: datetime) -> _Ordered:
    holds = conn.execute(select(_HOLD.c.tenant_id, _HOLD.c.command_type).where(within(_HOLD.c.tenant_id, scope))).all()
    held_tenants = sorted({row.tenant_id for row in holds if row.command_type == "*"})
    stopped = case(
        (or_(_LANE.c.blocked_by.is_not(None), and_(_LANE.c.paused_at.is_not(None), _LANE.c.step_credit == 0)), 1),
        (_LANE.c.tenant_id.in_(held_tenants), 1),
        else_=0,
    )
    best = case((_LANE.c.wait_0 > 0, 0), (_LANE.c.wait_1 > 0, 1), (_LANE.c.wait_2 > 0, 2), else_=3)
    since = func.coalesce(_LANE.c.ready_since, now, type_=_LANE.c.ready_since.type)
    step = DEFAULT_POLICY.age_step
    aged = case((since <= now - 3 * step, 3), (since <= now - 2 * step, 2), (since <= now - step, 1), else_=0)
    lanes = (
        select(
            _LANE.c.tenant_id,
            _LANE.c.contact_id,
            _LANE.c.last_committed,
            _LANE.c.blocked_by,
            _LANE.c.blocked_since,
            _LANE.c.not_before,
            _LANE.c.paused_at,
            _LANE.c.paused_by,
            _LANE.c.paused_reason,
            _LANE.c.step_credit,
            since.label("since"),
            stopped.label("stopped"),
            case((best > aged, best - aged), else_=0).label("effective"),
        )
        .where(within(_LANE.c.tenant_id, scope), _LANE.c.waiting > _ZERO)
        .subquery("waiting_lane")
    )
    own_turn = func.row_number().over(
        partition_by=(lanes.c.tenant_id, lanes.c.stopped), order_by=(lanes.c.effective, lanes.c.since, lanes.c.contact_id)
    )
    numbered = select(lanes, own_turn.label("own_turn")).subquery("numbered_lane")
    # what goes beyond one burst of a tenant competes one class lower
    served_as = numbered.c.effective + (numbered.c.own_turn - 1) // DEFAULT_POLICY.burst
    classed = select(numbered, served_as.label("served_as")).subquery("classed_lane")
    turn = func.row_number().over(
        partition_by=(classed.c.tenant_id, classed.c.stopped, classed.c.served_as), order_by=classed.c.own_turn
    )
    turned = select(classed, turn.label("turn")).subquery("turned_lane")
    ready = turned.c.stopped == 0
    stop_since = func.coalesce(turned.c.blocked_since, turned.c.paused_at, turned.c.since)
    place = func.row_number().over(
        order_by=(
            turned.c.stopped,
            case((ready, turned.c.served_as), else_=0),
            case((ready, turned.c.turn), else_=0),
            case((ready, turned.c.since), else_=stop_since),
            turned.c.tenant_id,
            turned.c.contact_id,
        )
    )
    placed = select(turned, place.label("place")).subquery("placed_lane")
    position = case((placed.c.stopped == 0, placed.c.place), else_=None)
    held_types = frozenset((row.tenant_id, row.command_type) for row in holds)
    return _Ordered(select(placed, position.label("position")).subquery("ordered_lane"), held_types)


def _columns() -> tuple[ColumnElement[Any], ...]:
    return (
        _COMMAND.c.command_id,
        _COMMAND.c.command_type,
        _COMMAND.c.priority,
        _COMMAND.c.commit_order,
        _COMMAND.c.status,
        _COMMAND.c.reason,
        _COMMAND.c.accepted_at,
        _COMMAND.c.waiting_since,
        _COMMAND.c.requested_by,
        _COMMAND.c.payload_json,
    )


def _pending() -> tuple[ColumnElement[bool], ...]:
    return (_COMMAND.c.done_at.is_(None), _COMMAND.c.commit_order.is_not(None))


def _matches(wanted: QueueFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.statuses:
        conditions.append(_COMMAND.c.status.in_(wanted.statuses))
    if wanted.ranks:
        conditions.append(_COMMAND.c.priority.in_(wanted.ranks))
    if wanted.types:
        conditions.append(_COMMAND.c.command_type.in_(wanted.types))
    if wanted.contact:
        conditions.append(named_like(wanted.contact))
    return conditions


def named_like(part: str) -> ColumnElement[bool]:
    """Contacts whose name, phone or id contains `part`, whatever its case (of ASCII letters, on SQLite)."""
    return or_(
        _CONTACT.c.name.icontains(part, autoescape=True),
        _CONTACT.c.contact_id.icontains(part, autoescape=True),
        _CONTACT.c.phone.icontains(part, autoescape=True),
    )


def _totals(conn: Connection, scope: Scope, wanted: QueueFilter) -> tuple[int, int]:
    """Rows and lanes with this filter."""
    if not wanted.active:
        query = select(func.coalesce(func.sum(_LANE.c.waiting), 0), func.count()).where(
            within(_LANE.c.tenant_id, scope), _LANE.c.waiting > _ZERO
        )
    else:
        lane = _COMMAND.c.tenant_id + "/" + _COMMAND.c.contact_id
        query = (
            select(func.count(), func.count(lane.distinct()))
            .select_from(_COMMAND)
            .where(within(_COMMAND.c.tenant_id, scope), *_pending(), *_matches(wanted))
        )
        if wanted.contact:
            query = query.join(
                _CONTACT, and_(_CONTACT.c.tenant_id == _COMMAND.c.tenant_id, _CONTACT.c.contact_id == _COMMAND.c.contact_id)
            )
    rows, lanes = conn.execute(query).one()
    return int(rows), int(lanes)


# --- rows ---------------------------------------------------------------------------------------------------------------


def _row_of(
    row: Row[Any], clinic: Clinic, starts_at: datetime | None, held_types: frozenset[tuple[str, str]], owner: str | None
) -> QueueRow:
    front = row.commit_order == row.last_committed + 1
    first_there = row.position is not None
    held = (row.tenant_id, "*") in held_types or (row.tenant_id, row.command_type) in held_types
    return QueueRow(
        clinic=clinic,
        contact_id=row.contact_id,
        contact_name=row.contact_name,
        command_id=row.command_id,
        command_type=row.command_type,
        rank=row.priority,
        commit_order=row.commit_order,
        status=row.status,
        reason=row.reason,
        accepted_at=row.accepted_at,
        waiting_since=row.waiting_since,
        requested_by=row.requested_by,
        starts_at=starts_at,
        place=row.place,
        position=row.position if front and first_there else None,
        front=front,
        waits_for=None if front else row.commit_order - 1,
        blocked_by=row.blocked_by,
        blocked_since=row.blocked_since,
        next_look_at=row.not_before,
        paused_since=None if row.step_credit else row.paused_at,
        paused_reason=row.paused_reason,
        owner=owner or (row.paused_by if row.paused_at is not None else None),
        held=held,
    )


def owners_of(conn: Connection, rows: Sequence[Any]) -> Mapping[tuple[str, str], str]:
    """Who has the conversation of each contact that a person has taken over."""
    query = select(_TICKET.c.tenant_id, _TICKET.c.contact_id, _TICKET.c.owner).where(
        _TICKET.c.tenant_id.in_({row.tenant_id for row in rows}),
        _TICKET.c.contact_id.in_({row.contact_id for row in rows}),
        _TICKET.c.kind == "takeover",
        _TICKET.c.closed_at.is_(None),
        _TICKET.c.owner.is_not(None),
    )
    return {(row.tenant_id, row.contact_id): row.owner for row in conn.execute(query)} if rows else {}


def starts_of(conn: Connection, rows: Sequence[Any]) -> Mapping[tuple[str, str], datetime]:
    """Start of the appointment that each command is about: the slot it asks for, else the appointment it names."""
    starts: dict[tuple[str, str], datetime] = {}
    named: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        payload = msgspec.json.decode(row.payload_json)
        try:
            starts[(row.tenant_id, row.command_id)] = parse_time(payload.get("start"))
        except ValueError:
            appointment_id = payload.get("appointment_id")
            if isinstance(appointment_id, str) and appointment_id:
                named.setdefault((row.tenant_id, appointment_id), []).append(row.command_id)
    if named:
        keys = [{"tenant_id": t, "appointment_id": a} for t, a in sorted(named)]
        columns = ("tenant_id", "appointment_id", "start_at")
        for found in joined_rows(conn, _APPOINTMENT, keys, keys=("tenant_id", "appointment_id"), columns=columns):
            for command_id in named[(found.tenant_id, found.appointment_id)]:
                starts[(found.tenant_id, command_id)] = found.start_at
    return starts
