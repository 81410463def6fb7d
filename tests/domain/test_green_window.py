"""The green window: what restarts it, what it says about that, and that it is never complete on trust."""

import itertools
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.green_window import (
    NO_SAMPLE,
    Sample,
    Window,
    expire,
    failing,
    green_for,
    is_complete,
    observe,
    over,
    policy_for,
    start_over,
)
from tests.domain.cases import NOON as T0

POLICY = policy_for({"db", "redis"})


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def green(seconds: float) -> Sample:
    return Sample(at=at(seconds), checks={"db": True, "redis": True})


def red(seconds: float, name: str = "redis") -> Sample:
    return Sample(at=at(seconds), checks={"db": True, "redis": True} | {name: False})


def greens(start: int, end: int, every: int = 10) -> list[Sample]:
    return [green(s) for s in range(start, end + 1, every)]


@pytest.mark.story("S-PC-03-004")
def test_ten_minutes_of_green_samples_complete_the_window_and_a_second_less_does_not() -> None:
    assert is_complete(over(greens(0, 600), POLICY), at(600), POLICY)
    assert not is_complete(over([*greens(0, 590), green(599)], POLICY), at(599), POLICY)
    assert green_for(over(greens(0, 300), POLICY), at(300), POLICY) == timedelta(minutes=5)
    assert green_for(over(greens(0, 900), POLICY), at(900), POLICY) == timedelta(minutes=10)


@pytest.mark.story("S-PC-03-004")
def test_a_red_check_in_minute_seven_sets_it_back_to_zero_and_is_named() -> None:
    window = over([*greens(0, 420), red(430), *greens(440, 640)], POLICY)
    assert (window.reset_at, window.reset_by, window.reset_after_s) == (at(430), "redis", 420.0)
    assert window.green_since == at(440)
    assert not is_complete(window, at(640), POLICY)
    assert is_complete(over(greens(650, 1040), POLICY, window), at(1040), POLICY)


def test_a_check_that_is_missing_from_a_sample_counts_as_red() -> None:
    half = Sample(at=at(20), checks={"db": True})
    assert failing(half, POLICY) == ("redis",)
    window = over([green(0), green(10), half], POLICY)
    assert (window.green_since, window.reset_by, window.last_at) == (None, "redis", at(20))


def test_a_hole_between_samples_restarts_it_even_before_the_next_sample_comes() -> None:
    window = over(greens(0, 500), POLICY)
    assert green_for(window, at(530), POLICY) == timedelta(seconds=500)
    assert green_for(window, at(531), POLICY) == timedelta(0)
    assert expire(window, at(531), POLICY).reset_by == NO_SAMPLE
    later = observe(window, green(531), POLICY)
    assert (later.green_since, later.reset_by, later.reset_after_s) == (at(531), NO_SAMPLE, 500.0)


def test_the_first_cause_is_kept_while_it_stays_red() -> None:
    window = over([green(0), green(10), red(20), red(30, "db")], POLICY)
    assert (window.reset_by, window.reset_at, window.last_at) == ("redis", at(20), at(30))
    assert over([red(0)], POLICY) == Window(last_at=at(0))


def test_a_late_sample_counts_only_when_it_is_red_and_inside_the_window() -> None:
    window = over(greens(100, 200), POLICY)
    assert observe(window, green(150), POLICY) == window
    assert observe(window, red(90), POLICY) == window
    reset = observe(window, red(150), POLICY)
    assert (reset.green_since, reset.reset_by, reset.last_at) == (None, "redis", at(200))
    assert observe(reset, red(160), POLICY) == reset


def test_a_window_that_starts_over_takes_nothing_from_before() -> None:
    window = start_over(over(greens(0, 20), POLICY), at(25), "new_cause")
    assert (window.green_since, window.last_at) == (None, at(25))
    assert (window.reset_by, window.reset_at, window.reset_after_s) == ("new_cause", at(25), 20)
    assert observe(window, green(24), POLICY) == window
    assert observe(window, green(30), POLICY).green_since == at(30)
    assert start_over(Window(), at(5), "new_cause") == Window(last_at=at(5))


def test_before_the_first_sample_nothing_is_green() -> None:
    assert green_for(Window(), T0, POLICY) == timedelta(0)
    assert expire(Window(), T0, POLICY) == Window()


@given(samples=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["green", "red", "half"])), max_size=120))
def test_a_complete_window_rests_on_ten_minutes_of_green_samples_without_a_hole(samples: list[tuple[int, str]]) -> None:
    now, seen = 0.0, []
    for gap, kind in samples:
        now += gap
        seen.append({"green": green(now), "red": red(now), "half": Sample(at=at(now), checks={"db": True})}[kind])
    window = over(seen, POLICY)
    if not is_complete(window, at(now), POLICY):
        return
    inside = [s for s in seen if s.at >= at(now) - timedelta(minutes=10)]
    assert all(s.checks == {"db": True, "redis": True} for s in inside)
    assert all(b.at - a.at <= POLICY.gap_max for a, b in itertools.pairwise(inside))
