"""The event log: what changed, for streams on any node. Written in the transaction of the change, read by position."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from app.store.bulk import insert_rows
from app.store.tables import EventLog, table

_EVENTS = table(EventLog)
_PG_INSERT = text(
    "INSERT INTO event_log (tenant_id, topic, refs_json, at, xid) "
    "VALUES (:tenant_id, :topic, :refs_json, :at, pg_current_xact_id()::text::bigint)"
)

REFS_MAX = 200
"""A row names at most this many changed things; beyond, readers treat the whole topic as changed (empty list)."""


def publish(conn: Connection, tenant_id: str | None, topic: str, refs: Iterable[str], now: datetime) -> None:
    """Append one change of `topic`; `refs` name the changed things (contact ids, alert ids, ...)."""
    publish_many(conn, {(tenant_id, topic): refs}, now)


def publish_many(conn: Connection, changes: Mapping[tuple[str | None, str], Iterable[str]], now: datetime) -> None:
    """Append one row per (tenant, topic)."""
    rows = []
    for (tenant_id, topic), refs in changes.items():
        names = sorted(set(refs))
        listed = names if len(names) <= REFS_MAX else []
        rows.append({"tenant_id": tenant_id, "topic": topic, "refs_json": msgspec.json.encode(listed).decode(), "at": now})
    if not rows:
        return
    if conn.dialect.name == "postgresql":
        conn.execute(_PG_INSERT, rows)
    else:
        insert_rows(conn, _EVENTS, rows)
