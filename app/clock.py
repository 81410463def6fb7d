"""The only reader of wall time.

`SystemClock` is real time, `ScaledClock` makes time pass faster (training, demos; `KORA_TIME_SCALE`), `ManualClock`
stands still until a test moves it. A node anchors its clock to the database (`anchor`), so a machine whose own clock is
wrong never decides a deadline; durations between two readings stay monotonic on the machine.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What everything that depends on time asks."""

    scale: float

    def now(self) -> datetime:
        """Aware UTC time."""
        ...

    def anchor(self, reference: datetime) -> timedelta:
        """Take `reference` (the database's real time) as the truth; returns how far this machine was off."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of this clock's time."""
        ...


class SystemClock:
    """Real time, corrected by the database's; also the base of a scaled clock."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self._real0 = datetime.now(UTC)
        self._start = self._real0
        self._mono0 = time.monotonic()

    def now(self) -> datetime:
        """Aware UTC time; advances with the monotonic clock, so a step of the machine's clock does not show."""
        return self._start + timedelta(seconds=(time.monotonic() - self._mono0) * self.scale)

    def anchor(self, reference: datetime) -> timedelta:
        """Shift to the reference; with a scale other than 1 only the first anchoring counts."""
        elapsed = timedelta(seconds=time.monotonic() - self._mono0)
        off = reference - (self._real0 + elapsed)
        self._real0 += off
        if self.scale == 1.0:
            self._start = self._real0
        return off

    async def sleep(self, seconds: float) -> None:
        """Sleep `seconds` of scaled time."""
        await asyncio.sleep(seconds / self.scale)


class ManualClock:
    """Stands still; tests move it with `advance` or `set`. Sleepers wake when their time has come."""

    def __init__(self, start: datetime) -> None:
        self.scale = 1.0
        self._now = start.astimezone(UTC)
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        """The time that was set."""
        return self._now

    def anchor(self, reference: datetime) -> timedelta:
        """A manual clock is its own truth."""
        return timedelta(0)

    def set(self, moment: datetime) -> None:
        """Jump to `moment`."""
        self._now = moment.astimezone(UTC)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def advance(self, **delta: float) -> None:
        """Move forward by a timedelta given in keywords."""
        self.set(self._now + timedelta(**delta))

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been moved far enough."""
        until = self._now + timedelta(seconds=seconds)
        while self._now < until:
            await self._moved.wait()
