"""The node's own heartbeat row: which processes live, in which lock mode, and how their loops are."""

import asyncio

import msgspec

from app.clock import Clock, SystemClock
from app.engine.locks import LaneLocks
from app.engine.supervisor import Supervisor
from app.store.database import Database
from app.store.nodes import beat, keep_time

BEAT_EVERY_S = 5.0


class Nodes:
    """The loop that says we are here."""

    name = "nodes"

    def __init__(self, database: Database, clock: Clock, supervisor: Supervisor, locks: LaneLocks, *, node_id: str) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock, self._supervisor, self._locks, self._node_id = database, clock, supervisor, locks, node_id

    async def tick(self) -> float:
        """Write the row."""
        loops = {name: round(b.age_s(), 1) for name, b in self._supervisor.heartbeats.items()}
        await self._database.write(beat, self._node_id, self._locks.mode, msgspec.json.encode(loops).decode(), self._clock.now())
        if isinstance(self._clock, SystemClock) and self._clock.scale != 1.0:
            await self._database.write(keep_time, self._clock.scale, *self._clock.pair())
        return BEAT_EVERY_S
