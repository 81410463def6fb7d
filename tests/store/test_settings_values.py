"""Settings: a null means the default, whatever was stored before, and is never stored."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, select, update

from app.engine.policies import PolicyCache
from app.store.database import Database
from app.store.settings import DEFAULTS, load, save
from app.store.tables import SettingsDoc, table
from tests.builders import clinic

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DOC = table(SettingsDoc)
SET: dict[str, Any] = {
    "timezone": "America/Manaus",
    "replay_ttl_min": {"cancel": 30},
    "takeover_sla_min": {"open_hours": 5},
    "frustration": {"messages": 3},
    "retention": {"remove_d": 3},
    "wait_limit_s": 60,
    "max_queue_size": 10,
    "channels": {"ops": "simulator:ops"},
    "phone": "+5511999990000",
}


def stored(conn: Connection) -> Any:
    return msgspec.json.decode(conn.execute(select(DOC.c.data_json).where(DOC.c.scope == "ten-sol")).scalar_one())


async def usable(db: Database) -> None:
    """What every acceptance and every round of dispatch reads."""
    await PolicyCache(db).get(["ten-sol"])


@pytest.mark.parametrize("key", DEFAULTS)
async def test_a_null_is_the_default_also_as_the_first_thing_ever_set(sqlite_db: Database, key: str) -> None:
    await sqlite_db.write(clinic, now=NOW)
    before = await sqlite_db.read(load, "ten-sol")
    assert await sqlite_db.write(save, "ten-sol", {key: None}, actor="user:u", now=NOW) == before
    assert await sqlite_db.read(stored) == {}
    assert set(before) == set(DEFAULTS)
    await usable(sqlite_db)


async def test_a_null_takes_back_what_was_set_at_any_depth(db: Database) -> None:
    await db.write(clinic, now=NOW)
    before = await db.read(load, "ten-sol")
    held = await db.write(save, "ten-sol", SET, actor="user:u", now=NOW)
    assert (held["replay_ttl_min"]["cancel"], held["timezone"]) == (30, "America/Manaus")
    inner = {"replay_ttl_min": {"cancel": None}, "frustration": {"messages": None, "window_min": None}}
    held = await db.write(save, "ten-sol", inner, actor="user:u", now=NOW)
    assert (held["replay_ttl_min"], held["frustration"]) == (DEFAULTS["replay_ttl_min"], {})
    assert await db.write(save, "ten-sol", dict.fromkeys(SET), actor="user:u", now=NOW) == before
    assert await db.read(stored) == {}


async def test_a_null_that_an_older_version_stored_says_nothing(db: Database) -> None:
    await db.write(clinic, now=NOW)
    before = await db.read(load, "ten-sol")
    await db.write(save, "ten-sol", {"d1_cutoff_min": 5}, actor="user:u", now=NOW)
    nulls = dict.fromkeys(DEFAULTS) | {"replay_ttl_min": {"schedule": None}}

    def tamper(conn: Connection) -> None:
        conn.execute(update(DOC).where(DOC.c.scope == "ten-sol").values(data_json=msgspec.json.encode(nulls).decode()))

    await db.write(tamper)
    assert await db.read(load, "ten-sol") == before
    await usable(db)
