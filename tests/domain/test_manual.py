"""The manual queue's own rules: who can do what to a task when, and how it may end."""

from datetime import timedelta

import pytest

from app.domain.manual import (
    OFFERED,
    TRANSITIONS,
    Outcome,
    Tab,
    TaskAct,
    TaskStatus,
    causes_of,
    due_after,
    is_outcome,
    step,
    tab_of,
)


@pytest.mark.parametrize("status", TaskStatus)
@pytest.mark.parametrize("act", TaskAct)
def test_every_cell_of_the_table(status: TaskStatus, act: TaskAct) -> None:
    assert step(status, act) == TRANSITIONS.get((status, act))


def test_a_closed_task_is_only_opened_again() -> None:
    assert [act for act in TaskAct if step(TaskStatus.RESOLVED, act)] == [TaskAct.REOPEN]


def test_what_a_command_did_is_no_outcome_that_somebody_may_claim() -> None:
    assert Outcome.APPLIED_BY_COMMAND not in OFFERED
    assert all(is_outcome(o) for o in OFFERED)
    assert not is_outcome(Outcome.APPLIED_BY_COMMAND)


@pytest.mark.parametrize(
    ("code", "good"), [("called_twice", True), ("", False), ("Done", False), ("x" * 41, False), ("a b", False)]
)
def test_a_program_may_have_an_outcome_of_its_own(code: str, good: bool) -> None:
    assert is_outcome(code) is good


def test_each_cause_has_one_tab_and_an_unnamed_one_is_among_the_others() -> None:
    assert tab_of("expired_manual") is Tab.EXPIRED
    assert tab_of("something_new") is Tab.OTHER
    assert causes_of(Tab.OTHER) == ()
    assert all(tab_of(cause) is tab for tab in Tab for cause in causes_of(tab))


def test_the_more_urgent_the_request_the_sooner_its_task_is_due() -> None:
    assert [due_after(rank) for rank in (-1, 0, 1, 2, 3, 9)] == [timedelta(minutes=m) for m in (5, 5, 15, 30, 60, 60)]
