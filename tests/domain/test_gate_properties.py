"""Properties of the gate over all combinations of broken facts: the first check in the frozen order decides."""

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from app.domain.facts import Appointment, GatePolicy, GuardianLink, KeyUse, Mode, SlotConflict, Snapshot
from app.domain.gate import decide
from app.domain.states import (
    EFFECT_RESULTS,
    PENDING,
    AppointmentStatus,
    CommandType,
    ModeState,
    RequestedBy,
    Source,
    State,
)
from tests.domain.cases import NOON, PAYLOADS, POLICY, appointment, command, snapshot

Fault = tuple[dict[str, Any], dict[str, Any], State]
"""Changes of the command, changes of the snapshot, and the state that the check answers with."""

STEPS: list[list[Fault]] = [
    [({"payload": {}}, {}, State.INVALID_PAYLOAD_MANUAL)],
    [
        ({"occurred_at": None}, {}, State.INVALID_EVENT_MANUAL),
        ({"guardian_version": None}, {}, State.INVALID_EVENT_MANUAL),
    ],
    [
        ({}, {"key_use": KeyUse(command_id="c", fingerprint="f-1", result=None)}, State.DUPLICATE_IGNORED),
        ({}, {"key_use": KeyUse(command_id="c", fingerprint="other", result=None)}, State.BLOCKED_CONFLICT),
    ],
    [
        ({"commit_order": 4}, {}, State.BLOCKED_COMMIT_ORDER_VIOLATION),
        ({"commit_order": 9}, {}, State.WAITING_PREVIOUS_COMMIT),
    ],
    [
        ({}, {"mode": None}, State.PENDING_SAFE_MODE),
        ({}, {"mode": Mode(state=ModeState.RECOVERING, contingency=True)}, State.PENDING_SAFE_MODE),
        ({}, {"mode": Mode(contingency=True)}, State.PENDING_CONTINGENCY),
        ({}, {"behind_parked": True}, State.PENDING_SAFE_MODE),
    ],
    [({"occurred_at": NOON - timedelta(hours=3)}, {}, State.EXPIRED_MANUAL)],
    [
        ({}, {"conversation_version": 8}, State.VERSION_CONFLICT_BLOCKED),
        ({"entity_version": 1}, {}, State.VERSION_CONFLICT_BLOCKED),
        ({}, {"appointment": None}, State.VERSION_CONFLICT_BLOCKED),
    ],
    [({}, {"takeover_active": True}, State.BLOCKED_TAKEOVER_ACTIVE)],
    [
        ({}, {"guardian": None}, State.BLOCKED_GUARDIAN_DENIED),
        ({}, {"guardian_version": 9}, State.BLOCKED_GUARDIAN_DENIED),
    ],
    [({"confirmed_by_contact": False}, {}, State.BLOCKED_UNCONFIRMED)],
    [({}, {"slot_conflict": SlotConflict(appointment_id="x")}, State.BLOCKED_AGENDA_CONFLICT)],
]
VERSION_STEP = 6

one_fault_or_none_per_step = st.tuples(*(st.one_of(st.none(), st.sampled_from(faults)) for faults in STEPS))


@settings(max_examples=500)
@given(faults=one_fault_or_none_per_step, late=st.booleans())
def test_the_earliest_check_that_fails_decides_whatever_the_later_facts_are(faults: tuple[Fault | None, ...], late: bool) -> None:
    cmd, facts = command(was_parked=late), snapshot()
    expected = State.REPLAYED if late else State.APPLIED_ONCE
    for step in reversed(range(len(faults))):  # earlier faults are written last, so they win where two touch one field
        fault = faults[step]
        if fault is None:
            continue
        cmd, facts, expected = changed(cmd, **fault[0]), changed(facts, **fault[1]), fault[2]
        if step == VERSION_STEP and late:
            expected = State.CONFLICT_BLOCKED  # a late command meets the same versions at the fence
    assert decide(cmd, facts, NOON, POLICY).state is expected


