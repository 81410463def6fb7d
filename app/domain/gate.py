"""The gate (contract section 6): one pure function that says whether a command may take effect now.

`decide` walks the checks in their frozen order; the first that answers decides. Facts come in as a `Snapshot`, time as an
argument; `store.ledger.apply` compares the same versions again inside the transaction that writes the effect.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace as changed

from app.domain.envelopes import Command
from app.domain.facts import (
    BookAppointment,
    ChangeAppointment,
    Decision,
    Effect,
    GatePolicy,
    OpenTakeover,
    SendMessage,
    Snapshot,
)
from app.domain.guardians import may
from app.domain.payloads import payload_fault, read_interval
from app.domain.reasons import Reason
from app.domain.replay import check_ttl, check_versions, is_late, version_mismatch
from app.domain.states import ENTITY_BOUND, SENSITIVE, AppointmentStatus, CommandType, RequestedBy, State

D1_DECLINED: Final = "d1_declined"
"""Reason of the takeover that a family's "no" to the day-before question opens."""


class Case(msgspec.Struct, frozen=True):
    """One command before the gate, with everything the checks may look at."""

    command: Command
    snapshot: Snapshot
    now: datetime
    policy: GatePolicy


Check = Callable[[Case], Decision | None]


def decide(command: Command, snapshot: Snapshot, now: datetime, policy: GatePolicy) -> Decision:
    """What happens to the command: a terminal result, with an effect exactly when it applies, or a pending state."""
    case = Case(command, snapshot, now, policy)
    for check in BEFORE_FENCES:
        decision = check(case)
        if decision is not None:
            return decision
    if is_late(command, now, policy):
        return _decide_late(case)
    return _first(NEVER_LATE + GUARDS, case) or _apply(case, State.APPLIED_ONCE, Reason.APPLIED)


def _decide_late(case: Case) -> Decision:
    """Fences first; what the fences looked at is carried by whatever the guards say afterwards."""
    ttl = check_ttl(case.command, case.snapshot, case.now, case.policy)
    stopped = ttl if not ttl.passed else check_versions(case.command, case.snapshot)
    if not stopped.passed:
        decision = Decision(
            state=stopped.state,
            reason=stopped.reason,
            terminal=True,
            expected_version=stopped.expected_version,
            event_version=stopped.event_version,
        )
    else:
        decision = _first(GUARDS, case) or _apply(case, State.REPLAYED, Reason.REPLAYED_WITHIN_FENCES)
    return changed(decision, late=True, event_age_s=ttl.event_age_s, ttl_limit_s=ttl.ttl_limit_s)


def _first(checks: tuple[Check, ...], case: Case) -> Decision | None:
    for check in checks:
        decision = check(case)
        if decision is not None:
            return decision
    return None


def _blocked(state: State, reason: str, **details: Any) -> Decision:
    return Decision(state=state, reason=reason, terminal=True, **details)


def _pending(state: State, reason: str) -> Decision:
    return Decision(state=state, reason=reason, terminal=False)


# --- 1 shape ------------------------------------------------------------------------------------------------------------


def check_shape(case: Case) -> Decision | None:
    """Step 1: a payload that can be used, a time and the versions it was decided on."""
    fault = payload_fault(case.command)
    if fault is not None:
        return _blocked(State.INVALID_PAYLOAD_MANUAL, fault)
    if case.command.occurred_at is None:
        return _blocked(State.INVALID_EVENT_MANUAL, Reason.MISSING_TIMESTAMP)
    if _lacks_versions(case.command):
        return _blocked(State.INVALID_EVENT_MANUAL, Reason.MISSING_VERSION_METADATA)
    return None


def _lacks_versions(command: Command) -> bool:
    kind = command.command_type
    sensitive, bound = kind in SENSITIVE, kind in ENTITY_BOUND
    return (
        (command.conversation_version is None and kind is not CommandType.TAKEOVER)
        or (sensitive and command.guardian_version is None)
        or ((sensitive or bound) and command.as_of is None)
        or (bound and command.entity_version is None)
    )


# --- 2 idempotency ------------------------------------------------------------------------------------------------------


