"""What one attempt wants to do with lanes: decided from one read, written by `store.ledger.apply`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace as changed

from app.domain.envelopes import Command
from app.domain.facts import Appointment as AppointmentFact
from app.domain.facts import Decision, Mode
from app.domain.reasons import Reason
from app.domain.states import State
from app.store.lanes import PARKED_BY, LaneFacts, LaneKey


class LostRace(Exception):
    """Agenda entities changed under these lanes; the transaction must be rolled back."""

    def __init__(self, keys: set[LaneKey]) -> None:
        super().__init__(f"{len(keys)} lane(s) lost a race")
        self.keys = keys


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a lane that gets its terminal result. `command` is None for a tombstone."""

    order: int
    decision: Decision
    command: Command | None
    accepted_at: datetime
    target: AppointmentFact | None = None
    """The appointment before the effect."""
    new_id: str = ""
    """Spare id for the ticket, task or message that the entry opens."""


class PendingChange(msgspec.Struct, frozen=True, kw_only=True):
    """A command that stays pending, with its state made visible."""

    command_id: str
    state: State
    reason: str


@dataclass(slots=True, kw_only=True)
class LanePlan:
    """What one attempt wants to do with one lane."""

    facts: LaneFacts
    mode: Mode
    timezone: str = "America/Sao_Paulo"
    ttl: timedelta = timedelta(hours=2)
    late_after: timedelta = timedelta(seconds=60)
    """Age at which the fences must have been asked (domain.facts.GatePolicy)."""
    entries: list[Entry] = field(default_factory=list)
    pending: list[PendingChange] = field(default_factory=list)
    not_before: datetime | None = None
    blocked_by: str | None = None
    next_ready_since: datetime | None = None
    steps_used: int = 0
    tell_results: bool = False
    """Whether the clinic's webhook hears of every result."""
    park_rest: tuple[State, int] | None = None
    """Every command after this place is parked in this state too, also those beyond what was read."""

    @property
    def key(self) -> LaneKey:
        """(tenant, contact)."""
        return self.facts.key

    @property
    def changes_anything(self) -> bool:
        """Whether there is something to write."""
        row = self.facts.row
        return bool(self.entries or self.pending or self.not_before != row.not_before or self.blocked_by != row.blocked_by)

    @property
    def left(self) -> int:
        """Commands that still wait after this plan, of those known when the lane was read."""
        return int(self.facts.row.waiting) - sum(entry.command is not None for entry in self.entries)

    @property
    def empties(self) -> bool:
        """Whether nothing waits after this plan."""
        return self.left == 0

    def poisoned(self) -> "LanePlan":
        """The same lane with its front command handed to a person: what the database keeps refusing must not stop it."""
        front = self.entries[0]
        decision = Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=Reason.UNEXPECTED_FAILURE, terminal=True)
        alone = replace(self, entries=[changed(front, decision=decision)], pending=[], park_rest=None)
        alone.steps_used = min(self.steps_used, int(front.command is not None))
        alone.stay_shut()
        return alone

    def stay_shut(self) -> None:
        """Leave a parked lane that still has something to wait for as it is: only a drain or a replay batch opens it."""
        row = self.facts.row
        parked = row.blocked_by in PARKED_BY and self.left > 0
        self.blocked_by, self.not_before = (row.blocked_by, row.not_before) if parked else (None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Who applies, and under which lock. `clock` is asked inside the transaction, which may have waited for its turn."""

    token: str
    node_id: str
    clock: Callable[[], datetime]
    lock_backend: State | str
    lock_mode: str
    lock_ms: float
    lock_token: str | None = None
    """Whose the lanes' locks are where they are rows (`store.locks`): the commit gives them back."""
