"""Every state of the order stories through the public API: on both databases, with Redis present, absent, failing and both silent.

Stories S-PC-01-001, -002, -003 and S-PC-05-001; which database grants a lock must change nothing of what a caller sees.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.bootstrap import Services, build, running
from app.clock import ManualClock
from app.domain.states import LockResult, State
from app.store.verify import verify
from tests.services import PostgresServer, RedisServer
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.conftest import app_over, browser_client, make_settings
from tests.web.engine_fixtures import api

__all__ = ["api"]

LOCKED = {
    "absent": ("database", LockResult.LOCK_ACQUIRED_PRIMARY),
    "present": ("primary", LockResult.LOCK_ACQUIRED_PRIMARY),
    "failing": ("fallback", LockResult.LOCK_ACQUIRED_FALLBACK),
}
"""Mode and lock of an installation by what its Redis does."""


@pytest.fixture(params=list(LOCKED))
def redis(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def engine(
    database_url: str, manual_clock: ManualClock, redis: str, request: pytest.FixtureRequest
) -> AsyncIterator[Services]:
    """One process, running; a failing Redis was there when it started and answers nothing from then on."""
    server: RedisServer | None = None if redis == "absent" else request.getfixturevalue("redis_server")
    settings = make_settings(database_url, redis_url=server.url if server else None)
    built = await build(settings, clock=manual_clock, logs=False)
    if server is not None and redis == "failing":
        server.pause()
    async with running(built):
        yield built
        assert await built.db.read(verify) == []


async def decided(api: Api, command_id: str) -> Any:
    """The command once it has its result."""
    return await api.once(f"/commands/{command_id}", lambda found: found["result"] is not None)


@pytest.mark.story("S-PC-01-001")
@pytest.mark.story("S-PC-01-002")
@pytest.mark.story("S-PC-01-003")
@pytest.mark.story("S-PC-05-001")
async def test_every_state_of_order_idempotency_and_locks_is_reached(api: Api, redis: str, manual_clock: ManualClock) -> None:
    seen: set[str] = set()
    booking = api.command(payload=api.slot(1, "a-1"), commit_order=1)
    receipt = await api.one(booking, wait=0)
    seen.add(receipt["status"])
    applied = await decided(api, receipt["command_id"])
    assert (applied["status"], applied["result"], applied["commit_order"]) == ("committed_causal", "applied_once", 1)
    seen |= {applied["status"], applied["result"]}
    (lock,) = [step["lock_backend"] for step in applied["timeline"] if step["what"] == "decided"]
    mode, expected = LOCKED[redis]
    assert lock == expected
    assert (await api.get("/health"))["lock_mode"] == mode

    again = await api.one(booking)
    other = await api.one(api.command(payload=api.slot(5, "a-5"), idempotency_key=booking["idempotency_key"]))
    passed = await api.one(api.command(commit_order=1))
    stale = await api.one(api.command(conversation_version=7))
    unusable = await api.one(api.command() | {"contact_id": None})
    assert again["command_id"] == receipt["command_id"]
    for answer in (again, other, passed, stale, unusable):
        assert (answer["status"], bool(answer["reason"]), bool(answer["next_action"])) == (answer["result"], True, True)
        seen.add(answer["result"])

    last = (await api.get(f"/contacts/{CONTACT}"))["lane"]["last_committed"]
    gap = await api.one(api.command(payload=api.slot(9, "a-9"), commit_order=last + 2), wait=0)
    waiting = await api.once(f"/commands/{gap['command_id']}", lambda found: found["status"] != "queued_for_dispatch")
    assert (waiting["result"], waiting["reason"]) == (None, "previous_missing")
    seen.add(waiting["status"])
    manual_clock.advance(minutes=5)
    given_up = await decided(api, gap["command_id"])
    seen.add(given_up["result"])
    assert len((await api.get("/manual-tasks"))["items"]) >= 2  # the place that stayed empty, and what waited behind it

    assert seen == {
        State.QUEUED_FOR_DISPATCH,
        State.BLOCKED_COMMIT_ORDER_VIOLATION,
        State.INVALID_PAYLOAD_MANUAL,
        State.COMMITTED_CAUSAL,
        State.WAITING_PREVIOUS_COMMIT,
        State.BLOCKED_CONFLICT,
        State.MANUAL_REVIEW_REQUIRED,
        State.APPLIED_ONCE,
        State.DUPLICATE_IGNORED,
        State.VERSION_CONFLICT_BLOCKED,
    }
    assert (await api.get("/appointments/a-1"))["version"] == 1
    for appointment_id in ("a-5", "a-9"):
        assert (await api.call("GET", f"/appointments/{appointment_id}")).status_code == 404


@pytest.mark.story("S-PC-05-001")
async def test_with_both_stores_silent_nothing_is_applied_nothing_is_lost_and_everybody_hears_of_it(
    postgres_server: PostgresServer, postgres_url: str, redis_server: RedisServer, manual_clock: ManualClock
) -> None:
    built = await build(make_settings(postgres_url, redis_url=redis_server.url), clock=manual_clock, logs=False)
    async with running(built), browser_client(app_over(built)) as client:
        api = await open_api(built, client)
        await api.call("POST", f"/contacts/{CONTACT}/lane/pause", json={"reason": "teste"})
        accepted = await api.one(api.command(payload=api.slot(1, "a-1")), wait=0)
        redis_server.kill()
        postgres_server.stop()
        try:
            await unlockable(client)
            refused = await api.call("POST", "/commands", json=api.command(payload=api.slot(3, "a-3")))
            assert refused.status_code == 503
        finally:
            postgres_server.start()
            redis_server.restart()
        state = await api.once("/safe-mode", lambda mode: mode["state"] == "safe_mode_active")
        assert {cause["kind"] for cause in state["causes"]} >= {"stores_down", "alert"}
        await api.call("POST", f"/contacts/{CONTACT}/lane/release", json={"reason": "teste"})
        parked = await api.once(f"/commands/{accepted['command_id']}", lambda c: c["status"] == "pending_safe_mode")
        assert parked["result"] is None
        assert (await api.call("GET", "/appointments/a-1")).status_code == 404
        assert await built.db.read(verify) == []


async def unlockable(client: httpx.AsyncClient) -> None:
    """Wait until health says that no lock can be had; asked without a key, which nobody could look up now."""
    async with asyncio.timeout(20):
        while True:
            components = (await client.get("/api/v1/health")).json()["components"]
            (locks,) = [component for component in components if component["name"] == "locks"]
            if (locks["status"], locks["detail"]) == ("red", LockResult.LOCK_ACQUIRE_FAILED_SAFE_BLOCK):
                return
            await asyncio.sleep(0.05)
