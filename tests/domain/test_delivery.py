"""What attempts and provider statuses mean."""

from itertools import permutations

import pytest

from app.domain.delivery import DELIVERY_RANK, REPEATABLE_KINDS, OutboxStatus, Outcome, after_attempt, furthest


@pytest.mark.parametrize(
    ("kind", "outcome", "attempts", "status"),
    [
        ("family_message", Outcome.SENT, 1, OutboxStatus.SENT),
        ("family_message", Outcome.FAILED, 1, OutboxStatus.PENDING),
        ("family_message", Outcome.FAILED, 3, OutboxStatus.DEAD),
        ("family_message", Outcome.REJECTED, 1, OutboxStatus.FAILED),
        ("family_message", Outcome.UNKNOWN, 1, OutboxStatus.UNKNOWN),
        ("webhook", Outcome.UNKNOWN, 1, OutboxStatus.PENDING),
        ("webhook", Outcome.UNKNOWN, 3, OutboxStatus.DEAD),
        ("webhook", Outcome.FAILED, 2, OutboxStatus.PENDING),
        ("webhook", Outcome.REJECTED, 1, OutboxStatus.FAILED),
        ("notice", Outcome.UNKNOWN, 2, OutboxStatus.PENDING),
    ],
)
def test_the_next_status_of_a_delivery(kind: str, outcome: Outcome, attempts: int, status: OutboxStatus) -> None:
    assert after_attempt(kind, outcome, attempts, 3) is status


@pytest.mark.parametrize("kind", ["family_message", "contingency_message", "a_kind_of_tomorrow"])
def test_only_kinds_that_are_named_may_ever_be_repeated_after_an_unknown_outcome(kind: str) -> None:
    assert kind not in REPEATABLE_KINDS
    assert all(after_attempt(kind, Outcome.UNKNOWN, n, 9) is OutboxStatus.UNKNOWN for n in range(1, 12))


def test_the_summary_is_the_same_in_whatever_order_statuses_arrive() -> None:
    for order in permutations(DELIVERY_RANK):
        summary = None
        ranks = []
        for status in order:
            summary = furthest(summary, status)
            assert summary is not None
            ranks.append(DELIVERY_RANK[summary])
        assert summary == "played"
        assert ranks == sorted(ranks)


def test_a_proof_of_arrival_outranks_a_failure_and_unknown_words_change_nothing() -> None:
    assert furthest("failed", "delivered") == "delivered"
    assert furthest("delivered", "failed") == "delivered"
    assert furthest("sent", "failed") == "failed"
    assert furthest("read", "typing") == "read"
    assert furthest(None, "typing") is None
    assert furthest(None) is None
