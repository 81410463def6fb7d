"""The links of alert messages: what a token is good for, and using it. Only hashes are stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from app.store import alerts
from app.store.alerts import Acknowledged, PassedOn
from app.store.tables import AckToken, Alert, AlertStep, table

_TOKEN, _ALERT, _STEP = table(AckToken), table(Alert), table(AlertStep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a link shows: its token, its alert, who acknowledged it first, and how many alerts of the storm are open."""

    token: Row[Any]
    alert: Row[Any]
    expired: bool
    others: int


def find(conn: Connection, token_hash: str, now: datetime) -> Opened | None:
    """The link behind a token's hash; None when there is none. Reading changes nothing."""
    token = conn.execute(select(_TOKEN).where(_TOKEN.c.token_hash == token_hash)).first()
    if token is None:
        return None
    alert = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == token.alert_id)).first()
    if alert is None:
        return None
    members = select(_ALERT.c.alert_id).where(
        _ALERT.c.group_id == alert.group_id, _ALERT.c.status == "open", _ALERT.c.alert_id != alert.alert_id
    )
    others = len(conn.execute(members).all())
    # a link of before the alert climbed to a higher severity speaks of another situation
    stale = token.created_at < alert.raised_at
    return Opened(token=token, alert=alert, expired=token.expires_at <= now or stale, others=others)


def message_of(conn: Connection, opened: Opened) -> Row[Any]:
    """The message that carried a link."""
    return conn.execute(select(_STEP).where(_STEP.c.step_id == opened.token.step_id)).one()


def acknowledge(conn: Connection, opened: Opened, *, how: str, now: datetime, origin: str | None = None) -> Acknowledged:
    """Take on the alert of a link, and every open one of its storm; again and again with one effect."""
    done = alerts.acknowledge(
        conn,
        opened.alert.alert_id,
        by=by_name(opened.token.recipient),
        how=how,
        now=now,
        step_id=opened.token.step_id,
        whole_group=True,
        origin=origin,
    )
    conn.execute(
        update(_TOKEN).where(_TOKEN.c.token_hash == opened.token.token_hash, _TOKEN.c.used_at.is_(None)).values(used_at=now)
    )
    return done


def pass_on(conn: Connection, opened: Opened, *, how: str, now: datetime, origin: str | None = None) -> PassedOn:
    """Hand the alert of a link to the next recipient."""
    return alerts.pass_on(
        conn,
        opened.alert.alert_id,
        by=by_name(opened.token.recipient),
        how=how,
        now=now,
        recipient=opened.token.recipient,
        step_id=opened.token.step_id,
        origin=origin,
    )


def by_name(recipient: str) -> str:
    """How a recipient of messages is named in records."""
    return f"recipient:{recipient}"
