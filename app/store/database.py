"""One way to the database, for SQLite and PostgreSQL alike.

Store functions are plain functions `fn(conn, ...)` over a SQLAlchemy Core connection. `Database.read` and
`Database.write` run one of them in one transaction:

* SQLite: in a worker thread. All writes go through one connection and take turns (`BEGIN IMMEDIATE`, WAL,
  `synchronous=FULL`); readers have their own connections, opened query-only.
* PostgreSQL: on asyncpg, bridged by SQLAlchemy; READ COMMITTED for writes, `synchronous_commit=on`. Every transaction
  says whose rows it may touch (`tenancy.py`) in the same message as its BEGIN, so row-level security costs no round trip.

A write is shielded: when the caller is cancelled while the transaction is on its way, it is finished first and the
cancellation is raised afterwards, so a cancelled task never leaves an unknown outcome behind. A connection lost around
a commit raises `OutcomeUnknown`; serialisation failures, deadlocks and busy databases are retried a bounded number of
times and then raise `StorageUnavailable`. Constraint violations (`IntegrityError`) pass through: they are answers.
"""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only, greenlet_spawn

from app.errors import ConfigError, OutcomeUnknown, StorageUnavailable
from app.store import lines
from app.store.tenancy import SETTING, current_scope

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
CHECKPOINT_PAGES = 1_000
SQLITE_SOUND_FROM = (3, 51, 3)
"""From this version on several connections may write and checkpoint one WAL file; before it they could lose each other's pages."""
STANDS_STILL_MS = 3_000
"""PostgreSQL ends a write that waits so long for its process (stopped, or on a machine that stands still): others want its rows."""
RETRIES = 5
"""Attempts for a transaction that the database asked to repeat."""

_forgettable: ContextVar[bool] = ContextVar("kora_forgettable", default=False)

_writing: ContextVar[bool] = ContextVar("kora_writing", default=False)
"""Whether the transaction at hand may hold rows that others wait for."""

_reading: ContextVar[bool] = ContextVar("kora_reading", default=False)
"""Whether the transaction at hand may only read."""

_before: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("kora_before", default=None)
"""What is awaited before each statement."""

_REPEATABLE_SQLSTATES = frozenset({"40001", "40P01", "55P03", "57014"})
_UNABLE_SQLSTATES = frozenset({"53100", "53200", "53400", "25006", "58030"})
"""Disk full, out of memory, a limit of the server, read-only (a standby), error of its disk: nothing was done, and not soon."""
_UNABLE_SQLITE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM})
_BROKEN = ("database is locked", "busy", "connection is closed", "connection was closed", "another operation")
"""What drivers say without a code; the last one of a connection that ended before its answer was read."""
_CONNECTION_SQLSTATES = frozenset({"57P01", "57P02", "57P03", "08000", "08003", "08006", "53300", "25P03"})


