"""Whether a clinic's messages to families leave: since when they fail, kept by every attempt in its own transaction.

A message that left ends the failing; silence, a refusal for now and giving up go on with it. What was refused for good says
something about that message alone, and a sender that died nothing about the channel: neither counts.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete

from app.domain.delivery import REPEATABLE_KINDS, OutboxStatus
from app.store.bulk import insert_rows, update_rows
from app.store.tables import FailingDeliveries, table

_FAILING = table(FailingDeliveries)
_FAILED = frozenset({OutboxStatus.PENDING, OutboxStatus.UNKNOWN, OutboxStatus.DEAD})


def note_attempts(conn: Connection, rows: Iterable[Any], now: datetime) -> None:
    """Learn from attempts that ended now; `rows` are outbox rows as they are after it."""
    told = [row for row in rows if row.kind not in REPEATABLE_KINDS and row.target == ""]
    well = {row.tenant_id for row in told if row.status == OutboxStatus.SENT}
    if well:
        conn.execute(delete(_FAILING).where(_FAILING.c.tenant_id.in_(sorted(well))))
    failed = Counter(row.tenant_id for row in told if row.status in _FAILED and row.tenant_id not in well)
    found = [{"tenant_id": t, "since": now, "last_at": now, "attempts": n} for t, n in sorted(failed.items())]
    insert_rows(conn, _FAILING, [row | {"attempts": 0} for row in found], ignore_conflicts=True)
    more = {"attempts": "t.attempts + r.attempts"}
    update_rows(conn, _FAILING, found, keys=("tenant_id",), assign=("last_at",), expressions=more, in_order=True)
