"""The end of a day before: the family answered, or the appointment was cancelled or moved, so nobody needs to call.

Looked for by the loop instead of written with the change: to end an alert takes its own row's lock first, which the
transaction of an effect must not wait for. It is late by one round at most, and no way of changing an appointment is missed.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, select, update

from app.domain.d1_texts import question_cause
from app.store import evidence
from app.store.alert_end import resolve_by_key
from app.store.alert_ladder import UNRESOLVED
from app.store.bulk import joined_rows
from app.store.d1 import UNCONFIRMED, correlation_of, opening_key
from app.store.events import publish
from app.store.tables import Alert, Appointment, ManualTask, table

_TASK, _ALERT, _APPOINTMENT = table(ManualTask), table(Alert), table(Appointment)

_BY: Final = "system:d1"
ANSWERED: Final = "family_answered"
CHANGED: Final = "appointment_changed"
Named = tuple[str, str]
"""(tenant, appointment)."""


def outdated(conn: Connection, now: datetime) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What has nothing to say any more: tasks as (task, resolution) and alerts as (tenant, key).

    A task that a person has taken up stays with them. An alert also ends when the appointment begins.
    """
    mine = (_TASK.c.cause == UNCONFIRMED, _TASK.c.status == "open", _TASK.c.item_id.is_not(None))
    tasks = conn.execute(select(_TASK.c.tenant_id, _TASK.c.task_id, _TASK.c.item_id, _TASK.c.dedup_key).where(*mine)).all()
    columns = (_ALERT.c.tenant_id, _ALERT.c.correlation_id, _ALERT.c.dedup_key)
    told = (UNRESOLVED, _ALERT.c.trigger == UNCONFIRMED, _ALERT.c.tenant_id.is_not(None))
    alerts = conn.execute(select(*columns).where(*told)).all()
    about = {(a.tenant_id, a.correlation_id.removeprefix(correlation_of(""))) for a in alerts}
    standing = _appointments(conn, about | {(t.tenant_id, t.item_id) for t in tasks})
    over = []
    for task in tasks:
        row = standing.get((task.tenant_id, task.item_id))
        if row is not None and not _waits(row, task.dedup_key):
            over.append((task.task_id, ANSWERED if row.status == "confirmed" else CHANGED))
    ended = []
    for alert in alerts:
        row = standing.get((alert.tenant_id, alert.correlation_id.removeprefix(correlation_of(""))))
        if row is not None and (row.start_at <= now or not _waits(row, alert.dedup_key)):
            ended.append((alert.tenant_id, alert.dedup_key))
    return over, ended


def end_task(conn: Connection, task_id: str, resolution: str, now: datetime) -> bool:
    """Close a task that nobody has taken up; whether it was closed."""
    mine = (_TASK.c.task_id == task_id, _TASK.c.status == "open")
    row = conn.execute(select(_TASK).where(*mine)).first()
    changed = {"status": "resolved", "resolution": resolution, "resolved_at": now, "rev": _TASK.c.rev + 1}
    if row is None or conn.execute(update(_TASK).where(*mine).values(**changed)).rowcount != 1:
        return False
    evidence.ended(conn, row.tenant_id, "flow", row.correlation_id, now)
    publish(conn, row.tenant_id, "manual", [task_id], now)
    return True


def end_alert(conn: Connection, tenant_id: str, dedup_key: str, now: datetime) -> None:
    """End an alert, quietly."""
    resolve_by_key(conn, tenant_id=tenant_id, dedup_key=dedup_key, by=_BY, now=now)


def _waits(row: Row[Any], key: str) -> bool:
    """Whether the appointment is still the unconfirmed one that the key names."""
    cause = question_cause(row.appointment_id, row.start_at)
    return row.status == "scheduled" and key in (cause, opening_key(cause))


def _appointments(conn: Connection, named: set[Named]) -> dict[Named, Row[Any]]:
    if not named:
        return {}
    keys = [{"tenant_id": t, "appointment_id": a} for t, a in sorted(named)]
    columns = ("tenant_id", "appointment_id", "start_at", "status")
    rows = joined_rows(conn, _APPOINTMENT, keys, keys=("tenant_id", "appointment_id"), columns=columns)
    return {(row.tenant_id, row.appointment_id): row for row in rows}
