"""The loop that lets parked lanes go (F-05); all of its state and rules are in `store.drain`, so any node may run it."""

import asyncio
from collections.abc import Callable

import structlog

from app.clock import Clock
from app.domain.drain import Trend
from app.ids import new_id
from app.store.database import Database
from app.store.drain import Released, due, release

log = structlog.get_logger("engine.drain")

POLL_S = 1.0
STEP_S = 0.25


class Drain:
    """Steps every clinic's drain in turn."""

    name = "drain"

    def __init__(self, database: Database, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self.on_released: list[Callable[[], None]] = []
        self._database, self._clock = database, clock

    async def tick(self) -> float:
        """One step of each clinic that has something to release."""
        tenants = await self._database.read(due, self._clock.now())
        for tenant_id in tenants:
            step = await self._database.write(release, tenant_id, self._clock.now(), new_id())
            if step is None:
                continue
            if step.contacts:
                for wake in self.on_released:
                    wake()
            self._log(tenant_id, step)
        return min(POLL_S, STEP_S / self._clock.scale) if tenants else POLL_S

    def _log(self, tenant_id: str, step: Released) -> None:
        if step.contacts or step.ended:
            log.info(
                "drain_stepped",
                flow_id="F-05",
                correlation_id=f"drain-{step.drain_id}",
                tenant_id=tenant_id,
                status="completed" if step.ended else "running",
                lanes=len(step.contacts),
                commands=step.items,
                lanes_left=step.left,
                rate_per_s=round(step.rate_per_s, 3),
            )
        if step.trend is Trend.GROWING:
            log.warning(
                "drain_backlog_grows",
                flow_id="F-05",
                correlation_id=f"drain-{step.drain_id}",
                tenant_id=tenant_id,
                status="replay_backlog",
                backlog=step.backlog,
                rate_per_s=round(step.rate_per_s, 3),
            )
