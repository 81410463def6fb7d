"""Why a lane waits: every cause with who has it, since when, the next look and what is behind; on both databases."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from app.store.database import Database
from app.store.locks import acquire_locks, lock_name
from app.store.people import By
from app.store.safe_mode import enter_by_hand
from app.store.tables import Alert, ContingencyChannel, Hold, Lane, SafeEpisode, table
from app.store.views.lane import lane_head
from app.store.waiting import why_waiting
from tests.builders import NOON, clinic, contact

pytestmark = pytest.mark.story("S-PC-01-002")

TEN, LANE = "ten-sol", table(Lane)
LATER = NOON + timedelta(seconds=15)


@pytest.fixture
async def waiting(db: Database) -> Database:
    """Maria has two commands that wait since noon, Ana one since before; nobody stops them."""

    def fill(conn: Connection) -> None:
        clinic(conn)
        counts = {"last_assigned": 5, "last_committed": 3, "waiting": 2, "wait_2": 2, "ready_since": NOON}
        conn.execute(update(LANE).values(counts))
        ana: dict[str, Any] = {"last_assigned": 1, "waiting": 1, "wait_2": 1, "ready_since": NOON - timedelta(seconds=5)}
        contact(conn, contact_id="c-ana", **ana)
        contact(conn, contact_id="c-nothing")

    await db.write(fill)
    return db


async def why(db: Database, contact_id: str = "c-maria", **lane: Any) -> dict[str, Any] | None:
    """The answer for a contact's lane, after a change of the lane's row."""

    def read(conn: Connection) -> dict[str, Any] | None:
        if lane:
            conn.execute(update(LANE).where(LANE.c.contact_id == contact_id).values(lane))
        rows = conn.execute(select(LANE).where(LANE.c.tenant_id == TEN)).all()
        return why_waiting(conn, TEN, rows, NOON).get(contact_id)

    return await db.write(read)


def answer(cause: str, holder: str | None, **fields: Any) -> dict[str, Any]:
    base = {"cause": cause, "holder": holder, "since": NOON, "next_look_at": None, "position": None, "items_behind": 1}
    return {**base, **fields}


async def test_a_lane_that_nothing_stops_waits_its_turn_and_says_which(waiting: Database) -> None:
    assert await why(waiting) == answer("dispatch", None, position=2)
    assert await why(waiting, "c-ana") == answer("dispatch", None, position=1, since=NOON - timedelta(seconds=5), items_behind=0)
    assert await why(waiting, "c-nothing") is None


async def test_a_lane_that_a_node_is_at_names_the_node_and_until_when(waiting: Database) -> None:
    names = [lock_name((TEN, "c-maria"))]
    assert await waiting.write(acquire_locks, names, "token", NOON, LATER, "n-2") == set(names)
    assert await why(waiting) == answer("locked", "n-2", next_look_at=LATER)
    head = await waiting.read(lane_head, TEN, "c-maria", NOON)
    gone = await waiting.read(lane_head, TEN, "c-maria", LATER)
    assert head is not None
    assert gone is not None
    assert (head.locked, gone.locked) == (True, False)  # a dead node's lock counts until it expires, no longer


@pytest.mark.parametrize(("cause", "holder"), [("gap", "4"), ("replay", "rep-7"), ("fallback", "redis")])
async def test_what_stops_a_lane_is_named(waiting: Database, cause: str, holder: str) -> None:
    stopped: dict[str, Any] = {"blocked_by": cause, "blocked_since": NOON, "not_before": LATER, "replay_id": "rep-7"}
    assert await why(waiting, **stopped) == answer(cause, holder, next_look_at=LATER)


async def test_a_lane_that_safe_mode_parked_names_the_episode_or_the_alert_before_it(waiting: Database) -> None:
    parked: dict[str, Any] = {"blocked_by": "safe_mode", "blocked_since": NOON}
    assert await why(waiting, **parked) == answer("safe_mode", None)

    alert = {"alert_id": "al-1", "scope": TEN, "tenant_id": TEN, "severity": "critical", "dedup_key": "k", "safe_mode_at": NOON}
    words = dict.fromkeys(("trigger", "summary", "owner", "correlation_id", "raised_by", "group_id"), "x")
    times = dict.fromkeys(("raised_at", "last_seen_at", "group_started_at"), NOON - timedelta(minutes=15))
    row = {**alert, **words, **times, "policy_json": "{}"}
    await waiting.write(lambda conn: conn.execute(insert(table(Alert)).values(row)))
    assert await why(waiting) == answer("safe_mode", "al-1")
    await waiting.write(enter_by_hand, TEN, "teste", By(actor="user:ana", now=NOON))
    episode = await waiting.read(lambda conn: conn.execute(select(table(SafeEpisode).c.episode_id)).scalar_one())
    assert await why(waiting) == answer("safe_mode", episode)


async def test_a_lane_that_contingency_parked_names_the_channel(waiting: Database) -> None:
    channel: dict[str, Any] = {"tenant_id": TEN, "since": NOON, "reason": "fora do ar", "by": "user:ana"}
    rows = [{**channel, "channel": "email", "active": False}, {**channel, "channel": "whatsapp", "active": True}]
    await waiting.write(lambda conn: conn.execute(insert(table(ContingencyChannel)), rows))
    assert await why(waiting, blocked_by="contingency", blocked_since=NOON) == answer("contingency", "whatsapp")


async def test_people_come_first_a_pause_before_a_hold_before_everything_else(waiting: Database) -> None:
    hold: dict[str, Any] = {"tenant_id": TEN, "command_type": "*", "since": NOON, "by": "user:gestao", "reason": "mudança"}
    await waiting.write(acquire_locks, [lock_name((TEN, "c-maria"))], "token", NOON, LATER, "n-2")
    await waiting.write(lambda conn: conn.execute(insert(table(Hold)).values(hold)))
    assert await why(waiting, blocked_by="gap", blocked_since=NOON) == answer("held", "user:gestao", items_behind=2)
    assert await why(waiting, paused_at=NOON, paused_by="user:ana") == answer("paused", "user:ana", items_behind=2)
    assert await why(waiting, "c-nothing", paused_at=NOON, paused_by="user:ana") == answer("paused", "user:ana", items_behind=0)
