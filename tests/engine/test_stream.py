"""The hub: what is written reaches the browsers that may see it, once, in order, and nobody can slow the others down."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, delete, text

from app.clock import ManualClock
from app.engine import stream as module
from app.engine.stream import Audience, StreamHub, Subscriber
from app.metrics import Metrics
from app.store.database import Database
from app.store.events import publish
from app.store.tables import EventLog, table
from app.store.views import changes

SUN, MOON = "tenant-sun", "tenant-moon"
ONE = Audience((SUN,), "secretary", "pt_BR")
OTHER = Audience((MOON,), "secretary", "pt_BR")
ALL = Audience(None, "superadmin", "en")
LIMIT_S = 10.0


@dataclass
class Told:
    """What one browser has been sent."""

    subscriber: Subscriber
    messages: list[tuple[str, int | None, Any]] = field(default_factory=list)
    ended: bool = False

    async def read(self) -> None:
        """Until the stream ends."""
        async for raw in self.subscriber.messages():
            lines = dict(line.split(": ", 1) for line in raw.decode().strip().split("\n"))
            self.messages.append((lines["event"], int(lines["id"]) if "id" in lines else None, json.loads(lines["data"])))
        self.ended = True

    def of(self, kind: str) -> list[Any]:
        """Data of the messages of one kind."""
        return [data for event, _, data in self.messages if event == kind]

    @property
    def kinds(self) -> list[str]:
        """Kinds, in order."""
        return [event for event, _, _ in self.messages]

    def heard(self, topic: str) -> list[str]:
        """Refs of a topic, as they came."""
        return [ref for nudge in self.of("nudge") for c in nudge["changes"] if c["topic"] == topic for ref in c["refs"]]


@dataclass
class Bench:
    """A hub that runs, and browsers on it."""

    hub: StreamHub
    db: Database
    clock: ManualClock
    metrics: Metrics
    group: asyncio.TaskGroup

    def connect(self, audience: Audience = ONE, since: int | None = None, *, session: str = "s") -> Told:
        """A browser that reads."""
        told = Told(self.hub.subscribe(audience, since, session=session, user_id="u"))
        self.group.create_task(told.read())
        return told

    async def write(self, topic: str, *refs: str, tenant: str | None = SUN) -> None:
        """A change, committed."""
        await self.db.write(publish, tenant, topic, refs, self.clock.now())
        self.hub.wake()


async def until(holds: Callable[[], object], what: str) -> None:
    """Poll until it holds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not holds():
        assert loop.time() - began < LIMIT_S, f"not within {LIMIT_S:g} s: {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(db: Database, clock: ManualClock, render: module.Render | None = None) -> AsyncIterator[Bench]:
    """A hub with its loop; at the end every stream must have ended."""
    metrics, stop = Metrics(), asyncio.Event()
    hub = StreamHub(db, clock, metrics)
    hub.render = render
    async with asyncio.TaskGroup() as group:
        group.create_task(hub.run(stop))
        await until(hub.ready.is_set, "the hub has looked at the log")
        try:
            yield Bench(hub, db, clock, metrics, group)
        finally:
            hub.drain()
            stop.set()


