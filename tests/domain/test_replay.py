"""Replay fences: TTL to the second, then versions and as_of; the intermediate states that a dry run shows."""

from datetime import timedelta

import pytest

from app.domain.facts import GatePolicy
from app.domain.reasons import Reason
from app.domain.replay import age, check_ttl, check_versions, fence, is_late, ttl_limit
from app.domain.states import CommandType, State
from tests.domain.cases import NOON, POLICY, appointment, command, snapshot

C = CommandType
LIMITS = {
    C.SCHEDULE: timedelta(minutes=120),
    C.RESCHEDULE: timedelta(minutes=120),
    C.CANCEL: timedelta(minutes=120),
    C.FOLLOW_UP: timedelta(hours=24),
    C.TAKEOVER: timedelta(hours=24),
    C.D1_CONFIRMATION: timedelta(days=2) - timedelta(minutes=30),
}
TICK = timedelta(microseconds=1)


@pytest.mark.story("S-PC-02-001")
@pytest.mark.parametrize(("kind", "limit"), LIMITS.items())
def test_exactly_at_the_limit_is_valid_and_a_moment_later_is_expired(kind: CommandType, limit: timedelta) -> None:
    cmd, facts = command(kind), snapshot(kind)
    assert ttl_limit(cmd, facts.appointment, POLICY) == limit
    at_limit = check_ttl(cmd, facts, NOON + limit, POLICY)
    assert (at_limit.state, at_limit.reason, at_limit.passed) == (State.TTL_VALID_READY_FOR_REPLAY, Reason.TTL_VALID, True)
    past = check_ttl(cmd, facts, NOON + limit + TICK, POLICY)
    assert (past.state, past.reason, past.passed) == (State.EXPIRED_MANUAL, Reason.TTL_EXPIRED, False)
    assert at_limit.event_age_s == at_limit.ttl_limit_s == limit.total_seconds()


@pytest.mark.story("S-PC-02-001")
def test_a_type_without_a_time_limit_is_an_unknown_intent() -> None:
    policy = GatePolicy(replay_ttl={})
    answer = check_ttl(command(C.FOLLOW_UP), snapshot(C.FOLLOW_UP), NOON, policy)
    assert (answer.state, answer.reason, answer.ttl_limit_s) == (State.INVALID_EVENT_MANUAL, Reason.UNKNOWN_INTENT, None)
    assert [f.state for f in fence(command(C.FOLLOW_UP), snapshot(C.FOLLOW_UP), NOON, policy)] == [State.INVALID_EVENT_MANUAL]


def test_a_day_before_confirmation_whose_appointment_is_gone_stops_at_the_second_fence() -> None:
    cmd, facts = command(C.D1_CONFIRMATION), snapshot(C.D1_CONFIRMATION, appointment=None)
    assert ttl_limit(cmd, None, POLICY) is None
    fences = fence(cmd, facts, NOON, POLICY)
    assert [f.state for f in fences] == [State.TTL_VALID_READY_FOR_REPLAY, State.CONFLICT_BLOCKED]
    assert fences[1].reason == Reason.ENTITY_MISSING


@pytest.mark.story("S-PC-02-002")
def test_a_dry_run_sees_both_fences_passed() -> None:
    fences = fence(command(), snapshot(), NOON, POLICY)
    assert [(f.state, f.passed) for f in fences] == [
        (State.TTL_VALID_READY_FOR_REPLAY, True),
        (State.VERSION_MATCH_READY_FOR_REPLAY, True),
    ]


def test_ttl_comes_before_versions() -> None:
    fences = fence(command(), snapshot(conversation_version=99), NOON + timedelta(hours=3), POLICY)
    assert [f.state for f in fences] == [State.EXPIRED_MANUAL]


@pytest.mark.story("S-PC-02-002")
def test_as_of_may_equal_the_entitys_but_not_be_older() -> None:
    facts = snapshot(appointment=appointment(as_of=NOON))
    assert check_versions(command(as_of=NOON), facts).passed
    stale = check_versions(command(as_of=NOON - TICK), facts)
    assert (stale.state, stale.reason, stale.expected_version, stale.event_version) == (
        State.CONFLICT_BLOCKED,
        Reason.AS_OF_STALE,
        2,
        2,
    )
    assert not check_versions(command(as_of=None), facts).passed


def test_as_of_of_a_schedule_has_no_entity_to_be_older_than() -> None:
    assert check_versions(command(C.SCHEDULE, as_of=NOON - timedelta(days=9)), snapshot(C.SCHEDULE)).passed


def test_a_version_that_moved_is_named_with_both_numbers() -> None:
    answer = check_versions(command(), snapshot(appointment=appointment(version=5)))
    assert (answer.reason, answer.expected_version, answer.event_version) == (Reason.ENTITY_VERSION_STALE, 5, 2)


def test_a_request_for_a_person_with_a_version_is_held_to_it() -> None:
    assert not check_versions(command(C.TAKEOVER, conversation_version=6), snapshot(C.TAKEOVER)).passed
    assert check_versions(command(C.TAKEOVER, conversation_version=None), snapshot(C.TAKEOVER)).passed


def test_age_needs_a_timestamp() -> None:
    assert age(command(), NOON + timedelta(seconds=5)) == timedelta(seconds=5)
    with pytest.raises(ValueError, match="occurred_at"):
        age(command(occurred_at=None), NOON)
    assert ttl_limit(command(C.D1_CONFIRMATION, occurred_at=None), appointment(), POLICY) is None


def test_lateness_begins_after_the_policys_minute() -> None:
    assert not is_late(command(), NOON + timedelta(seconds=60), POLICY)
    assert is_late(command(), NOON + timedelta(seconds=60) + TICK, POLICY)
    assert not is_late(command(), NOON + timedelta(minutes=5), GatePolicy(late_after=timedelta(minutes=10)))
