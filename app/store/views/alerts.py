"""Alerts as the API and the console show them: the list, one alert with its attempts, and the counts of the frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, or_, select

from app.domain.alerts import Action
from app.store.alert_ladder import UNRESOLVED
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import AckRecord, Alert, AlertStep, table
from app.store.views.scope import Scope, within

_ALERT, _STEP, _ACK = table(Alert), table(AlertStep), table(AckRecord)


def visible(scope: Scope) -> ColumnElement[bool]:
    """Alerts of the clinics of a scope; those of the whole installation are for readers of every clinic only."""
    if scope is None:
        return or_(_ALERT.c.scope == GLOBAL_SCOPE, within(_ALERT.c.scope, None))
    return within(_ALERT.c.scope, scope)


def listed(
    conn: Connection,
    scope: Scope,
    *,
    status: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Alerts, latest first, from before (raised_at, alert_id)."""
    query = select(_ALERT).where(visible(scope)).order_by(_ALERT.c.raised_at.desc(), _ALERT.c.alert_id.desc()).limit(limit)
    if status is not None:
        query = query.where(_ALERT.c.status == status)
    if before is not None:
        at, alert_id = before
        query = query.where(or_(_ALERT.c.raised_at < at, and_(_ALERT.c.raised_at == at, _ALERT.c.alert_id < alert_id)))
    rows = conn.execute(query).all()
    upcoming = _upcoming(conn, [row.alert_id for row in rows])
    return [{**_document(row), "next_attempt_at": upcoming.get(row.alert_id)} for row in rows]


def board(conn: Connection, scope: Scope, *, offset: int, limit: int) -> list[dict[str, Any]]:
    """The console's list: open, then acknowledged, of each the worst and latest storms first; then the resolved, latest first."""
    worst = case((_ALERT.c.severity == "critical", 0), (_ALERT.c.severity == "high", 1), else_=2)
    turn = case((_ALERT.c.status == "open", 0), else_=1)
    order = (turn, worst, _ALERT.c.group_started_at.desc(), _ALERT.c.group_id, _ALERT.c.raised_at, _ALERT.c.alert_id)
    current = select(_ALERT).where(visible(scope), UNRESOLVED).order_by(*order).offset(offset).limit(limit)
    rows = list(conn.execute(current))
    left = limit - len(rows)
    if left > 0:
        unresolved = select(func.count()).select_from(_ALERT).where(visible(scope), UNRESOLVED)
        skip = max(0, offset - int(conn.execute(unresolved).scalar_one()))
        past = select(_ALERT).where(visible(scope), _ALERT.c.status == "resolved")
        past = past.order_by(_ALERT.c.raised_at.desc(), _ALERT.c.alert_id.desc()).offset(skip).limit(left)
        rows += conn.execute(past)
    return [_document(row) for row in rows]


def members(conn: Connection, group_id: str, scope: Scope, *, limit: int) -> list[dict[str, Any]]:
    """The alerts that one message speaks for, oldest first."""
    query = select(_ALERT).where(_ALERT.c.group_id == group_id, visible(scope)).order_by(_ALERT.c.raised_at, _ALERT.c.alert_id)
    return [_document(row) for row in conn.execute(query.limit(limit))]


def one(conn: Connection, alert_id: str, scope: Scope) -> dict[str, Any] | None:
    """One alert with its attempts, changes of level and records; None when unknown or out of scope."""
    row = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == alert_id, visible(scope))).first()
    if row is None:
        return None
    steps = conn.execute(select(_STEP).where(_STEP.c.alert_id == alert_id).order_by(_STEP.c.due_at, _STEP.c.step_id)).all()
    acks = conn.execute(select(_ACK).where(_ACK.c.alert_id == alert_id).order_by(_ACK.c.at, _ACK.c.record_id)).all()
    sends = [s for s in steps if s.action == Action.SEND]
    return {
        **_document(row),
        "next_attempt_at": min((s.due_at for s in sends if s.done_at is None), default=None),
        "attempts": [attempt(s) for s in sends if _tried(s)],
        "upcoming": [attempt(s) for s in sends if not _tried(s) and s.done_at is None],
        "stopped": [attempt(s) for s in sends if not _tried(s) and s.done_at is not None],
        "levels": [
            {"action": s.action, "due_at": s.due_at, "done_at": s.done_at, "outcome": s.outcome, "late": s.late}
            for s in steps
            if s.action != Action.SEND
        ],
        "records": [
            {
                "kind": a.kind,
                "by": a.by,
                "how": a.how,
                "at": a.at,
                "delay_s": a.delay_s,
                "effective": a.effective,
                "to": a.recipient,
            }
            for a in acks
        ],
        "policy": msgspec.json.decode(row.policy_json)["route"],
        "group_size": group_size(conn, row.group_id),
    }


