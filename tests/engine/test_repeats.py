"""The idempotency fast path: Redis answers exact repeats as the database would, and everything else is the database's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import Connection, func, select, text

from app.clock import ManualClock, SystemClock
from app.engine.locks import DatabaseLocks
from app.engine.redis_locks import RedisLocks
from app.engine.repeats import Repeats
from app.errors import StorageUnavailable
from app.metrics import Metrics
from app.store.database import Database
from app.store.inbox import Receipt, accept
from app.store.tables import InboxCommand, table
from app.store.verify import verify
from tests.builders import clinic
from tests.engine.test_main_path import Engine, until
from tests.services import RedisServer

pytestmark = pytest.mark.story("S-PC-01-003")
COMMAND = table(InboxCommand)


class Front:
    """An engine with the fast path, and how often it wrote an acceptance."""

    def __init__(self, engine: Engine, redis: Redis, metrics: Metrics) -> None:
        self.engine, self.redis, self.metrics = engine, redis, metrics
        self.accepted = 0

    async def asks(self, name: str = "Oi", key: str = "k-1", **fields: Any) -> Receipt:
        (receipt,) = await self.engine.intake.commands(
            "ten-sol", [self.engine.command("follow_up", {"text": name}, idempotency_key=key, **fields)]
        )
        return receipt

    async def remembered(self, count: int = 1) -> None:
        await until(lambda: self._has(count))

    async def _has(self, count: int) -> bool:
        return len(await self.redis.keys("repeat:*")) == count

    def counted(self, answer: str) -> float:
        return float(self.metrics.intake_repeats.labels(answer=answer)._value.get())


@asynccontextmanager
async def opened(db: Database, clock: ManualClock, url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    locks, metrics = RedisLocks(url, DatabaseLocks(db, SystemClock(), mode="fallback")), Metrics()
    redis: Redis = Redis.from_url(url)
    front = Front(Engine(db, clock, repeats=Repeats(db, locks, metrics)), redis, metrics)
    write = db.write

    async def written(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        front.accepted += fn is accept
        return await write(fn, *args, **kwargs)

    monkeypatch.setattr(db, "write", written)
    async with front.engine.running():
        yield front
    await redis.aclose()
    await locks.close()


@pytest.fixture
async def front(db: Database, manual_clock: ManualClock, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    monkeypatch.setattr("app.engine.redis_locks.TIMEOUT_S", 2.0)  # a machine that pauses is no Redis that fails
    await db.write(clinic, now=manual_clock.now())
    async with opened(db, manual_clock, redis_url, monkeypatch) as made:
        yield made
    assert await db.read(verify) == []


def commands(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(COMMAND)).scalar_one()


async def test_an_exact_repeat_is_answered_as_the_database_would_without_writing(front: Front) -> None:
    first = await front.asks()
    await front.remembered()
    repeat = await front.asks()
    assert (front.accepted, front.counted("hit"), front.counted("miss")) == (1, 1, 1)
    await front.redis.flushdb()
    told_by_the_database = await front.asks()
    assert front.accepted == 2
    assert repeat == told_by_the_database
    assert (repeat.status, repeat.item_id, repeat.number) == ("duplicate_ignored", first.item_id, first.number)


async def test_a_message_that_comes_again_is_known_and_its_neighbours_are_accepted_in_their_places(front: Front) -> None:
    known = await front.engine.says("quero marcar", external_id="wamid.1")
    await front.remembered()
    now = front.engine.clock.now().isoformat()
    raws = [
        {"contact_id": "c-maria", "event_type": "message", "occurred_at": now, "payload": {"text": t}, "external_id": e}
        for t, e in (("e mais", "wamid.2"), ("quero marcar", "wamid.1"), ("obrigada", "wamid.3"))
    ]
    receipts = await front.engine.intake.events("ten-sol", raws)
    assert [r.status for r in receipts] == ["queued_for_dispatch", "duplicate_ignored", "queued_for_dispatch"]
    assert (receipts[1].item_id, [r.number for r in receipts]) == (known.item_id, [2, 1, 3])
    assert front.counted("hit") == 1


async def test_another_content_under_the_same_key_is_the_databases_to_judge(front: Front) -> None:
    await front.asks()
    await front.remembered()
    (other,) = await front.engine.done(front.engine.command("follow_up", {"text": "outra coisa"}, idempotency_key="k-1"))
    assert other.result == "blocked_conflict"
    assert (await front.asks("outra coisa")).status == "queued_for_dispatch"  # who holds the key is the first, not the last
    assert (await front.asks(contact_id="c-outra")).status == "queued_for_dispatch"
    assert (front.accepted, front.counted("hit")) == (4, 0)
    await front.remembered(1)


async def test_what_was_not_committed_is_not_remembered(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    write = front.engine.db.write

    async def refused(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if fn is accept:
            raise StorageUnavailable("the connection was lost")
        return await write(fn, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(front.engine.db, "write", refused)
        with pytest.raises(StorageUnavailable):
            await front.asks()
    assert await front.redis.dbsize() == 0


@pytest.mark.parametrize("fault", ["flush", "pause", "kill", "unreadable"])
async def test_without_an_answer_from_redis_the_database_gives_it(
    db: Database, manual_clock: ManualClock, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    await db.write(clinic, now=manual_clock.now())
    async with opened(db, manual_clock, redis_server.url, monkeypatch) as front:
        first = await front.asks()
        await front.remembered()
        if fault == "unreadable":
            (name,) = await front.redis.keys("repeat:*")
            await front.redis.set(name, '["other shape"]')
        else:
            getattr(redis_server, fault)()
        async with asyncio.timeout(30):
            repeat = await front.asks()
        assert (repeat.status, repeat.item_id, front.accepted) == ("duplicate_ignored", first.item_id, 2)
        assert await db.read(commands) == 1
        redis_server.heal()


async def test_what_a_database_that_was_put_back_does_not_have_is_accepted_anew(
    postgres_db: Database, manual_clock: ManualClock, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgres_db.write(clinic, now=manual_clock.now())
    async with opened(postgres_db, manual_clock, redis_url, monkeypatch) as front:
        before = await front.engine.says("quero marcar", external_id="wamid.1")
        await front.remembered()
        await postgres_db.write(lambda conn: conn.execute(text("TRUNCATE message")))  # as pg_restore --clean would
        anew = await front.engine.says("quero marcar", external_id="wamid.1")
        assert (anew.status, anew.number) == ("queued_for_dispatch", before.number + 1)
        assert front.counted("hit") == 0