async def test_a_change_reaches_the_clinic_it_belongs_to_and_everyone_who_sees_all(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        sun, moon, everybody = bench.connect(ONE), bench.connect(OTHER), bench.connect(ALL)
        await bench.write("queue", "c-1")
        await bench.write("queue", "c-2", tenant=MOON)
        await bench.write("safe_mode", tenant=None)
        await until(
            lambda: all("safe_mode" in str(t.of("nudge")) for t in (sun, moon, everybody)), "everybody hears of all clinics"
        )
        assert sun.heard("queue") == ["c-1"]
        assert moon.heard("queue") == ["c-2"]
        assert sorted(everybody.heard("queue")) == ["c-1", "c-2"]


async def test_changes_are_told_in_the_order_of_their_positions_and_each_once(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFS_MAX", 100)  # beyond it a message names the topic alone
    async with running(db, manual_clock) as bench:
        told = bench.connect()
        for number in range(100):
            await bench.write("lane", f"c-{number:03}")
        await until(lambda: len(told.heard("lane")) >= 100, "all are told")
        assert sorted(told.heard("lane")) == [f"c-{n:03}" for n in range(100)]
        positions = [position for event, position, _ in told.messages if event == "nudge" and position is not None]
        assert positions == sorted(set(positions))
        assert positions[-1] == bench.hub.position


async def test_many_changes_in_a_moment_are_few_messages(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        told = bench.connect()
        for number in range(50):
            await bench.write("queue", f"c-{number}")
        await until(
            lambda: len(told.heard("queue")) >= 50 or any(c["refs"] == [] for n in told.of("nudge") for c in n["changes"]), "told"
        )
        loop = asyncio.get_running_loop()
        began, before = loop.time(), len(told.of("nudge"))
        while loop.time() - began < 1:
            await bench.write("queue", "c-1")
        rate = (len(told.of("nudge")) - before) / (loop.time() - began)
        assert 0 < rate <= 1 / module.TAIL_GAP_S + 1


async def test_a_browser_that_comes_back_gets_what_it_missed_and_nothing_else(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        first = bench.connect()
        await bench.write("queue", "c-before")
        await until(lambda: first.heard("queue"), "told")
        cursor = bench.hub.position
        bench.hub.unsubscribe(first.subscriber)
        await bench.write("queue", "c-missed")
        await bench.write("queue", "c-theirs", tenant=MOON)
        await until(lambda: bench.hub.position >= cursor + 2, "read")
        again = bench.connect(since=cursor)
        await until(lambda: again.heard("queue"), "the missed change")
        assert again.kinds[:2] == ["hello", "nudge"]
        assert again.heard("queue") == ["c-missed"]


@pytest.mark.parametrize("since", [None, 999_999_999, -1])
async def test_an_unknown_position_is_answered_with_reset(db: Database, manual_clock: ManualClock, since: int | None) -> None:
    await db.write(publish, SUN, "queue", ["c-1"], manual_clock.now())
    async with running(db, manual_clock) as bench:
        told = bench.connect(since=since)
        await until(lambda: told.kinds, "an answer")
        assert told.kinds[0] == "reset"
        assert told.messages[0][1] == bench.hub.position


async def test_a_position_from_before_a_restart_is_resumed(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        await bench.write("queue", "c-known")
        await until(lambda: bench.hub.position > 0, "read")
        cursor = bench.hub.position
    await db.write(publish, SUN, "queue", ["c-while-down"], manual_clock.now())
    async with running(db, manual_clock) as bench:
        told = bench.connect(since=cursor)
        await until(lambda: told.heard("queue"), "what happened while the process was down")
        assert told.kinds[0] == "hello"
        assert told.heard("queue") == ["c-while-down"]


async def test_behind_the_ring_a_browser_starts_afresh(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RING_CHANGES", 5)
    async with running(db, manual_clock) as bench:
        await bench.write("queue", "c-0")
        await until(lambda: bench.hub.position > 0, "read")
        cursor = bench.hub.position
        for number in range(1, 10):
            before = bench.hub.position
            await bench.write("queue", f"c-{number}")
            await until(lambda before=before: bench.hub.position > before, "read")  # type: ignore[misc]
        late, near = bench.connect(since=cursor), bench.connect(since=bench.hub.position - 2)
        await until(lambda: late.kinds and near.heard("queue"), "answers")
        assert late.kinds[0] == "reset"
        assert near.heard("queue") == ["c-8", "c-9"]


async def test_too_much_at_once_is_a_reset_for_everybody(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "BATCH_MAX", 20)
    async with running(db, manual_clock) as bench:
        told = bench.connect(since=bench.hub.position)

        def flood(conn: Connection) -> None:
            for number in range(50):
                publish(conn, SUN, "queue", [f"c-{number}"], manual_clock.now())

        await db.write(flood)
        bench.hub.wake()
        await until(lambda: "reset" in told.kinds, "reset")
        await bench.write("queue", "c-after")
        await until(lambda: told.heard("queue") == ["c-after"], "reading goes on behind it")


async def test_a_browser_that_does_not_read_is_dropped_and_the_others_are_not(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        told = bench.connect()
        lazy = bench.hub.subscribe(ONE, bench.hub.position, session="lazy", user_id="u")
        for number in range(40):
            if lazy.closed:
                break
            # each batch says up to fifty long names
            await bench.write("queue", *(f"c-{number:03}-{ref:02}-{'x' * 60}" for ref in range(50)))
            await until(lambda n=number: any(f"c-{n:03}" in r for r in told.heard("queue")), "told")  # type: ignore[misc]
        assert lazy.closed == "slow"
        assert [message async for message in lazy.messages()] == []
        bench.hub.unsubscribe(lazy)
        assert bench.metrics.stream_dropped._value.get() == 1
        assert not told.ended


async def test_the_end_of_a_session_ends_its_streams_and_no_others(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        mine, also_mine, theirs = bench.connect(session="a"), bench.connect(session="a"), bench.connect(session="b")
        assert bench.hub.end(session="a") == 2
        await until(lambda: mine.ended and also_mine.ended, "ended")
        assert mine.messages[-1][0::2] == ("bye", {"reason": "session"})
        await bench.write("queue", "c-after")
        await until(lambda: theirs.heard("queue"), "the other goes on")
        assert mine.heard("queue") == []


async def test_drain_ends_every_stream_and_every_new_one(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        told = [bench.connect() for _ in range(20)]
        bench.hub.drain()
        late = bench.connect()
        await until(lambda: late.ended and all(t.ended for t in told), "ended")
        assert all(t.messages[-1][0::2] == ("bye", {"reason": "shutdown"}) for t in (*told, late))


async def test_clients_are_counted(db: Database, manual_clock: ManualClock) -> None:
    async with running(db, manual_clock) as bench:
        gauge = bench.metrics.stream_clients._value
        told = [bench.connect(ONE), bench.connect(ALL)]
        assert (bench.hub.clients, gauge.get()) == (2, 2)
        for one in told:
            bench.hub.unsubscribe(one.subscriber)
            bench.hub.unsubscribe(one.subscriber)
        assert (bench.hub.clients, gauge.get()) == (0, 0)


async def test_the_heartbeat_says_the_servers_time_and_position_and_stops_with_the_database(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.3)
    async with running(db, manual_clock) as bench:
        told = bench.connect()
        await until(lambda: len(told.of("hb")) >= 2, "two beats")
        beat = told.of("hb")[-1]
        assert beat["rev"] == bench.hub.position
        assert beat["now"] == manual_clock.now().isoformat(timespec="milliseconds")

        async def dead(*_: object) -> None:
            raise ConnectionError("the database is away")

        monkeypatch.setattr(bench.db, "read", dead)
        await asyncio.sleep(0.7)
        count = len(told.of("hb"))
        await asyncio.sleep(0.7)
        assert len(told.of("hb")) == count
        monkeypatch.undo()
        await until(lambda: len(told.of("hb")) > count, "beats again")


async def test_state_is_rendered_once_per_audience_and_sent_when_it_changed(db: Database, manual_clock: ManualClock) -> None:
    rendered: list[tuple[str, frozenset[str]]] = []
    number = 0

    async def render(audience: Audience, topics: frozenset[str]) -> Mapping[str, str]:
        rendered.append((audience.role, topics))
        return {"numbers": f"<b>{number}</b>", "banner": f"<p>{audience.language}</p>"}

    async with running(db, manual_clock, render) as bench:
        told = [bench.connect(ONE) for _ in range(10)]
        admin = bench.connect(ALL)
        await until(lambda: admin.of("state") and all(t.of("state") for t in told), "first state")
        assert told[0].of("state")[0] == {"scope": SUN, "fragments": {"numbers": "<b>0</b>", "banner": "<p>pt_BR</p>"}}
        assert admin.of("state")[0]["fragments"]["banner"] == "<p>en</p>"
        before = len(rendered)
        number = 1
        await bench.write("queue", "c-1")
        await until(lambda: len(told[9].of("state")) >= 2, "the change")
        assert told[9].of("state")[-1]["fragments"] == {"numbers": "<b>1</b>"}  # only what differs
        assert [r for r in rendered[before:] if r[0] == "secretary"] == [("secretary", frozenset({"queue"}))]


async def test_a_renderer_that_fails_does_not_stop_the_nudges(db: Database, manual_clock: ManualClock) -> None:
    async def render(audience: Audience, topics: frozenset[str]) -> Mapping[str, str]:
        raise ZeroDivisionError("a template")

    async with running(db, manual_clock, render) as bench:
        told = bench.connect()
        await bench.write("queue", "c-1")
        await until(lambda: told.heard("queue"), "told all the same")


async def test_nothing_is_lost_behind_a_transaction_that_commits_late(
    postgres_url: str, postgres_db: Database, manual_clock: ManualClock
) -> None:
    # PostgreSQL: positions become visible out of order; a reader that went on from the newest would lose the older one
    slow = await asyncpg.connect(postgres_url)
    await slow.execute("SET kora.tenants = '*'")  # as the engine's own transactions begin
    async with running(postgres_db, manual_clock) as bench:
        told = bench.connect()
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute("SET LOCAL kora.tenants = '*'")
        await slow.execute(
            "INSERT INTO event_log (tenant_id, topic, refs_json, at, xid)"
            " VALUES ($1, 'queue', '[\"c-slow\"]', $2, pg_current_xact_id()::text::bigint)",
            SUN,
            manual_clock.now(),
        )
        await bench.write("queue", "c-quick")
        await asyncio.sleep(0.6)
        assert told.heard("queue") == []
        cursor = bench.hub.position
        await transaction.commit()
        bench.hub.wake()
        await until(lambda: len(told.heard("queue")) >= 2, "both")
        assert sorted(told.heard("queue")) == ["c-quick", "c-slow"]
        again = bench.connect(since=cursor)
        await until(lambda: again.heard("queue"), "both, for a browser that comes back")
        assert sorted(again.heard("queue")) == ["c-quick", "c-slow"]
    await slow.close()


async def test_a_log_that_was_emptied_is_a_known_end(db: Database, manual_clock: ManualClock) -> None:
    await db.write(publish, SUN, "queue", ["c-old"], manual_clock.now())
    await db.write(lambda conn: conn.execute(delete(table(EventLog))).rowcount)
    async with running(db, manual_clock) as bench:
        told = bench.connect()
        await bench.write("queue", "c-new")
        await until(lambda: told.heard("queue") == ["c-new"], "reading begins behind it")
        assert await db.read(lambda conn: conn.execute(text("SELECT count(*) FROM event_log")).scalar_one()) == 1
