"""What the overview and the frame show: is it safe, what needs a person, how much waits, how fast it moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Float, Integer, String, and_, case, cast, func, literal_column, or_, select, true

from app.domain.states import ModeState
from app.store.lanes import GLOBAL_SCOPE, PARKED_BY, merge_modes
from app.store.nodes import SILENT_AFTER
from app.store.tables import Contact, InboxCommand, Lane, Ledger, ManualTask, ModeRow, Node, Ticket, table
from app.store.views.scope import Clinic, Scope, clinics, within

_LANE, _COMMAND, _LEDGER, _CONTACT = table(Lane), table(InboxCommand), table(Ledger), table(Contact)
_TASK, _TICKET, _MODE, _NODE = table(ManualTask), table(Ticket), table(ModeRow), table(Node)
_ZERO: Final = literal_column("0", Integer)

"""Causes in `lane.blocked_by` with which commands are parked."""
FLOW_MINUTES: Final = 60
WAIT_WINDOW: Final = timedelta(minutes=10)
NEEDS_MAX: Final = 8
STUCK_AFTER: Final = timedelta(minutes=2)
"""A lane that stands still for this long is shown to people."""


# --- numbers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The four numbers, each with the fact that gives it weight."""

    queued: int
    oldest_at: datetime | None
    """When the command that waits longest was accepted."""
    parked: int
    parked_lanes: int
    manual: int
    manual_overdue: int
    manual_due_at: datetime | None
    takeovers: int
    takeovers_overdue: int
    takeover_due_at: datetime | None


def numbers(conn: Connection, scope: Scope, now: datetime) -> Numbers:
    """Counts of what waits for the machine and for people."""
    parked = _LANE.c.blocked_by.in_(PARKED_BY)
    lanes = conn.execute(
        select(
            func.coalesce(func.sum(_LANE.c.waiting), 0),
            func.min(_LANE.c.ready_since),
            func.coalesce(func.sum(case((parked, _LANE.c.waiting), else_=0)), 0),
            func.coalesce(func.sum(case((parked, 1), else_=0)), 0),
        ).where(within(_LANE.c.tenant_id, scope), _LANE.c.waiting > _ZERO)
    ).one()
    tasks = _people_counts(_TASK.c.due_at, now).where(within(_TASK.c.tenant_id, scope), _TASK.c.status != "resolved")
    manual = conn.execute(tasks).one()
    takeovers = conn.execute(
        _people_counts(_TICKET.c.due_at, now).where(
            within(_TICKET.c.tenant_id, scope), _TICKET.c.kind == "takeover", _TICKET.c.closed_at.is_(None)
        )
    ).one()
    return Numbers(
        queued=int(lanes[0]),
        oldest_at=lanes[1],
        parked=int(lanes[2]),
        parked_lanes=int(lanes[3]),
        manual=manual[0],
        manual_overdue=manual[1],
        manual_due_at=manual[2],
        takeovers=takeovers[0],
        takeovers_overdue=takeovers[1],
        takeover_due_at=takeovers[2],
    )


def _people_counts(due_at: ColumnElement[Any], now: datetime) -> Any:
    """How many, how many overdue, the next deadline."""
    overdue = func.coalesce(func.sum(case((due_at <= now, 1), else_=0)), 0)
    return select(func.count(), overdue, func.min(case((due_at > now, due_at), else_=None)))


# --- is it safe ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """A clinic (None = all of them) in an abnormal mode."""

    clinic: Clinic | None
    kind: str
    """safe_mode | draining (safe mode is over, what it parked leaves) | contingency."""
    since: datetime | None
    reason: str | None
    recovering: bool = False
    """Safe mode holds and its exit has been asked for: the green minutes are awaited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the banner is made of; all empty = all is well."""

    modes: tuple[Mode, ...]
    parked: int
    fallback_nodes: int
    nodes: int


_STRICTEST: Final = ("safe_mode", "draining", "contingency")


