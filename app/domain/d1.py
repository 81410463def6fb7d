"""Day-before confirmations (F-03): the steps of one appointment on its clinic's wall clock, DST included.

What reaches a family has a daytime window and is dropped, not delayed, when the window is over: nothing goes out at night.
What reaches staff is caught up with after downtime until the appointment begins.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Final

from app.domain.business_hours import Hours


class D1Action(StrEnum):
    """What a step does."""

    ASK_FAMILY = "ask_family"
    OPEN_TASK = "open_task"
    ALERT_STAFF = "alert_staff"
    NOTIFY_OPENING = "notify_opening"


@dataclass(frozen=True, slots=True, kw_only=True)
class D1Policy:
    """Wall times of one tenant on the day before, and the notice before opening on the day itself."""

    ask_from: time = time(9)
    ask_until: time = time(12)
    task_at: time = time(16)
    alert_at: time = time(17)
    notice: timedelta = timedelta(minutes=30)
    just_booked: timedelta = timedelta(hours=1)
    """Nobody is asked whether they come this shortly after they booked or moved the appointment."""

    def __post_init__(self) -> None:
        if not self.ask_from < self.ask_until <= self.task_at <= self.alert_at:
            raise ValueError("the day before runs: ask, task, alert")
        if self.ask_from < DAY_STARTS or self.task_at > DAY_ENDS:
            raise ValueError("families are never written to at night")


DAY_STARTS: Final = time(8)
DAY_ENDS: Final = time(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class D1Step:
    """A step: due at `due_at`, late after `late_after`, and without sense from `until` on (UTC)."""

    action: D1Action
    due_at: datetime
    late_after: datetime
    until: datetime


def plan(start_at: datetime, hours: Hours, policy: D1Policy, *, booked_at: datetime | None = None) -> tuple[D1Step, ...]:
    """Steps of an appointment that starts at `start_at`, in time order.

    One that was booked or moved when the day before had begun gets what is left of it: a family that has just said CONFIRMAR
    is asked an hour later at the earliest, and a step whose time had passed by then is not made up for. Where the clinic does
    not open on that day, notice is given before the appointment itself.
    """
    day = hours.local(start_at).date()
    before = day - timedelta(days=1)
    ask_at, task_at = hours.at(before, policy.ask_from), hours.at(before, policy.task_at)
    late_at = hours.at(before, policy.ask_until)
    if booked_at is not None and booked_at > ask_at - policy.just_booked:
        ask_at = booked_at + policy.just_booked
    opening = hours.opening_of(day)
    notice_at = min(opening or start_at, start_at) - policy.notice
    alert_at = hours.at(before, policy.alert_at)
    steps = (
        D1Step(action=D1Action.ASK_FAMILY, due_at=ask_at, late_after=max(late_at, ask_at), until=task_at),
        D1Step(action=D1Action.OPEN_TASK, due_at=task_at, late_after=alert_at, until=start_at),
        D1Step(action=D1Action.ALERT_STAFF, due_at=alert_at, late_after=notice_at, until=start_at),
        D1Step(action=D1Action.NOTIFY_OPENING, due_at=notice_at, late_after=start_at, until=start_at),
    )
    return tuple(s for s in steps if s.due_at < s.until and (booked_at is None or booked_at <= s.due_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class D1Due:
    """`run` now, in order; `missed` can only be recorded: their window is over."""

    run: tuple[D1Step, ...] = ()
    missed: tuple[D1Step, ...] = ()


def due(steps: Collection[D1Step], done: Collection[D1Action], now: datetime) -> D1Due:
    """What an appointment that nobody has answered for needs at `now`, less what is `done`."""
    waiting = [s for s in steps if s.due_at <= now and s.action not in done]
    return D1Due(run=tuple(s for s in waiting if now < s.until), missed=tuple(s for s in waiting if now >= s.until))


def is_late(step: D1Step, now: datetime) -> bool:
    """Whether a step that runs at `now` is marked as late."""
    return now > step.late_after


def next_due_at(steps: Collection[D1Step], done: Collection[D1Action], now: datetime) -> datetime | None:
    """When the next step of the appointment comes due; None when none is left."""
    return min((s.due_at for s in steps if s.due_at > now and s.action not in done), default=None)
