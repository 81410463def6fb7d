"""Row-level security on PostgreSQL: under one clinic's scope no statement reaches another's rows, on any table."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, String, Table, text
from sqlalchemy.exc import ProgrammingError
from sqlmodel.sql.sqltypes import AutoString

from app.cli import _walls_finding
from app.store.columns import UTCDateTime
from app.store.database import Database
from app.store.events import publish
from app.store.migrate import differences
from app.store.tables import metadata
from app.store.tenancy import current_scope, narrow, scope_value, scoped
from app.store.walls import _CHILDREN, WITHOUT_WALL, missing_walls, role_above_walls, walls
from tests.conftest import prepare
from tests.services import PostgresServer
from tests.web.conftest import make_settings

OURS, THEIRS = "ten-ours", "ten-theirs"
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def owner_column(name: str) -> str | None:
    """The column that says whose a row of the table is."""
    return next((c for c in ("tenant_id", "chain", "scope") if c in metadata.tables[name].c), None)


def _value(column: Any, owner: str, name: str) -> object:
    if column.name in ("tenant_id", "chain", "scope"):
        return owner
    if column.name in {link for _, link in _CHILDREN.values()} and name in (*_CHILDREN, *(p for p, _ in _CHILDREN.values())):
        return f"of-{owner}"
    if isinstance(column.type, UTCDateTime):
        return NOON
    if isinstance(column.type, String | AutoString):
        return f"x-{owner}"[: getattr(column.type, "length", None) or 100]
    kind, known = column.type.python_type, {int: 7, float: 7.0, bool: False, bytes: b"x"}
    assert kind in known, f"{column}: {column.type!r}"
    return known[kind]


def _fill(conn: Connection, held: Table, owner: str) -> None:
    """One row with something in every required column, whatever checks the values usually have to pass."""
    wanted = [c for c in held.c if not c.nullable or c.name in ("tenant_id", "chain", "scope")]
    row = {c.name: _value(c, owner, held.name) for c in wanted if c is not held.autoincrement_column}
    conn.execute(held.insert().values(row))


def _two_clinics(conn: Connection) -> None:
    for held in metadata.sorted_tables:
        checks = conn.execute(
            text("SELECT conname FROM pg_constraint WHERE conrelid = CAST(:t AS regclass) AND contype IN ('c', 'f')"),
            {"t": held.name},
        )
        for name in checks.scalars().all():
            conn.execute(text(f'ALTER TABLE "{held.name}" DROP CONSTRAINT "{name}"'))
        if held.name in walls():
            _fill(conn, held, OURS)
            _fill(conn, held, THEIRS)


@pytest.fixture(scope="module")
def walled_url(postgres_server: PostgresServer) -> Any:
    """Both clinics with one row in every table that has a wall."""
    name = postgres_server.new_name()
    postgres_server.create_database(name, template="template_kora")
    url = postgres_server.url(name)
    prepare(url, lambda database: database.write(_two_clinics))
    yield url
    postgres_server.drop_database(name)


@pytest.fixture
async def walled(walled_url: str) -> AsyncIterator[Database]:
    database = Database(walled_url, pool_size=1)
    yield database
    await database.close()


class Undo(Exception):
    """Takes a transaction back."""


def test_every_table_has_a_wall_or_belongs_to_the_installation() -> None:
    assert walls().keys() | WITHOUT_WALL == set(metadata.tables)
    assert not walls().keys() & WITHOUT_WALL
    for name in WITHOUT_WALL:
        assert "tenant_id" not in metadata.tables[name].c, name


@pytest.mark.parametrize("name", sorted(walls()))
async def test_a_clinic_reaches_nothing_of_another_by_any_statement(walled: Database, name: str) -> None:
    def count(conn: Connection) -> int:
        return int(conn.scalar(text(f'SELECT count(*) FROM "{name}"')) or 0)

    def touch(conn: Connection) -> None:
        column = metadata.tables[name].c[0].name
        assert conn.execute(text(f'UPDATE "{name}" SET "{column}" = "{column}"')).rowcount == 1
        assert conn.execute(text(f'DELETE FROM "{name}"')).rowcount == 1
        raise Undo

    assert await walled.read(count) == 2
    with scoped([OURS]):
        assert await walled.read(count) == 1
        with pytest.raises(Undo):
            await walled.write(touch)
    with scoped([OURS, THEIRS]):
        assert await walled.read(count) == 2
    for nothing in ((), ["ten-nobody"]):
        with scoped(nothing):
            assert await walled.read(count) == 0
    assert await walled.read(count) == 2


@pytest.mark.parametrize("name", sorted(n for n in walls() if owner_column(n)))
async def test_a_clinic_writes_no_row_into_another(walled: Database, name: str) -> None:
    column = owner_column(name)

    def give_away(conn: Connection) -> None:
        conn.execute(text(f'UPDATE "{name}" SET "{column}" = :t'), {"t": "ten-third"})

    def insert(conn: Connection) -> None:
        _fill(conn, metadata.tables[name], "ten-third")

    with scoped([OURS]):
        for attempt in (give_away, insert):
            with pytest.raises(ProgrammingError, match="row-level security"):
                await walled.write(attempt)


async def test_the_rows_of_nobody_are_seen_with_a_scope_only(postgres_db: Database) -> None:
    def put(conn: Connection) -> None:
        conn.execute(text("INSERT INTO mode (scope, state, epoch, contingency) VALUES ('global', 'normal', 0, false)"))
        publish(conn, None, "settings", [], NOON)

    def seen(conn: Connection) -> tuple[int, int]:
        return tuple(conn.execute(text("SELECT (SELECT count(*) FROM mode), (SELECT count(*) FROM event_log)")).one())

    await postgres_db.write(put)
    with scoped([OURS]):
        assert await postgres_db.read(seen) == (1, 1)
    with scoped(()):
        assert await postgres_db.read(seen) == (0, 0)


async def test_a_connection_beside_the_product_sees_nothing_until_it_says_a_scope(walled_url: str) -> None:
    conn = await asyncpg.connect(walled_url)
    try:
        count = "SELECT count(*) FROM contact"
        assert await conn.fetchval(count) == 0
        async with conn.transaction():
            await conn.execute("SELECT set_config('kora.tenants', $1, true)", OURS)
            assert await conn.fetchval(count) == 1
        assert await conn.fetchval("SELECT current_setting('kora.tenants', true)") == ""  # not NULL: what NULLIF is for
        assert await conn.fetchval(count) == 0
    finally:
        await conn.close()


async def test_a_connection_of_the_pool_never_keeps_a_scope(walled_url: str) -> None:
    database = Database(walled_url, pool_size=2)
    names = [OURS, THEIRS, None] * 20

    def seen(conn: Connection) -> set[str]:
        return set(conn.scalars(text("SELECT tenant_id FROM contact")))

    async def one(name: str | None) -> None:
        with scoped(None if name is None else [name]):
            assert await database.read(seen) == ({OURS, THEIRS} if name is None else {name})
            await asyncio.sleep(0)
            assert await database.write(seen) == ({OURS, THEIRS} if name is None else {name})

    def fail(conn: Connection) -> None:
        conn.execute(text("SELECT 1 / 0"))

    try:
        await asyncio.gather(*(one(name) for name in names))
        with scoped([OURS]), pytest.raises(Exception, match="division by zero"):
            await database.write(fail)
        with scoped(()):
            assert await database.read(seen) == set()
    finally:
        await database.close()


async def test_a_transaction_keeps_the_scope_of_whoever_began_it(walled: Database) -> None:
    def seen(conn: Connection) -> int:
        return int(conn.scalar(text("SELECT count(*) FROM contact")) or 0)

    with scoped([OURS]):
        running = asyncio.create_task(walled.read(seen))
    assert await running == 1


async def test_a_scope_ends_with_its_block_and_narrows_inside_it() -> None:
    assert current_scope() == "*"
    with scoped(()):
        assert current_scope() == ""
        narrow(["b", "a"])
        assert current_scope() == "a,b"
    assert current_scope() == "*"


@pytest.mark.parametrize("strange", ["", "*", "a,b", "a'; --", "a b", "á", "x" * 41])
def test_what_is_no_id_opens_nothing(strange: str) -> None:
    with pytest.raises(ValueError, match="not a tenant's id"):
        scope_value([strange])


async def test_a_wall_that_was_taken_down_is_a_difference(postgres_db: Database) -> None:
    assert await postgres_db.read(differences) == []
    await postgres_db.write(lambda conn: conn.execute(text("ALTER TABLE lane NO FORCE ROW LEVEL SECURITY")).close())
    await postgres_db.write(lambda conn: conn.execute(text("CREATE POLICY all_open ON contact USING (true)")).close())
    assert await postgres_db.read(missing_walls) == [("add_wall", "lane"), ("remove_wall", "contact")]
    assert ("add_wall", "lane") in await postgres_db.read(differences)


async def test_the_doctor_warns_of_a_role_that_stands_above_the_walls(postgres_server: PostgresServer, walled_url: str) -> None:
    name = walled_url.rpartition("/")[2]
    laptop, production = (make_settings(walled_url, env=env) for env in ("development", "production"))
    plain, above = Database(walled_url), Database(postgres_server.url(name, user="postgres"))
    try:
        assert await plain.read(role_above_walls) is None
        assert await _walls_finding(production, plain) == (True, "row-level security holds clinics apart for this role")
        assert await above.read(role_above_walls) == "postgres"
        fine, sentence = await _walls_finding(production, above)
        assert not fine
        assert "'postgres' is a superuser or has BYPASSRLS" in sentence
        assert (await _walls_finding(laptop, above))[0]
        await plain.write(lambda conn: conn.execute(text("ALTER TABLE lane DISABLE ROW LEVEL SECURITY")).close())
        assert (await _walls_finding(production, plain)) == (False, "row-level security is not as the code wants it on: lane")
    finally:
        await plain.write(lambda conn: conn.execute(text("ALTER TABLE lane ENABLE ROW LEVEL SECURITY")).close())
        await plain.close()
        await above.close()


async def test_on_sqlite_there_is_no_wall_and_the_doctor_says_so(sqlite_db: Database) -> None:
    assert await sqlite_db.read(missing_walls) == []
    assert await sqlite_db.read(role_above_walls) is None
    fine, sentence = await _walls_finding(make_settings(sqlite_db.url), sqlite_db)
    assert fine
    assert sentence.startswith("SQLite has no row-level security")
