"""The links of alert messages: what a token is good for, and using it. Only hashes are stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, select, update

from app.store import alerts
from app.store.accounts import find_user
from app.store.alert_records import PassedOn
from app.store.alert_voices import spoken_for
from app.store.alerts import Acknowledged
from app.store.safe_deadline import Moment, moment
from app.store.tables import AckRecord, AckToken, Alert, AlertStep, table

_TOKEN, _ALERT, _STEP, _RECORD = table(AckToken), table(Alert), table(AlertStep), table(AckRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a link shows: its token, its alert, how many further alerts of the storm are open, and what its reader passed on."""

    token: Row[Any]
    alert: Row[Any]
    expired: bool
    others: int
    passed_at: datetime | None = None
    """When this recipient passed it on."""
    passed_to: str | None = None
    """Who was told instead; None when nobody was left."""
    acked_by_name: str | None = None
    """First name of the person of the console who acknowledged it."""


def find(conn: Connection, token_hash: str, now: datetime) -> Opened | None:
    """The link behind a token's hash; None when there is none. Reading changes nothing."""
    token = conn.execute(select(_TOKEN).where(_TOKEN.c.token_hash == token_hash)).first()
    if token is None:
        return None
    alert = conn.execute(select(_ALERT).where(_ALERT.c.alert_id == token.alert_id)).first()
    if alert is None:
        return None
    others = len(_also(conn, token, alert))
    # a link of before the alert climbed, or came back after a rest, speaks of another situation
    newer = select(_ALERT.c.alert_id).where(
        _ALERT.c.scope == alert.scope,
        _ALERT.c.dedup_key == alert.dedup_key,
        _ALERT.c.status == "open",
        _ALERT.c.acked_at.is_(None),
        _ALERT.c.alert_id != alert.alert_id,
    )
    stale = alert.status == "resolved" and conn.execute(newer.limit(1)).first() is not None
    passed = select(_RECORD.c.at, _RECORD.c.recipient).where(
        _RECORD.c.alert_id == alert.alert_id, _RECORD.c.kind == "pass_on", _RECORD.c.by == by_name(token.recipient)
    )
    record = conn.execute(passed).first()
    return Opened(
        token=token,
        alert=alert,
        expired=token.expires_at <= now or stale,
        others=others,
        passed_at=record.at if record else None,
        passed_to=record.recipient if record else None,
        acked_by_name=_first_name(conn, alert.acked_by),
    )


def _first_name(conn: Connection, by: str | None) -> str | None:
    kind, _, user_id = (by or "").partition(":")
    user = find_user(conn, user_id) if kind == "user" else None
    return user.name.split()[0] if user is not None and user.name.strip() else None


def message_of(conn: Connection, opened: Opened) -> Row[Any]:
    """The message that carried a link."""
    return conn.execute(select(_STEP).where(_STEP.c.step_id == opened.token.step_id)).one()


def _also(conn: Connection, token: Row[Any], alert: Row[Any]) -> list[str]:
    """The further open alerts that the message of a link spoke for: those that came later nobody has told its reader about."""
    step = conn.execute(select(_STEP).where(_STEP.c.step_id == token.step_id)).one()
    return [row.alert_id for row in conn.execute(spoken_for(step, alert, token.created_at))]


def acknowledge(conn: Connection, opened: Opened, *, how: str, now: Moment, origin: str | None = None) -> Acknowledged:
    """Take on the alert of a link, and every open one that its message spoke for; again and again with one effect."""
    done = alerts.acknowledge(
        conn,
        opened.alert.alert_id,
        by=by_name(opened.token.recipient),
        how=how,
        now=now,
        step_id=opened.token.step_id,
        also=_also(conn, opened.token, opened.alert),
        origin=origin,
    )
    unused = and_(_TOKEN.c.token_hash == opened.token.token_hash, _TOKEN.c.used_at.is_(None))
    conn.execute(update(_TOKEN).where(unused).values(used_at=moment(now)))
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
