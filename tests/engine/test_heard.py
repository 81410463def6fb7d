"""Lanes that have just got commands are served without a look where they are all there is to do, and only there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from app.clock import ManualClock
from app.engine.dispatch import POLL_S, Dispatch, DispatchPolicy
from app.engine.locks import DatabaseLocks
from app.engine.policies import PolicyCache
from app.engine.side_by_side import HEARD_MAX
from app.errors import StorageUnavailable
from app.metrics import Metrics
from app.store.database import Database
from app.store.lanes import LaneKey, candidates_or_due
from app.store.tables import Lane, table
from tests.builders import clinic
from tests.engine.test_fairness import HeldLocks, raw, take

LANE = table(Lane)


class Desk:
    """A loop that has looked and found nothing, and what it does from then on."""

    def __init__(
        self,
        db: Database,
        clock: ManualClock,
        locks: DatabaseLocks,
        monkeypatch: pytest.MonkeyPatch,
        policy: DispatchPolicy | None = None,
    ) -> None:
        self.db, self.clock = db, clock
        self.dispatch = Dispatch(db, clock, locks, PolicyCache(db), Metrics(), node_id="n", policy=policy)
        self.looks = 0
        self.done: list[str] = []
        """Idempotency keys in the order of their commits."""
        self.dispatch.on_committed.append(
            lambda plans: self.done.extend(e.command.idempotency_key for p in plans for e in p.entries if e.command is not None)
        )
        self.during_a_look: Callable[[], Awaitable[object]] | None = None
        """Done once, after the database answered and before the loop has the answer."""
        self._number = 0
        read = db.read

        async def watched(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            found = await read(fn, *args, **kwargs)
            if fn is candidates_or_due:
                self.looks += 1
                meanwhile, self.during_a_look = self.during_a_look, None
                if meanwhile is not None:
                    await meanwhile()
            return found

        monkeypatch.setattr(db, "read", watched)

    async def rest(self) -> None:
        """Look until there is nothing to do."""
        while await self.dispatch.tick() == 0.0:
            pass
        self.looks = 0

    async def arrive(self, *contacts: str, tenant_id: str = "ten-sol") -> None:
        """One command of each contact is accepted, and the loops hear of it."""
        lanes: set[LaneKey] = set()
        for contact_id in contacts:
            self._number += 1
            await take(self.db, self.clock, tenant_id, [raw(contact_id, f"k-{self._number}", self.clock, "follow_up")])
            lanes.add((tenant_id, contact_id))
        self.dispatch.arrived(lanes)

    async def tick(self) -> float:
        """A round as the supervisor begins it."""
        self.dispatch.wake.clear()
        return await self.dispatch.tick()


@pytest.fixture
async def desk(db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for tenant_id in ("ten-sol", "ten-lua"):
        await db.write(clinic, tenant_id=tenant_id)
    made = Desk(db, manual_clock, DatabaseLocks(db, manual_clock), monkeypatch)
    await made.rest()
    return made


async def test_a_command_that_was_heard_of_is_committed_without_a_look(desk: Desk) -> None:
    for number in (1, 2, 3):
        await desk.arrive("c-maria")
        assert await desk.tick() > 0
        assert len(desk.done) == number
    assert desk.looks == 0


async def test_too_many_at_once_are_looked_for(desk: Desk) -> None:
    await desk.arrive(*(f"c-{n}" for n in range(HEARD_MAX)))
    assert await desk.tick() > 0
    assert (desk.looks, len(desk.done)) == (0, HEARD_MAX)
    await desk.arrive(*(f"c-{n}" for n in range(HEARD_MAX + 1)))
    await desk.tick()
    assert (desk.looks, len(desk.done)) == (1, 2 * HEARD_MAX + 1)


@pytest.mark.parametrize("first", ["heard", "woken"])
async def test_what_else_wakes_the_loop_is_looked_for(desk: Desk, first: str) -> None:
    """Whatever comes first: lanes that were let go, say, of which nobody tells the loop more than that there is something."""
    await take(desk.db, desk.clock, "ten-sol", [raw("c-rui", "let-go", desk.clock, "follow_up")])
    if first == "heard":
        await desk.arrive("c-maria")
        desk.dispatch.wake.set()
    else:
        desk.dispatch.wake.set()
        await desk.arrive("c-maria")
    await desk.tick()
    assert (desk.looks, sorted(desk.done)) == (1, ["k-1", "let-go"])


async def test_what_a_round_leaves_is_looked_for_also_when_something_is_heard(desk: Desk) -> None:
    chain = [raw("c-rui", f"r-{n}", desk.clock, "follow_up") for n in range(40)]
    await take(desk.db, desk.clock, "ten-sol", chain)
    desk.dispatch.wake.set()
    assert await desk.tick() == 0.0
    await desk.arrive("c-maria")
    await desk.tick()
    assert desk.looks == 2
    assert "k-1" in desk.done


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside_another_clinic"])
async def test_more_lanes_than_one_look_finds_are_served_without_a_pause(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """One command of each of many contacts: every round empties all the lanes that its look found, and they are not all."""
    for tenant_id in ("ten-sol", "ten-lua"):
        await db.write(clinic, tenant_id=tenant_id)
    few = DispatchPolicy(per_tenant=8, lanes_beside=2, lanes_of_flood=8)
    desk = Desk(db, manual_clock, DatabaseLocks(db, manual_clock), monkeypatch, few)
    if beside:
        desk.dispatch.sibling("dispatch_2")
        await take(db, manual_clock, "ten-lua", [raw("c-rui", "beside", manual_clock, "follow_up")])
    await take(db, manual_clock, "ten-sol", [raw(f"c-{n}", f"flood-{n}", manual_clock, "follow_up") for n in range(40)])
    await desk.rest()
    assert len(desk.done) == 40 + beside


async def test_what_waits_for_its_time_is_looked_for_then_also_when_something_is_heard(desk: Desk) -> None:
    ahead = raw("c-rui", "ahead", desk.clock, "follow_up") | {"commit_order": 2}  # nobody has sent the first
    await take(desk.db, desk.clock, "ten-sol", [ahead])
    desk.dispatch.wake.set()
    await desk.rest()
    await desk.arrive("c-maria")
    await desk.tick()
    assert (desk.looks, desk.done) == (0, ["k-1"])
    desk.clock.advance(seconds=400)  # the gap is given up in this time
    await desk.arrive("c-maria")
    await desk.tick()
    assert (desk.looks, sorted(desk.done)) == (1, ["ahead", "k-1", "k-2"])


async def test_there_is_a_look_in_every_poll_period_whatever_is_heard(desk: Desk) -> None:
    await asyncio.sleep(POLL_S)
    await desk.arrive("c-maria")
    await desk.tick()
    assert (desk.looks, desk.done) == (1, ["k-1"])


async def test_a_clinic_that_flooded_a_moment_ago_is_looked_for_at_once(desk: Desk) -> None:
    """Alone or beside somebody else: what comes of it by ones and twos is in no round of others, and does not wait for a poll."""
    desk.dispatch.sibling("dispatch_2")
    flood = [raw(f"c-{n}", f"flood-{n}", desk.clock, "follow_up") for n in range(40)]
    await take(desk.db, desk.clock, "ten-lua", [raw("c-rui", "beside", desk.clock, "follow_up")])
    await take(desk.db, desk.clock, "ten-sol", flood)
    desk.dispatch.wake.set()
    await desk.rest()
    await desk.arrive("c-1")
    assert await desk.tick() > 0
    assert desk.done[-1] == "k-1"
    await desk.arrive("c-2")
    await desk.arrive("c-rui", tenant_id="ten-lua")
    assert await desk.tick() == 0.0
    assert desk.done[-1] == "k-3"
    assert await desk.tick() > 0
    assert (desk.done[-1], desk.looks) == ("k-2", 2)


@pytest.mark.parametrize("blocked_by", ["gap", "contingency"])
async def test_a_paused_lane_that_was_heard_of_stays_as_it_is(desk: Desk, blocked_by: str) -> None:
    await desk.arrive("c-ana")
    paused = update(LANE).where(LANE.c.contact_id == "c-ana").values(paused_at=desk.clock.now(), blocked_by=blocked_by)
    await desk.db.write(lambda conn: conn.execute(paused))
    await desk.tick()
    await desk.tick()
    lane = await desk.db.read(lambda conn: conn.execute(LANE.select().where(LANE.c.contact_id == "c-ana")).one())
    assert (lane.waiting, lane.blocked_by, desk.done) == (1, blocked_by, [])


async def two_loops_at_rest(db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> tuple[Desk, Dispatch, HeldLocks]:
    """Both have looked and found nothing; the first of them that serves something stands still until it is let go."""
    locks = HeldLocks(db, clock)
    desk = Desk(db, clock, locks, monkeypatch)
    second = desk.dispatch.sibling("dispatch_2")
    await second.tick()
    await desk.rest()
    return desk, second, locks


async def test_a_clinic_that_another_loop_is_at_is_served_by_that_loop_afterwards(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tenant_id in ("ten-sol", "ten-lua"):
        await db.write(clinic, tenant_id=tenant_id)
    desk, second, locks = await two_loops_at_rest(db, manual_clock, monkeypatch)
    await desk.arrive("c-maria")
    async with asyncio.timeout(20):
        busy = asyncio.create_task(desk.tick())
        await locks.holds.wait()
        await desk.arrive("c-maria")
        assert not second.wake.is_set()  # the clinic is in hand
        await desk.arrive("c-rui", tenant_id="ten-lua")
        assert second.wake.is_set()
        await second.tick()
        assert desk.done == ["k-3"]
        second.wake.hear()  # of what the other loop has
        assert await second.tick() > 0
        locks.let_go.set()
        assert await busy == 0.0  # the second command of c-maria
        assert await desk.tick() > 0
    assert (sorted(desk.done), desk.looks) == (["k-1", "k-2", "k-3"], 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_loop_looks_again_when_a_look_left_out_the_clinic_it_was_at(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Another loop was woken for something, perhaps got no answer at first, and then could not look at this clinic."""
    await db.write(clinic, tenant_id="ten-sol")
    desk, second, locks = await two_loops_at_rest(db, manual_clock, monkeypatch)
    second.wake.set()
    if fails:
        desk.during_a_look = no_answer
        with pytest.raises(StorageUnavailable):
            await second.tick()
    await desk.arrive("c-maria")
    async with asyncio.timeout(20):
        busy = asyncio.create_task(desk.tick())
        await locks.holds.wait()
        await take(db, manual_clock, "ten-sol", [raw("c-rui", "let-go", manual_clock, "follow_up")])
        assert await second.tick() > 0
        locks.let_go.set()
        assert await busy == 0.0
        await desk.tick()
    assert desk.done == ["k-1", "let-go"]