def check_idempotency(case: Case) -> Decision | None:
    """Step 2: an earlier command with the key makes this one a duplicate, or a conflict that is never ignored silently."""
    use = case.snapshot.key_use
    if use is None:
        return None
    if use.fingerprint == case.command.fingerprint:
        return _blocked(State.DUPLICATE_IGNORED, Reason.SAME_KEY_SAME_REQUEST, duplicate_of=use.command_id)
    return _blocked(State.BLOCKED_CONFLICT, Reason.IDEMPOTENCY_KEY_REUSED, duplicate_of=use.command_id)


# --- 3 lane order -------------------------------------------------------------------------------------------------------


def check_lane_order(case: Case) -> Decision | None:
    """Step 3: only the number after the last committed one may go on."""
    order, last = case.command.commit_order, case.snapshot.last_committed
    if order is None:
        return _blocked(State.BLOCKED_COMMIT_ORDER_VIOLATION, Reason.NO_PLACE_IN_LANE)
    if order <= last:
        return _blocked(State.BLOCKED_COMMIT_ORDER_VIOLATION, Reason.COMMIT_ORDER_PASSED)
    if order > last + 1:
        return _pending(State.WAITING_PREVIOUS_COMMIT, Reason.PREVIOUS_MISSING)
    return None


# --- 4 safe mode and contingency ----------------------------------------------------------------------------------------


def check_mode(case: Case) -> Decision | None:
    """Step 4: park what may not happen now; it keeps its place, and everything behind it waits with it."""
    mode = case.snapshot.mode
    if mode is None:
        return _pending(State.PENDING_SAFE_MODE, Reason.MODE_UNREADABLE)
    safe = mode.safe_mode_blocks(case.now)
    if case.snapshot.behind_parked:
        contingency_alone = mode.contingency and not safe
        return _pending(State.PENDING_CONTINGENCY if contingency_alone else State.PENDING_SAFE_MODE, Reason.BEHIND_PARKED)
    if case.command.command_type not in SENSITIVE:
        return None
    if safe:
        return _pending(State.PENDING_SAFE_MODE, Reason.SAFE_MODE_ACTIVE)
    if mode.contingency:
        return _pending(State.PENDING_CONTINGENCY, Reason.CONTINGENCY_ACTIVE)
    return None


# --- 6 versions ---------------------------------------------------------------------------------------------------------


def check_versions_now(case: Case) -> Decision | None:
    """Step 6: the world is still the one that the command was decided on (for a late command the fences say so)."""
    mismatch = version_mismatch(case.command, case.snapshot)
    if mismatch is None:
        return None
    return _blocked(
        State.VERSION_CONFLICT_BLOCKED, mismatch.reason, expected_version=mismatch.expected, event_version=mismatch.event
    )


# --- 7 takeover ---------------------------------------------------------------------------------------------------------


def check_takeover(case: Case) -> Decision | None:
    """Step 7: while a person has the conversation the AI does nothing, and nobody hands it over a second time."""
    if not case.snapshot.takeover_active:
        return None
    if case.command.requested_by is RequestedBy.AI:
        return _blocked(State.BLOCKED_TAKEOVER_ACTIVE, Reason.TAKEOVER_ACTIVE)
    if case.command.command_type is CommandType.TAKEOVER:
        return _blocked(State.DUPLICATE_IGNORED, Reason.TAKEOVER_ALREADY_ACTIVE)
    if _declines(case.command):
        # a "no" would hand the conversation to a person, and one has it already
        return _blocked(State.BLOCKED_TAKEOVER_ACTIVE, Reason.TAKEOVER_ALREADY_ACTIVE)
    return None


def _declines(command: Command) -> bool:
    return command.command_type is CommandType.D1_CONFIRMATION and command.payload["answer"] == "no"


# --- 8 guardians --------------------------------------------------------------------------------------------------------


