"""The drill's verdict: only what was measured and clean passes."""

from dataclasses import replace
from typing import Any

import pytest

from app.domain.drill import DrillMeasures, DrillResult, is_normal, running_risks, verdict

R = DrillResult
CLEAN = DrillMeasures(
    invalid_side_effects=0, detection_s=0.4, lock_p95_ms=20, recovery_s=30, commits_in_fallback=120, restored=True
)


@pytest.mark.story("S-PC-05-002")
def test_a_clean_run_is_controlled_continuity() -> None:
    answer = verdict(CLEAN)
    assert (answer.result, answer.risks, answer.warnings) == (R.DRILL_PASSED_CONTROLLED_CONTINUITY, (), ())


@pytest.mark.story("S-PC-05-002")
@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"detection_s": 1.1}, "slow_detection"),
        ({"lock_p95_ms": 501}, "fallback_lock_slow"),
        ({"lock_p95_ms": 1201}, "fallback_lock_critical"),
        ({"recovery_s": 601}, "slow_recovery"),
        ({"recovery_s": 1200}, "slow_recovery"),
    ],
)
def test_slowness_is_a_warning(change: dict[str, Any], warning: str) -> None:
    answer = verdict(replace(CLEAN, **change))
    assert (answer.result, answer.warnings) == (R.DRILL_PASSED_WITH_WARNINGS, (warning,))


@pytest.mark.story("S-PC-05-002")
@pytest.mark.parametrize(
    ("change", "risk"),
    [
        ({"invalid_side_effects": 1}, "invalid_side_effects"),
        ({"recovery_s": 1201}, "recovery_too_long"),
        ({"commits_in_fallback": 0}, "no_commit_in_fallback"),
        ({"restored": False}, "not_restored"),
        ({"invalid_side_effects": None}, "not_measured:invalid_side_effects"),
        ({"detection_s": None}, "not_measured:detection_s"),
        ({"lock_p95_ms": None}, "not_measured:lock_p95_ms"),
        ({"recovery_s": None}, "not_measured:recovery_s"),
        ({"commits_in_fallback": None}, "not_measured:commits_in_fallback"),
    ],
)
def test_a_wrong_effect_or_anything_unproven_fails(change: dict[str, Any], risk: str) -> None:
    answer = verdict(replace(CLEAN, **change))
    assert (answer.result, answer.risks) == (R.DRILL_FAILED_SIDE_EFFECT_RISK, (risk,))


def test_a_running_drill_stops_on_risk_and_not_on_what_is_still_to_come() -> None:
    assert running_risks(DrillMeasures()) == []
    assert running_risks(DrillMeasures(invalid_side_effects=2, recovery_s=1300)) == ["invalid_side_effects", "recovery_too_long"]


def test_two_clean_runs_in_a_row_are_normal() -> None:
    clean, warned = R.DRILL_PASSED_CONTROLLED_CONTINUITY, R.DRILL_PASSED_WITH_WARNINGS
    assert is_normal([warned, clean, clean])
    assert not is_normal([clean, warned, clean])
    assert not is_normal([clean])