def situation(conn: Connection, scope: Scope, now: datetime) -> Situation:
    """Safe mode and contingency in the scope (safe mode first, oldest first), what is parked, and the lock store."""
    query = select(_MODE).where((_MODE.c.scope == GLOBAL_SCOPE) | within(_MODE.c.scope, scope))
    rows = [row for row in conn.execute(query) if _abnormal(row, now)]
    names = clinics(conn, [row.scope for row in rows if row.scope != GLOBAL_SCOPE])
    modes = []
    for row in rows:
        merged = merge_modes(row, None)
        blocks = merged.safe_mode_blocks(now)
        safe = blocks or merged.state is ModeState.DRAINING
        modes.append(
            Mode(
                clinic=names.get(row.scope),
                kind="safe_mode" if blocks else "draining" if safe else "contingency",
                recovering=blocks and merged.state is ModeState.RECOVERING,
                since=(row.since or row.safe_deadline) if safe else row.contingency_since,
                reason=row.reason if safe else row.contingency_reason,
            )
        )
    modes.sort(key=lambda m: (_STRICTEST.index(m.kind), m.clinic is not None, m.since or now))
    parked = select(func.coalesce(func.sum(_LANE.c.waiting), 0)).where(
        within(_LANE.c.tenant_id, scope), _LANE.c.waiting > _ZERO, _LANE.c.blocked_by.in_(PARKED_BY)
    )
    alive = live_nodes(conn, now)
    return Situation(
        modes=tuple(modes),
        parked=int(conn.execute(parked).scalar_one()) if modes else 0,
        fallback_nodes=sum(node.lock_mode == "fallback" for node in alive),
        nodes=len(alive),
    )


def _abnormal(row: Any, now: datetime) -> bool:
    mode = merge_modes(row, None)
    return mode.safe_mode_blocks(now) or mode.contingency or mode.state is not ModeState.NORMAL


# --- nodes --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A process that was seen a moment ago."""

    node_id: str
    started_at: datetime
    seen_at: datetime
    lock_mode: str
    """database (no Redis configured) | primary | fallback."""
    slowest_loop: str | None
    slowest_s: float


def live_nodes(conn: Connection, now: datetime) -> tuple[NodeState, ...]:
    """Processes that beat within the last 20 s, by name."""
    rows = conn.execute(select(_NODE).where(_NODE.c.seen_at > now - SILENT_AFTER).order_by(_NODE.c.node_id))
    return tuple(_node_of(row) for row in rows)


def _node_of(row: Any) -> NodeState:
    ages: Mapping[str, float] = msgspec.json.decode(row.loops_json)
    slowest = max(ages, key=lambda name: ages[name], default=None)
    return NodeState(
        node_id=row.node_id,
        started_at=row.started_at,
        seen_at=row.seen_at,
        lock_mode=row.lock_mode,
        slowest_loop=slowest,
        slowest_s=float(ages[slowest]) if slowest else 0.0,
    )


# --- flow ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Commands per minute over the last hour, oldest first; `wait_p95_s` over the last ten minutes, None without any."""

    minutes: tuple[datetime, ...]
    accepted: tuple[int, ...]
    committed: tuple[int, ...]
    parked: tuple[int, ...]
    wait_p95_s: float | None
    wait_count: int


