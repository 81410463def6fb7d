"""The SLA clock of takeovers (F-04): warning, breach, escalation, each written once, by whichever node looks first.

The clock is in the database (`ticket.clock_from`, `next_at`), so downtime makes a step late and never lost. A lost wake-up
costs one poll period.
"""

import asyncio

from app.clock import Clock
from app.store import takeovers
from app.store.database import Database

POLL_S = 2.0


class Takeovers:
    """The loop that watches how long families wait for a person."""

    name = "takeover"

    def __init__(self, database: Database, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock = database, clock

    async def tick(self) -> float:
        """Let every clock that calls have its say."""
        for tenant_id, ticket_id in await self._database.read(takeovers.due, self._clock.now()):
            await self._database.write(takeovers.advance, tenant_id, ticket_id, self._clock.now())
        due = await self._database.read(takeovers.next_call)
        left_s = (due - self._clock.now()).total_seconds() / self._clock.scale if due is not None else POLL_S
        return min(POLL_S, max(0.05, left_s))
