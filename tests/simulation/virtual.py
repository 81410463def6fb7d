"""An event loop whose time is virtual: it jumps to the next timer as soon as nothing is left to do now.

Nothing in it depends on the machine: no threads, no sockets, no wall time. The order of events is a function of the delays
that were asked for, so a world that draws its delays from a seeded generator runs the same way every time.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from app import ids

EPOCH_NS = 1_795_435_200_000_000_000
"""What `time.time_ns` says at virtual second 0: 2026-11-23T12:00:00Z."""


class _NoSelector:
    """Waits for no input; waiting for a timer is moving the clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        """Let `timeout` virtual seconds pass at once."""
        if timeout is None:
            raise RuntimeError("the world stands still: every task waits for something that never comes")
        self.now += max(timeout, 0.0)
        return []

    def close(self) -> None:
        """Nothing was open."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order of their virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _NoSelector()
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._selector.now

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else can wake this loop."""


@contextmanager
def deterministic(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """While inside, durations, new ids and jitter come from the virtual time and the seed."""
    state = random.getstate()
    random.seed(seed)
    with (
        patch.object(time, "monotonic", loop.time),
        patch.object(time, "perf_counter", loop.time),
        patch.object(time, "time_ns", lambda: EPOCH_NS + int(loop.time() * 1e9)),
        patch.object(ids, "_dice", random.Random(seed)),
    ):
        try:
            yield
        finally:
            random.setstate(state)
