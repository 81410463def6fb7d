"""Two clinics, one flooding: how much longer the quiet one waits from acceptance to commit, in one run.

Run: `python -m bench.fairness [SECONDS] [postgresql|sqlite]`. The quiet clinic sends single commands of many contacts at an even
pace, first alone, then beside a clinic that offers what it can. Prints both p95 and their ratio (goal: below 2).
"""

import asyncio
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop
from sqlalchemy import text

from app.__main__ import keep_pauses_short
from app.clock import SystemClock
from app.engine.dispatch import Dispatch
from app.engine.intake import Intake
from app.engine.locks import DatabaseLocks
from app.engine.policies import PolicyCache
from app.engine.recent import Recent
from app.engine.supervisor import Loop, Supervisor
from app.metrics import Metrics
from app.store.database import Database
from app.store.migrate import upgrade
from app.store.plans import LanePlan
from tests.builders import clinic
from tests.services import PostgresServer

QUIET, NOISY = "ten-quiet", "ten-noisy"
QUIET_EVERY_S = 0.02
FLOOD_BATCH = 50
FLOOD_PER_S = 600
"""Offered by the noisy clinic: two thousand times a clinic's peak of 18 messages a minute."""


class Bench:
    """One engine over one database, and when each command of the quiet clinic was accepted and committed."""

    def __init__(self, url: str) -> None:
        self.database, self.clock = Database(url), SystemClock()
        policies, metrics = PolicyCache(self.database), Metrics()
        recent = Recent()
        self.intake = Intake(self.database, self.clock, policies, metrics, recent=recent)
        locks = DatabaseLocks(self.database, self.clock)
        self.dispatch = Dispatch(self.database, self.clock, locks, policies, metrics, node_id="bench", recent=recent)
        self.siblings = [] if self.database.is_sqlite else [self.dispatch.sibling("dispatch_2")]
        self.intake.on_commands.append(self.dispatch.arrived)
        self.dispatch.on_committed.append(self._committed)
        self.took_ms: list[float] = []
        self.flooded = 0
        self._accepted: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._numbers = itertools.count()

    def _committed(self, plans: Sequence[LanePlan]) -> None:
        now = time.perf_counter()
        for plan in plans:
            if plan.key[0] == NOISY:
                self.flooded += len(plan.entries)
                continue
            for entry in plan.entries:
                if entry.command is not None:
                    self._done[entry.command.command_id] = now

    def _raw(self, contacts: int) -> dict[str, Any]:
        n, now = next(self._numbers), self.clock.now().isoformat()
        fields: dict[str, Any] = {"contact_id": f"c-{n % contacts}", "command_type": "follow_up", "conversation_version": 1}
        return fields | {
            "command_id": f"k-{n}",
            "as_of": now,
            "occurred_at": now,
            "idempotency_key": f"k-{n}",
            "payload": {"text": "Oi"},
        }

    async def quiet(self, seconds: float) -> float:
        """p95 in ms of single commands sent at an even pace."""
        self._accepted.clear()
        self._done.clear()
        end, sending = time.perf_counter() + seconds, []
        while time.perf_counter() < end:
            sending.append(asyncio.create_task(self._one()))
            await asyncio.sleep(QUIET_EVERY_S)
        await asyncio.gather(*sending)
        while len(self._done) < len(self._accepted):  # noqa: ASYNC110  # the last few commits, at most
            await asyncio.sleep(0.01)
        took = [(self._done[name] - at) * 1000 for name, at in self._accepted.items()]
        return statistics.quantiles(took, n=20)[18]

    async def _one(self) -> None:
        raw = self._raw(200)
        await self.intake.commands(QUIET, [raw])
        # what was committed before its receipt came back has waited for nothing
        self._accepted[raw["command_id"]] = min(time.perf_counter(), self._done.get(raw["command_id"], float("inf")))

    @asynccontextmanager
    async def flooding(self) -> AsyncIterator[None]:
        """The noisy clinic is at work within it."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._flood(stop))
        yield
        stop.set()
        await task

    async def _flood(self, stop: asyncio.Event) -> None:
        """Batches of the noisy clinic at a fixed rate, or as fast as they are taken."""
        begun, sent = time.perf_counter(), 0
        while not stop.is_set():
            await self.intake.commands(NOISY, [self._raw(500) for _ in range(FLOOD_BATCH)])
            sent += FLOOD_BATCH
            await asyncio.sleep(max(0.0, begun + sent / FLOOD_PER_S - time.perf_counter()))


async def measure(url: str, seconds: float) -> tuple[float, float, int]:
    """p95 of the quiet clinic alone and beside the flood, and how many commands of the flood were committed meanwhile."""
    bench = Bench(url)
    await upgrade(bench.database)
    for tenant_id in (QUIET, NOISY):
        await bench.database.write(clinic, tenant_id=tenant_id, now=bench.clock.now())
    supervisor = Supervisor()
    running: list[Loop] = [bench.intake, bench.dispatch, *bench.siblings]
    loops = [asyncio.create_task(supervisor.run(loop)) for loop in running]
    async with bench.flooding():  # connections are made, and each table is more than a page
        await bench.quiet(2.0)
    # an empty table is read whole until it was analyzed, which a server does in its first minute
    await bench.database.write(lambda conn: conn.execute(text("ANALYZE")))
    await bench.quiet(1.0)
    alone = await bench.quiet(seconds)
    async with bench.flooding():
        await asyncio.sleep(1.0)
        bench.flooded = 0
        beside = await bench.quiet(seconds)
        flooded = bench.flooded
    supervisor.stop.set()
    bench.intake.close()
    bench.dispatch.wake.set()
    await asyncio.gather(*loops)
    await bench.database.close()
    return alone, beside, flooded


def main() -> None:
    """Measure and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    keep_pauses_short()  # as a server does
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    kind = sys.argv[2] if len(sys.argv) > 2 else "postgresql"
    server = PostgresServer(durable=True) if kind == "postgresql" else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{Path(folder) / 'kora.db'}"
            if server is not None:
                server.start()
                server.create_database("fairness")
                url = server.url("fairness")
            alone, beside, flooded = uvloop.run(measure(url, seconds))
    finally:
        if server is not None:
            server.close()
    print(
        f"{kind}: accept to commit of {1 / QUIET_EVERY_S:.0f} commands a second, p95: "
        f"alone {alone:.1f} ms, beside a flood {beside:.1f} ms"
    )
    print(
        f"ratio {beside / alone:.2f} (goal: below 2); the flood had {flooded / seconds:.0f} commands a second committed meanwhile"
    )


if __name__ == "__main__":
    main()
