"""Wake-ups between nodes: a hint that there is work, never the work itself.

Redis pub/sub where Redis is configured, else PostgreSQL's LISTEN/NOTIFY; on SQLite there is one process and nobody to tell.
What a node learns this way it would find at its next poll anyway, so a hint that is lost (a connection that broke, a Redis
that restarted) costs one poll period, and one that is wrong costs one look. Hints of a moment travel as one message.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.store.database import Database

log = structlog.get_logger("engine.wakeups")

CHANNEL: Final = "kora_wakeups"
GAP_S: Final = 0.02
"""Messages of one node leave at most this often."""
IDLE_S: Final = 30.0
AGAIN_S: Final = 1.0
"""Before a lost connection is made again."""
SEND_LIMIT_S: Final = 1.0
DECIDED_MAX: Final = 60
"""Command ids in one message: PostgreSQL takes 8,000 bytes. Whoever waits for others finds them by polling."""

Heard = Callable[[str], None]


class Wire(Protocol):
    """One connection to the other nodes."""

    async def send(self, text: str) -> None:
        """Tell every node, this one included."""
        ...

    async def lost(self) -> None:
        """Return or raise when the connection is gone."""
        ...


Connect = Callable[[Heard], Any]
"""An async context manager of a `Wire` whose messages go to the given callable."""


class Wakeups:
    """The loop that tells, and the task beside it that listens."""

    name = "wakeups"

    def __init__(self, connect: Connect, *, node_id: str) -> None:
        self.wake = asyncio.Event()
        self.on_hint: dict[str, list[Callable[[], None]]] = {}
        """Who is woken by a topic that another node named."""
        self.on_decided: list[Callable[[str, list[str]], None]] = []
        """Called with a tenant and the ids of commands that got their result on another node."""
        self.connected = asyncio.Event()
        self._connect, self._node_id = connect, node_id
        self._wire: Wire | None = None
        self._topics: set[str] = set()
        self._decided: list[tuple[str, str]] = []
        self._listening: asyncio.Task[None] | None = None

    def teller(self, *topics: str) -> Callable[[], None]:
        """A callable that names these topics to the other nodes."""

        def tell() -> None:
            self._topics.update(topics)
            self.wake.set()

        return tell

    def decided(self, tenant_id: str, command_ids: Iterable[str]) -> None:
        """Name commands that got their result here."""
        self._decided += [(tenant_id, i) for i in command_ids]
        self.wake.set()

    async def tick(self) -> float:
        """Send what has gathered; it is forgotten where nobody can be told."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="wakeups-listen")
        topics, self._topics = self._topics, set()
        decided, self._decided = self._decided, []
        wire = self._wire
        if wire is None or not (topics or decided):
            return IDLE_S
        try:
            async with asyncio.timeout(SEND_LIMIT_S):
                await wire.send(_message(self._node_id, topics, decided[:DECIDED_MAX]))
        except _FAILURES as error:  # what listens on the same connection notices too, and makes a new one
            log.warning("wakeup_not_sent", error=type(error).__name__)
        await asyncio.sleep(GAP_S)
        return 0.0 if self._topics or self._decided else IDLE_S

    async def close(self) -> None:
        """End listening."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._connect(self._heard) as wire:
                    self._wire = wire
                    self.connected.set()
                    for wake in {w for wakes in self.on_hint.values() for w in wakes}:
                        wake()  # whatever was said while nobody listened
                    await wire.lost()
            except _FAILURES as error:
                log.warning("wakeups_disconnected", error=type(error).__name__)
            finally:
                self._wire = None
                self.connected.clear()
            await asyncio.sleep(AGAIN_S)

    def _heard(self, text: str) -> None:
        try:
            node_id, topics, decided = msgspec.json.decode(text, type=tuple[str, list[str], list[tuple[str, str]]])
        except msgspec.MsgspecError:
            log.warning("wakeup_not_understood", size=len(text))  # another version of the product, or somebody else's
            return
        if node_id == self._node_id:
            return
        for topic in topics:
            for wake in self.on_hint.get(topic, ()):
                wake()
        for tenant_id, command_id in decided:
            for tell in self.on_decided:
                tell(tenant_id, [command_id])


def _message(node_id: str, topics: set[str], decided: list[tuple[str, str]]) -> str:
    text = msgspec.json.encode((node_id, sorted(topics), decided)).decode()
    return text if len(text.encode()) < 7_900 else msgspec.json.encode((node_id, sorted(topics), [])).decode()


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


class _PostgresWire:
    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._gone = asyncio.Event()
        conn.add_termination_listener(lambda _: self._gone.set())

    async def send(self, text: str) -> None:
        await self._conn.execute("SELECT pg_notify($1, $2)", CHANNEL, text)

    async def lost(self) -> None:
        await self._gone.wait()


def over_postgres(database: Database) -> Connect:
    """LISTEN/NOTIFY on one connection beside the pool."""

    @asynccontextmanager
    async def connect(heard: Heard) -> AsyncIterator[Wire]:
        async with database.listen_connection() as conn:
            wire = _PostgresWire(conn)
            await conn.add_listener(CHANNEL, lambda _conn, _pid, _channel, payload: heard(payload))
            yield wire

    return connect


# --- Redis --------------------------------------------------------------------------------------------------------------


class _RedisWire:
    def __init__(self, redis: Redis, subscription: Any, heard: Heard) -> None:
        self._redis, self._subscription, self._heard = redis, subscription, heard

    async def send(self, text: str) -> None:
        await self._redis.publish(CHANNEL, text)

    async def lost(self) -> None:
        while True:
            message = await self._subscription.get_message(ignore_subscribe_messages=True, timeout=5.0)
            if message is not None:
                self._heard(message["data"].decode("utf-8", "replace"))


def over_redis(url: str) -> Connect:
    """Pub/sub, on connections of its own: a subscriber's silence must not look like a slow lock."""

    @asynccontextmanager
    async def connect(heard: Heard) -> AsyncIterator[Wire]:
        redis = Redis.from_url(url, socket_connect_timeout=1, socket_timeout=10, health_check_interval=0)
        subscription = redis.pubsub()
        try:
            await subscription.subscribe(CHANNEL)
            yield _RedisWire(redis, subscription, heard)
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]  # redis-py publishes no type for it
            await redis.aclose()

    return connect


def _failures() -> tuple[type[BaseException], ...]:
    """What a broken connection raises. asyncpg is only there where PostgreSQL is used."""
    try:
        import asyncpg
    except ImportError:
        return (OSError, TimeoutError, RedisError)
    return (OSError, TimeoutError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError)


_FAILURES: Final = _failures()
