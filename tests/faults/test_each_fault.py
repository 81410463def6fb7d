"""One fault after the other, each around a small load on running servers; afterwards everything is as if it had not been.

Two clusters live through them: two nodes on one PostgreSQL and one Redis, each reaching Redis over a path of its own, and one
server on SQLite whose limits are narrow enough for a test to reach them. Each fault begins while commands come in, is seen to
hit, and is healed. Then what was answered is compared with what is stored, `kora verify` finds nothing, every part of every
node is green again, and the time that it took from the healing on is told.
"""

import asyncio
import random
import re
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import Connection, func, select

from app.clock import SystemClock
from app.credentials import new_api_key, new_cookie_token
from app.ids import new_id
from app.store import accounts
from app.store.database import run_in_thread
from app.store.tables import Ledger, table
from tests.faults.cluster import Load, commands, database_time, first_fallback_commit, settled, witness
from tests.faults.wire import Wire
from tests.server import ASK, ENTRY, Server, init, kora
from tests.services import PostgresServer, RedisServer, answers, busy

CONTACTS, COMMANDS, BATCH = 40, 240, 10
RATE = 60.0
"""Commands a second until the fault is healed; what is left then comes at once."""
BEGINS_AT = 0.15
"""Of the load, when the fault begins."""
HELD_BACK = 0.4
"""Of the load, until the fault is there: a busy machine may need as long for it as all of the load takes."""
SEEN_WITHIN_S = 30.0
"""For what never comes: a busy machine takes long."""
BACK_WITHIN_S = 15.0
"""From the healing until all is done and green; Redis counts as well after 5 s without a miss (docs/operations.md)."""
EXIT_WITHIN_S = 2.0
"""docs/operations.md, Stopping."""
WRONG_CLOCK = "from tests.faults.stepped_clock import step\nstep()\n"
LIVE = ("database", "redis", "locks", "loop:")
"""Parts that `/api/v1/health` looks at when it is asked; the others are as old as the last sample."""
_LEDGER = table(Ledger)
_COMMITS = select(_LEDGER.c.node_id, func.min(_LEDGER.c.committed_at), func.max(_LEDGER.c.committed_at)).group_by(_LEDGER.c.node_id)


@dataclass
class World:
    """What a fault may hurt, and the load that runs meanwhile."""

    url: str
    key: str
    nodes: Sequence[Server]
    journal: Path
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    wires: Sequence[Wire] = ()
    contact: str = "c"
    """How the ids of contacts begin."""
    sent: int = 0
    """Commands of all faults so far."""
    load: Load = field(init=False)
    healed_at: float = 0.0
    told: dict[str, float] = field(default_factory=dict)
    """Figures of the fault at hand, beside the time to recover."""

    def hurt(self) -> None:
        """The harm is done: what was held back of the load meets it."""
        self.load.up_to = float("inf")

    def healed(self) -> None:
        """The harm is taken away: from now on the product has to come back."""
        self.healed_at = time.monotonic()
        self.load.rate, self.load.up_to = 0.0, float("inf")

    def items(self, count: int) -> list[dict[str, Any]]:
        """The next commands of the lanes."""
        made = commands(count, CONTACTS, random.Random(self.sent), first=self.sent, name=self.contact)
        self.sent += count
        return made

    def loaded(self, **options: Any) -> Load:
        """A load of its own on all nodes, into the one journal."""
        given: dict[str, Any] = {"key": self.key, "rate": RATE, "batch": BATCH} | options
        return Load(self.nodes, journal=self.journal, **given)


Fault = Callable[[World], Awaitable[None]]


async def seen(what: str, holds: Callable[[], Any], limit_s: float = SEEN_WITHIN_S) -> None:
    """Return once `holds`, which is asked in a thread."""
    deadline = time.monotonic() + limit_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(0.05)


def clock_off(folder: Path, minutes: float) -> Path:
    """The file that says how far the wrong clock of `tests/faults/stepped_clock.py` is ahead."""
    file = folder / "clock-off"
    file.write_text(str(60 * minutes))
    return file


