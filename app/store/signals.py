"""The states of signals: one node measures at a time, a rise fires once, and calm ends it quietly (S-PC-04-002).

`look` reads and decides, `record` writes what changed. Every state is changed by compare-and-set on its `rev`, with the alert
and the history row in the same transaction, so two nodes that measure at the same moment fire once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, delete, or_, select, update

from app.domain.envelopes import canonical_json
from app.domain.signal_facts import Facts, Measured, combined, measured
from app.domain.signal_texts import summary
from app.domain.signals import SIGNALS, Signal, SignalLevel, SignalState, limited, measure, observe
from app.ids import new_id
from app.store.alerts import raise_alert, resolve
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.signal_facts import Gathered, gather, keep, minute_of
from app.store.tables import Alert, SettingsDoc, SignalCritical, SignalFiring, SignalPoint, SignalRound, SignalStateRow, table

_ROUND, _STATE, _POINT, _FIRING = table(SignalRound), table(SignalStateRow), table(SignalPoint), table(SignalFiring)
_ALERT, _DOC, _CRITICAL = table(Alert), table(SettingsDoc), table(SignalCritical)

ROUND: Final = "signals"
POINT_EVERY: Final = timedelta(minutes=1)
"""Values that change are kept for the preview this often, and at every change of level."""
POINT_AT_LEAST: Final = timedelta(hours=1)
"""A signal that is not at rest is kept this often also when it stays the same."""
POINTS_KEPT: Final = timedelta(days=8)
CRITICAL_KEPT: Final = timedelta(days=16)
"""A little over the window in which the deferred item counts days."""
PRUNE_MAX: Final = 500
"""Points dropped per round: never many at once beside commits."""

COUNTED: Final = tuple(name for name, signal in SIGNALS.items() if signal.counts_days)

Limits = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Signal -> level -> metric -> limit, as settings say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one look changes about one signal of one scope."""

    scope: str
    signal: Signal
    before: Row[Any] | None
    state: SignalState
    found: Measured
    rises: bool
    ends: bool
    point: bool


@dataclass(slots=True, kw_only=True)
class Look:
    """Everything one round found."""

    gathered: Gathered
    changes: list[Change] = field(default_factory=list)
    critical: list[tuple[str, str]] = field(default_factory=list)
    """(scope, signal) of those measured critical now whose days are counted."""
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """A rise that was written down."""

    scope: str
    signal: str
    level: SignalLevel
    owner: str
    alert_id: str | None
    correlation_id: str
    """Of its alert; without one, its own."""


# --- rounds -------------------------------------------------------------------------------------------------------------


def claim(conn: Connection, token: str, now: datetime, every: timedelta) -> int | None:
    """Take the round; returns the newest minute that has buckets, None when another node looked less than `every` ago."""
    insert_rows(conn, _ROUND, [{"name": ROUND}], ignore_conflicts=True)
    due = or_(_ROUND.c.claimed_at.is_(None), _ROUND.c.claimed_at <= now - every, _ROUND.c.claimed_at > now + every)
    taken = conn.execute(update(_ROUND).where(_ROUND.c.name == ROUND, due).values(token=token, claimed_at=now))
    if taken.rowcount != 1:
        return None
    return int(conn.execute(select(_ROUND.c.folded_minute).where(_ROUND.c.name == ROUND)).scalar_one())


def latest(conn: Connection) -> Row[Any] | None:
    """The round row: when the newest look was, how long it took, and its summary."""
    return conn.execute(select(_ROUND).where(_ROUND.c.name == ROUND)).first()


def look(conn: Connection, now: datetime, folded_minute: int, limits: Mapping[str, Limits]) -> Look:
    """Measure every signal in every scope where something is there, or was at the last look; writes nothing.

    `limits` are the settings of each scope that has some, merged over the installation's.
    """
    gathered = gather(conn, now, folded_minute)
    known: dict[str, dict[str, Row[Any]]] = {}
    for row in conn.execute(select(_STATE)):
        known.setdefault(row.scope, {})[row.signal] = row
    result = Look(gathered=gathered)
    everywhere = combined(gathered.facts.values())
    shown: dict[str, _Summary] = {name: _Summary(measured(name, everywhere)) for name in SIGNALS}
    for scope in sorted({*gathered.facts, *known, GLOBAL_SCOPE}):
        facts = gathered.facts.get(scope) or Facts()
        states = known.get(scope, {})
        given = limits.get(scope) or limits.get(GLOBAL_SCOPE) or {}
        for name, default in SIGNALS.items():
            if default.is_global and scope != GLOBAL_SCOPE:
                continue
            found = measured(name, everywhere if default.is_global else facts)
            before = states.get(name)
            if before is None and not found.values:
                continue
            signal = limited(default, given)
            if signal.counts_days and measure(signal, found.values) is SignalLevel.CRITICAL:
                result.critical.append((scope, name))
            change = _decide(scope, signal, before, found, now)
            shown[name].add(change.state.level, found)
            if change.rises or change.ends or change.point or _differs(change):
                result.changes.append(change)
    result.summary = {name: one.document() for name, one in shown.items()}
    return result


