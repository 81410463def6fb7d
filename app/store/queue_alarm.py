"""The alarm of a clinic's queue: once per episode, whatever its length does in between (F-01, S-PC-01-001)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, select

from app.domain.queue_alarm import QueueLimits, alarmed
from app.store.alerts import raise_alert, resolve_by_key
from app.store.bulk import insert_rows
from app.store.inbox import all_queue_sizes
from app.store.tables import QueueAlarm, table

_ALARM = table(QueueAlarm)
_BY: Final = "system:queue"
TRIGGER: Final = "queue_over_threshold"


def lengths(conn: Connection) -> tuple[dict[str, int], frozenset[str]]:
    """Waiting items per clinic that has some or alarms, and the clinics that alarm."""
    alarming = frozenset(conn.scalars(select(_ALARM.c.tenant_id)))
    return dict.fromkeys(alarming, 0) | all_queue_sizes(conn), alarming


def follow(conn: Connection, found: Mapping[str, tuple[int, QueueLimits]], now: datetime) -> dict[str, bool]:
    """Begin and end alarms by length and limits per clinic; returns those that changed (True = began).

    Several nodes may do it at once: whoever inserts or deletes the row says so, the others find nothing to do.
    """
    changed = {}
    for tenant_id, (length, limits) in sorted(found.items()):
        row = {"tenant_id": tenant_id, "since": now, "length": length, "alert_at": limits.alert_at}
        if alarmed(length, limits, before=False):
            if insert_rows(conn, _ALARM, [row], ignore_conflicts=True):
                raise_alert(
                    conn,
                    tenant_id=tenant_id,
                    trigger=TRIGGER,
                    severity="high",
                    summary=f"{length} items wait; the queue takes {limits.size}, what comes then is set aside",
                    dedup_key=TRIGGER,
                    correlation_id=None,
                    now=now,
                    raised_by=_BY,
                )
                changed[tenant_id] = True
        elif not alarmed(length, limits, before=True) and _end(conn, tenant_id):
            resolve_by_key(conn, tenant_id=tenant_id, dedup_key=TRIGGER, by=_BY, now=now)
            changed[tenant_id] = False
    return changed


def _end(conn: Connection, tenant_id: str) -> bool:
    return conn.execute(delete(_ALARM).where(_ALARM.c.tenant_id == tenant_id)).rowcount == 1
