"""From counted facts to the numbers of each signal: rates, ages, percentiles, and when there are too few to say anything.

Facts are counts of a scope (a clinic, or all of them): how often something happened in the last hour and quarter of an hour,
histograms in whole seconds or milliseconds (rounded up, so that a comparison with a whole limit is exact), and numbers of now.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Final

MIN_HITS: Final = 2
"""One single event never makes a rate: two of a kind do."""
MIN_SAMPLES: Final = 20
"""Out of fewer, a rate says nothing."""
MIN_SAMPLES_RARE: Final = 5
"""The same for what happens a few times an hour even in a busy clinic: takeovers, contingency messages, evidence packs."""
MIN_LOCKS: Final = 5
"""Fewer locks of the fallback have no percentile."""

SUMMED: Final = frozenset({"waiting", "manual", "replay", "parked", "gap_events", "reentries", "denied_exits"})
"""Numbers of now that add up over clinics; of the others the worst counts."""


@dataclass(slots=True)
class Facts:
    """What was counted in one scope."""

    hour: dict[str, int] = field(default_factory=dict)
    quarter: dict[str, int] = field(default_factory=dict)
    spread: dict[str, dict[int, int]] = field(default_factory=dict)
    """Histograms: measure -> value -> how often, each in its signal's own window."""
    now: dict[str, float] = field(default_factory=dict)

    def count(self, measure: str, n: int, *, in_quarter: int = 0) -> None:
        """Add what happened in the last hour, and how much of it in the last quarter."""
        self.hour[measure] = self.hour.get(measure, 0) + n
        self.quarter[measure] = self.quarter.get(measure, 0) + in_quarter

    def spot(self, measure: str, value: int, n: int) -> None:
        """Add `n` samples of one value to a histogram."""
        if n:
            buckets = self.spread.setdefault(measure, {})
            buckets[value] = buckets.get(value, 0) + n


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Numbers of one signal. `samples` and `hits` say out of how many, where that makes sense."""

    values: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    hits: int | None = None


NOTHING: Final = Measured()


def combined(all_facts: Iterable[Facts]) -> Facts:
    """The facts of several scopes as those of one."""
    total = Facts()
    for facts in all_facts:
        for measure, n in facts.hour.items():
            total.count(measure, n, in_quarter=facts.quarter.get(measure, 0))
        for measure, buckets in facts.spread.items():
            for value, n in buckets.items():
                total.spot(measure, value, n)
        for name, number in facts.now.items():
            total.now[name] = total.now.get(name, 0) + number if name in SUMMED else max(number, total.now.get(name, number))
    return total


def measured(signal: str, facts: Facts) -> Measured:
    """The numbers of one signal of section 9; a number that cannot be said (nothing there, too few) is left out."""
    return _MEASURE[signal](facts)


# --- kinds of numbers ---------------------------------------------------------------------------------------------------


def percentile_of(buckets: Mapping[int, int], share: float = 0.95) -> tuple[int, int] | None:
    """Nearest-rank percentile of a histogram, with the number of samples; None when it is empty."""
    total = sum(buckets.values())
    rank, seen = max(ceil(share * total), 1), 0
    for value in sorted(buckets):
        seen += buckets[value]
        if seen >= rank:
            return value, total
    return None


def _share(hits: int, samples: int, least: int = MIN_SAMPLES) -> dict[str, float]:
    """A rate; 0 when there are enough samples and not enough hits, nothing when there are too few samples."""
    if samples < least:
        return {}
    return {"rate": hits / samples if hits >= MIN_HITS else 0.0}


def _results(name: str) -> Callable[[Facts], Measured]:
    def of(facts: Facts) -> Measured:
        hits, samples = facts.hour.get(name, 0), facts.hour.get("done", 0)
        if not samples:
            return NOTHING
        return Measured(values=_share(hits, samples) | {"per_hour": float(hits)}, samples=samples, hits=hits)

    return of


def _p95(measure: str, name: str, *, least: int = 1, **more: str) -> Callable[[Facts], Measured]:
    """A percentile, and further numbers of now (name of the value -> name of the number)."""

    def of(facts: Facts) -> Measured:
        found = percentile_of(facts.spread.get(measure, {}))
        values = {value: facts.now[number] for value, number in more.items() if number in facts.now}
        if found is None or found[1] < least:
            return Measured(values=values, samples=found[1] if found else None)
        return Measured(values={name: float(found[0]), **values}, samples=found[1])

    return of


def _now(**names: str) -> Callable[[Facts], Measured]:
    def of(facts: Facts) -> Measured:
        return Measured(values={value: facts.now[number] for value, number in names.items() if number in facts.now})

    return of


def _violations(facts: Facts) -> Measured:
    found = facts.quarter.get("blocked_commit_order_violation", 0)
    return Measured(values={"count": float(found)}) if found else NOTHING


def _contingency(facts: Facts) -> Measured:
    samples, hits = facts.quarter.get("notice", 0), facts.quarter.get("notice_failed", 0)
    if not facts.hour.get("notice"):
        return NOTHING
    values = _share(hits, samples, MIN_SAMPLES_RARE) | {"per_hour": float(facts.hour.get("notice_failed", 0))}
    return Measured(values=values, samples=samples, hits=hits)


def _coverage(facts: Facts) -> Measured:
    samples, hits = facts.quarter.get("items", 0), facts.quarter.get("generated", 0)
    if not samples:
        return NOTHING
    rate = _share(hits, samples)
    return Measured(values={"coverage": 1 - rate["rate"]} if rate else {}, samples=samples, hits=hits)


def _takeovers(facts: Facts) -> Measured:
    samples, hits = facts.hour.get("takeover", 0), facts.hour.get("takeover_breached", 0)
    if not samples:
        return NOTHING
    return Measured(values=_share(hits, samples, MIN_SAMPLES_RARE), samples=samples, hits=hits)


def _fallback(facts: Facts) -> Measured:
    hits = facts.quarter.get("lock_fallback", 0)
    samples = hits + facts.quarter.get("lock_primary", 0)
    return Measured(values=_share(hits, samples), samples=samples, hits=hits) if samples else NOTHING


def _packs(facts: Facts) -> Measured:
    samples, hits = facts.hour.get("pack", 0), facts.hour.get("pack_incomplete", 0)
    if not samples:
        return NOTHING
    rate = _share(hits, samples, MIN_SAMPLES_RARE)
    return Measured(values={"completeness": 1 - rate["rate"]} if rate else {}, samples=samples, hits=hits)


_MEASURE: Final[Mapping[str, Callable[[Facts], Measured]]] = {
    "blocked_commit_order_violation": _violations,
    "waiting_previous_commit_age": _p95("waiting_s", "age_p95_s", backlog="waiting"),
    "version_conflict_blocked": _results("version_conflict_blocked"),
    "expired_manual": _results("expired_manual"),
    "conflict_blocked": _results("conflict_blocked"),
    "replay_manual_backlog": _p95("manual_s", "age_p95_s", backlog="manual"),
    "replay_backlog": _p95("replay_s", "age_p95_s", backlog="replay"),
    "no_ack_critical_alert": _now(oldest_unacknowledged_s="unacknowledged_s"),
    "safe_mode_duration": _now(duration_s="safe_mode_s", contingency_queue="parked", oldest_parked_s="oldest_parked_s"),
    "safe_mode_reentry": _now(count="reentries", exits_without_checklist="denied_exits"),
    "contingency_message_failure": _contingency,
    "ticket_open_latency": _p95("ticket_s", "p95_s"),
    "correlation_id_coverage": _coverage,
    "ack_to_enqueue_gap": _p95("heard_s", "p95_s", events="gap_events"),
    "takeover_sla_breach_rate": _takeovers,
    "redis_fallback_rate": _fallback,
    "fallback_db_lock_latency": _p95("lock_ms", "p95_ms", least=MIN_LOCKS),
    "evidence_pack_completeness": _packs,
    "evidence_pack_generation": _p95("pack_s", "p95_s"),
    "drill_result": _now(recovery_s="drill_recovery_s", invalid_side_effects="drill_invalid_side_effects"),
}
