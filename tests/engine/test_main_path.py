"""The main path through the real loops: intake, triage, dispatch, commit; on both databases."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.clock import ManualClock
from app.domain.envelopes import parse_event
from app.domain.fallback import FallbackLimits
from app.engine.conversations import CHAIN, Conversations
from app.engine.dispatch import Dispatch, DispatchPolicy
from app.engine.drain import Drain
from app.engine.intake import Intake, message_submission
from app.engine.locks import DatabaseLocks, LaneLocks
from app.engine.policies import PolicyCache
from app.engine.repeats import Repeats
from app.engine.supervisor import Supervisor
from app.ids import new_id
from app.metrics import Metrics
from app.store.database import Database
from app.store.inbox import accept
from app.store.tables import Appointment, InboxCommand, Lane, ManualTask, ModeRow, table
from app.store.verify import verify
from tests.builders import clinic


class Engine:
    """The loops of one process, without web and channels."""

    def __init__(
        self,
        db: Database,
        clock: ManualClock,
        node_id: str = "n1",
        locks: LaneLocks | None = None,
        limits: FallbackLimits | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        self.db, self.clock = db, clock
        policies, metrics = PolicyCache(db), Metrics()
        self.metrics = metrics
        self.intake = Intake(db, clock, policies, metrics, repeats=repeats)
        self.conversations = Conversations(db, clock)
        self.dispatch = Dispatch(
            db,
            clock,
            locks or DatabaseLocks(db, clock),
            policies,
            metrics,
            node_id=node_id,
            limits=limits,
            policy=DispatchPolicy(lanes_per_round=32, chain=4),
        )
        self.drain = Drain(db, clock)
        self.drain.on_released.append(self.dispatch.wake.set)
        self.intake.on_commands.append(self.dispatch.arrived)
        self.intake.on_messages.append(self.conversations.wake.set)
        self.conversations.on_commands.append(self.dispatch.arrived)

        def decided(plans: Any) -> None:
            for plan in plans:
                self.intake.decided(plan.key[0], [e.command.command_id for e in plan.entries if e.command])

        self.dispatch.on_committed.append(decided)
        self.supervisor = Supervisor()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Engine"]:
        async with asyncio.TaskGroup() as group:
            for loop in (self.intake, self.conversations, self.dispatch, self.drain):
                group.create_task(self.supervisor.run(loop))
            try:
                yield self
            finally:
                self.supervisor.stop.set()
        if self.supervisor.defect:
            raise self.supervisor.defect

    def command(self, command_type: str, payload: dict[str, Any], **fields: Any) -> dict[str, Any]:
        now = self.clock.now().isoformat()
        return {
            "contact_id": "c-maria",
            "command_type": command_type,
            "patient_id": "p-pedro",
            "requested_by": "ai",
            "confirmed_by_contact": True,
            "guardian_version": 1,
            "conversation_version": 1,
            "as_of": now,
            "occurred_at": now,
            "payload": payload,
            **fields,
        }

    def slot(self, hours: float) -> dict[str, str]:
        start = self.clock.now() + timedelta(hours=hours)
        return {"start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat()}

    async def done(self, *raws: dict[str, Any]) -> list[Any]:
        """Send commands together and return their rows once all are decided."""
        receipts = await self.intake.commands("ten-sol", list(raws))
        for receipt in receipts:
            await self.intake.result("ten-sol", receipt.item_id, 10)
        return [await self.db.read(_command, r.item_id) for r in receipts]

    async def says(self, text: str, **fields: Any) -> Any:
        now = self.clock.now().isoformat()
        raw = {"contact_id": "c-maria", "event_type": "message", "occurred_at": now, "payload": {"text": text}, **fields}
        return (await self.intake.events("ten-sol", [raw]))[0]


def _command(conn: Connection, command_id: str) -> Any:
    c = table(InboxCommand)
    return conn.execute(select(c).where(c.c.command_id == command_id)).one()


def _appointment(conn: Connection, appointment_id: str) -> Any:
    a = table(Appointment)
    return conn.execute(select(a).where(a.c.appointment_id == appointment_id)).first()


def _lane(conn: Connection) -> Any:
    lane = table(Lane)
    return conn.execute(select(lane).where(lane.c.contact_id == "c-maria")).one()


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 30) -> Any:
    """The first true value of `condition`, polled with a deadline."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):
            await asyncio.sleep(0.01)
    return value


@pytest.fixture
async def engine(db: Database, manual_clock: ManualClock) -> AsyncIterator[Engine]:
    await db.write(clinic, now=manual_clock.now())
    async with Engine(db, manual_clock).running() as running:
        yield running
    assert await db.read(verify) == []