versions = st.one_of(st.none(), st.integers(0, 9))
moments = st.timedeltas(timedelta(days=-3), timedelta(days=3)).map(lambda d: NOON + d)
appointments = st.builds(
    Appointment,
    appointment_id=st.just("a-1"),
    patient_id=st.sampled_from(["p-pedro", "p-outro"]),
    therapist_id=st.just("t-ana"),
    start_at=moments,
    end_at=moments,
    status=st.sampled_from(AppointmentStatus),
    version=st.integers(1, 3),
    as_of=moments,
)
links = st.builds(
    GuardianLink,
    can_schedule=st.booleans(),
    can_cancel=st.booleans(),
    is_primary=st.booleans(),
    verified=st.booleans(),
    revoked=st.booleans(),
)
snapshots = st.builds(
    Snapshot,
    last_committed=st.integers(0, 9),
    conversation_version=st.integers(6, 8),
    guardian_version=st.integers(2, 4),
    takeover_active=st.booleans(),
    behind_parked=st.booleans(),
    mode=st.one_of(
        st.none(),
        st.builds(Mode, state=st.sampled_from(ModeState), safe_deadline=st.one_of(st.none(), moments), contingency=st.booleans()),
    ),
    key_use=st.one_of(
        st.none(), st.builds(KeyUse, command_id=st.just("c"), fingerprint=st.sampled_from(["f-1", "f-2"]), result=st.none())
    ),
    appointment=st.one_of(st.none(), appointments),
    guardian=st.one_of(st.none(), links),
    patient_known=st.booleans(),
    therapist_known=st.booleans(),
    slot_conflict=st.one_of(st.none(), st.just(SlotConflict(appointment_id="x"))),
)
payloads = st.one_of(
    st.sampled_from(list(PAYLOADS.values())),
    st.dictionaries(
        st.sampled_from(["appointment_id", "therapist_id", "start", "end", "answer", "text", "reason"]),
        st.one_of(st.none(), st.text(max_size=5), st.integers(), st.lists(st.integers(), max_size=2)),
    ),
)


@st.composite
def commands(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(CommandType))
    return command(
        kind,
        payload=draw(st.one_of(st.just(PAYLOADS[kind]), payloads)),
        requested_by=draw(st.sampled_from(RequestedBy)),
        source=draw(st.sampled_from(Source)),
        confirmed_by_contact=draw(st.booleans()),
        patient_id=draw(st.sampled_from([None, "p-pedro"])),
        guardian_version=draw(versions),
        conversation_version=draw(versions),
        entity_version=draw(versions),
        as_of=draw(st.one_of(st.none(), moments)),
        occurred_at=draw(st.one_of(st.none(), moments)),
        commit_order=draw(st.one_of(st.none(), st.integers(1, 9))),
        was_parked=draw(st.booleans()),
        replayed=draw(st.booleans()),
    )


@settings(max_examples=500)
@given(cmd=commands(), facts=snapshots, now=moments)
def test_the_gate_always_answers_and_its_answer_is_whole(cmd: Any, facts: Snapshot, now: Any) -> None:
    decision = decide(cmd, facts, now, GatePolicy())
    assert decision.terminal is (decision.state not in PENDING)
    assert (decision.effect is not None) == (decision.state in EFFECT_RESULTS)
    assert decision.state is not State.REPLAYED or decision.late
    assert decision.state is not State.APPLIED_ONCE or not decision.late
    assert decision.late == (decision.event_age_s is not None)
    assert decision == decide(cmd, facts, now, GatePolicy()), "the same facts must give the same answer"


@settings(max_examples=300)
@given(cmd=commands(), facts=snapshots)
def test_no_sensitive_effect_happens_where_the_promises_forbid_it(cmd: Any, facts: Snapshot) -> None:
    decision = decide(cmd, facts, NOON, POLICY)
    if decision.effect is None or cmd.command_type not in (CommandType.SCHEDULE, CommandType.RESCHEDULE, CommandType.CANCEL):
        return
    assert facts.mode is not None
    assert not facts.mode.safe_mode_blocks(NOON)
    assert not facts.mode.contingency
    assert facts.guardian is not None
    assert facts.guardian.verified
    assert not facts.guardian.revoked
    assert cmd.confirmed_by_contact
    assert cmd.conversation_version == facts.conversation_version
    assert cmd.guardian_version == facts.guardian_version
    assert cmd.commit_order == facts.last_committed + 1
    assert not (facts.takeover_active and cmd.requested_by is RequestedBy.AI)


def test_the_world_of_the_examples_lets_the_command_through() -> None:
    assert decide(command(), snapshot(appointment=appointment()), NOON, POLICY).state is State.APPLIED_ONCE
