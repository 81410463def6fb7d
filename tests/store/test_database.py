"""One way to the database: what was written is durable, what failed left nothing, and no caller is left in doubt."""

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from app.errors import ConfigError, OutcomeUnknown, StorageUnavailable
from app.store import database as module
from app.store.database import CHECKPOINT_PAGES, RETRIES, Database, before_each_statement, run_in_thread
from app.store.tables import LaneLock, table
from tests.services import PostgresServer, busy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LOCK = table(LaneLock)


def put(conn: Connection, key: str = "k", at: datetime = NOW) -> str:
    conn.execute(insert(LOCK).values(lock_key=key, token="t", expires_at=at))
    return key


def keys(conn: Connection) -> list[str]:
    return list(conn.scalars(select(LOCK.c.lock_key).order_by(LOCK.c.lock_key)))


async def test_what_was_written_can_be_read(db: Database) -> None:
    assert await db.write(put, "k", at=NOW) == "k"
    assert await db.read(keys) == ["k"]


async def test_a_write_that_fails_leaves_nothing(db: Database) -> None:
    def fail(conn: Connection) -> None:
        put(conn)
        raise ValueError("after the insert")

    with pytest.raises(ValueError, match="after the insert"):
        await db.write(fail)
    assert await db.read(keys) == []


@pytest.mark.parametrize("how", ["read", "write"])
async def test_an_iterator_without_items_is_a_defect_that_shows(db: Database, how: str) -> None:
    """Not a wait for ever: nothing else of the loop would notice."""
    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError):
            await getattr(db, how)(lambda conn: next(iter(conn.execute(text("SELECT 1 WHERE 1 = 0")))))


async def test_what_a_read_changes_does_not_stay(db: Database) -> None:
    # SQLite refuses at once, PostgreSQL rolls back
    if db.is_sqlite:
        with pytest.raises(DBAPIError, match="readonly"):
            await db.read(put)
    else:
        await db.read(put)
    assert await db.read(keys) == []


async def test_a_violated_constraint_is_an_answer_and_is_not_retried(db: Database) -> None:
    await db.write(put)
    calls = []

    def again(conn: Connection) -> None:
        calls.append(1)
        put(conn)

    with pytest.raises(IntegrityError):
        await db.write(again)
    assert len(calls) == 1


async def test_fifty_writers_take_turns_and_lose_nothing(db: Database) -> None:
    await db.write(lambda conn: conn.execute(text("INSERT INTO audit_head (chain, number, hash) VALUES ('c', 0, '')")).close())

    def count(conn: Connection) -> None:
        number = conn.scalar(text("SELECT number FROM audit_head WHERE chain = 'c'" + ("" if db.is_sqlite else " FOR UPDATE")))
        conn.execute(text("UPDATE audit_head SET number = :n"), {"n": number + 1})

    await asyncio.gather(*(db.write(count) for _ in range(50)))
    assert await db.read(lambda conn: conn.scalar(text("SELECT number FROM audit_head"))) == 50


async def test_only_what_a_crash_may_forget_is_committed_without_waiting_for_the_disk(db: Database) -> None:
    def waits(conn: Connection) -> str:
        return str(conn.scalar(text("SHOW synchronous_commit")))

    if db.is_sqlite:
        await db.jot(put)
        assert await db.read(keys)
        return
    assert (await db.write(waits), await db.jot(waits), await db.write(waits)) == ("on", "off", "on")
    assert tuple(await asyncio.gather(db.jot(waits), db.write(waits))) == ("off", "on")


async def test_a_reader_does_not_hold_up_a_writer(db: Database) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow_sqlite(conn: Connection) -> list[str]:
        before = keys(conn)
        entered.set()
        release.wait(10)
        return before + keys(conn)

    def slow_postgres(conn: Connection) -> list[str]:
        conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        before = keys(conn)
        entered.set()
        conn.execute(text("SELECT pg_sleep(0.3)"))
        return before + keys(conn)

    reading = asyncio.create_task(db.read(slow_sqlite if db.is_sqlite else slow_postgres))
    await asyncio.to_thread(entered.wait, 5)
    await asyncio.wait_for(db.write(put), 5)
    release.set()
    assert await reading == []  # one snapshot, from before the write


async def test_a_cancelled_write_is_finished_first(db: Database) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(conn: Connection) -> None:
        put(conn)
        entered.set()
        if db.is_sqlite:
            release.wait(10)
        else:
            conn.execute(text("SELECT pg_sleep(0.2)"))

    writing = asyncio.create_task(db.write(slow))
    await asyncio.to_thread(entered.wait, 5)
    writing.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await db.read(keys) == ["k"]  # never in doubt: when the cancellation arrives, the outcome is in the database


