"""Alerts: raised, acknowledged and passed on, each in one transaction with its ladder and its safe_deadline.

A critical alert writes `mode.safe_deadline` of its scope in the transaction that raises it, and only an ACK (or its end)
before that moment takes it back: safe mode holds on time whether any timer runs or not. Every act locks the alert's row
first and the mode's row afterwards, so acts on one alert take turns: one of two simultaneous ACKs has the effect, both
leave their record. Nothing here sends: `app.engine.alerts` does. How alerts end is in `app.store.alert_end`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, select, update

from app.domain import alerts as domain
from app.domain.alerts import Action, AlertResult, Level
from app.domain.envelopes import canonical_json
from app.errors import Conflict
from app.ids import new_id
from app.store.alert_end import (
    FLAP_WINDOW,
    lock_alert,
    open_alert,
    recent_changes,
    resolve,
    resolve_by_key,
    settle_flapping,
    times_of,
    with_change,
)
from app.store.alert_ladder import CRITICAL, climb, climb_due, locked, policy_of, route_in, stop_steps, write_steps
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.incidents import take_up_incident
from app.store.lanes import GLOBAL_SCOPE
from app.store.safe_deadline import bring_forward, ease_deadline, lock_mode, reset_deadline, unacknowledged_deadline
from app.store.safe_story import cause_acknowledged
from app.store.tables import AckRecord, Alert, AlertStep, table

__all__ = [
    "CRITICAL",
    "FLAP_WINDOW",
    "SEVERITIES",
    "Acknowledged",
    "PassedOn",
    "Raised",
    "acknowledge",
    "climb_due",
    "lock_mode",
    "pass_on",
    "raise_alert",
    "reset_deadline",
    "resolve",
    "resolve_by_key",
    "settle_flapping",
    "unacknowledged_deadline",
]

_ALERT, _STEP, _ACK = table(Alert), table(AlertStep), table(AckRecord)

SEVERITIES: Final = ("warning", "high", "critical")
"""Rising."""
GROUP_WINDOW: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """What `raise_alert` did; `fresh` is False when an alert with this key was open already and only counted up."""

    alert_id: str
    fresh: bool
    safe_mode_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What an ACK came to.

    `effective`: this one changed something; `in_time`: it keeps safe mode away; `others`: further alerts of the same storm
    that it took on.
    """

    row: Row[Any]
    effective: bool
    in_time: bool
    others: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOn:
    """Who is told next; None when everybody was."""

    row: Row[Any]
    recipient: str | None


# --- raising ------------------------------------------------------------------------------------------------------------


def raise_alert(
    conn: Connection,
    *,
    tenant_id: str | None,
    trigger: str,
    severity: str,
    summary: str,
    dedup_key: str,
    correlation_id: str | None,
    now: datetime,
    raised_by: str = "system:kora",
    origin: str | None = None,
) -> Raised:
    """Raise an alert in the caller's transaction; one that is not resolved with the same key counts up instead.

    `tenant_id` None = the whole installation. A higher severity starts the ladder of that severity from now, also when the
    alert had been acknowledged.
    """
    scope = tenant_id or GLOBAL_SCOPE
    known = open_alert(conn, scope, dedup_key)
    if known is not None:
        return _again(conn, known, severity, summary, now)
    alert_id = new_id()
    policy = policy_of(conn, scope, trigger, severity)
    leader = _leader(conn, scope, trigger, severity, now)
    safe_mode_at = domain.safe_deadline(now, domain.ladder_of(route_in(policy))) if severity == CRITICAL else None
    row = {
        "alert_id": alert_id,
        "scope": scope,
        "tenant_id": tenant_id,
        "trigger": trigger[:60],
        "severity": severity,
        "summary": summary[:500],
        "dedup_key": dedup_key[:200],
        "owner": policy["route"]["owner"],
        "correlation_id": (correlation_id or f"alert-{alert_id}")[:220],
        "raised_by": raised_by[:200],
        "raised_at": now,
        "last_seen_at": now,
        "group_id": leader.group_id if leader else alert_id,
        "group_started_at": leader.group_started_at if leader else now,
        "policy_json": canonical_json(policy),
        "safe_mode_at": safe_mode_at,
        "changes_json": with_change(recent_changes(conn, scope, dedup_key, now), now),
    }
    insert_rows(conn, _ALERT, [row], ignore_conflicts=True)
    stored = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == alert_id)).first()
    if stored is None:  # raised by somebody else at the same moment
        winner = open_alert(conn, scope, dedup_key)
        if winner is None:
            raise Conflict("This alert was raised and resolved at the same moment; raise it again.")
        return _again(conn, winner, severity, summary, now)
    write_steps(conn, stored, now)
    if safe_mode_at is not None:
        bring_forward(conn, scope, safe_mode_at, now)
    append(
        conn,
        chain=scope,
        actor=raised_by,
        action="alert.raise",
        object=f"alert/{alert_id}",
        after={"trigger": trigger, "severity": severity, "dedup_key": dedup_key, "safe_mode_at": _text(safe_mode_at)},
        origin=origin,
        correlation_id=stored.correlation_id,
        now=now,
    )
    publish(conn, tenant_id, "alerts", [alert_id], now)
    return Raised(alert_id=alert_id, fresh=True, safe_mode_at=safe_mode_at)


