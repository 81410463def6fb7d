"""The clinic's own systems hear every result: once, signed, again under the same key when they failed, and never unheard of."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.outbox import OutboxPolicy
from app.store.tables import Alert, ManualTask, Outbox, table
from tests.provider import Provider, Request, answer, provider
from tests.web.api_client import Api
from tests.web.engine_fixtures import api, engine

__all__ = ["api", "engine"]

SECRET = "a-secret-of-the-clinic"
OUTBOX, ALERT, TASK = table(Outbox), table(Alert), table(ManualTask)


async def listen(api: Api, there: Provider) -> None:
    """Name the webhook as the clinic's."""
    patch = {"webhook_url": f"{there.url}/results", "webhook_secret": SECRET}
    shown = await api.put(f"/settings/{api.clinic.slug}", patch)
    assert (shown["webhook_url"], shown["webhook_secret"]) == (f"{there.url}/results", "***")
    api.services.policies.forget()


async def once(services: Services, holds: Callable[[list[Any]], bool]) -> list[Any]:
    """The deliveries of results once something holds of them."""
    query = select(OUTBOX).where(OUTBOX.c.step == "result").order_by(OUTBOX.c.created_at, OUTBOX.c.outbox_id)
    async with asyncio.timeout(20):
        while not holds(found := await services.db.read(lambda conn: list(conn.execute(query)))):
            services.outbox.wake.set()
            await asyncio.sleep(0.01)
    return found


def signed(request: Request) -> bool:
    expected = hmac.new(SECRET.encode(), request.body, hashlib.sha256).hexdigest()
    return request.headers["x-kora-signature-256"] == f"sha256={expected}"


@pytest.mark.story("S-PC-01-003")
async def test_every_result_is_told_once_with_key_trace_and_signature(api: Api, engine: Services) -> None:
    async with provider(answer(200)) as there:
        await listen(api, there)
        done = await api.one(api.command(correlation_id="corr-hook"))
        again = await api.one(api.command(commit_order=1, correlation_id="corr-late"))
        rows = await once(engine, lambda found: [r.status for r in found] == ["sent", "sent"])
    by_id = {r.json["command_id"]: r for r in there.requests}
    assert (len(there.requests), set(by_id)) == (2, {done["command_id"], again["command_id"]})
    first = by_id[done["command_id"]]
    assert first.json == {
        "type": "command.result",
        "tenant_id": api.clinic.tenant_id,
        "contact_id": "c-maria",
        "command_id": done["command_id"],
        "command_type": "schedule",
        "commit_order": 1,
        "status": "committed_causal",
        "result": "applied_once",
        "reason": done["reason"],
        "correlation_id": "corr-hook",
        "decided_at": "2026-11-23T12:00:00Z",
    }
    assert (first.path, first.headers["x-correlation-id"]) == ("/results", "corr-hook")
    assert first.headers["traceparent"].startswith("00-")
    assert all(signed(r) for r in there.requests)
    assert {r.headers["idempotency-key"] for r in there.requests} == {row.outbox_id for row in rows}
    refused = by_id[again["command_id"]].json  # it ended when it was accepted, without a place
    assert (refused["result"], refused["commit_order"]) == ("blocked_commit_order_violation", None)


async def test_a_result_that_was_not_taken_comes_again_under_the_same_key(
    api: Api, engine: Services, manual_clock: ManualClock
) -> None:
    async with provider(answer(200), answer(500)) as there:
        await listen(api, there)
        await api.one(api.command())
        await once(engine, lambda found: [(r.status, r.attempts) for r in found] == [("pending", 1)])
        manual_clock.advance(minutes=1)
        (row,) = await once(engine, lambda found: [r.status for r in found] == ["sent"])
    first, second = there.requests
    assert first.body == second.body
    assert {first.headers["idempotency-key"], second.headers["idempotency-key"]} == {row.outbox_id}
    assert signed(second)