async def test_a_serialisation_failure_is_tried_again(postgres_db: Database) -> None:
    calls = []

    def twice(conn: Connection) -> None:
        calls.append(1)
        put(conn, f"k-{len(calls)}")
        if len(calls) < 3:
            conn.execute(text("DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$"))

    await postgres_db.write(twice)
    assert await postgres_db.read(keys) == ["k-3"]


async def test_trying_again_is_bounded(postgres_db: Database) -> None:
    calls = []

    def always(conn: Connection) -> None:
        calls.append(1)
        conn.execute(text("DO $$ BEGIN RAISE EXCEPTION 'never' USING ERRCODE = '40P01'; END $$"))

    with pytest.raises(StorageUnavailable, match="never"):
        await postgres_db.write(always)
    assert len(calls) == RETRIES


async def test_a_connection_killed_before_the_commit_is_replaced(postgres_db: Database, postgres_server: PostgresServer) -> None:
    calls = []

    def killed_once(conn: Connection) -> None:
        put(conn)
        calls.append(1)
        if len(calls) == 1:
            _kill(postgres_server, conn)
            conn.execute(text("SELECT 1"))

    await postgres_db.write(killed_once)
    assert await postgres_db.read(keys) == ["k"]
    assert len(calls) == 2


async def test_a_connection_lost_while_committing_is_an_unknown_outcome(
    postgres_db: Database, postgres_server: PostgresServer
) -> None:
    def killed_at_the_end(conn: Connection) -> None:
        put(conn)
        _kill(postgres_server, conn)

    with pytest.raises(OutcomeUnknown):
        await postgres_db.write(killed_at_the_end)
    assert await postgres_db.read(keys) in ([], ["k"])  # a fresh connection tells which


def _kill(server: PostgresServer, conn: Connection) -> None:
    pid = conn.scalar(text("SELECT pg_backend_pid()"))
    server.execute(f"SELECT pg_terminate_backend({pid}, 5000)")


