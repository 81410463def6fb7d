"""A machine whose clock was set back between two runs: on SQLite time goes on from what is stored."""

from datetime import timedelta

import pytest

from app.bootstrap import build
from app.clock import STEP_BACK_MAX, SystemClock
from app.store.database import Database
from app.store.nodes import beat
from tests.web.conftest import make_settings


@pytest.mark.parametrize(("ahead", "goes_on"), [(timedelta(hours=1), True), (STEP_BACK_MAX + timedelta(hours=1), False)])
async def test_no_run_begins_before_the_last_one(sqlite_db: Database, ahead: timedelta, goes_on: bool) -> None:
    newest = SystemClock().now() + ahead
    await sqlite_db.write(beat, "before", "database", "{}", newest)
    services = await build(make_settings(sqlite_db.url), logs=False)
    try:
        assert (services.clock.now() >= newest) == goes_on
        assert services.clock.off(services.clock.now()) < timedelta(seconds=1)
    finally:
        await services.close()
