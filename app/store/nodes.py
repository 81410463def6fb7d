"""Heartbeat rows of running processes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from app.store.bulk import insert_rows
from app.store.tables import Node, ScaledTime, table

_NODE, _SCALED = table(Node), table(ScaledTime)

GONE_AFTER = timedelta(days=1)


def beat(conn: Connection, node_id: str, lock_mode: str, loops_json: str, now: datetime) -> None:
    """Say that this node lives; rows of nodes long gone are swept on the way."""
    insert_rows(conn, _NODE, [{"node_id": node_id, "started_at": now, "seen_at": now}], ignore_conflicts=True)
    conn.execute(update(_NODE).where(_NODE.c.node_id == node_id).values(seen_at=now, lock_mode=lock_mode, loops_json=loops_json))
    conn.execute(delete(_NODE).where(_NODE.c.seen_at < now - GONE_AFTER))


def nodes(conn: Connection) -> Sequence[Row[Any]]:
    """All nodes, last seen first."""
    return conn.execute(select(_NODE).order_by(_NODE.c.seen_at.desc())).all()


def keep_time(conn: Connection, scale: float, real_at: datetime, at: datetime) -> None:
    """Write down where the fast clock stands."""
    insert_rows(conn, _SCALED, [{"name": "clock", "scale": scale, "real_at": real_at, "at": at}], ignore_conflicts=True)
    conn.execute(update(_SCALED).where(_SCALED.c.name == "clock").values(scale=scale, real_at=real_at, at=at))


def shared_time(conn: Connection, scale: float, real_at: datetime, at: datetime) -> Row[Any]:
    """Where the fast clock of this installation stands; the first process says where it begins."""
    insert_rows(conn, _SCALED, [{"name": "clock", "scale": scale, "real_at": real_at, "at": at}], ignore_conflicts=True)
    return conn.execute(select(_SCALED)).one()
