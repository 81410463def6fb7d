"""How things ended that were in a list a moment ago: tasks, conversations, waiting commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from app.store.tables import InboxCommand, Ledger, ManualTask, Ticket, table
from app.store.views.scope import Scope, within

_TASK, _TICKET, _COMMAND, _LEDGER = table(ManualTask), table(Ticket), table(InboxCommand), table(Ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One thing that is over; `by` is the actor of a person's act, `result` the state of a command."""

    item_id: str
    at: datetime
    by: str | None = None
    result: str | None = None


def closed_tasks(conn: Connection, scope: Scope, task_ids: Sequence[str]) -> list[Ended]:
    """Those of the tasks that are closed."""
    query = select(_TASK.c.task_id, _TASK.c.resolved_at, _TASK.c.owner).where(
        within(_TASK.c.tenant_id, scope), _TASK.c.task_id.in_(task_ids), _TASK.c.resolved_at.is_not(None)
    )
    return [Ended(item_id=row.task_id, at=row.resolved_at, by=row.owner) for row in conn.execute(query)]


def closed_tickets(conn: Connection, scope: Scope, ticket_ids: Sequence[str]) -> list[Ended]:
    """Those of the conversations that were given back."""
    query = select(_TICKET.c.ticket_id, _TICKET.c.closed_at, _TICKET.c.owner).where(
        within(_TICKET.c.tenant_id, scope), _TICKET.c.ticket_id.in_(ticket_ids), _TICKET.c.closed_at.is_not(None)
    )
    return [Ended(item_id=row.ticket_id, at=row.closed_at, by=row.owner) for row in conn.execute(query)]


def done_commands(conn: Connection, scope: Scope, ids: Sequence[str]) -> list[Ended]:
    """Those of the commands, given as `<tenant_id>_<command_id>`, that have their terminal result."""
    pairs = [(tenant_id, command_id) for tenant_id, _, command_id in (text.partition("_") for text in ids) if command_id]
    query = select(_COMMAND.c.tenant_id, _COMMAND.c.command_id, _COMMAND.c.done_at, _COMMAND.c.result).where(
        within(_COMMAND.c.tenant_id, scope),
        _COMMAND.c.tenant_id.in_(sorted({tenant_id for tenant_id, _ in pairs})),
        _COMMAND.c.command_id.in_([command_id for _, command_id in pairs]),
        _COMMAND.c.done_at.is_not(None),
    )
    rows = conn.execute(query)
    return [Ended(item_id=f"{row.tenant_id}_{row.command_id}", at=row.done_at, result=row.result) for row in rows]


# --- since when a list is empty -----------------------------------------------------------------------------------------


def last_commit_at(conn: Connection, scope: Scope) -> datetime | None:
    """When the last request got its result; None before the first."""
    query = select(_LEDGER.c.committed_at).where(within(_LEDGER.c.tenant_id, scope)).order_by(_LEDGER.c.committed_at.desc())
    return conn.execute(query.limit(1)).scalar()


def last_closed_task_at(conn: Connection, scope: Scope) -> datetime | None:
    """When the last task was closed; None when none ever was."""
    return conn.execute(select(func.max(_TASK.c.resolved_at)).where(within(_TASK.c.tenant_id, scope))).scalar()


def last_closed_ticket_at(conn: Connection, scope: Scope) -> datetime | None:
    """When the last conversation was given back; None when none ever was."""
    query = select(func.max(_TICKET.c.closed_at)).where(
        within(_TICKET.c.tenant_id, scope), _TICKET.c.kind == "takeover", _TICKET.c.closed_at.is_not(None)
    )
    return conn.execute(query).scalar()
