"""The same ordered job on other tools, on the same PostgreSQL: what a team would write or take instead.

The job: `JOBS` jobs over `KEYS` keys; each adds one to its key's counter and notes its number, in one transaction; a
key's jobs must run in the order of their numbers. Every peer is measured from the first enqueue to the last commit, and
its order is verified afterwards from what it noted.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import asyncpg
import procrastinate

ENQUEUE_BATCH: Final = 200
WORKERS: Final = 16

_SCHEMA = """
CREATE TABLE job (id bigserial PRIMARY KEY, key text NOT NULL, number int NOT NULL, body text NOT NULL, done_at timestamptz);
CREATE INDEX job_front ON job (key, number) WHERE done_at IS NULL;
CREATE TABLE lane (key text PRIMARY KEY, tail int NOT NULL DEFAULT 0, waiting int NOT NULL DEFAULT 0);
CREATE INDEX lane_waiting ON lane (key) WHERE waiting > 0;
CREATE TABLE noted (at bigserial PRIMARY KEY, key text NOT NULL, number int NOT NULL);
"""


def jobs(count: int, keys: int) -> list[tuple[str, int, str]]:
    """(key, number, body), the keys taking turns."""
    return [(f"c-{n % keys}", n // keys + 1, f"mensagem {n}") for n in range(count)]


async def one_per_transaction(dsn: str, count: int, keys: int) -> float:
    """Jobs per second of the worker most teams write first: SKIP LOCKED on the key, one job per transaction."""
    return await _handwritten(dsn, count, keys, per_transaction=1)


async def fifty_per_transaction(dsn: str, count: int, keys: int) -> float:
    """Jobs per second of its better sibling: fifty keys claimed at once, the front job of each done one by one."""
    return await _handwritten(dsn, count, keys, per_transaction=50)


async def fifty_at_once(dsn: str, count: int, keys: int) -> float:
    """The same where the effect happens to be one statement for all fifty: no job has code of its own."""
    return await _handwritten(dsn, count, keys, per_transaction=50, together=True)


async def _handwritten(dsn: str, count: int, keys: int, *, per_transaction: int, together: bool = False) -> float:
    pool = await asyncpg.create_pool(dsn, min_size=WORKERS, max_size=WORKERS)
    try:
        await pool.execute(_SCHEMA)
        await pool.executemany("INSERT INTO lane (key) VALUES ($1)", [(f"c-{n}",) for n in range(keys)])
        left = [count]

        async def worker() -> None:
            while left[0] > 0:
                async with pool.acquire() as conn, conn.transaction():
                    done = await _claim(conn, per_transaction, together=together)
                left[0] -= done
                if done == 0:
                    await asyncio.sleep(0.002)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(_enqueue(pool, jobs(count, keys)))
            for _ in range(WORKERS if per_transaction == 1 else 4):
                group.create_task(worker())
        took_s = time.perf_counter() - started
        await _verify(pool, count)
        return count / took_s
    finally:
        await pool.close()


async def _enqueue(pool: Any, wanted: list[tuple[str, int, str]]) -> None:
    for offset in range(0, len(wanted), ENQUEUE_BATCH):
        part = wanted[offset : offset + ENQUEUE_BATCH]
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


async def with_procrastinate(dsn: str, count: int, keys: int) -> float:
    """Jobs per second of procrastinate with a `lock` per key."""
    pool = await asyncpg.create_pool(dsn, min_size=4, max_size=WORKERS)
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=4, max_size=20))
    finished, left = asyncio.Event(), [count]

    @app.task(name="job", queue="ordered")
    async def job(key: str, number: int) -> None:
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute("UPDATE lane SET tail = tail + 1 WHERE key = $1", key)
            await conn.execute("INSERT INTO noted (key, number) VALUES ($1, $2)", key, number)
        left[0] -= 1
        if left[0] == 0:
            finished.set()

    try:
        await pool.execute(_SCHEMA)
        await pool.executemany("INSERT INTO lane (key) VALUES ($1)", [(f"c-{n}",) for n in range(keys)])
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            worker = asyncio.create_task(
                app.run_worker_async(
                    queues=["ordered"], concurrency=20, fetch_job_polling_interval=0.05, install_signal_handlers=False
                )
            )
            started = time.perf_counter()
            for key, number, _body in jobs(count, keys):
                await job.configure(lock=key).defer_async(key=key, number=number)
            await finished.wait()
            took_s = time.perf_counter() - started
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        await _verify(pool, count)
        return count / took_s
    finally:
        await pool.close()


async def raw_writes(dsn: str, count: int, keys: int) -> float:
    """Rows per second of the driver alone: one table, 256 rows per statement, one commit each."""
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
    try:
        await pool.execute(_SCHEMA)
        wanted = jobs(count, keys)
        started = time.perf_counter()
        for offset in range(0, count, 256):
            part = wanted[offset : offset + 256]
            await pool.execute(
                "INSERT INTO job (key, number, body) SELECT * FROM unnest($1::text[], $2::int[], $3::text[])",
                [key for key, _, _ in part],
                [number for _, number, _ in part],
                [body for _, _, body in part],
            )
        return count / (time.perf_counter() - started)
    finally:
        await pool.close()


async def _verify(pool: Any, count: int) -> None:
    """Every job once, each key's in order. Raises AssertionError with what was found."""
    rows = await pool.fetch("SELECT key, number FROM noted ORDER BY at")
    assert len(rows) == count, f"{len(rows)} of {count} jobs were done"
    seen: dict[str, int] = {}
    for row in rows:
        assert row["number"] == seen.get(row["key"], 0) + 1, f"{row['key']}: {row['number']} after {seen.get(row['key'], 0)}"
        seen[row["key"]] = row["number"]


Peer = Callable[[str, int, int], Coroutine[Any, Any, float]]
PEERS: Final[dict[str, Peer]] = {
    "SKIP LOCKED, one job per transaction": one_per_transaction,
    "SKIP LOCKED, fifty per transaction, job by job": fifty_per_transaction,
    "SKIP LOCKED, fifty per transaction, one statement for all": fifty_at_once,
    "procrastinate, lock per key": with_procrastinate,
    "driver alone, rows in batches of 256": raw_writes,
}
SLOW: Final = frozenset({"procrastinate, lock per key"})
"""Peers that get a tenth of the jobs."""
