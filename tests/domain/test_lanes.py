"""Which lane is next: classes, ageing, fairness between tenants; and which place in a lane a new command gets."""

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.lanes import GAP_MAX, LaneCandidate, LanePolicy, accept_order, effective_rank, rank
from app.domain.reasons import Reason
from app.domain.states import State
from tests.domain.cases import NOON

SECOND = timedelta(seconds=1)


def lane(tenant: str, contact: str, best: int, waited_s: float = 0) -> LaneCandidate:
    return LaneCandidate(tenant_id=tenant, contact_id=contact, best_rank=best, ready_since=NOON - timedelta(seconds=waited_s))


def served(*lanes: LaneCandidate, limit: int | None = None, policy: LanePolicy | None = None) -> list[str]:
    return [c.contact_id for c in rank(lanes, NOON, limit=limit, policy=policy or LanePolicy())]


@pytest.mark.story("S-PC-01-001")
def test_the_highest_class_is_served_first_and_inside_a_class_the_oldest() -> None:
    lanes = [lane("t", "follow", 3), lane("t", "lead-new", 2, 1), lane("t", "lead-old", 2, 9), lane("t", "urgent", 0)]
    assert served(*lanes) == ["urgent", "lead-old", "lead-new", "follow"]


def test_every_full_step_of_waiting_lifts_a_lane_by_one_class_up_to_the_highest() -> None:
    ranks = [effective_rank(lane("t", "c", 3, s), NOON) for s in (0, 119, 120, 240, 360, 86_400)]
    assert ranks == [3, 3, 2, 1, 0, 0]


def test_a_lane_that_begins_in_the_future_is_not_pushed_back() -> None:
    assert effective_rank(lane("t", "c", 1, -500), NOON) == 1


def test_an_aged_lane_overtakes_a_fresh_urgent_one() -> None:
    assert served(lane("t", "urgent", 0), lane("t", "aged", 3, 361)) == ["aged", "urgent"]


def test_tenants_take_turns_inside_a_class_and_the_longest_waiting_begins() -> None:
    noisy = [lane("noisy", f"n{i}", 2, 50 - i) for i in range(5)]
    quiet = [lane("quiet", f"q{i}", 2, 10 - i) for i in range(2)]
    assert served(*noisy, *quiet) == ["n0", "q0", "n1", "q1", "n2", "n3", "n4"]


@pytest.mark.story("S-PC-01-001")
def test_a_flood_of_one_tenant_holds_up_another_for_a_few_bursts_at_most() -> None:
    flood = [lane("noisy", f"n{i:04}", i % 4, 3_600) for i in range(4_000)]
    order = served(*flood, lane("quiet", "q", 3), limit=128)
    assert "q" in order
    urgent_flood = [lane("noisy", f"n{i:04}", 0) for i in range(4_000)]
    assert "q" in served(*urgent_flood, lane("quiet", "q", 2), limit=128)


def test_the_limit_cuts_the_end_and_equal_lanes_keep_one_order() -> None:
    lanes = [lane(t, c, 1) for t in ("b", "a") for c in ("y", "x")]
    assert [(c.tenant_id, c.contact_id) for c in rank(lanes, NOON, limit=3)] == [("a", "x"), ("b", "x"), ("a", "y")]
    assert rank(reversed(lanes), NOON) == rank(lanes, NOON)
    assert rank([], NOON) == []
    assert rank(lanes, NOON, limit=0) == []


candidates = st.lists(
    st.builds(
        lane,
        st.sampled_from(["t1", "t2", "t3"]),
        st.text("abcdefgh", min_size=6, max_size=6),
        st.integers(0, 3),
        st.integers(0, 1_000),
    ),
    unique_by=lambda c: (c.tenant_id, c.contact_id),
    max_size=60,
)


@given(lanes=candidates)
def test_ranking_loses_and_invents_no_lane(lanes: list[LaneCandidate]) -> None:
    assert Counter(rank(lanes, NOON)) == Counter(lanes)


