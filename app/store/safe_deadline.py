"""`mode.safe_deadline`: the moment from which safe mode holds by itself, kept in step with the alerts of its scope.

It is written in the transaction that raises a critical alert and taken back only before it has passed: by the ACK or the
end of that alert. Once passed, it holds until the exit of safe mode resets it.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from app.store.alert_ladder import locked
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import Alert, ModeRow, table

_ALERT, _MODE = table(Alert), table(ModeRow)


Moment = datetime | Callable[[], datetime]
"""A time, or where to read it once every lock is held."""


def moment(now: Moment) -> datetime:
    """The time of an act: read now, if it comes from a clock."""
    return now() if callable(now) else now


def lock_mode(conn: Connection, scope: str) -> Row[Any]:
    """The mode row of a scope, made if need be, locked against every effect's transaction."""
    insert_rows(conn, _MODE, [{"scope": scope, "state": "normal", "epoch": 0, "contingency": False}], ignore_conflicts=True)
    return conn.execute(locked(conn, select(_MODE).where(_MODE.c.scope == scope))).one()


def unacknowledged_deadline(conn: Connection, scope: str) -> datetime | None:
    """The earliest moment at which safe mode begins by the open, unacknowledged critical alerts of a scope."""
    query = select(func.min(_ALERT.c.safe_mode_at)).where(
        _ALERT.c.scope == scope, _ALERT.c.acked_at.is_(None), _ALERT.c.status == "open", _ALERT.c.safe_mode_at.is_not(None)
    )
    found: datetime | None = conn.execute(query).scalar()
    return found


def reset_deadline(conn: Connection, scope: str, now: datetime) -> datetime | None:
    """Set the deadline to what the open alerts say, whatever it was: the last act of leaving safe mode."""
    lock_mode(conn, scope)
    deadline = unacknowledged_deadline(conn, scope)
    _set_deadline(conn, scope, deadline, now)
    return deadline


def bring_forward(conn: Connection, scope: str, safe_mode_at: datetime, now: datetime) -> None:
    """A critical alert was raised: the deadline is the earliest there is."""
    row = lock_mode(conn, scope)
    if row.safe_deadline is None or safe_mode_at < row.safe_deadline:
        _set_deadline(conn, scope, safe_mode_at, now)


def ease_deadline(conn: Connection, scope: str, now: datetime) -> None:
    """Give the deadline back to the alerts that are still open; one that has passed holds until the exit."""
    row = lock_mode(conn, scope)
    if row.safe_deadline is None or row.safe_deadline <= now:
        return
    deadline = unacknowledged_deadline(conn, scope)
    if deadline != row.safe_deadline:
        _set_deadline(conn, scope, deadline, now)


def _set_deadline(conn: Connection, scope: str, deadline: datetime | None, now: datetime) -> None:
    conn.execute(update(_MODE).where(_MODE.c.scope == scope).values(safe_deadline=deadline))
    publish(conn, None if scope == GLOBAL_SCOPE else scope, "safe_mode", [], now)
