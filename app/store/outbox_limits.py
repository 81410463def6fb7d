"""Messages whose time is over before they could be sent: dropped, never sent late, and written where they were meant to help.

The questions of the day before have such a limit (`store.d1`): a family is asked by day or not at all, and the step of its
appointment then says that nobody asked. What happens next is the day's own: a person gets the task in the afternoon.
Results for other systems have one too (`store.results`): one that was away for so long asks for what it missed.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, select, update

from app.domain.d1_texts import question_cause
from app.domain.delivery import OutboxStatus
from app.store.bulk import update_rows
from app.store.events import publish_many
from app.store.outbox import NOT_SENT_IN_TIME, Due, announce, rows_of
from app.store.tables import D1StepRow, Outbox, table

_OUTBOX, _STEP = table(Outbox), table(D1StepRow)

ENDS_AS: Final = {"webhook": OutboxStatus.DEAD}
"""How a kind ends that was not sent in time; every other one failed."""


def drop_outdated(conn: Connection, now: datetime) -> list[Due]:
    """End the pending messages whose `not_after` has come; returns those that this call ended."""
    late = (_OUTBOX.c.status == OutboxStatus.PENDING, _OUTBOX.c.not_after <= now)
    rows = conn.execute(select(_OUTBOX).where(*late).order_by(_OUTBOX.c.outbox_id)).all()
    ended = [
        {"outbox_id": row.outbox_id, "status": ENDS_AS.get(row.kind, OutboxStatus.FAILED), "last_error": NOT_SENT_IN_TIME}
        for row in rows
    ]
    guard = f"t.status = '{OutboxStatus.PENDING}'"
    won = update_rows(conn, _OUTBOX, ended, keys=("outbox_id",), assign=("status", "last_error"), guard=guard, in_order=True)
    dropped = [row for row in rows if (row.outbox_id,) in won]
    changes: dict[tuple[str | None, str], set[str]] = {}
    ids = {row.outbox_id for row in dropped if row.kind in ENDS_AS}
    announce(conn, rows_of(conn, ids), now)
    for row in dropped:
        if row.outbox_id in ids:
            continue
        changes.setdefault((row.tenant_id, "agenda"), set()).update(_not_asked(conn, row))
        changes.setdefault((row.tenant_id, "lane"), set()).add(row.contact_id)
    publish_many(conn, changes, now)
    return [_told(row) for row in dropped]


def _not_asked(conn: Connection, message: Row[Any]) -> list[str]:
    """The appointments whose question this was: their step was missed after all."""
    asked = (_STEP.c.tenant_id == message.tenant_id, _STEP.c.contact_id == message.contact_id, _STEP.c.action == "ask_family")
    mine = conn.execute(select(_STEP).where(*asked)).all()
    steps = [step for step in mine if question_cause(step.appointment_id, step.start_at) == message.cause_id]
    for step in steps:
        own = (_STEP.c.appointment_id == step.appointment_id, _STEP.c.start_at == step.start_at)
        conn.execute(update(_STEP).where(*asked, *own).values(outcome="missed", contact_id=None))
    return [step.appointment_id for step in steps]


def _told(row: Row[Any]) -> Due:
    return Due(
        outbox_id=row.outbox_id,
        tenant_id=row.tenant_id,
        contact_id=row.contact_id,
        phone=None,
        kind=row.kind,
        attempts=row.attempts,
        correlation_id=row.correlation_id,
        body=msgspec.json.decode(row.body_json),
        last_inbound_at=None,
    )
