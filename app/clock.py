"""The only reader of wall time.

`SystemClock` is real time, or passes faster (training, demos; `KORA_TIME_SCALE`); `ManualClock` stands still until a test
moves it. A fast clock goes on where the installation's last process left it (`go_on`), so no restart turns time back. A node
anchors its clock to the database (`anchor`), so a machine whose own clock is wrong never decides a deadline; durations
between two readings stay monotonic on the machine.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

STEP_BACK_MAX = timedelta(days=1)
"""How far a machine's clock may have been set back between two runs and still be corrected by what is stored."""
RUNNING_GAP = timedelta(seconds=30)
"""Real time without a process after which a fast clock is taken to have stood still in between."""


class Clock(Protocol):
    """What everything that depends on time asks."""

    scale: float

    def now(self) -> datetime:
        """Aware UTC time."""
        ...

    def anchor(self, reference: datetime) -> timedelta:
        """Take `reference` (the database's real time) as the truth; returns how far this machine was off."""
        ...

    def off(self, reference: datetime) -> timedelta:
        """How far this machine is off `reference`; nothing is changed, so time never steps back for a moment's delay."""
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
        off = self.off(reference)
        self._real0 += off
        if self.scale == 1.0:
            self._start = self._real0
        return off

    def pair(self) -> tuple[datetime, datetime]:
        """One moment as real time and as this clock's."""
        elapsed = time.monotonic() - self._mono0
        return self._real0 + timedelta(seconds=elapsed), self._start + timedelta(seconds=elapsed * self.scale)

    def go_on(self, real_at: datetime, at: datetime, newest: datetime | None = None) -> None:
        """Go on from a pair that another process left; if that was long ago, time stood still in between.

        Time never goes back behind `at`, nor behind the real one, nor behind `newest`: what was written down after the pair
        was, which is behind us only where the machine's clock was set back since.
        """
        real, now = self.pair()
        gap = max(real - real_at, timedelta(0))
        reached = at + timedelta(seconds=gap.total_seconds() * self.scale) if gap <= RUNNING_GAP else at
        self._start += max(reached, real, newest or real) - now

    def never_before(self, moment: datetime) -> timedelta:
        """Begin at `moment` where this clock is behind it; returns by how much it was moved.

        A moment more than STEP_BACK_MAX ahead is not believed: it was the clock before that was wrong.
        """
        behind = moment - self.now()
        if not timedelta(0) < behind <= STEP_BACK_MAX:
            return timedelta(0)
        self._real0 += behind
        self._start += behind
        return behind

    def off(self, reference: datetime) -> timedelta:
        """Distance from the reference in real time."""
        return reference - (self._real0 + timedelta(seconds=time.monotonic() - self._mono0))

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

    def off(self, reference: datetime) -> timedelta:
        """A manual clock is never off."""
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
