"""Safe mode's loop (S-PC-03-002, S-PC-03-004): moves open episodes on and lets parked lanes go.

Nothing rests on this loop for safety: commands are blocked by what is read in their own transaction, also when no loop
runs. The loop is what makes an entry visible, judges the green window and drains. Every step is one transaction that locks
its scope, so any number of nodes may run it and any of them may die anywhere.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog

from app.clock import Clock
from app.domain.states import ModeState
from app.engine.health import Health
from app.metrics import Metrics
from app.store.database import Database
from app.store.episodes import SafeModePolicy, open_scopes
from app.store.stabilisation import Progress, advance

log = structlog.get_logger("engine.safe_mode")

POLL_S: Final = 1.0
"""Real seconds between looks while nothing is open."""
BUSY_POLL_S: Final = 0.25
GREEN_NEEDED: Final = timedelta(minutes=10)


class SafeModeLoop:
    """The loop behind entry, window and drain. `on_change` is called after the mode of a scope changed or lanes were freed."""

    name = "safe_mode"

    def __init__(self, database: Database, clock: Clock, health: Health, metrics: Metrics) -> None:
        self.wake = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        self.policy = SafeModePolicy(window=health.window(GREEN_NEEDED))
        self._database, self._clock, self._metrics = database, clock, metrics

    async def tick(self) -> float:
        """Move every open episode on; returns the real seconds until the next look."""
        scopes = await self._database.read(open_scopes)
        self._metrics.safe_mode.set(len(scopes))
        for scope in scopes:
            self._note(scope, await self._database.write(advance, scope, self.policy, self._clock.now()))
        return BUSY_POLL_S if scopes else POLL_S

    def changed(self) -> None:
        """Somebody changed an episode in this process: look at once."""
        self.wake.set()
        for notify in self.on_change:
            notify()

    def _note(self, scope: str, progress: Progress) -> None:
        if progress.changed or progress.released:
            for notify in self.on_change:
                notify()
        if progress.changed:
            log.log(
                30 if progress.state is ModeState.SAFE_MODE_ACTIVE else 20,
                "safe_mode",
                flow_id="F-06",
                scope=scope,
                status=progress.result or progress.state,
                reason=progress.reason,
            )
