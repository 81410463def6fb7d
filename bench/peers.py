"""A bare ordered job on other tools, on the same PostgreSQL: what a queue costs when the job leaves next to nothing behind.

The job: `count` jobs over `keys` keys; each adds one to its key's counter and notes its number, in one transaction; a
key's jobs must run in the order of their numbers. There is no idempotency key, no ledger, no message and no event: what our
own engine leaves behind for each command is done by the same tools in `bench.same_job`. Every peer is measured from the
first enqueue to the last commit, and its order is verified afterwards from what it noted.

Jobs come from several senders at once, as a clinic's messages and programs do. Peers are one process each, as the engine is.
Their workers keep their connections, so nothing is reset between two jobs. Each begins with a warm-up that is not counted,
`WARM_ROUNDS` jobs of every key, after which the tables are analyzed: on an empty database the planner takes every table for
a small one, and reads it whole. The engine has the same beginning.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import procrastinate

SENDERS: Final = 4
"""Each with its own keys, so that a key's jobs are enqueued in their order; fewer where so many cannot share the keys evenly."""
ENQUEUE_BATCH: Final = 200
WARM_ROUNDS: Final = 2
WORKERS: Final = 16
WORKERS_OF_FIFTY: Final = 4
IDLE_S: Final = 0.002
"""How long a worker that found nothing to claim waits."""

_SCHEMA = """
CREATE TABLE job (id bigserial PRIMARY KEY, key text NOT NULL, number int NOT NULL, body text NOT NULL, done_at timestamptz);
CREATE INDEX job_front ON job (key, number) WHERE done_at IS NULL;
CREATE TABLE lane (key text PRIMARY KEY, tail int NOT NULL DEFAULT 0, waiting int NOT NULL DEFAULT 0);
CREATE INDEX lane_waiting ON lane (key) WHERE waiting > 0;
CREATE TABLE noted (at bigserial PRIMARY KEY, key text NOT NULL, number int NOT NULL);
"""


def phases(count: int, keys: int) -> tuple[range, range]:
    """The jobs of the warm-up and those that are measured, by their running number."""
    warm = WARM_ROUNDS * keys
    return range(warm), range(warm, warm + count)


async def send(numbers: range, keys: int, enqueue: Callable[[range], Awaitable[Any]]) -> None:
    """All of these numbers, by several senders at once, as many at a time as are enqueued in one transaction."""
    senders = math.gcd(keys, SENDERS)

    async def sender(mine: range) -> None:
        for offset in range(0, len(mine), ENQUEUE_BATCH):
            await enqueue(mine[offset : offset + ENQUEUE_BATCH])

    async with asyncio.TaskGroup() as group:
        for first in range(senders):
            group.create_task(sender(numbers[first::senders]))


