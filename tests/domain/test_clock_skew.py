"""A source's clock against ours: one item from the future is proof, slow ones need company."""

import pytest

from app.domain.clock_skew import BEHIND_NEEDS, Lags, SkewState, first, judge, says_nothing_yet, skew_s

FINE, AHEAD, BEHIND = SkewState.FINE, SkewState.AHEAD, SkewState.BEHIND


def test_a_window_keeps_its_quickest_and_slowest_item() -> None:
    assert first(2.0).add(-1.0).add(5.0) == Lags(samples=3, least_s=-1.0, most_s=5.0)
    assert skew_s(first(2.0).add(-90.0)) == 90.0


@pytest.mark.parametrize(
    ("least_s", "samples", "before", "state"),
    [
        (-60.0, 1, FINE, FINE),
        (-60.001, 1, FINE, AHEAD),
        (0.4, 1, AHEAD, FINE),
        (60.0, 100, BEHIND, FINE),
        (60.001, BEHIND_NEEDS, FINE, BEHIND),
        (60.001, BEHIND_NEEDS - 1, FINE, FINE),
        (60.001, BEHIND_NEEDS - 1, AHEAD, AHEAD),
        (9_000.0, 1, BEHIND, BEHIND),
    ],
)
def test_what_a_window_says(least_s: float, samples: int, before: SkewState, state: SkewState) -> None:
    assert judge(Lags(samples=samples, least_s=least_s, most_s=least_s), before, 60.0) is state


def test_a_slow_window_is_not_over_until_it_has_enough_items() -> None:
    slow = Lags(samples=BEHIND_NEEDS - 1, least_s=61.0, most_s=90.0)
    assert says_nothing_yet(slow, 60.0)
    assert not says_nothing_yet(slow.add(61.0), 60.0)
    assert not says_nothing_yet(slow.add(0.4), 60.0)
    assert slow.join(Lags(samples=2, least_s=70.0, most_s=200.0)) == Lags(samples=BEHIND_NEEDS + 1, least_s=61.0, most_s=200.0)
