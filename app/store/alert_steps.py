"""The messages of alerts on their way out: claimed with a lease, settled with the provider's answer, never skipped.

A claim takes one step per (storm, channel, recipient): the newest attempt speaks, and everything else that is due there is
`merged` into it, be it an older resend that downtime ate or another alert of the same storm. A step that an ACK has stopped
cannot be claimed, and one that was claimed before is looked at once more right before it leaves (`still_wanted`). A sender
that vanished loses its lease and the step is sent again: alerts are at least once, and their text says which attempt it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, update

from app.domain.alerts import Action
from app.domain.delivery import DeliveryUpdate, Outcome, SendResult, furthest
from app.ids import new_id
from app.store.alert_ladder import LATE_AFTER, UNRESOLVED, locked, route_in
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.tables import AckToken, Alert, AlertStep, Tenant, table

_ALERT, _STEP, _TOKEN, _TENANT = table(Alert), table(AlertStep), table(AckToken), table(Tenant)

TOKEN_LIFETIME: Final = timedelta(hours=12)
Lane = tuple[str | None, str, str]
"""(tenant, channel, recipient): whose credentials, which kind, which target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One message to send now."""

    step: Row[Any]
    alert: Row[Any]
    clinic: str | None
    others: int
    """Further open alerts of the storm."""
    token: str
    """Of the lease."""
    ack_token: str
    """For the link: known to this message only."""

    @property
    def lane(self) -> Lane:
        """Where it goes."""
        return (self.step.tenant_id, self.step.channel, self.step.recipient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a claimed message."""

    claimed: Claimed
    result: SendResult
    target: str


def _free(now: datetime) -> ColumnElement[bool]:
    return and_(
        _STEP.c.action == Action.SEND,
        _STEP.c.done_at.is_(None),
        _STEP.c.due_at <= now,
        or_(_STEP.c.lease_until.is_(None), _STEP.c.lease_until <= now),
    )


def claim_due(
    conn: Connection,
    *,
    now: datetime,
    lease_until: datetime,
    lease_token: str,
    room: int,
    busy: Mapping[Lane, int],
    per_target: int,
    mint: Callable[[], tuple[str, str]],
) -> list[Claimed]:
    """Take up to `room` messages that are due; `mint` makes (ACK token, its hash).

    No target gets more than `per_target` at a time (`busy` says how many are on their way there), so that one that hangs
    takes no room from the others.
    """
    first = func.min(_STEP.c.due_at)
    lane = (_STEP.c.tenant_id, _STEP.c.channel, _STEP.c.recipient)
    turn = func.row_number().over(partition_by=lane, order_by=(first, _STEP.c.group_id))
    due = (
        select(_STEP.c.group_id, *lane, first.label("first"), turn.label("turn"))
        .where(_free(now))
        .group_by(_STEP.c.group_id, *lane)
        .subquery()
    )
    heads = conn.execute(select(due).where(due.c.turn <= per_target).order_by(due.c.turn, due.c.first, due.c.group_id)).all()
    wanted = [h for h in heads if h.turn + busy.get((h.tenant_id, h.channel, h.recipient), 0) <= per_target][:room]
    claimed = []
    for head in wanted:
        mine = and_(_STEP.c.group_id == head.group_id, _STEP.c.channel == head.channel, _STEP.c.recipient == head.recipient)
        newest = select(_STEP).where(mine, _free(now)).order_by(_STEP.c.n.desc(), _STEP.c.alert_id, _STEP.c.step_id).limit(1)
        step = conn.execute(newest).first()
        if step is None:
            continue
        won = conn.execute(
            update(_STEP)
            .where(_STEP.c.step_id == step.step_id, _free(now))
            .values(lease_token=lease_token, lease_until=lease_until, begun_at=now, tries=_STEP.c.tries + 1)
        )
        if won.rowcount != 1:
            continue  # another node was faster, or an ACK
        conn.execute(
            update(_STEP)
            .where(mine, _free(now), _STEP.c.step_id != step.step_id)
            .values(done_at=now, outcome="merged", merged_into=step.step_id, late=_STEP.c.due_at < now - LATE_AFTER)
        )
        claimed.append(_claimed(conn, step, lease_token, mint, now))
    return claimed


