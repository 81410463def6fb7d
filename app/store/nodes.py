"""Heartbeat rows of running processes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select, update

from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.tables import EventLog, Ledger, Node, ScaledTime, table

_NODE, _SCALED, _EVENT, _LEDGER = table(Node), table(ScaledTime), table(EventLog), table(Ledger)

GONE_AFTER = timedelta(days=1)


SILENT_AFTER: Final = timedelta(seconds=20)
"""A process that has not been seen for so long does not run any more."""


def beat(conn: Connection, node_id: str, lock_mode: str, loops_json: str, now: datetime) -> None:
    """Say that this node lives; rows of nodes long gone are swept on the way.

    Screens hear of it when it changes what they show: a node that is new, one with another lock mode, or one that fell
    silent since this node's last beat. On a quiet clinic nothing else would tell them.
    """
    mine = conn.execute(select(_NODE).where(_NODE.c.node_id == node_id)).first()
    if mine is None or mine.seen_at <= now - SILENT_AFTER or mine.lock_mode != lock_mode or _fell_silent(conn, mine.seen_at, now):
        publish(conn, None, "overview", [node_id], now)
    insert_rows(conn, _NODE, [{"node_id": node_id, "started_at": now, "seen_at": now}], ignore_conflicts=True)
    conn.execute(update(_NODE).where(_NODE.c.node_id == node_id).values(seen_at=now, lock_mode=lock_mode, loops_json=loops_json))
    conn.execute(delete(_NODE).where(_NODE.c.seen_at < now - GONE_AFTER))


def _fell_silent(conn: Connection, before: datetime, now: datetime) -> bool:
    """Whether a node passed the limit of silence between two moments."""
    gone = select(_NODE.c.node_id).where(_NODE.c.seen_at > before - SILENT_AFTER, _NODE.c.seen_at <= now - SILENT_AFTER)
    return conn.execute(gone.limit(1)).first() is not None


def nodes(conn: Connection) -> Sequence[Row[Any]]:
    """All nodes, last seen first."""
    return conn.execute(select(_NODE).order_by(_NODE.c.seen_at.desc())).all()


def newest_moment(conn: Connection) -> datetime | None:
    """The latest time that any process wrote down here: events and signs of life are written all the time."""
    seen = [conn.execute(select(func.max(c))).scalar() for c in (_EVENT.c.at, _NODE.c.seen_at, _LEDGER.c.committed_at)]
    return max((at for at in seen if at is not None), default=None)


def keep_time(conn: Connection, scale: float, real_at: datetime, at: datetime) -> None:
    """Write down where the fast clock stands."""
    insert_rows(conn, _SCALED, [{"name": "clock", "scale": scale, "real_at": real_at, "at": at}], ignore_conflicts=True)
    conn.execute(update(_SCALED).where(_SCALED.c.name == "clock").values(scale=scale, real_at=real_at, at=at))


def shared_time(conn: Connection, scale: float, real_at: datetime, at: datetime) -> Row[Any]:
    """Where the fast clock of this installation stands; the first process says where it begins."""
    insert_rows(conn, _SCALED, [{"name": "clock", "scale": scale, "real_at": real_at, "at": at}], ignore_conflicts=True)
    return conn.execute(select(_SCALED)).one()