@pytest.mark.story("S-PC-01-002", "S-PC-01-003")
async def test_a_schedule_becomes_one_appointment(engine: Engine) -> None:
    (row,) = await engine.done(engine.command("schedule", {"appointment_id": "a-1", "therapist_id": "t-ana", **engine.slot(30)}))
    assert (row.status, row.result, row.commit_order) == ("committed_causal", "applied_once", 1)
    booked = await engine.db.read(_appointment, "a-1")
    assert (booked.version, booked.status) == (1, "scheduled")


async def test_the_familys_confirmar_changes_the_appointment_once_and_ok_does_not(engine: Engine) -> None:
    await engine.done(engine.command("schedule", {"appointment_id": "a-1", "therapist_id": "t-ana", **engine.slot(30)}))
    later = engine.slot(50)
    change = engine.command("reschedule", {"appointment_id": "a-1", **later}, entity_version=1, confirmed_by_contact=False)
    (proposed,) = await engine.done(change)
    assert proposed.result == "blocked_unconfirmed"
    await engine.says("ok")
    await engine.says("sim 👍")
    await until(lambda: _heard(engine, 2))
    assert (await engine.db.read(_appointment, "a-1")).version == 1
    await engine.says("Confirmar!")
    await until(lambda: _version(engine, 2))
    await engine.says("CONFIRMAR")
    await until(lambda: _heard(engine, 4))
    booked = await engine.db.read(_appointment, "a-1")
    assert booked.version == 2
    assert booked.start_at.isoformat() == later["start"]


async def _heard(engine: Engine, count: int) -> bool:
    lane = await engine.db.read(_lane)
    return bool(lane.last_processed == count and lane.unheard == 0 and lane.waiting == 0)


async def _version(engine: Engine, version: int) -> bool:
    return bool((await engine.db.read(_appointment, "a-1")).version == version)


@pytest.mark.story("S-PC-01-002")
async def test_commands_that_arrive_in_any_order_commit_in_their_own(engine: Engine) -> None:
    raws = [engine.command("follow_up", {"text": f"n {n}"}, commit_order=n, idempotency_key=f"k{n}") for n in (3, 5, 1, 4, 2, 6)]
    rows = await engine.done(*raws)
    assert [r.commit_order for r in rows] == [3, 5, 1, 4, 2, 6]
    assert {r.status for r in rows} == {"committed_causal"}


@pytest.mark.story("S-PC-01-002")
async def test_a_gap_waits_and_after_the_limit_becomes_a_persons_work(engine: Engine) -> None:
    (receipt,) = await engine.intake.commands("ten-sol", [engine.command("follow_up", {"text": "dois"}, commit_order=2)])
    await until(lambda: _status(engine, receipt.item_id, "waiting_previous_commit"))
    assert (await engine.db.read(_lane)).blocked_by == "gap"
    engine.clock.advance(minutes=5)
    engine.dispatch.wake.set()
    await until(lambda: _status(engine, receipt.item_id, "manual_review_required"))
    assert (await engine.db.read(_lane)).last_committed == 2
    tasks = await engine.db.read(_tasks)
    assert sorted(t.reason for t in tasks) == ["place_never_filled", "waited_too_long"]
    (late,) = await engine.intake.commands("ten-sol", [engine.command("follow_up", {"text": "um"}, commit_order=1)])
    assert late.status == "blocked_commit_order_violation"


def _tasks(conn: Connection) -> list[Any]:
    return list(conn.execute(select(table(ManualTask))))


async def _status(engine: Engine, command_id: str, status: str) -> bool:
    return bool((await engine.db.read(_command, command_id)).status == status)


@pytest.mark.story("S-PC-01-003")
async def test_the_same_key_is_one_effect_and_another_payload_a_conflict(engine: Engine) -> None:
    first = engine.command("follow_up", {"text": "olá"}, idempotency_key="k-1")
    (row,) = await engine.done(first)
    (again,) = await engine.intake.commands("ten-sol", [first])
    assert (again.status, again.item_id, again.number) == ("duplicate_ignored", row.command_id, 1)
    (other,) = await engine.done(engine.command("follow_up", {"text": "outra"}, idempotency_key="k-1"))
    assert (other.result, other.reason) == ("blocked_conflict", "idempotency_key_reused")


async def test_two_families_want_one_slot_and_one_gets_it(engine: Engine) -> None:
    slot = engine.slot(30)
    wanted = [
        engine.command("schedule", {"appointment_id": f"a-{n}", "therapist_id": "t-ana", **slot}, idempotency_key=f"s{n}")
        for n in (1, 2)
    ]
    rows = await engine.done(*wanted)
    assert sorted(r.result for r in rows) == ["applied_once", "blocked_agenda_conflict"]


