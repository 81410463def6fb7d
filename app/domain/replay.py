"""Replay fences (S-PC-02-001, S-PC-02-002): a late command passes TTL, then versions and as_of, before anything happens.

The same two fences serve the gate and the dry run; `fence` gives the intermediate states that a dry run shows.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.envelopes import Command
from app.domain.facts import Appointment, GatePolicy, Snapshot
from app.domain.reasons import Reason
from app.domain.states import ENTITY_BOUND, AppointmentStatus, CommandType, Source, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What a fence says: an intermediate `..._ready_for_replay` state, or the terminal state that stops the command."""

    state: State
    reason: str
    passed: bool
    event_age_s: float | None = None
    ttl_limit_s: float | None = None
    expected_version: int | None = None
    event_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A version that is not the one the command was decided on; `expected` is ours, `event` the command's."""

    reason: str
    expected: int | None = None
    event: int | None = None


def age(command: Command, now: datetime) -> timedelta:
    """How old the command is; raises ValueError without `occurred_at` (the shape check comes first)."""
    if command.occurred_at is None:
        raise ValueError("a command without occurred_at has no age")
    return now - command.occurred_at


def is_late(command: Command, now: datetime, policy: GatePolicy) -> bool:
    """Whether the fences apply: parked once, replayed, or older than `late_after` at its turn."""
    if command.was_parked or command.replayed or command.source is Source.REPLAY:
        return True
    return age(command, now) > policy.late_after


def ttl_limit(command: Command, appointment: Appointment | None, policy: GatePolicy) -> timedelta | None:
    """The greatest age at which the command may still happen; None when nothing says.

    A D-1 confirmation lives until its appointment's start minus the cutoff, so its limit depends on the appointment.
    """
    if command.command_type is CommandType.D1_CONFIRMATION:
        if appointment is None or command.occurred_at is None:
            return None
        return appointment.start_at - policy.d1_cutoff - command.occurred_at
    return policy.replay_ttl.get(command.command_type)


def check_ttl(command: Command, snapshot: Snapshot, now: datetime, policy: GatePolicy) -> Fence:
    """First fence. Exactly at the limit is valid.

    A D-1 confirmation whose appointment is gone has no limit to exceed: the second fence stops it. Any other type
    without a limit is an intent that replay does not know.
    """
    event_age = age(command, now)
    limit = ttl_limit(command, snapshot.appointment, policy)
    age_s = event_age.total_seconds()
    limit_s = limit.total_seconds() if limit is not None else None
    if limit is None and command.command_type is not CommandType.D1_CONFIRMATION:
        return Fence(state=State.INVALID_EVENT_MANUAL, reason=Reason.UNKNOWN_INTENT, passed=False, event_age_s=age_s)
    if limit is not None and event_age > limit:
        return Fence(state=State.EXPIRED_MANUAL, reason=Reason.TTL_EXPIRED, passed=False, event_age_s=age_s, ttl_limit_s=limit_s)
    return Fence(
        state=State.TTL_VALID_READY_FOR_REPLAY, reason=Reason.TTL_VALID, passed=True, event_age_s=age_s, ttl_limit_s=limit_s
    )


def version_mismatch(command: Command, snapshot: Snapshot) -> Mismatch | None:
    """The first version the command was decided on that is not current any more; None when all match."""
    ours, theirs = snapshot.conversation_version, command.conversation_version
    # a request for a person may come without a version: it is welcome whatever was said since
    skipped = theirs is None and command.command_type is CommandType.TAKEOVER
    if not skipped and theirs != ours:
        return Mismatch(reason=Reason.CONVERSATION_VERSION_STALE, expected=ours, event=theirs)
    target = snapshot.appointment
    if command.command_type is CommandType.SCHEDULE and target is not None:
        return Mismatch(reason=Reason.ENTITY_EXISTS, expected=target.version, event=command.entity_version)
    if command.command_type not in ENTITY_BOUND:
        return None
    if target is None:
        return Mismatch(reason=Reason.ENTITY_MISSING, event=command.entity_version)
    if command.entity_version != target.version:
        return Mismatch(reason=Reason.ENTITY_VERSION_STALE, expected=target.version, event=command.entity_version)
    if target.status is AppointmentStatus.CANCELLED:
        return Mismatch(reason=Reason.ENTITY_NOT_ACTIVE, expected=target.version, event=command.entity_version)
    return None


def check_versions(command: Command, snapshot: Snapshot) -> Fence:
    """Second fence: every version as decided, and `as_of` not older than the entity's, even when the versions match."""
    mismatch = version_mismatch(command, snapshot)
    if mismatch is not None:
        return Fence(
            state=State.CONFLICT_BLOCKED,
            reason=mismatch.reason,
            passed=False,
            expected_version=mismatch.expected,
            event_version=mismatch.event,
        )
    target = snapshot.appointment
    if command.command_type in ENTITY_BOUND and target is not None and (command.as_of is None or command.as_of < target.as_of):
        return Fence(
            state=State.CONFLICT_BLOCKED,
            reason=Reason.AS_OF_STALE,
            passed=False,
            expected_version=target.version,
            event_version=command.entity_version,
        )
    return Fence(state=State.VERSION_MATCH_READY_FOR_REPLAY, reason=Reason.VERSIONS_MATCH, passed=True)


def fence(command: Command, snapshot: Snapshot, now: datetime, policy: GatePolicy) -> tuple[Fence, ...]:
    """Both fences in their order, up to the first that stops the command: what a dry run shows."""
    first = check_ttl(command, snapshot, now, policy)
    return (first, check_versions(command, snapshot)) if first.passed else (first,)