def _again(conn: Connection, row: Row[Any], severity: str, summary: str, now: datetime) -> Raised:
    """One that is there already: count it, and climb to a higher severity."""
    values: dict[str, Any] = {"seen_count": row.seen_count + 1, "last_seen_at": now, "rev": row.rev + 1}
    if row.ended_at is not None:  # it had said that it was over: that is one more change of a flapping alert
        values |= {"ended_at": None, "changes_json": with_change(times_of(row), now)}
    safe_mode_at = row.safe_mode_at
    climbs = SEVERITIES.index(severity) > SEVERITIES.index(row.severity)
    if climbs:
        policy = policy_of(conn, row.scope, row.trigger, severity)
        safe_mode_at = domain.safe_deadline(now, domain.ladder_of(route_in(policy))) if severity == CRITICAL else None
        stop_steps(conn, [row.alert_id], now)
        values |= {
            "severity": severity,
            "summary": summary[:500],
            "status": "open",
            "level": Level.RAISED,
            "result": None,
            "raised_at": now,
            "group_id": row.alert_id,
            "group_started_at": now,
            "owner": policy["route"]["owner"],
            "policy_json": canonical_json(policy),
            "safe_mode_at": safe_mode_at,
            "acked_at": None,
            "acked_by": None,
            "ack_how": None,
            "ack_delay_s": None,
        }
    conn.execute(update(_ALERT).where(_ALERT.c.alert_id == row.alert_id).values(**values))
    if climbs:
        write_steps(conn, conn.execute(select(_ALERT).where(_ALERT.c.alert_id == row.alert_id)).one(), now)
        if safe_mode_at is not None:
            bring_forward(conn, row.scope, safe_mode_at, now)
    publish(conn, row.tenant_id, "alerts", [row.alert_id], now)
    return Raised(alert_id=row.alert_id, fresh=False, safe_mode_at=safe_mode_at)


def _leader(conn: Connection, scope: str, trigger: str, severity: str, now: datetime) -> Row[Any] | None:
    """An unacknowledged alert of the same kind whose minute is still running: it speaks for this one too."""
    query = (
        select(_ALERT)
        .where(
            _ALERT.c.scope == scope,
            _ALERT.c.raised_at > now - GROUP_WINDOW,
            _ALERT.c.group_started_at > now - GROUP_WINDOW,
            _ALERT.c.trigger == trigger[:60],
            _ALERT.c.severity == severity,
            _ALERT.c.status == "open",
        )
        .order_by(_ALERT.c.raised_at, _ALERT.c.alert_id)
        .limit(1)
    )
    return conn.execute(locked(conn, query)).first()


# --- acknowledging ------------------------------------------------------------------------------------------------------


