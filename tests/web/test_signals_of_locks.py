"""The two signals of the fallback lock, driven by a Redis that really dies and a database that really makes locks wait."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing

import httpx
import pytest
from sqlalchemy import make_url

from app.bootstrap import Services, build
from app.clock import ManualClock
from tests.services import RedisServer
from tests.web.api_client import open_api
from tests.web.conftest import add_key, make_settings
from tests.web.safe_mode_driver import serve
from tests.web.signal_traffic import Act, World, drive, nothing

pytestmark = [pytest.mark.story("S-PC-04-002"), pytest.mark.story("S-PC-05-001")]


@pytest.fixture
async def services(
    sqlite_url: str, redis_url: str, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Services]:
    """One process with its locks on Redis; its loops are moved by hand."""
    monkeypatch.setattr("app.engine.redis_locks.TIMEOUT_S", 1.0)  # a machine that pauses is no Redis that fails
    built = await build(make_settings(sqlite_url, redis_url=redis_url), clock=manual_clock, logs=False)
    yield built
    await built.close()


@pytest.fixture
async def world(services: Services, client: httpx.AsyncClient, manual_clock: ManualClock) -> World:
    return World(await open_api(services, client), manual_clock, await add_key(services, None))


def without_redis(redis: RedisServer, n: int) -> Act:
    """So many requests while Redis is dead."""

    async def act(world: World) -> None:
        redis.kill()
        await world.ask(n)
        assert world.api.services.locks.mode == "fallback"

    return act


def kept_waiting(redis: RedisServer, n: int, seconds: float) -> Act:
    """The same, in one round whose locks wait until somebody else is done with the database."""

    async def act(world: World) -> None:
        redis.kill()
        file = make_url(world.api.services.settings.database_url).database
        assert file is not None
        taken = threading.Event()

        def hold() -> None:
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                taken.set()
                time.sleep(seconds)
                other.execute("ROLLBACK")

        await world.accept(n)
        holding = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.to_thread(taken.wait)
        await serve(world.api)
        await holding

    return act


async def test_the_rate_of_fallback_locks_follows_a_dead_redis(world: World, redis_server: RedisServer) -> None:
    async def warn(world: World) -> None:
        await world.ask(90)
        assert world.api.services.locks.mode == "primary"
        await without_redis(redis_server, 8)(world)

    await drive(world, "redis_fallback_rate", warn, without_redis(redis_server, 30), nothing)


@pytest.mark.paced
async def test_the_latency_of_fallback_locks_follows_what_they_wait_for(world: World, redis_server: RedisServer) -> None:
    warn, worse = kept_waiting(redis_server, 12, 0.7), kept_waiting(redis_server, 30, 1.4)
    await drive(world, "fallback_db_lock_latency", warn, worse, nothing)
