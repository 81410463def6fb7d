"""The green window: ten uninterrupted minutes in which every health check was seen green (exit gate d).

A fold over samples: a red check, a check that is not in a sample, or a hole between samples sets the window back to zero
and keeps the name of what did it. Only what was sampled counts: time without samples is never green.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

NO_SAMPLE: Final = "no_sample"
"""Named as the cause when the samples themselves stopped coming."""
NEW_CAUSE: Final = "new_cause"
"""Named as the cause when something else went wrong that safe mode holds for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPolicy:
    """How long it must be green, how far apart samples may be, and which checks must be in each."""

    needed: timedelta = timedelta(minutes=10)
    gap_max: timedelta = timedelta(seconds=30)
    checks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the health of everything: check name -> green."""

    at: datetime
    checks: Mapping[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where the window stands. The `reset_*` fields tell about the last time it went back to zero."""

    green_since: datetime | None = None
    last_at: datetime | None = None
    reset_at: datetime | None = None
    reset_by: str | None = None
    reset_after_s: float | None = None
    """How far the window had come when it was reset."""


def failing(sample: Sample, policy: WindowPolicy) -> tuple[str, ...]:
    """Names of checks that are red, or required and not in the sample."""
    red = {name for name, green in sample.checks.items() if not green}
    return tuple(sorted(red | (policy.checks - sample.checks.keys())))


def observe(window: Window, sample: Sample, policy: WindowPolicy) -> Window:
    """The window after one more sample.

    A sample that comes late, older than the last one, counts only when it is not green and falls inside the window.
    """
    broken = failing(sample, policy)
    stale = window.last_at is not None and sample.at <= window.last_at
    if stale and (not broken or window.green_since is None or sample.at < window.green_since):
        return window
    last_at = window.last_at if stale else sample.at
    if broken:
        return replace(_reset(window, sample.at, broken[0]), last_at=last_at)
    if window.last_at is not None and sample.at - window.last_at > policy.gap_max:
        return replace(_reset(window, sample.at, NO_SAMPLE), green_since=sample.at, last_at=sample.at)
    return replace(window, green_since=window.green_since or sample.at, last_at=last_at)


def _reset(window: Window, at: datetime, by: str) -> Window:
    if window.green_since is None:
        return window  # at zero already: the first cause is the one to show
    reached = max((window.last_at or at) - window.green_since, timedelta(0))
    return Window(last_at=window.last_at, reset_at=at, reset_by=by, reset_after_s=reached.total_seconds())


def start_over(window: Window, at: datetime, by: str) -> Window:
    """The window from zero: what was seen before `at` no longer counts, whatever it was."""
    return replace(_reset(window, at, by), green_since=None, last_at=at)


def expire(window: Window, now: datetime, policy: WindowPolicy) -> Window:
    """The window as it stands at `now`: a hole since the last sample sets it back even before the next one comes."""
    if window.last_at is None or now - window.last_at <= policy.gap_max:
        return window
    return _reset(window, now, NO_SAMPLE)


def green_for(window: Window, now: datetime, policy: WindowPolicy) -> timedelta:
    """How much of the window is covered by green samples at `now` (at most what is needed)."""
    current = expire(window, now, policy)
    if current.green_since is None or current.last_at is None:
        return timedelta(0)
    return min(current.last_at - current.green_since, policy.needed)


def is_complete(window: Window, now: datetime, policy: WindowPolicy) -> bool:
    """Whether green samples cover the whole needed time without a hole, up to now."""
    return green_for(window, now, policy) >= policy.needed


def over(samples: Iterable[Sample], policy: WindowPolicy, window: Window | None = None) -> Window:
    """Fold samples, oldest first."""
    current = window or Window()
    for sample in samples:
        current = observe(current, sample, policy)
    return current


def policy_for(checks: Collection[str], *, needed: timedelta = timedelta(minutes=10)) -> WindowPolicy:
    """The default policy over the given checks."""
    return WindowPolicy(needed=needed, checks=frozenset(checks))
