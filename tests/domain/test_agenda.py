"""Overlap in one therapist's agenda, and free times nearby."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.agenda import ALTERNATIVES_MAX, slot_conflict
from app.domain.facts import Appointment
from app.domain.states import AppointmentStatus
from tests.domain.cases import NOON, appointment

TEN = datetime(2026, 12, 1, 13, 0, tzinfo=UTC)
LENGTH = timedelta(minutes=50)


def booked(number: int, start_at: datetime, status: AppointmentStatus = AppointmentStatus.SCHEDULED) -> Appointment:
    return appointment(appointment_id=f"a-{number}", start_at=start_at, end_at=start_at + LENGTH, status=status)


@pytest.mark.parametrize(("shift_min", "taken"), [(-50, False), (-49, True), (0, True), (49, True), (50, False)])
def test_slots_that_touch_do_not_overlap(shift_min: int, taken: bool) -> None:
    conflict = slot_conflict(
        [booked(1, TEN)], TEN + timedelta(minutes=shift_min), TEN + timedelta(minutes=shift_min) + LENGTH, ignore=None, now=NOON
    )
    assert (conflict is not None) is taken


def test_a_cancelled_appointment_and_the_one_being_moved_are_not_in_the_way() -> None:
    column = [booked(1, TEN, AppointmentStatus.CANCELLED), booked(2, TEN)]
    assert slot_conflict(column, TEN, TEN + LENGTH, ignore="a-2", now=NOON) is None
    held = slot_conflict(column, TEN, TEN + LENGTH, ignore=None, now=NOON)
    assert held is not None
    assert held.appointment_id == "a-2"


def test_the_nearest_free_times_are_named_in_order() -> None:
    held = slot_conflict([booked(1, TEN), booked(2, TEN + LENGTH)], TEN, TEN + LENGTH, ignore=None, now=NOON)
    assert held is not None
    assert held.alternatives == (TEN - LENGTH, TEN + 2 * LENGTH)


def test_a_time_in_the_past_is_no_alternative() -> None:
    held = slot_conflict([booked(1, TEN)], TEN, TEN + LENGTH, ignore=None, now=TEN - timedelta(minutes=10))
    assert held is not None
    assert held.alternatives == (TEN + LENGTH,)


@given(starts=st.lists(st.integers(0, 600), max_size=8), wanted=st.integers(0, 600))
def test_every_alternative_is_really_free(starts: list[int], wanted: int) -> None:
    column = [booked(i, TEN + timedelta(minutes=m)) for i, m in enumerate(starts)]
    start_at = TEN + timedelta(minutes=wanted)
    conflict = slot_conflict(column, start_at, start_at + LENGTH, ignore=None, now=NOON)
    assert (conflict is None) == all(abs(m - wanted) >= 50 for m in starts)
    if conflict is not None:
        assert len(conflict.alternatives) <= ALTERNATIVES_MAX
        for free in conflict.alternatives:
            assert slot_conflict(column, free, free + LENGTH, ignore=None, now=NOON) is None
