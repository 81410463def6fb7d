"""Alerts: raised, acknowledged and passed on, each in one transaction with its ladder and its safe_deadline.

A critical alert writes `mode.safe_deadline` of its scope in the transaction that raises it, and only an ACK (or its end)
before that moment takes it back: safe mode holds on time whether any timer runs or not. Every act locks the alerts' rows
first (in the order of their ids), the kind's lock, then the mode's row and the audit trail's head, so acts on one alert
take turns: one of two simultaneous ACKs has the effect, both leave their record. Nothing here sends: `app.engine.alerts`
does. How alerts end is in `app.store.alert_end`, how they are passed on in `app.store.alert_records`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, select, text, update

from app.domain import alerts as domain
from app.domain.alerts import AlertResult, Level
from app.domain.envelopes import canonical_json
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.store.alert_end import (
    FLAP_WINDOW,
    lock_alerts,
    open_alert,
    recent_changes,
    resolve,
    resolve_by_key,
    say_alert,
    settle_flapping,
    supersede,
    times_of,
    with_change,
)
from app.store.alert_ladder import (
    CRITICAL,
    climb,
    climb_due,
    has_open_steps,
    policy_of,
    route_in,
    stop_steps,
    write_steps,
)
from app.store.alert_records import Act, PassedOn, pass_on, record
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.incidents import take_up_incident
from app.store.lanes import GLOBAL_SCOPE
from app.store.safe_deadline import (
    Moment,
    bring_forward,
    ease_deadline,
    lock_mode,
    moment,
    reset_deadline,
    unacknowledged_deadline,
)
from app.store.safe_story import cause_acknowledged
from app.store.tables import Alert, SafeCause, table

__all__ = [
    "CRITICAL",
    "FLAP_WINDOW",
    "SEVERITIES",
    "Acknowledged",
    "Kind",
    "PassedOn",
    "Raised",
    "acknowledge",
    "climb_due",
    "lock_kinds",
    "lock_mode",
    "pass_on",
    "raise_alert",
    "reset_deadline",
    "resolve",
    "resolve_by_key",
    "settle_flapping",
    "unacknowledged_deadline",
]

_ALERT, _CAUSE = table(Alert), table(SafeCause)

SEVERITIES: Final = ("warning", "high", "critical")
"""Rising."""
_WORSE: Final = "raised again with a higher severity"
GROUP_WINDOW: Final = timedelta(minutes=1)
REST: Final = timedelta(minutes=30)
"""An alert whose ladder is over and that was not raised for so long has rested: raised again, it is a new one."""


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

    `tenant_id` None = the whole installation. A higher severity, or a return after the alert had rested, ends the old alert
    quietly and raises a new one, with its own ladder, links and records.
    """
    scope = tenant_id or GLOBAL_SCOPE
    known = open_alert(conn, scope, dedup_key)
    reason = _begins_anew(conn, known, severity, now) if known is not None else None
    if known is not None and reason is None:
        return _again(conn, known, now)
    lock_kinds(conn, [Kind(scope, trigger, severity)])
    changes = with_change(recent_changes(conn, scope, dedup_key, now), now)
    if known is not None and reason is not None:
        supersede(conn, known, now, reason)
        changes = known.changes_json if reason == _WORSE else changes  # to become worse is no going off and on
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
        "changes_json": changes,
    }
    insert_rows(conn, _ALERT, [row], ignore_conflicts=True)
    stored = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == alert_id)).first()
    if stored is None:  # raised by somebody else at the same moment
        winner = open_alert(conn, scope, dedup_key)
        if winner is None:
            raise Conflict("This alert was raised and resolved at the same moment; raise it again.")
        return _again(conn, winner, now)
    write_steps(conn, stored)
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
    say_alert(conn, stored, "alert_raised", severity, level="warning")
    publish(conn, tenant_id, "alerts", [alert_id], now)
    return Raised(alert_id=alert_id, fresh=True, safe_mode_at=safe_mode_at)


def _begins_anew(conn: Connection, row: Row[Any], severity: str, now: datetime) -> str | None:
    """Why an alert that is raised again is a new one though its key is not resolved; None when it only counts up.

    Its ladder is over once somebody took it on, or once its last message has left: an outage that comes later must be heard
    anew. A critical one without an ACK never rests: safe mode holds because of it, and its ticket remains the route.
    """
    if SEVERITIES.index(severity) > SEVERITIES.index(row.severity):
        return _WORSE
    if row.acked_at is None and (row.severity == CRITICAL or has_open_steps(conn, row.alert_id)):
        return None
    seen_at = max(row.last_seen_at, row.acked_at or row.last_seen_at)
    return "raised again after it had rested" if now - seen_at > REST else None


def _again(conn: Connection, row: Row[Any], now: datetime) -> Raised:
    """One that is there already: count it."""
    values: dict[str, Any] = {"seen_count": row.seen_count + 1, "last_seen_at": now, "rev": row.rev + 1}
    if row.ended_at is not None:  # it had said that it was over: that is one more change of a flapping alert
        values |= {"ended_at": None, "changes_json": with_change(times_of(row), now)}
    conn.execute(update(_ALERT).where(_ALERT.c.alert_id == row.alert_id).values(**values))
    publish(conn, row.tenant_id, "alerts", [row.alert_id], now)
    return Raised(alert_id=row.alert_id, fresh=False, safe_mode_at=row.safe_mode_at)


class Kind(NamedTuple):
    """What makes alerts a storm when many come at once."""

    scope: str
    trigger: str
    severity: str