@given(lanes=candidates)
def test_inside_one_tenant_class_and_age_alone_decide(lanes: list[LaneCandidate]) -> None:
    ranked = rank(lanes, NOON)
    for tenant in ("t1", "t2", "t3"):
        keys = [(effective_rank(c, NOON), c.ready_since) for c in ranked if c.tenant_id == tenant]
        assert keys == sorted(keys)


@given(lanes=candidates)
def test_inside_a_class_no_tenant_gets_two_turns_more_than_another_that_waits(lanes: list[LaneCandidate]) -> None:
    policy = LanePolicy(burst=1_000)
    for wanted in range(4):
        order = [c.tenant_id for c in rank(lanes, NOON, policy=policy) if effective_rank(c, NOON, policy) == wanted]
        total = Counter(order)
        seen: Counter[str] = Counter()
        for tenant in order:
            seen[tenant] += 1
            waiting = [t for t in total if seen[t] < total[t]]
            assert all(seen[tenant] - seen[t] <= 1 for t in waiting)


@pytest.mark.story("S-PC-01-001")
@given(pressure=st.lists(st.tuples(st.sampled_from(["t1", "t2", "t3"]), st.integers(0, 3)), min_size=1, max_size=6))
def test_no_lane_starves_however_many_urgent_ones_keep_coming(pressure: list[tuple[str, int]]) -> None:
    """One lane is served a second while more arrive than are served: an old low lane is still reached."""
    policy = LanePolicy(age_step=timedelta(seconds=10), burst=4)
    waiting = [LaneCandidate(tenant_id="t0", contact_id="patient-one", best_rank=3, ready_since=NOON)]
    now = NOON
    for step in range(60):
        waiting += [
            LaneCandidate(tenant_id=t, contact_id=f"{step}-{i}", best_rank=best, ready_since=now)
            for i, (t, best) in enumerate(pressure)
        ]
        first = rank(waiting, now, limit=1, policy=policy)[0]
        if first.contact_id == "patient-one":
            return
        waiting.remove(first)
        now += SECOND
    raise AssertionError("the lane was never served")


# --- acceptance ---------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-001")
@pytest.mark.parametrize(
    ("given_order", "taken", "state", "number", "reason"),
    [
        (None, (), State.QUEUED_FOR_DISPATCH, 11, None),
        (11, (), State.QUEUED_FOR_DISPATCH, 11, None),
        (8, (7, 9, 10), State.QUEUED_FOR_DISPATCH, 8, None),
        (9, (7, 9, 10), State.BLOCKED_CONFLICT, None, Reason.COMMIT_ORDER_TAKEN),
        (6, (), State.BLOCKED_COMMIT_ORDER_VIOLATION, None, Reason.COMMIT_ORDER_PASSED),
        (1, (), State.BLOCKED_COMMIT_ORDER_VIOLATION, None, Reason.COMMIT_ORDER_PASSED),
        (4, (4,), State.BLOCKED_COMMIT_ORDER_VIOLATION, None, Reason.COMMIT_ORDER_PASSED),
        (10 + GAP_MAX, (), State.QUEUED_FOR_DISPATCH, 10 + GAP_MAX, None),
        (11 + GAP_MAX, (), State.INVALID_PAYLOAD_MANUAL, None, Reason.COMMIT_ORDER_TOO_FAR),
    ],
)
def test_a_place_in_the_lane_is_given_once_and_never_behind_what_is_committed(
    given_order: int | None, taken: tuple[int, ...], state: State, number: int | None, reason: str | None
) -> None:
    answer = accept_order(given=given_order, last_assigned=10, last_committed=6, taken=taken)
    assert (answer.state, answer.number, answer.reason) == (state, number, reason)


@given(orders=st.lists(st.one_of(st.none(), st.integers(1, 30)), max_size=40))
def test_accepted_numbers_are_unique_and_above_what_is_committed(orders: list[int | None]) -> None:
    taken: set[int] = set()
    last = 3
    for given_order in orders:
        answer = accept_order(given=given_order, last_assigned=last, last_committed=3, taken=taken)
        assert (answer.number is None) == (answer.state is not State.QUEUED_FOR_DISPATCH)
        if answer.number is not None:
            assert answer.number not in taken
            assert answer.number > 3
            taken.add(answer.number)
            last = max(last, answer.number)