def get(node: Server, path: str) -> httpx.Response:
    """What a node says; one with narrow limits is asked again when it says that it may be."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while (answer := ASK.get(f"{node.url}{path}", timeout=SEEN_WITHIN_S)).status_code == 429:
        assert time.monotonic() < deadline, f"{path}: {answer.text}"
        time.sleep(float(answer.headers["Retry-After"]))
    return answer


def lock_mode(node: Server) -> str:
    """Which backend grants a node's locks now."""
    return str(get(node, "/api/v1/health").json()["lock_mode"])


def red(node: Server) -> list[Any]:
    """Live parts of a node that are not green."""
    found = get(node, "/api/v1/health").json()
    return [part for part in found["components"] if part["name"].startswith(LIVE) and part["status"] != "green"]


def live_through(world: World, faults: Sequence[Fault], record: Callable[[str, object], None]) -> None:
    """Each fault in turn, and after each: nothing lost, nothing contradicts, everything is back by itself."""
    for fault in faults:
        name = fault.__name__
        world.load, world.told, world.healed_at = world.loaded(), {}, 0.0
        began = time.monotonic()
        try:
            asyncio.run(_around(fault, world))
            settled(world.url)
            for node in world.nodes:
                while get(node, "/readyz").status_code != 200 or red(node):
                    assert time.monotonic() - world.healed_at < BACK_WITHIN_S * busy(), f"{node.url}: {red(node)}"
                    time.sleep(0.05)
            back_s = time.monotonic() - world.healed_at
            witness(world.url, world.journal, world.sent, CONTACTS)
            assert back_s < BACK_WITHIN_S * busy()
        except BaseException as error:
            error.add_note(f"the fault was {name}; refused {dict(world.load.refused)}, {world.told}")
            error.add_note("\n".join(node.tail(1500) for node in world.nodes))
            raise
        figures = {"back_s": round(back_s, 2), "whole_s": round(time.monotonic() - began, 1), **world.told}
        print(f"{name}: {figures}, sent again after {dict(world.load.refused)}")
        record(name, figures)
    assert "0 violations" in kora(world.url, "verify")


async def _around(fault: Fault, world: World) -> None:
    """The load, and the fault in the midst of it."""
    items = world.items(COMMANDS)
    world.load.up_to = (1 - HELD_BACK) * len(items)

    async def hurt() -> None:
        while world.load.sent < BEGINS_AT * len(items):  # progress of the other task
            await asyncio.sleep(0.01)
        await fault(world)
        assert world.healed_at, "a fault says when it is healed"

    async with asyncio.TaskGroup() as group:
        group.create_task(hurt())
        group.create_task(world.load.run(items))


# --- Redis --------------------------------------------------------------------------------------------------------------


async def _without_redis(world: World, hurt: Callable[[], object], heal: Callable[[], object], hold_s: float = 0.5) -> None:
    """Until the database's locks have committed something, and a little longer."""
    since = await asyncio.to_thread(database_time, world.url)
    hurt()
    world.hurt()
    try:
        await seen("a commit under the database's locks", lambda: first_fallback_commit(world.url, since))
        found = await asyncio.to_thread(first_fallback_commit, world.url, since)
        assert found is not None
        world.told["first_commit_without_redis_s"] = round((found - since).total_seconds(), 2)
        await asyncio.sleep(hold_s)  # the load goes on
    finally:
        heal()
        world.healed()


def _tell_redis(world: World, words: str) -> None:
    assert world.redis is not None
    assert answers(world.redis.port, f"{words}\r\n".encode(), b"+OK"), f"Redis did not take {words!r}"


async def redis_is_slow(world: World) -> None:
    """Each piece is held back for longer than a lock waits for its answer."""

    def slow() -> None:
        for wire in world.wires:
            wire.delay_s = 0.3

    def quick() -> None:
        for wire in world.wires:
            wire.mend()

    await _without_redis(world, slow, quick)


