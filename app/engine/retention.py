"""The loop that forgets in time (LGPD): small batches, one node at a time, and a pause after each so that commits go first."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from app.clock import Clock
from app.domain.retention import Periods, periods
from app.store import retention
from app.store.database import Database
from app.store.settings import load

log = structlog.get_logger("engine.retention")

EVERY_S: Final = 300.0
"""Between two rounds that found nothing more (the product's seconds)."""
BATCH: Final = 200
"""Rows of one transaction: a few milliseconds."""
PAUSE_S: Final = 0.05
"""Between two transactions (real seconds)."""
BATCHES_MAX: Final = 100
"""Of one kind in one round, so that every kind has its turn."""
LEASE: Final = timedelta(minutes=10)


class Retention:
    """Minimises, removes, drops."""

    name = "retention"

    def __init__(self, database: Database, clock: Clock, *, node_id: str) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock, self._node_id = database, clock, node_id

    async def tick(self) -> float:
        """One round over every clinic and kind, if no other node has it."""
        now = self._clock.now()
        if not await self._database.write(retention.claim, self._node_id, now, now + LEASE):
            return max(1.0, EVERY_S / self._clock.scale)
        done: dict[str, int] = {}
        for tenant_id in await self._database.read(retention.tenants):
            kept = await self._periods(tenant_id)
            for name, prune in retention.OF_A_CLINIC.items():
                done[name] = done.get(name, 0) + await self._all(prune, tenant_id, kept, now)
        kept = await self._periods(retention.SCOPE_OF_ALL)
        for name, prune_all in retention.OF_ALL.items():
            done[name] = await self._all(prune_all, kept, now)
        if any(done.values()):
            log.info("retention", **{f"{name}_rows": n for name, n in done.items() if n})
        return max(1.0, EVERY_S / self._clock.scale)

    async def _periods(self, scope: str) -> Periods:
        return periods(await self._database.read(load, scope))

    async def _all(self, prune: Callable[..., int], *args: Any) -> int:
        """Batch after batch until one is not full."""
        rows = 0
        now: datetime = args[-1]
        for _ in range(BATCHES_MAX):
            found = await self._database.write(prune, *args[:-1], now, BATCH)
            rows += found
            await asyncio.sleep(PAUSE_S if found else 0)
            if found < BATCH:
                break
        return rows