def lock_kinds(conn: Connection, kinds: Iterable[Kind]) -> None:
    """Let raises of one kind take turns until the commit, so that each sees the one before (SQLite has one writer anyway).

    Whoever raises several kinds in one transaction locks them all here first: in one order nobody waits for the other.
    """
    if conn.dialect.name != "postgresql":
        return
    for kind in sorted({Kind(k.scope, k.trigger[:60], k.severity) for k in kinds}):
        name = "|".join(("alert", *kind))
        conn.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def _leader(conn: Connection, scope: str, trigger: str, severity: str, now: datetime) -> Row[Any] | None:
    """The latest alert of the same kind, if it is younger than a minute and nobody took it on: the storm goes on with this one."""
    query = (
        select(_ALERT)
        .where(
            _ALERT.c.scope == scope,
            _ALERT.c.raised_at > now - GROUP_WINDOW,
            _ALERT.c.trigger == trigger[:60],
            _ALERT.c.severity == severity,
            _ALERT.c.status == "open",
            _ALERT.c.acked_at.is_(None),
        )
        .order_by(_ALERT.c.raised_at.desc(), _ALERT.c.alert_id)
        .limit(1)
    )
    return conn.execute(query).first()


# --- acknowledging ------------------------------------------------------------------------------------------------------


def acknowledge(
    conn: Connection,
    alert_id: str,
    *,
    by: str,
    how: str,
    now: Moment,
    rev: int | None = None,
    step_id: str | None = None,
    also: Iterable[str] = (),
    whole_group: bool = False,
    seen_until: datetime | None = None,
    origin: str | None = None,
) -> Acknowledged:
    """Take an alert on: stops every message that has not left, claimed ones included.

    Before the deadline it keeps safe mode away; exactly at it, it does not. A second ACK changes nothing and is recorded
    once per person. `also` are further alerts that the same message spoke for; with `whole_group` it covers every open alert
    of the storm, those raised after `seen_until` excepted: nobody has seen them yet. A callable `now` is read where it
    counts: behind the locks, so that an ACK that had to wait for safe mode says so.
    Raises NotFound, or Conflict when `rev` is given, somebody else changed the alert since and it is still open.
    """
    ids = {alert_id, *also}
    if whole_group:
        ids.update(_open_of_group(conn, alert_id, seen_until))
    rows = {row.alert_id: row for row in lock_alerts(conn, ids)}
    if alert_id not in rows:
        raise NotFound("There is no such alert.")
    row = rows.pop(alert_id)
    if rev is not None and rev != row.rev and row.acked_at is None:
        raise Conflict("This alert has changed since you looked at it; nothing was done.")
    others = [r for r in rows.values() if r.acked_at is None and r.status == "open"]
    scopes = sorted({r.scope for r in (row, *others)})
    for scope in scopes:
        lock_mode(conn, scope)
    act = Act(by=by, how=how, now=moment(now), step_id=step_id, origin=origin)
    effective = False
    for one in sorted((row, *others), key=lambda r: (r.scope, r.alert_id)):
        taken = _take_on(conn, one, act)
        effective = taken if one is row else effective
    for scope in scopes:
        ease_deadline(conn, scope, act.now)
    fresh = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == alert_id)).one()
    in_time = fresh.result in (AlertResult.ACK_RECEIVED, AlertResult.ALERT_FIRED_ACKNOWLEDGED)
    return Acknowledged(row=fresh, effective=effective, in_time=in_time, others=len(others))


def _open_of_group(conn: Connection, alert_id: str, seen_until: datetime | None) -> list[str]:
    group = select(_ALERT.c.group_id).where(_ALERT.c.alert_id == alert_id).scalar_subquery()
    query = select(_ALERT.c.alert_id).where(_ALERT.c.group_id == group, _ALERT.c.acked_at.is_(None), _ALERT.c.status == "open")
    if seen_until is not None:
        query = query.where(_ALERT.c.raised_at <= seen_until)
    return list(conn.execute(query).scalars())


def _take_on(conn: Connection, row: Row[Any], act: Act) -> bool:
    if row.acked_at is None and _safe_mode_began(conn, row):
        # it is behind that moment, also where the clock of this node is not
        act = replace(act, now=max(act.now, row.safe_mode_at))
    delay_s = (act.now - row.raised_at).total_seconds()
    effective = row.acked_at is None
    record(conn, row, act, kind="ack", effective=effective, delay_s=delay_s)
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
    say_alert(conn, row, "alert_acknowledged", result, ack_id=row.alert_id, how=act.how, ack_delay_s=round(delay_s, 3))
    publish(conn, row.tenant_id, "alerts", [row.alert_id], act.now)
    return True


def _safe_mode_began(conn: Connection, row: Row[Any]) -> bool:
    """Whether somebody has written down already that the deadline of an alert passed."""
    if row.safe_mode_at is None or row.level == Level.SAFE_MODE:
        return row.safe_mode_at is not None
    cause = select(_CAUSE.c.cause_id).where(_CAUSE.c.cause_id == row.alert_id, _CAUSE.c.at == row.safe_mode_at)
    return conn.execute(cause.limit(1)).first() is not None


def _ack_result(row: Row[Any], now: datetime) -> AlertResult:
    if row.safe_mode_at is not None:
        in_time = now < row.safe_mode_at
        return AlertResult.ACK_RECEIVED if in_time else AlertResult.ACK_TIMEOUT_ESCALATED
    sla_min = route_in(msgspec.json.decode(row.policy_json)).ack_sla_min
    return domain.operational_result(row.raised_at, now, now, sla_min) or AlertResult.ALERT_FIRED_ACKNOWLEDGED


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
