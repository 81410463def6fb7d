"""Acceptances that lock their lanes last: whoever was there meanwhile, every item gets its own place, or nothing was written."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.exc import IntegrityError

from app.clock import ManualClock
from app.domain.envelopes import parse_event
from app.engine.dispatch import Dispatch
from app.engine.intake import Intake, command_submission, message_submission
from app.engine.lanes_last import FIRST_FOR_S
from app.engine.locks import DatabaseLocks
from app.engine.policies import PolicyCache
from app.engine.supervisor import Supervisor
from app.ids import new_id
from app.metrics import Metrics
from app.store.database import Database, before_each_statement
from app.store.inbox import LanesMoved, Receipt, accept
from app.store.intake_facts import Submission
from app.store.tables import Lane, table
from app.store.verify import verify
from tests.builders import clinic
from tests.engine.test_fairness import raw

SEVERAL = 20
"""Lanes of one batch."""


def command(clock: ManualClock, contact_id: str, name: str, **fields: Any) -> Submission:
    return command_submission("ten-sol", raw(contact_id, name, clock, "follow_up") | fields)


def message(clock: ManualClock, contact_id: str, name: str, **fields: Any) -> Submission:
    said = {"contact_id": contact_id, "event_type": "message", "occurred_at": clock.now().isoformat(), "payload": {"text": "oi"}}
    item = parse_event(said | {"external_id": name, "event_id": name} | fields, tenant_id="ten-sol", new_id=new_id())
    return message_submission("ten-sol", item, new_id())


@contextmanager
def before_statement(number: int, then: Callable[[], Awaitable[object]]) -> Iterator[None]:
    """Before the statement of this number in a transaction begun within, something else happens."""
    count = 0

    async def wait() -> None:
        nonlocal count
        count += 1
        if count == number:
            await then()

    with before_each_statement(wait):
        yield


async def accepted(db: Database, clock: ManualClock, *items: Submission, lanes_last: bool = False) -> list[Receipt]:
    return await db.write(accept, list(items), clock.now(), lanes_last=lanes_last)


@pytest.mark.story("S-PC-01-002")
@pytest.mark.parametrize("many", [1, SEVERAL + 1])
@pytest.mark.parametrize(
    ("make", "own"), [(command, {}), (command, {"commit_order": 5}), (message, {}), (message, {"sequence": 5})]
)
async def test_a_place_that_another_node_took_meanwhile_is_not_taken_twice(
    postgres_db: Database, manual_clock: ManualClock, make: Callable[..., Submission], own: dict[str, int], many: int
) -> None:
    """The other one reads and writes between our look at the lanes and our writing; its place may be one that we left free."""
    await postgres_db.write(clinic, now=manual_clock.now())
    contacts = [f"c-{n}" for n in range(many)]
    await accepted(postgres_db, manual_clock, *(command(manual_clock, c, f"first-{c}") for c in contacts))
    ours = [make(manual_clock, c, f"ours-{c}") for c in contacts]

    async def other() -> None:
        await accepted(postgres_db, manual_clock, make(manual_clock, contacts[-1], "other", **own))

    with before_statement(3, other), pytest.raises((LanesMoved, IntegrityError)):
        await accepted(postgres_db, manual_clock, *ours, lanes_last=True)
    assert await postgres_db.read(verify) == []
    again = await accepted(postgres_db, manual_clock, *ours, lanes_last=True)
    (late,) = await accepted(postgres_db, manual_clock, make(manual_clock, contacts[-1], "late"))
    assert late.number == (again[-1].number or 0) + 1
    assert await postgres_db.read(verify) == []


@pytest.mark.parametrize("many", [1, SEVERAL + 1])
async def test_a_commit_meanwhile_costs_an_acceptance_nothing(postgres_db: Database, manual_clock: ManualClock, many: int) -> None:
    await postgres_db.write(clinic, now=manual_clock.now())
    contacts = [f"c-{n}" for n in range(many)]
    await accepted(postgres_db, manual_clock, *(command(manual_clock, c, f"first-{c}") for c in contacts))
    locks = DatabaseLocks(postgres_db, manual_clock)
    dispatch = Dispatch(postgres_db, manual_clock, locks, PolicyCache(postgres_db), Metrics(), node_id="n")
    ours = [command(manual_clock, c, f"ours-{c}") for c in contacts]
    with before_statement(3, dispatch.tick):
        await accepted(postgres_db, manual_clock, *ours, lanes_last=True)
    assert await postgres_db.read(verify) == []
    lane = table(Lane)
    total = select(func.sum(lane.c.last_committed), func.sum(lane.c.waiting)).where(lane.c.contact_id.in_(contacts))
    assert tuple(await postgres_db.read(lambda conn: conn.execute(total).one())) == (many, many)


@pytest.mark.parametrize(("own", "locked"), [({}, False), ({"commit_order": 1}, True)])
async def test_lanes_are_locked_first_where_a_source_names_its_own_numbers(
    postgres_db: Database, manual_clock: ManualClock, own: dict[str, int], locked: bool
) -> None:
    await postgres_db.write(clinic, now=manual_clock.now())
    said: list[str] = []
    assert postgres_db._async is not None
    event.listen(postgres_db._async.sync_engine, "before_cursor_execute", lambda *args: said.append(args[2]))
    await accepted(postgres_db, manual_clock, command(manual_clock, "c-maria", "k-1", **own), lanes_last=True)
    assert any("FOR UPDATE" in statement for statement in said) is locked


async def test_one_that_has_the_lanes_first_and_one_that_has_them_last_do_not_wait_for_each_other(
    postgres_db: Database, manual_clock: ManualClock
) -> None:
    """They meet at the lanes, before either holds a place that the other wants; else the database ends one of them later."""
    await postgres_db.write(clinic, now=manual_clock.now())
    contacts = [f"c-{n}" for n in range(100)]
    await accepted(postgres_db, manual_clock, *(command(manual_clock, c, f"first-{c}") for c in contacts))
    has_read = asyncio.Event()
    last: list[asyncio.Task[list[Receipt]]] = []

    async def about_to_write() -> None:
        has_read.set()

    async def all_of_them() -> list[Receipt]:
        ours = [command(manual_clock, c, f"ours-{c}") for c in contacts]
        with before_statement(3, about_to_write):
            return await accepted(postgres_db, manual_clock, *ours, lanes_last=True)

    async def meanwhile() -> None:
        last.append(asyncio.create_task(all_of_them()))
        await has_read.wait()
        await asyncio.sleep(0.3)

    async with asyncio.timeout(20):
        with before_statement(3, meanwhile):
            await accepted(postgres_db, manual_clock, command(manual_clock, "c-50", "first-come"))
        with pytest.raises((LanesMoved, IntegrityError)):
            await last[0]
    assert await postgres_db.read(verify) == []


async def test_intake_tries_again_with_the_lanes_first_for_a_while(
    postgres_db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgres_db.write(clinic, now=manual_clock.now())
    tries: list[bool] = []
    write = postgres_db.write

    async def watched(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if fn is not accept:
            return await write(fn, *args, **kwargs)
        tries.append(kwargs.get("lanes_last", False))
        if len(tries) > 1:
            return await write(fn, *args, **kwargs)
        with before_statement(3, lambda: accepted_elsewhere(postgres_db.url, manual_clock)):
            return await write(fn, *args, **kwargs)

    monkeypatch.setattr(postgres_db, "write", watched)
    now = 100.0
    monkeypatch.setattr("app.engine.lanes_last.time.monotonic", lambda: now)
    intake, supervisor = Intake(postgres_db, manual_clock, PolicyCache(postgres_db), Metrics()), Supervisor()
    running = asyncio.create_task(supervisor.run(intake))
    numbers: list[int | None] = []
    async with asyncio.timeout(20):
        for wait_s in (0.0, 0.0, FIRST_FOR_S):
            now += wait_s
            (receipt,) = await intake.submit([command(manual_clock, "c-maria", f"k-{len(numbers)}")])
            numbers.append(receipt.number)
        supervisor.stop.set()
        intake.close()
        await running
    assert (numbers, tries) == ([2, 3, 4], [True, False, False, True])
    assert await postgres_db.read(verify) == []


async def accepted_elsewhere(url: str, clock: ManualClock) -> None:
    """Another node accepts a command of the same contact."""
    other = Database(url, pool_size=1)
    try:
        await accepted(other, clock, command(clock, "c-maria", "other"))
    finally:
        await other.close()


@pytest.mark.story("S-PC-01-002")
async def test_nodes_that_accept_for_the_same_families_at_once_never_wait_for_each_other_for_ever(
    postgres_url: str, manual_clock: ManualClock
) -> None:
    """Small and large batches over the same contacts in any order, some sent to both nodes: each once, with its own place."""
    rng, databases = random.Random(11), [Database(postgres_url, pool_size=4) for _ in range(2)]
    await databases[0].write(clinic, now=manual_clock.now())
    names = [f"k-{n}" for n in range(600)]
    intakes = [Intake(db, manual_clock, PolicyCache(db), Metrics()) for db in databases]
    supervisor = Supervisor()
    running = [asyncio.create_task(supervisor.run(intake)) for intake in intakes]

    async def send(intake: Intake, mine: list[str]) -> None:
        while mine:
            size = rng.choice((1, 3, SEVERAL + 4, 60))
            batch, mine = mine[:size], mine[size:]
            await intake.submit([command(manual_clock, f"c-{rng.randrange(80)}", name) for name in batch])

    async with asyncio.timeout(60):
        await asyncio.gather(*(send(intake, names[at : at + 200]) for intake in intakes for at in (0, 200, 400)))
        supervisor.stop.set()
        for intake in intakes:
            intake.close()
        await asyncio.gather(*running)
    assert supervisor.defect is None
    assert await databases[0].read(verify) == []
    for db in databases:
        await db.close()
