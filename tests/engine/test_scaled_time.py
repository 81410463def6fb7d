"""A fast clock is one clock for the whole installation: on every node, and over every restart."""

from datetime import datetime, timedelta

import pytest

from app.bootstrap import Services, build
from app.clock import SystemClock
from app.settings import Settings
from app.store.database import Database
from app.store.nodes import beat, keep_time

SCALE = 60.0


async def process(database_url: str, name: str) -> Services:
    settings = Settings(
        database_url=database_url, secret_key="x" * 40, env="test", node_id=name, public_url="http://t", time_scale=SCALE
    )
    return await build(settings, logs=False)


def shown(services: Services) -> datetime:
    assert isinstance(services.clock, SystemClock)
    return services.clock.now()


async def test_two_nodes_show_the_same_fast_time(database_url: str) -> None:
    first = await process(database_url, "a")
    second = await process(database_url, "b")
    off = shown(second) - shown(first)
    assert abs(off) < timedelta(seconds=SCALE / 2)
    await second.close()
    await first.close()


@pytest.mark.parametrize(
    ("ago", "least", "most"),
    [
        (timedelta(seconds=3), timedelta(minutes=3), timedelta(minutes=10)),  # a restart: time went on at its pace
        (timedelta(minutes=10), timedelta(0), timedelta(minutes=7)),  # nobody ran: it stood still
    ],
)
async def test_a_restart_never_turns_time_back(sqlite_db: Database, ago: timedelta, least: timedelta, most: timedelta) -> None:
    real, _ = SystemClock().pair()
    ahead = real + timedelta(days=2)
    await sqlite_db.write(keep_time, SCALE, real - ago, ahead)
    again = await process(sqlite_db.url, "a")
    assert least <= shown(again) - ahead <= most
    await again.close()


async def test_a_restart_on_a_machine_whose_clock_was_set_back_begins_after_what_is_stored(sqlite_db: Database) -> None:
    real, _ = SystemClock().pair()
    ahead = real + timedelta(days=2)
    await sqlite_db.write(keep_time, SCALE, real + timedelta(hours=1), ahead)
    newest = ahead + timedelta(minutes=4)  # written by the process that was killed, after it last said where its clock stood
    await sqlite_db.write(beat, "before", "database", "{}", newest)
    again = await process(sqlite_db.url, "a")
    assert timedelta(0) <= shown(again) - newest <= timedelta(minutes=3)
    await again.close()


async def test_after_days_without_a_process_it_is_the_real_time(sqlite_db: Database) -> None:
    real, _ = SystemClock().pair()
    await sqlite_db.write(keep_time, SCALE, real - timedelta(days=9), real - timedelta(days=9) + timedelta(hours=1))
    again = await process(sqlite_db.url, "a")
    assert shown(again) - real < timedelta(minutes=30)
    await again.close()
