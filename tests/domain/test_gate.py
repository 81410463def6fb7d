"""Every cell of the gate: what each check says for each command type."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace as changed

from app.domain.envelopes import Command
from app.domain.facts import (
    BookAppointment,
    ChangeAppointment,
    Decision,
    Effect,
    GatePolicy,
    GuardianLink,
    KeyUse,
    Mode,
    OpenTakeover,
    SendMessage,
    SlotConflict,
    Snapshot,
)
from app.domain.gate import Case, decide
from app.domain.reasons import Reason
from app.domain.states import SENSITIVE, AppointmentStatus, CommandType, ModeState, RequestedBy, Source, State
from tests.domain.cases import NOON, PAYLOADS, POLICY, SLOT, SLOT_AT, appointment, command, snapshot

ALL = list(CommandType)
C = CommandType


def run(cmd: Command, facts: Snapshot, *, policy: GatePolicy = POLICY) -> Decision:
    return decide(cmd, facts, NOON, policy)


def verdict(decision: Decision) -> tuple[str, str]:
    return decision.state, decision.reason


# --- applies ------------------------------------------------------------------------------------------------------------

EFFECTS: dict[CommandType, Effect] = {
    C.SCHEDULE: BookAppointment(
        appointment_id="a-1", patient_id="p-pedro", therapist_id="t-ana", start_at=SLOT_AT[0], end_at=SLOT_AT[1]
    ),
    C.RESCHEDULE: ChangeAppointment(
        appointment_id="a-1", expected_version=2, start_at=SLOT_AT[0], end_at=SLOT_AT[1], status=AppointmentStatus.SCHEDULED
    ),
    C.CANCEL: ChangeAppointment(
        appointment_id="a-1",
        expected_version=2,
        start_at=appointment().start_at,
        end_at=appointment().end_at,
        status=AppointmentStatus.CANCELLED,
    ),
    C.D1_CONFIRMATION: ChangeAppointment(
        appointment_id="a-1",
        expected_version=2,
        start_at=appointment().start_at,
        end_at=appointment().end_at,
        status=AppointmentStatus.CONFIRMED,
    ),
    C.FOLLOW_UP: SendMessage(text=PAYLOADS[C.FOLLOW_UP]["text"]),
    C.TAKEOVER: OpenTakeover(reason="pediu uma pessoa"),
}


@pytest.mark.story("S-PC-01-003")
@pytest.mark.parametrize("kind", ALL)
def test_a_fresh_command_that_passes_every_check_applies_once(kind: CommandType) -> None:
    decision = run(command(kind), snapshot(kind))
    assert decision == Decision(state=State.APPLIED_ONCE, reason=Reason.APPLIED, terminal=True, effect=EFFECTS[kind])


@pytest.mark.story("S-PC-02-003")
@pytest.mark.parametrize("kind", ALL)
def test_a_late_command_that_passes_the_fences_is_replayed_with_the_same_effect(kind: CommandType) -> None:
    decision = run(command(kind, was_parked=True), snapshot(kind))
    assert verdict(decision) == (State.REPLAYED, Reason.REPLAYED_WITHIN_FENCES)
    assert decision.effect == EFFECTS[kind]
    assert decision.late
    assert decision.event_age_s == 0.0
    assert decision.ttl_limit_s is not None


def test_a_family_that_declines_the_day_before_question_gets_a_person() -> None:
    decline = command(C.D1_CONFIRMATION, payload={"appointment_id": "a-1", "answer": "no"})
    decision = run(decline, snapshot(C.D1_CONFIRMATION))
    assert decision.state is State.APPLIED_ONCE
    assert decision.effect == OpenTakeover(reason="d1_declined")


def test_a_takeover_without_a_reason_or_version_still_opens() -> None:
    decision = run(command(C.TAKEOVER, payload={}, conversation_version=None), snapshot(C.TAKEOVER))
    assert decision.effect == OpenTakeover(reason="requested")


def test_a_schedule_without_an_appointment_id_gets_one_from_its_command() -> None:
    payload = {"therapist_id": "t-ana", **SLOT}
    decision = run(command(C.SCHEDULE, payload=payload), snapshot(C.SCHEDULE))
    assert isinstance(decision.effect, BookAppointment)
    assert decision.effect.appointment_id == "apt-cmd-1"


# --- 1 shape ------------------------------------------------------------------------------------------------------------

LONG = "x" * 201
BAD_PAYLOADS: list[tuple[CommandType, dict[str, Any], str]] = [
    (C.SCHEDULE, {"patient_id": None}, Reason.MISSING_PATIENT),
    (C.SCHEDULE, {"therapist_id": None}, Reason.MISSING_THERAPIST),
    (C.SCHEDULE, {"therapist_id": ""}, Reason.MISSING_THERAPIST),
    (C.SCHEDULE, {"therapist_id": 7}, Reason.BAD_IDENTIFIER),
    (C.SCHEDULE, {"therapist_id": LONG}, Reason.BAD_IDENTIFIER),
    (C.SCHEDULE, {"appointment_id": ""}, Reason.BAD_IDENTIFIER),
    (C.SCHEDULE, {"appointment_id": ["a-1"]}, Reason.BAD_IDENTIFIER),
    (C.SCHEDULE, {"start": None}, Reason.BAD_TIME),
    (C.SCHEDULE, {"end": "2026-12-01T13:50:00"}, Reason.BAD_TIME),
    (C.SCHEDULE, {"start": SLOT["end"], "end": SLOT["start"]}, Reason.BAD_INTERVAL),
    (C.SCHEDULE, {"end": SLOT["start"]}, Reason.BAD_INTERVAL),
    (C.SCHEDULE, {"end": "2026-12-02T01:00:01Z"}, Reason.BAD_INTERVAL),
    (C.RESCHEDULE, {"appointment_id": None}, Reason.MISSING_APPOINTMENT),
    (C.RESCHEDULE, {"appointment_id": {"id": "a-1"}}, Reason.BAD_IDENTIFIER),
    (C.RESCHEDULE, {"start": 1_700_000_000}, Reason.BAD_TIME),
    (C.CANCEL, {"appointment_id": ""}, Reason.MISSING_APPOINTMENT),
    (C.CANCEL, {"reason": 5}, Reason.BAD_TEXT),
    (C.CANCEL, {"reason": "x" * 501}, Reason.BAD_TEXT),
    (C.D1_CONFIRMATION, {"appointment_id": None}, Reason.MISSING_APPOINTMENT),
    (C.D1_CONFIRMATION, {"answer": None}, Reason.BAD_ANSWER),
    (C.D1_CONFIRMATION, {"answer": "maybe"}, Reason.BAD_ANSWER),
    (C.D1_CONFIRMATION, {"answer": ["yes"]}, Reason.BAD_ANSWER),
    (C.FOLLOW_UP, {"text": None}, Reason.BAD_TEXT),
    (C.FOLLOW_UP, {"text": "  "}, Reason.BAD_TEXT),
    (C.FOLLOW_UP, {"text": "x" * 4097}, Reason.BAD_TEXT),
    (C.TAKEOVER, {"reason": ["x"]}, Reason.BAD_TEXT),
]


@pytest.mark.story("S-PC-01-001")
@pytest.mark.parametrize(("kind", "change", "reason"), BAD_PAYLOADS)
def test_a_payload_that_cannot_be_used_goes_to_a_person(kind: CommandType, change: dict[str, Any], reason: str) -> None:
    changes: dict[str, Any] = {"payload": PAYLOADS[kind] | change}
    if "patient_id" in change:
        changes = change
    assert verdict(run(command(kind, **changes), snapshot(kind))) == (State.INVALID_PAYLOAD_MANUAL, reason)


def test_an_appointment_of_exactly_twelve_hours_is_accepted() -> None:
    payload = PAYLOADS[C.SCHEDULE] | {"end": "2026-12-02T01:00:00Z"}
    assert run(command(C.SCHEDULE, payload=payload), snapshot(C.SCHEDULE)).state is State.APPLIED_ONCE


@pytest.mark.story("S-PC-02-001")
@pytest.mark.parametrize("kind", ALL)
def test_a_command_without_a_timestamp_is_invalid(kind: CommandType) -> None:
    assert verdict(run(command(kind, occurred_at=None), snapshot(kind))) == (State.INVALID_EVENT_MANUAL, Reason.MISSING_TIMESTAMP)


REQUIRED = {
    "conversation_version": set(ALL) - {C.TAKEOVER},
    "guardian_version": set(SENSITIVE),
    "as_of": set(SENSITIVE) | {C.D1_CONFIRMATION},
    "entity_version": {C.RESCHEDULE, C.CANCEL, C.D1_CONFIRMATION},
}


@pytest.mark.story("S-PC-02-002")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("name", list(REQUIRED))
def test_a_required_version_that_is_missing_makes_the_event_invalid(kind: CommandType, name: str) -> None:
    decision = run(command(kind, **{name: None}), snapshot(kind))
    if kind in REQUIRED[name]:
        assert verdict(decision) == (State.INVALID_EVENT_MANUAL, Reason.MISSING_VERSION_METADATA)
    else:
        assert decision.state is State.APPLIED_ONCE


# --- 2 idempotency, 3 order ---------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-003")
@pytest.mark.parametrize("kind", ALL)
def test_the_same_key_with_the_same_request_is_a_duplicate_and_with_another_a_conflict(kind: CommandType) -> None:
    same = run(command(kind), snapshot(kind, key_use=KeyUse(command_id="cmd-0", fingerprint="f-1", result=None)))
    assert verdict(same) == (State.DUPLICATE_IGNORED, Reason.SAME_KEY_SAME_REQUEST)
    other = run(command(kind), snapshot(kind, key_use=KeyUse(command_id="cmd-0", fingerprint="f-0", result=State.APPLIED_ONCE)))
    assert verdict(other) == (State.BLOCKED_CONFLICT, Reason.IDEMPOTENCY_KEY_REUSED)
    assert same.duplicate_of == other.duplicate_of == "cmd-0"


@pytest.mark.story("S-PC-01-002")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("order", "state", "reason", "terminal"),
    [
        (None, State.BLOCKED_COMMIT_ORDER_VIOLATION, Reason.NO_PLACE_IN_LANE, True),
        (3, State.BLOCKED_COMMIT_ORDER_VIOLATION, Reason.COMMIT_ORDER_PASSED, True),
        (4, State.BLOCKED_COMMIT_ORDER_VIOLATION, Reason.COMMIT_ORDER_PASSED, True),
        (5, State.APPLIED_ONCE, Reason.APPLIED, True),
        (6, State.WAITING_PREVIOUS_COMMIT, Reason.PREVIOUS_MISSING, False),
    ],
)
def test_only_the_number_after_the_last_committed_goes_on(
    kind: CommandType, order: int | None, state: State, reason: str, terminal: bool
) -> None:
    decision = run(command(kind, commit_order=order), snapshot(kind))
    assert (decision.state, decision.reason, decision.terminal) == (state, reason, terminal)


# --- 4 safe mode and contingency ----------------------------------------------------------------------------------------

DEADLINE_PASSED = Mode(safe_deadline=NOON)
SAFE = Mode(state=ModeState.SAFE_MODE_ACTIVE)
RECOVERING = Mode(state=ModeState.RECOVERING)
DRAINING = Mode(state=ModeState.DRAINING)
CONTINGENCY = Mode(contingency=True)
BOTH = Mode(state=ModeState.SAFE_MODE_ACTIVE, contingency=True)
STILL_TIME = Mode(safe_deadline=NOON + timedelta(microseconds=1))

PARKING: list[tuple[Mode, State | None, str]] = [
    (SAFE, State.PENDING_SAFE_MODE, Reason.SAFE_MODE_ACTIVE),
    (RECOVERING, State.PENDING_SAFE_MODE, Reason.SAFE_MODE_ACTIVE),
    (DEADLINE_PASSED, State.PENDING_SAFE_MODE, Reason.SAFE_MODE_ACTIVE),
    (BOTH, State.PENDING_SAFE_MODE, Reason.SAFE_MODE_ACTIVE),
    (CONTINGENCY, State.PENDING_CONTINGENCY, Reason.CONTINGENCY_ACTIVE),
    (DRAINING, None, Reason.APPLIED),
    (STILL_TIME, None, Reason.APPLIED),
]


@pytest.mark.story("S-PC-03-002")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("mode", "parked", "reason"), PARKING)
def test_safe_mode_and_contingency_park_sensitive_commands_only(
    kind: CommandType, mode: Mode, parked: State | None, reason: str
) -> None:
    decision = run(command(kind), snapshot(kind, mode=mode))
    if kind in SENSITIVE and parked is not None:
        assert (decision.state, decision.reason, decision.terminal) == (parked, reason, False)
    else:
        assert decision.state is State.APPLIED_ONCE


@pytest.mark.parametrize("kind", ALL)
def test_an_unreadable_mode_blocks_every_effect(kind: CommandType) -> None:
    decision = run(command(kind), snapshot(kind, mode=None, behind_parked=True))
    assert (decision.state, decision.reason, decision.terminal) == (State.PENDING_SAFE_MODE, Reason.MODE_UNREADABLE, False)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("mode", "state"),
    [
        (SAFE, State.PENDING_SAFE_MODE),
        (BOTH, State.PENDING_SAFE_MODE),
        (CONTINGENCY, State.PENDING_CONTINGENCY),
        (Mode(), State.PENDING_SAFE_MODE),
    ],
)
def test_every_type_waits_behind_a_parked_command_of_its_contact(kind: CommandType, mode: Mode, state: State) -> None:
    decision = run(command(kind), snapshot(kind, mode=mode, behind_parked=True))
    assert (decision.state, decision.reason, decision.terminal) == (state, Reason.BEHIND_PARKED, False)


# --- 5 fences (their own cells are in test_replay) ----------------------------------------------------------------------


@pytest.mark.story("S-PC-02-001")
@pytest.mark.parametrize("mark", [{"was_parked": True}, {"replayed": True}, {"source": Source.REPLAY}])
def test_a_command_that_was_parked_or_replayed_goes_through_the_fences_however_young(mark: dict[str, Any]) -> None:
    decision = run(command(**mark), snapshot())
    assert (decision.state, decision.late) == (State.REPLAYED, True)


@pytest.mark.parametrize(("seconds", "late"), [(0, False), (60, False), (60.001, True), (-5, False)])
def test_a_command_older_than_a_minute_at_its_turn_is_late(seconds: float, late: bool) -> None:
    decision = run(command(occurred_at=NOON - timedelta(seconds=seconds)), snapshot())
    assert decision.late is late
    assert decision.state is (State.REPLAYED if late else State.APPLIED_ONCE)


@pytest.mark.story("S-PC-02-001")
def test_a_late_command_past_its_ttl_expires_and_says_by_how_much() -> None:
    decision = run(command(occurred_at=NOON - timedelta(minutes=130)), snapshot(conversation_version=99))
    assert verdict(decision) == (State.EXPIRED_MANUAL, Reason.TTL_EXPIRED)
    assert (decision.event_age_s, decision.ttl_limit_s, decision.late) == (7800.0, 7200.0, True)


@pytest.mark.story("S-PC-02-002")
def test_a_late_command_on_old_versions_is_a_conflict_for_a_person() -> None:
    decision = run(command(was_parked=True), snapshot(conversation_version=8))
    assert verdict(decision) == (State.CONFLICT_BLOCKED, Reason.CONVERSATION_VERSION_STALE)
    assert (decision.expected_version, decision.event_version) == (8, 7)


@pytest.mark.story("S-PC-02-002")
def test_a_late_command_decided_before_the_entitys_as_of_is_a_conflict_though_versions_match() -> None:
    stale = command(was_parked=True, as_of=NOON - timedelta(hours=2))
    assert verdict(run(stale, snapshot())) == (State.CONFLICT_BLOCKED, Reason.AS_OF_STALE)


def test_a_late_command_still_meets_the_guards_and_keeps_what_the_fences_saw() -> None:
    decision = run(command(was_parked=True, confirmed_by_contact=False), snapshot())
    assert verdict(decision) == (State.BLOCKED_UNCONFIRMED, Reason.NOT_CONFIRMED)
    assert (decision.late, decision.ttl_limit_s) == (True, 7200.0)


# --- 6 versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-003")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("current", [6, 8])
def test_a_command_decided_on_another_conversation_version_is_blocked(kind: CommandType, current: int) -> None:
    decision = run(command(kind), snapshot(kind, conversation_version=current))
    assert verdict(decision) == (State.VERSION_CONFLICT_BLOCKED, Reason.CONVERSATION_VERSION_STALE)
    assert (decision.expected_version, decision.event_version) == (current, 7)


ENTITY_CELLS: list[tuple[Any, str, int | None]] = [
    (None, Reason.ENTITY_MISSING, None),
    (appointment(version=3), Reason.ENTITY_VERSION_STALE, 3),
    (appointment(status=AppointmentStatus.CANCELLED), Reason.ENTITY_NOT_ACTIVE, 2),
]


@pytest.mark.parametrize("kind", [C.RESCHEDULE, C.CANCEL, C.D1_CONFIRMATION])
@pytest.mark.parametrize(("target", "reason", "expected"), ENTITY_CELLS)
def test_a_command_on_an_appointment_that_changed_is_blocked(
    kind: CommandType, target: Any, reason: str, expected: int | None
) -> None:
    decision = run(command(kind), snapshot(kind, appointment=target))
    assert verdict(decision) == (State.VERSION_CONFLICT_BLOCKED, reason)
    assert (decision.expected_version, decision.event_version) == (expected, 2)


def test_a_schedule_never_writes_over_an_existing_appointment() -> None:
    decision = run(command(C.SCHEDULE), snapshot(C.SCHEDULE, appointment=appointment()))
    assert verdict(decision) == (State.VERSION_CONFLICT_BLOCKED, Reason.ENTITY_EXISTS)


# --- 7 takeover ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("by", list(RequestedBy))
def test_while_a_person_has_the_conversation_the_ai_does_nothing(kind: CommandType, by: RequestedBy) -> None:
    decision = run(command(kind, requested_by=by), snapshot(kind, takeover_active=True))
    if by is RequestedBy.AI:
        assert verdict(decision) == (State.BLOCKED_TAKEOVER_ACTIVE, Reason.TAKEOVER_ACTIVE)
    elif kind is C.TAKEOVER:
        assert verdict(decision) == (State.DUPLICATE_IGNORED, Reason.TAKEOVER_ALREADY_ACTIVE)
    else:
        assert decision.state is State.APPLIED_ONCE


def test_a_no_to_the_day_before_question_opens_no_second_takeover() -> None:
    decline = command(C.D1_CONFIRMATION, requested_by=RequestedBy.SYSTEM, payload={"appointment_id": "a-1", "answer": "no"})
    decision = run(decline, snapshot(C.D1_CONFIRMATION, takeover_active=True))
    assert verdict(decision) == (State.BLOCKED_TAKEOVER_ACTIVE, Reason.TAKEOVER_ALREADY_ACTIVE)


# --- 8 guardians, 9 confirmation, 10 agenda -----------------------------------------------------------------------------

GUARDIAN_CELLS: list[tuple[dict[str, Any], str]] = [
    ({"guardian": None}, Reason.NO_GUARDIAN_LINK),
    ({"guardian": GuardianLink(verified=True)}, Reason.PERMISSION_MISSING),
    ({"guardian": GuardianLink(can_schedule=True, can_cancel=True)}, Reason.GUARDIAN_NOT_VERIFIED),
    ({"guardian": GuardianLink(can_schedule=True, can_cancel=True, verified=True, revoked=True)}, Reason.GUARDIAN_REVOKED),
    ({"patient_known": False}, Reason.PATIENT_UNKNOWN),
    ({"guardian_version": 4}, Reason.GUARDIAN_VERSION_STALE),
]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("change", "reason"), GUARDIAN_CELLS)
def test_a_contact_without_an_explicit_verified_permission_is_denied(
    kind: CommandType, change: dict[str, Any], reason: str
) -> None:
    decision = run(command(kind), snapshot(kind, **change))
    if kind in SENSITIVE:
        assert verdict(decision) == (State.BLOCKED_GUARDIAN_DENIED, reason)
    else:
        assert decision.state is State.APPLIED_ONCE


def test_a_stale_guardian_version_shows_both_numbers() -> None:
    decision = run(command(), snapshot(guardian_version=4))
    assert (decision.expected_version, decision.event_version) == (4, 3)


@pytest.mark.parametrize("kind", [C.RESCHEDULE, C.CANCEL])
def test_a_command_cannot_name_another_patient_than_the_appointments(kind: CommandType) -> None:
    decision = run(command(kind, patient_id="p-outro"), snapshot(kind))
    assert verdict(decision) == (State.BLOCKED_GUARDIAN_DENIED, Reason.PATIENT_MISMATCH)
    assert run(command(kind, patient_id=None), snapshot(kind)).state is State.APPLIED_ONCE


@pytest.mark.parametrize("kind", ALL)
def test_a_sensitive_command_needs_the_familys_explicit_confirmation(kind: CommandType) -> None:
    decision = run(command(kind, confirmed_by_contact=False), snapshot(kind))
    expected = (State.BLOCKED_UNCONFIRMED, Reason.NOT_CONFIRMED) if kind in SENSITIVE else (State.APPLIED_ONCE, Reason.APPLIED)
    assert verdict(decision) == expected


@pytest.mark.parametrize("kind", ALL)
def test_a_taken_slot_blocks_and_names_free_times(kind: CommandType) -> None:
    free = (SLOT_AT[1], SLOT_AT[1] + timedelta(hours=1))
    decision = run(command(kind), snapshot(kind, slot_conflict=SlotConflict(appointment_id="a-9", alternatives=free)))
    if kind in (C.SCHEDULE, C.RESCHEDULE):
        assert verdict(decision) == (State.BLOCKED_AGENDA_CONFLICT, Reason.SLOT_TAKEN)
        assert decision.alternatives == free
    else:
        assert decision.state is State.APPLIED_ONCE


@pytest.mark.parametrize("kind", ALL)
def test_nobody_is_scheduled_with_an_unknown_therapist(kind: CommandType) -> None:
    decision = run(command(kind), snapshot(kind, therapist_known=False))
    blocked = kind is C.SCHEDULE
    assert verdict(decision) == (
        (State.BLOCKED_AGENDA_CONFLICT, Reason.THERAPIST_UNKNOWN) if blocked else (State.APPLIED_ONCE, Reason.APPLIED)
    )


def test_the_gate_fails_loudly_rather_than_changing_an_appointment_that_is_not_there() -> None:
    from app.domain import gate

    with pytest.raises(AssertionError, match="appointment is missing"):
        gate.EFFECTS[C.CANCEL](Case(command(C.CANCEL), changed(snapshot(C.CANCEL), appointment=None), NOON, POLICY))
