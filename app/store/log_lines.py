"""The kept copy of the flows' log lines: bounded by number and age, found by correlation id."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, func, or_, select

from app.domain.envelopes import parse_time
from app.store.bulk import insert_rows
from app.store.tables import LogLine, table

_LINE = table(LogLine)

LINES_MAX: Final = 200_000
"""The newest lines that are kept."""
KEEP: Final = timedelta(days=7)
IN_A_PACK: Final = 500
NAMES_MAX: Final = 200


def keep(conn: Connection, lines: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Add lines (fields as logged, redacted), and let the oldest give way."""
    rows = [
        {
            "tenant_id": _text(line.get("tenant_id"), 40),
            "correlation_id": str(line["correlation_id"])[:220],
            "at": parse_time(line["ts"]),
            "line_json": msgspec.json.encode({k: v for k, v in line.items() if v is not None}, enc_hook=str).decode(),
        }
        for line in lines
    ]
    insert_rows(conn, _LINE, rows)
    newest = conn.execute(select(func.max(_LINE.c.position))).scalar() or 0
    gone = or_(_LINE.c.position <= newest - LINES_MAX, _LINE.c.at < now - KEEP)
    oldest = select(_LINE.c.position).order_by(_LINE.c.position).limit(2 * len(rows)).subquery()
    conn.execute(delete(_LINE).where(_LINE.c.position.in_(select(oldest.c.position)), gone))


def of(conn: Connection, tenant_id: str | None, correlation_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of some flows of one clinic, oldest first."""
    names = list(correlation_ids)[:NAMES_MAX]
    mine = _LINE.c.tenant_id.is_(None) if tenant_id is None else or_(_LINE.c.tenant_id == tenant_id, _LINE.c.tenant_id.is_(None))
    query = select(_LINE.c.line_json).where(_LINE.c.correlation_id.in_(names), mine).order_by(_LINE.c.position)
    return [msgspec.json.decode(text) for text in conn.execute(query.limit(IN_A_PACK)).scalars()]


def _text(value: object, length: int) -> str | None:
    return value[:length] if isinstance(value, str) else None
