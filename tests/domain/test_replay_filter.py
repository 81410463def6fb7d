"""Filters of replay batches: read strictly, never empty, with a range that is frozen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.replay_filter import VALUES_MAX, ReplayFilter, read_filter

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def read(raw: dict[str, Any]) -> ReplayFilter:
    found, errors = read_filter(raw, NOON)
    assert errors == []
    assert found is not None
    return found


def faults(raw: dict[str, Any]) -> list[str]:
    found, errors = read_filter(raw, NOON)
    assert found is None
    return [e.pointer for e in errors]


def test_the_range_ends_now_at_the_latest() -> None:
    assert read({"intent": "cancel"}).to_at == NOON
    assert read({"to": "2026-11-24T00:00:00Z"}).to_at == NOON
    assert read({"to": "2026-11-23T09:00:00-03:00", "from": "2026-11-23T11:00:00Z"}) == ReplayFilter(
        from_at=NOON - timedelta(hours=1), to_at=NOON
    )


def test_one_value_or_several_each_once() -> None:
    found = read({"intent": "cancel", "priority": ["new_lead", "new_lead"], "contact_id": ["a", "b"], "command_id": "x"})
    assert (found.intents, found.priorities, found.contacts, found.commands) == (("cancel",), ("new_lead",), ("a", "b"), ("x",))
    assert found.document() == {
        "intent": ["cancel"],
        "priority": ["new_lead"],
        "contact_id": ["a", "b"],
        "command_id": ["x"],
        "to": NOON,
    }
    assert read({"from": "2026-11-23T11:00:00Z"}).document() == {"from": NOON - timedelta(hours=1), "to": NOON}


@pytest.mark.parametrize("raw", [{}, {"intent": []}, {"intent": "", "from": None}, {"tenant_id": ""}, {"tenant_id": None}])
def test_an_empty_filter_is_refused(raw: dict[str, Any]) -> None:
    assert faults(raw) == ["/filter"]


def test_a_clinic_is_enough_when_it_is_named() -> None:
    assert read({"tenant_id": "sol"}) == ReplayFilter(to_at=NOON)


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ({"intent": 3}, "/filter/intent"),
        ({"state": "applied_once"}, "/filter/state"),
        ({"contact_id": "x" * 201}, "/filter/contact_id"),
        ({"contact_id": ["x"] * (VALUES_MAX + 1)}, "/filter/contact_id"),
        ({"from": 5, "intent": "cancel"}, "/filter/from"),
        ({"from": "2026-11-23T12:00:01Z"}, "/filter/from"),
        ({"intent": "cancel", "mood": "good"}, "/filter/mood"),
    ],
)
def test_what_cannot_be_used_is_named(raw: dict[str, Any], pointer: str) -> None:
    assert faults(raw) == [pointer]
