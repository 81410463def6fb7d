"""What a node's heartbeat tells the screens: that something about the nodes changed, and nothing while all is as it was."""

from datetime import timedelta

from sqlalchemy import Connection, select

from app.store.database import Database
from app.store.nodes import beat
from app.store.tables import EventLog, table
from tests.builders import NOON

LOG = table(EventLog)


async def test_screens_hear_of_a_lock_mode_a_new_node_and_one_that_fell_silent_on_a_quiet_clinic(db: Database) -> None:
    def said(conn: Connection) -> int:
        return len(conn.execute(select(LOG).where(LOG.c.topic == "overview", LOG.c.tenant_id.is_(None))).all())

    async def told(node_id: str, mode: str, second: int) -> int:
        before = await db.read(said)
        await db.write(beat, node_id, mode, "{}", NOON + timedelta(seconds=second))
        return await db.read(said) - before

    assert [await told("a", "primary", 0), await told("b", "primary", 1)] == [1, 1]
    assert [await told("a", "primary", 5), await told("a", "fallback", 10), await told("a", "fallback", 15)] == [0, 1, 0]
    assert await told("a", "primary", 20) == 1
    assert await told("a", "primary", 25) == 1  # b has been silent for 20 s
    assert await told("a", "primary", 30) == 0
    assert await told("b", "primary", 60) == 1  # and is back
