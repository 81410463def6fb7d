"""Numbers around a moment for evidence packs: what the clinic's ledger said meanwhile, and how healthy everything was."""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, and_, func, select

from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import HealthSample, Ledger, SignalPoint, SignalStateRow, table

_LEDGER, _SAMPLE, _POINT, _STATE = table(Ledger), table(HealthSample), table(SignalPoint), table(SignalStateRow)

AROUND: Final = timedelta(seconds=60)
COUNTED_MAX: Final = 5_000
"""Entries looked at; beyond, the counts are of the newest ones."""
SAMPLES_MAX: Final = 60


def surroundings(conn: Connection, tenant_id: str | None, first: datetime, last: datetime) -> list[dict[str, Any]]:
    """Results of the clinic's ledger from a minute before `first` to a minute after `last`, and the samples of health."""
    found = _results(conn, tenant_id, first - AROUND, last + AROUND) if tenant_id is not None else []
    return found + _signals(conn, tenant_id, last + AROUND) + _health(conn, first - AROUND, last + AROUND)


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


def _signals(conn: Connection, tenant_id: str | None, until: datetime) -> list[dict[str, Any]]:
    """What every signal of the clinic and of the installation stood at then: its newest point up to that moment."""
    scopes = [GLOBAL_SCOPE] if tenant_id is None else [GLOBAL_SCOPE, tenant_id]
    own = and_(_POINT.c.scope == _STATE.c.scope, _POINT.c.signal == _STATE.c.signal)
    newest = select(func.max(_POINT.c.at)).where(own, _POINT.c.at <= until).correlate(_STATE).scalar_subquery()
    # the states only name the signals that were ever measured: a handful per scope, each a seek in the points' key
    states = select(_STATE.c.scope, _STATE.c.signal, newest.label("at")).where(_STATE.c.scope.in_(scopes)).subquery()
    same = and_(_POINT.c.scope == states.c.scope, _POINT.c.signal == states.c.signal, _POINT.c.at == states.c.at)
    query = select(_POINT).select_from(states.join(_POINT, same)).order_by(_POINT.c.scope, _POINT.c.signal)
    return [
        {"metric": f"signal:{row.signal}", "value": msgspec.json.decode(row.values_json), "scope": row.scope, "at": row.at}
        for row in conn.execute(query)
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
