"""Replay batches (S-PC-02-003, F-05): what may be replayed, how an item ends, and which items may go next. Pure.

A batch is a frozen plan: items in the order of the plan, each with the result that the gate predicted for it. Items of one
contact go one after another; the first that ends differently than predicted stops the rest of its contact. Items that look
at the same agenda go in the order of the plan, so that a prediction holds whatever the rate is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from app.domain.states import EFFECT_RESULTS, PARKED, State


class BatchStatus(StrEnum):
    """Where a batch is; `planned` is a dry run that changed nothing."""

    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FINISHED = "finished"


class BatchAct(StrEnum):
    """What can happen to a batch."""

    RUN = "run"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    COMPLETE = "complete"


TRANSITIONS: Final[Mapping[tuple[BatchStatus, BatchAct], BatchStatus]] = {
    (BatchStatus.PLANNED, BatchAct.RUN): BatchStatus.RUNNING,
    (BatchStatus.PLANNED, BatchAct.CANCEL): BatchStatus.CANCELLED,
    (BatchStatus.RUNNING, BatchAct.PAUSE): BatchStatus.PAUSED,
    (BatchStatus.RUNNING, BatchAct.CANCEL): BatchStatus.CANCELLED,
    (BatchStatus.RUNNING, BatchAct.COMPLETE): BatchStatus.FINISHED,
    (BatchStatus.PAUSED, BatchAct.RESUME): BatchStatus.RUNNING,
    (BatchStatus.PAUSED, BatchAct.CANCEL): BatchStatus.CANCELLED,
}
"""Every allowed transition; anything not listed is refused."""


def step(status: BatchStatus, act: BatchAct) -> BatchStatus | None:
    """The next status, or None when the act is not possible now."""
    return TRANSITIONS.get((status, act))


class ItemState(StrEnum):
    """Where an item is: `placed` has its place in the lane, `released` may be decided, `done` has its terminal result."""

    PLANNED = "planned"
    PLACED = "placed"
    RELEASED = "released"
    DONE = "done"
    CANCELLED = "cancelled"


class ItemKind(StrEnum):
    """`parked`: the command itself is let go. `again`: a new command with source `replay` asks for the same once more."""

    PARKED = "parked"
    AGAIN = "again"


REPLAYABLE: Final = frozenset(
    {
        State.EXPIRED_MANUAL,
        State.CONFLICT_BLOCKED,
        State.VERSION_CONFLICT_BLOCKED,
        State.MANUAL_REVIEW_REQUIRED,
        State.BLOCKED_GUARDIAN_DENIED,
        State.BLOCKED_TAKEOVER_ACTIVE,
        State.BLOCKED_AGENDA_CONFLICT,
    }
)
"""Terminal results after which the same request may be tried again.

Not among them: what had an effect, what was a duplicate or unusable, and what the family has not confirmed (its CONFIRMAR
replays it already).
"""

SELECTABLE: Final = PARKED | REPLAYABLE
"""What a filter's `state` may name."""

FRESH_FOR: Final = timedelta(minutes=10)
"""A dry run is good for so long; afterwards the world may be another one, and it has to be made again."""

RESULTS: Final = (State.REPLAYED, State.EXPIRED_MANUAL, State.CONFLICT_BLOCKED, State.MANUAL_REVIEW_REQUIRED)
"""The terminal results of an item."""


def is_fresh(planned_at: datetime, now: datetime) -> bool:
    """Whether a dry run may still be run; exactly at the limit it may."""
    return timedelta(0) <= now - planned_at <= FRESH_FOR


def item_result(state: State) -> State:
    """The item's terminal result for what the gate said: whatever is none of the other three needs a person."""
    if state in EFFECT_RESULTS:
        return State.REPLAYED
    if state in (State.EXPIRED_MANUAL, State.CONFLICT_BLOCKED):
        return state
    if state is State.VERSION_CONFLICT_BLOCKED:
        return State.CONFLICT_BLOCKED
    return State.MANUAL_REVIEW_REQUIRED


def is_surprise(predicted: State, actual: State) -> bool:
    """Whether an item ended differently than the dry run said."""
    if predicted in EFFECT_RESULTS and actual in EFFECT_RESULTS:
        return False
    return predicted is not actual


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One item as far as its turn is concerned."""

    n: int
    contact_id: str
    state: ItemState
    agenda: frozenset[str] = frozenset()
    """Agendas and appointments that it looks at."""


def may_go(items: Iterable[Step]) -> list[int]:
    """Items whose turn it is, in the order of the plan: the first open one of its contact, with no earlier one at its agendas."""
    chosen: list[int] = []
    contacts: set[str] = set()
    agendas: set[str] = set()
    for item in items:
        if item.state in (ItemState.DONE, ItemState.CANCELLED):
            continue
        free = item.contact_id not in contacts and agendas.isdisjoint(item.agenda)
        if free and item.state in (ItemState.PLANNED, ItemState.PLACED):
            chosen.append(item.n)
        contacts.add(item.contact_id)
        agendas |= item.agenda
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What decides when a contact's items come: the most urgent of them (0 = highest), and since when they wait."""

    contact_id: str
    rank: int
    since: datetime


def order_families(families: Sequence[Family]) -> list[str]:
    """Contacts in the order of a plan: most urgent first, oldest first among equals."""
    return [f.contact_id for f in sorted(families, key=lambda f: (f.rank, f.since, f.contact_id))]
