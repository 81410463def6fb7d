"""Which message speaks for which alerts: one voice for a storm at each real target, whatever clinics its alerts belong to.

A message that is due is not sent when another one of its kind has just told the same recipient: `merged` when that message
already spoke for this alert, `grouped` when the alert came after it and is mentioned by the next one. A storm goes on while no
minute passes without an alert of its kind; its voice is at most five minutes old. Alerts of several clinics that share a target
share the voice there, and only there: `alert_step.group_id` says so, per recipient. Whoever answers a message answers for what it
spoke for; what it did not mention is told by a message of its own (`left_alone`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, func, or_, select, update

from app.domain.alerts import Action
from app.store.alert_ladder import LATE_AFTER, UNRESOLVED
from app.store.lanes import GLOBAL_SCOPE
from app.store.settings import channels_of
from app.store.tables import Alert, AlertStep, table

_ALERT, _STEP = table(Alert), table(AlertStep)

STORM: Final = timedelta(minutes=1)
"""Alerts of one kind that come closer together than this belong together."""
VOICE_MAX: Final = timedelta(minutes=5)
"""How long a message speaks for alerts that came after it."""
RESEND_MAX: Final = timedelta(minutes=4)
"""How far apart the resends of one storm may be due and leave as one; less than the ladder's five minutes."""


class Key(NamedTuple):
    """What shares a voice: one kind of alert at one recipient; `target` is where it really goes (a secret)."""

    target: str
    channel: str
    recipient: str
    trigger: str
    severity: str


@dataclass(slots=True)
class Voice:
    """A message that left lately, or is on its way."""

    step_id: str
    group_id: str
    n: int
    due_at: datetime
    begun_at: datetime
    last_due_at: datetime
    """Of what it spoke for."""
    last_raised_at: datetime
    """Of the alerts of its storm at this recipient."""


@dataclass(frozen=True, slots=True)
class DueStep:
    """A message that is due, with what decides about it."""

    row: Row[Any]
    key: Key
    group_id: str


@dataclass(frozen=True, slots=True)
class _Covered:
    step_id: str
    outcome: str
    by: str


def spec_of(channels: Mapping[str, Any], channel: str, recipient: str) -> str:
    """The channel spec of a recipient: `kind` is the kind's first target, `kind:2` its second; without any, the simulated phone."""
    given = channels.get(channel)
    found = given if isinstance(given, list) else [given]
    _, _, number = recipient.partition(":")
    index = int(number) - 1 if number.isdigit() else 0
    spec = found[index] if 0 <= index < len(found) else None
    if not isinstance(spec, str) or not spec:
        return f"simulator:{recipient}"
    return f"simulator:{recipient}" if spec.strip().rstrip("/") == "simulator:" else spec


def targets(conn: Connection, steps: Iterable[Row[Any]]) -> dict[tuple[str | None, str, str], str]:
    """Where steps really go: (tenant, channel, recipient) -> channel spec."""
    wanted = {(s.tenant_id, s.channel, s.recipient) for s in steps}
    documents = channels_of(conn, {tenant_id or GLOBAL_SCOPE for tenant_id, _, _ in wanted})
    return {
        (tenant_id, channel, recipient): spec_of(documents[tenant_id or GLOBAL_SCOPE], channel, recipient)
        for tenant_id, channel, recipient in wanted
    }


def cover(conn: Connection, due: Iterable[Row[Any]], now: datetime) -> list[DueStep]:
    """Take away what a voice speaks for already, let storms of several clinics share one; returns what is to be sent.

    `due` are steps with their alert's trigger, severity and raised_at, earliest first.
    """
    rows = list(due)
    spoken = _spoken(conn, now)
    places = targets(conn, [*rows, *spoken])
    voices: dict[Key, Voice] = {}
    for row in spoken:
        voices.setdefault(_key(row, places), _voice(conn, row))
    begun: dict[Key, tuple[str, datetime]] = {}
    left: list[DueStep] = []
    covered: list[_Covered] = []
    for row in rows:
        key = _key(row, places)
        voice, opens = voices.get(key), row.fallback_of is not None or _is_first(row)
        group_id = row.group_id
        if opens:
            group_id = _storm_of(row, voice, begun.get(key))
            begun[key] = (group_id, row.raised_at)
            if group_id != row.group_id:
                _adopt(conn, row, group_id)
        if voice is not None and group_id == voice.group_id and _has_spoken(voice, row):
            mentioned = row.raised_at <= voice.begun_at
            covered.append(_Covered(row.step_id, "merged" if mentioned else "grouped", voice.step_id))
            voice.last_raised_at = max(voice.last_raised_at, row.raised_at)
            voice.last_due_at = max(voice.last_due_at, row.due_at)
        else:
            left.append(DueStep(row, key, group_id))
    _write(conn, covered, now)
    return left


def _storm_of(row: Row[Any], voice: Voice | None, begun: tuple[str, datetime] | None) -> str:
    """The storm that an alert joins with its first message: one that goes on, or one that begins in this very moment."""
    if voice is not None and (row.group_id == voice.group_id or row.raised_at < voice.last_raised_at + STORM):
        return voice.group_id
    if begun is not None and row.raised_at < begun[1] + STORM:
        return begun[0]
    return str(row.group_id)


def _has_spoken(voice: Voice, row: Row[Any]) -> bool:
    """Whether a message of the same storm makes this one needless."""
    if _is_first(row):
        return bool(row.due_at < voice.begun_at + VOICE_MAX)
    if row.raised_at > voice.begun_at or row.step_key.startswith("pass_on:"):
        return False
    if row.fallback_of is not None:
        return bool(row.due_at < voice.begun_at + STORM)
    return bool(row.n <= voice.n and row.due_at < min(voice.last_due_at + STORM, voice.due_at + RESEND_MAX))


