"""What became of the messages of alerts: settled with the provider's answer, never skipped, and when the next are due.

Claiming them is `app.store.alert_claims`, which of them speaks for which alerts is `app.store.alert_voices`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, or_, select, update

from app.domain.alerts import Action
from app.domain.delivery import DeliveryUpdate, Outcome, SendResult, furthest
from app.ids import new_id
from app.store.alert_claims import Claimed
from app.store.alert_end import lock_alerts
from app.store.alert_ladder import LATE_AFTER, UNRESOLVED, route_in
from app.store.alert_voices import left_alone
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.tables import Alert, AlertStep, table

_ALERT, _STEP = table(Alert), table(AlertStep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a claimed message."""

    claimed: Claimed
    result: SendResult
    target: str


def settle(conn: Connection, sent: Sequence[Sent], now: datetime) -> list[str]:
    """Write what became of messages; one that did not certainly arrive gets its fallback at once. Returns the fallbacks' ids.

    An ACK that came while the message was on its way stopped its step: the record then says what really happened.
    """
    fallbacks: list[str] = []
    lost = [s.claimed.step.step_id for s in sent if s.result.outcome is not Outcome.SENT]
    left = _left_to(conn, lost)
    # the alerts' rows first, as in every act on them: an ACK and a fallback of the same alert take turns
    ids = {s.claimed.alert.alert_id for s in sent} | {step.alert_id for step in left}
    alerts = {row.alert_id: row for row in lock_alerts(conn, ids)}
    for one in sorted(sent, key=lambda s: (s.claimed.alert.alert_id, s.claimed.step.step_id)):
        step, result = one.claimed.step, one.result
        alert = alerts[step.alert_id]
        arrived = result.outcome is Outcome.SENT
        outcome = {Outcome.SENT: "sent", Outcome.UNKNOWN: "unknown"}.get(result.outcome, "failed")
        written = conn.execute(
            update(_STEP)
            .where(
                _STEP.c.step_id == step.step_id,
                _STEP.c.lease_token == one.claimed.token,
                or_(_STEP.c.done_at.is_(None), _STEP.c.outcome == "stopped"),
            )
            .values(
                done_at=now,
                outcome=outcome,
                late=now - step.due_at > LATE_AFTER,
                lease_until=None,
                target=one.target[:120],
                answer=result.detail[:300] if result.detail else None,
                provider_message_id=result.provider_message_id[:200] if result.provider_message_id else None,
                delivery="sent" if arrived else None,
            )
        )
        if written.rowcount and not arrived:
            fallbacks += _fall_back(conn, alert, step, now)
            for other in (s for s in left if s.merged_into == step.step_id and alerts[s.alert_id].scope != alert.scope):
                fallbacks += _fall_back(conn, alerts[other.alert_id], other, now)
        publish(conn, alert.tenant_id, "alerts", [alert.alert_id], now)
    return fallbacks


def _left_to(conn: Connection, step_ids: Sequence[str]) -> list[Row[Any]]:
    """What messages spoke for besides their own alert: what they lost is lost for all of it."""
    if not step_ids:
        return []
    return list(conn.execute(select(_STEP).where(_STEP.c.merged_into.in_(step_ids)).order_by(_STEP.c.step_id)))


def _fall_back(conn: Connection, alert: Row[Any], step: Row[Any], now: datetime) -> list[str]:
    """The alternative channel, once per rung of the ladder, due at once; none after an ACK and none for itself."""
    fallback = route_in(msgspec.json.decode(alert.policy_json)).fallback
    if alert.acked_at is not None or alert.status != "open" or step.fallback_of is not None or step.channel == fallback:
        return []
    step_id = new_id()
    row = {
        "step_id": step_id,
        "alert_id": alert.alert_id,
        "tenant_id": alert.tenant_id,
        "group_id": alert.group_id,
        "step_key": f"fallback:{int((step.due_at - alert.raised_at).total_seconds())}",
        "action": Action.SEND,
        "channel": fallback,
        "recipient": fallback,
        "n": step.n,
        "due_at": now,
        "fallback_of": step.step_id,
    }
    insert_rows(conn, _STEP, [row], ignore_conflicts=True)
    return [step_id]


