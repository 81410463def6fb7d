"""The manual queue: what a person may do with a task, and how a task may end.

A task is closed only with an outcome. The outcomes below are the ones that the console offers; a program may give another
code of its own, written in the same way.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Final


class TaskStatus(StrEnum):
    """State of a task."""

    OPEN = "open"
    CLAIMED = "claimed"
    RESOLVED = "resolved"


class TaskAct(StrEnum):
    """What can be done to a task."""

    CLAIM = "claim"
    RELEASE = "release"
    RESOLVE = "resolve"
    REOPEN = "reopen"


_S, _A = TaskStatus, TaskAct
TRANSITIONS: Final[Mapping[tuple[TaskStatus, TaskAct], TaskStatus]] = {
    (_S.OPEN, _A.CLAIM): _S.CLAIMED,
    (_S.CLAIMED, _A.RELEASE): _S.OPEN,
    (_S.OPEN, _A.RESOLVE): _S.RESOLVED,
    (_S.CLAIMED, _A.RESOLVE): _S.RESOLVED,
    (_S.RESOLVED, _A.REOPEN): _S.OPEN,
}
"""Every allowed transition; anything not listed changes nothing."""


def step(status: TaskStatus, act: TaskAct) -> TaskStatus | None:
    """The next status, or None when the act is not allowed in this one."""
    return TRANSITIONS.get((status, act))


class Outcome(StrEnum):
    """How a task ended."""

    DONE_WITH_FAMILY = "done_with_family"
    """A person settled it with the family, outside this system."""
    APPLIED_BY_COMMAND = "applied_by_command"
    """A new human command went through the gate and had its effect."""
    NOT_NEEDED = "not_needed"
    DUPLICATE = "duplicate"
    FAMILY_NOT_REACHED = "family_not_reached"
    PERMISSION_MISSING = "permission_missing"


OFFERED: Final = tuple(o for o in Outcome if o is not Outcome.APPLIED_BY_COMMAND)
"""Outcomes that a person may choose; the other one is only written when it happened."""

_CODE: Final = re.compile(r"[a-z][a-z0-9_]{1,39}\Z")

UNDO_WITHIN: Final = timedelta(minutes=10)
"""How long a closed task can be opened again."""


DUE_AFTER: Final = (timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=30), timedelta(minutes=60))
"""Deadline of a task by the rank of its request's priority class, the most urgent first.

Tasks come by deadline, so a more urgent intent stands first, and an older one of a lesser class is not overtaken for ever.
"""


def due_after(rank: int) -> timedelta:
    """How long a task of this rank may wait."""
    return DUE_AFTER[min(max(rank, 0), len(DUE_AFTER) - 1)]


def is_outcome(code: str) -> bool:
    """Whether a program may close a task with this code: one of ours, or one written like ours."""
    return code != Outcome.APPLIED_BY_COMMAND and _CODE.match(code) is not None


class Tab(StrEnum):
    """Groups of causes, as the console shows them."""

    EXPIRED = "expired"
    CONFLICT = "conflict"
    INVALID = "invalid"
    REVIEW = "review"
    DELIVERY = "delivery"
    CONFIRMATION = "confirmation"
    OTHER = "other"


_TABS: Final[Mapping[str, Tab]] = {
    "expired_manual": Tab.EXPIRED,
    "conflict_blocked": Tab.CONFLICT,
    "blocked_agenda_conflict": Tab.CONFLICT,
    "version_conflict_blocked": Tab.CONFLICT,
    "invalid_payload_manual": Tab.INVALID,
    "invalid_event_manual": Tab.INVALID,
    "dead_letter": Tab.INVALID,
    "manual_review_required": Tab.REVIEW,
    "delivery_refused": Tab.DELIVERY,
    "delivery_unknown": Tab.DELIVERY,
    "delivery_given_up": Tab.DELIVERY,
    "day_before_unconfirmed": Tab.CONFIRMATION,
}


def tab_of(cause: str) -> Tab:
    """The group of a cause; one that nobody has named yet is among the others."""
    return _TABS.get(cause, Tab.OTHER)


def causes_of(tab: Tab) -> tuple[str, ...]:
    """The causes of a group (for OTHER: none, it is everything that the rest does not name)."""
    return tuple(cause for cause, group in _TABS.items() if group is tab)


NAMED_CAUSES: Final = tuple(_TABS)
"""Every cause that belongs to a named group."""
