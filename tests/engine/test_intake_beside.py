"""Two batches at once: only where much has gathered, and never with items of the same contact."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.clock import ManualClock
from app.engine.intake import Intake, command_submission
from app.engine.policies import PolicyCache
from app.engine.supervisor import Supervisor
from app.errors import StorageUnavailable
from app.metrics import Metrics
from app.store.database import Database
from app.store.inbox import Receipt, accept
from app.store.intake_facts import Submission
from app.store.verify import verify
from tests.builders import clinic
from tests.engine.test_fairness import raw

MUCH = 5


@dataclass
class Held:
    """An intake with its sibling, whose acceptances wait until they are let go; `batches` are their items' keys, as they began."""

    intake: Intake
    clock: ManualClock
    batches: list[list[str]] = field(default_factory=list)
    gates: list["asyncio.Future[None]"] = field(default_factory=list)

    def send(self, *contacts: str, key: str = "k") -> "asyncio.Task[list[Receipt]]":
        """One request, with a command for each of these contacts."""
        items = [raw(contact, f"{key}-{contact}", self.clock, "follow_up") for contact in contacts]
        return asyncio.create_task(self.intake.submit([command_submission("ten-sol", item) for item in items]))

    async def begun(self, count: int) -> None:
        """Wait until so many batches have begun."""
        async with asyncio.timeout(10):
            while len(self.batches) < count:
                await asyncio.sleep(0.005)

    async def stays(self, count: int) -> None:
        """Nothing else begins for a moment."""
        await asyncio.sleep(0.1)
        assert len(self.batches) == count