def record_deliveries(conn: Connection, updates: Sequence[DeliveryUpdate], now: datetime) -> int:
    """Providers' later words about alert messages, how many of them were ours; one that failed after all gets its fallback."""
    ours = 0
    for one in updates:
        named = _STEP.c.provider_message_id == one.provider_message_id
        query = select(_STEP).where(or_(named, _STEP.c.step_id == one.reference) if one.reference else named)
        step = conn.execute(query).first()
        if step is None:
            continue
        ours += 1
        left = _left_to(conn, [step.step_id]) if one.status == "failed" else []
        alerts = {row.alert_id: row for row in lock_alerts(conn, {step.alert_id, *(s.alert_id for s in left)})}
        alert = alerts[step.alert_id]
        summary = furthest(step.delivery, one.status)
        if summary == step.delivery:
            continue
        values: dict[str, Any] = {"delivery": summary}
        if summary == "failed":
            values |= {"outcome": "failed", "answer": one.detail}
        elif step.outcome in ("unknown", "failed"):
            values |= {"outcome": "sent"}  # the provider knows better
        conn.execute(update(_STEP).where(_STEP.c.step_id == step.step_id).values(**values))
        if summary == "failed":
            _fall_back(conn, alert, step, now)
            for other in (s for s in left if alerts[s.alert_id].scope != alert.scope):
                _fall_back(conn, alerts[other.alert_id], other, now)
        publish(conn, alert.tenant_id, "alerts", [alert.alert_id], now)
    return ours


@dataclass(frozen=True, slots=True)
class Agenda:
    """When the loop has something to do next; None = nothing of that kind."""

    send_at: datetime | None
    climb_at: datetime | None
    rest_at: datetime | None
    """When the first flapping alert may be looked at."""
    left_alone: bool
    """Whether somebody answered a message that others had been left to."""


def agenda(conn: Connection) -> Agenda:
    """The next moments of all ladders; a claimed step counts at the end of its lease."""
    waiting = func.coalesce(_STEP.c.lease_until, _STEP.c.due_at)
    send = select(waiting).where(_STEP.c.done_at.is_(None), _STEP.c.action == Action.SEND).order_by(waiting).limit(1)
    climb = select(_STEP.c.due_at).where(_STEP.c.done_at.is_(None), _STEP.c.action != Action.SEND).order_by(_STEP.c.due_at).limit(1)
    rest = select(func.min(_ALERT.c.ended_at)).where(_ALERT.c.ended_at.is_not(None))
    return Agenda(
        send_at=conn.execute(send).scalar(),
        climb_at=conn.execute(climb).scalar(),
        rest_at=conn.execute(rest).scalar(),
        left_alone=bool(left_alone(conn)),
    )


# --- the independent look -----------------------------------------------------------------------------------------------


def overdue(conn: Connection, now: datetime, grace: timedelta) -> list[Row[Any]]:
    """Steps that should have been done `grace` ago and that nobody is doing."""
    query = select(_STEP).where(
        _STEP.c.done_at.is_(None),
        _STEP.c.due_at < now - grace,
        or_(_STEP.c.lease_until.is_(None), _STEP.c.lease_until < now),
    )
    return list(conn.execute(query.order_by(_STEP.c.due_at).limit(200)))


def open_alerts(conn: Connection) -> list[Row[Any]]:
    """Alerts that climb: open and not acknowledged."""
    query = select(_ALERT).where(UNRESOLVED, _ALERT.c.status == "open", _ALERT.c.acked_at.is_(None))
    return list(conn.execute(query.order_by(_ALERT.c.raised_at).limit(1_000)))
