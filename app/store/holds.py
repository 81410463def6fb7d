"""A person's pause on a whole clinic, or on one type of command in it: written here, respected by dispatch.

Both acts raise the epoch of the clinic's mode, whose row every effect's transaction holds on to: once a pause has been
answered, nothing that was decided before it is written any more, and a wait that a resume has ended is not written again.
"""

from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select, update

from app.domain.states import CommandType
from app.errors import Conflict
from app.store import audit
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.people import By
from app.store.safe_deadline import lock_mode
from app.store.tables import Hold, Lane, ModeRow, table

_HOLD, _LANE, _MODE = table(Hold), table(Lane), table(ModeRow)

EVERYTHING: Final = "*"
"""Instead of a command type: every type of the clinic."""
HOLDABLE: Final = frozenset({EVERYTHING, *CommandType})


def holds(conn: Connection, tenant_id: str) -> list[dict[str, Any]]:
    """What is paused in a clinic: command type (`*` = all), since when, by whom, why."""
    query = select(_HOLD).where(_HOLD.c.tenant_id == tenant_id).order_by(_HOLD.c.command_type)
    return [
        {"command_type": row.command_type, "since": row.since, "by": row.by, "reason": row.reason} for row in conn.execute(query)
    ]


def hold(conn: Connection, tenant_id: str, command_type: str, by: By, reason: str) -> None:
    """Pause a type of command, or all of them. Raises Conflict when it is paused already."""
    row = {"tenant_id": tenant_id, "command_type": command_type, "since": by.now, "by": by.actor[:200], "reason": reason[:500]}
    mode = lock_mode(conn, tenant_id)
    before = holds(conn, tenant_id)
    if any(one["command_type"] == command_type for one in before):
        raise Conflict("This is paused already; nothing was changed.")
    insert_rows(conn, _HOLD, [row])
    _raise_epoch(conn, mode)
    _done(conn, tenant_id, "hold", command_type, by, reason, before)


def resume(conn: Connection, tenant_id: str, command_type: str, by: By, reason: str) -> None:
    """End a pause; what waits is looked at at once. Raises Conflict when nothing is paused."""
    mode = lock_mode(conn, tenant_id)
    before = holds(conn, tenant_id)
    if conn.execute(delete(_HOLD).where(*_one(tenant_id, command_type))).rowcount != 1:
        raise Conflict("This is not paused any more; nothing was changed.")
    _raise_epoch(conn, mode)
    conn.execute(update(_LANE).where(_LANE.c.tenant_id == tenant_id, _LANE.c.blocked_by == "held").values(not_before=None))
    _done(conn, tenant_id, "resume", command_type, by, reason, before)


def _raise_epoch(conn: Connection, mode: Row[Any]) -> None:
    conn.execute(update(_MODE).where(_MODE.c.scope == mode.scope).values(epoch=mode.epoch + 1))


def _one(tenant_id: str, command_type: str) -> tuple[Any, Any]:
    return (_HOLD.c.tenant_id == tenant_id, _HOLD.c.command_type == command_type)


def _done(
    conn: Connection, tenant_id: str, action: str, command_type: str, by: By, reason: str, before: list[dict[str, Any]]
) -> None:
    audit.append(
        conn,
        chain=tenant_id,
        actor=by.actor,
        action=action,
        object=f"command_type:{command_type}",
        before={"holds": [h["command_type"] for h in before]},
        after={"holds": [h["command_type"] for h in holds(conn, tenant_id)]},
        reason=reason,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    for topic in ("queue", "lane"):
        publish(conn, tenant_id, topic, [], by.now)