def _decide(scope: str, signal: Signal, before: Row[Any] | None, found: Measured, now: datetime) -> Change:
    was = state_of(before)
    after = observe(was, measure(signal, found.values), now)
    rises, ends = after.level.rank > was.level.rank, after.level.rank < was.level.rank
    values = rounded(found.values)
    same = before is not None and msgspec.json.decode(before.values_json) == values
    point_at = before.point_at if before is not None else None
    if not any(values.values()) and point_at is None:
        point = rises  # at rest and never anything else: no history is worth keeping
    elif same:
        at_rest = after.level is SignalLevel.NORMAL and not any(values.values())
        point = point_at is None or (not at_rest and now - point_at >= POINT_AT_LEAST)
    else:
        point = point_at is None or rises or ends or now - point_at >= POINT_EVERY
    return Change(scope=scope, signal=signal, before=before, state=after, found=found, rises=rises, ends=ends, point=point)


def _differs(change: Change) -> bool:
    before, state = change.before, change.state
    if before is None:
        return True
    if (before.calm_since, before.samples, before.hits) != (state.calm_since, change.found.samples, change.found.hits):
        return True
    return bool(msgspec.json.decode(before.values_json) != rounded(change.found.values))


def state_of(row: Row[Any] | None) -> SignalState:
    """The stored state; normal without a row."""
    if row is None:
        return SignalState()
    return SignalState(level=SignalLevel(row.level), since=row.since, calm_since=row.calm_since)


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Values as they are kept: five decimals are more than any threshold has."""
    return {name: round(float(value), 5) for name, value in values.items()}


class _Summary:
    """One signal over all scopes."""

    def __init__(self, everywhere: Measured) -> None:
        self._all, self._worst = rounded(everywhere.values), dict[str, float]()
        self._levels = dict.fromkeys(SignalLevel, 0)

    def add(self, level: SignalLevel, found: Measured) -> None:
        self._levels[level] += 1
        for name, value in rounded(found.values).items():
            worse = min if name in ("coverage", "completeness") else max
            self._worst[name] = worse(value, self._worst.get(name, value))

    def document(self) -> dict[str, Any]:
        return {"all": self._all, "worst": self._worst, "scopes": {str(k): v for k, v in self._levels.items()}}


# --- writing ------------------------------------------------------------------------------------------------------------


def record(conn: Connection, token: str, result: Look, took_ms: float) -> list[Fired] | None:
    """Write a look down; returns what fired, None when another node has the round by now (then nothing was written)."""
    now = result.gathered.now
    mine = (_ROUND.c.name == ROUND, _ROUND.c.token == token)
    values = {
        "looked_at": now,
        "folded_minute": minute_of(now),
        "took_ms": took_ms,
        "summary_json": canonical_json(result.summary),
    }
    if conn.execute(update(_ROUND).where(*mine).values(**values)).rowcount != 1:
        return None
    keep(conn, result.gathered)
    fired: list[Fired] = []
    changed: set[str] = set()
    fresh = [c for c in result.changes if c.before is None and not (c.rises or c.ends)]
    insert_rows(conn, _STATE, [_row(c, now, None) for c in fresh], ignore_conflicts=True)
    changed |= {c.scope for c in fresh}
    for change in result.changes:
        if change.before is None and not change.rises:
            continue
        one = _write(conn, change, result.gathered, now)
        changed.add(change.scope)
        if one is not None:
            fired.append(one)
    points = [c for c in result.changes if c.point]
    insert_rows(
        conn,
        _POINT,
        [
            {"scope": c.scope, "signal": c.signal.name, "at": now, "values_json": canonical_json(rounded(c.found.values))}
            for c in points
        ],
        ignore_conflicts=True,
    )
    slots = [{"scope": scope, "signal": name, "at": slot_of(now)} for scope, name in result.critical]
    insert_rows(conn, _CRITICAL, slots, ignore_conflicts=True)
    _prune(conn, now)
    for scope in sorted(changed):
        publish(conn, None if scope == GLOBAL_SCOPE else scope, "signals", [], now)
    return fired


def _row(change: Change, now: datetime, alert_id: str | None) -> dict[str, Any]:
    before = change.before
    return {
        "scope": change.scope,
        "signal": change.signal.name,
        "level": change.state.level,
        "since": change.state.since,
        "calm_since": change.state.calm_since,
        "values_json": canonical_json(rounded(change.found.values)),
        "samples": change.found.samples,
        "hits": change.found.hits,
        "measured_at": now,
        "point_at": now if change.point else (before.point_at if before is not None else None),
        "alert_id": alert_id,
    }


def _write(conn: Connection, change: Change, gathered: Gathered, now: datetime) -> Fired | None:
    """One state by compare-and-set; what follows from a rise or an end is written only by whoever won."""
    scope, name, before = change.scope, change.signal.name, change.before
    row = _row(change, now, before.alert_id if before is not None else None)
    if before is None:
        insert_rows(conn, _STATE, [{"scope": scope, "signal": name, "measured_at": now, "rev": 0}], ignore_conflicts=True)
    rev = before.rev if before is not None else 0
    own = (_STATE.c.scope == scope, _STATE.c.signal == name, _STATE.c.rev == rev)
    if conn.execute(update(_STATE).where(*own).values(**row, rev=rev + 1)).rowcount != 1:
        return None
    if change.ends:
        _end(conn, change, now)
        return None
    return _fire(conn, change, gathered, now) if change.rises else None


def _fire(conn: Connection, change: Change, gathered: Gathered, now: datetime) -> Fired:
    signal, scope, level = change.signal, change.scope, change.state.level
    if signal.raises:
        alert_id: str | None = raise_alert(
            conn,
            tenant_id=None if scope == GLOBAL_SCOPE else scope,
            trigger=signal.name,
            severity=signal.severity(level),
            summary=summary(signal, level, change.found.values),
            dedup_key=dedup_key(signal.name),
            correlation_id=None,
            now=now,
            raised_by="system:signals",
        ).alert_id
    else:
        alert_id = gathered.unacknowledged.get(scope)
    conn.execute(update(_STATE).where(_STATE.c.scope == scope, _STATE.c.signal == signal.name).values(alert_id=alert_id))
    firing = {
        "firing_id": new_id(),
        "scope": scope,
        "signal": signal.name,
        "level": level,
        "at": now,
        "owner": signal.owner,
        "values_json": canonical_json(rounded(change.found.values)),
        "alert_id": alert_id,
    }
    insert_rows(conn, _FIRING, [firing])
    own = conn.execute(select(_ALERT.c.correlation_id).where(_ALERT.c.alert_id == alert_id)).scalar()
    return Fired(
        scope=scope,
        signal=signal.name,
        level=level,
        owner=signal.owner,
        alert_id=alert_id,
        correlation_id=own or f"signal-{firing['firing_id']}",
    )


def _end(conn: Connection, change: Change, now: datetime) -> None:
    """Normal again: the alert ends without a word, and so does the history."""
    scope, signal = change.scope, change.signal
    if signal.raises:
        mine = select(_ALERT.c.alert_id).where(
            _ALERT.c.scope == scope, _ALERT.c.dedup_key == dedup_key(signal.name), _ALERT.c.status != "resolved"
        )
        for alert_id in conn.execute(mine).scalars().all():
            resolve(conn, alert_id, by="system:signals", now=now, reason="below warning for 30 minutes")
    conn.execute(update(_STATE).where(_STATE.c.scope == scope, _STATE.c.signal == signal.name).values(alert_id=None))
    conn.execute(
        update(_FIRING)
        .where(_FIRING.c.scope == scope, _FIRING.c.signal == signal.name, _FIRING.c.ended_at.is_(None))
        .values(ended_at=now)
    )


def _prune(conn: Connection, now: datetime) -> None:
    old = (
        select(_POINT.c.scope, _POINT.c.signal, _POINT.c.at)
        .where(_POINT.c.at < now - POINTS_KEPT)
        .order_by(_POINT.c.at)
        .limit(PRUNE_MAX)
    )
    for row in conn.execute(old).all():
        conn.execute(delete(_POINT).where(_POINT.c.scope == row.scope, _POINT.c.signal == row.signal, _POINT.c.at == row.at))
    conn.execute(delete(_CRITICAL).where(_CRITICAL.c.signal.in_(COUNTED), _CRITICAL.c.at < now - CRITICAL_KEPT))


def slot_of(moment: datetime) -> datetime:
    """The quarter of an hour that a moment lies in: midnight of every time zone begins one."""
    return moment - timedelta(minutes=moment.minute % 15, seconds=moment.second, microseconds=moment.microsecond)


def dedup_key(name: str) -> str:
    """The key of a signal's alert within its scope."""
    return f"signal:{name}"


# --- limits -------------------------------------------------------------------------------------------------------------


def limit_versions(conn: Connection) -> dict[str, int]:
    """Versions of all settings documents, to see cheaply what changed."""
    return {row.scope: row.version for row in conn.execute(select(_DOC.c.scope, _DOC.c.version))}


def limits_in(conn: Connection, scopes: Sequence[str]) -> dict[str, Any]:
    """The thresholds that these scopes' documents set themselves, as stored."""
    rows = conn.execute(select(_DOC.c.scope, _DOC.c.data_json).where(_DOC.c.scope.in_(scopes)))
    return {row.scope: msgspec.json.decode(row.data_json).get("thresholds") for row in rows}
