"""Verdict of a Redis failure drill (S-PC-05-002): was continuity controlled, and was there any risk of a wrong effect."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TENANT: Final = "drill"
"""Id and slug of the drill's own clinic; nothing of it counts as a clinic's life."""

NORMAL_AFTER: Final = 2
"""Clean runs in a row after which the drill counts as normal."""


class DrillResult(StrEnum):
    """Terminal states of a drill."""

    DRILL_PASSED_CONTROLLED_CONTINUITY = "drill_passed_controlled_continuity"
    DRILL_PASSED_WITH_WARNINGS = "drill_passed_with_warnings"
    DRILL_FAILED_SIDE_EFFECT_RISK = "drill_failed_side_effect_risk"


class DrillPhase(StrEnum):
    """Phases in their order."""

    BASELINE = "baseline"
    CUT = "cut"
    FALLBACK = "fallback"
    RESTORE = "restore"
    VERIFY = "verify"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillLimits:
    """Limits of a run; the defaults are the contract's (sections 9 and 10)."""

    detection_s: float = 1.0
    lock_p95_warning_ms: float = 500
    lock_p95_critical_ms: float = 1200
    recovery_warning_s: float = 600
    recovery_critical_s: float = 1200


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillMeasures:
    """What a run measured; None = not (yet) measured, which a finished run counts as a risk."""

    invalid_side_effects: int | None = None
    """Double, out of order, or without a ledger entry."""
    detection_s: float | None = None
    lock_p95_ms: float | None = None
    recovery_s: float | None = None
    commits_in_fallback: int | None = None
    restored: bool = False
    """Redis path and tenant are as they were before."""
    fallback_before_cut: int = 0
    """Decisions of the baseline under a fallback lock: Redis was not well before anybody cut it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillVerdict:
    """The result and every finding behind it, worst first."""

    result: DrillResult
    risks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


DEFAULT_LIMITS: Final = DrillLimits()


def verdict(measures: DrillMeasures, limits: DrillLimits = DEFAULT_LIMITS) -> DrillVerdict:
    """Judge a finished run. What was not measured was not proven, so it fails."""
    risks = [*running_risks(measures, limits), *_unproven(measures)]
    warnings = _warnings(measures, limits)
    if risks:
        result = DrillResult.DRILL_FAILED_SIDE_EFFECT_RISK
    elif warnings:
        result = DrillResult.DRILL_PASSED_WITH_WARNINGS
    else:
        result = DrillResult.DRILL_PASSED_CONTROLLED_CONTINUITY
    return DrillVerdict(result=result, risks=tuple(risks), warnings=tuple(warnings))


def running_risks(measures: DrillMeasures, limits: DrillLimits = DEFAULT_LIMITS) -> list[str]:
    """Risks that stop a run at once, from what is measured so far."""
    risks = []
    if measures.invalid_side_effects:
        risks.append("invalid_side_effects")
    if measures.recovery_s is not None and measures.recovery_s > limits.recovery_critical_s:
        risks.append("recovery_too_long")
    return risks


def _unproven(measures: DrillMeasures) -> list[str]:
    names = ("invalid_side_effects", "detection_s", "lock_p95_ms", "recovery_s", "commits_in_fallback")
    risks = [f"not_measured:{name}" for name in names if getattr(measures, name) is None]
    if measures.commits_in_fallback == 0:
        risks.append("no_commit_in_fallback")
    if not measures.restored:
        risks.append("not_restored")
    return risks


def _warnings(measures: DrillMeasures, limits: DrillLimits) -> list[str]:
    found = []
    if measures.fallback_before_cut:
        found.append("fallback_before_cut")
    if measures.detection_s is not None and measures.detection_s > limits.detection_s:
        found.append("slow_detection")
    if measures.lock_p95_ms is not None and measures.lock_p95_ms > limits.lock_p95_critical_ms:
        found.append("fallback_lock_critical")
    elif measures.lock_p95_ms is not None and measures.lock_p95_ms > limits.lock_p95_warning_ms:
        found.append("fallback_lock_slow")
    if measures.recovery_s is not None and limits.recovery_warning_s < measures.recovery_s <= limits.recovery_critical_s:
        found.append("slow_recovery")
    return found


def is_normal(results: Sequence[DrillResult]) -> bool:
    """Whether the last runs, oldest first, were clean often enough in a row."""
    last = results[-NORMAL_AFTER:]
    return len(last) == NORMAL_AFTER and all(r is DrillResult.DRILL_PASSED_CONTROLLED_CONTINUITY for r in last)