def _claimed(conn: Connection, step: Row[Any], lease_token: str, mint: Callable[[], tuple[str, str]], now: datetime) -> Claimed:
    alert = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == step.alert_id)).one()
    others = conn.execute(
        select(func.count())
        .select_from(_ALERT)
        .where(_ALERT.c.group_id == alert.group_id, _ALERT.c.status == "open", _ALERT.c.alert_id != alert.alert_id)
    ).scalar_one()
    clinic = conn.execute(select(_TENANT.c.name).where(_TENANT.c.tenant_id == alert.tenant_id)).scalar()
    ack_token, token_hash = mint()
    row = {
        "token_hash": token_hash,
        "alert_id": alert.alert_id,
        "step_id": step.step_id,
        "recipient": step.recipient,
        "created_at": now,
        "expires_at": now + TOKEN_LIFETIME,
    }
    insert_rows(conn, _TOKEN, [row])
    return Claimed(step=step, alert=alert, clinic=clinic, others=int(others), token=lease_token, ack_token=ack_token)


def still_wanted(conn: Connection, step_id: str, lease_token: str) -> bool:
    """Whether a claimed message may leave: nobody has acknowledged since, and the lease is still ours."""
    row = conn.execute(select(_STEP.c.done_at, _STEP.c.lease_token).where(_STEP.c.step_id == step_id)).one()
    return row.done_at is None and row.lease_token == lease_token


def settle(conn: Connection, sent: Sequence[Sent], now: datetime) -> list[str]:
    """Write what became of messages; one that did not certainly arrive gets its fallback at once. Returns the fallbacks' ids.

    An ACK that came while the message was on its way stopped its step: the record then says what really happened.
    """
    fallbacks: list[str] = []
    for one in sorted(sent, key=lambda s: (s.claimed.alert.alert_id, s.claimed.step.step_id)):
        step, result = one.claimed.step, one.result
        # the alert's row first, as in every act on it: an ACK and a fallback of the same alert take turns
        alert = conn.execute(locked(conn, select(_ALERT).where(_ALERT.c.alert_id == step.alert_id))).one()
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
        publish(conn, alert.tenant_id, "alerts", [alert.alert_id], now)
    return fallbacks


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
        "step_key": f"fallback:{int((step.due_at - alert.group_started_at).total_seconds())}",
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
        alert = conn.execute(locked(conn, select(_ALERT).where(_ALERT.c.alert_id == step.alert_id))).one()
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
        publish(conn, alert.tenant_id, "alerts", [alert.alert_id], now)
    return ours


@dataclass(frozen=True, slots=True)
class Agenda:
    """When the loop has something to do next; None = nothing of that kind."""

    send_at: datetime | None
    climb_at: datetime | None
    rest_at: datetime | None
    """When the first flapping alert may be looked at."""


def agenda(conn: Connection) -> Agenda:
    """The next moments of all ladders; a claimed step counts at the end of its lease."""
    waiting = func.coalesce(_STEP.c.lease_until, _STEP.c.due_at)
    send = select(waiting).where(_STEP.c.done_at.is_(None), _STEP.c.action == Action.SEND).order_by(waiting).limit(1)
    climb = select(_STEP.c.due_at).where(_STEP.c.done_at.is_(None), _STEP.c.action != Action.SEND).order_by(_STEP.c.due_at).limit(1)
    rest = select(func.min(_ALERT.c.ended_at)).where(_ALERT.c.ended_at.is_not(None))
    return Agenda(conn.execute(send).scalar(), conn.execute(climb).scalar(), conn.execute(rest).scalar())


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
