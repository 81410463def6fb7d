"""Keeps a bounded copy of the flows' log lines in the database, so that an evidence pack can hold them (S-PC-04-001, -003).

The log itself goes through the sink; this copy is second and never in its way: lines wait in a small buffer, one batch a
second is written, and what is too much gives way, warnings last. A pack says of each line whether it was kept or made from
the step's record.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.clock import Clock
from app.store import log_lines
from app.store.database import Database

BATCH: Final = 300
"""Lines written a second, at most."""
FLUSH_S: Final = 1.0
_ORDINARY: Final = frozenset({"debug", "info"})


class LineBuffer:
    """Where log lines wait; `add` may be called from any thread and never blocks."""

    def __init__(self, capacity: int = 2_000) -> None:
        self._important: deque[Mapping[str, Any]] = deque(maxlen=capacity)
        self._ordinary: deque[Mapping[str, Any]] = deque(maxlen=capacity)

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Note lines, which nobody changes any more; the oldest give way when there is no room."""
        for line in lines:
            (self._ordinary if line.get("level") in _ORDINARY else self._important).append(line)

    def take(self, limit: int) -> list[Mapping[str, Any]]:
        """Up to `limit` lines, warnings and worse first, then the newest; what is left of the ordinary ones is dropped.

        By their time; those of one moment as they came.
        """
        taken: list[Mapping[str, Any]] = []
        while self._important and len(taken) < limit:
            taken.append(self._important.popleft())
        newest: list[Mapping[str, Any]] = []
        while self._ordinary and len(taken) + len(newest) < limit:
            newest.append(self._ordinary.pop())
        self._ordinary.clear()
        return sorted([*taken, *reversed(newest)], key=lambda line: str(line["ts"]))


class LogKeeper:
    """The loop that writes the buffer down."""

    name = "log_keeper"

    def __init__(self, database: Database, clock: Clock, lines: LineBuffer) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock, self._lines = database, clock, lines

    async def tick(self) -> float:
        """One batch."""
        taken = self._lines.take(BATCH)
        if taken:
            await self._database.write(log_lines.keep, taken, self._clock.now())
        return FLUSH_S
