"""Signals (S-PC-04-002): section 9 of the contract as data, and the hysteresis between their levels.

A signal is measured as a few named numbers; a level is reached when any one of its thresholds is. Levels rise at once and
fall only after the signal has been below warning for a while, so an alert is not fired again and again at the edge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil
from typing import Final

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
    Signal(name="replay_backlog", window=None, warning=_BACKLOG_WARNING, critical=_BACKLOG_CRITICAL, owners=("sre", "superadmin")),
    Signal(
        name="no_ack_critical_alert",
        window=None,
        warning=(_from("oldest_unacknowledged_s", 5 * 60, Unit.SECONDS),),
        critical=(_from("oldest_unacknowledged_s", 10 * 60, Unit.SECONDS),),
        owners=("superadmin",),
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


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile (`share` 0 to 1) of unsorted values; None without values."""
    if not values:
        return None
    return sorted(values)[max(ceil(share * len(values)), 1) - 1]
