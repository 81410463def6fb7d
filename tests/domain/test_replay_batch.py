"""Replay batches: every cell of the table, how items end, and whose turn it is."""

from datetime import UTC, datetime, timedelta

import pytest

from app.domain.replay_batch import (
    RESULTS,
    TRANSITIONS,
    BatchAct,
    BatchStatus,
    Family,
    ItemState,
    Step,
    is_fresh,
    is_surprise,
    item_result,
    may_go,
    order_families,
    step,
)
from app.domain.states import PENDING, State

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
S, A = BatchStatus, BatchAct
EXPECTED = {
    S.PLANNED: {A.RUN: S.RUNNING, A.CANCEL: S.CANCELLED},
    S.RUNNING: {A.PAUSE: S.PAUSED, A.CANCEL: S.CANCELLED, A.COMPLETE: S.FINISHED},
    S.PAUSED: {A.RESUME: S.RUNNING, A.CANCEL: S.CANCELLED},
    S.CANCELLED: {},
    S.FINISHED: {},
}


@pytest.mark.parametrize("status", S)
@pytest.mark.parametrize("act", A)
def test_every_cell_of_the_table(status: BatchStatus, act: BatchAct) -> None:
    assert step(status, act) == EXPECTED[status].get(act)
    assert ((status, act) in TRANSITIONS) is (act in EXPECTED[status])


@pytest.mark.parametrize(
    ("age", "fresh"),
    [
        (timedelta(0), True),
        (timedelta(minutes=10), True),
        (timedelta(minutes=10, microseconds=1), False),
        (timedelta(seconds=-1), False),
    ],
)
def test_a_dry_run_is_good_for_ten_minutes(age: timedelta, fresh: bool) -> None:
    assert is_fresh(NOON, NOON + age) is fresh


@pytest.mark.story("S-PC-02-003")
@pytest.mark.parametrize("state", [s for s in State if s not in PENDING])
def test_whatever_the_gate_says_an_item_ends_in_one_of_four_results(state: State) -> None:
    special = {
        State.APPLIED_ONCE: State.REPLAYED,
        State.REPLAYED: State.REPLAYED,
        State.EXPIRED_MANUAL: State.EXPIRED_MANUAL,
        State.CONFLICT_BLOCKED: State.CONFLICT_BLOCKED,
        State.VERSION_CONFLICT_BLOCKED: State.CONFLICT_BLOCKED,
    }
    assert item_result(state) == special.get(state, State.MANUAL_REVIEW_REQUIRED)
    assert item_result(state) in RESULTS


@pytest.mark.parametrize(
    ("predicted", "actual", "surprise"),
    [
        (State.REPLAYED, State.REPLAYED, False),
        (State.REPLAYED, State.APPLIED_ONCE, False),
        (State.REPLAYED, State.EXPIRED_MANUAL, True),
        (State.EXPIRED_MANUAL, State.EXPIRED_MANUAL, False),
        (State.CONFLICT_BLOCKED, State.REPLAYED, True),
        (State.BLOCKED_UNCONFIRMED, State.BLOCKED_GUARDIAN_DENIED, True),
    ],
)
def test_a_surprise_is_another_end_than_the_one_foreseen(predicted: State, actual: State, surprise: bool) -> None:
    assert is_surprise(predicted, actual) is surprise


def item(n: int, contact: str, state: ItemState = ItemState.PLANNED, *agenda: str) -> Step:
    return Step(n=n, contact_id=contact, state=state, agenda=frozenset(agenda))


def test_one_item_of_each_contact_at_a_time() -> None:
    assert may_go([item(1, "a"), item(2, "a"), item(3, "b")]) == [1, 3]
    assert may_go([item(1, "a", ItemState.DONE), item(2, "a", ItemState.PLACED), item(3, "b", ItemState.CANCELLED)]) == [2]
    assert may_go([item(1, "a", ItemState.RELEASED), item(2, "a"), item(3, "b")]) == [3]


def test_items_at_one_agenda_go_in_the_order_of_the_plan() -> None:
    steps = [
        item(1, "a", ItemState.PLANNED, "t:ana"),
        item(2, "b", ItemState.PLANNED, "t:ana"),
        item(3, "c", ItemState.PLANNED, "t:rui"),
    ]
    assert may_go(steps) == [1, 3]
    released = item(1, "a", ItemState.RELEASED, "t:ana")
    assert may_go([released, *steps[1:]]) == [3]
    assert may_go([item(1, "a", ItemState.DONE, "t:ana"), *steps[1:]]) == [2, 3]


def test_the_most_urgent_families_come_first_and_the_oldest_among_equals() -> None:
    families = [
        Family(contact_id="old", rank=2, since=NOON - timedelta(hours=1)),
        Family(contact_id="urgent", rank=0, since=NOON),
        Family(contact_id="young", rank=2, since=NOON),
        Family(contact_id="also", rank=2, since=NOON),
    ]
    assert order_families(families) == ["urgent", "old", "also", "young"]
