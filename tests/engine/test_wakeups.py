"""Two nodes on one PostgreSQL: what one accepts the other serves long before it would have looked by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from app.bootstrap import Services, build
from app.clock import ManualClock
from app.engine import conversations, dispatch, intake, stream, wakeups
from app.engine.wakeups import Wakeups
from app.store.database import Database
from app.store.ledger import result_of
from tests.builders import clinic
from tests.services import RedisServer
from tests.web.conftest import make_settings

NEVER_S = 60.0
"""A poll period that no test waits for."""


@pytest.fixture(autouse=True)
def slow_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in ((dispatch, ["POLL_S"]), (conversations, ["POLL_S"]), (intake, ["WAIT_POLL_S"])):
        for name in names:
            monkeypatch.setattr(module, name, NEVER_S)
    monkeypatch.setattr(stream, "POLL_S", NEVER_S)
    monkeypatch.setattr(stream, "IDLE_POLL_S", NEVER_S)


@asynccontextmanager
async def node(url: str, clock: ManualClock, name: str, loops: list[str], redis_url: str | None) -> AsyncIterator[Services]:
    """A process of which only some loops run, as if the others were busy."""
    services = await build(replace(make_settings(url), node_id=name, redis_url=redis_url), clock=clock, logs=False)
    async with asyncio.TaskGroup() as group:
        for loop in services.loops:
            if loop.name in loops:
                group.create_task(services.supervisor.run(loop))
        group.create_task(services.hub.run(services.supervisor.stop))
        try:
            assert services.wakeups is not None
            await asyncio.wait_for(services.wakeups.connected.wait(), 10)
            await asyncio.wait_for(services.hub.ready.wait(), 10)
            yield services
        finally:
            services.supervisor.stop.set()
    await services.close()


def command(clock: ManualClock) -> dict[str, Any]:
    now = clock.now().isoformat()
    return {
        "contact_id": "c-maria", "command_type": "follow_up", "requested_by": "human", "conversation_version": 1,
        "as_of": now, "occurred_at": now, "payload": {"text": "oi"}, "idempotency_key": "k-1",
    }  # fmt: skip


@pytest.mark.parametrize("over", ["postgresql", "redis"])
async def test_another_node_serves_what_this_one_accepted_and_this_one_hears_of_the_result(
    postgres_db: Database, manual_clock: ManualClock, over: str, request: pytest.FixtureRequest
) -> None:
    redis_url = request.getfixturevalue("redis_url") if over == "redis" else None
    await postgres_db.write(clinic, now=manual_clock.now())
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(node(postgres_db.url, manual_clock, "n1", ["intake", "wakeups"], redis_url))
        second = await stack.enter_async_context(node(postgres_db.url, manual_clock, "n2", ["dispatch", "wakeups"], redis_url))
        position = second.hub.position
        (receipt,) = await first.intake.commands("ten-sol", [command(manual_clock)])
        await asyncio.wait_for(first.intake.result("ten-sol", receipt.item_id, NEVER_S), NEVER_S / 4)
        assert await postgres_db.read(result_of, "ten-sol", receipt.item_id) == "applied_once"
        async with asyncio.timeout(NEVER_S / 4):
            while second.hub.position == position:
                await asyncio.sleep(0.01)


async def test_a_broken_connection_costs_hints_and_is_made_again(
    postgres_db: Database, redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "AGAIN_S", 0.05)
    woken = asyncio.Event()
    nodes = [Wakeups(wakeups.over_redis(redis_url), node_id=name) for name in ("n1", "n2")]
    nodes[1].on_hint = {"commands": [woken.set]}
    tell = nodes[0].teller("commands")
    try:
        for one in nodes:
            await one.tick()
            await asyncio.wait_for(one.connected.wait(), 10)
        redis_server.restart()
        async with asyncio.timeout(20):
            while not woken.is_set() or not nodes[1].connected.is_set():
                tell()
                await nodes[0].tick()
                await asyncio.sleep(0.02)
        nodes[1]._heard("no message of ours")  # whatever comes over the wire
    finally:
        for one in nodes:
            await one.close()