def _is_first(row: Row[Any]) -> bool:
    """The message of the moment in which the alert was raised."""
    return row.fallback_of is None and bool(row.due_at <= row.raised_at)


def _key(row: Row[Any], places: Mapping[tuple[str | None, str, str], str]) -> Key:
    target = places[(row.tenant_id, row.channel, row.recipient)]
    return Key(target, row.channel, row.recipient, row.trigger, row.severity)


def with_alert() -> Select[Any]:
    """Steps that send, with what `cover` wants to know of their alerts."""
    columns = (_ALERT.c.trigger, _ALERT.c.severity, _ALERT.c.raised_at)
    return select(_STEP, *columns).join(_ALERT, _ALERT.c.alert_id == _STEP.c.alert_id).where(_STEP.c.action == Action.SEND)


def _spoken(conn: Connection, now: datetime) -> list[Row[Any]]:
    """Messages of the last minutes that are not answered and did not fail, latest first."""
    query = with_alert().where(
        _STEP.c.begun_at > now - VOICE_MAX - STORM,
        or_(and_(_STEP.c.done_at.is_(None), _STEP.c.lease_until > now), _STEP.c.outcome.in_(("sent", "unknown"))),
        UNRESOLVED,
        _ALERT.c.status == "open",
        _ALERT.c.acked_at.is_(None),
    )
    return list(conn.execute(query.order_by(_STEP.c.begun_at.desc(), _STEP.c.n.desc(), _STEP.c.step_id)))


def _voice(conn: Connection, row: Row[Any]) -> Voice:
    last_due = select(func.max(_STEP.c.due_at)).where(_STEP.c.merged_into == row.step_id)
    last_raised = (
        select(func.max(_ALERT.c.raised_at))
        .select_from(_STEP.join(_ALERT, _ALERT.c.alert_id == _STEP.c.alert_id))
        .where(_STEP.c.group_id == row.group_id, _STEP.c.channel == row.channel, _STEP.c.recipient == row.recipient)
    )
    return Voice(
        step_id=row.step_id,
        group_id=row.group_id,
        n=row.n,
        due_at=row.due_at,
        begun_at=row.begun_at,
        last_due_at=max(row.due_at, conn.execute(last_due).scalar() or row.due_at),
        last_raised_at=conn.execute(last_raised).scalar() or row.raised_at,
    )


def _adopt(conn: Connection, row: Row[Any], group_id: str) -> None:
    """Let another storm's voice speak for an alert at this recipient from now on."""
    theirs = and_(_STEP.c.alert_id == row.alert_id, _STEP.c.channel == row.channel, _STEP.c.recipient == row.recipient)
    conn.execute(update(_STEP).where(theirs, _STEP.c.action == Action.SEND).values(group_id=group_id))


def _write(conn: Connection, covered: Iterable[_Covered], now: datetime) -> None:
    together: dict[tuple[str, str], list[str]] = {}
    for one in covered:
        together.setdefault((one.outcome, one.by), []).append(one.step_id)
    for (outcome, by), step_ids in together.items():
        done = {"done_at": now, "outcome": outcome, "merged_into": by, "late": _STEP.c.due_at < now - LATE_AFTER}
        conn.execute(update(_STEP).where(_STEP.c.step_id.in_(step_ids), _STEP.c.done_at.is_(None)).values(**done))


# --- who is answered for ------------------------------------------------------------------------------------------------


def spoken_for(step: Row[Any], alert: Row[Any], until: datetime) -> Select[Any]:
    """Query for (alert_id, scope) of the open alerts that a message speaks for besides its own: raised by `until`, when it left."""
    shared = select(_STEP.c.alert_id).where(
        _STEP.c.group_id == step.group_id, _STEP.c.channel == step.channel, _STEP.c.recipient == step.recipient
    )
    own_storm = and_(_ALERT.c.group_id == alert.group_id, _ALERT.c.scope == alert.scope)
    return select(_ALERT.c.alert_id, _ALERT.c.scope).where(
        or_(own_storm, _ALERT.c.alert_id.in_(shared)),
        UNRESOLVED,
        _ALERT.c.status == "open",
        _ALERT.c.acked_at.is_(None),
        _ALERT.c.raised_at <= until,
        _ALERT.c.alert_id != alert.alert_id,
    )


def left_alone(conn: Connection) -> list[str]:
    """First messages that were left to a voice whose alert has been answered since, without mentioning theirs: ids of steps."""
    voice, answered = _STEP.alias("voice"), _ALERT.alias("answered")
    query = (
        select(_STEP.c.step_id)
        .join(_ALERT, _ALERT.c.alert_id == _STEP.c.alert_id)
        .join(voice, voice.c.step_id == _STEP.c.merged_into)
        .join(answered, answered.c.alert_id == voice.c.alert_id)
        .where(UNRESOLVED, _ALERT.c.status == "open", _ALERT.c.acked_at.is_(None), _STEP.c.outcome == "grouped")
        .where(or_(answered.c.acked_at.is_not(None), answered.c.status != "open"))
    )
    return list(conn.execute(query).scalars())


def speak_again(conn: Connection) -> None:
    """Those who were left alone get a message after all."""
    alone = left_alone(conn)
    if alone:
        conn.execute(update(_STEP).where(_STEP.c.step_id.in_(alone)).values(done_at=None, outcome=None, merged_into=None))
