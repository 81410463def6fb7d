"""The event log: what changed, for streams on any node. Written in the transaction of the change, read by position."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from app.store.bulk import Bundle
from app.store.tables import EventLog, table

_EVENTS = table(EventLog)

_OF_THE_TRANSACTION: dict[str, dict[str, str]] = {
    "postgresql": {"xid": "pg_current_xact_id()::text::bigint"},  # tells readers which rows may still come
    "sqlite": {},
}

REFS_MAX = 200
"""A row names at most this many changed things; beyond, readers treat the whole topic as changed (empty list)."""


def publish(conn: Connection, tenant_id: str | None, topic: str, refs: Iterable[str], now: datetime) -> None:
    """Append one change of `topic`; `refs` name the changed things (contact ids, alert ids, ...)."""
    publish_many(conn, {(tenant_id, topic): refs}, now)


def publish_many(conn: Connection, changes: Mapping[tuple[str | None, str], Iterable[str]], now: datetime) -> None:
    """Append one row per (tenant, topic)."""
    bundle = Bundle(conn)
    publish_with(bundle, changes, now)
    bundle.run()


def publish_with(bundle: Bundle, changes: Mapping[tuple[str | None, str], Iterable[str]], now: datetime) -> None:
    """The same as a part of a bundle."""
    rows = []
    for (tenant_id, topic), refs in changes.items():
        names = sorted(set(refs))
        listed = names if len(names) <= REFS_MAX else []
        rows.append({"tenant_id": tenant_id, "topic": topic, "refs_json": msgspec.json.encode(listed).decode(), "at": now})
    bundle.insert(_EVENTS, rows, expressions=_OF_THE_TRANSACTION[bundle.dialect])
