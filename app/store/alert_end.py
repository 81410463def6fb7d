"""The end of alerts: resolved quietly, and what keeps one that flaps from ending too early.

Resolving is no ACK and sends nothing. Before the deadline it keeps safe mode away, afterwards it lifts nothing. An alert whose
source turns it on and off stays open until it has rested, so going on and off is no way around the fifteen minutes.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, select, update

from app.domain import alerts as domain
from app.errors import Conflict, NotFound
from app.store import evidence
from app.store.alert_ladder import climb, locked, stop_steps
from app.store.audit import append
from app.store.events import publish
from app.store.incidents import close_incident
from app.store.lanes import GLOBAL_SCOPE
from app.store.lines import Level, say
from app.store.safe_deadline import Moment, ease_deadline, lock_mode, moment
from app.store.tables import Alert, table

_ALERT = table(Alert)

FLAP_WINDOW: Final = timedelta(minutes=15)
_CHANGES_KEPT: Final = 12
SYSTEM: Final = "system:alerts"


def resolve(
    conn: Connection,
    alert_id: str,
    *,
    by: str,
    now: Moment,
    damped: bool = False,
    rev: int | None = None,
    reason: str | None = None,
    origin: str | None = None,
) -> Row[Any]:
    """End an alert, quietly: nothing more is sent. It is no ACK, and after the deadline it does not lift safe mode.

    A callable `now` is read behind the locks, so that an end that had to wait for safe mode comes after it.
    `damped` (for machines): one that went on and off too often stays open until it rests; `settle_flapping` ends it then.
    Raises NotFound, or Conflict for an outdated `rev`. An alert that is resolved stays as it is.
    """
    row = lock_alert(conn, alert_id)
    if row.status == "resolved":
        return row
    if rev is not None and rev != row.rev:
        raise Conflict("This alert has changed since you looked at it; nothing was done.")
    lock_mode(conn, row.scope)
    now = moment(now)
    times = [*times_of(row), now]
    if damped and domain.is_flapping(times, now, window=FLAP_WINDOW):
        conn.execute(
            update(_ALERT)
            .where(_ALERT.c.alert_id == alert_id)
            .values(ended_at=now, changes_json=with_change(times_of(row), now), rev=row.rev + 1)
        )
        publish(conn, row.tenant_id, "alerts", [alert_id], now)
        return conn.execute(select(_ALERT).where(_ALERT.c.alert_id == alert_id)).one()
    _end(conn, row, now, by=by, changes=with_change(times_of(row), now), reason=reason, origin=origin)
    return conn.execute(select(_ALERT).where(_ALERT.c.alert_id == alert_id)).one()


def say_alert(conn: Connection, row: Row[Any], event: str, status: str, *, level: Level = "info", **fields: Any) -> None:
    """A line about what became of an alert; `trigger_id` is what went off."""
    told = {"trigger_id": row.trigger, "alert_id": row.alert_id, "severity": row.severity, **fields}
    say(
        conn,
        event,
        flow_id="F-06",
        correlation_id=row.correlation_id,
        tenant_id=row.tenant_id,
        status=status,
        level=level,
        **told,
    )


def supersede(conn: Connection, row: Row[Any], now: datetime, reason: str) -> None:
    """End a locked alert because a new one of the same key takes its place; that is no going off and on."""
    _end(conn, row, now, by=SYSTEM, changes=row.changes_json, reason=reason, origin=None)


def _end(conn: Connection, row: Row[Any], now: datetime, *, by: str, changes: str, reason: str | None, origin: str | None) -> None:
    climb(conn, row, now)
    stop_steps(conn, [row.alert_id], now)
    conn.execute(
        update(_ALERT)
        .where(_ALERT.c.alert_id == row.alert_id)
        .values(
            status="resolved",
            resolved_at=now,
            resolved_by=by[:200],
            ended_at=None,
            changes_json=changes,
            rev=_ALERT.c.rev + 1,
        )
    )
    ease_deadline(conn, row.scope, now)
    close_incident(conn, row, reason or f"resolved by {by}", now)
    append(
        conn,
        chain=row.scope,
        actor=by,
        action="alert.resolve",
        object=f"alert/{row.alert_id}",
        before={"status": row.status},
        after={"status": "resolved"},
        reason=reason,
        origin=origin,
        correlation_id=row.correlation_id,
        now=now,
    )
    say_alert(conn, row, "alert_resolved", "resolved")
    publish(conn, row.tenant_id, "alerts", [row.alert_id], now)
    evidence.ended(conn, row.tenant_id, "alert", row.alert_id, now)


def resolve_by_key(
    conn: Connection, *, tenant_id: str | None, dedup_key: str, by: str, now: datetime, origin: str | None = None
) -> Row[Any] | None:
    """End the alert with this key, as its source says; None when none is open."""
    row = open_alert(conn, tenant_id or GLOBAL_SCOPE, dedup_key)
    return None if row is None else resolve(conn, row.alert_id, by=by, now=now, damped=True, origin=origin)


def settle_flapping(conn: Connection, now: datetime) -> list[str]:
    """End the alerts whose source said so and that have been at rest for a whole window since; returns their ids."""
    query = select(_ALERT.c.alert_id).where(_ALERT.c.ended_at.is_not(None), _ALERT.c.ended_at <= now - FLAP_WINDOW)
    rested = [row.alert_id for row in conn.execute(query)]
    for alert_id in rested:
        resolve(conn, alert_id, by=SYSTEM, now=now)
    return rested


def recent_changes(conn: Connection, scope: str, dedup_key: str, now: datetime) -> list[datetime]:
    """When an alert with this key last went on and off."""
    row = conn.execute(
        select(_ALERT)
        .where(_ALERT.c.scope == scope, _ALERT.c.dedup_key == dedup_key[:200], _ALERT.c.raised_at > now - 2 * FLAP_WINDOW)
        .order_by(_ALERT.c.raised_at.desc())
        .limit(1)
    ).first()
    return times_of(row) if row is not None else []


def times_of(row: Row[Any]) -> list[datetime]:
    """When an alert last went on and off."""
    return [datetime.fromisoformat(text) for text in msgspec.json.decode(row.changes_json)]


def with_change(times: Iterable[datetime], now: datetime) -> str:
    """The list with `now` added, cut to what damping looks at."""
    kept = [t for t in times if t > now - FLAP_WINDOW]
    return msgspec.json.encode([t.isoformat() for t in [*kept, now][-_CHANGES_KEPT:]]).decode()


# --- shared -------------------------------------------------------------------------------------------------------------


def open_alert(conn: Connection, scope: str, dedup_key: str) -> Row[Any] | None:
    """The alert with this key that is not resolved, locked; None without one."""
    query = select(_ALERT).where(_ALERT.c.scope == scope, _ALERT.c.dedup_key == dedup_key[:200], _ALERT.c.status != "resolved")
    return conn.execute(locked(conn, query)).first()


def lock_alert(conn: Connection, alert_id: str) -> Row[Any]:
    """An alert's row, locked: acts on it take turns. Raises NotFound."""
    row = conn.execute(locked(conn, select(_ALERT).where(_ALERT.c.alert_id == alert_id))).first()
    if row is None:
        raise NotFound("There is no such alert.")
    return row


def lock_alerts(conn: Connection, alert_ids: Iterable[str]) -> list[Row[Any]]:
    """The rows of alerts, locked in the order of their ids, so that whoever locks several waits for nobody who waits for them."""
    query = select(_ALERT).where(_ALERT.c.alert_id.in_(sorted(alert_ids))).order_by(_ALERT.c.alert_id)
    return list(conn.execute(locked(conn, query)))
