"""Overlap and free alternatives in one therapist's agenda. Intervals are half-open: [start, end)."""

from collections.abc import Iterable
from datetime import datetime

from app.domain.facts import Appointment, SlotConflict
from app.domain.states import AppointmentStatus

ALTERNATIVES_MAX = 3


def slot_conflict(
    booked: Iterable[Appointment], start_at: datetime, end_at: datetime, *, ignore: str | None, now: datetime
) -> SlotConflict | None:
    """The appointment in the way of [start_at, end_at), with the nearest free starts; None when the slot is free.

    `ignore` is the appointment that is being moved: it never stands in its own way.
    """
    active = sorted(
        (a for a in booked if a.status is not AppointmentStatus.CANCELLED and a.appointment_id != ignore),
        key=lambda a: (a.start_at, a.appointment_id),
    )
    holder = next((a for a in active if a.start_at < end_at and a.end_at > start_at), None)
    if holder is None:
        return None
    return SlotConflict(appointment_id=holder.appointment_id, alternatives=_alternatives(active, start_at, end_at, now))


def _alternatives(active: list[Appointment], start_at: datetime, end_at: datetime, now: datetime) -> tuple[datetime, ...]:
    """Nearest free starts: next to what is booked around the wanted slot, never in the past, same day only."""
    length = end_at - start_at
    starts = {a.end_at for a in active} | {a.start_at - length for a in active}
    free = [
        s
        for s in starts
        if s > now and abs(s - start_at) <= 4 * length and not any(a.start_at < s + length and a.end_at > s for a in active)
    ]
    return tuple(sorted(sorted(free, key=lambda s: (abs(s - start_at), s))[:ALTERNATIVES_MAX]))
