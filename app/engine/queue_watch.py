"""The loop that looks at the length of every clinic's queue, and tells somebody before items are set aside."""

import asyncio
from collections.abc import Callable

import structlog

from app.clock import Clock
from app.engine.policies import PolicyCache
from app.store.database import Database
from app.store.queue_alarm import follow, lengths

log = structlog.get_logger("engine.queue_watch")

POLL_S = 5.0


class QueueWatch:
    """Compares lengths with the clinics' limits; writes only where an alarm begins or may end."""

    name = "queue_watch"

    def __init__(self, database: Database, clock: Clock, policies: PolicyCache) -> None:
        self.wake = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        self._database, self._clock, self._policies = database, clock, policies

    async def tick(self) -> float:
        """Look once."""
        sizes, alarming = await self._database.read(lengths)
        limits = await self._policies.queue_limits(sizes)
        found = {t: (size, limits[t]) for t, size in sizes.items() if t in alarming or size >= limits[t].alert_at}
        if found:
            changed = await self._database.write(follow, found, self._clock.now())
            for tenant_id, began in changed.items():
                length, held = found[tenant_id]
                log.warning(
                    "queue_over_threshold" if began else "queue_well_again",
                    flow_id="F-01",
                    tenant_id=tenant_id,
                    status="on" if began else "off",
                    length=length,
                    alert_at=held.alert_at,
                )
            if changed:
                for wake in self.on_change:
                    wake()
        return POLL_S / self._clock.scale