def flow(conn: Connection, scope: Scope, now: datetime) -> Flow:
    """What came in, what reached its terminal result and what was parked, by minute.

    Commands of the last hour are either in the ledger since then or still pending, so both come from an index.
    """
    last = now.replace(second=0, microsecond=0)
    minutes = tuple(last - timedelta(minutes=n) for n in range(FLOW_MINUTES - 1, -1, -1))
    since = minutes[0]
    done = (within(_LEDGER.c.tenant_id, scope), _LEDGER.c.committed_at >= since, _LEDGER.c.command_id.is_not(None))
    waiting = (within(_COMMAND.c.tenant_id, scope), _COMMAND.c.done_at.is_(None), _COMMAND.c.commit_order.is_not(None))
    committed = _per_minute(conn, _LEDGER.c.committed_at, done)
    accepted = _per_minute(conn, _LEDGER.c.accepted_at, (*done, _LEDGER.c.accepted_at >= since))
    _add(accepted, _per_minute(conn, _COMMAND.c.accepted_at, (*waiting, _COMMAND.c.accepted_at >= since)))
    was_parked = (_COMMAND.c.was_parked.is_(True), _COMMAND.c.waiting_since >= since)
    parked = _per_minute(conn, _COMMAND.c.waiting_since, (*waiting, *was_parked))
    released = and_(_LEDGER.c.tenant_id == _COMMAND.c.tenant_id, _LEDGER.c.command_id == _COMMAND.c.command_id)
    _add(parked, _per_minute(conn, _COMMAND.c.waiting_since, (*done, _LEDGER.c.late.is_(True), released, *was_parked)))
    p95, count = _wait_p95(conn, scope, now)
    return Flow(
        minutes=minutes,
        accepted=tuple(accepted.get(_key(m), 0) for m in minutes),
        committed=tuple(committed.get(_key(m), 0) for m in minutes),
        parked=tuple(parked.get(_key(m), 0) for m in minutes),
        wait_p95_s=p95,
        wait_count=count,
    )


def _key(minute: datetime) -> str:
    return minute.strftime("%Y-%m-%d %H:%M")


def _per_minute(conn: Connection, at: ColumnElement[Any], where: Sequence[ColumnElement[bool]]) -> dict[str, int]:
    if conn.dialect.name == "postgresql":
        minute: ColumnElement[Any] = func.to_char(func.timezone("UTC", at), "YYYY-MM-DD HH24:MI")
    else:
        minute = func.substr(cast(at, String), 1, 16)
    rows = conn.execute(select(minute.label("minute"), func.count()).where(*where).group_by(literal_column("minute")))
    return {row[0]: row[1] for row in rows}


def _add(into: dict[str, int], more: Mapping[str, int]) -> None:
    for minute, count in more.items():
        into[minute] = into.get(minute, 0) + count