async def test_safe_mode_parks_and_everything_behind_waits_in_order(engine: Engine) -> None:
    await engine.db.write(_mode, "safe_mode_active", 1)
    behind = [engine.command("follow_up", {"text": f"depois {n}"}) for n in range(9)]  # more than one round reads
    booking = engine.command("schedule", {"appointment_id": "a-1", "therapist_id": "t-ana", **engine.slot(30)})
    receipts = await engine.intake.commands("ten-sol", [booking, *behind])
    for receipt in receipts:
        await until(lambda i=receipt.item_id: _status(engine, i, "pending_safe_mode"))  # type: ignore[misc]
    assert {(await engine.db.read(_command, r.item_id)).reason for r in receipts[1:]} == {"behind_parked"}
    heard = await engine.says("vocês estão aí?")
    assert heard.status == "queued_for_dispatch"
    await until(lambda: _message_heard(engine))


async def _message_heard(engine: Engine) -> bool:
    return bool((await engine.db.read(_lane)).unheard == 0)


def _mode(conn: Connection, state: str, epoch: int) -> None:
    mode = table(ModeRow)
    conn.execute(mode.insert().values(scope="ten-sol", state=state, epoch=epoch))


async def test_a_request_for_a_person_silences_the_ai(engine: Engine) -> None:
    await engine.says("quero falar com um atendente")
    await until(lambda: _taken_over(engine))
    (row,) = await engine.done(engine.command("follow_up", {"text": "robô"}, conversation_version=2))
    assert row.result == "blocked_takeover_active"


async def _taken_over(engine: Engine) -> bool:
    return (await engine.db.read(_lane)).takeover_id is not None


async def test_a_provider_that_sends_a_message_again_gets_the_same_answer(engine: Engine) -> None:
    first = await engine.says("oi", external_id="wamid.1")
    again = await engine.says("oi", external_id="wamid.1")
    assert (again.status, again.item_id, again.number) == ("duplicate_ignored", first.item_id, first.number)


async def test_after_safe_mode_the_parked_ones_leave_in_order_through_the_fences(engine: Engine) -> None:
    await engine.db.write(_mode, "safe_mode_active", 1)
    booking = engine.command("schedule", {"appointment_id": "a-1", "therapist_id": "t-ana", **engine.slot(30)})
    receipts = await engine.intake.commands("ten-sol", [booking, engine.command("follow_up", {"text": "depois"})])
    await until(lambda: _status(engine, receipts[1].item_id, "pending_safe_mode"))
    engine.clock.advance(minutes=61)  # within the two hours of a schedule
    await engine.db.write(lambda c: c.execute(table(ModeRow).update().values(state="normal", epoch=2)))
    engine.drain.wake.set()
    await until(lambda: _status(engine, receipts[1].item_id, "committed_causal"))
    assert [(await engine.db.read(_command, r.item_id)).result for r in receipts] == ["replayed", "replayed"]


async def test_only_what_comes_right_after_a_gap_says_that_something_is_missing(engine: Engine) -> None:
    raws = [engine.command("follow_up", {"text": f"{n}"}, commit_order=n, idempotency_key=f"k{n}") for n in (2, 3, 5)]
    receipts = await engine.intake.commands("ten-sol", raws)
    await until(lambda: _status(engine, receipts[2].item_id, "waiting_previous_commit"))
    reasons = [(await engine.db.read(_command, r.item_id)).reason for r in receipts]
    assert reasons == ["previous_missing", "previous_waiting", "previous_missing"]


async def test_the_time_until_a_receipt_is_measured(engine: Engine) -> None:
    await engine.says("oi")
    assert engine.metrics.registry.get_sample_value("kora_intake_seconds_count") == 1


async def test_a_family_that_writes_much_at_once_is_heard_without_a_pause(db: Database, manual_clock: ManualClock) -> None:
    """More messages than one round takes of a conversation: the rest is not left until the next poll."""
    await db.write(clinic, now=manual_clock.now())
    said = {"contact_id": "c-maria", "event_type": "message", "occurred_at": manual_clock.now().isoformat()}
    raws = [said | {"external_id": f"m-{n}", "payload": {"text": f"{n}"}} for n in range(2 * CHAIN + 1)]
    items = [message_submission("ten-sol", parse_event(one, tenant_id="ten-sol", new_id=new_id()), new_id()) for one in raws]
    await db.write(accept, items, manual_clock.now())
    conversations, rounds = Conversations(db, manual_clock), 1
    while await conversations.tick() == 0.0:
        rounds += 1
    lane = await db.read(_lane)
    assert (lane.unheard, lane.last_processed, rounds) == (0, len(raws), 3)
