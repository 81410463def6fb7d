"""Our guards at the database, each taken away on purpose: a proof that does not notice proves nothing.

Here are those that no simulated world needs (`tests/simulation/mutants.py` has the others): the time limits and the share
lock of a commit, the wall between clinics, SQLite's durability, and the answer that waits for the disk.
"""

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import pytest
from sqlalchemy import create_engine, text

from app.errors import ConfigError
from app.store import database as database_module
from app.store import ledger
from app.store.database import Database
from tests.history import History
from tests.store import test_database, test_ledger, test_safe_mode_locks, test_walls

# their fixtures
story, walled, walled_url = test_ledger.story, test_walls.walled, test_walls.walled_url

Proof = Callable[[History], Awaitable[None]]

NOTICED: Final = (AssertionError, pytest.fail.Exception)
"""What a red test raises."""
_in_time = ledger._in_time


def _without_deadline(plan: Any, mode: Any, now: Any) -> bool:
    return _in_time(plan, replace(mode, safe_deadline=None), now)


LIMITS: Final[dict[str, tuple[Any, Proof]]] = {
    "safe deadline": (
        patch.object(ledger, "_in_time", _without_deadline),
        test_ledger.test_an_effect_whose_transaction_waited_beyond_the_safe_deadline_does_not_happen,
    ),
    "time to live": (
        patch.object(ledger, "age_s", lambda command, now: None),
        test_ledger.test_a_late_command_whose_transaction_waited_beyond_its_ttl_has_no_effect_and_is_decided_again,
    ),
}


@pytest.mark.parametrize("limit", sorted(LIMITS))
async def test_a_limit_that_the_commit_does_not_compare_is_noticed(story: History, limit: str) -> None:
    sabotaged, proof = LIMITS[limit]
    with sabotaged, pytest.raises(NOTICED):
        await proof(story)


def test_modes_that_are_not_locked_are_noticed(postgres_url: str) -> None:
    unlocked = patch("sqlalchemy.sql.selectable.Select.with_for_update", lambda self, **_: self)
    with unlocked, pytest.raises(NOTICED):
        test_safe_mode_locks.test_an_entry_waits_for_effects_on_their_way_and_effects_for_an_entry(postgres_url)


@pytest.mark.parametrize("name", ["lane", "ledger", "message", "alert"])
async def test_a_wall_that_is_down_is_noticed(walled: Database, name: str) -> None:
    await walled.write(lambda conn: conn.execute(text(f'ALTER TABLE "{name}" DISABLE ROW LEVEL SECURITY')))
    try:
        with pytest.raises(NOTICED):
            await test_walls.test_a_clinic_reaches_nothing_of_another_by_any_statement(walled, name)
    finally:
        await walled.write(lambda conn: conn.execute(text(f'ALTER TABLE "{name}" ENABLE ROW LEVEL SECURITY')))


async def test_a_sqlite_connection_that_does_not_wait_for_the_disk_is_refused(sqlite_url: str) -> None:
    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> Any:
            return super().execute(sql.replace("synchronous=FULL", "synchronous=NORMAL"), *parameters)

    honest = create_engine

    def careless(url: Any, **options: Any) -> Any:
        options["connect_args"] = options["connect_args"] | {"factory": Careless}
        return honest(url, **options)

    with patch.object(database_module, "create_engine", careless):
        database = Database(sqlite_url)
        try:
            with pytest.raises((ConfigError, AssertionError)):
                await test_database.test_every_sqlite_connection_is_durable_and_strict(database)
        finally:
            await database.close()