@pytest.fixture
async def held(db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
    await db.write(clinic, now=manual_clock.now())
    intake = Intake(db, manual_clock, PolicyCache(db), Metrics(), beside_min=MUCH)
    held, write = Held(intake, manual_clock), db.write

    async def waits(fn: Any, /, submissions: Any, *args: Any, **kwargs: Any) -> Any:
        if fn is accept:
            held.batches.append([s.item.idempotency_key for s in submissions])
            gate = asyncio.get_running_loop().create_future()
            held.gates.append(gate)
            await gate
        return await write(fn, submissions, *args, **kwargs)

    monkeypatch.setattr(db, "write", waits)
    supervisor = Supervisor()
    loops = [asyncio.create_task(supervisor.run(loop)) for loop in (intake, intake.sibling("intake_2"))]
    yield held
    supervisor.stop.set()
    intake.close()
    for gate in held.gates:
        if not gate.done():
            gate.set_result(None)
    await asyncio.gather(*loops)
    assert supervisor.defect is None
    assert await db.read(verify) == []


def many(first: str) -> list[str]:
    return [f"{first}{n}" for n in range(MUCH)]


async def test_what_has_gathered_is_written_beside_the_batch_under_way_once_it_is_much(held: Held) -> None:
    first = held.send("c-1")
    await held.begun(1)
    little = held.send(*many("a")[:-1])
    await held.stays(1)
    more = held.send("b1")
    await held.begun(2)
    held.gates[1].set_result(None)
    assert [len(receipts) for receipts in await asyncio.gather(little, more)] == [MUCH - 1, 1]
    assert not first.done()
    held.gates[0].set_result(None)
    await first


async def test_what_comes_later_of_one_contact_waits_for_what_came_before(held: Held) -> None:
    first = held.send("c-1")
    await held.begun(1)
    other, second, behind = held.send(*many("a")), held.send("c-1", *many("b"), key="second"), held.send(*many("d"))
    await held.begun(2)
    assert held.batches[1] == [f"k-{contact}" for contact in many("a")]
    held.gates[1].set_result(None)
    await other
    await held.stays(2)  # there is much, but it waits behind the second command of this contact
    held.gates[0].set_result(None)
    await held.begun(3)
    held.gates[2].set_result(None)
    (one,), (two, *_), _ = await asyncio.gather(first, second, behind)
    assert (one.number, two.number) == (1, 2)


async def test_a_little_that_does_not_wait_for_a_contact_is_not_taken_alone(held: Held) -> None:
    """There is much, but what may go beside the first batch is little: it would cost more than it saves."""
    first = held.send("c-1")
    await held.begun(1)
    asked = [held.send("a1"), held.send("c-1", *many("b"), key="second")]
    await held.stays(1)
    held.gates[0].set_result(None)
    await held.begun(2)
    held.gates[1].set_result(None)
    await asyncio.gather(first, *asked)
    assert len(held.batches) == 2


async def test_what_waits_for_the_sibling_goes_on_when_that_is_done(held: Held) -> None:
    first = held.send("c-1")
    await held.begun(1)
    second = held.send(*many("a"))
    await held.begun(2)
    held.gates[0].set_result(None)
    await first
    third = held.send("a1", key="third")
    await held.stays(2)
    held.gates[1].set_result(None)
    await held.begun(3)
    held.gates[2].set_result(None)
    await asyncio.gather(second, third)


async def test_what_one_batch_has_no_room_for_goes_beside_it(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.intake.BATCH_MAX", MUCH)
    asked = [held.send(*many(first)) for first in ("a", "b")]
    await held.begun(2)
    for gate in held.gates:
        gate.set_result(None)
    await asyncio.gather(*asked)


async def test_a_batch_that_fails_lets_go_of_its_contacts(held: Held) -> None:
    first = held.send("c-1")
    await held.begun(1)
    again = held.send("c-1", *many("a"), key="second")
    held.gates[0].set_exception(StorageUnavailable("gone for a moment"))
    with pytest.raises(StorageUnavailable):
        await first
    await held.begun(2)
    held.gates[1].set_result(None)
    (receipt, *_) = await again
    assert receipt.number == 1


async def test_who_stops_answers_what_had_gathered_beside_two_batches(held: Held) -> None:
    first, second = held.send("c-1"), None
    await held.begun(1)
    second = held.send(*many("a"))
    await held.begun(2)
    third = held.send("c-2")
    await asyncio.sleep(0)
    held.intake.close()
    with pytest.raises(StorageUnavailable):
        await third
    for gate in held.gates:
        gate.set_result(None)
    assert [len(r) for r in await asyncio.gather(first, second)] == [1, MUCH]


@pytest.mark.story("S-PC-01-002")
async def test_senders_that_do_not_wait_get_each_contact_in_the_order_in_which_it_came(
    postgres_db: Database, manual_clock: ManualClock
) -> None:
    await postgres_db.write(clinic, now=manual_clock.now())
    rng = random.Random(5)
    intake = Intake(postgres_db, manual_clock, PolicyCache(postgres_db), Metrics(), beside_min=2)
    supervisor = Supervisor()
    loops = [asyncio.create_task(supervisor.run(loop)) for loop in (intake, intake.sibling("intake_2"))]
    sent: list[asyncio.Task[list[Receipt]]] = []
    for n in range(300):
        items = [_command(f"c-{rng.randrange(12)}", f"k-{n}-{i}", manual_clock) for i in range(rng.choice((1, 2, 7)))]
        sent.append(asyncio.create_task(intake.submit(items)))
        if rng.random() < 0.3:
            await asyncio.sleep(rng.choice((0, 0.001, 0.004)))
    async with asyncio.timeout(60):
        receipts = [receipt for answer in await asyncio.gather(*sent) for receipt in answer]
    supervisor.stop.set()
    intake.close()
    await asyncio.gather(*loops)
    numbers: dict[str | None, list[int | None]] = {}
    for receipt in receipts:
        numbers.setdefault(receipt.contact_id, []).append(receipt.number)
    assert numbers == {contact: list(range(1, len(found) + 1)) for contact, found in numbers.items()}
    assert await postgres_db.read(verify) == []


def _command(contact: str, key: str, clock: ManualClock) -> Submission:
    return command_submission("ten-sol", raw(contact, key, clock, "follow_up"))
