"""A source whose clock is behind shows at a clinic's real traffic, of a few items a minute; on both databases."""

from datetime import timedelta

import pytest

from app.clock import ManualClock
from app.domain.clock_skew import PATIENCE
from app.domain.envelopes import Message
from app.domain.states import Source
from app.engine.skew import EVERY_S, SkewWatch
from app.store.clocks import clocks
from app.store.database import Database
from tests import builders

TENANT = "ten-sol"


@pytest.fixture
async def watch(db: Database, manual_clock: ManualClock) -> SkewWatch:
    await db.write(builders.clinic)
    return SkewWatch(db, manual_clock)


async def pass_by(watch: SkewWatch, clock: ManualClock, items: int, lag: timedelta, windows: int = 1) -> str:
    """So many windows with so many items each; the state of the source then."""
    for _ in range(windows):
        for n in range(items):
            watch.note(message(clock, lag, n), clock.now())
        clock.advance(seconds=EVERY_S)
        await watch.tick()
    (found,) = await watch._database.read(clocks, TENANT)
    return str(found["state"])


def message(clock: ManualClock, lag: timedelta, n: int) -> Message:
    at = clock.now()
    return Message(
        event_id=f"e-{at.timestamp()}-{n}",
        tenant_id=TENANT,
        channel="whatsapp",
        external_id=f"x-{at.timestamp()}-{n}",
        contact_id="c-maria",
        source=Source.WHATSAPP,
        event_type="message",
        occurred_at=at - lag,
        correlation_id="c",
        payload={"text": "Oi"},
    )


async def test_nine_items_a_window_show_a_clock_that_is_an_hour_behind(watch: SkewWatch, manual_clock: ManualClock) -> None:
    hour = timedelta(hours=1)
    assert await pass_by(watch, manual_clock, 9, hour) == "fine"
    assert await pass_by(watch, manual_clock, 9, hour, windows=2) == "behind"
    assert await pass_by(watch, manual_clock, 1, timedelta(seconds=1)) == "fine"


async def test_one_quick_item_between_slow_ones_clears_the_source(watch: SkewWatch, manual_clock: ManualClock) -> None:
    for _ in range(4):
        assert await pass_by(watch, manual_clock, 9, timedelta(hours=1)) == "fine"
        assert await pass_by(watch, manual_clock, 1, timedelta(seconds=1)) == "fine"


async def test_slow_items_of_hours_ago_are_no_company(watch: SkewWatch, manual_clock: ManualClock) -> None:
    assert await pass_by(watch, manual_clock, 19, timedelta(hours=1)) == "fine"
    manual_clock.advance(seconds=PATIENCE.total_seconds())
    assert await pass_by(watch, manual_clock, 1, timedelta(hours=1)) == "fine"