async def test_a_system_that_is_gone_ends_as_a_dead_letter_with_an_alert(
    api: Api, engine: Services, manual_clock: ManualClock
) -> None:
    engine.outbox._policy = OutboxPolicy(attempts_max=2)
    async with provider(answer(200)) as there:
        await listen(api, there)
    await api.one(api.command())
    await once(engine, lambda found: [(r.status, r.attempts) for r in found] == [("pending", 1)])
    manual_clock.advance(minutes=1)
    (row,) = await once(engine, lambda found: [r.status for r in found] == ["dead"])
    alerts = await engine.db.read(lambda conn: list(conn.execute(select(ALERT.c.trigger, ALERT.c.tenant_id))))
    assert [tuple(a) for a in alerts] == [("outbox_dead_letter", api.clinic.tenant_id)]
    task = await engine.db.read(lambda conn: conn.execute(select(TASK).where(TASK.c.item_id == row.outbox_id)).one())
    assert task.cause == "delivery_given_up"


async def test_a_system_that_is_away_for_a_week_is_told_no_more_and_one_alert_says_so(
    api: Api, engine: Services, manual_clock: ManualClock
) -> None:
    async with provider(answer(200)) as there:
        await listen(api, there)
    for _ in range(3):
        await api.one(api.command())
    await once(engine, lambda found: [r.status for r in found] == ["pending"] * 3 and all(r.attempts for r in found))
    manual_clock.advance(days=7, seconds=-1)
    await once(engine, lambda found: {r.status for r in found} == {"pending"})
    manual_clock.advance(seconds=1)
    rows = await once(engine, lambda found: {r.status for r in found} == {"dead"})
    assert {r.last_error for r in rows} == {"not_sent_in_time"}
    alerts = await engine.db.read(lambda conn: list(conn.execute(select(ALERT).where(ALERT.c.trigger == "outbox_dead_letter"))))
    assert [(a.tenant_id, a.severity) for a in alerts] == [(api.clinic.tenant_id, "high")]
    assert await engine.db.read(lambda conn: list(conn.execute(select(TASK).where(TASK.c.cause == "delivery_given_up")))) == []


async def test_without_a_webhook_nothing_is_written_and_what_waits_when_it_is_taken_away_is_nobodys_work(
    api: Api, engine: Services, manual_clock: ManualClock
) -> None:
    await api.one(api.command())
    assert await once(engine, lambda _: True) == []
    async with provider(answer(500)) as there:
        await listen(api, there)
        await api.one(api.command())
        await once(engine, lambda found: [(r.status, r.attempts) for r in found] == [("pending", 1)])
        await api.put(f"/settings/{api.clinic.slug}", {"webhook_url": None, "webhook_secret": None})
        engine.channels.forget()
        manual_clock.advance(minutes=1)
        (row,) = await once(engine, lambda found: [r.status for r in found] == ["failed"])
    assert row.last_error == "webhook_not_configured"
    assert await engine.db.read(lambda conn: list(conn.execute(select(TASK).where(TASK.c.item_id == row.outbox_id)))) == []


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({"webhook_url": "https://hooks.example.org/x"}, "/webhook_secret"),
        ({"webhook_url": "https://hooks.example.org/x", "webhook_secret": "short"}, "/webhook_secret"),
        ({"webhook_url": "https://user:pass@hooks.example.org/x", "webhook_secret": SECRET}, "/webhook_url"),
        ({"webhook_url": "ftp://hooks.example.org/x", "webhook_secret": SECRET}, "/webhook_url"),
    ],
)
async def test_an_address_that_could_not_be_used_is_refused_when_it_is_saved(api: Api, patch: dict[str, Any], pointer: str) -> None:
    refused = await api.call("PUT", f"/settings/{api.clinic.slug}", json=patch)
    assert (refused.status_code, [e["pointer"] for e in refused.json()["errors"]]) == (400, [pointer])
