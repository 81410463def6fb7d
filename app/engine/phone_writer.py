"""Writes what the simulated phone shows: entries that come together share one transaction."""

import asyncio
from dataclasses import asdict

from app.channels.outbound import PhoneEntry
from app.clock import Clock
from app.store.database import Database
from app.store.phone import show


class PhoneWriter:
    """The `phone` of `channels.factory.World`: returns once the entry is durable, raises what the database raises."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._waiting: list[tuple[PhoneEntry, asyncio.Future[None]]] = []
        self._turn = asyncio.Lock()

    async def __call__(self, entry: PhoneEntry) -> None:
        """Keep one entry, together with all that gathered while the last batch was being written."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        async with self._turn:
            if not done.done():
                await self._flush()
        await done

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            await self._database.write(show, [asdict(entry) for entry, _ in batch], self._clock.now())
        except BaseException as error:
            for _, done in batch:
                if not done.done():
                    done.set_exception(error if isinstance(error, Exception) else OSError("interrupted"))
                    done.exception()  # seen: whoever still waits gets it, nobody else has to
            raise
        for _, done in batch:
            if not done.done():
                done.set_result(None)