async def redis_is_cut_off_from_one_of_two_nodes(world: World) -> None:
    """One node locks in the database, the other one on Redis: two lock domains at a time."""
    a, b = world.nodes
    since = await asyncio.to_thread(database_time, world.url)
    world.wires[0].cut()
    world.hurt()
    try:
        await seen("a commit under the database's locks", lambda: first_fallback_commit(world.url, since))
        await seen("each node has locks of its own", lambda: (lock_mode(a), lock_mode(b)) == ("fallback", "primary"))
        # both are at work, each with its own: on a machine that stands still the other one may miss an answer of Redis, too, and
        # comes back to it by itself
        await world.loaded(rate=0.0).run(world.items(CONTACTS))
        await seen("each node has locks of its own still", lambda: (lock_mode(a), lock_mode(b)) == ("fallback", "primary"))
    finally:
        world.wires[0].mend()
        world.healed()


async def redis_is_out_of_memory(world: World) -> None:
    """Reads work, every write is refused."""
    _tell_redis(world, "CONFIG SET maxmemory-policy noeviction")
    await _without_redis(
        world, lambda: _tell_redis(world, "CONFIG SET maxmemory 1"), lambda: _tell_redis(world, "CONFIG SET maxmemory 0")
    )


async def redis_is_read_only(world: World) -> None:
    """It became the replica of a master that nobody finds."""
    await _without_redis(world, lambda: _tell_redis(world, "REPLICAOF 127.0.0.1 1"), lambda: _tell_redis(world, "REPLICAOF NO ONE"))


async def redis_hangs(world: World) -> None:
    """Connections stay open, nothing is said for some seconds."""
    assert world.redis is not None
    await _without_redis(world, world.redis.pause, world.redis.resume, hold_s=2.5)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


async def postgres_loses_every_connection_three_times(world: World) -> None:
    """The server ends all of the product's connections at once, in whatever transaction they are."""
    assert world.postgres is not None
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'kora' AND datname = $1"
    conn = await asyncpg.connect(world.postgres.url("postgres", user="postgres"))
    try:
        world.hurt()
        for _ in range(3):
            killed = 0
            async with asyncio.timeout(SEEN_WITHIN_S):
                while killed < len(world.nodes):  # those that come back meanwhile, too
                    killed += await conn.fetchval(kill, world.url.rpartition("/")[2])
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.4)  # the load goes on
    finally:
        world.healed()
        await conn.close()


async def postgres_is_restarted(world: World) -> None:
    """A fast shutdown and a start."""
    assert world.postgres is not None
    await asyncio.to_thread(world.postgres.stop)
    world.hurt()
    await asyncio.sleep(1.5)  # longer than a transaction is tried again
    await asyncio.to_thread(world.postgres.start)
    world.healed()


async def postgres_ends_statements_that_take_too_long(world: World) -> None:
    """A lock that somebody forgot holds up every commit, and the server gives up on what waits for it."""
    server = world.postgres
    assert server is not None
    told = "canceling statement due to statement timeout"
    before = server.log().count(told)
    # with a word of its own on that setting: what puts everything back must not be ended itself
    unhurried = {"statement_timeout": "0"}
    conn = await asyncpg.connect(server.url(world.url.rpartition("/")[2], user="postgres"), server_settings=unhurried)
    try:
        # a setting of the server reaches the connections that are open, too
        await conn.execute("ALTER SYSTEM SET statement_timeout = '200ms'")
        await conn.execute("SELECT pg_reload_conf()")
        async with conn.transaction():
            await conn.execute("LOCK TABLE lane IN EXCLUSIVE MODE")
            world.hurt()
            await seen("statements that were ended", lambda: server.log().count(told) >= before + 5)
            await asyncio.sleep(1.5)  # longer than a transaction is tried again
    finally:
        await conn.execute("ALTER SYSTEM RESET statement_timeout")
        await conn.execute("SELECT pg_reload_conf()")
        world.healed()
        await conn.close()
    world.told["statements_ended"] = server.log().count(told) - before