def _wait_p95(conn: Connection, scope: Scope, now: datetime) -> tuple[float | None, int]:
    """95th percentile (nearest rank) of the time from acceptance to commit, and of how many."""
    waited = seconds_between(conn, _LEDGER.c.accepted_at, _LEDGER.c.committed_at)
    recent = (within(_LEDGER.c.tenant_id, scope), _LEDGER.c.committed_at >= now - WAIT_WINDOW, _LEDGER.c.command_id.is_not(None))
    count = conn.execute(select(func.count()).select_from(_LEDGER).where(*recent)).scalar_one()
    if not count:
        return None, 0
    nearest = max(0, -(-count * 95 // 100) - 1)
    value = conn.execute(select(waited).where(*recent).order_by(waited).offset(nearest).limit(1)).scalar_one()
    return max(0.0, float(value)), count


def seconds_between(conn: Connection, start: ColumnElement[Any], end: ColumnElement[Any]) -> ColumnElement[Any]:
    """Seconds from one column to another."""
    if conn.dialect.name == "postgresql":
        return cast(func.extract("epoch", end - start), Float)
    return (func.julianday(cast(end, String)) - func.julianday(cast(start, String))) * 86_400.0


# --- what needs a person ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that a person should look at now; `kind` is takeover | manual | stuck."""

    kind: str
    clinic: Clinic
    contact_id: str | None
    contact_name: str | None
    state: str
    """Cause of a task, state of a takeover, `blocked_by` of a lane."""
    reason: str
    command_type: str | None
    rank: int
    since: datetime
    due_at: datetime | None
    item_id: str
    owner: str | None
    waiting: int = 0


def needs(conn: Connection, scope: Scope, now: datetime, limit: int = NEEDS_MAX, *, me: str | None = None) -> tuple[Need, ...]:
    """The most urgent items: takeovers and tasks by deadline, then lanes that stand still the longest.

    What somebody else than `me` has is left to them until its deadline has passed; without `me` it is all shown.
    """

    def for_me(owner: ColumnElement[Any], due_at: ColumnElement[Any]) -> ColumnElement[bool]:
        return true() if me is None else or_(owner.is_(None), owner == me, due_at <= now)

    contact = and_(_CONTACT.c.tenant_id == _TICKET.c.tenant_id, _CONTACT.c.contact_id == _TICKET.c.contact_id)
    takeovers = (
        select(_TICKET, _CONTACT.c.name.label("contact_name"))
        .outerjoin(_CONTACT, contact)
        .where(within(_TICKET.c.tenant_id, scope), _TICKET.c.kind == "takeover", _TICKET.c.closed_at.is_(None))
        .where(for_me(_TICKET.c.owner, _TICKET.c.due_at))
        .order_by(_TICKET.c.due_at.is_(None), _TICKET.c.due_at)
        .limit(limit)
    )
    contact = and_(_CONTACT.c.tenant_id == _TASK.c.tenant_id, _CONTACT.c.contact_id == _TASK.c.contact_id)
    command = and_(_COMMAND.c.tenant_id == _TASK.c.tenant_id, _COMMAND.c.command_id == _TASK.c.command_id)
    tasks = (
        select(_TASK, _CONTACT.c.name.label("contact_name"), _COMMAND.c.command_type)
        .outerjoin(_CONTACT, contact)
        .outerjoin(_COMMAND, command)
        .where(within(_TASK.c.tenant_id, scope), _TASK.c.status != "resolved", for_me(_TASK.c.owner, _TASK.c.due_at))
        .order_by(_TASK.c.due_at, _TASK.c.priority, _TASK.c.task_id)
        .limit(limit)
    )
    contact = and_(_CONTACT.c.tenant_id == _LANE.c.tenant_id, _CONTACT.c.contact_id == _LANE.c.contact_id)
    stuck = (
        select(_LANE, _CONTACT.c.name.label("contact_name"))
        .outerjoin(_CONTACT, contact)
        .where(within(_LANE.c.tenant_id, scope), _LANE.c.waiting > _ZERO, _LANE.c.blocked_since <= now - STUCK_AFTER)
        .order_by(_LANE.c.blocked_since)
        .limit(limit)
    )
    rows = {"takeover": conn.execute(takeovers).all(), "manual": conn.execute(tasks).all(), "stuck": conn.execute(stuck).all()}
    names = clinics(conn, [row.tenant_id for kind in rows.values() for row in kind])
    timed = [
        _need("takeover", names, row, row.state, row.reason, row.opened_at, row.due_at, row.ticket_id, row.owner)
        for row in rows["takeover"]
    ] + [
        _need("manual", names, row, row.cause, row.reason, row.created_at, row.due_at, row.task_id, row.owner)
        for row in rows["manual"]
    ]
    timed.sort(key=lambda n: (n.due_at is None, n.due_at or n.since, n.item_id))
    still = [
        _need("stuck", names, row, row.blocked_by, row.blocked_by, row.blocked_since, None, row.contact_id, None)
        for row in rows["stuck"]
    ]
    return tuple([*timed, *still][:limit])


def _need(
    kind: str,
    names: Mapping[str, Clinic],
    row: Any,
    state: str,
    reason: str,
    since: datetime,
    due_at: datetime | None,
    item_id: str,
    owner: str | None,
) -> Need:
    best = 0 if kind == "takeover" else 1
    if kind == "stuck":
        best = next((i for i, count in enumerate((row.wait_0, row.wait_1, row.wait_2)) if count > 0), 3)
    return Need(
        kind=kind,
        clinic=names[row.tenant_id],
        contact_id=row.contact_id,
        contact_name=row.contact_name,
        state=state,
        reason=reason,
        command_type=getattr(row, "command_type", None),
        rank=row.priority if kind == "manual" else best,
        since=since,
        due_at=due_at,
        item_id=item_id,
        owner=owner,
        waiting=row.waiting if kind == "stuck" else 0,
    )