def check_guardian(case: Case) -> Decision | None:
    """Step 8: an explicit, verified permission for the patient, as current as the command says; else denied."""
    command, snapshot = case.command, case.snapshot
    if command.command_type not in SENSITIVE:
        return None
    target = snapshot.appointment
    if target is not None and command.patient_id is not None and command.patient_id != target.patient_id:
        return _blocked(State.BLOCKED_GUARDIAN_DENIED, Reason.PATIENT_MISMATCH)
    if not snapshot.patient_known:
        return _blocked(State.BLOCKED_GUARDIAN_DENIED, Reason.PATIENT_UNKNOWN)
    answer = may(command.command_type, snapshot.guardian)
    if not answer.allowed:
        return _blocked(State.BLOCKED_GUARDIAN_DENIED, answer.reason)
    if command.guardian_version != snapshot.guardian_version:
        return _blocked(
            State.BLOCKED_GUARDIAN_DENIED,
            Reason.GUARDIAN_VERSION_STALE,
            expected_version=snapshot.guardian_version,
            event_version=command.guardian_version,
        )
    return None


# --- 9 confirmation -----------------------------------------------------------------------------------------------------


def check_confirmation(case: Case) -> Decision | None:
    """Step 9: the family itself said CONFIRMAR."""
    if case.command.command_type in SENSITIVE and not case.command.confirmed_by_contact:
        return _blocked(State.BLOCKED_UNCONFIRMED, Reason.NOT_CONFIRMED)
    return None


# --- 10 apply -----------------------------------------------------------------------------------------------------------


def check_agenda(case: Case) -> Decision | None:
    """Step 10, first half: the agenda's own constraints."""
    kind = case.command.command_type
    if kind is CommandType.SCHEDULE and not case.snapshot.therapist_known:
        return _blocked(State.BLOCKED_AGENDA_CONFLICT, Reason.THERAPIST_UNKNOWN)
    conflict = case.snapshot.slot_conflict
    if kind in (CommandType.SCHEDULE, CommandType.RESCHEDULE) and conflict is not None:
        return _blocked(State.BLOCKED_AGENDA_CONFLICT, Reason.SLOT_TAKEN, alternatives=conflict.alternatives)
    return None


def _apply(case: Case, state: State, reason: str) -> Decision:
    return Decision(state=state, reason=reason, terminal=True, effect=EFFECTS[case.command.command_type](case))


def _book(case: Case) -> Effect:
    command, (start_at, end_at) = case.command, read_interval(case.command.payload)
    return BookAppointment(
        appointment_id=str(command.appointment_id),
        patient_id=str(command.patient_id),
        therapist_id=command.payload["therapist_id"],
        start_at=start_at,
        end_at=end_at,
    )


def _change(case: Case, status: AppointmentStatus, payload: Mapping[str, Any] | None = None) -> Effect:
    target = case.snapshot.appointment
    if target is None:
        raise AssertionError("the version guard lets no command pass whose appointment is missing")
    start_at, end_at = read_interval(payload) if payload is not None else (target.start_at, target.end_at)
    return ChangeAppointment(
        appointment_id=target.appointment_id, expected_version=target.version, start_at=start_at, end_at=end_at, status=status
    )


def _move(case: Case) -> Effect:
    # a confirmed presence was for the old time: the family is asked again
    return _change(case, AppointmentStatus.SCHEDULED, case.command.payload)


def _cancel(case: Case) -> Effect:
    return _change(case, AppointmentStatus.CANCELLED)


def _confirm(case: Case) -> Effect:
    if _declines(case.command):
        return OpenTakeover(reason=D1_DECLINED)
    return _change(case, AppointmentStatus.CONFIRMED)


def _say(case: Case) -> Effect:
    return SendMessage(text=case.command.payload["text"])


def _hand_over(case: Case) -> Effect:
    return OpenTakeover(reason=case.command.payload.get("reason") or "requested")


EFFECTS: Final[Mapping[CommandType, Callable[[Case], Effect]]] = {
    CommandType.SCHEDULE: _book,
    CommandType.RESCHEDULE: _move,
    CommandType.CANCEL: _cancel,
    CommandType.D1_CONFIRMATION: _confirm,
    CommandType.FOLLOW_UP: _say,
    CommandType.TAKEOVER: _hand_over,
}

BEFORE_FENCES: Final[tuple[Check, ...]] = (check_shape, check_idempotency, check_lane_order, check_mode)
NEVER_LATE: Final[tuple[Check, ...]] = (check_versions_now,)
GUARDS: Final[tuple[Check, ...]] = (check_takeover, check_guardian, check_confirmation, check_agenda)