# --- nodes and clocks ---------------------------------------------------------------------------------------------------


async def a_node_stands_still_for_five_seconds(world: World) -> None:
    """Its event loop stalls, with the locks that it holds; the other one goes on, at the latest when PostgreSQL takes back the rows
    of a transaction that stood still in the middle."""
    _, b = world.nodes
    b.freeze()
    try:
        await asyncio.sleep(1.0)
        before = world.load.sent
        world.hurt()
        await asyncio.sleep(4.0)
        await seen("the other node takes something", lambda: world.load.sent > before)
    finally:
        b.thaw()
        world.healed()


async def a_node_is_asked_to_end(world: World) -> None:
    """SIGTERM in the midst of the load: it ends with 0 in time, the other one goes on, and it is started again."""
    _, b = world.nodes
    asked_at = time.monotonic()
    code = await asyncio.to_thread(b.stop)
    world.told["exit_s"] = round(time.monotonic() - asked_at, 2)
    assert code == 0, b.tail()
    assert world.told["exit_s"] < EXIT_WITHIN_S * busy() + world.load.slowest_s
    before = world.load.sent
    world.hurt()
    await seen("the other node goes on", lambda: world.load.sent > before)
    await asyncio.to_thread(b.start)
    world.healed()


@pytest.mark.paced
@pytest.mark.story("S-PC-01-002")
@pytest.mark.story("S-PC-01-003")
@pytest.mark.story("S-PC-05-001")
def test_two_nodes_come_back_from_whatever_redis_postgresql_and_they_themselves_suffer(
    postgres_url: str,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    key = init(postgres_url)["keys"]["tenant"]
    with Wire(redis_server.port) as first, Wire(redis_server.port) as second:
        wires = (first, second)
        nodes = [
            Server(
                postgres_url,
                entry=entry,
                KORA_NODE_ID=name,
                KORA_REDIS_URL=f"redis://127.0.0.1:{wire.port}/0",
                CLOCK_OFF_FILE=str(clock_off(tmp_path, minutes=2)),
            )
            for name, wire, entry in zip(("a", "b"), wires, (ENTRY, WRONG_CLOCK + ENTRY), strict=True)
        ]
        since = database_time(postgres_url)
        with nodes[0], nodes[1]:
            world = World(postgres_url, key, nodes, tmp_path / "journal", postgres_server, redis_server, wires)
            faults: list[Fault] = [
                redis_is_slow,
                redis_is_cut_off_from_one_of_two_nodes,
                redis_is_out_of_memory,
                redis_is_read_only,
                redis_hangs,
                postgres_loses_every_connection_three_times,
                postgres_is_restarted,
                postgres_ends_statements_that_take_too_long,
                a_node_stands_still_for_five_seconds,
                a_node_is_asked_to_end,
            ]
            live_through(world, faults, record_property)
            # all the while the clocks of the two machines were two minutes apart; both nodes went by the database's
            off_ms = [int(n) for n in re.findall(r'"event":"clock_anchored","off_ms":(-?\d+)', nodes[1].tail(1 << 30))]
            assert len(off_ms) == 2  # it was started twice
            assert all(abs(n + 120_000) < 5_000 for n in off_ms), off_ms
        commits = run_in_thread(postgres_url, lambda conn: conn.execute(_COMMITS).all())
        assert {node for node, _, _ in commits} == {"a", "b"}
        assert all(since <= first <= last <= database_time(postgres_url) for _, first, last in commits)


# --- one server ---------------------------------------------------------------------------------------------------------

PER_S, BURST, BODY_WITHIN_S = 4, 150, 2.0
NARROW = f"""{WRONG_CLOCK}
from app.web import app, security
app.REQUESTS_PER_S, app.REQUESTS_BURST = {PER_S}, {BURST}
security.hurried.__kwdefaults__["within_s"] = {BODY_WITHIN_S}
{ENTRY}
"""
"""The product with limits that two cores reach: what is shown is what happens at a limit, not where it lies."""
FLOOD = 175
SLOW_BODIES = 30
STUCK, SCREENS_EACH = 200, 20
BUSY, ROUNDS_MAX = 600, 4
"""Commands after which more was told to each stream than its socket, its buffer and its queue hold; where not, as many more."""
LONG = "c" * 150
"""Ids of contacts that make what streams are told long."""
GROWTH_MAX_MIB = 100.0
"""64 KiB of queue and as much in the connection's buffer for each stuck stream are 25 MiB; its tasks, and what a busy minute
needs anyway, are some more. Nobody's bound would hold what was told to all of them, several hundred MiB."""


async def the_file_is_locked_by_another_process(world: World) -> None:
    """For longer than SQLite waits for a lock by itself (5 s)."""
    other = sqlite3.connect(world.url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        other.execute("PRAGMA wal_autocheckpoint=0")  # only the server moves its WAL file
        other.execute("BEGIN IMMEDIATE")
        world.hurt()
        before = -1
        while world.load.sent > before:  # what was answered before the lock
            before = world.load.sent
            await asyncio.sleep(1.0)
        await asyncio.sleep(5.0)
        assert world.load.sent == before, "something was answered that cannot be stored"
    finally:
        other.execute("ROLLBACK")
        world.healed()
        other.close()


async def one_key_sends_ten_times_what_it_may(world: World) -> None:
    """It is told to slow down and when to come again; another key's requests are served as if nothing were."""
    flooding = await asyncio.to_thread(run_in_thread, world.url, _second_key)
    world.hurt()
    flood = world.loaded(key=flooding, rate=0.0, batch=1, senders=32, may_refuse=frozenset({429}))
    began = time.monotonic()
    await flood.run(world.items(FLOOD))
    world.healed()
    took_s = world.healed_at - began
    assert set(flood.refused) == {"429"}
    times = (flood.refused["429"] + FLOOD) / took_s / PER_S
    world.told |= {"times_its_rate": round(times, 1), "slowest_of_others_s": round(world.load.slowest_s, 2)}
    assert times > 10
    said = flood.refusal
    assert said is not None
    assert int(said.headers["Retry-After"]) >= 1
    assert said.headers["Content-Type"].startswith("application/problem+json")
    assert (said.json()["status"], said.json()["title"]) == (429, "Too many requests")
    assert not world.load.refused, "another key was held up"


async def bodies_come_a_byte_at_a_time(world: World) -> None:
    """Each is given up in time, and whoever sends as usual is served meanwhile."""
    world.hurt()
    port, began = world.nodes[0].port, time.monotonic()

    async def drip() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.key}\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode())
        answer = asyncio.create_task(reader.read(12))
        try:
            while not answer.done():
                writer.write(b" ")
                await asyncio.wait({answer}, timeout=0.1)
            return await answer
        finally:
            writer.transport.abort()

    async with asyncio.timeout(SEEN_WITHIN_S):
        said = await asyncio.gather(*(drip() for _ in range(SLOW_BODIES)))
    world.healed()
    assert set(said) == {b"HTTP/1.1 408"}
    # what an ordinary request may wait for on this machine, they may, too
    assert BODY_WITHIN_S < world.healed_at - began < BODY_WITHIN_S + 3 + world.load.slowest_s
    assert not world.load.refused, "somebody else was held up"
    world.told["slowest_of_others_s"] = round(world.load.slowest_s, 2)


