"""Manual tasks: opening them in the transaction of their cause, once per cause."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from app.store.bulk import insert_rows
from app.store.tables import ManualTask, table

_TASK = table(ManualTask)


def task_row(
    *,
    tenant_id: str,
    task_id: str,
    dedup_key: str,
    cause: str,
    reason: str,
    priority: int,
    correlation_id: str,
    now: datetime,
    due_at: datetime,
    contact_id: str | None = None,
    command_id: str | None = None,
    item_id: str | None = None,
) -> dict[str, Any]:
    """A `manual_task` row; `dedup_key` names its cause, so that one cause opens one task."""
    return {
        "task_id": task_id,
        "tenant_id": tenant_id,
        "dedup_key": dedup_key,
        "cause": cause,
        "reason": reason,
        "priority": priority,
        "contact_id": contact_id,
        "command_id": command_id,
        "item_id": item_id,
        "correlation_id": correlation_id,
        "created_at": now,
        "due_at": due_at,
    }


def open_tasks(conn: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Open tasks; a cause that already has one keeps it."""
    insert_rows(conn, _TASK, rows, ignore_conflicts=True)
