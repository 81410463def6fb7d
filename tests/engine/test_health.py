"""Health checks look at the real thing: a refused write, a dead Redis, both at once, a late delivery, a lane that stands still."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.engine import make_url

from app.bootstrap import Services, build
from app.clock import Clock, ManualClock, SystemClock
from app.engine.stores_down import Marker
from app.engine.supervisor import Heartbeat
from app.errors import StorageError, StorageUnavailable
from app.settings import Settings
from app.store import settings
from app.store.episodes import open_scopes
from app.store.lanes import GLOBAL_SCOPE
from app.store.outbox import outbox_row
from app.store.people import By
from app.store.stabilisation import red_now
from app.store.tables import HealthSample, ModeRow, Outbox, table
from tests.builders import clinic, contact
from tests.services import PostgresServer, RedisServer


async def services_on(url: str, clock: Clock, redis_url: str | None = None) -> Services:
    given = Settings(database_url=url, redis_url=redis_url, secret_key="x" * 40, env="test", node_id="n1", public_url="http://t")
    return await build(given, clock=clock, logs=False)


@pytest.fixture
async def services(sqlite_url: str, manual_clock: ManualClock) -> AsyncIterator[Services]:
    built = await services_on(sqlite_url, manual_clock)
    await built.db.write(clinic, now=manual_clock.now())
    yield built
    await built.close()


async def red(services: Services) -> set[str]:
    return {name for name, check in (await services.health.look()).checks.items() if not check.green}


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
    found = (await services.health.look()).checks
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


# --- what is a clinic's own ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[int]]]:
    """A server that takes connections; its port, and how many bytes came in over each."""
    seen: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(len(await reader.read()))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


async def put(services: Services, scope: str, patch: dict[str, object]) -> None:
    await services.db.write(settings.save, scope, patch, actor="t", now=services.clock.now())
    services.channels.forget()


async def own_red(services: Services) -> dict[str, dict[str, str]]:
    return {scope: dict(red) for scope, red in (await services.health.look()).scopes.items()}


@pytest.mark.story("S-PC-03-004")
async def test_a_channel_is_connected_to_without_a_message_and_is_its_own_clinics(
    services: Services, manual_clock: ManualClock
) -> None:
    await services.db.write(clinic, tenant_id="ten-lua", now=manual_clock.now())
    for scope in ("ten-sol", "ten-lua", GLOBAL_SCOPE):
        await services.safe_mode.enter_by_hand(scope, "teste", By(actor="user:ana", now=manual_clock.now()))
    async with listening() as (port, seen):
        await put(services, "ten-sol", {"channels": {"ops": f"webhook:http://127.0.0.1:{port}/hook"}})
        assert await own_red(services) == {"global": {}, "ten-lua": {}, "ten-sol": {}}
        assert await own_red(services) == {"global": {}, "ten-lua": {}, "ten-sol": {}}
        await put(services, "ten-sol", {"evolution": {"base_url": f"http://127.0.0.1:{port}", "instance": "s", "api_key": "k"}})
        assert await own_red(services) == {"global": {}, "ten-lua": {}, "ten-sol": {}}
    assert seen == [0]  # once for both looks and both channels, and nothing was said
    manual_clock.advance(seconds=29)
    assert (await own_red(services))["ten-sol"] == {}  # seen less than 30 s ago
    manual_clock.advance(seconds=1)
    refused = {"channels": "evolution: ConnectionRefusedError, webhook: ConnectionRefusedError"}
    assert await own_red(services) == {"global": {}, "ten-lua": {}, "ten-sol": refused}
    await put(services, "ten-lua", {"contacts_channel": "whatsapp:"})
    assert await own_red(services) == {
        "global": {"channels": "2 of 2 clinics"},
        "ten-lua": {"channels": "whatsapp: whatsapp_not_configured"},
        "ten-sol": refused,
    }


@pytest.mark.story("S-PC-03-004")
async def test_a_backlog_is_its_own_clinics_and_not_everybodys_while_its_channel_is_dead(
    services: Services, manual_clock: ManualClock
) -> None:
    await services.db.write(clinic, tenant_id="ten-lua", now=manual_clock.now())
    for scope in ("ten-sol", "ten-lua", GLOBAL_SCOPE):
        await services.safe_mode.enter_by_hand(scope, "teste", By(actor="user:ana", now=manual_clock.now()))
    row = outbox_row(
        tenant_id="ten-sol", cause_id="c", step="s", kind="notice", body={}, correlation_id="x", now=manual_clock.now()
    )
    await services.db.write(lambda conn: conn.execute(insert(table(Outbox)).values({"attempts": 0, "status": "pending", **row})))
    manual_clock.advance(minutes=2, seconds=1)
    assert await own_red(services) == {"global": {"outbox_age": "121 s"}, "ten-lua": {}, "ten-sol": {"outbox_age": "121 s"}}
    await put(services, "ten-sol", {"contacts_channel": "whatsapp:"})
    found = await own_red(services)
    assert (found["global"], found["ten-lua"], set(found["ten-sol"])) == ({}, {}, {"channels", "outbox_age"})
    await services.health.tick()

    def folded(conn: Connection) -> list[list[str]]:
        policy = services.safe_mode.policy.window
        return [red_now(conn, scope, manual_clock.now(), policy) for scope in ("ten-sol", "ten-lua", "nobody")]

    assert await services.db.read(folded) == [["channels", "outbox_age"], [], ["outbox_age"]]


# --- what a restart must not forget -------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-05-001")
async def test_a_restart_between_the_silence_of_both_stores_and_its_entry_forgets_nothing(
    tmp_path: Path, sqlite_url: str, manual_clock: ManualClock
) -> None:
    since = manual_clock.now()
    note = Marker(Path(str(make_url(sqlite_url).database)).parent, sqlite_url)
    note.write(since)
    note.write(since + timedelta(minutes=1))  # the first one stays
    services = await services_on(sqlite_url, manual_clock)
    assert services.health.stores_down_at == since
    await services.safe_mode.tick()
    assert await services.db.read(open_scopes) == [GLOBAL_SCOPE]
    await services.close()
    again = await services_on(sqlite_url, manual_clock)
    assert (again.health.stores_down_at, note.read()) == (None, None)
    await again.close()


async def test_a_start_that_finds_both_stores_silent_leaves_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manual_clock: ManualClock
) -> None:
    monkeypatch.chdir(tmp_path)
    nobody = "postgresql://kora@127.0.0.1:9/kora"
    note = Marker(Path("var"), nobody)
    for redis_url, noted in ((None, None), ("redis://127.0.0.1:9", manual_clock.now())):
        with pytest.raises((StorageError, OSError)):
            await services_on(nobody, manual_clock, redis_url)
        assert note.read() == noted
