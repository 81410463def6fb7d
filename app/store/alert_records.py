"""Who took an alert on and who passed it on: one record per person and alert, and handing it to the next recipient."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select, update

from app.domain import alerts as domain
from app.domain.alerts import Action
from app.ids import new_id
from app.store.alert_end import lock_alert
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.tables import AckRecord, Alert, AlertStep, table

_ALERT, _STEP, _ACK = table(Alert), table(AlertStep), table(AckRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What a person does about an alert: who, how, when, and by which message."""

    by: str
    how: str
    now: datetime
    step_id: str | None
    origin: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOn:
    """Who is told next; None when everybody was."""

    row: Row[Any]
    recipient: str | None


def record(
    conn: Connection,
    row: Row[Any],
    act: Act,
    *,
    kind: str,
    effective: bool,
    delay_s: float,
    recipient: str | None = None,
) -> None:
    """Keep what somebody did, once per person and alert."""
    row_of_it = {
        "record_id": new_id(),
        "alert_id": row.alert_id,
        "tenant_id": row.tenant_id,
        "kind": kind,
        "by": act.by[:200],
        "how": act.how,
        "step_id": act.step_id,
        "recipient": recipient,
        "at": act.now,
        "delay_s": delay_s,
        "effective": effective,
    }
    insert_rows(conn, _ACK, [row_of_it], ignore_conflicts=True)


def pass_on(
    conn: Connection,
    alert_id: str,
    *,
    by: str,
    how: str,
    now: datetime,
    recipient: str | None,
    step_id: str | None = None,
    origin: str | None = None,
) -> PassedOn:
    """Not an ACK: the next recipient is told at once and gets the resends. `recipient` is who passes it on.

    Raises NotFound. On an alert that somebody has taken on already it changes nothing.
    """
    row = lock_alert(conn, alert_id)
    if row.acked_at is not None or row.status != "open":
        return PassedOn(row=row, recipient=None)
    earlier = conn.execute(select(_ACK).where(_ACK.c.alert_id == alert_id, _ACK.c.kind == "pass_on")).all()
    mine = next((r for r in earlier if r.by == by), None)
    if mine is not None:
        return PassedOn(row=row, recipient=mine.recipient)
    people = [(channel, name) for channel, name in msgspec.json.decode(row.policy_json)["recipients"]]
    passed = {r.by.removeprefix("recipient:") for r in earlier} | {r.recipient for r in earlier if r.recipient}
    passed |= {recipient} if recipient else set()
    chosen = domain.next_recipient([name for _, name in people], passed)
    delay_s = (now - row.raised_at).total_seconds()
    act = Act(by=by, how=how, now=now, step_id=step_id, origin=origin)
    record(conn, row, act, kind="pass_on", effective=True, delay_s=delay_s, recipient=chosen)
    if chosen is not None:
        _tell(conn, row, next(channel for channel, name in people if name == chosen), chosen, now)
    conn.execute(update(_ALERT).where(_ALERT.c.alert_id == alert_id).values(rev=row.rev + 1))
    append(
        conn,
        chain=row.scope,
        actor=by,
        action="alert.pass_on",
        object=f"alert/{alert_id}",
        after={"how": how, "next": chosen},
        origin=origin,
        correlation_id=row.correlation_id,
        now=now,
    )
    publish(conn, row.tenant_id, "alerts", [alert_id], now)
    return PassedOn(row=row, recipient=chosen)


def _tell(conn: Connection, row: Row[Any], channel: str, recipient: str, now: datetime) -> None:
    """A message to one more recipient at once; later resends of the channel go there too."""
    step = {
        "step_id": new_id(),
        "alert_id": row.alert_id,
        "tenant_id": row.tenant_id,
        "group_id": row.group_id,
        "step_key": f"pass_on:{recipient}",
        "action": Action.SEND,
        "channel": channel,
        "recipient": recipient,
        "n": 1,
        "due_at": now,
    }
    insert_rows(conn, _STEP, [step], ignore_conflicts=True)
    theirs = select(_STEP.c.step_key).where(
        _STEP.c.alert_id == row.alert_id, _STEP.c.channel == channel, _STEP.c.recipient == recipient
    )
    have = list(conn.execute(theirs).scalars())  # from level high on a rung reaches everybody anyway
    conn.execute(
        update(_STEP)
        .where(
            _STEP.c.alert_id == row.alert_id,
            _STEP.c.channel == channel,
            _STEP.c.done_at.is_(None),
            _STEP.c.due_at > now,
            _STEP.c.action == Action.SEND,
            _STEP.c.step_key.not_in(have),
        )
        .values(recipient=recipient)
    )
