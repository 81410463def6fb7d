"""The product as its users meet it: a `kora serve` process, HTTP in front of everything.

`batches` posts commands in batches and counts until the last one is committed. `acks` offers single POSTs at a steady
rate and says how long their answers took, each measured from the moment it was due, so a late sender hides nothing.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx

from app.clock import SystemClock
from app.store.tenancy import EVERYONE, SETTING
from bench.peers import phases, send
from tests.server import Server, init

CONNECTIONS = 64


async def batches(database_url: str, count: int, keys: int) -> float:
    """Commands per second, first byte sent to last one committed; after the warm-up that the peers have too (PostgreSQL)."""
    document = init(database_url)
    key = document["keys"]["tenant"]
    warm, measured = phases(count, keys)
    with Server(database_url) as server:
        async with httpx.AsyncClient(
            base_url=server.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=60
        ) as client:
            limit = await client.put(f"/api/v1/settings/{document['tenant']['slug']}", json={"max_queue_size": 10_000_000})
            limit.raise_for_status()
            conn = await asyncpg.connect(database_url, server_settings={SETTING: EVERYONE})
            await _post(client, conn, warm, keys)
            await conn.execute("ANALYZE")
            took_s = await _post(client, conn, measured, keys)
            committed = await conn.fetchval("SELECT count(*) FROM ledger")
            await conn.close()
            assert committed == len(warm) + count, f"{committed} of {len(warm) + count} commands were committed"
            return count / took_s


async def _post(client: httpx.AsyncClient, conn: Any, numbers: range, keys: int) -> float:
    """Seconds until all of these commands are committed."""
    moment, started = _now(), time.perf_counter()

    async def post(batch: range) -> None:
        commands = [
            {
                "contact_id": f"c-{n % keys}",
                "command_type": "follow_up",
                "conversation_version": 1,
                "as_of": moment,
                "occurred_at": moment,
                "idempotency_key": f"k-{n}",
                "payload": {"text": f"mensagem {n}"},
            }
            for n in batch
        ]
        answer = await client.post("/api/v1/commands", json={"commands": commands})
        answer.raise_for_status()

    await send(numbers, keys, post)
    # another process's queue can only be asked for, and a page of it would cost the server more than the number does
    while await conn.fetchval("SELECT sum(waiting) FROM lane"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Acks:
    """Answers to single POSTs: how many in a second, and the quantiles of their time in ms."""

    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


WARM_S = 5.0


async def acks(database_url: str, rate: int, seconds: float, contacts: int, settle: Callable[[], None]) -> Acks:
    """Single message events at a steady rate over plain sockets (a full HTTP client would be the bottleneck).

    `settle` is called after the first seconds, which are not counted.
    """
    document = init(database_url)
    with Server(database_url) as server:
        address = urlsplit(server.url)
        free: asyncio.LifoQueue[_Line] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            free.put_nowait(_Line(reader, writer, f"{address.netloc}", document["keys"]["tenant"]))
        await _offer(free, rate, WARM_S, contacts, "warm")
        await asyncio.to_thread(settle)
        started = time.perf_counter()
        times = sorted(await _offer(free, rate, seconds, contacts, "run"))
        took_s = time.perf_counter() - started
        while not free.empty():
            free.get_nowait().writer.close()
    quantile = [times[min(len(times) - 1, int(len(times) * share))] * 1000 for share in (0.50, 0.95, 0.99)]
    return Acks(len(times) / took_s, *quantile)


async def _offer(free: "asyncio.LifoQueue[_Line]", rate: int, seconds: float, contacts: int, name: str) -> list[float]:
    times: list[float] = []

    async def one(number: int, due: float) -> None:
        line = await free.get()
        await line.post(
            {
                "contact_id": f"c-{number % contacts}",
                "external_id": f"{name}-{number}",
                "event_type": "message",
                "occurred_at": _now(),
                "payload": {"text": "bom dia, tudo bem?"},
            }
        )
        times.append(time.perf_counter() - due)
        free.put_nowait(line)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = started + number / rate
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            group.create_task(one(number, due))
    return times


@dataclass(slots=True)
class _Line:
    """One kept connection that speaks just enough HTTP."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str
    key: str

    async def post(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        head = (
            f"POST /api/v1/events HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = answer.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await self.reader.readexactly(int(headers["content-length"]))
        assert " 202 " in f"{status} ", status


def _now() -> str:
    return (SystemClock().now() - timedelta(seconds=1)).isoformat()
