"""Per-contact locks (S-PC-05-001): the same semantics on Redis and in the database, and a circuit between them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy import Connection, text

from app.clock import ManualClock, SystemClock
from app.engine.locks import DatabaseLocks, LaneLocks
from app.engine.redis_locks import STABLE_FOR_S, RedisLocks
from app.store.database import Database, run_in_thread
from app.store.locks import acquire_locks, release_locks
from tests.services import RedisServer

pytestmark = pytest.mark.story("S-PC-05-001")


@pytest.fixture(params=["database", "redis"])
async def locks(
    request: pytest.FixtureRequest, db: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LaneLocks]:
    monkeypatch.setattr("app.engine.redis_locks.TIMEOUT_S", 2.0)  # a machine that pauses is no Redis that fails
    in_database = DatabaseLocks(db, SystemClock())
    if request.param == "database":
        yield in_database
        return
    on_redis = RedisLocks(redis_url, in_database)
    yield on_redis
    assert on_redis.mode == "primary"
    await on_redis.close()


async def test_a_batch_gets_what_is_free_and_no_more(locks: LaneLocks) -> None:
    first = await locks.acquire(["lane:t:a", "lane:t:b"])
    second = await locks.acquire(["lane:t:b", "lane:t:c"])
    assert first.keys == {"lane:t:a", "lane:t:b"}
    assert second.keys == {"lane:t:c"}
    await locks.release(first)
    third = await locks.acquire(["lane:t:b"])
    assert third.keys == {"lane:t:b"}


async def test_nobody_gives_back_what_another_owns(locks: LaneLocks) -> None:
    mine = await locks.acquire(["lane:t:a"])
    forged = type(mine)(token="somebody-else", keys=mine.keys, backend=mine.backend, mode=mine.mode, ms=0.0)
    await locks.release(forged)
    assert (await locks.acquire(["lane:t:a"])).keys == frozenset()


async def test_a_lock_whose_owner_died_expires(db: Database, manual_clock: ManualClock) -> None:
    locks = DatabaseLocks(db, manual_clock)
    await locks.acquire(["lane:t:a"])
    manual_clock.advance(seconds=14.9)
    assert (await locks.acquire(["lane:t:a"])).keys == frozenset()
    manual_clock.advance(seconds=0.2)
    assert (await locks.acquire(["lane:t:a"])).keys == {"lane:t:a"}


async def test_what_redis_still_holds_is_given_back_as_soon_as_it_answers_again(
    sqlite_db: Database, redis_server: RedisServer
) -> None:
    locks = RedisLocks(redis_server.url, DatabaseLocks(sqlite_db, SystemClock(), mode="fallback"))
    other: Redis = Redis.from_url(redis_server.url)
    try:
        mine = await locks.acquire(["lane:t:a"])
        await other.set("lane:t:other", "somebody-else", px=15_000)
        redis_server.pause()
        late = await locks.acquire(["lane:t:b", "lane:t:other"])  # Redis reads this once it goes on
        assert (mine.mode, late.mode) == ("primary", "fallback")
        await locks.release(mine)
        redis_server.resume()
        started = time.monotonic()
        async with asyncio.timeout(STABLE_FOR_S):
            while await other.exists("lane:t:a", "lane:t:b"):
                await asyncio.sleep(0.02)
        assert time.monotonic() - started < STABLE_FOR_S
        assert locks.mode == "fallback"  # before the circuit closes
        assert await other.get("lane:t:other") == b"somebody-else"
    finally:
        redis_server.resume()
        await locks.close()
        await other.aclose()


def test_a_node_that_stands_still_with_its_locks_open_keeps_only_its_own_lanes(postgres_url: str) -> None:
    now = SystemClock().now()
    later, past = now + timedelta(seconds=15), now - timedelta(seconds=1)
    old = ["lane:t:old", "lane:t:old-too"]
    run_in_thread(postgres_url, lambda conn: acquire_locks(conn, old, "dead", now - timedelta(minutes=1), past))
    taken, go_on = threading.Event(), threading.Event()

    def stands_still(conn: Connection) -> set[str]:
        found = acquire_locks(conn, ["lane:t:a", "lane:t:old"], "still", now, later, "n-1")
        taken.set()
        assert go_on.wait(20)
        return found

    def other(conn: Connection, *lanes: str) -> set[str]:
        conn.execute(text("SET LOCAL lock_timeout = '200ms'"))  # waiting for the other node would be an error
        return acquire_locks(conn, [f"lane:t:{lane}" for lane in lanes], "other", now, later, "n-2")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_in_thread, postgres_url, stands_still)
        assert taken.wait(20)
        try:
            found = run_in_thread(postgres_url, lambda conn: other(conn, "a", "b", "c", "old", "old-too"))
        finally:
            go_on.set()
        assert running.result(20) == {"lane:t:a", "lane:t:old"}
    assert found == {"lane:t:b", "lane:t:c", "lane:t:old-too"}
    assert run_in_thread(postgres_url, lambda conn: other(conn, "a", "old")) == set()
    run_in_thread(postgres_url, lambda conn: release_locks(conn, ["lane:t:a", "lane:t:b"], "still"))
    assert run_in_thread(postgres_url, lambda conn: other(conn, "a", "b")) == {"lane:t:a"}


def test_a_node_that_stands_still_while_it_gives_back_holds_up_nobody(postgres_url: str) -> None:
    now = SystemClock().now()
    later = now + timedelta(seconds=15)
    run_in_thread(postgres_url, lambda conn: acquire_locks(conn, ["lane:t:a"], "slow", now, later))
    given, go_on = threading.Event(), threading.Event()

    def stands_still(conn: Connection) -> None:
        release_locks(conn, ["lane:t:a"], "slow")
        given.set()
        assert go_on.wait(20)

    def other(conn: Connection, at: datetime) -> set[str]:
        conn.execute(text("SET LOCAL lock_timeout = '200ms'"))
        return acquire_locks(conn, ["lane:t:a", "lane:t:b"], f"other {at}", at, at + timedelta(seconds=15))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_in_thread, postgres_url, stands_still)
        assert given.wait(20)
        try:
            assert run_in_thread(postgres_url, lambda conn: other(conn, now)) == {"lane:t:b"}
            assert run_in_thread(postgres_url, lambda conn: other(conn, later)) == {
                "lane:t:b"
            }  # expired meanwhile, and still not waited for
        finally:
            go_on.set()
        running.result(20)
    assert run_in_thread(postgres_url, lambda conn: other(conn, now)) == {"lane:t:a"}


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_when_redis_stops_answering_the_database_takes_over_within_a_second(
    db: Database, redis_server: RedisServer, fault: str
) -> None:
    changes: list[str] = []
    locks = RedisLocks(
        redis_server.url, DatabaseLocks(db, SystemClock(), mode="fallback"), on_change=lambda mode, _: changes.append(mode)
    )
    try:
        assert (await locks.acquire(["lane:t:a"])).backend == "lock_acquired_primary"
        getattr(redis_server, fault)()
        started = time.perf_counter()
        grant = await locks.acquire(["lane:t:b"])
        assert time.perf_counter() - started < 1.0
        assert (str(grant.backend), grant.mode, set(grant.keys)) == ("lock_acquired_fallback", "fallback", {"lane:t:b"})
        redis_server.heal()
        async with asyncio.timeout(STABLE_FOR_S + 10):
            while locks.mode != "primary":
                await asyncio.sleep(0.05)
        assert changes == ["fallback", "primary"]
        assert (await locks.acquire(["lane:t:c"])).backend == "lock_acquired_primary"
    finally:
        await locks.close()
