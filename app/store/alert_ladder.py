"""The ladder of an alert as rows: by which policy it climbs, which rungs it has, and its changes of state.

The policy is copied onto the alert when it is raised, so an edit of the routing matrix changes later alerts only. A rung is
written once (unique by alert, key, channel, recipient) and done once; changes of state are written down by whoever comes
first: the loop, an ACK, or the end of the alert.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Boolean, Connection, Row, and_, func, literal_column, or_, select, update

from app.domain import alerts as domain
from app.domain.alerts import ROUTING, Action, AlertResult, Route, Step, family_of
from app.domain.signals import SIGNALS
from app.ids import new_id
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.incidents import open_incident
from app.store.settings import load
from app.store.tables import Alert, AlertStep, table

_ALERT, _STEP = table(Alert), table(AlertStep)

CRITICAL: Final = "critical"
UNRESOLVED: Final = literal_column("alert.status <> 'resolved'", Boolean)
"""As it is written in the index of open alerts: history, however long, is not looked at."""
LATE_AFTER: Final = timedelta(seconds=60)
"""A step that is done this much after it was due is marked late."""


# --- policy -------------------------------------------------------------------------------------------------------------


def route_of(settings: Mapping[str, Any], trigger: str, severity: str) -> Route:
    """The row of the routing matrix that holds: the trigger's own, else `critical`, else the trigger's family, else `default`.

    What was set for the family also changes a trigger whose default is a row of its own. The alert of a signal belongs to the
    signal's owners.
    """
    routing = settings.get("routing") or {}
    family = CRITICAL if severity == CRITICAL else family_of(trigger)
    fields = asdict(ROUTING[family] if severity == CRITICAL else ROUTING.get(trigger, ROUTING[family]))
    if trigger in SIGNALS:
        fields["owner"] = SIGNALS[trigger].owner
    for name in (family, trigger):
        given = routing.get(name)
        if isinstance(given, Mapping):
            fields |= {k: v for k, v in given.items() if k in fields and v}
    return Route(**{**fields, "channels": tuple(fields["channels"])})


def recipients_of(settings: Mapping[str, Any], channel: str) -> list[str]:
    """The recipients of a channel kind, in the order in which they are asked: `kind`, `kind:2`, ... (one per target)."""
    given = (settings.get("channels") or {}).get(channel)
    count = max(1, len(given)) if isinstance(given, list) else 1
    return [channel if i == 1 else f"{channel}:{i}" for i in range(1, count + 1)]


def policy_of(conn: Connection, scope: str, trigger: str, severity: str) -> dict[str, Any]:
    """What is copied onto an alert: its route, its recipients in the order in which they are asked, and their timezone."""
    settings = load(conn, scope)
    route = route_of(settings, trigger, severity)
    first, *others = route.channels
    if severity == CRITICAL:
        plan = domain.ladder_of(route)
        first, others = plan.primary, [plan.redundant, *plan.also]
    order = [*others, first, route.fallback]
    people = [[channel, name] for channel in dict.fromkeys(order) for name in recipients_of(settings, channel)]
    return {"route": asdict(route), "recipients": people, "timezone": settings["timezone"]}


def route_in(policy: Mapping[str, Any]) -> Route:
    """The route of a copied policy."""
    fields = policy["route"]
    return Route(**{**fields, "channels": tuple(fields["channels"])})


# --- rungs -------------------------------------------------------------------------------------------------------------


def write_steps(conn: Connection, row: Row[Any]) -> int:
    """Write the rungs of an alert that are not there yet; returns how many were missing."""
    have: dict[str, set[str]] = {}
    for there in conn.execute(select(_STEP.c.step_key, _STEP.c.recipient).where(_STEP.c.alert_id == row.alert_id)):
        have.setdefault(there.step_key, set()).add(there.recipient)
    wanted: dict[str, list[dict[str, Any]]] = {}
    for step in _step_rows(row):
        wanted.setdefault(step["step_key"], []).append(step)
    rows = []
    for key, steps in wanted.items():
        known = have.get(key, set())
        # whoever passed it on may have given a rung another recipient: it is there all the same
        rows += [r for r in steps if r["recipient"] not in known][: max(0, len(steps) - len(known))]
    insert_rows(conn, _STEP, rows, ignore_conflicts=True)
    return len(rows)


def _step_rows(row: Row[Any]) -> list[dict[str, Any]]:
    return [
        {
            "step_id": new_id(),
            "alert_id": row.alert_id,
            "tenant_id": row.tenant_id,
            "group_id": row.group_id,
            "step_key": step.key,
            "action": step.action,
            "channel": step.channel or "",
            "recipient": recipient,
            "n": step.attempt or 0,
            "due_at": step.due_at,
        }
        for step, recipient in rungs(row)
    ]


def rungs(row: Row[Any]) -> list[tuple[Step, str]]:
    """The ladder with its recipients ('' for a change of state).

    First the first of each channel is asked; from level high on a critical alert that nobody took on goes to everybody.
    """
    policy = msgspec.json.decode(row.policy_json)
    people: dict[str, list[str]] = {}
    for channel, name in policy["recipients"]:
        people.setdefault(channel, []).append(name)
    found: list[tuple[Step, str]] = []
    for step in ladder(row):
        if step.channel is None:
            found.append((step, ""))
            continue
        named = people.get(step.channel) or [step.channel]
        told = named if row.severity == CRITICAL and domain.is_for_everybody(step) else named[:1]
        found += [(step, name) for name in told]
    if row.severity == CRITICAL:
        sent = {step.channel for step, _ in found if domain.is_for_everybody(step)}
        for channel in dict.fromkeys(route_in(policy).channels):
            if channel not in sent:  # a channel without resends: its other recipients hear of it once, then
                step = domain.late_first(row.raised_at, channel)
                found += [(step, name) for name in people.get(channel, [])[1:]]
    return found


def ladder(row: Row[Any]) -> tuple[Step, ...]:
    """The ladder that an alert climbs by the policy that was copied onto it, from the moment it was raised."""
    route = route_in(msgspec.json.decode(row.policy_json))
    if row.severity == CRITICAL:
        return domain.steps(row.raised_at, domain.ladder_of(route))
    return domain.operational_steps(row.raised_at, route)


def has_open_steps(conn: Connection, alert_id: str) -> bool:
    """Whether anything of its ladder is still to come."""
    query = select(_STEP.c.step_id).where(_STEP.c.alert_id == alert_id, _STEP.c.done_at.is_(None)).limit(1)
    return conn.execute(query).first() is not None


# --- climbing -----------------------------------------------------------------------------------------------------------


def climb(conn: Connection, row: Row[Any], now: datetime) -> list[str]:
    """Write down the changes of state of a locked, unacknowledged alert that are due; returns their actions, in order."""
    if row.acked_at is not None:
        return []
    due = conn.execute(
        select(_STEP)
        .where(_STEP.c.alert_id == row.alert_id, _STEP.c.action != Action.SEND, _STEP.c.done_at.is_(None), _STEP.c.due_at <= now)
        .order_by(_STEP.c.due_at)
    ).all()
    # an operational SLA that ends right now is not over yet, the critical deadline is
    due = [step for step in due if step.action != Action.ESCALATE or step.due_at < now]
    if not due:
        return []
    values: dict[str, Any] = {"rev": _ALERT.c.rev + 1}
    for step in due:
        values["level"] = domain.LEVEL_OF_ACTION[Action(step.action)]
        if step.action == Action.ENTER_SAFE_MODE:
            values["result"] = AlertResult.ACK_TIMEOUT_ESCALATED
        elif step.action == Action.ESCALATE:
            values["result"] = AlertResult.ALERT_FIRED_NO_ACK_ESCALATED
            open_incident(conn, row, now)
        late = now - step.due_at > LATE_AFTER
        conn.execute(update(_STEP).where(_STEP.c.step_id == step.step_id).values(done_at=now, outcome="done", late=late))
    conn.execute(update(_ALERT).where(_ALERT.c.alert_id == row.alert_id).values(**values))
    publish(conn, row.tenant_id, "alerts", [row.alert_id], now)
    return [step.action for step in due]


def climb_due(conn: Connection, now: datetime, limit: int = 100) -> list[tuple[Row[Any], list[str]]]:
    """Climb every alert with a change of state that is due; returns the alerts as they were, with what happened to them."""
    passed = or_(_STEP.c.due_at < now, and_(_STEP.c.due_at == now, _STEP.c.action != Action.ESCALATE))
    query = (
        select(_STEP.c.alert_id)
        .where(_STEP.c.done_at.is_(None), _STEP.c.action != Action.SEND, passed)
        .group_by(_STEP.c.alert_id)
        .order_by(func.min(_STEP.c.due_at), _STEP.c.alert_id)
        .limit(limit)
    )
    ids = sorted(row.alert_id for row in conn.execute(query))
    climbed = []
    for alert_id in ids:
        row = conn.execute(locked(conn, select(_ALERT).where(_ALERT.c.alert_id == alert_id))).one()
        actions = climb(conn, row, now)
        if actions:
            climbed.append((row, actions))
    return climbed


def stop_steps(conn: Connection, alert_ids: Sequence[str], now: datetime) -> None:
    """Nothing that has not been done is done any more; a claim that is on its way finds its step gone."""
    conn.execute(
        update(_STEP)
        .where(_STEP.c.alert_id.in_(alert_ids), _STEP.c.done_at.is_(None))
        .values(done_at=now, outcome="stopped", lease_until=None)
    )


# --- shared -------------------------------------------------------------------------------------------------------------


def locked(conn: Connection, query: Any) -> Any:
    """The query with row locks, where the database has them (SQLite has one writer)."""
    return query.with_for_update() if conn.dialect.name == "postgresql" else query
