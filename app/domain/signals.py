"""Signals (S-PC-04-002): section 9 of the contract as data, and the hysteresis between their levels.

A signal is measured as a few named numbers; a level is reached when any one of its thresholds is. Levels rise at once and
fall only after the signal has been below warning for a while, so an alert is not fired again and again at the edge.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil
from typing import Any, Final

CALM: Final = timedelta(minutes=30)
"""How long a signal stays below warning before it is normal again."""


class SignalLevel(StrEnum):
    """Level of a signal, low to high."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 is normal."""
        return _RANK[self]


_RANK: Final = {level: rank for rank, level in enumerate(SignalLevel)}


class Operator(StrEnum):
    """How a value is compared with its limit."""

    ABOVE = ">"
    AT_LEAST = ">="
    BELOW = "<"


class Unit(StrEnum):
    """What a number counts."""

    COUNT = "count"
    RATIO = "ratio"
    """0 to 1."""
    PER_HOUR = "per_hour"
    SECONDS = "s"
    MILLISECONDS = "ms"


@dataclass(frozen=True, slots=True)
class Threshold:
    """One condition on one measured number."""

    metric: str
    operator: Operator
    value: float
    unit: Unit

    def met(self, values: Mapping[str, float]) -> bool:
        """Whether the measured value is beyond the limit; a number that was not measured is not."""
        measured = values.get(self.metric)
        if measured is None:
            return False
        if self.operator is Operator.BELOW:
            return measured < self.value
        return measured >= self.value if self.operator is Operator.AT_LEAST else measured > self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One row of section 9. `window` None = the value now. `is_global` = not per tenant."""

    name: str
    window: timedelta | None
    warning: tuple[Threshold, ...]
    critical: tuple[Threshold, ...]
    owners: tuple[str, ...]
    is_global: bool = False
    ends_in_safe_mode: bool = False
    """Critical is a critical alert, which switches safe mode on without an ACK: effects themselves are at risk."""
    counts_days: bool = False
    """Whether it is kept when it was measured critical: the level stays critical until it falls below warning."""
    raises: bool = True
    """False: what it measures is an alert already, and one about an alert would only be noise."""

    def severity(self, level: SignalLevel) -> str:
        """Severity of the alert at a level."""
        if level is SignalLevel.CRITICAL:
            return "critical" if self.ends_in_safe_mode else "high"
        return "warning"

    @property
    def owner(self) -> str:
        """Whom its alerts belong to."""
        return ",".join(self.owners)

    @property
    def metrics(self) -> frozenset[str]:
        """Names of the numbers that the signal needs."""
        return frozenset(t.metric for t in (*self.warning, *self.critical))


def _min(minutes: int) -> timedelta:
    return timedelta(minutes=minutes)


def _over(metric: str, value: float, unit: Unit) -> Threshold:
    return Threshold(metric, Operator.ABOVE, value, unit)


def _from(metric: str, value: float, unit: Unit = Unit.COUNT) -> Threshold:
    return Threshold(metric, Operator.AT_LEAST, value, unit)


def _under(metric: str, value: float) -> Threshold:
    return Threshold(metric, Operator.BELOW, value, Unit.RATIO)


_BACKLOG_WARNING: Final = (_over("backlog", 30, Unit.COUNT), _over("age_p95_s", 15 * 60, Unit.SECONDS))
_BACKLOG_CRITICAL: Final = (_over("backlog", 80, Unit.COUNT), _over("age_p95_s", 30 * 60, Unit.SECONDS))

_ROWS: Final = (
    Signal(
        name="blocked_commit_order_violation",
        window=_min(15),
        warning=(_from("count", 3),),
        critical=(_from("count", 10),),
        owners=("backend", "superadmin"),
        ends_in_safe_mode=True,
    ),
    Signal(
        name="waiting_previous_commit_age",
        window=_min(10),
        warning=(_over("age_p95_s", 2 * 60, Unit.SECONDS),),
        critical=(_over("age_p95_s", 5 * 60, Unit.SECONDS), _over("backlog", 40, Unit.COUNT)),
        owners=("backend", "platform"),
    ),
    Signal(
        name="version_conflict_blocked",
        window=_min(60),
        warning=(_over("rate", 0.02, Unit.RATIO), _from("per_hour", 8, Unit.PER_HOUR)),
        critical=(_over("rate", 0.05, Unit.RATIO), _from("per_hour", 20, Unit.PER_HOUR)),
        owners=("backend", "qa"),
    ),
    Signal(
        name="expired_manual",
        window=_min(60),
        warning=(_over("rate", 0.03, Unit.RATIO),),
        critical=(_over("rate", 0.08, Unit.RATIO), _over("per_hour", 30, Unit.PER_HOUR)),
        owners=("backend", "ops"),
    ),
    Signal(
        name="conflict_blocked",
        window=_min(60),
        warning=(_over("rate", 0.02, Unit.RATIO),),
        critical=(_over("rate", 0.05, Unit.RATIO), _over("per_hour", 20, Unit.PER_HOUR)),
        owners=("backend",),
    ),
    Signal(
        name="replay_manual_backlog",
        window=None,
        warning=_BACKLOG_WARNING,
        critical=_BACKLOG_CRITICAL,
        owners=("ops", "superadmin"),
    ),
    Signal(
        name="replay_backlog",
        window=None,
        warning=_BACKLOG_WARNING,
        critical=_BACKLOG_CRITICAL,
        owners=("sre", "superadmin"),
        counts_days=True,
    ),
    Signal(
        name="no_ack_critical_alert",
        window=None,
        warning=(_from("oldest_unacknowledged_s", 5 * 60, Unit.SECONDS),),
        critical=(_from("oldest_unacknowledged_s", 10 * 60, Unit.SECONDS),),
        owners=("superadmin",),
        raises=False,
    ),
    Signal(
        name="safe_mode_duration",
        window=None,
        warning=(_over("duration_s", 20 * 60, Unit.SECONDS), _over("contingency_queue", 50, Unit.COUNT)),
        critical=(
            _over("duration_s", 45 * 60, Unit.SECONDS),
            _over("contingency_queue", 120, Unit.COUNT),
            _over("oldest_parked_s", 30 * 60, Unit.SECONDS),
        ),
        owners=("superadmin", "devops"),
    ),
    Signal(
        name="safe_mode_reentry",
        window=_min(60),
        warning=(_from("count", 2),),
        critical=(_from("count", 3), _from("exits_without_checklist", 1)),
        owners=("devops", "superadmin"),
        is_global=True,
    ),
    Signal(
        name="contingency_message_failure",
        window=_min(15),
        warning=(_over("rate", 0.02, Unit.RATIO),),
        critical=(_over("rate", 0.05, Unit.RATIO), _over("per_hour", 10, Unit.PER_HOUR)),
        owners=("ops", "superadmin"),
    ),
    Signal(
        name="ticket_open_latency",
        window=_min(15),
        warning=(_over("p95_s", 5 * 60, Unit.SECONDS),),
        critical=(_over("p95_s", 15 * 60, Unit.SECONDS),),
        owners=("ops",),
    ),
    Signal(
        name="correlation_id_coverage",
        window=_min(15),
        warning=(_under("coverage", 0.995),),
        critical=(_under("coverage", 0.98),),
        owners=("sre",),
        is_global=True,
    ),
    Signal(
        name="ack_to_enqueue_gap",
        window=_min(15),
        warning=(_over("p95_s", 2 * 60, Unit.SECONDS),),
        critical=(_over("p95_s", 5 * 60, Unit.SECONDS), _over("events", 20, Unit.COUNT)),
        owners=("sre",),
    ),
    Signal(
        name="takeover_sla_breach_rate",
        window=_min(60),
        warning=(_over("rate", 0.05, Unit.RATIO),),
        critical=(_over("rate", 0.12, Unit.RATIO),),
        owners=("sre", "qa"),
    ),
    Signal(
        name="redis_fallback_rate",
        window=_min(15),
        warning=(_over("rate", 0.05, Unit.RATIO),),
        critical=(_over("rate", 0.20, Unit.RATIO),),
        owners=("platform", "superadmin"),
        is_global=True,
        ends_in_safe_mode=True,
    ),
    Signal(
        name="fallback_db_lock_latency",
        window=_min(15),
        warning=(_over("p95_ms", 500, Unit.MILLISECONDS),),
        critical=(_over("p95_ms", 1200, Unit.MILLISECONDS),),
        owners=("platform",),
        is_global=True,
    ),
    Signal(
        name="evidence_pack_completeness",
        window=_min(60),
        warning=(_under("completeness", 0.98),),
        critical=(_under("completeness", 0.95),),
        owners=("sre", "qa"),
    ),
    Signal(
        name="evidence_pack_generation",
        window=_min(60),
        warning=(_over("p95_s", 15 * 60, Unit.SECONDS),),
        critical=(_over("p95_s", 30 * 60, Unit.SECONDS),),
        owners=("sre", "qa"),
    ),
    Signal(
        name="drill_result",
        window=None,
        warning=(_over("recovery_s", 10 * 60, Unit.SECONDS),),
        critical=(_over("invalid_side_effects", 0, Unit.COUNT), _over("recovery_s", 20 * 60, Unit.SECONDS)),
        owners=("platform", "superadmin"),
        ends_in_safe_mode=True,
    ),
)

SIGNALS: Final[Mapping[str, Signal]] = {s.name: s for s in _ROWS}
"""Every signal by name, with the contract's defaults."""


