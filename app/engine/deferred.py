"""The loop that watches the deferred item's reopening trigger (S-PC-P1-001); its state and rules are in `store.deferred`."""

import asyncio

import structlog

from app.clock import Clock
from app.store.database import Database
from app.store.deferred import TRIGGER, look, reopen

log = structlog.get_logger("engine.deferred")

EVERY_S = 60.0
"""Of the product's time: its facts are days old when they count."""


class DeferredWatch:
    """Looks every minute, on every node; the first one that sees the trigger met reopens the item."""

    name = "deferred"

    def __init__(self, database: Database, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock = database, clock

    async def tick(self) -> float:
        """One look."""
        found = await self._database.read(look, self._clock.now())
        if found.status.state != found.state:
            reopened = await self._database.write(reopen, self._clock.now())
            if reopened is not None:
                alert_id, correlation_id = reopened
                log.warning(
                    "deferred_item_reopened", flow_id="F-06", correlation_id=correlation_id, status="reopen_triggered",
                    trigger_id=TRIGGER, alert_id=alert_id,
                )  # fmt: skip
        return max(0.5, EVERY_S / self._clock.scale)
