"""Safe mode: every cell of its table, and an exit that needs all four gates."""

from dataclasses import fields, replace
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.green_window import Window, WindowPolicy
from app.domain.safe_mode import (
    TRANSITIONS,
    Checklist,
    ContingencyResult,
    DrainPolicy,
    ExitAnswer,
    Gates,
    ModeEvent,
    SafeModeResult,
    activation_retry_s,
    attempt_exit,
    contingency_result,
    drain_allowance,
    is_reentry,
    missing,
    on_reset,
    step,
)
from app.domain.states import ModeState
from tests.domain.cases import NOON

S, E, R = ModeState, ModeEvent, SafeModeResult
TABLE = {
    S.NORMAL: {E.ENTER: S.SAFE_MODE_ACTIVE},
    S.SAFE_MODE_ACTIVE: {E.ENTER: S.SAFE_MODE_ACTIVE, E.GATES_COMPLETE: S.RECOVERING},
    S.RECOVERING: {E.ENTER: S.SAFE_MODE_ACTIVE, E.HEALTH_RED: S.SAFE_MODE_ACTIVE, E.WINDOW_GREEN: S.DRAINING},
    S.DRAINING: {E.ENTER: S.SAFE_MODE_ACTIVE, E.HEALTH_RED: S.SAFE_MODE_ACTIVE, E.DRAINED: S.NORMAL},
}
POLICY = WindowPolicy()
GREEN = Window(green_since=NOON - timedelta(minutes=10), last_at=NOON)
DONE = Gates(
    acks={"a-1": True, "a-2": True},
    recovery_action="Redis reiniciado",
    recovery_by="user:ana",
    runbook_step="redis-3",
    checklist=Checklist(ack_validated=True, recovery_action_logged=True, ops_notified=True, ticket_in_recovery=True),
)


@pytest.mark.story("S-PC-03-002")
@pytest.mark.parametrize(("state", "event"), list(product(S, E)))
def test_every_cell_of_the_table(state: ModeState, event: ModeEvent) -> None:
    assert step(state, event) is TABLE[state].get(event)
    assert is_reentry(state, event) is (state in (S.RECOVERING, S.DRAINING) and event in (E.ENTER, E.HEALTH_RED))


@given(events=st.lists(st.sampled_from(E), max_size=30))
def test_whatever_happens_safe_mode_is_left_only_through_gates_window_and_drain(events: list[ModeEvent]) -> None:
    state, taken = S.SAFE_MODE_ACTIVE, []
    for event in events:
        after = step(state, event)
        if after is not None:
            state = after
            taken.append(event)
        if state is S.NORMAL:
            assert taken[-3:] == [E.GATES_COMPLETE, E.WINDOW_GREEN, E.DRAINED]
            return


def test_the_table_names_known_states_only() -> None:
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(S)


@pytest.mark.story("S-PC-03-004")
def test_every_missing_gate_is_named() -> None:
    assert missing(DONE) == ()
    assert missing(replace(DONE, acks={"a-2": False, "a-1": False})) == ("ack:a-1", "ack:a-2")
    assert missing(replace(DONE, recovery_action="", runbook_step=None)) == ("recovery_action", "runbook_step")
    names = tuple(f.name for f in fields(Checklist))
    assert missing(replace(DONE, checklist=Checklist())) == names
    assert names == ("ack_validated", "recovery_action_logged", "ops_notified", "ticket_in_recovery")


@pytest.mark.story("S-PC-03-004")
@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize(
    "gates",
    [
        replace(DONE, acks={"a-1": False}),
        replace(DONE, recovery_action=None),
        replace(DONE, recovery_by=None),
        replace(DONE, checklist=replace(DONE.checklist, ops_notified=False)),
    ],
)
def test_without_all_gates_the_exit_is_denied_however_green_it_is(state: ModeState, gates: Gates) -> None:
    answer = attempt_exit(state, gates, GREEN, NOON, POLICY)
    assert (answer.result, answer.event) == (R.SAFE_MODE_EXIT_DENIED_MISSING_CHECKLIST, None)
    assert answer.missing


@pytest.mark.story("S-PC-03-004")
def test_with_the_gates_the_window_decides() -> None:
    short = replace(GREEN, green_since=NOON - timedelta(minutes=9, seconds=59))
    assert attempt_exit(S.SAFE_MODE_ACTIVE, DONE, GREEN, NOON, POLICY) == ExitAnswer(result=None, event=E.GATES_COMPLETE)
    assert attempt_exit(S.RECOVERING, DONE, short, NOON, POLICY) == ExitAnswer(result=None)
    assert attempt_exit(S.RECOVERING, DONE, GREEN, NOON, POLICY) == ExitAnswer(
        result=R.SAFE_MODE_EXIT_COMPLETED, event=E.WINDOW_GREEN
    )
    assert attempt_exit(S.RECOVERING, DONE, GREEN, NOON + timedelta(seconds=31), POLICY).result is None
    assert attempt_exit(S.NORMAL, DONE, GREEN, NOON, POLICY) == ExitAnswer(result=None)


@pytest.mark.story("S-PC-03-004")
def test_a_red_check_aborts_a_recovery_and_throws_a_drain_back() -> None:
    reset = Window(reset_by="redis", reset_at=NOON)
    assert on_reset(S.RECOVERING, reset, ["redis", "disk"]) == ExitAnswer(
        result=R.SAFE_MODE_EXIT_ABORTED_HEALTH_UNSTABLE, event=E.HEALTH_RED, reason="redis, disk"
    )
    assert on_reset(S.DRAINING, reset, []) == ExitAnswer(result=None, event=E.HEALTH_RED, reason="redis")
    assert on_reset(S.SAFE_MODE_ACTIVE, reset, ["redis"]).event is None
    assert on_reset(S.NORMAL, reset, ["redis"]).event is None


@pytest.mark.story("S-PC-03-002")
def test_a_failed_activation_is_retried_ever_more_slowly_and_never_given_up() -> None:
    assert [activation_retry_s(n) for n in (1, 2, 3, 4, 5, 6, 7, 1_000)] == [1, 2, 5, 10, 30, 60, 60, 60]


@pytest.mark.story("S-PC-03-003")
def test_the_ticket_counts_more_than_the_message() -> None:
    result = ContingencyResult
    assert contingency_result(message_sent=True, ticket_opened=True) is result.CONTINGENCY_MESSAGE_SENT_TICKET_OPENED
    assert contingency_result(message_sent=False, ticket_opened=True) is result.CONTINGENCY_MESSAGE_FAILED_TICKET_OPENED
    assert contingency_result(message_sent=True, ticket_opened=False) is result.TICKET_OPEN_FAILED_ALERTED


@pytest.mark.parametrize(("seconds", "lanes"), [(-5, 0), (0, 0), (1.9, 1), (10, 10), (3_600, 20)])
def test_lanes_leave_at_their_rate_and_a_pause_earns_no_more_than_a_burst(seconds: float, lanes: int) -> None:
    assert drain_allowance(NOON, NOON + timedelta(seconds=seconds), DrainPolicy()) == lanes
