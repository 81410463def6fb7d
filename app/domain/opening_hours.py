"""Opening hours as settings say them: shifts by weekday, days off, and the country's holidays.

    {"hours": {"mon": [["08:00", "12:00"], ["13:00", "18:00"]], ..., "sat": []}, "holidays": ["2026-12-24"],
     "national_holidays": "BR"}

A weekday that is not named is as in the plan (Monday to Friday, 08:00 to 18:00).
"""

from collections.abc import Iterator, Mapping
from datetime import date, time
from functools import lru_cache
from typing import Any, Final

import holidays

from app.domain.business_hours import Hours, Shift

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_YEARS: Final = range(2020, 2101)


def faults(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(JSON pointer, what is wrong) of the three settings; nothing for hours that can be used."""
    for name, shifts in (document.get("hours") or {}).items():
        if name not in WEEKDAYS:
            yield f"/hours/{name}", f"is not one of {', '.join(WEEKDAYS)}"
        elif shifts is not None and _shifts(shifts) is None:
            yield f"/hours/{name}", 'must be a list of shifts such as ["08:00", "12:00"], each ending after it starts'
    for index, day in enumerate(document.get("holidays") or ()):
        if _day(day) is None:
            yield f"/holidays/{index}", "must be a date such as 2026-12-24"
    country = document.get("national_holidays")
    if country and country not in holidays.list_supported_countries():
        yield "/national_holidays", "is not the code of a country whose holidays are known, such as BR"


def hours(document: Mapping[str, Any]) -> Hours:
    """The hours of settings that have no faults; `timezone` is the clinic's."""
    week = dict(Hours().week)
    for name, shifts in (document.get("hours") or {}).items():
        week[WEEKDAYS.index(name)] = _shifts(shifts) or ()
    own = frozenset(day for text in document.get("holidays") or () if (day := _day(text)) is not None)
    return Hours(timezone=document["timezone"], week=week, holidays=own | _national(document.get("national_holidays") or ""))


@lru_cache(maxsize=16)
def _national(country: str) -> frozenset[date]:
    return frozenset(holidays.country_holidays(country, years=_YEARS)) if country else frozenset()


def _shifts(value: Any) -> tuple[Shift, ...] | None:
    if not isinstance(value, list):
        return None
    found = []
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2):
            return None
        start, end = (_time(text) for text in pair)
        if start is None or end is None or start >= end:
            return None
        found.append((start, end))
    return tuple(sorted(found))


def _time(text: Any) -> time | None:
    try:
        return time.fromisoformat(text) if isinstance(text, str) and len(text) == 5 else None
    except ValueError:
        return None


def _day(text: Any) -> date | None:
    try:
        return date.fromisoformat(text) if isinstance(text, str) and len(text) == 10 else None
    except ValueError:
        return None
