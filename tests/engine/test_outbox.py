"""The outbox: what leaves, how often, and what happens when the other side misbehaves; on both databases."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from app.channels.addresses import AllowList
from app.channels.factory import World
from app.channels.http import Limits, new_client
from app.clock import ManualClock
from app.domain.delivery import DeliveryUpdate, OutboxStatus
from app.engine import lookahead
from app.engine.channel_book import ChannelBook, NoChannel
from app.engine.circuits import FAILURES_TO_OPEN, Circuits
from app.engine.lookahead import Lookahead
from app.engine.outbox import OutboxLoop, OutboxPolicy
from app.engine.phone_writer import PhoneWriter
from app.errors import StorageUnavailable
from app.store.database import Database
from app.store.outbox import (
    Backlog,
    Due,
    Settlement,
    backlog,
    claim,
    defer,
    deliveries_of,
    due,
    enqueue,
    expire_leases,
    outbox_row,
    record_deliveries,
    settle,
)
from app.store.phone import chat, chats
from app.store.tables import Alert, DeliveryStatus, ManualTask, Outbox, SettingsDoc, table
from app.telemetry import Metrics
from tests import builders
from tests.conftest import NOON
from tests.provider import Behaviour, Provider, accepts, answer, drip, hang, nonsense, provider, reset

OUTBOX, TASK, STATUS = table(Outbox), table(ManualTask), table(DeliveryStatus)
TENANT, CONTACT = "ten-sol", "c-maria"
PATIENT = Limits(connect_s=10, read_s=20, total_s=20)  # a machine that pauses for a second is not a provider that fails
QUICK = Limits(connect_s=10, read_s=1, total_s=1.5)  # for what never answers
POLICY = OutboxPolicy(attempts_max=4, backoff_s=2.0, send_limit_s=30.0)


def say(conn: Connection, /, text: str = "Consulta marcada.", cause: str = "cmd-1", step: str = "answer", **values: Any) -> str:
    facts: dict[str, Any] = {
        "tenant_id": TENANT,
        "cause_id": cause,
        "step": step,
        "kind": "family_message",
        "contact_id": CONTACT,
        "body": {"text": text},
        "correlation_id": "corr-1",
        "now": NOON,
    }
    row = outbox_row(**facts | values)
    enqueue(conn, [row])
    return str(row["outbox_id"])


def hook(conn: Connection, /, url: str, cause: str = "cmd-1") -> str:
    body = {"channel": f"webhook:{url}", "document": {"n": 1}}
    return say(conn, cause=cause, kind="webhook", contact_id=None, body=body)


def rows(conn: Connection) -> list[Any]:
    return list(conn.execute(select(OUTBOX).order_by(OUTBOX.c.created_at, OUTBOX.c.outbox_id)))


def tasks(conn: Connection) -> list[tuple[str, str, str]]:
    return [(r.cause, r.reason, r.status) for r in conn.execute(select(TASK).order_by(TASK.c.created_at))]


def configure(conn: Connection, /, document: str, scope: str = TENANT) -> None:
    conn.execute(insert(table(SettingsDoc)).values(scope=scope, data_json=document, updated_at=NOON, updated_by="system:test"))


def cloud_settings(url: str, more: str = "") -> str:
    return f'{{"whatsapp": {{"phone_number_id": "1055", "access_token": "t", "base_url": "{url}"{more}}}}}'


@asynccontextmanager
async def running(
    db: Database,
    clock: ManualClock,
    policy: OutboxPolicy = POLICY,
    allowed: tuple[str, ...] = ("127.0.0.0/8",),
    behaviour: Behaviour | None = None,
) -> AsyncIterator[OutboxLoop]:
    limits = QUICK if behaviour in (hang, drip) else PATIENT
    async with new_client() as client:
        world = World(client=client, phone=PhoneWriter(db, clock), allowed=AllowList.of(allowed), limits=limits)
        loop = OutboxLoop(db, clock, ChannelBook(db, world), Metrics(), policy=policy)
        try:
            yield loop
        finally:
            await loop.close()


async def until(db: Database, loop: OutboxLoop, condition: Callable[[list[Any]], bool], limit_s: float = 30.0) -> list[Any]:
    """Run rounds until the rows satisfy the condition."""
    async with asyncio.timeout(limit_s):
        while True:
            loop.wake.clear()
            delay_s = await loop.tick()
            found = await db.read(rows)
            if condition(found):
                return found
            if delay_s > 0:
                try:
                    async with asyncio.timeout(min(delay_s, 0.05)):
                        await loop.wake.wait()
                except TimeoutError:
                    continue


def all_are(*statuses: str) -> Callable[[list[Any]], bool]:
    return lambda found: [r.status for r in found] == list(statuses)


def waiting_after(attempts: int) -> Callable[[list[Any]], bool]:
    return lambda found: (found[0].status, found[0].attempts) == ("pending", attempts)


@pytest.fixture
async def clinic(db: Database) -> Database:
    await db.write(builders.clinic)
    return db


# --- families: at most once ---------------------------------------------------------------------------------------------


async def test_a_message_reaches_the_simulated_phone_once_whatever_is_enqueued_again(
    clinic: Database, manual_clock: ManualClock
) -> None:
    await clinic.write(say)
    await clinic.write(say)
    async with running(clinic, manual_clock) as loop:
        (row,) = await until(clinic, loop, all_are("sent"))
    assert (row.attempts, row.delivery, row.sent_at) == (1, "sent", NOON)
    (shown,) = await clinic.read(chats, (TENANT,))
    assert (shown.target, shown.last_body, shown.contact_id) == ("+5511987654321", "Consulta marcada.", CONTACT)
    assert [b.body for b in await clinic.read(chat, TENANT, "+5511987654321")] == ["Consulta marcada."]


async def test_a_message_goes_through_the_tenants_provider(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider(accepts("wamid.7")) as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await clinic.write(say)
        (row,) = await until(clinic, loop, all_are("sent"))
    assert row.provider_message_id == "wamid.7"
    assert there.requests[0].json["to"] == "5511987654321"


@pytest.mark.parametrize("behaviour", [hang, drip, reset, nonsense, answer(500), answer(502)])
async def test_a_message_that_may_have_been_sent_goes_to_a_person_and_is_never_repeated(
    clinic: Database, manual_clock: ManualClock, behaviour: Behaviour
) -> None:
    async with provider(behaviour) as there, running(clinic, manual_clock, behaviour=behaviour) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await clinic.write(say)
        await until(clinic, loop, all_are("unknown"))
        manual_clock.advance(hours=1)
        await loop.tick()
        assert len(there.requests) == 1
    assert await clinic.read(tasks) == [("delivery_unknown", "delivery_unknown", "open")]


async def test_a_message_that_was_not_taken_is_tried_again_and_arrives_once(clinic: Database, manual_clock: ManualClock) -> None:
    busy = answer(429, {"error": {"code": 130429}})
    async with provider(accepts("wamid.8"), busy, busy) as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await clinic.write(say)
        for attempts in (1, 2):
            await until(clinic, loop, waiting_after(attempts))
            manual_clock.advance(minutes=5)
        (row,) = await until(clinic, loop, all_are("sent"))
    assert (row.attempts, len(there.requests)) == (3, 3)
    assert await clinic.read(tasks) == []


async def test_a_message_waits_at_least_as_long_as_the_provider_asks(clinic: Database, manual_clock: ManualClock) -> None:
    busy = answer(429, {"error": {"code": 130429}}, retry_after="90")
    async with provider(busy) as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await clinic.write(say)
        (row,) = await until(clinic, loop, waiting_after(1))
    assert row.due_at >= NOON + timedelta(seconds=90)


async def test_a_message_is_given_up_after_bounded_attempts_and_a_person_takes_over(
    clinic: Database, manual_clock: ManualClock
) -> None:
    async with provider(answer(503)) as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await clinic.write(say)
        for n in range(1, POLICY.attempts_max):
            await until(clinic, loop, waiting_after(n))
            manual_clock.advance(minutes=10)
        await until(clinic, loop, all_are("dead"))
        assert len(there.requests) == POLICY.attempts_max
    assert await clinic.read(tasks) == [("delivery_given_up", "delivery_given_up", "open")]
    alert = table(Alert)
    raised = await clinic.read(lambda conn: [(r.trigger, r.severity, r.tenant_id) for r in conn.execute(select(alert))])
    assert raised == [("outbox_dead_letter", "high", TENANT)]


async def test_a_refused_message_opens_a_task_with_its_cause(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider(answer(400, {"error": {"code": 131047}})) as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await clinic.write(say)
        await until(clinic, loop, all_are("failed"))
    assert await clinic.read(tasks) == [("delivery_refused", "template_required", "open")]


async def test_outside_the_window_the_clinics_template_carries_the_words(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider(accepts(), answer(400, {"error": {"code": 131047}})) as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url, ', "message_template": "aviso_geral"'))
        await clinic.write(say, "Amanhã\nàs 10h")
        await until(clinic, loop, all_are("sent"))
    template = there.requests[1].json["template"]
    assert template["name"] == "aviso_geral"
    assert template["components"][0]["parameters"][0]["text"] == "Amanhã às 10h"


async def test_a_contact_without_a_phone_is_a_persons_work(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider() as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await clinic.write(say, contact_id="c-nobody")
        await until(clinic, loop, all_are("failed"))
        assert there.requests == []
    assert await clinic.read(tasks) == [("delivery_refused", "contact_without_phone", "open")]


async def test_a_channel_that_is_not_configured_refuses_with_its_cause(clinic: Database, manual_clock: ManualClock) -> None:
    async with running(clinic, manual_clock) as loop:
        await clinic.write(configure, '{"contacts_channel": "evolution:"}')
        await clinic.write(say)
        (row,) = await until(clinic, loop, all_are("failed"))
    assert row.last_error == "evolution_not_configured"
    assert [cause for cause, _, _ in await clinic.read(tasks)] == ["delivery_refused"]


async def test_messages_of_one_contact_leave_in_the_order_in_which_they_were_written(
    clinic: Database, manual_clock: ManualClock
) -> None:
    def three(conn: Connection) -> None:
        made = [
            outbox_row(
                tenant_id=TENANT, cause_id=f"cmd-{n}", step="answer", kind="family_message", contact_id=CONTACT,
                body={"text": f"{n}"}, correlation_id="c", now=NOON,
            )
            for n in (1, 2, 3)
        ]  # fmt: skip
        enqueue(conn, made)

    await clinic.write(three)
    async with provider(accepts(), answer(503)) as there, running(clinic, manual_clock) as loop:
        await clinic.write(configure, cloud_settings(there.url))
        await until(clinic, loop, waiting_after(1))
        assert [r.json["text"]["body"] for r in there.requests] == ["1"]
        manual_clock.advance(minutes=5)
        await until(clinic, loop, all_are("sent", "sent", "sent"))
    assert [r.json["text"]["body"] for r in there.requests] == ["1", "1", "2", "3"]


async def test_a_sender_that_died_leaves_an_unknown_message_for_a_person(clinic: Database, manual_clock: ManualClock) -> None:
    outbox_id = await clinic.write(say)
    assert await clinic.write(claim, {outbox_id: 0}, "dead-node", NOON + timedelta(seconds=30), NOON) == {outbox_id}
    async with running(clinic, manual_clock) as loop:
        await loop.tick()
        assert [r.status for r in await clinic.read(rows)] == ["sending"]
        manual_clock.advance(seconds=31)
        await until(clinic, loop, all_are("unknown"))
    assert await clinic.read(tasks) == [("delivery_unknown", "delivery_unknown", "open")]
    assert await clinic.read(chats, (TENANT,)) == []


async def test_a_late_answer_still_says_what_happened_and_frees_the_person(clinic: Database, manual_clock: ManualClock) -> None:
    outbox_id = await clinic.write(say)
    await clinic.write(claim, {outbox_id: 0}, "slow-node", NOON + timedelta(seconds=30), NOON)
    later = NOON + timedelta(minutes=1)
    assert await clinic.write(expire_leases, later, 4) == [outbox_id]
    late = Settlement(outbox_id=outbox_id, token="slow-node", status=OutboxStatus.SENT, provider_message_id="wamid.1")
    assert await clinic.write(settle, [late], later) == {outbox_id}
    assert [r.status for r in await clinic.read(rows)] == ["sent"]
    assert await clinic.read(tasks) == [("delivery_unknown", "delivery_unknown", "resolved")]


async def test_two_nodes_never_send_the_same_row(clinic: Database) -> None:
    outbox_id = await clinic.write(say)
    lease = NOON + timedelta(seconds=30)
    assert await clinic.write(claim, {outbox_id: 0}, "a", lease, NOON) == {outbox_id}
    assert await clinic.write(claim, {outbox_id: 0}, "b", lease, NOON) == set()
    foreign = Settlement(outbox_id=outbox_id, token="b", status=OutboxStatus.SENT)
    assert await clinic.write(settle, [foreign], NOON) == set()


# --- a look is kept for a moment ----------------------------------------------------------------------------------------


@dataclass
class _Counting:
    """The database; looks through the outbox take a moment, and are counted."""

    db: Database
    looks: int = 0

    async def read(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if fn is backlog:
            self.looks += 1
            await asyncio.sleep(0.06)
        return await self.db.read(fn, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


async def test_several_rounds_live_from_one_look(
    clinic: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookahead, "PAUSE_MAX_S", 60.0)
    monkeypatch.setattr(lookahead, "SHARE", 1000)
    counting: Any = _Counting(clinic)
    for n in range(3 * POLICY.per_target):
        await clinic.write(say, contact_id=f"c-{n}", cause=f"cmd-{n}")
    async with running(counting, manual_clock) as loop:
        found = await until(clinic, loop, all_are(*["sent"] * 3 * POLICY.per_target))
    assert counting.looks == 1
    assert all(row.attempts == 1 for row in found)


async def test_what_came_after_a_look_is_seen_when_the_next_one_is_due(clinic: Database, manual_clock: ManualClock) -> None:
    counting: Any = _Counting(clinic)
    async with running(counting, manual_clock) as loop:
        assert await loop.tick() <= lookahead.PAUSE_MAX_S
        await clinic.write(say)
        assert await loop.tick() <= lookahead.PAUSE_MAX_S  # woken too early, and nobody wakes it again
        (row,) = await until(clinic, loop, all_are("sent"))
    assert row.attempts == 1


async def test_what_another_node_tried_meanwhile_is_not_claimed_from_an_old_look(clinic: Database) -> None:
    outbox_id = await clinic.write(say, kind="notice", contact_id=None, body={"channel": "simulator", "text": "oi"})
    (seen,) = await clinic.read(due, NOON, per_group=8, limit=8)
    lease = NOON + timedelta(seconds=30)
    assert await clinic.write(claim, {outbox_id: 0}, "other", lease, NOON) == {outbox_id}
    again = Settlement(outbox_id=outbox_id, token="other", status=OutboxStatus.PENDING, due_at=NOON)
    assert await clinic.write(settle, [again], NOON) == {outbox_id}
    assert await clinic.write(claim, {outbox_id: seen.attempts}, "we", lease, NOON) == set()
    assert await clinic.write(claim, {outbox_id: 1}, "we", lease, NOON) == {outbox_id}


async def test_what_another_node_took_meanwhile_is_not_said_to_have_failed_here(
    clinic: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox_id = await clinic.write(say)
    told: list[str] = []
    async with running(clinic, manual_clock) as loop:

        async def taken(_delivery: Due) -> NoChannel:
            await clinic.write(claim, {outbox_id: 0}, "other", NOON + timedelta(seconds=30), NOON)
            return NoChannel("not_here")

        monkeypatch.setattr(loop._channels, "for_delivery", taken)
        monkeypatch.setattr(loop._metrics, "delivered", told.append)
        await loop.tick()
    assert told == []
    assert [row.status for row in await clinic.read(rows)] == ["sending"]


async def test_a_look_that_falls_due_during_a_round_follows_at_once(
    clinic: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round was woken for something that the last look did not see."""
    async with running(clinic, manual_clock) as loop:
        await loop.tick()
        left_s = iter((0.003, 0.0))
        monkeypatch.setattr(Lookahead, "pause_s", property(lambda _: next(left_s)))
        assert await loop.tick() == 0.0


