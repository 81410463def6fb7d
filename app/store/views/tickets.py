"""Tickets as the API lists them: conversations that people took over, and the critical ones of safe mode."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, or_, select

from app.store.tables import Ticket, table
from app.store.views.scope import Scope, within

_TICKET = table(Ticket)


def tickets(
    conn: Connection,
    tenant_id: str | None,
    *,
    limit: int,
    after: tuple[datetime, str] | None = None,
    kind: str | None = None,
    state: str | None = None,
) -> list[dict[str, Any]]:
    """Newest first; `tenant_id` None = of every clinic and of the installation itself."""
    t = _TICKET.c
    query = select(_TICKET).order_by(t.opened_at.desc(), t.ticket_id.desc()).limit(limit)
    if tenant_id is not None:
        query = query.where(t.tenant_id == tenant_id)
    if kind is not None:
        query = query.where(t.kind == kind)
    if state is not None:
        query = query.where(t.state == state)
    if after is not None:
        query = query.where(or_(t.opened_at < after[0], and_(t.opened_at == after[0], t.ticket_id < after[1])))
    return [_shown(row) for row in conn.execute(query)]


def critical(conn: Connection, scope: Scope, limit: int) -> list[Any]:
    """Critical tickets of some clinics (None = of all, and of the installation): open ones first, oldest deadline first."""
    t = _TICKET.c
    query = select(_TICKET).where(t.kind == "critical")
    if scope is not None:
        query = query.where(within(t.tenant_id, scope))
    return list(conn.execute(query.order_by(t.closed_at.is_not(None), t.closed_at.desc(), t.due_at, t.ticket_id).limit(limit)))


def critical_one(conn: Connection, ticket_id: str, scope: Scope) -> Any:
    """A critical ticket that somebody sees; None for any other."""
    query = select(_TICKET).where(_TICKET.c.ticket_id == ticket_id, _TICKET.c.kind == "critical")
    return conn.execute(query if scope is None else query.where(within(_TICKET.c.tenant_id, scope))).first()


def _shown(row: Any) -> dict[str, Any]:
    own = {"takeover_id": row.ticket_id} if row.kind == "takeover" else {}
    return own | {
        "ticket_id": row.ticket_id,
        "tenant_id": row.tenant_id,
        "kind": row.kind,
        "state": row.state,
        "level": row.level,
        "owner": row.owner,
        "contact_id": row.contact_id,
        "cause_id": row.cause_id,
        "reason": row.reason,
        "opened_at": _iso(row.opened_at),
        "due_at": _iso(row.due_at),
        "started_at": _iso(row.started_at),
        "closed_at": _iso(row.closed_at),
        "close_reason": row.close_reason,
        "correlation_id": row.correlation_id,
        "context": msgspec.json.decode(row.context_json),
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
