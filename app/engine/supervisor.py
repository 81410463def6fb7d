"""The contract of an engine loop, and the one place that runs them.

A loop does one round per `tick()` and returns how many seconds it may sleep; `wake` shortens that sleep (a lost wake-up
costs one poll period, never an event). Failures: an error that says it is transient (`StorageUnavailable`, connection
errors) makes the loop back off and try again; anything else is a defect: the failure is recorded, `/readyz` turns red and
the whole process stops with a non-zero exit code so that its manager restarts it. State survives in the database.
A loop that stops beating counts as failed too.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from app.errors import KoraError

log = structlog.get_logger("engine.supervisor")

BACKOFF_MAX_S = 5.0
STALL_AFTER_S = 15.0
"""A loop that has not finished a round for this long (and is not sleeping on purpose) is stalled."""


class Loop(Protocol):
    """One engine loop."""

    name: str

    @property
    def wake(self) -> asyncio.Event:
        """Shortens the sleep."""
        ...

    async def tick(self) -> float:
        """Do one round; return the seconds until the next one is due (0 = at once)."""
        ...


@dataclass(slots=True)
class Heartbeat:
    """When a loop last finished a round (monotonic seconds), and until when it said it would sleep."""

    beat_at: float = field(default_factory=time.monotonic)
    sleeping_until: float = 0.0
    rounds: int = 0
    failures: int = 0
    last_error: str | None = None

    def age_s(self) -> float:
        """Seconds since it should have been heard of."""
        now = time.monotonic()
        return max(0.0, now - max(self.beat_at, self.sleeping_until))


class Supervisor:
    """Runs loops until `stop` is set; remembers the first defect."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.heartbeats: dict[str, Heartbeat] = {}
        self.defect: BaseException | None = None
        self.on_defect: Callable[[str, BaseException], None] | None = None

    @property
    def healthy(self) -> bool:
        """No defect, and every loop is beating."""
        return self.defect is None and not self.stalled()

    def stalled(self) -> list[str]:
        """Names of loops that should have been heard of long ago."""
        return [name for name, beat in self.heartbeats.items() if beat.age_s() > STALL_AFTER_S]

    async def run(self, loop: Loop) -> None:
        """Run one loop until `stop`; returns early only after a defect (which also sets `stop`)."""
        beat = self.heartbeats[loop.name] = Heartbeat()
        backoff_s = 0.05
        while not self.stop.is_set():
            loop.wake.clear()
            try:
                delay_s = await loop.tick()
                backoff_s = 0.05
                beat.last_error = None
            except (OSError, KoraError) as error:
                if isinstance(error, KoraError) and error.permanent:
                    self._fail(loop.name, error)
                    return
                beat.failures += 1
                beat.last_error = str(error)[:200]
                log.warning("loop_backs_off", loop=loop.name, error=beat.last_error, backoff_s=round(backoff_s, 2))
                delay_s = backoff_s * (0.5 + random.random())
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            except Exception as error:  # noqa: BLE001  # a defect: recorded, loud, and the process ends
                self._fail(loop.name, error)
                return
            beat.rounds += 1
            beat.beat_at = time.monotonic()
            if delay_s > 0:
                beat.sleeping_until = beat.beat_at + delay_s
                await self._sleep(loop.wake, delay_s)
            else:
                await asyncio.sleep(0)

    async def _sleep(self, wake: asyncio.Event, delay_s: float) -> None:
        """Until woken, stopped, or the delay is over, whichever comes first."""
        waiters = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(self.stop.wait())]
        try:
            await asyncio.wait(waiters, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()

    def _fail(self, name: str, error: BaseException) -> None:
        log.error("loop_failed", loop=name, exc_info=error)
        self.defect = self.defect or error
        if self.on_defect is not None:
            self.on_defect(name, error)
        self.stop.set()
