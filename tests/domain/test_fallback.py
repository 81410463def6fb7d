"""Limits of the fallback lock (contract section 10), to the boundary."""

from datetime import timedelta

import pytest

from app.domain.fallback import FallbackLimits, FallbackPolicy
from tests.builders import NOON

pytestmark = pytest.mark.story("S-PC-05-001")


def test_side_effects_are_counted_within_one_second() -> None:
    limits = FallbackLimits(FallbackPolicy(effects_per_second=3))
    assert limits.effects_left(NOON) == 3
    limits.applied(2, NOON)
    limits.applied(0, NOON)
    assert limits.effects_left(NOON + timedelta(milliseconds=999)) == 1
    limits.applied(4, NOON + timedelta(milliseconds=999))
    assert limits.effects_left(NOON + timedelta(milliseconds=999)) == 0
    assert limits.effects_left(NOON + timedelta(seconds=1, milliseconds=998)) == 0
    assert limits.effects_left(NOON + timedelta(seconds=1, milliseconds=999)) == 3


@pytest.mark.parametrize(("ms", "left"), [(1_200.0, 3), (1_200.001, 0)])
def test_nothing_is_left_while_the_p95_of_the_locks_is_over_its_limit(ms: float, left: int) -> None:
    limits = FallbackLimits(FallbackPolicy(effects_per_second=3))
    for _ in range(5):
        limits.locked(ms, NOON)
    assert limits.lock_p95_ms(NOON) == ms
    assert limits.effects_left(NOON) == left
    assert limits.effects_left(NOON + timedelta(seconds=30)) == left
    assert limits.effects_left(NOON + timedelta(seconds=30, milliseconds=1)) == 3


def test_one_slow_lock_among_many_is_no_p95_and_a_few_are_none_at_all() -> None:
    limits = FallbackLimits(FallbackPolicy(effects_per_second=3))
    for _ in range(4):
        limits.locked(9_000.0, NOON)
    assert limits.lock_p95_ms(NOON) is None
    assert limits.effects_left(NOON) == 3
    fresh = FallbackLimits()
    for n in range(20):
        fresh.locked(9_000.0 if n == 7 else 2.0, NOON)
    assert fresh.lock_p95_ms(NOON) == 2.0
