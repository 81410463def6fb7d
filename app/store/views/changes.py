"""Reading the event log for live streams: what changed since, each change exactly once, none skipped.

On SQLite there is one writer, so positions become visible in order. On PostgreSQL a lower position may become visible after
a higher one; so a reader moves from horizon to horizon: only rows of transactions that were over when the horizon was
taken (`xid` below the snapshot's xmin), and of those only the ones at or above the last horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, select, text

from app.store.tables import EventLog, table

_EVENTS = table(EventLog)

BATCH_MAX: Final = 5_000
"""More changes at once than this are not told one by one: readers start afresh."""
LOOK_BACK: Final = 1_000
"""How far below the newest position a transaction may still have been taking its number (PostgreSQL)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the event log; empty `refs` = anything of the topic may have changed, `tenant_id` None = everywhere."""

    position: int
    tenant_id: str | None
    topic: str
    refs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a reader stands, and what it has just read; `overflow` = too much to tell, start afresh."""

    position: int
    horizon: int
    changes: tuple[Change, ...] = ()
    overflow: bool = False


def read_end(conn: Connection, keep: int) -> Tail:
    """The end of the log, with the last `keep` changes."""
    horizon = _horizon(conn)
    query = select(_EVENTS).order_by(_EVENTS.c.position.desc()).limit(keep)
    if horizon:
        query = query.where(_EVENTS.c.xid < horizon)
    rows = conn.execute(query).all()[::-1]
    return Tail(rows[-1].position if rows else 0, horizon, _changes(rows))


def read_on(conn: Connection, tail: Tail) -> Tail:
    """What was added since `tail`."""
    horizon = _horizon(conn)
    query = select(_EVENTS).order_by(_EVENTS.c.position).limit(BATCH_MAX + 1)
    if horizon:
        query = query.where(_EVENTS.c.position > tail.position - LOOK_BACK, _EVENTS.c.xid >= tail.horizon, _EVENTS.c.xid < horizon)
    else:
        query = query.where(_EVENTS.c.position > tail.position)
    rows = conn.execute(query).all()
    if len(rows) > BATCH_MAX:
        end = read_end(conn, 1)
        return Tail(max(end.position, tail.position), end.horizon, overflow=True)
    position = max([tail.position, *(row.position for row in rows)])
    return Tail(position, horizon, _changes(rows))


def _horizon(conn: Connection) -> int:
    """The oldest transaction that may still be open; 0 on SQLite, where none ever hides behind a newer one."""
    if conn.dialect.name != "postgresql":
        return 0
    return int(conn.execute(text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")).scalar_one())


def _changes(rows: Sequence[Row[Any]]) -> tuple[Change, ...]:
    return tuple(Change(row.position, row.tenant_id, row.topic, tuple(msgspec.json.decode(row.refs_json))) for row in rows)
