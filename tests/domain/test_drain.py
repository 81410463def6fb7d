"""The pace of a drain: a burst, a steady rate, half of it while nothing gets better, and when a person must know."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.drain import DrainPolicy, Pace, Trend, begin, fill, is_incident, look, spend

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
POLICY = DrainPolicy(rate_per_s=4, burst=10, window=timedelta(seconds=10), incident_after=3)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_it_begins_with_one_burst() -> None:
    assert begin(100, NOON, POLICY).tokens == 10


def test_time_earns_tokens_up_to_the_burst() -> None:
    pace = spend(begin(100, NOON, POLICY), 10)
    assert fill(pace, after(1), POLICY).tokens == 4
    assert fill(pace, after(60), POLICY).tokens == 10


def test_a_rate_above_the_burst_may_use_a_whole_second() -> None:
    fast = replace(POLICY, rate_per_s=50)
    assert fill(spend(begin(100, NOON, fast), 10), after(60), fast).tokens == 50


def test_a_clock_that_went_back_earns_nothing() -> None:
    pace = spend(begin(100, NOON, POLICY), 10)
    assert fill(pace, after(-5), POLICY).tokens == 0


def test_a_long_lane_leaves_whole_and_is_paid_back() -> None:
    pace = spend(begin(100, NOON, POLICY), 30)
    assert pace.tokens == -20
    assert fill(pace, after(5), POLICY).tokens == 0


def test_a_window_is_judged_when_it_is_over() -> None:
    pace = begin(100, NOON, POLICY)
    assert look(pace, 500, after(9.999), POLICY) == (pace, None)
    assert look(pace, 99, after(10), POLICY)[1] is Trend.FALLING


@pytest.mark.parametrize(
    ("backlog", "released", "rate", "trend", "slowed"),
    [
        (99, 5, 4.0, Trend.FALLING, 0),
        (100, 5, 2.0, Trend.STEADY, 1),
        (100, 0, 4.0, Trend.STEADY, 0),
        (101, 0, 2.0, Trend.GROWING, 1),
    ],
)
def test_it_slows_down_while_the_backlog_does_not_fall(backlog: int, released: int, rate: float, trend: Trend, slowed: int) -> None:
    pace = replace(begin(100, NOON, POLICY), released_since=released)
    judged, found = look(pace, backlog, after(10), POLICY)
    assert (judged.rate_per_s, found, judged.slowed, judged.backlog, judged.released_since) == (rate, trend, slowed, backlog, 0)


def test_it_never_goes_below_the_floor_and_comes_back_when_the_backlog_falls() -> None:
    pace = begin(100, NOON, POLICY)
    for n in range(1, 11):
        pace, _ = look(pace, 100 + n, after(10 * n), POLICY)
    assert pace.rate_per_s == pytest.approx(0.4)
    for n in range(11, 21):
        pace, _ = look(pace, 100 - n, after(10 * n), POLICY)
    assert pace.rate_per_s == 4


def test_a_backlog_that_grows_three_windows_in_a_row_is_an_incident() -> None:
    pace, seen = begin(100, NOON, POLICY), []
    for n, backlog in enumerate((101, 102, 103), start=1):
        pace, _ = look(pace, backlog, after(10 * n), POLICY)
        seen.append(is_incident(pace, POLICY))
    assert seen == [False, False, True]
    calmer: Pace = look(pace, 50, after(40), POLICY)[0]
    assert not is_incident(calmer, POLICY)
