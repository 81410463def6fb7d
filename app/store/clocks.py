"""Clocks of sources: what was measured, and the alert while one is off by more than the clinic's `clock_skew_s`."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from app.domain.clock_skew import Lags, SkewState, judge, says_nothing_yet, skew_s
from app.store.alerts import raise_alert, resolve_by_key
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.settings import load
from app.store.tables import SourceClock, table

_CLOCK = table(SourceClock)
_BY = "system:clocks"


def record(conn: Connection, tenant_id: str, source: str, lags: Lags, now: datetime) -> tuple[SkewState, bool]:
    """Keep a window's measurement; a source that goes off raises an alert, one that is right again resolves it.

    Returns the source's state and whether the window needs more items to say anything.
    """
    row = {"tenant_id": tenant_id, "source": source, "state": SkewState.FINE, "since": now}
    empty = {"measured_at": now, "samples": 0, "least_lag_s": 0.0, "most_lag_s": 0.0}
    insert_rows(conn, _CLOCK, [row | empty], ignore_conflicts=True)
    mine = (_CLOCK.c.tenant_id == tenant_id) & (_CLOCK.c.source == source)
    known = conn.execute(select(_CLOCK).where(mine).with_for_update()).one()
    before = SkewState(known.state)
    threshold_s = float(load(conn, tenant_id)["clock_skew_s"])
    state = judge(lags, before, threshold_s)
    conn.execute(
        update(_CLOCK)
        .where(mine)
        .values(
            state=state,
            since=known.since if state is before else now,
            measured_at=now,
            samples=lags.samples,
            least_lag_s=lags.least_s,
            most_lag_s=lags.most_s,
        )
    )
    key = f"clock_skew:{source}"
    if state is not before:
        publish(conn, tenant_id, "replay", [source], now)
        if state is SkewState.FINE:
            resolve_by_key(conn, tenant_id=tenant_id, dedup_key=key, by=_BY, now=now)
        else:
            raise_alert(
                conn,
                tenant_id=tenant_id,
                trigger="clock_skew",
                severity="warning",
                summary=f"The clock of {source} is {state} by about {abs(skew_s(lags)):.0f} s: time limits are off by as much",
                dedup_key=key,
                correlation_id=None,
                now=now,
                raised_by=_BY,
            )
    return state, says_nothing_yet(lags, threshold_s)


def clocks(conn: Connection, tenant_id: str) -> list[dict[str, Any]]:
    """A clinic's sources as last measured, by name; `skew_s` is how far ahead the source's clock seems."""
    rows = conn.execute(select(_CLOCK).where(_CLOCK.c.tenant_id == tenant_id).order_by(_CLOCK.c.source))
    return [
        {
            "source": row.source,
            "state": row.state,
            "since": row.since,
            "measured_at": row.measured_at,
            "samples": row.samples,
            "skew_s": round(-row.least_lag_s, 3),
            "least_lag_s": round(row.least_lag_s, 3),
            "most_lag_s": round(row.most_lag_s, 3),
        }
        for row in rows
    ]
