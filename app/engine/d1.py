"""The clock of day-before confirmations (F-03): looks at what nobody has answered for and does what is due.

Everything that was done is in the database: downtime makes a step late, or missed and written down, never repeated, and
what reaches a family is dropped rather than sent at night.
"""

import asyncio
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError

from app.clock import Clock
from app.domain.business_hours import Hours
from app.domain.d1 import D1Policy, due, is_late, plan
from app.store import d1, d1_over
from app.store.database import Database

log = structlog.get_logger("engine.d1")

POLL_S: Final = 15.0
"""Of the product's time."""
POLICY: Final = D1Policy()


class D1:
    """The loop that asks families the day before."""

    name = "d1"

    def __init__(self, database: Database, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock = database, clock

    async def tick(self) -> float:
        """Do what is due for every clinic."""
        now = self._clock.now()
        waiting = await self._database.read(d1.unanswered, now)
        if waiting:
            hours = await self._database.read(d1.clinics)
            for of in waiting:
                if of.tenant_id in hours:
                    await self._one_alone(of, hours[of.tenant_id], now)
        await self._end(now)
        return max(0.5, POLL_S / self._clock.scale)

    async def _end(self, now: datetime) -> None:
        """Close what is open about appointments that need no call any more."""
        tasks, alerts = await self._database.read(d1_over.outdated, now)
        for task_id, resolution in tasks:
            if await self._database.write(d1_over.end_task, task_id, resolution, now):
                log.info("d1_task_over", flow_id="F-03", task_id=task_id, status=resolution)
        for tenant_id, key in alerts:
            await self._database.write(d1_over.end_alert, tenant_id, key, now)

    async def _one_alone(self, of: d1.Unanswered, hours: Hours, now: datetime) -> None:
        """One appointment that the database refuses takes nothing from the others: told, and looked at again next time."""
        try:
            await self._one(of, hours, now)
        except DBAPIError:  # what passes by itself is a StorageError, and ends the round
            log.exception(
                "d1_refused",
                flow_id="F-03",
                correlation_id=f"d1-{of.appointment_id}",
                tenant_id=of.tenant_id,
                status="failed",
                appointment_id=of.appointment_id,
            )

    async def _one(self, of: d1.Unanswered, hours: Hours, now: datetime) -> None:
        steps = plan(of.start_at, hours, POLICY, booked_at=of.booked_at)
        found = due(steps, of.done, now)
        for missed, step in [*((True, s) for s in found.missed), *((False, s) for s in found.run)]:
            late = is_late(step, now)
            outcome = await self._database.write(d1.run, of, step, now, late=late, timezone=hours.timezone, missed=missed)
            if outcome is not None:
                log.info(
                    "d1_step",
                    flow_id="F-03",
                    correlation_id=f"d1-{of.appointment_id}",
                    tenant_id=of.tenant_id,
                    intent="d1_confirmation",
                    status=outcome,
                    appointment_id=of.appointment_id,
                    step=step.action,
                    late=late,
                )