async def test_connections_that_the_server_closed_meanwhile_cost_no_attempt(
    postgres_server: PostgresServer, postgres_db: Database
) -> None:
    name = postgres_db.url.rsplit("/", 1)[1]
    await asyncio.gather(*(postgres_db.read(lambda conn: conn.scalar(text("SELECT pg_sleep(0.1)"))) for _ in range(4)))
    await asyncio.to_thread(
        postgres_server.execute, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    calls = []

    def counted(conn: Connection) -> list[str]:
        calls.append(1)
        put(conn)
        return keys(conn)

    assert await postgres_db.write(counted) == ["k"]
    assert len(calls) == 1


async def test_connections_that_end_at_any_moment_are_tried_again_or_told_and_never_a_defect(
    postgres_db: Database, postgres_server: PostgresServer
) -> None:
    name = make_url(postgres_db.url).database
    admin = await asyncpg.connect(postgres_server.url("postgres", user="postgres"))
    killed = asyncio.Event()

    async def kill() -> None:
        for _ in range(100):  # also those that are being made
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await asyncio.sleep(0.01)
        killed.set()

    async def work() -> None:
        while not killed.is_set():
            with suppress(StorageUnavailable, OutcomeUnknown):
                await postgres_db.write(lambda conn: conn.execute(text("SELECT 1")).scalar_one())

    try:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for job in (kill, *[work] * 12):
                group.create_task(job())
    finally:
        await admin.close()
    assert await postgres_db.read(lambda conn: conn.execute(text("SELECT 1")).scalar_one()) == 1


@pytest.mark.parametrize("then", ["another statement", "its commit"])
async def test_a_write_that_stands_still_lets_go_of_its_rows_and_is_tried_again_or_told(
    postgres_url: str, postgres_db: Database, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Its process is stopped with a row in its hands, as by SIGSTOP, and another process wants the row."""
    await postgres_db.write(put)
    monkeypatch.setattr(module, "STANDS_STILL_MS", 300)
    held, turns = threading.Event(), []

    def take(conn: Connection, token: str) -> str:
        return str(conn.scalar(update(LOCK).values(token=LOCK.c.token + token).returning(LOCK.c.token)))

    def stands_still(conn: Connection) -> str:
        taken = take(conn, "-mine")
        turns.append(taken)
        if len(turns) == 1:
            held.set()
            assert other.result(20) == "t-theirs"  # nothing of this process moves until the other one has the row
        return taken if then == "its commit" else str(conn.scalar(select(LOCK.c.token)))

    def beside() -> str:
        assert held.wait(20)
        return run_in_thread(postgres_url, lambda conn: take(conn, "-theirs"))

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(beside)
        if then == "its commit":  # whose answer is lost with the connection
            with pytest.raises(OutcomeUnknown):
                await postgres_db.write(stands_still)
        else:
            assert await postgres_db.write(stands_still) == "t-theirs-mine"
    assert turns == ["t-mine", "t-theirs-mine"][: 1 if then == "its commit" else 2]
    assert await postgres_db.read(lambda conn: conn.scalar(select(LOCK.c.token))) == ("t-theirs-mine" if turns[1:] else "t-theirs")


async def test_a_database_that_is_down_is_unavailable_and_comes_back(
    postgres_server: PostgresServer, postgres_db: Database
) -> None:
    await postgres_db.write(put)
    postgres_server.stop()
    try:
        with pytest.raises(StorageUnavailable):
            await postgres_db.read(keys)
    finally:
        postgres_server.start()
    assert await postgres_db.read(keys) == ["k"]


async def test_sqlite_locked_by_another_process_is_unavailable_and_comes_back(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 20)
    database = Database(sqlite_url)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            await database.write(put)
        other.execute("ROLLBACK")
        await database.write(put)
        assert await database.read(keys) == ["k"]
    finally:
        other.close()
        await database.close()


async def test_every_sqlite_connection_is_durable_and_strict(sqlite_db: Database) -> None:
    def pragmas(conn: Connection) -> list[object]:
        return [conn.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("synchronous", "journal_mode", "foreign_keys", "query_only")]

    assert await sqlite_db.write(pragmas) == [2, "wal", 1, 0]
    readers = await asyncio.gather(*(sqlite_db.read(pragmas) for _ in range(8)))
    assert readers == [[2, "wal", 1, 1]] * 8


async def test_every_postgres_connection_waits_for_the_disk_and_speaks_utc(postgres_db: Database) -> None:
    def settings(conn: Connection) -> list[object]:
        return [conn.scalar(text(f"SHOW {name}")) for name in ("synchronous_commit", "timezone", "transaction_isolation")]

    assert await postgres_db.write(settings) == ["on", "UTC", "read committed"]


async def test_a_time_comes_back_as_utc_whatever_its_offset(db: Database) -> None:
    local = datetime(2026, 11, 23, 9, 0, 0, 123456, tzinfo=timezone(timedelta(hours=-3)))
    await db.write(put, at=local)
    stored = await db.read(lambda conn: conn.scalar(select(LOCK.c.expires_at)))
    assert stored == local
    assert stored.tzinfo is UTC


async def test_a_time_without_offset_is_refused(db: Database) -> None:
    with pytest.raises(StatementError, match="naive datetime refused"):
        await db.write(put, at=datetime(2026, 11, 23, 12, 0))  # noqa: DTZ001 - that is what is refused


async def test_times_are_ordered_as_times(db: Database) -> None:
    moments = [NOW + timedelta(microseconds=step) for step in (0, 1, 999_999, 1_000_000, 86_400_000_000)]
    for number, moment in enumerate(reversed(moments)):
        await db.write(put, f"k{number}", at=moment)
    assert await db.read(lambda conn: list(conn.scalars(select(LOCK.c.expires_at).order_by(LOCK.c.expires_at)))) == moments
    later = await db.read(lambda conn: list(conn.scalars(select(LOCK.c.lock_key).where(LOCK.c.expires_at > moments[2]))))
    assert len(later) == 2


@pytest.mark.parametrize("url", ["mysql://localhost/x", "sqlite://", "sqlite:///:memory:"])
def test_a_database_that_cannot_keep_the_promises_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="KORA_DATABASE_URL"):
        Database(url)


def test_one_transaction_can_be_run_without_a_loop(database_url: str) -> None:
    assert run_in_thread(database_url, put) == "k"
    assert run_in_thread(database_url, keys) == ["k"]


async def test_and_also_from_inside_a_running_loop(database_url: str) -> None:
    assert run_in_thread(database_url, put) == "k"


def test_its_failure_reaches_the_caller(database_url: str) -> None:
    def fail(_conn: Connection) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_in_thread(database_url, fail)


async def test_a_listener_hears_a_notification(postgres_db: Database) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def hear(_conn: object, _pid: int, _channel: str, payload: str) -> None:
        heard.put_nowait(payload)

    async with postgres_db.listen_connection() as conn:
        await conn.add_listener("kora", hear)
        await postgres_db.write(lambda c: c.execute(text("NOTIFY kora, 'wake'")).close())
        assert await asyncio.wait_for(heard.get(), 5) == "wake"
        await conn.remove_listener("kora", hear)


def test_the_files_of_sqlite_stay_in_one_folder(sqlite_url: str, tmp_path: Path) -> None:
    run_in_thread(sqlite_url, put)
    assert {f.name for f in tmp_path.iterdir()} == {"kora.db"}  # closed properly: no -wal and -shm left behind


async def test_a_pool_without_a_free_connection_is_a_refusal_and_no_defect(postgres_url: str) -> None:
    """The caller backs off and tries again; the process goes on."""
    db = Database(postgres_url, pool_size=1)
    assert db._async is not None
    db._async.pool._timeout = 0.2  # type: ignore[attr-defined]  # the pool's own patience, shortened
    release = asyncio.Event()
    held = [asyncio.create_task(_hold(db, release)) for _ in range(9)]  # one, and eight of overflow
    await asyncio.sleep(0.3)
    with pytest.raises(StorageUnavailable, match="every connection"):
        await db.read(lambda conn: conn.execute(text("SELECT 1")).scalar())
    release.set()
    await asyncio.gather(*held)
    assert await db.read(lambda conn: conn.execute(text("SELECT 1")).scalar()) == 1
    await db.close()


async def _hold(db: Database, release: asyncio.Event) -> None:
    assert db._async is not None
    async with db._async.connect():
        await release.wait()


# --- a database that cannot work ----------------------------------------------------------------------------------------


def fill(conn: Connection) -> None:
    for n in range(50):
        put(conn, f"{n:03}" + "x" * 190)


async def test_a_full_disk_is_the_stores_state_and_not_a_defect(sqlite_db: Database) -> None:
    full = sqlite_db.write(
        lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {c.exec_driver_sql('PRAGMA page_count').scalar()}").close()
    )
    await full
    started = asyncio.get_running_loop().time()
    with pytest.raises(StorageUnavailable, match="full"):
        await sqlite_db.write(fill)
    assert asyncio.get_running_loop().time() - started < 2 * busy()  # at once: a full disk does not empty itself
    assert await sqlite_db.read(keys) == []
    await sqlite_db.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").close())
    await sqlite_db.write(fill)
    assert len(await sqlite_db.read(keys)) == 50


async def test_a_file_that_became_read_only_is_the_stores_state_and_a_readers_write_a_defect(sqlite_db: Database) -> None:
    await sqlite_db.write(lambda c: c.exec_driver_sql("PRAGMA query_only = ON").close())
    with pytest.raises(StorageUnavailable, match="readonly"):
        await sqlite_db.write(put)
    with pytest.raises(DBAPIError, match="readonly"):
        await sqlite_db.read(put)


@pytest.mark.parametrize("code", ["53100", "53200", "58030"])
async def test_a_server_without_disk_or_memory_is_the_stores_state(postgres_db: Database, code: str) -> None:
    with pytest.raises(StorageUnavailable):
        await postgres_db.write(lambda c: c.execute(text(f"DO $$ BEGIN RAISE 'no room' USING ERRCODE = '{code}'; END $$")).close())
    await postgres_db.write(put)


async def test_a_standby_is_the_stores_state(postgres_db: Database) -> None:
    def on_a_standby(conn: Connection) -> None:
        conn.execute(text("SET TRANSACTION READ ONLY"))
        put(conn)

    with pytest.raises(StorageUnavailable):
        await postgres_db.write(on_a_standby)


@pytest.mark.parametrize(("set_to", "held"), [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")])
async def test_our_connections_wait_for_the_disk_whatever_the_database_says(postgres_db: Database, set_to: str, held: str) -> None:
    name = make_url(postgres_db.url).database
    await postgres_db.write(lambda c: c.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = {set_to}')).close())
    fresh = Database(postgres_db.url, pool_size=1)
    try:
        assert await fresh.write(lambda c: c.scalar(text("SHOW synchronous_commit"))) == held
        assert await fresh.read(lambda c: c.scalar(text("SHOW synchronous_commit"))) == held
    finally:
        await fresh.close()


async def test_only_the_servers_writer_moves_the_wal_file(sqlite_db: Database) -> None:
    def at(conn: Connection) -> int:
        return int(conn.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar_one())

    beside = Database(sqlite_db.url, pool_size=1, checkpoints=False)
    try:
        assert [await d.write(at) for d in (sqlite_db, beside)] == [CHECKPOINT_PAGES, 0]
        assert [await d.read(at) for d in (sqlite_db, beside)] == [0, 0]
    finally:
        await beside.close()


async def test_work_that_can_wait_is_asked_to_before_each_statement_and_no_other(postgres_db: Database) -> None:
    asked: list[str] = []

    async def wait() -> None:
        await asyncio.sleep(0)
        asked.append("waited")

    def two(conn: Connection) -> list[int]:
        return [conn.execute(text(f"SELECT {n}")).scalar_one() for n in (1, 2)]

    with before_each_statement(wait):
        assert await postgres_db.read(two) == [1, 2]
        assert len(asked) == 2
        assert await postgres_db.write(two) == [1, 2]
        assert len(asked) == 4
    assert await postgres_db.write(two) == [1, 2]
    assert len(asked) == 4
