"""Heartbeat rows of running processes."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from app.store.bulk import insert_rows
from app.store.tables import Node, table

_NODE = table(Node)

GONE_AFTER = timedelta(days=1)


def beat(conn: Connection, node_id: str, lock_mode: str, loops_json: str, now: datetime) -> None:
    """Say that this node lives; rows of nodes long gone are swept on the way."""
    insert_rows(conn, _NODE, [{"node_id": node_id, "started_at": now, "seen_at": now}], ignore_conflicts=True)
    conn.execute(update(_NODE).where(_NODE.c.node_id == node_id).values(seen_at=now, lock_mode=lock_mode, loops_json=loops_json))
    conn.execute(delete(_NODE).where(_NODE.c.seen_at < now - GONE_AFTER))


def nodes(conn: Connection) -> Sequence[Row[Any]]:
    """All nodes, last seen first."""
    return conn.execute(select(_NODE).order_by(_NODE.c.seen_at.desc())).all()