def test_looks_are_rare_where_they_take_long_but_never_rarer_than_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, nothing = [100.0], Backlog(0, None, None, None, None)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ahead = Lookahead()
    assert ahead.pause_s == 0.0
    ahead.looked(nothing, [], took_s=0.002)
    assert ahead.pause_s == pytest.approx(0.02)
    ahead.looked(nothing, [], took_s=3.0)
    assert ahead.pause_s == 0.5
    now[0] += 0.6
    assert ahead.pause_s == 0.0


# --- webhooks: at least once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [hang, drip, reset, answer(500), answer(429)])
async def test_a_webhook_is_repeated_under_the_same_key_until_it_is_taken(
    clinic: Database, manual_clock: ManualClock, behaviour: Behaviour
) -> None:
    async with provider(answer(204), behaviour) as there, running(clinic, manual_clock, behaviour=behaviour) as loop:
        await clinic.write(hook, there.url)
        await until(clinic, loop, waiting_after(1))
        manual_clock.advance(minutes=5)
        (row,) = await until(clinic, loop, all_are("sent"))
    keys = {r.headers["idempotency-key"] for r in there.requests}
    assert (len(there.requests), keys) == (2, {row.outbox_id})


async def test_a_webhook_whose_sender_died_is_sent_again(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider(answer(204)) as there, running(clinic, manual_clock) as loop:
        outbox_id = await clinic.write(hook, there.url)
        await clinic.write(claim, {outbox_id: 0}, "dead-node", NOON + timedelta(seconds=30), NOON)
        manual_clock.advance(seconds=31)
        (row,) = await until(clinic, loop, all_are("sent"))
    assert (row.attempts, len(there.requests)) == (2, 1)


async def test_a_webhook_into_a_private_network_is_refused(clinic: Database, manual_clock: ManualClock) -> None:
    async with running(clinic, manual_clock) as loop:
        await clinic.write(hook, "http://10.0.0.1/x")
        (row,) = await until(clinic, loop, all_are("failed"))
    assert row.last_error == "private_address"


async def test_only_the_installation_opens_private_addresses(clinic: Database, manual_clock: ManualClock) -> None:
    opened = '{"outbound_allow": ["127.0.0.1"]}'
    async with provider(answer(204)) as there:
        await clinic.write(configure, opened)
        async with running(clinic, manual_clock, allowed=()) as loop:
            await clinic.write(hook, there.url)
            await until(clinic, loop, all_are("failed"))
        await clinic.write(configure, opened, "global")
        async with running(clinic, manual_clock, allowed=()) as loop:
            await clinic.write(hook, there.url, "cmd-2")
            await until(clinic, loop, all_are("failed", "sent"))
    assert len(there.requests) == 1


async def test_a_target_that_hangs_delays_nobody_else(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider(hang) as stuck, provider(answer(204)) as fine, running(clinic, manual_clock) as loop:
        for n in range(20):
            await clinic.write(hook, stuck.url, f"stuck-{n}")
        await clinic.write(say)
        await clinic.write(hook, fine.url, "fine")
        await until(clinic, loop, lambda found: {r.status for r in found if r.cause_id in ("cmd-1", "fine")} == {"sent"}, 15)
        assert len(stuck.requests) <= 8


async def test_a_target_that_keeps_failing_is_left_alone_for_a_while(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider(answer(500)) as there, running(clinic, manual_clock) as loop:
        for n in range(FAILURES_TO_OPEN):
            await clinic.write(hook, there.url, f"c-{n}")
        await until(clinic, loop, lambda found: all(r.attempts == 1 and r.status == "pending" for r in found))
        assert loop.circuits.open_targets() == [f"webhook:127.0.0.1:{there.port}"]
        calls = len(there.requests)
        manual_clock.advance(minutes=5)
        await clinic.write(hook, there.url, "later")
        later = await until(clinic, loop, lambda found: all(r.due_at > manual_clock.now() for r in found))
        assert len(there.requests) == calls
        assert [r.attempts for r in later] == [1] * FAILURES_TO_OPEN + [0]


async def test_a_database_that_fails_beside_a_probe_does_not_keep_the_circuit_waiting_for_it(
    clinic: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refusals, now = clinic.write, [1], [0.0]

    async def failing(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if fn is defer and refusals:
            refusals.pop()
            raise StorageUnavailable("gone for a moment")
        return await write(fn, *args, **kwargs)

    monkeypatch.setattr(clinic, "write", failing)
    async with provider(answer(200)) as there, running(clinic, manual_clock) as loop:
        loop.circuits = Circuits(lambda: now[0])
        for _ in range(FAILURES_TO_OPEN):
            loop.circuits.failed(f"webhook:127.0.0.1:{there.port}")
        now[0] = 60.0
        for n in range(2):
            await write(hook, there.url, f"c-{n}")
        with pytest.raises(StorageUnavailable):
            await loop.tick()
        await until(clinic, loop, all_are("sent", "sent"))


async def test_settings_that_cannot_be_read_beside_a_probe_do_not_keep_the_circuit_waiting_for_it(
    clinic: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = [0.0], 0
    async with provider(answer(200)) as there, running(clinic, manual_clock) as loop:
        channel_of = loop._channels.for_delivery

        async def failing(delivery: Due) -> Any:
            nonlocal asked
            asked += 1
            if asked == 2:
                raise StorageUnavailable("gone for a moment")
            return await channel_of(delivery)

        monkeypatch.setattr(loop._channels, "for_delivery", failing)
        loop.circuits = Circuits(lambda: now[0])
        for _ in range(FAILURES_TO_OPEN):
            loop.circuits.failed(f"webhook:127.0.0.1:{there.port}")
        now[0] = 60.0
        for n in range(2):
            await clinic.write(hook, there.url, f"c-{n}")
        with pytest.raises(StorageUnavailable):
            await loop.tick()
        await until(clinic, loop, lambda found: any(r.status == "sent" for r in found))
        manual_clock.advance(seconds=2)  # the other one waited for the probe
        await until(clinic, loop, all_are("sent", "sent"))


def test_a_circuit_opens_lets_one_probe_through_and_closes_on_success() -> None:
    now = [0.0]
    circuits = Circuits(lambda: now[0])
    for _ in range(FAILURES_TO_OPEN):
        assert circuits.wait_s("x") == 0
        circuits.failed("x")
    assert circuits.wait_s("x") > 0
    assert circuits.wait_s("other") == 0
    now[0] = 11.0
    assert circuits.wait_s("x") == 0
    circuits.begin("x")
    assert circuits.wait_s("x") > 0  # one probe at a time
    circuits.failed("x")
    assert circuits.wait_s("x") > 10
    now[0] = 100.0
    circuits.begin("x")
    circuits.succeeded("x")
    assert circuits.wait_s("x") == 0
    circuits.failed("x", retry_after_s=30)
    assert circuits.wait_s("x") == 30


async def test_stopping_waits_for_calls_on_their_way(clinic: Database, manual_clock: ManualClock) -> None:
    released = asyncio.Event()

    async def slowly(request: Any, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        await accepts("wamid.slow")(request, writer)

    async with provider(slowly) as there:
        async with running(clinic, manual_clock) as loop:
            await clinic.write(configure, cloud_settings(there.url))
            await clinic.write(say)
            await loop.tick()
            await _arrival(there)
            released.set()
        (row,) = await clinic.read(rows)
    assert (row.status, row.provider_message_id) == ("sent", "wamid.slow")


async def _arrival(there: Provider) -> None:
    async with asyncio.timeout(15):
        await there.arrived.wait()


async def test_a_quiet_tenant_is_served_although_another_has_a_long_backlog(clinic: Database, manual_clock: ManualClock) -> None:
    def flood(conn: Connection) -> None:
        made = [
            outbox_row(
                tenant_id=TENANT, cause_id=f"f-{n}", step="answer", kind="family_message", contact_id=f"c-{n}",
                body={"text": "x"}, correlation_id="c", now=NOON - timedelta(minutes=5),
            )
            for n in range(100)
        ]  # fmt: skip
        enqueue(conn, made)

    await clinic.write(flood)
    await clinic.write(builders.tenant, tenant_id="ten-lua")
    await clinic.write(say, cause="quiet", tenant_id="ten-lua", contact_id="c-ana")
    front = await clinic.read(due, manual_clock.now(), per_group=8, limit=10)
    assert "ten-lua" in {d.tenant_id for d in front}


# --- what has a time limit ----------------------------------------------------------------------------------------------


async def test_what_could_not_be_sent_in_time_is_dropped_and_not_sent_late(clinic: Database, manual_clock: ManualClock) -> None:
    limit = NOON + timedelta(hours=4)
    await clinic.write(say, not_after=limit)
    await clinic.write(say, cause="cmd-2", text="Sem prazo.", now=NOON + timedelta(seconds=1))
    manual_clock.set(NOON + timedelta(hours=14))
    async with running(clinic, manual_clock) as loop:
        found = await until(clinic, loop, all_are("failed", "sent"))
    assert (found[0].last_error, found[0].attempts) == ("not_sent_in_time", 0)
    assert len(await clinic.read(chats, (TENANT,), 10)) == 1
    assert await clinic.read(tasks) == []  # its cause says what happens next


async def test_until_its_limit_a_message_is_sent_and_at_the_limit_nobody_can_claim_it(
    clinic: Database, manual_clock: ManualClock
) -> None:
    limit = NOON + timedelta(hours=4)
    early, late = await clinic.write(say, not_after=limit), await clinic.write(say, cause="cmd-2", not_after=limit)
    lease = limit + timedelta(minutes=1)
    assert await clinic.write(claim, {early: 0}, "n", lease, limit - timedelta(microseconds=1)) == {early}
    assert await clinic.write(claim, {late: 0}, "n", lease, limit) == set()


async def test_a_target_that_is_down_all_day_leaves_no_message_for_the_night(clinic: Database, manual_clock: ManualClock) -> None:
    await clinic.write(say, not_after=NOON + timedelta(hours=4))
    async with running(clinic, manual_clock) as loop:
        for _ in range(FAILURES_TO_OPEN):
            loop.circuits.failed("simulator", retry_after_s=3_600)
        await until(clinic, loop, lambda found: found[0].due_at > NOON)
        manual_clock.set(NOON + timedelta(hours=4))
        await until(clinic, loop, all_are("failed"))
    assert await clinic.read(chats, (TENANT,), 10) == []


# --- providers' statuses ------------------------------------------------------------------------------------------------


def status(word: str, at: datetime = NOON, **over: Any) -> DeliveryUpdate:
    facts: dict[str, Any] = {
        "tenant_id": TENANT,
        "channel": "whatsapp",
        "provider_message_id": "wamid.1",
        "status": word,
        "at": at,
    } | over
    return DeliveryUpdate(**facts)


async def sent_row(db: Database) -> str:
    outbox_id = await db.write(say)
    await db.write(claim, {outbox_id: 0}, "n", NOON + timedelta(seconds=30), NOON)
    done = Settlement(outbox_id=outbox_id, token="n", status=OutboxStatus.SENT, provider_message_id="wamid.1")
    await db.write(settle, [done], NOON)
    return str(outbox_id)


async def test_statuses_are_kept_once_each_and_the_summary_never_goes_back(clinic: Database) -> None:
    await sent_row(clinic)
    for words in (["read"], ["delivered", "sent"], ["read", "delivered"], ["sent", "typing"]):
        await clinic.write(record_deliveries, [status(w) for w in words], NOON)
        assert [r.delivery for r in await clinic.read(rows)] == ["read"]
    (shown,) = await clinic.read(deliveries_of, TENANT, "corr-1")
    assert sorted(h["status"] for h in shown["history"]) == ["delivered", "read", "sent", "typing"]


async def test_a_status_that_overtakes_our_own_bookkeeping_is_not_lost(clinic: Database) -> None:
    await clinic.write(record_deliveries, [status("delivered")], NOON)
    await sent_row(clinic)
    assert [r.delivery for r in await clinic.read(rows)] == ["delivered"]


async def test_a_message_that_the_provider_could_not_deliver_goes_to_a_person(clinic: Database) -> None:
    await sent_row(clinic)
    failed = status("failed", detail="131047 Re-engagement message")
    await clinic.write(record_deliveries, [failed], NOON)
    await clinic.write(record_deliveries, [failed], NOON)
    assert await clinic.read(tasks) == [("delivery_failed", "template_required", "open")]


async def test_a_status_with_our_reference_settles_an_unknown_outcome(clinic: Database) -> None:
    outbox_id = await clinic.write(say)
    await clinic.write(claim, {outbox_id: 0}, "n", NOON, NOON)
    await clinic.write(expire_leases, NOON, 4)
    await clinic.write(record_deliveries, [status("delivered", reference=outbox_id)], NOON)
    (row,) = await clinic.read(rows)
    assert (row.status, row.delivery, row.provider_message_id) == ("sent", "delivered", "wamid.1")
    assert await clinic.read(tasks) == [("delivery_unknown", "delivery_unknown", "resolved")]


async def test_a_status_of_another_tenant_touches_nothing(clinic: Database) -> None:
    await sent_row(clinic)
    await clinic.write(record_deliveries, [status("read", tenant_id="ten-lua")], NOON)
    assert [r.delivery for r in await clinic.read(rows)] == ["sent"]


async def test_a_task_that_a_person_has_taken_up_stays_with_them(clinic: Database) -> None:
    outbox_id = await clinic.write(say)
    await clinic.write(claim, {outbox_id: 0}, "n", NOON, NOON)
    await clinic.write(expire_leases, NOON, 4)
    await clinic.write(lambda conn: conn.execute(update(TASK).values(status="claimed", owner="user:ana")))
    await clinic.write(record_deliveries, [status("delivered", reference=outbox_id)], NOON)
    assert [s for _, _, s in await clinic.read(tasks)] == ["claimed"]


# --- throughput ---------------------------------------------------------------------------------------------------------


async def test_many_messages_drain_in_batches(clinic: Database, manual_clock: ManualClock) -> None:
    def many(conn: Connection) -> None:
        made = [
            outbox_row(
                tenant_id=TENANT, cause_id=f"m-{n}", step="answer", kind="family_message", contact_id=f"c-{n}",
                body={"text": "x"}, correlation_id="c", now=NOON,
            )
            for n in range(300)
        ]  # fmt: skip
        enqueue(conn, made)

    await clinic.write(many)
    async with running(clinic, manual_clock, OutboxPolicy()) as loop:
        found = await until(clinic, loop, lambda found: all(r.status == "sent" for r in found), limit_s=20)
    assert len(found) == 300
    assert len(await clinic.read(chats, (TENANT,), 500)) == 300


async def test_a_webhook_for_results_that_leads_inside_is_refused_when_it_is_saved(
    clinic: Database, manual_clock: ManualClock
) -> None:
    patch = {"webhook_url": "http://127.0.0.1:9/x", "webhook_secret": "a-secret-of-the-clinic"}
    async with new_client() as client:
        book = ChannelBook(clinic, World(client=client, phone=PhoneWriter(clinic, manual_clock), allowed=AllowList()))
        assert [fault.pointer for fault in await book.faults(patch)] == ["/webhook_url"]
        await clinic.write(configure, '{"outbound_allow": ["127.0.0.0/8"]}', "global")
        book.forget()
        assert await book.faults(patch) == []
