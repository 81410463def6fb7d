"""Numbers around a moment for evidence packs: what the clinic's ledger said meanwhile, and how healthy everything was."""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, select

from app.store.tables import HealthSample, Ledger, table

_LEDGER, _SAMPLE = table(Ledger), table(HealthSample)

AROUND: Final = timedelta(seconds=60)
COUNTED_MAX: Final = 5_000
"""Entries looked at; beyond, the counts are of the newest ones."""
SAMPLES_MAX: Final = 60


def surroundings(conn: Connection, tenant_id: str | None, first: datetime, last: datetime) -> list[dict[str, Any]]:
    """Results of the clinic's ledger from a minute before `first` to a minute after `last`, and the samples of health."""
    found = _results(conn, tenant_id, first - AROUND, last + AROUND) if tenant_id is not None else []
    return found + _health(conn, first - AROUND, last + AROUND)


def _results(conn: Connection, tenant_id: str, since: datetime, until: datetime) -> list[dict[str, Any]]:
    inside = (
        select(_LEDGER.c.result, _LEDGER.c.lock_mode)
        .where(_LEDGER.c.tenant_id == tenant_id, _LEDGER.c.committed_at >= since, _LEDGER.c.committed_at <= until)
        .order_by(_LEDGER.c.committed_at.desc())
        .limit(COUNTED_MAX)
        .subquery()
    )
    query = select(inside.c.result, inside.c.lock_mode, func.count()).group_by(inside.c.result, inside.c.lock_mode)
    counts = sorted(tuple(row) for row in conn.execute(query))
    within = {"since": since, "until": until}
    total = {"metric": "ledger_entries", "value": sum(count for _, _, count in counts)}
    return [
        total | within,
        *(
            {"metric": "ledger_entries", "value": count, "result": result, "lock_mode": mode} | within
            for result, mode, count in counts
        ),
    ]


def _health(conn: Connection, since: datetime, until: datetime) -> list[dict[str, Any]]:
    query = select(_SAMPLE).where(_SAMPLE.c.at >= since, _SAMPLE.c.at <= until).order_by(_SAMPLE.c.at.desc()).limit(SAMPLES_MAX)
    samples = conn.execute(query).all()
    return [
        {"metric": "health_samples", "value": len(samples), "since": since, "until": until},
        *(
            {
                "metric": "health_green",
                "value": int(row.green),
                "at": row.at,
                "node_id": row.node_id,
                "red": sorted(k for k, v in msgspec.json.decode(row.checks_json).items() if not v.get("green")),
            }
            for row in reversed(samples)
        ),
    ]
