"""Three `kora serve` processes on one PostgreSQL and one Redis, under load, while processes and Redis are hurt.

What a caller was told is written down outside the product and compared with the database afterwards: nothing lost, nothing
twice, everything in order. The long version of the same is `python -m bench.soak`.
"""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.faults.cluster import Load, commands, database_time, first_fallback_commit, settled, witness
from tests.faults.outside import Pulse
from tests.server import Server, init, kora
from tests.services import PostgresServer, RedisServer

CONTACTS, COMMANDS = 500, int(os.environ.get("SOAK_EVENTS", "20000"))
PAUSE_S = float(os.environ.get("SOAK_PAUSE_S", "0"))
"""How long Redis hangs at least."""
AHEAD = 0.08
"""Share of the load that may be sent while a fault is on: a node that starts again takes longer than all of it would."""
DEADLOCK = "deadlock detected"
LIMIT_S = 3.0
"""The first commit without Redis; it takes a fraction of a second (docs/operations.md), this machine may be busy. How long it stood
still just then is measured, and is nobody's delay."""


@pytest.mark.alone
@pytest.mark.story("S-PC-01-002")
@pytest.mark.story("S-PC-01-003")
@pytest.mark.story("S-PC-05-001")
def test_twenty_thousand_commands_are_committed_once_and_in_order_though_nodes_and_redis_die(
    postgres_url: str, postgres_server: PostgresServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    made = init(postgres_url)
    deadlocks = postgres_server.log().count(DEADLOCK)
    journal, pulse = tmp_path / "journal", Pulse()
    nodes = [Server(postgres_url, KORA_NODE_ID=name, KORA_REDIS_URL=redis_server.url) for name in ("a", "b", "c")]
    a, b, c = nodes
    with a, b, c, pulse.running():
        # the load is far above what a clinic may have waiting; what goes beyond would be kept as dead letters, and gaps stay
        limit = httpx.put(
            f"{a.url}/api/v1/settings/sol",
            json={"max_queue_size": 10 * COMMANDS},
            headers={"Authorization": f"Bearer {made['keys']['tenant']}"},
            trust_env=False,
        )
        assert limit.status_code == 200, limit.text
        load = Load(nodes, made["keys"]["tenant"], journal)
        died: list[float] = []

        async def redis_dies() -> None:
            since, began = await asyncio.to_thread(database_time, postgres_url), time.monotonic()
            redis_server.kill()
            while (found := await asyncio.to_thread(first_fallback_commit, postgres_url, since)) is None:
                await asyncio.sleep(0.05)
            died.append((found - since).total_seconds() - pulse.still_s(began))
            redis_server.restart()

        async def redis_hangs() -> None:
            since, began = await asyncio.to_thread(database_time, postgres_url), time.monotonic()
            redis_server.pause()
            try:
                while (found := await asyncio.to_thread(first_fallback_commit, postgres_url, since)) is None:
                    await asyncio.sleep(0.05)
                died.append((found - since).total_seconds() - pulse.still_s(began))
                await asyncio.sleep(PAUSE_S)
            finally:
                redis_server.resume()

        async def redis_forgets() -> None:
            redis_server.flush()

        def node_dies(node: Server) -> Callable[[], Awaitable[None]]:
            async def die() -> None:
                node.kill()
                await asyncio.to_thread(node.start)

            return die

        # by progress, not by seconds: the same faults meet the same stage on every machine
        faults = [
            (0.10, redis_forgets),
            (0.20, node_dies(a)),
            (0.35, redis_dies),
            (0.50, node_dies(b)),
            (0.65, redis_forgets),
            (0.70, redis_hangs),
            (0.80, node_dies(c)),
        ]

        async def hurt() -> None:
            for share, fault in faults:
                load.up_to = (share + AHEAD) * COMMANDS
                while load.sent < share * COMMANDS:  # progress of the other task
                    await asyncio.sleep(0.01)
                await fault()
            load.up_to = float("inf")

        async def everything() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(hurt())
                group.create_task(load.run(commands(COMMANDS, CONTACTS, random.Random(11))))

        asyncio.run(everything())
        settled(postgres_url)
    print(f"first commits without Redis after {died} s; batches sent again: {dict(load.refused)}")
    witness(postgres_url, journal, COMMANDS, CONTACTS)
    kora(postgres_url, "verify")
    assert len(died) == 2
    assert max(died) < LIMIT_S
    # every transaction takes lanes in one order; only contacts that two nodes create at one moment may meet the other way round
    assert postgres_server.log().count(DEADLOCK) - deadlocks <= 3
