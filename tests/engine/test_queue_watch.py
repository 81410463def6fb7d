"""A queue that grows too long is told once, and its end once."""

from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from app.clock import ManualClock
from app.engine.policies import PolicyCache
from app.engine.queue_watch import QueueWatch
from app.errors import InvalidRequest
from app.store.database import Database
from app.store.settings import save
from app.store.tables import Alert, Lane, table
from tests.builders import clinic, contact

ALERT, LANE = table(Alert), table(Lane)


@pytest.fixture
async def watched(db: Database, manual_clock: ManualClock) -> Database:
    """Two clinics with queues of 10 items that alarm from 8."""

    def rows(conn: Connection) -> None:
        for tenant_id in ("ten-sol", "ten-lua"):
            clinic(conn, tenant_id=tenant_id)
        contact(conn, tenant_id="ten-sol", contact_id="c-2")
        save(conn, "global", {"max_queue_size": 10, "queue_alert_share": 0.8}, actor="user:ana", now=manual_clock.now())

    await db.write(rows)
    return db


async def look(db: Database, clock: ManualClock, waiting: int, contact_id: str = "c-maria") -> list[tuple[str, str, int]]:
    """The alerts after so many items wait in one lane of ten-sol: trigger, whether its source ended it, how often it was seen."""

    def set_lane(conn: Connection) -> None:
        conn.execute(
            update(LANE)
            .where(LANE.c.tenant_id == "ten-sol", LANE.c.contact_id == contact_id)
            .values(waiting=waiting, wait_3=waiting)
        )

    def alerts(conn: Connection) -> list[Any]:
        return list(conn.execute(select(ALERT).order_by(ALERT.c.raised_at)))

    await db.write(set_lane)
    await QueueWatch(db, clock, PolicyCache(db)).tick()
    rows = await db.read(alerts)
    assert {row.tenant_id for row in rows} <= {"ten-sol"}
    return [(row.trigger, "ended" if row.status == "resolved" or row.ended_at else "open", row.seen_count) for row in rows]


@pytest.mark.story("S-PC-01-001")
async def test_a_queue_over_its_threshold_is_told_once_per_episode(watched: Database, manual_clock: ManualClock) -> None:
    told = ("queue_over_threshold", "open", 1)
    assert await look(watched, manual_clock, 7) == []
    assert await look(watched, manual_clock, 8) == [told]
    assert await look(watched, manual_clock, 10) == [told]
    assert await look(watched, manual_clock, 4) == [told]  # below the threshold, and not yet well
    assert await look(watched, manual_clock, 9) == [told]
    assert await look(watched, manual_clock, 3) == [("queue_over_threshold", "ended", 1)]
    manual_clock.advance(hours=3)
    again = await look(watched, manual_clock, 8)
    assert [a[0] for a in again] == ["queue_over_threshold"] * 2
    assert again[-1][1] == "open"


async def test_all_lanes_of_a_clinic_count_together_and_its_own_share_decides(watched: Database, manual_clock: ManualClock) -> None:
    assert await look(watched, manual_clock, 3) == []
    assert await look(watched, manual_clock, 3, "c-2") == []
    await watched.write(save, "ten-sol", {"queue_alert_share": 0.5}, actor="user:ana", now=manual_clock.now())
    assert await look(watched, manual_clock, 3) == [("queue_over_threshold", "open", 1)]


async def test_a_queue_that_stays_long_is_not_told_again_after_a_person_ended_its_alert(
    watched: Database, manual_clock: ManualClock
) -> None:
    await look(watched, manual_clock, 9)
    done = {"status": "resolved", "resolved_at": manual_clock.now()}
    await watched.write(lambda conn: conn.execute(update(ALERT).values(**done)).close())
    assert await look(watched, manual_clock, 9) == [("queue_over_threshold", "ended", 1)]


@pytest.mark.parametrize("share", [0, 1.5, "0.8", True])
async def test_a_share_that_makes_no_sense_is_refused(sqlite_db: Database, manual_clock: ManualClock, share: object) -> None:
    with pytest.raises(InvalidRequest):
        await sqlite_db.write(save, "global", {"queue_alert_share": share}, actor="user:ana", now=manual_clock.now())
