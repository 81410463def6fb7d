"""The deferred item S-PC-P1-001 (n8n high availability): its formal reopening trigger, evaluated on live facts."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final

OWNERS: Final = ("po", "architect")


class DeferredState(StrEnum):
    """States of the item."""

    DEFERRED_WITH_TRIGGER = "deferred_with_trigger"
    REOPEN_TRIGGERED = "reopen_triggered"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerPolicy:
    """What reopens the item: so many P0 orchestration incidents in so many days, or so many critical days in a row."""

    incidents: int = 2
    within: timedelta = timedelta(days=14)
    days_in_a_row: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A P0 incident of the orchestration."""

    incident_id: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredStatus:
    """The live trigger: counts against their limits, and what they rest on."""

    state: DeferredState
    incidents: tuple[Incident, ...]
    """Incidents inside the window, oldest first."""
    streak: tuple[date, ...]
    """The longest run of critical replay backlog days inside the window, oldest first (the latest of equal ones)."""
    progress: float
    """0 to 1, of whichever condition is nearer."""


DEFAULT_POLICY: Final = TriggerPolicy()


def evaluate(
    incidents: Iterable[Incident], critical_days: Collection[date], now: datetime, policy: TriggerPolicy = DEFAULT_POLICY
) -> DeferredStatus:
    """Evaluate the trigger at `now`.

    `critical_days` are the local days on which the replay backlog was critical. An incident exactly `within` ago still
    counts. Whether a met trigger stays met is the caller's: a reopening is a decision that people take back, not time.
    """
    since = now - policy.within
    recent = tuple(sorted((i for i in incidents if since <= i.at <= now), key=lambda i: (i.at, i.incident_id)))
    streak = _longest_streak(d for d in critical_days if since.date() <= d <= now.date())
    progress = max(len(recent) / policy.incidents, len(streak) / policy.days_in_a_row)
    state = DeferredState.REOPEN_TRIGGERED if progress >= 1 else DeferredState.DEFERRED_WITH_TRIGGER
    return DeferredStatus(state=state, incidents=recent, streak=streak, progress=min(progress, 1.0))


def _longest_streak(days: Iterable[date]) -> tuple[date, ...]:
    best: list[date] = []
    run: list[date] = []
    for day in sorted(set(days)):
        run = [*run, day] if run and day - run[-1] == timedelta(days=1) else [day]
        if len(run) >= len(best):
            best = run
    return tuple(best)
