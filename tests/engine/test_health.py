"""Health checks look at the real thing: a refused write, a dead Redis, both at once, a late delivery, a lane that stands still."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, insert, text

from app.bootstrap import Services, build
from app.clock import Clock, ManualClock, SystemClock
from app.engine.supervisor import Heartbeat
from app.errors import StorageUnavailable
from app.settings import Settings
from app.store.lanes import GLOBAL_SCOPE
from app.store.outbox import outbox_row
from app.store.tables import HealthSample, ModeRow, Outbox, table
from tests.builders import clinic, contact
from tests.services import PostgresServer, RedisServer


async def services_on(url: str, clock: Clock, redis_url: str | None = None) -> Services:
    settings = Settings(database_url=url, redis_url=redis_url, secret_key="x" * 40, env="test", node_id="n1", public_url="http://t")
    return await build(settings, clock=clock, logs=False)


@pytest.fixture
async def services(sqlite_url: str, manual_clock: ManualClock) -> AsyncIterator[Services]:
    built = await services_on(sqlite_url, manual_clock)
    await built.db.write(clinic, now=manual_clock.now())
    yield built
    await built.close()


async def red(services: Services) -> set[str]:
    return {name for name, check in (await services.health.look()).items() if not check.green}


async def test_all_is_green_where_nothing_is_wrong_and_each_look_is_kept(services: Services) -> None:
    assert await red(services) == set()
    await services.health.tick()

    def kept(conn: Connection) -> list[bool]:
        return list(conn.execute(text("SELECT green FROM health_sample")).scalars())

    assert [bool(g) for g in await services.db.read(kept)] == [True]
    assert services.health.window(timedelta(minutes=10)).checks == {
        "database_write", "channels", "outbox_age", "loops", "lane_wait", "disk_space",
    }  # fmt: skip


async def test_a_refused_write_is_red_and_a_sample_that_cannot_be_stored_is_missing(services: Services) -> None:
    refuse = "CREATE TRIGGER refuse_{0} BEFORE INSERT ON {0} BEGIN SELECT RAISE(ABORT, 'full'); END"

    def break_writes(conn: Connection) -> None:
        for name in ("health_probe", table(HealthSample).name):
            conn.execute(text(refuse.format(name)))

    await services.db.write(break_writes)
    assert await red(services) == {"database_write"}
    seen: list[int] = []
    services.health.on_sample.append(lambda: seen.append(1))
    assert await services.health.tick() == 1.0
    assert seen == []


async def test_a_delivery_that_should_have_left_is_red_after_two_minutes(services: Services, manual_clock: ManualClock) -> None:
    row = outbox_row(
        tenant_id="ten-sol", cause_id="c", step="s", kind="notice", body={}, correlation_id="x", now=manual_clock.now()
    )
    await services.db.write(lambda conn: conn.execute(insert(table(Outbox)).values({"attempts": 0, "status": "pending", **row})))
    manual_clock.advance(minutes=2)
    assert await red(services) == set()
    manual_clock.advance(seconds=1)
    assert await red(services) == {"outbox_age"}


async def test_a_lane_that_could_move_and_does_not_is_red_one_that_waits_for_something_is_not(
    services: Services, manual_clock: ManualClock
) -> None:
    since = manual_clock.now() - timedelta(minutes=6)
    await services.db.write(contact, contact_id="c-gap", waiting=1, wait_2=1, ready_since=since, blocked_by="gap")
    assert await red(services) == set()
    await services.db.write(contact, contact_id="c-still", waiting=1, wait_2=1, ready_since=since)
    assert await red(services) == {"lane_wait"}


async def test_a_loop_that_failed_its_last_round_and_a_closed_channel_are_red(services: Services) -> None:
    services.supervisor.heartbeats["outbox"] = Heartbeat(last_error="nothing works")
    for _ in range(5):
        services.outbox.circuits.failed("evolution:sol")
    found = await services.health.look()
    assert {name for name, check in found.items() if not check.green} == {"loops", "channels"}
    assert (found["loops"].detail, found["channels"].detail) == ("outbox", "evolution")


async def test_a_clock_that_is_off_is_red_once_and_set_right(postgres_url: str) -> None:
    clock = SystemClock()
    services = await services_on(postgres_url, clock)
    real, _ = clock.pair()
    clock.anchor(real - timedelta(minutes=2))  # as a machine that slept for two minutes
    assert await red(services) == {"clock_skew"}
    assert await red(services) == set()
    await services.close()


async def test_when_redis_and_the_database_were_both_silent_safe_mode_follows_for_everybody(
    postgres_server: PostgresServer, postgres_url: str, redis_server: RedisServer, manual_clock: ManualClock
) -> None:
    services = await services_on(postgres_url, manual_clock, redis_server.url)
    try:
        assert await red(services) == set()
        redis_server.kill()
        assert await red(services) == {"redis"}
        assert services.health.stores_down_at is None
        postgres_server.stop()
        with pytest.raises((StorageUnavailable, OSError)):
            await services.health.tick()
        assert services.health.stores_down_at == manual_clock.now()
    finally:
        postgres_server.start()
        redis_server.restart()
    await services.safe_mode.tick()

    def mode(conn: Connection) -> str:
        row = table(ModeRow)
        return str(conn.execute(row.select().where(row.c.scope == GLOBAL_SCOPE)).one().state)

    assert await services.db.read(mode) == "safe_mode_active"
    assert services.health.stores_down_at is None
    await services.close()
