"""Per-contact locks (S-PC-05-001): the same semantics on Redis and in the database, and a circuit between them."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from app.clock import ManualClock, SystemClock
from app.engine.locks import DatabaseLocks, LaneLocks
from app.engine.redis_locks import STABLE_FOR_S, RedisLocks
from app.store.database import Database
from tests.services import RedisServer

pytestmark = pytest.mark.story("S-PC-05-001")


@pytest.fixture(params=["database", "redis"])
async def locks(request: pytest.FixtureRequest, db: Database, redis_url: str) -> AsyncIterator[LaneLocks]:
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