async def no_answer() -> None:
    raise StorageUnavailable("the database did not answer")


async def test_what_a_look_found_of_a_clinic_that_another_loop_took_meanwhile_is_looked_for_again(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.write(clinic, tenant_id="ten-sol")
    desk, second, locks = await two_loops_at_rest(db, manual_clock, monkeypatch)
    await take(db, manual_clock, "ten-sol", [raw("c-rui", "let-go", manual_clock, "follow_up")])
    busy: list[asyncio.Task[float]] = []

    async def second_takes_the_clinic() -> None:
        await desk.arrive("c-maria")
        second.wake.hear()
        busy.append(asyncio.create_task(second.tick()))
        await locks.holds.wait()

    desk.during_a_look = second_takes_the_clinic
    desk.dispatch.wake.set()
    async with asyncio.timeout(20):
        assert await desk.tick() > 0
        locks.let_go.set()
        assert await busy[0] == 0.0
        await second.tick()
    assert desk.done == ["k-1", "let-go"]


async def test_more_than_can_be_named_of_a_clinic_in_hand_is_looked_for_by_the_loop_that_has_it(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.write(clinic, tenant_id="ten-sol")
    desk, second, locks = await two_loops_at_rest(db, manual_clock, monkeypatch)
    await desk.arrive("c-maria")
    second.wake.hear()
    async with asyncio.timeout(20):
        busy = asyncio.create_task(second.tick())
        await locks.holds.wait()
        await desk.arrive(*(f"c-{n}" for n in range(HEARD_MAX + 1)))
        assert await desk.tick() > 0
        locks.let_go.set()
        assert await busy == 0.0
        await second.tick()
    assert len(desk.done) == HEARD_MAX + 2
