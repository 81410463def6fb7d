"""Opening hours out of settings."""

from datetime import UTC, date, datetime, time
from typing import Any

import pytest

from app.domain.opening_hours import faults, hours

ZONE = {"timezone": "America/Sao_Paulo"}


def test_what_is_not_said_is_as_in_the_plan() -> None:
    found = hours(ZONE)
    assert found.week[0] == ((time(8), time(18)),)
    assert 5 not in found.week


def test_shifts_days_off_and_national_holidays_close_the_clinic() -> None:
    document = {**ZONE, "hours": {"mon": [["13:00", "18:00"], ["08:00", "12:00"]], "sat": [["09:00", "12:00"]], "fri": []}}
    document |= {"holidays": ["2026-11-24"], "national_holidays": "BR"}
    assert list(faults(document)) == []
    found = hours(document)
    assert found.week[0] == ((time(8), time(12)), (time(13), time(18)))
    assert not found.is_open(datetime(2026, 11, 23, 15, 30, tzinfo=UTC))  # 12:30 on a Monday: lunch
    assert found.is_open(datetime(2026, 11, 28, 13, 0, tzinfo=UTC))  # Saturday morning
    assert not found.shifts(date(2026, 11, 24))
    assert not found.shifts(date(2026, 12, 25))
    assert not found.shifts(date(2026, 11, 27))


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"hours": {"monday": []}}, "/hours/monday"),
        ({"hours": {"mon": "08:00"}}, "/hours/mon"),
        ({"hours": {"mon": [["08:00"]]}}, "/hours/mon"),
        ({"hours": {"mon": [["18:00", "08:00"]]}}, "/hours/mon"),
        ({"hours": {"mon": [["8", "25:00"]]}}, "/hours/mon"),
        ({"hours": {"mon": [["08:00", "25:00"]]}}, "/hours/mon"),
        ({"holidays": ["24/12/2026"]}, "/holidays/0"),
        ({"holidays": ["2026-13-01"]}, "/holidays/0"),
        ({"holidays": [7]}, "/holidays/0"),
        ({"national_holidays": "Brasil"}, "/national_holidays"),
    ],
)
def test_what_cannot_be_used_is_named(document: dict[str, Any], pointer: str) -> None:
    assert [where for where, _ in faults(document)] == [pointer]