def measure(signal: Signal, values: Mapping[str, float]) -> SignalLevel:
    """The level that these values alone would give."""
    if any(t.met(values) for t in signal.critical):
        return SignalLevel.CRITICAL
    return SignalLevel.WARNING if any(t.met(values) for t in signal.warning) else SignalLevel.NORMAL


def with_limits(
    signal: Signal, *, warning: Mapping[str, float] | None = None, critical: Mapping[str, float] | None = None
) -> Signal:
    """The signal with some limits changed, by metric; raises ValueError for a metric that the level does not have."""
    return replace(signal, warning=_changed(signal.warning, warning or {}), critical=_changed(signal.critical, critical or {}))


def _changed(thresholds: tuple[Threshold, ...], limits: Mapping[str, float]) -> tuple[Threshold, ...]:
    unknown = limits.keys() - {t.metric for t in thresholds}
    if unknown:
        raise ValueError(f"no threshold on {', '.join(sorted(unknown))}")
    return tuple(replace(t, value=limits.get(t.metric, t.value)) for t in thresholds)


LIMIT_MAX: Final = 10_000_000


def limit_faults(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with thresholds as settings say them (signal -> level -> metric -> limit): pointer and detail.

    None anywhere takes the own limit back. Warning must be reached before critical; `limit_disorder` looks at that.
    """
    for name, levels in given.items():
        signal = SIGNALS.get(name)
        if signal is None:
            yield f"/{name[:60]}", f"is not a signal; known are {', '.join(SIGNALS)}"
        elif levels is not None and not isinstance(levels, Mapping):
            yield f"/{name}", "must have warning, critical, or both"
        else:
            yield from _level_faults(signal, levels or {})


def _level_faults(signal: Signal, levels: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for level, limits in levels.items():
        thresholds = {"warning": signal.warning, "critical": signal.critical}.get(level)
        if thresholds is None or not isinstance(limits, Mapping | None):
            yield f"/{signal.name}/{level[:20]}", "must be warning or critical, with limits by metric"
            continue
        known = {t.metric: t for t in thresholds}
        for metric, value in (limits or {}).items():
            pointer = f"/{signal.name}/{level}/{metric[:40]}"
            if metric not in known:
                yield pointer, f"has no threshold here; known are {', '.join(known)}"
            elif value is not None:
                highest = 1 if known[metric].unit is Unit.RATIO else LIMIT_MAX
                good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= highest
                if not good:
                    yield pointer, f"must be a number between 0 and {highest}"


def clean_limits(*documents: Mapping[str, Any] | None) -> dict[str, dict[str, dict[str, float]]]:
    """Stored thresholds, the later documents over the earlier ones, without what was taken back or no longer has a meaning."""
    held: dict[str, dict[str, dict[str, float]]] = {}
    for document in documents:
        for name, levels in (document or {}).items():
            if name not in SIGNALS or next(limit_faults({name: levels}), None) is not None:
                continue
            for level, limits in (levels or {}).items():
                of = held.setdefault(name, {}).setdefault(level, {})
                of.update({metric: value for metric, value in (limits or {}).items() if value is not None})
    return held


def limited(signal: Signal, limits: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Signal:
    """The signal with the limits that clean documents set for it."""
    given = limits.get(signal.name, {})
    return with_limits(signal, warning=given.get("warning"), critical=given.get("critical")) if given else signal


def limit_disorder(signal: Signal) -> list[str]:
    """Metrics whose critical limit would be reached before their warning."""
    critical = {t.metric: t for t in signal.critical}
    wrong = []
    for t in signal.warning:
        other = critical.get(t.metric)
        if other is not None and (other.value > t.value if t.operator is Operator.BELOW else other.value < t.value):
            wrong.append(t.metric)
    return wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalState:
    """Where a signal stands. `calm_since`: below warning without interruption since then, None when it is not."""

    level: SignalLevel = SignalLevel.NORMAL
    since: datetime | None = None
    calm_since: datetime | None = None


def observe(state: SignalState, measured: SignalLevel, at: datetime, calm: timedelta = CALM) -> SignalState:
    """The state after one measurement; a change of `level` is what fires, or ends, an alert."""
    if measured is not SignalLevel.NORMAL:
        if measured.rank > state.level.rank:
            return SignalState(level=measured, since=at)
        return replace(state, calm_since=None)
    if state.level is SignalLevel.NORMAL:
        return state
    calm_since = state.calm_since or at
    if at - calm_since >= calm:
        return SignalState(level=SignalLevel.NORMAL, since=at)
    return replace(state, calm_since=calm_since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """A rise that a threshold would have made."""

    level: SignalLevel
    at: datetime


def preview(signal: Signal, history: Iterable[tuple[datetime, Mapping[str, float]]], calm: timedelta = CALM) -> list[Firing]:
    """What these thresholds would have fired over past measurements, oldest first."""
    state, fired = SignalState(), []
    for at, values in history:
        after = observe(state, measure(signal, values), at, calm)
        if after.level.rank > state.level.rank:
            fired.append(Firing(level=after.level, at=at))
        state = after
    return fired


def carried_forward(
    points: Iterable[tuple[datetime, Mapping[str, float]]], until: datetime, calm: timedelta = CALM
) -> Iterator[tuple[datetime, Mapping[str, float]]]:
    """Points of change as a history of measurements: what was measured holds until the next point, and so can end a calm."""
    last: tuple[datetime, Mapping[str, float]] | None = None
    for point in points:
        if last is not None and point[0] - last[0] > calm:
            yield last[0] + calm, last[1]
        yield point
        last = point
    if last is not None and until - last[0] >= calm:
        yield last[0] + calm, last[1]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile (`share` 0 to 1) of unsorted values; None without values."""
    if not values:
        return None
    return sorted(values)[max(ceil(share * len(values)), 1) - 1]