def group_size(conn: Connection, group_id: str, *, open_only: bool = False) -> int:
    """How many alerts one message speaks for."""
    query = select(func.count()).select_from(_ALERT).where(_ALERT.c.group_id == group_id)
    if open_only:
        query = query.where(_ALERT.c.status == "open", _ALERT.c.acked_at.is_(None))
    return int(conn.execute(query).scalar_one())


def attempt(step: Row[Any]) -> dict[str, Any]:
    """One message of the ladder, as documents show it."""
    return {
        "step_id": step.step_id,
        "n": step.n,
        "channel": step.channel,
        "recipient": step.recipient,
        "target": step.target,
        "due_at": step.due_at,
        "done_at": step.done_at,
        "outcome": step.outcome,
        "answer": step.answer,
        "delivery": step.delivery,
        "late": step.late,
        "fallback_of": step.fallback_of,
        "merged_into": step.merged_into,
    }


def _tried(step: Row[Any]) -> bool:
    """Whether something happened to a message: it left, failed, is leaving, or another one speaks for it."""
    return (step.outcome is not None and step.outcome != "stopped") or (step.done_at is None and step.lease_token is not None)


def _document(row: Row[Any]) -> dict[str, Any]:
    return {
        "alert_id": row.alert_id,
        "tenant_id": row.tenant_id,
        "trigger": row.trigger,
        "severity": row.severity,
        "summary": row.summary,
        "dedup_key": row.dedup_key,
        "status": row.status,
        "level": row.level,
        "result": row.result,
        "rev": row.rev,
        "owner": row.owner,
        "correlation_id": row.correlation_id,
        "raised_at": row.raised_at,
        "raised_by": row.raised_by,
        "last_seen_at": row.last_seen_at,
        "count": row.seen_count,
        "group_id": row.group_id,
        "safe_mode_at": row.safe_mode_at,
        "acked_at": row.acked_at,
        "acked_by": row.acked_by,
        "ack_how": row.ack_how,
        "ack_delay_s": row.ack_delay_s,
        "resolved_at": row.resolved_at,
        "resolved_by": row.resolved_by,
        "flapping_since": row.ended_at,
    }


def _upcoming(conn: Connection, alert_ids: Sequence[str]) -> dict[str, datetime]:
    """When each alert's next message is due."""
    rows = conn.execute(
        select(_STEP.c.alert_id, func.min(_STEP.c.due_at))
        .where(_STEP.c.alert_id.in_(alert_ids), _STEP.c.done_at.is_(None), _STEP.c.action == Action.SEND)
        .group_by(_STEP.c.alert_id)
    )
    return {row[0]: row[1] for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertCounts:
    """What the frame says about alerts."""

    open: int
    critical: int
    """Unacknowledged critical ones."""
    next_safe_mode_at: datetime | None


def counts(conn: Connection, scope: Scope) -> AlertCounts:
    """Alerts that nobody has taken on, and the earliest moment at which safe mode begins by one of them."""
    critical = case((_ALERT.c.severity == "critical", 1), else_=0)
    row = conn.execute(
        select(func.count(), func.coalesce(func.sum(critical), 0), func.min(_ALERT.c.safe_mode_at)).where(
            visible(scope), UNRESOLVED, _ALERT.c.status == "open"
        )
    ).one()
    return AlertCounts(open=int(row[0]), critical=int(row[1]), next_safe_mode_at=row[2])