def jobs(numbers: range, keys: int) -> list[tuple[str, int, str]]:
    """(key, number, body), the keys taking turns."""
    return [(f"c-{n % keys}", n // keys + 1, f"mensagem {n}") for n in numbers]


async def prepare(url: str, keys: int) -> None:
    """The tables, and a lane for every key."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute(_SCHEMA)
        await conn.executemany("INSERT INTO lane (key) VALUES ($1)", [(f"c-{n}",) for n in range(keys)])
    finally:
        await conn.close()


async def one_per_transaction(url: str, count: int, keys: int) -> float:
    """Jobs per second of the worker most teams write first: SKIP LOCKED on the key, one job per transaction."""
    return await _handwritten(url, count, keys, per_transaction=1)


async def fifty_per_transaction(url: str, count: int, keys: int) -> float:
    """Jobs per second of its better sibling: fifty keys claimed at once, the front job of each done one by one."""
    return await _handwritten(url, count, keys, per_transaction=50)


async def fifty_at_once(url: str, count: int, keys: int) -> float:
    """The same where the effect happens to be one statement for all fifty: no job has code of its own."""
    return await _handwritten(url, count, keys, per_transaction=50, together=True)


async def _handwritten(url: str, count: int, keys: int, *, per_transaction: int, together: bool = False) -> float:
    pool = await asyncpg.create_pool(url, min_size=WORKERS + 1, max_size=WORKERS + 1)
    workers = WORKERS if per_transaction == 1 else WORKERS_OF_FIFTY
    try:
        took_s = await drained(
            pool,
            phases(count, keys),
            keys,
            workers,
            lambda batch: _enqueue(pool, jobs(batch, keys)),
            lambda conn: _claim(conn, per_transaction, together=together),
        )
        await _verify(pool, count + WARM_ROUNDS * keys)
        return count / took_s
    finally:
        await pool.close()


async def drained(
    pool: Any,
    both: tuple[range, range],
    keys: int,
    workers: int,
    enqueue: Callable[[range], Awaitable[Any]],
    claim: Callable[[Any], Awaitable[int]],
) -> float:
    """Seconds from the first enqueue to the last commit: `workers` call `claim` in transactions until all jobs are done."""
    warm, measured = both
    await _drain(pool, warm, keys, workers, enqueue, claim)
    await pool.execute("ANALYZE")
    started = time.perf_counter()
    await _drain(pool, measured, keys, workers, enqueue, claim)
    return time.perf_counter() - started


async def _drain(
    pool: Any,
    numbers: range,
    keys: int,
    workers: int,
    enqueue: Callable[[range], Awaitable[Any]],
    claim: Callable[[Any], Awaitable[int]],
) -> None:
    left = [len(numbers)]

    async def worker() -> None:
        async with pool.acquire() as conn:
            while left[0] > 0:
                async with conn.transaction():
                    done = await claim(conn)
                left[0] -= done
                if done == 0:
                    await asyncio.sleep(IDLE_S)

    async with asyncio.TaskGroup() as group:
        group.create_task(send(numbers, keys, enqueue))
        for _ in range(workers):
            group.create_task(worker())


async def _enqueue(pool: Any, part: list[tuple[str, int, str]]) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(
            "INSERT INTO job (key, number, body) SELECT * FROM unnest($1::text[], $2::int[], $3::text[])",
            [key for key, _, _ in part],
            [number for _, number, _ in part],
            [body for _, _, body in part],
        )
        await conn.execute(
            "WITH more AS (SELECT key, count(*) AS n FROM unnest($1::text[]) AS key GROUP BY key),"
            " locked AS (SELECT lane.key, more.n FROM lane JOIN more USING (key) ORDER BY lane.key FOR UPDATE OF lane)"
            " UPDATE lane SET waiting = waiting + locked.n FROM locked WHERE lane.key = locked.key",
            [key for key, _, _ in part],
        )


async def _claim(conn: Any, limit: int, *, together: bool) -> int:
    """Claim up to `limit` keys and do the front job of each; how many were done."""
    mine = await conn.fetch("SELECT key FROM lane WHERE waiting > 0 LIMIT $1 FOR UPDATE SKIP LOCKED", limit)
    if not mine:
        return 0
    # a statement of its own: one that locks and reads at once reads what was there before the lock, and does jobs twice
    rows = await conn.fetch(
        "SELECT front.id, front.key, front.number FROM unnest($1::text[]) AS mine (key) CROSS JOIN LATERAL"
        " (SELECT id, key, number FROM job WHERE job.key = mine.key AND done_at IS NULL ORDER BY number LIMIT 1) AS front",
        [r["key"] for r in mine],
    )
    if not together:
        for row in rows:
            await conn.execute("UPDATE lane SET tail = tail + 1, waiting = waiting - 1 WHERE key = $1", row["key"])
            await conn.execute("INSERT INTO noted (key, number) VALUES ($1, $2)", row["key"], row["number"])
            await conn.execute("UPDATE job SET done_at = now() WHERE id = $1", row["id"])
        return len(rows)
    keys, numbers = [r["key"] for r in rows], [r["number"] for r in rows]
    await conn.execute("UPDATE lane SET tail = tail + 1, waiting = waiting - 1 WHERE key = ANY($1::text[])", keys)
    await conn.execute("INSERT INTO noted (key, number) SELECT * FROM unnest($1::text[], $2::int[])", keys, numbers)
    await conn.execute("UPDATE job SET done_at = now() WHERE id = ANY($1::bigint[])", [r["id"] for r in rows])
    return len(rows)


async def with_procrastinate(url: str, count: int, keys: int) -> float:
    """Jobs per second of procrastinate with a `lock` per key, deferred in batches."""
    pool = await asyncpg.create_pool(url, min_size=4, max_size=WORKERS, connection_class=kept_connection())

    async def job(key: str, number: int) -> None:
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute("UPDATE lane SET tail = tail + 1 WHERE key = $1", key)
            await conn.execute("INSERT INTO noted (key, number) VALUES ($1, $2)", key, number)

    async def enqueue(defer: Defer, batch: range) -> None:
        await defer([(key, {"key": key, "number": number}) for key, number, _body in jobs(batch, keys)])

    try:
        took_s = await procrastinated(url, phases(count, keys), keys, job, enqueue)
        await _verify(pool, count + WARM_ROUNDS * keys)
        return count / took_s
    finally:
        await pool.close()


Defer = Callable[[list[tuple[str, dict[str, Any]]]], Awaitable[None]]
"""Puts jobs into procrastinate's queue: (lock, arguments) of each."""


async def procrastinated(
    url: str,
    both: tuple[range, range],
    keys: int,
    work: Callable[..., Awaitable[None]],
    enqueue: Callable[[Defer, range], Awaitable[None]],
) -> float:
    """Seconds from the first enqueue to the last job done, by one worker of procrastinate that runs ten jobs at a time.

    Twenty at a time were no faster.
    """
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=20))
    finished, left = asyncio.Event(), [0]

    @app.task(name="job", queue="ordered")
    async def job(**arguments: Any) -> None:
        await work(**arguments)
        left[0] -= 1
        if left[0] == 0:
            finished.set()

    async def defer(batch: list[tuple[str, dict[str, Any]]]) -> None:
        # the task's own batch_defer gives all of a batch one lock
        made = [job.configure(lock=lock).make_new_job(**arguments) for lock, arguments in batch]
        await app.job_manager.batch_defer_jobs_async(made)

    async def drain(numbers: range) -> None:
        left[0] = len(numbers)
        finished.clear()
        await send(numbers, keys, lambda batch: enqueue(defer, batch))
        await finished.wait()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(queues=["ordered"], concurrency=10, fetch_job_polling_interval=0.05, install_signal_handlers=False)
        )
        warm, measured = both
        await drain(warm)
        await app.connector.execute_query_async("ANALYZE")
        started = time.perf_counter()
        await drain(measured)
        took_s = time.perf_counter() - started
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    return took_s


