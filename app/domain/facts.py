"""What the gate looks at: facts gathered from the database, as plain values.

Everything here is frozen and free of I/O. `engine.committer` builds a `Snapshot` per command from one read and
hands it to `gate.decide`; `store.ledger.apply` compares the same versions again inside the effect's transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from app.domain.states import AppointmentStatus, CommandType, ModeState, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Appointment:
    """An agenda entity as stored. Times are UTC; `version` starts at 1 and grows by 1 with each effect."""

    appointment_id: str
    patient_id: str
    therapist_id: str
    start_at: datetime
    end_at: datetime
    status: AppointmentStatus
    version: int
    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianLink:
    """What one contact may do for one patient (contract section 6, Guardians). Absent link = denied."""

    can_schedule: bool = False
    can_cancel: bool = False
    is_primary: bool = False
    verified: bool = False
    revoked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """Safe mode and contingency of one tenant (the stricter of the tenant's and the global row).

    `safe_deadline` is written when a critical alert is raised and cleared by its ACK, so safe mode holds on time even
    when every timer is dead (reliability.md).
    """

    state: ModeState = ModeState.NORMAL
    epoch: int = 0
    safe_deadline: datetime | None = None
    contingency: bool = False

    def safe_mode_blocks(self, now: datetime) -> bool:
        """Whether sensitive commands are blocked by safe mode at `now` (exactly at the deadline is blocked)."""
        if self.state in (ModeState.SAFE_MODE_ACTIVE, ModeState.RECOVERING):
            return True
        return self.safe_deadline is not None and now >= self.safe_deadline


class KeyUse(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier command of the tenant that carries the same idempotency key."""

    command_id: str
    fingerprint: str
    result: State | None
    """None while that command is still pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotConflict:
    """An active appointment that overlaps the wanted slot, and free alternatives (start times, UTC)."""

    appointment_id: str
    alternatives: tuple[datetime, ...] = ()


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `gate.decide` may know about the world, read in one go.

    `mode` is None when the mode could not be read: side effects are then blocked. `appointment` is the target entity
    (or, for `schedule`, an existing entity of the same id); `patient_known` says whether the command's patient exists.
    """

    last_committed: int = 0
    conversation_version: int = 1
    guardian_version: int = 0
    takeover_active: bool = False
    behind_parked: bool = False
    mode: Mode | None = None
    key_use: KeyUse | None = None
    appointment: Appointment | None = None
    guardian: GuardianLink | None = None
    patient_known: bool = True
    therapist_known: bool = True
    slot_conflict: SlotConflict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """Numbers of one tenant that the gate uses; defaults from the contract, editable per tenant."""

    late_after: timedelta = timedelta(seconds=60)
    replay_ttl: Mapping[CommandType, timedelta] = field(
        default_factory=lambda: {
            CommandType.SCHEDULE: timedelta(minutes=120),
            CommandType.RESCHEDULE: timedelta(minutes=120),
            CommandType.CANCEL: timedelta(minutes=120),
            CommandType.FOLLOW_UP: timedelta(hours=24),
            CommandType.TAKEOVER: timedelta(hours=24),
        }
    )
    d1_cutoff: timedelta = timedelta(minutes=30)
    """A D-1 confirmation is valid until appointment start minus this."""
    wait_limit: timedelta = timedelta(minutes=5)


# --- effects: what apply() writes when the gate says yes --------------------------------------------------------------


class BookAppointment(msgspec.Struct, frozen=True, kw_only=True):
    """Create version 1 of an appointment."""

    appointment_id: str
    patient_id: str
    therapist_id: str
    start_at: datetime
    end_at: datetime


class ChangeAppointment(msgspec.Struct, frozen=True, kw_only=True):
    """Move, cancel or confirm: write version `expected_version + 1`."""

    appointment_id: str
    expected_version: int
    start_at: datetime
    end_at: datetime
    status: AppointmentStatus


class SendMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Say something to the family (through the outbox)."""

    text: str


class OpenTakeover(msgspec.Struct, frozen=True, kw_only=True):
    """Hand the conversation to a person; the AI is silent from then on."""

    reason: str


Effect = BookAppointment | ChangeAppointment | SendMessage | OpenTakeover


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says about one command.

    `state` is a terminal result or a pending state (`terminal` tells which). `reason` is a code of
    `domain.reasons`; `effect` is set exactly when `state` is in `EFFECT_RESULTS`. `late` says that the replay fences
    were consulted; the remaining fields are what they compared, for logs, ledger and evidence.
    """

    state: State
    reason: str
    terminal: bool
    effect: Effect | None = None
    late: bool = False
    event_age_s: float | None = None
    ttl_limit_s: float | None = None
    expected_version: int | None = None
    event_version: int | None = None
    duplicate_of: str | None = None
    alternatives: tuple[datetime, ...] = ()
