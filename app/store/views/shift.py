"""What happened since a moment and what is open now: the facts of a shift handover, of the clinics of a scope."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select

from app.domain.states import EFFECT_RESULTS, State
from app.store.tables import (
    Alert,
    Appointment,
    Contact,
    D1StepRow,
    Lane,
    Ledger,
    ManualTask,
    ReplayBatch,
    SafeEpisode,
    Tenant,
    Ticket,
    UserAccount,
    table,
)
from app.store.views.alerts import visible
from app.store.views.scope import Scope, within

_ALERT, _APPOINTMENT, _CONTACT, _D1 = table(Alert), table(Appointment), table(Contact), table(D1StepRow)
_EPISODE, _LANE, _LEDGER, _TASK = table(SafeEpisode), table(Lane), table(Ledger), table(ManualTask)
_BATCH, _TICKET, _USER, _TENANT = table(ReplayBatch), table(Ticket), table(UserAccount), table(Tenant)

ROWS_MAX: Final = 30
"""Rows of one part; how many there are is said beside them."""
LANES_MAX: Final = 8
QUIET: Final = frozenset({*EFFECT_RESULTS, State.COMMITTED_CAUSAL, State.DUPLICATE_IGNORED})
"""Results that need nobody."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one part, and how many there are in all."""

    rows: tuple[Row[Any], ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """Manual tasks of one cause: opened and closed since the moment, open now."""

    cause: str
    opened: int
    closed: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayBefore:
    """The next day's appointments of one clinic: all that stand, confirmed, and asked without an answer."""

    booked: int
    confirmed: int
    unanswered: int


def left_at(conn: Connection, user_id: str) -> datetime | None:
    """When a person last looked before the session that they have now; None when they have never left."""
    return conn.execute(select(_USER.c.left_at).where(_USER.c.user_id == user_id)).scalar()


def episodes(conn: Connection, scope: Scope, since: datetime) -> Part:
    """Stays in safe mode that lasted into the span: those of the clinics, and of the whole installation."""
    mine = or_(_EPISODE.c.scope == "global", within(_EPISODE.c.scope, scope))
    return _part(conn, _EPISODE, [mine, _lasted(_EPISODE.c.ended_at, since)], _EPISODE.c.entered_at.desc())


def alerts(conn: Connection, scope: Scope, since: datetime) -> Part:
    """Alerts raised in the span, or not over; what nobody has taken on first."""
    wanted = [visible(scope), or_(_ALERT.c.raised_at >= since, _ALERT.c.status != "resolved")]
    return _part(conn, _ALERT, wanted, _ALERT.c.status != "open", _ALERT.c.severity, _ALERT.c.raised_at.desc())


def tickets(conn: Connection, scope: Scope, kind: str, since: datetime) -> Part:
    """Tickets of a kind (takeover | critical) opened in the span, closed in it, or open; the open ones first, by deadline."""
    wanted = [
        within(_TICKET.c.tenant_id, scope),
        _TICKET.c.kind == kind,
        or_(_TICKET.c.opened_at >= since, _lasted(_TICKET.c.closed_at, since)),
    ]
    order = (_TICKET.c.closed_at.is_not(None), _TICKET.c.due_at.is_(None), _TICKET.c.due_at, _TICKET.c.opened_at)
    return _part(conn, _TICKET, wanted, *order)


def tasks(conn: Connection, scope: Scope, since: datetime) -> tuple[TaskCount, ...]:
    """Manual tasks by cause, most open ones first."""
    mine = within(_TASK.c.tenant_id, scope)
    counted: dict[str, list[int]] = {}
    for place, condition in enumerate((_TASK.c.created_at >= since, _TASK.c.resolved_at >= since, _TASK.c.status != "resolved")):
        query = select(_TASK.c.cause, func.count()).where(mine, condition).group_by(_TASK.c.cause)
        for cause, n in conn.execute(query):
            counted.setdefault(cause, [0, 0, 0])[place] = int(n)
    found = [TaskCount(cause=c, opened=n[0], closed=n[1], open=n[2]) for c, n in counted.items()]
    return tuple(sorted(found, key=lambda t: (-t.open, -t.opened, t.cause)))


def results(conn: Connection, scope: Scope, since: datetime) -> dict[str, int]:
    """How requests ended in the span, by result."""
    query = (
        select(_LEDGER.c.result, func.count())
        .where(within(_LEDGER.c.tenant_id, scope), _LEDGER.c.committed_at >= since, _LEDGER.c.command_id.is_not(None))
        .group_by(_LEDGER.c.result)
    )
    return {result: int(n) for result, n in conn.execute(query)}


def replays(conn: Connection, scope: Scope, since: datetime) -> Part:
    """Replay batches planned, run or ended in the span, and those that run now."""
    changed = func.coalesce(_BATCH.c.ended_at, _BATCH.c.started_at, _BATCH.c.planned_at)
    wanted = [within(_BATCH.c.tenant_id, scope), or_(changed >= since, _BATCH.c.status.in_(("running", "paused")))]
    return _part(conn, _BATCH, wanted, _BATCH.c.planned_at.desc())


def waiting_lanes(conn: Connection, scope: Scope) -> Part:
    """The families that have waited longest, with their names."""
    contact = and_(_CONTACT.c.tenant_id == _LANE.c.tenant_id, _CONTACT.c.contact_id == _LANE.c.contact_id)
    wanted = [within(_LANE.c.tenant_id, scope), _LANE.c.waiting > 0]
    query = (
        select(_LANE, _CONTACT.c.name.label("contact_name"))
        .outerjoin(_CONTACT, contact)
        .where(*wanted)
        .order_by(_LANE.c.ready_since, _LANE.c.contact_id)
        .limit(LANES_MAX)
    )
    total = conn.execute(select(func.count()).select_from(_LANE).where(*wanted)).scalar_one()
    return Part(tuple(conn.execute(query)), int(total))


def day_before(conn: Connection, tenant_id: str, from_at: datetime, to_at: datetime) -> DayBefore:
    """How far the confirmations of a clinic's day are."""
    span = (
        _APPOINTMENT.c.tenant_id == tenant_id,
        _APPOINTMENT.c.start_at >= from_at,
        _APPOINTMENT.c.start_at < to_at,
        _APPOINTMENT.c.status != "cancelled",
    )
    by_status: Mapping[str, int] = {
        status: int(n)
        for status, n in conn.execute(select(_APPOINTMENT.c.status, func.count()).where(*span).group_by(_APPOINTMENT.c.status))
    }
    asked = (
        select(_D1.c.appointment_id)
        .where(_D1.c.tenant_id == tenant_id, _D1.c.start_at == _APPOINTMENT.c.start_at)
        .where(_D1.c.appointment_id == _APPOINTMENT.c.appointment_id)
        .exists()
    )
    unanswered = select(func.count()).select_from(_APPOINTMENT).where(*span, _APPOINTMENT.c.status == "scheduled", asked)
    return DayBefore(
        booked=sum(by_status.values()),
        confirmed=by_status.get("confirmed", 0),
        unanswered=int(conn.execute(unanswered).scalar_one()),
    )


def names(conn: Connection, rows: tuple[Row[Any], ...]) -> dict[tuple[str, str], str]:
    """Names of the contacts of tickets, by clinic and contact."""
    wanted = sorted({(row.tenant_id, row.contact_id) for row in rows if row.contact_id})
    if not wanted:
        return {}
    query = select(_CONTACT.c.tenant_id, _CONTACT.c.contact_id, _CONTACT.c.name).where(
        or_(*(and_(_CONTACT.c.tenant_id == t, _CONTACT.c.contact_id == c) for t, c in wanted))
    )
    return {(row.tenant_id, row.contact_id): row.name or row.contact_id for row in conn.execute(query)}


def _lasted(ended_at: ColumnElement[Any], since: datetime) -> ColumnElement[bool]:
    return or_(ended_at.is_(None), ended_at >= since)


def _part(conn: Connection, of: Any, wanted: list[ColumnElement[bool]], *order: Any) -> Part:
    rows = tuple(conn.execute(select(of).where(*wanted).order_by(*order).limit(ROWS_MAX)))
    total = len(rows)
    if total == ROWS_MAX:
        total = int(conn.execute(select(func.count()).select_from(of).where(*wanted)).scalar_one())
    return Part(rows, total)
