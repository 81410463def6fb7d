"""Fixtures of API tests whose engine runs on a clock that only the test moves; the history must be clean at the end."""

from collections.abc import AsyncIterator

import pytest

from app.bootstrap import Services, build, running
from app.clock import ManualClock
from app.store.verify import verify
from tests.web.api_client import Api, open_api
from tests.web.conftest import app_over, browser_client, make_settings


@pytest.fixture
async def engine(database_url: str, manual_clock: ManualClock) -> AsyncIterator[Services]:
    """One process, running."""
    built = await build(make_settings(database_url), clock=manual_clock, logs=False)
    async with running(built):
        yield built
        assert await built.db.read(verify) == []


@pytest.fixture
async def api(engine: Services) -> AsyncIterator[Api]:
    """A furnished clinic with a key."""
    async with browser_client(app_over(engine)) as client:
        yield await open_api(engine, client)
