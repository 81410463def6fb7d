"""Manual tasks whose request a person carried out after all: the effect closes them, in its own transaction.

However long the command had to wait for its turn (parked, behind others), the task ends when it happens and not before.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from app.domain.envelopes import Command
from app.domain.manual import Outcome, TaskStatus
from app.store import audit
from app.store.bulk import joined_rows, update_rows
from app.store.events import publish
from app.store.tables import ManualTask, table

_TASK = table(ManualTask)

APPLY_KEY: Final = "task:"
"""How the idempotency key of such a command begins: `task:<task id>:<revision>`."""


def close_carried_out(conn: Connection, happened: Sequence[Command], now: datetime) -> None:
    """Close the task behind each of these commands; one that was closed meanwhile stays as it is."""
    sent = {
        (c.tenant_id, c.idempotency_key.split(":")[1], c.command_id): c for c in happened if c.idempotency_key.startswith(APPLY_KEY)
    }
    if not sent:
        return
    rows: list[dict[str, Any]] = [
        {
            "tenant_id": tenant_id,
            "task_id": task_id,
            "apply_command_id": command_id,
            "status": TaskStatus.RESOLVED,
            "resolution": Outcome.APPLIED_BY_COMMAND,
            "resolved_at": now,
        }
        for tenant_id, task_id, command_id in sent
    ]
    keys = ("tenant_id", "task_id", "apply_command_id")
    before = {
        tuple(getattr(row, k) for k in keys): row
        for row in joined_rows(conn, _TASK, [{k: r[k] for k in keys} for r in rows], keys=keys, columns=_TASK.c.keys())
    }
    closed = update_rows(
        conn,
        _TASK,
        [row for row in rows if tuple(row[k] for k in keys) in before],
        keys=keys,
        assign=("status", "resolution", "resolved_at"),
        expressions={"rev": "t.rev + 1"},
        guard="t.status <> 'resolved'",
        in_order=True,
    )
    for key in sorted(closed):
        command, row = sent[key], before[key]
        audit.append(
            conn,
            chain=command.tenant_id,
            actor=command.requested_by_id or "system:ledger",
            action="manual_task_resolve",
            object=f"manual_task:{row.task_id}",
            before={"status": row.status, "owner": row.owner, "resolution": row.resolution},
            after={"status": TaskStatus.RESOLVED, "owner": row.owner, "resolution": Outcome.APPLIED_BY_COMMAND},
            reason=row.note,
            correlation_id=row.correlation_id,
            now=now,
            about=command.contact_id,
        )
        publish(conn, command.tenant_id, "manual", [row.task_id], now)
