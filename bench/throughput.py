"""Ordered commands, enqueue to committed, with the full gate, ledger, outbox and event log, on SQLite.

Run: `python -m bench.throughput [COMMANDS] [CONTACTS]` for this alone (`make bench` compares with peers). Prints commands per
second accepted and committed.
"""

import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import text

from app.__main__ import keep_pauses_short
from app.clock import SystemClock
from app.engine.dispatch import Dispatch
from app.engine.intake import Intake
from app.engine.locks import DatabaseLocks
from app.engine.policies import PolicyCache
from app.engine.recent import Recent
from app.engine.supervisor import Supervisor
from app.metrics import Metrics
from app.store import settings
from app.store.database import Database
from app.store.migrate import upgrade
from bench.peers import phases, send
from tests.builders import clinic


async def measure(url: str, commands: int, contacts: int) -> tuple[float, float]:
    """Commands per second: accepted, and accepted and committed; after the warm-up that the peers have too."""
    database, clock = Database(url), SystemClock()
    await upgrade(database)
    await database.write(clinic, now=clock.now())
    await database.write(settings.save, "ten-sol", {"max_queue_size": 10_000_000}, actor="system:bench", now=clock.now())
    policies, metrics = PolicyCache(database), Metrics()
    recent = Recent()
    intake = Intake(database, clock, policies, metrics, recent=recent)
    dispatch = Dispatch(database, clock, DatabaseLocks(database, clock), policies, metrics, node_id="bench", recent=recent)
    intake.on_commands.append(dispatch.arrived)
    finished, left = asyncio.Event(), [0]

    def committed(plans: Any) -> None:
        left[0] -= sum(len(plan.entries) for plan in plans)
        if left[0] <= 0:
            finished.set()

    dispatch.on_committed.append(committed)
    supervisor = Supervisor()
    loops = [asyncio.create_task(supervisor.run(loop)) for loop in (intake, dispatch)]

    async def offer(numbers: range) -> tuple[float, float]:
        """When the commands were accepted, and when they were committed: seconds from the first one's sending."""
        now, left[0] = clock.now().isoformat(), len(numbers)
        finished.clear()
        started = time.perf_counter()
        await send(numbers, contacts, lambda batch: intake.commands("ten-sol", _raws(batch, contacts, now)))
        accepted = time.perf_counter()
        await finished.wait()
        return accepted - started, time.perf_counter() - started

    warm, measured = phases(commands, contacts)
    await offer(warm)
    if database.dialect == "postgresql":
        await database.write(lambda conn: conn.execute(text("ANALYZE")))
    accepted_s, committed_s = await offer(measured)
    supervisor.stop.set()
    await asyncio.gather(*loops)
    await database.close()
    return commands / accepted_s, commands / committed_s


def _raws(numbers: range, contacts: int, now: str) -> list[dict[str, Any]]:
    return [
        {
            "contact_id": f"c-{n % contacts}",
            "command_type": "follow_up",
            "conversation_version": 1,
            "as_of": now,
            "occurred_at": now,
            "idempotency_key": f"k-{n}",
            "correlation_id": f"corr-{n}",
            "payload": {"text": f"mensagem {n}"},
        }
        for n in numbers
    ]


def main() -> None:
    """Measure once and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    keep_pauses_short()
    commands, contacts = (int(a) for a in (*sys.argv[1:], "20000", "500")[:2])
    with tempfile.TemporaryDirectory() as folder:
        accepted, committed = asyncio.run(measure(f"sqlite:///{Path(folder) / 'bench.db'}", commands, contacts))
    print(f"sqlite, {commands} commands over {contacts} contacts: accepted {accepted:.0f}/s, committed {committed:.0f}/s")


if __name__ == "__main__":
    main()
