"""Human takeover (F-04): the SLA clock over business hours, its levels, and the states of a ticket."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from app.domain.business_hours import Hours

REASONS: Final = ("family_request", "frustration", "d1_declined", "d1_unclear", "d1_outdated")
"""Why the product itself gives a conversation to a person; any other reason was typed by somebody."""


class TakeoverState(StrEnum):
    """State of a takeover ticket."""

    OPEN = "open"
    IN_PROGRESS = "in_progress"
    SLA_WARNING = "sla_warning"
    SLA_BREACHED = "sla_breached"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


class TakeoverLevel(StrEnum):
    """Who must act now."""

    SECRETARY = "secretary"
    MANAGER = "manager"
    SUPERADMIN = "superadmin"


class TakeoverEvent(StrEnum):
    """What can happen to a ticket."""

    START = "start"
    WARN = "warn"
    BREACH = "breach"
    ESCALATE = "escalate"
    ANSWER = "answer"
    CLOSE = "close"


_S, _E = TakeoverState, TakeoverEvent
_UNANSWERED: Final = (_S.OPEN, _S.IN_PROGRESS, _S.SLA_WARNING, _S.SLA_BREACHED, _S.ESCALATED)

TRANSITIONS: Final[Mapping[tuple[TakeoverState, TakeoverEvent], TakeoverState]] = {
    (_S.OPEN, _E.START): _S.IN_PROGRESS,
    (_S.OPEN, _E.WARN): _S.SLA_WARNING,
    (_S.IN_PROGRESS, _E.WARN): _S.SLA_WARNING,
    (_S.OPEN, _E.BREACH): _S.SLA_BREACHED,
    (_S.IN_PROGRESS, _E.BREACH): _S.SLA_BREACHED,
    (_S.SLA_WARNING, _E.BREACH): _S.SLA_BREACHED,
    (_S.SLA_BREACHED, _E.ESCALATE): _S.ESCALATED,
    **{(state, _E.ANSWER): _S.IN_PROGRESS for state in _UNANSWERED},
    **{(state, _E.CLOSE): _S.RESOLVED for state in _UNANSWERED},
}
"""Every allowed transition. Being claimed does not stop the clock: only an answer to the family does."""


def step(state: TakeoverState, event: TakeoverEvent) -> TakeoverState | None:
    """The next state, or None when the event is not allowed in this one."""
    return TRANSITIONS.get((state, event))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlaPolicy:
    """Numbers of one tenant."""

    open_hours: timedelta = timedelta(minutes=15)
    after_opening: timedelta = timedelta(minutes=30)
    warn_before: timedelta = timedelta(minutes=5)
    escalate_after: timedelta = timedelta(minutes=15)


SLA_NAMES: Final = ("open_hours", "after_opening", "warn_before", "escalate_after")
"""Numbers of the policy as settings name them, in minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlaClock:
    """The moments of one ticket's clock; it restarts with each message of the family that waits for an answer."""

    warn_at: datetime
    due_at: datetime
    escalate_at: datetime


def sla_clock(opened_at: datetime, hours: Hours, policy: SlaPolicy) -> SlaClock:
    """Clock of a ticket opened at `opened_at`.

    In business hours `open_hours` of open time; outside, `after_opening` after the next shift starts. Warning and escalation
    count open time too: nobody is told while the clinic is closed. A clinic without any shift in sight has no hours to wait
    for: the clock then runs at once.
    """
    opening = hours.next_opening(opened_at)
    if opening is None:
        due_at, warn_at = opened_at + policy.open_hours, opened_at + policy.open_hours - policy.warn_before
    elif opening == opened_at:
        due_at = _open_time(hours, opened_at, policy.open_hours)
        warn_at = _open_time(hours, opened_at, max(policy.open_hours - policy.warn_before, timedelta()))
    else:
        due_at = opening + policy.after_opening
        warn_at = max(due_at - policy.warn_before, opening)
    return SlaClock(
        warn_at=max(warn_at, opened_at), due_at=due_at, escalate_at=max(_open_time(hours, due_at, policy.escalate_after), due_at)
    )


def _open_time(hours: Hours, moment: datetime, duration: timedelta) -> datetime:
    """When `duration` of open time has passed since `moment`; of any time where the clinic has no hours in sight."""
    return hours.add_open_time(moment, duration) or moment + duration


def due_event(state: TakeoverState, clock: SlaClock, now: datetime) -> TakeoverEvent | None:
    """The next event that the clock of an unanswered ticket calls for at `now`; repeat until None.

    After downtime a missed warning is covered by the breach, but no breach and no escalation is ever skipped.
    """
    wanted = []
    if now >= clock.due_at:
        wanted.append(_E.BREACH)
    elif now >= clock.warn_at:
        wanted.append(_E.WARN)
    if now >= clock.escalate_at:
        wanted.append(_E.ESCALATE)
    return next((event for event in wanted if step(state, event) is not None), None)


def next_due_at(state: TakeoverState, clock: SlaClock) -> datetime | None:
    """When the clock will call next for a ticket in this state; None when it never will."""
    for event, at in ((_E.WARN, clock.warn_at), (_E.BREACH, clock.due_at), (_E.ESCALATE, clock.escalate_at)):
        if step(state, event) is not None:
            return at
    return None


LEVEL_OF_STATE: Final[Mapping[TakeoverState, TakeoverLevel]] = {
    _S.OPEN: TakeoverLevel.SECRETARY,
    _S.IN_PROGRESS: TakeoverLevel.SECRETARY,
    _S.SLA_WARNING: TakeoverLevel.SECRETARY,
    _S.SLA_BREACHED: TakeoverLevel.MANAGER,
    _S.ESCALATED: TakeoverLevel.SUPERADMIN,
    _S.RESOLVED: TakeoverLevel.SECRETARY,
}
"""Whose turn it is in each state."""
