"""Fixtures that every test may ask for: real databases, a real Redis, a clock that only the test moves.

`db` and `database_url` run each test twice, on SQLite and on PostgreSQL (`-k sqlite` picks one), every time on a fresh
database with the whole schema. The servers start when the first test asks for them and end with the session.
"""

import asyncio
import shutil
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.clock import ManualClock
from app.store.database import Database
from app.store.migrate import upgrade
from tests.engines import share_compiled_statements
from tests.services import PostgresServer, RedisServer

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""Where the manual clock starts: a Monday, 09:00 in Sao Paulo."""
DATABASES = ("sqlite", "postgresql")
WEB = Path(__file__).parent / "web"

share_compiled_statements()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--every-database`: web tests on SQLite and on PostgreSQL, each of them."""
    parser.addoption("--every-database", action="store_true", help="web tests on SQLite and on PostgreSQL, each of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The store, the engine, and what proves a story run on every database. Other web tests share the databases between
    them: each function runs on one, always the same."""
    if config.getoption("--every-database"):
        return
    left = [item for item in items if not _is_its_other_database(item)]
    config.hook.pytest_deselected(items=[item for item in items if _is_its_other_database(item)])
    items[:] = left


def _is_its_other_database(item: pytest.Item) -> bool:
    own = getattr(item, "callspec", None)
    kind = own.params.get("database_url") if own is not None else None
    whole = any(item.get_closest_marker(name) for name in ("story", "every_database"))
    if kind is None or whole or WEB not in item.path.parents:
        return False
    name = f"{item.path.name} {getattr(item, 'originalname', item.name)}"
    return bool(kind != DATABASES[zlib.crc32(name.encode()) % len(DATABASES)])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session, with a migrated template database `template_kora`."""
    server = PostgresServer()
    try:
        server.start()
        server.create_database("template_kora")
        prepare(server.url("template_kora"), upgrade)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that nobody has open."""
    file = tmp_path_factory.mktemp("sqlite-template") / "kora.db"
    prepare(f"sqlite:///{file}", upgrade)
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh migrated SQLite database."""
    file = tmp_path / "kora.db"
    shutil.copyfile(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh migrated PostgreSQL database, dropped afterwards."""
    name = postgres_server.new_name()
    postgres_server.create_database(name, template="template_kora")
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database without any table, dropped afterwards."""
    name = postgres_server.new_name()
    postgres_server.create_database(name)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh migrated database of each kind, as a URL (for tests that start processes)."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """An open `Database` on a fresh migrated schema, of each kind."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
async def sqlite_db(sqlite_url: str) -> AsyncIterator[Database]:
    """An open `Database` on SQLite only, for what does not depend on the kind of database."""
    database = Database(sqlite_url)
    yield database
    await database.close()


@pytest.fixture
async def postgres_db(postgres_url: str) -> AsyncIterator[Database]:
    """An open `Database` on PostgreSQL only."""
    database = Database(postgres_url)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def _redis_process() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def redis_server(_redis_process: RedisServer) -> Iterator[RedisServer]:
    """A running, empty Redis that the test may kill, pause, flush and restart."""
    _redis_process.heal()
    yield _redis_process
    _redis_process.heal()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of a running, empty Redis."""
    return redis_server.url


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that stands at NOON until the test moves it."""
    return ManualClock(NOON)


def prepare(url: str, work: Callable[[Database], Coroutine[Any, Any, object]]) -> None:
    """Do `work` on a database and let go of it, so that it can be copied; for fixtures wider than one test."""

    async def run() -> None:
        database = Database(url, pool_size=1)
        try:
            await work(database)
        finally:
            await database.close()

    # in a thread of its own: such a fixture may be set up while an async test's loop runs
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run()).result()
