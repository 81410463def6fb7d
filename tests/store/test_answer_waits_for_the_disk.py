"""Between the last statement of an acceptance and its answer the disk has it: seen below the database, not asked of its settings.

SQLite: in a process of its own, the file methods that SQLite calls are replaced by ones that note each call of `xSync`.
PostgreSQL: its WAL is flushed beyond the place where the transaction's last statement stood. Each proof is shown to fail
on a connection that does not wait.
"""

import asyncio
import ctypes
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection, text

from app.clock import SystemClock
from app.engine.intake import Intake
from app.engine.policies import PolicyCache
from app.metrics import Metrics
from app.store import inbox
from app.store.database import Database
from tests import builders
from tests.server import ROOT, environment
from tests.services import PostgresServer

ITEMS = 20
TENANT = "ten-sol"
X_SYNC = 5
"""Place of xSync among the pointers of `sqlite3_io_methods` (after iVersion, xClose, xRead, xWrite, xTruncate); sqlite3.h."""


class Vfs(ctypes.Structure):
    """The beginning of `sqlite3_vfs` (sqlite3.h)."""

    _fields_ = (
        ("iVersion", ctypes.c_int), ("szOsFile", ctypes.c_int), ("mxPathname", ctypes.c_int), ("pNext", ctypes.c_void_p),
        ("zName", ctypes.c_char_p), ("pAppData", ctypes.c_void_p), ("xOpen", ctypes.c_void_p),
    )  # fmt: skip


OPEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_kept: list[object] = []
"""What SQLite holds a pointer to must not be collected."""


def watch_syncs(note: Callable[[], None]) -> bool:
    """Call `note` after each sync of a file that SQLite opens from now on; False where its library cannot be reached."""
    import _sqlite3

    try:
        find = ctypes.CDLL(getattr(_sqlite3, "__file__", None)).sqlite3_vfs_find
    except (AttributeError, OSError):
        return False
    find.restype, find.argtypes = ctypes.POINTER(Vfs), [ctypes.c_char_p]
    vfs = find(None).contents
    open_honestly, pointer = OPEN(vfs.xOpen), ctypes.sizeof(ctypes.c_void_p)

    def opened(of: int, name: int, file: int, flags: int, out: "ctypes._Pointer[ctypes.c_int]") -> int:
        result = int(open_honestly(of, name, file, flags, out))
        methods = ctypes.c_void_p.from_address(file)
        if result == 0 and methods.value:
            table = (ctypes.c_void_p * 19).from_buffer_copy(ctypes.string_at(methods.value, 19 * pointer))
            sync_honestly = SYNC(table[X_SYNC] or 0)

            def synced(file: int, flags: int) -> int:
                done = int(sync_honestly(file, flags))
                note()
                return done

            ours = SYNC(synced)
            table[X_SYNC] = ctypes.cast(ours, ctypes.c_void_p).value
            _kept.extend((table, sync_honestly, ours))
            methods.value = ctypes.addressof(table)
        return result

    callback = OPEN(opened)
    _kept.extend((callback, open_honestly))
    vfs.xOpen = ctypes.cast(callback, ctypes.c_void_p).value
    return True


async def accept_some(database: Database, written: Callable[[Connection], None], answered: Callable[[], Awaitable[None]]) -> None:
    """Accept messages one by one; `written` is called after the last statement of each, `answered` once it has its answer."""
    honest = inbox.accept

    def accept(conn: Connection, *args: Any, **kwargs: Any) -> object:
        receipts = honest(conn, *args, **kwargs)
        written(conn)
        return receipts

    clock = SystemClock()
    await database.write(lambda conn: builders.tenant(conn, tenant_id=TENANT, now=clock.now()))
    with patch("app.engine.intake.accept", accept):
        intake = Intake(database, clock, PolicyCache(database), Metrics())
        for n in range(ITEMS):
            item = {"contact_id": "c-1", "external_id": f"w-{n}", "event_type": "message", "payload": {"text": "oi"}}
            asked = asyncio.ensure_future(intake.events(TENANT, [item | {"occurred_at": clock.now().isoformat()}]))
            while not asked.done():
                await intake.tick()
                await asyncio.sleep(0)
            assert (await asked)[0].number == n + 1
            await answered()


# --- SQLite -------------------------------------------------------------------------------------------------------------


async def trace_sqlite(url: str, careless: bool) -> list[str]:
    """What happened in which order: written, synced, answered."""
    trace: list[str] = []
    if not watch_syncs(lambda: trace.append("synced")):
        return ["unreachable"]
    database = Database(url)
    if careless:
        await database.write(lambda conn: None)
        raw = database._writer.raw_connection()
        raw.cursor().execute("PRAGMA synchronous=NORMAL")
        raw.close()

    async def answered() -> None:
        trace.append("answered")

    await accept_some(database, lambda conn: trace.append("written"), answered)
    await database.close()
    return trace


def waited(trace: list[str]) -> bool:
    """Whether each answer had a sync between its last statement and itself."""
    turns = " ".join(trace).split("written")[1:]
    return len(turns) == ITEMS and all("synced" in turn.split("answered")[0] for turn in turns)


@pytest.mark.parametrize("careless", [False, True])
def test_sqlite_has_synced_before_each_answer(sqlite_url: str, careless: bool) -> None:
    words = [sys.executable, "-m", __name__, sqlite_url, *(["careless"] if careless else [])]
    done = subprocess.run(words, cwd=ROOT, env=environment(sqlite_url), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    trace = json.loads(done.stdout.splitlines()[-1])
    if trace == ["unreachable"]:
        pytest.skip("this Python hides its SQLite: its calls cannot be seen (the PRAGMA is asserted in test_database.py)")
    assert waited(trace) is not careless, trace


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def durable_server() -> Iterator[PostgresServer]:
    """With fsync on; its WAL writer sleeps, so that only a commit flushes."""
    server = PostgresServer(durable=True)
    try:
        server.start()
        server.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        server.execute("SELECT pg_reload_conf()")
        server.create_database("kora")
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("careless", [False, True])
async def test_postgres_has_flushed_before_each_answer(durable_server: PostgresServer, careless: bool) -> None:
    from app.store.migrate import upgrade

    name = f"kora_{careless}".lower()
    await asyncio.to_thread(durable_server.create_database, name)
    database = Database(durable_server.url(name))
    behind: list[bool] = []
    at: list[str] = []

    def written(conn: Connection) -> None:
        if careless:
            conn.execute(text("SET LOCAL synchronous_commit = off"))
        at.append(str(conn.scalar(text("SELECT CAST(pg_current_wal_insert_lsn() AS text)"))))

    def flushed(conn: Connection) -> bool:
        return bool(conn.scalar(text("SELECT pg_current_wal_flush_lsn() > CAST(CAST(:at AS text) AS pg_lsn)"), {"at": at[-1]}))

    async def answered() -> None:
        behind.append(not await database.read(flushed))

    try:
        await upgrade(database)
        await accept_some(database, written, answered)
    finally:
        await database.close()
    assert len(behind) == len(at) == ITEMS
    assert any(behind) is careless


if __name__ == "__main__":
    print(json.dumps(asyncio.run(trace_sqlite(sys.argv[1], len(sys.argv) > 2))))