def acknowledge(
    conn: Connection,
    alert_id: str,
    *,
    by: str,
    how: str,
    now: datetime,
    rev: int | None = None,
    step_id: str | None = None,
    whole_group: bool = False,
    origin: str | None = None,
) -> Acknowledged:
    """Take an alert on: stops every message that has not left, claimed ones included.

    Before the deadline it keeps safe mode away; exactly at it, it does not. A second ACK changes nothing and is recorded
    once per person. With `whole_group` it covers every open alert of the same storm, as the message it answers did.
    Raises NotFound, or Conflict when `rev` is given, somebody else changed the alert since and it is still open.
    """
    row = lock_alert(conn, alert_id)
    if rev is not None and rev != row.rev and row.acked_at is None:
        raise Conflict("This alert has changed since you looked at it; nothing was done.")
    others: list[Row[Any]] = []
    if whole_group:
        query = (
            select(_ALERT)
            .where(_ALERT.c.group_id == row.group_id, _ALERT.c.acked_at.is_(None), _ALERT.c.alert_id != alert_id)
            .where(_ALERT.c.status == "open")
            .order_by(_ALERT.c.alert_id)
        )
        others = list(conn.execute(locked(conn, query)))
    act = _Act(by=by, how=how, now=now, step_id=step_id, origin=origin)
    effective = _take_on(conn, row, act)
    for other in others:
        _take_on(conn, other, act)
    ease_deadline(conn, row.scope, now)
    fresh = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == alert_id)).one()
    in_time = fresh.result in (AlertResult.ACK_RECEIVED, AlertResult.ALERT_FIRED_ACKNOWLEDGED)
    return Acknowledged(row=fresh, effective=effective, in_time=in_time, others=len(others))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Act:
    by: str
    how: str
    now: datetime
    step_id: str | None
    origin: str | None


def _take_on(conn: Connection, row: Row[Any], act: _Act) -> bool:
    delay_s = (act.now - row.raised_at).total_seconds()
    effective = row.acked_at is None
    _record(conn, row, act, kind="ack", effective=effective, delay_s=delay_s)
    if not effective:
        return False
    climb(conn, row, act.now)  # what was due before the ACK happened, even if nobody wrote it down yet
    result = _ack_result(row, act.now)
    stop_steps(conn, [row.alert_id], act.now)
    conn.execute(
        update(_ALERT)
        .where(_ALERT.c.alert_id == row.alert_id)
        .values(
            status="acknowledged" if row.status == "open" else row.status,
            result=result,
            acked_at=act.now,
            acked_by=act.by[:200],
            ack_how=act.how,
            ack_delay_s=delay_s,
            rev=_ALERT.c.rev + 1,
        )
    )
    take_up_incident(conn, row, act.by, act.now)
    cause_acknowledged(conn, row, act.by, act.now)
    append(
        conn,
        chain=row.scope,
        actor=act.by,
        action="alert.ack",
        object=f"alert/{row.alert_id}",
        after={"how": act.how, "delay_s": round(delay_s, 3), "result": result},
        origin=act.origin,
        correlation_id=row.correlation_id,
        now=act.now,
    )
    publish(conn, row.tenant_id, "alerts", [row.alert_id], act.now)
    return True


def _ack_result(row: Row[Any], now: datetime) -> AlertResult:
    if row.safe_mode_at is not None:
        in_time = now < row.safe_mode_at
        return AlertResult.ACK_RECEIVED if in_time else AlertResult.ACK_TIMEOUT_ESCALATED
    sla_min = route_in(msgspec.json.decode(row.policy_json)).ack_sla_min
    return domain.operational_result(row.raised_at, now, now, sla_min) or AlertResult.ALERT_FIRED_ACKNOWLEDGED


def _record(
    conn: Connection,
    row: Row[Any],
    act: _Act,
    *,
    kind: str,
    effective: bool,
    delay_s: float,
    recipient: str | None = None,
) -> None:
    record = {
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
    insert_rows(conn, _ACK, [record], ignore_conflicts=True)


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
    act = _Act(by=by, how=how, now=now, step_id=step_id, origin=origin)
    _record(conn, row, act, kind="pass_on", effective=True, delay_s=delay_s, recipient=chosen)
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
    conn.execute(
        update(_STEP)
        .where(
            _STEP.c.alert_id == row.alert_id,
            _STEP.c.channel == channel,
            _STEP.c.done_at.is_(None),
            _STEP.c.due_at > now,
            _STEP.c.action == Action.SEND,
        )
        .values(recipient=recipient)
    )


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
