"""The schema's history runs forward and back on both databases and ends at what `tables.py` says."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from app.store.database import Database
from app.store.migrate import current, differences, downgrade, head, upgrade
from app.store.tables import metadata
from tests.builders import NOON, appointment, clinic


def _table_names(conn: Connection) -> set[str]:
    return set(inspect(conn).get_table_names())


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path / 'empty.db'}" if request.param == "sqlite" else request.getfixturevalue("empty_postgres_url")
    database = Database(url)
    yield database
    await database.close()


async def test_a_new_database_becomes_the_schema_of_the_code(empty_db: Database) -> None:
    assert await current(empty_db) is None
    await upgrade(empty_db)
    assert await current(empty_db) == head()
    assert await empty_db.read(_table_names) == {*metadata.tables, "alembic_version"}


async def test_the_migrated_schema_does_not_differ_from_the_tables(db: Database) -> None:
    found = await db.read(differences)
    assert found == [], "tables.py changed: run `make migration`"


async def test_drift_would_be_seen(db: Database) -> None:
    await db.write(lambda conn: conn.execute(text("ALTER TABLE hold ADD COLUMN stray text")).close())
    assert [d[0] for d in await db.read(differences)] == ["remove_column"]


async def test_back_to_nothing_and_forward_again(empty_db: Database) -> None:
    await upgrade(empty_db)
    await downgrade(empty_db)
    assert await empty_db.read(_table_names) == {"alembic_version"}
    assert await current(empty_db) is None
    await upgrade(empty_db)
    assert await empty_db.read(differences) == []


async def test_upgrading_twice_changes_nothing(db: Database) -> None:
    await db.write(clinic)
    await upgrade(db)
    assert await current(db) == head()
    assert await db.read(lambda conn: conn.scalar(text("SELECT count(*) FROM contact"))) == 1


async def test_a_migration_that_fails_leaves_nothing_behind(empty_db: Database) -> None:
    # the last table of the migration is already there, so the migration fails near its end
    last = sorted(metadata.tables)[-1]
    await empty_db.write(lambda conn: conn.execute(text(f"CREATE TABLE {last} (stray text)")).close())
    with pytest.raises(Exception, match="already exists"):
        await upgrade(empty_db)
    assert await empty_db.read(_table_names) == {last}


async def test_postgresql_refuses_overlapping_appointments_of_a_therapist(postgres_db: Database) -> None:
    await postgres_db.write(clinic)
    hour = timedelta(hours=1)
    await postgres_db.write(appointment, appointment_id="a-1", start_at=NOON, end_at=NOON + hour)
    with pytest.raises(IntegrityError, match="ex_appointment_therapist_slot"):
        await postgres_db.write(appointment, appointment_id="a-2", start_at=NOON + hour / 2, end_at=NOON + hour)
    # the next slot, a cancelled one and another therapist's are fine
    await postgres_db.write(appointment, appointment_id="a-3", start_at=NOON + hour, end_at=NOON + 2 * hour)
    await postgres_db.write(appointment, appointment_id="a-4", start_at=NOON, end_at=NOON + hour, status="cancelled")
    await postgres_db.write(appointment, appointment_id="a-5", start_at=NOON, end_at=NOON + hour, therapist_id="t-bia")


async def test_lane_rows_leave_room_for_updates_in_place_on_postgresql(postgres_db: Database) -> None:
    options = await postgres_db.read(lambda conn: conn.scalar(text("SELECT reloptions FROM pg_class WHERE relname = 'lane'")))
    assert options == ["fillfactor=70"]