def kept_connection() -> type[Any]:
    """A connection that is given back to its pool as it is: the usual reset is a round trip, and a job leaves nothing to reset."""

    class KeptConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg publishes no types
        """No reset."""

        def get_reset_query(self) -> str:
            return ""

    return KeptConnection


async def raw_writes(url: str, count: int, keys: int) -> float:
    """Rows per second of the driver alone: one table, 256 rows per statement, one commit each."""
    conn = await asyncpg.connect(url)
    try:
        wanted = jobs(range(count), keys)
        started = time.perf_counter()
        for offset in range(0, count, 256):
            part = wanted[offset : offset + 256]
            await conn.execute(
                "INSERT INTO job (key, number, body) SELECT * FROM unnest($1::text[], $2::int[], $3::text[])",
                [key for key, _, _ in part],
                [number for _, number, _ in part],
                [body for _, _, body in part],
            )
        return count / (time.perf_counter() - started)
    finally:
        await conn.close()


async def _verify(pool: Any, count: int) -> None:
    """Every job once, each key's in order. Raises AssertionError with what was found."""
    rows = await pool.fetch("SELECT key, number FROM noted ORDER BY at")
    assert len(rows) == count, f"{len(rows)} of {count} jobs were done"
    seen: dict[str, int] = {}
    for row in rows:
        assert row["number"] == seen.get(row["key"], 0) + 1, f"{row['key']}: {row['number']} after {seen.get(row['key'], 0)}"
        seen[row["key"]] = row["number"]


ONE: Final = "SKIP LOCKED, one job per transaction"
FIFTY: Final = "SKIP LOCKED, fifty per transaction, job by job"
FIFTY_TOGETHER: Final = "SKIP LOCKED, fifty per transaction, one statement for all"
PROCRASTINATE: Final = "procrastinate, lock per key"
DRIVER: Final = "driver alone, rows in batches of 256"


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool at work: `prepare(url, keys)` makes its tables, `run(url, count, keys)` says how many jobs a second it did."""

    prepare: Callable[[str, int], Coroutine[Any, Any, None]]
    run: Callable[[str, int, int], Coroutine[Any, Any, float]]
    slow: bool = False
    """Gets a tenth of the jobs."""


BARE: Final = {
    ONE: Peer(prepare, one_per_transaction),
    FIFTY: Peer(prepare, fifty_per_transaction),
    FIFTY_TOGETHER: Peer(prepare, fifty_at_once),
    PROCRASTINATE: Peer(prepare, with_procrastinate, slow=True),
}