async def the_clock_is_set_back_by_an_hour_and_put_right_again(world: World) -> None:
    """Two restarts: the first one finds the machine's clock an hour early, the second one an hour later than before."""
    (node,) = world.nodes
    world.hurt()
    for minutes in (-60, 0):
        assert await asyncio.to_thread(node.stop) == 0
        clock_off(world.journal.parent, minutes)
        await asyncio.to_thread(node.start)
        await world.loaded(rate=0.0).run(world.items(CONTACTS))
    world.healed()
    assert '"event":"clock_was_set_back"' in node.tail(1 << 30)


async def two_hundred_screens_never_read_their_stream(world: World) -> None:
    """Streams whose browsers hang: commits go on, memory stays bounded, and the streams are dropped."""
    (node,) = world.nodes
    cookies = [await asyncio.to_thread(run_in_thread, world.url, _signed_in) for _ in range(STUCK // SCREENS_EACH)]
    before_mib, files = resident_mib(node.pid), open_files(node.pid)
    stuck = [await asyncio.to_thread(_stuck, node.port, cookie) for cookie in cookies for _ in range(SCREENS_EACH)]
    try:
        await seen("all streams are open", lambda: number(node, "kora_stream_clients") == STUCK)
        world.hurt()
        # the quicker commits come, the more of them fit into one message
        for _ in range(ROUNDS_MAX):
            await world.loaded(rate=0.0, batch=40).run(world.items(BUSY))
            if number(node, "kora_stream_clients") < STUCK:
                break
        await seen("all streams are dropped", lambda: number(node, "kora_stream_clients") == 0, 60)
        world.told |= {"dropped": number(node, "kora_stream_dropped_total")}
        world.told["growth_mib"] = round(resident_mib(node.pid) - before_mib, 1)
        await seen("nothing of them is left open", lambda: open_files(node.pid) < files + STUCK // 2)
    finally:
        for one in stuck:
            one.close()
        world.healed()
    assert world.told["growth_mib"] < GROWTH_MAX_MIB
    assert not world.load.refused, "commits were held up"


def _second_key(conn: Connection) -> str:
    """Another key of the clinic."""
    tenant, (key_id, token, secret_hash) = accounts.find_tenant(conn, "sol"), new_api_key()
    assert tenant is not None
    accounts.create_key(
        conn,
        key_id=key_id,
        secret_hash=secret_hash,
        name="flood",
        tenant_id=tenant.tenant_id,
        scopes="intake",
        now=SystemClock().now(),
    )
    return token


def _stuck(port: int, cookie: str) -> socket.socket:
    """A stream that is asked for and never read; with a small window, as over a real network."""
    one = socket.socket()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect(("127.0.0.1", port))
    one.sendall(f"GET /stream HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nCookie: kora_session={cookie}\r\n\r\n".encode())
    return one


def _signed_in(conn: Connection) -> str:
    """A superadmin's session; what its browser carries."""
    user_id, now = new_id(), SystemClock().now()
    email = f"{user_id}@clinica.example"
    accounts.create_user(
        conn, user_id=user_id, email=email, name="Wall", role="superadmin", password_hash="-", tenant_ids=(), now=now
    )
    token, session_hash = new_cookie_token()
    accounts.create_session(conn, key_hash=session_hash, user_id=user_id, now=now)
    return token


def number(node: Server, name: str) -> float:
    """One number of a node's metrics."""
    said = get(node, "/metrics").text
    found = re.search(rf"^{name} (\S+)$", said, re.MULTILINE)
    assert found is not None, f"no {name} in: {said[:300]}"
    return float(found[1])


def resident_mib(pid: int | None) -> float:
    """Memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def open_files(pid: int | None) -> int:
    """Files and sockets of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.paced
@pytest.mark.story("S-PC-01-002")
@pytest.mark.story("S-PC-01-003")
def test_one_server_comes_back_from_a_locked_file_floods_slow_bodies_and_stuck_screens(
    sqlite_url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    key = init(sqlite_url)["keys"]["tenant"]
    with Server(sqlite_url, entry=NARROW, CLOCK_OFF_FILE=str(clock_off(tmp_path, minutes=0))) as node:
        world = World(sqlite_url, key, [node], tmp_path / "journal", contact=LONG)
        faults: list[Fault] = [
            the_file_is_locked_by_another_process,
            one_key_sends_ten_times_what_it_may,
            bodies_come_a_byte_at_a_time,
            the_clock_is_set_back_by_an_hour_and_put_right_again,
            two_hundred_screens_never_read_their_stream,
        ]
        live_through(world, faults, record_property)
