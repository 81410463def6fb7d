"""Opening hours: shifts, holidays, weekends and clock changes, all as UTC."""

from datetime import UTC, date, datetime, time, timedelta

import pytest

from app.domain.business_hours import Hours

SP = Hours()
"""Monday to Friday 08:00-18:00 in São Paulo (UTC-3)."""
BREAK = Hours(week=dict.fromkeys(range(5), ((time(13), time(18)), (time(8), time(12)))))
NEW_YORK = Hours(timezone="America/New_York", week=dict.fromkeys(range(7), ((time(1), time(10)),)))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


MONDAY = "2026-11-23T"


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        (MONDAY + "10:59", False),
        (MONDAY + "11:00", True),
        (MONDAY + "20:59", True),
        (MONDAY + "21:00", False),
        ("2026-11-22T15:00", False),
    ],
)
def test_a_shift_is_open_from_its_start_and_closed_at_its_end(moment: str, is_open: bool) -> None:
    assert SP.is_open(utc(moment)) is is_open


def test_the_next_opening_is_now_when_open_and_skips_weekends_and_holidays() -> None:
    assert SP.next_opening(utc(MONDAY + "15:00")) == utc(MONDAY + "15:00")
    assert SP.next_opening(utc("2026-11-20T21:00")) == utc(MONDAY + "11:00")
    closed = Hours(holidays=frozenset({date(2026, 11, 23)}))
    assert closed.next_opening(utc("2026-11-20T21:00")) == utc("2026-11-24T11:00")
    assert Hours(week={}).next_opening(utc(MONDAY + "15:00")) is None


def test_the_day_opens_with_its_first_shift() -> None:
    assert BREAK.opening_of(date(2026, 11, 23)) == utc(MONDAY + "11:00")
    assert BREAK.opening_of(date(2026, 11, 22)) is None


def test_open_time_is_carried_over_breaks_and_nights() -> None:
    assert SP.add_open_time(utc(MONDAY + "20:55"), timedelta(minutes=15)) == utc("2026-11-24T11:10")
    assert SP.add_open_time(utc(MONDAY + "20:45"), timedelta(minutes=15)) == utc(MONDAY + "21:00")
    assert BREAK.add_open_time(utc(MONDAY + "14:50"), timedelta(minutes=15)) == utc(MONDAY + "16:05")
    assert Hours(week={}).add_open_time(utc(MONDAY + "15:00"), timedelta(minutes=1)) is None


def test_a_clock_change_makes_the_day_an_hour_shorter_or_longer() -> None:
    def open_for(day: date) -> timedelta:
        ((start_at, end_at),) = NEW_YORK.shifts(day)
        return end_at - start_at

    assert open_for(date(2026, 3, 7)) == timedelta(hours=9)
    assert open_for(date(2026, 3, 8)) == timedelta(hours=8)
    assert open_for(date(2026, 11, 1)) == timedelta(hours=10)


def test_a_wall_time_that_the_clock_change_skips_is_still_one_moment() -> None:
    assert NEW_YORK.at(date(2026, 3, 8), time(2, 30)) == utc("2026-03-08T07:30")
    assert NEW_YORK.at(date(2026, 11, 1), time(1, 30)) == utc("2026-11-01T05:30")


def test_a_shift_over_midnight_is_refused() -> None:
    with pytest.raises(ValueError, match="shift"):
        Hours(week={0: ((time(22), time(6)),)})
