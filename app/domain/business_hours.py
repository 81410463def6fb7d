"""A clinic's opening hours in its own timezone: weekly shifts, holidays, DST. All answers are UTC."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

SEARCH_DAYS: Final = 60
"""How far ahead the next opening is looked for; a clinic closed for longer has no next opening."""

Shift = tuple[time, time]
_WEEKDAY: Final[tuple[Shift, ...]] = ((time(8), time(18)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Shifts per weekday (0 = Monday) as local (start, end), start < end; `holidays` are closed all day."""

    timezone: str = "America/Sao_Paulo"
    week: Mapping[int, tuple[Shift, ...]] = field(default_factory=lambda: dict.fromkeys(range(5), _WEEKDAY))
    holidays: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        if any(start >= end for shifts in self.week.values() for start, end in shifts):
            raise ValueError("a shift ends after it starts, on the same day")

    def local(self, moment: datetime) -> datetime:
        """`moment` on the clinic's wall clock."""
        return moment.astimezone(ZoneInfo(self.timezone))

    def at(self, day: date, moment: time) -> datetime:
        """A local wall time as UTC. A time that DST skips is read as if the clock had not changed; of two, the first."""
        return datetime.combine(day, moment, tzinfo=ZoneInfo(self.timezone)).astimezone(UTC)

    def shifts(self, day: date) -> list[tuple[datetime, datetime]]:
        """Open intervals of a local day, in order."""
        if day in self.holidays:
            return []
        return [(self.at(day, start), self.at(day, end)) for start, end in sorted(self.week.get(day.weekday(), ()))]

    def shifts_from(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Open intervals that end after `moment`, for the next `SEARCH_DAYS` days."""
        first = self.local(moment).date()
        for offset in range(SEARCH_DAYS):
            for start_at, end_at in self.shifts(first + timedelta(days=offset)):
                if end_at > moment:
                    yield start_at, end_at

    def is_open(self, moment: datetime) -> bool:
        """Whether the clinic is open at `moment` (the end of a shift is closed)."""
        return any(start_at <= moment < end_at for start_at, end_at in self.shifts(self.local(moment).date()))

    def next_opening(self, moment: datetime) -> datetime | None:
        """`moment` itself when open, else the start of the next shift; None when there is none in sight."""
        shift = next(self.shifts_from(moment), None)
        return None if shift is None else max(shift[0], moment)

    def opening_of(self, day: date) -> datetime | None:
        """When the clinic opens on a local day; None when it does not."""
        shifts = self.shifts(day)
        return shifts[0][0] if shifts else None

    def add_open_time(self, moment: datetime, duration: timedelta) -> datetime | None:
        """The moment at which `duration` of open time has passed since `moment`; None when it never does."""
        left = duration
        for start_at, end_at in self.shifts_from(moment):
            begin = max(start_at, moment)
            if begin + left <= end_at:
                return begin + left
            left -= end_at - begin
        return None