class Database:
    """Owner of all connections of one process to one database."""

    def __init__(self, url: str, *, pool_size: int = 8, checkpoints: bool = True) -> None:
        """`checkpoints=False` for a process beside the server on the same SQLite file: only the server's writer moves the WAL."""
        parsed = make_url(url)
        self.url = url
        self.dialect = parsed.get_backend_name()
        self._async: AsyncEngine | None = None
        self._failures: tuple[type[Exception], ...] = (DBAPIError, OSError)
        """What a database raises that did not do what it was asked."""
        if self.dialect == "sqlite":
            self._writer = _sqlite_engine(parsed.set(drivername="sqlite"), query_only=False, pool_size=1, checkpoints=checkpoints)
            self._reader = _sqlite_engine(parsed.set(drivername="sqlite"), query_only=True, pool_size=pool_size, checkpoints=False)
            self._threads = ThreadPoolExecutor(pool_size, thread_name_prefix="sqlite-read")
            self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-write")
        elif self.dialect == "postgresql":
            self._async = create_async_engine(
                parsed.set(drivername="postgresql+asyncpg"),
                hide_parameters=True,
                pool_size=pool_size,
                max_overflow=8,
                pool_timeout=5,
                connect_args={
                    "connection_class": _walled_connection(),
                    "timeout": 5,
                    "command_timeout": 30,
                    "server_settings": {"timezone": "UTC", "application_name": "kora", "jit": "off", "random_page_cost": "1.1"},
                },
            )
            self._failures += _driver_errors()
            event.listen(self._async.sync_engine, "checkout", _refuse_closed)
            event.listen(self._async.sync_engine, "connect", _wait_for_the_disk)
            event.listen(self._async.sync_engine, "before_cursor_execute", _go_in_turn)
        else:
            raise ConfigError(f"KORA_DATABASE_URL: unsupported database {self.dialect!r}; use sqlite or postgresql")

    @property
    def is_sqlite(self) -> bool:
        """Whether there is one writer only."""
        return self.dialect == "sqlite"

    async def read(self, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in one read transaction and return what it returns."""
        if self._async is not None:
            engine = self._async.sync_engine

            def whole() -> T:
                with engine.connect() as conn:
                    return fn(conn, *args, **kwargs)

            return await self._guarded(lambda: greenlet_spawn(whole))

        def in_thread() -> T:
            with self._reader.connect() as conn:
                return fn(conn, *args, **kwargs)

        token = _reading.set(True)
        try:
            return await self._guarded(lambda: _in_pool(self._threads, in_thread))
        finally:
            _reading.reset(token)

    async def write(self, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in one write transaction, commit it durably, and return what it returns."""
        task = asyncio.ensure_future(self._write(fn, *args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen here: the caller is leaving, the outcome stands in the database
            raise

    async def jot(self, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`write` without waiting for the disk (PostgreSQL): for locks, which a crash of the database may forget."""
        token = _forgettable.set(True)
        try:
            return await self.write(fn, *args, **kwargs)
        finally:
            _forgettable.reset(token)

    async def _write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._async is not None:
            engine = self._async.sync_engine
            _writing.set(True)  # in the task that `write` made for it

            def whole() -> tuple[T, lines.Said]:
                with engine.connect() as conn:
                    result = lines.heard(conn, fn, *args, **kwargs)
                    try:
                        conn.commit()
                    except IntegrityError:
                        raise
                    except self._failures as error:
                        if _sqlstate(error) in _REPEATABLE_SQLSTATES | _UNABLE_SQLSTATES:
                            raise  # the server said that it did not commit
                        raise OutcomeUnknown("the connection was lost while committing") from error
                    return result

            # over the bridge once for the transaction, not once for each of its four steps
            done, said = await self._guarded(lambda: greenlet_spawn(whole))
            lines.write(said)
            return done

        def in_thread() -> tuple[T, lines.Said]:
            with self._writer.begin() as conn:
                return lines.heard(conn, fn, *args, **kwargs)

        done, said = await self._guarded(lambda: _in_pool(self._write_thread, in_thread))
        lines.write(said)
        return done

    async def _guarded(self, once: Callable[[], Awaitable[T]]) -> T:
        delay_s = 0.01
        for attempt in range(RETRIES):
            try:
                return await once()
            except IntegrityError:
                raise
            except PoolTimeout as error:
                # every connection is taken: nothing was begun, and whoever asked backs off instead of the process ending
                raise StorageUnavailable("every connection to the database is taken") from error
            except self._failures as error:
                if _unable(error):
                    raise StorageUnavailable(f"the database cannot work: {_brief(error)}") from error
                if not _transient(error) or attempt == RETRIES - 1:
                    if _transient(error):
                        raise StorageUnavailable(f"the database did not answer: {_brief(error)}") from error
                    raise
                await asyncio.sleep(delay_s * (0.5 + random.random()))
                delay_s *= 3
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def listen_connection(self) -> AsyncIterator[Any]:
        """A raw asyncpg connection outside the pool, for LISTEN; PostgreSQL only."""
        import asyncpg

        url = make_url(self.url).set(drivername="postgresql")
        conn = await asyncpg.connect(url.render_as_string(hide_password=False), timeout=5)
        try:
            yield conn
        finally:
            await conn.close(timeout=2)

    async def close(self) -> None:
        """Give every connection back."""
        if self._async is not None:
            await self._async.dispose()
            return
        self._write_thread.shutdown(wait=True)
        self._threads.shutdown(wait=True)
        self._reader.dispose()
        self._writer.dispose()


async def _in_pool(pool: ThreadPoolExecutor, fn: Callable[[], T]) -> T:
    """What `fn` returns or raises in a thread; a future cannot carry StopIteration, and whoever awaits it would wait for ever."""

    def whole() -> T:
        try:
            return fn()
        except StopIteration as error:
            raise RuntimeError("a store function ran out of items") from error

    return await asyncio.get_running_loop().run_in_executor(pool, whole)


def _refuse_closed(dbapi: Any, _record: Any, _proxy: Any) -> None:
    """A connection that the server closed is replaced, and all that are as old with it.

    The driver learns of it without asking, so this costs nothing; the pool's own check costs three round trips each time. What
    breaks later is met by the retries of `Database`.
    """
    if dbapi.driver_connection.is_closed():
        raise InvalidatePoolError("the server closed the connection")


@contextmanager
def before_each_statement(wait: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Within it, and in tasks that begin there, `wait` is awaited before each statement (PostgreSQL): for work that can wait."""
    token = _before.set(wait)
    try:
        yield
    finally:
        _before.reset(token)


def _go_in_turn(*_: Any) -> None:
    wait = _before.get()
    if wait is not None:
        await_only(wait())


_WAIT_FOR_THE_DISK = """
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')
"""


def _wait_for_the_disk(dbapi: Any, _record: Any) -> None:
    """A commit is an answer only when it is on disk: what the server, database or role set lower is raised to `on`.

    `remote_write`, `remote_apply` wait for more and stay.
    """
    dbapi.run_async(lambda conn: conn.execute(_WAIT_FOR_THE_DISK))


def _walled_connection() -> type[Any]:
    """An asyncpg connection whose transactions begin with their scope. Local: SQLite installations need no asyncpg."""
    import asyncpg

    class WalledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg publishes no types
        """`BEGIN` and `SET LOCAL` travel as one message: nobody can use the transaction before its scope is set."""

        async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
            if query.startswith("BEGIN"):
                # the value is a list of checked ids (`scope_value`), so nothing in it can end the literal
                query = f"{query} SET LOCAL {SETTING} = '{current_scope()}';"
                if _writing.get():
                    query += f" SET LOCAL idle_in_transaction_session_timeout = {STANDS_STILL_MS};"
                if _forgettable.get():
                    query += " SET LOCAL synchronous_commit = off;"
            return str(await super().execute(query, *args, timeout=timeout))

    return WalledConnection


def _sqlite_engine(url: Any, *, query_only: bool, pool_size: int, checkpoints: bool) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise ConfigError("KORA_DATABASE_URL: SQLite in memory is not durable; name a file")
    engine = create_engine(
        url,
        poolclass=QueuePool,
        hide_parameters=True,  # what families wrote has no place in an error's text, and so in the logs
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connect(dbapi: sqlite3.Connection, _record: Any) -> None:
        dbapi.isolation_level = None  # SQLAlchemy's begin event below says BEGIN, not the driver
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "foreign_keys=ON",
            "trusted_schema=OFF",
            "temp_store=MEMORY",
            f"query_only={'ON' if query_only else 'OFF'}",
            f"wal_autocheckpoint={CHECKPOINT_PAGES if checkpoints else 0}",
        ):
            dbapi.execute("PRAGMA " + pragma)
        level = dbapi.execute("PRAGMA synchronous").fetchone()[0]
        if level != 2:
            raise ConfigError(f"SQLite refused synchronous=FULL (it says {level}); the database would not be durable")

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        conn.exec_driver_sql("BEGIN" if query_only else "BEGIN IMMEDIATE")

    return engine


def _driver_errors() -> tuple[type[Exception], ...]:
    """What asyncpg raises while a connection is made, and when it ends between two messages: SQLAlchemy passes that on as it is."""
    import asyncpg

    return asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, InvalidRequestError


def _sqlstate(error: BaseException) -> str:
    original = getattr(error, "orig", error)
    return str(getattr(original, "sqlstate", "") or "")


def _transient(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return True
    state = _sqlstate(error)
    if state in _REPEATABLE_SQLSTATES or state in _CONNECTION_SQLSTATES:
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    text = str(getattr(error, "orig", error)).lower()
    return any(sign in text for sign in _BROKEN)


def _unable(error: BaseException) -> bool:
    """Whether the database says that it cannot do any work of this kind for now: no reason to try again at once, nor to end."""
    if _sqlstate(error) in _UNABLE_SQLSTATES:
        return True
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", None)
    if not isinstance(code, int):
        return False
    primary = code & 0xFF
    # our readers are read-only on purpose: a write through one of them is a defect of the caller
    return primary in _UNABLE_SQLITE or (primary == sqlite3.SQLITE_READONLY and not _reading.get())


def _brief(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0][:200]


def run_in_thread(database_url: str, fn: Callable[[Connection], T]) -> T:
    """Run one write transaction synchronously in a fresh loop (for the CLI and tests outside a loop)."""

    async def go() -> T:
        database = Database(database_url, pool_size=1)
        try:
            return await database.write(fn)
        finally:
            await database.close()

    with ThreadPoolExecutor(1, thread_name_prefix="run-in-thread") as pool:
        return pool.submit(lambda: asyncio.run(go())).result()
