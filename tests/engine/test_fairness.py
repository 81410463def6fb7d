"""One clinic floods, another sends one command: dispatch gives it its turn after a bounded number of foreign commands."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from app.clock import ManualClock
from app.engine import dispatch as dispatching
from app.engine.dispatch import Dispatch, DispatchPolicy
from app.engine.intake import command_submission
from app.engine.locks import DatabaseLocks, Grant
from app.engine.policies import PolicyCache
from app.metrics import Metrics
from app.store.database import Database
from app.store.inbox import Receipt, accept
from app.store.lanes import candidates
from tests.builders import clinic

FLOOD_CONTACTS, FLOOD_EACH = 200, 4
ROUND = DispatchPolicy(lanes_per_round=128, chain=4)


def raw(contact_id: str, name: str, clock: ManualClock, command_type: str) -> dict[str, object]:
    now = clock.now().isoformat()
    fields: dict[str, object] = {"contact_id": contact_id, "command_type": command_type, "conversation_version": 1}
    return fields | {"as_of": now, "occurred_at": now, "idempotency_key": name, "command_id": name, "payload": {"text": name}}


async def take(db: Database, clock: ManualClock, tenant_id: str, raws: Sequence[dict[str, object]]) -> list[Receipt]:
    return await db.write(accept, [command_submission(tenant_id, item) for item in raws], clock.now())


@pytest.mark.story("S-PC-01-001")
@pytest.mark.parametrize("flood_type", ["follow_up", "takeover"])
async def test_a_quiet_clinic_is_served_in_the_first_round_beside_a_flood(
    db: Database, manual_clock: ManualClock, flood_type: str
) -> None:
    """Also when everything in the flood is older and of a higher class than the one command that waits behind it."""
    for tenant_id in ("ten-noisy", "ten-quiet"):
        await db.write(clinic, tenant_id=tenant_id)
    flood = [raw(f"c-{n % FLOOD_CONTACTS}", f"flood-{n}", manual_clock, flood_type) for n in range(FLOOD_CONTACTS * FLOOD_EACH)]
    await take(db, manual_clock, "ten-noisy", flood)
    manual_clock.advance(seconds=30)
    (receipt,) = await take(db, manual_clock, "ten-quiet", [raw("c-maria", "quiet-1", manual_clock, "follow_up")])
    assert receipt.number == 1

    committed: list[tuple[str, int]] = []
    """Clinic and number of commands of each lane that was served, in order of service."""
    dispatch = Dispatch(db, manual_clock, DatabaseLocks(db, manual_clock), PolicyCache(db), Metrics(), node_id="n", policy=ROUND)
    dispatch.on_committed.append(lambda plans: committed.extend((p.key[0], len(p.entries)) for p in plans))
    await dispatch.tick()
    served = {tenant_id for tenant_id, _ in committed}
    assert served == {"ten-noisy", "ten-quiet"}, "one round must be enough for its turn"
    foreign = sum(count for tenant_id, count in committed if tenant_id == "ten-noisy")
    assert foreign <= ROUND.lanes_per_round * ROUND.chain < len(flood)
    ready = await db.read(candidates, manual_clock.now(), ROUND.per_tenant)
    assert all(lane.tenant_id == "ten-noisy" for lane in ready), "nothing of the quiet clinic is left"


@pytest.mark.story("S-PC-01-001")
async def test_rounds_are_short_while_two_clinics_are_at_work_and_long_again_afterwards(
    sqlite_db: Database, manual_clock: ManualClock
) -> None:
    """A flood is served in large rounds only while nobody else is there to wait for them."""
    for tenant_id in ("ten-noisy", "ten-quiet"):
        await sqlite_db.write(clinic, tenant_id=tenant_id)
    flood = [raw(f"c-{n % FLOOD_CONTACTS}", f"flood-{n}", manual_clock, "follow_up") for n in range(FLOOD_CONTACTS * FLOOD_EACH)]
    await take(sqlite_db, manual_clock, "ten-noisy", flood)
    policy = DispatchPolicy(lanes_per_round=64, chain=4, lanes_beside=8, chain_beside=2, beside_s=1.0)
    locks, policies = DatabaseLocks(sqlite_db, manual_clock), PolicyCache(sqlite_db)
    dispatch = Dispatch(sqlite_db, manual_clock, locks, policies, Metrics(), node_id="n", policy=policy)
    rounds: list[int] = []
    dispatch.on_committed.append(lambda plans: rounds.append(sum(len(p.entries) for p in plans if p.key[0] == "ten-noisy")))
    await dispatch.tick()
    await take(sqlite_db, manual_clock, "ten-quiet", [raw("c-maria", "quiet-1", manual_clock, "follow_up")])
    await dispatch.tick()
    await dispatch.tick()  # it was here a moment ago
    await asyncio.sleep(policy.beside_s)
    await dispatch.tick()
    assert rounds == [64 * 4, 8 * 2, 8 * 2, 64 * 4]


@pytest.mark.story("S-PC-01-001")
async def test_a_stream_of_single_commands_of_a_quiet_clinic_is_never_behind_more_than_one_round(
    sqlite_db: Database, manual_clock: ManualClock
) -> None:
    """The flood goes on while the quiet clinic sends: each of its commands commits in the round after its acceptance."""
    for tenant_id in ("ten-noisy", "ten-quiet"):
        await sqlite_db.write(clinic, tenant_id=tenant_id)
    dispatch = Dispatch(
        sqlite_db,
        manual_clock,
        DatabaseLocks(sqlite_db, manual_clock),
        PolicyCache(sqlite_db),
        Metrics(),
        node_id="n",
        policy=DispatchPolicy(chain=1),
    )
    done: list[str] = []
    dispatch.on_committed.append(lambda plans: done.extend(e.command.command_id for p in plans for e in p.entries if e.command))
    for turn in range(6):
        flood = [raw(f"c-{n}", f"flood-{turn}-{n}", manual_clock, "takeover") for n in range(FLOOD_CONTACTS)]
        await take(sqlite_db, manual_clock, "ten-noisy", flood)
        manual_clock.advance(seconds=1)
        await take(sqlite_db, manual_clock, "ten-quiet", [raw("c-maria", f"quiet-{turn}", manual_clock, "follow_up")])
        await dispatch.tick()
        assert f"quiet-{turn}" in done


class HeldLocks(DatabaseLocks):
    """Real locks; the round that has the first of them stands still until it is let go."""

    def __init__(self, db: Database, clock: ManualClock) -> None:
        super().__init__(db, clock)
        self.holds, self.let_go = asyncio.Event(), asyncio.Event()

    async def acquire(self, keys: Sequence[str]) -> Grant:
        grant = await super().acquire(keys)
        if not self.holds.is_set():
            self.holds.set()
            await self.let_go.wait()
        return grant


async def both_at_work(db: Database, clock: ManualClock, each: dict[str, int]) -> None:
    """Clinics with one command of so many contacts each, in this order."""
    for tenant_id, contacts in each.items():
        await db.write(clinic, tenant_id=tenant_id)
        await take(db, clock, tenant_id, [raw(f"c-{n}", f"{tenant_id}-{n}", clock, "follow_up") for n in range(contacts)])


def two_loops(db: Database, clock: ManualClock, locks: DatabaseLocks) -> tuple[Dispatch, Dispatch, list[Counter[str]]]:
    """The loops of a process, for small floods, and which clinics' lanes each of their rounds wrote."""
    policy = DispatchPolicy(lanes_beside=4, lanes_of_flood=16, beside_s=60.0)
    first = Dispatch(db, clock, locks, PolicyCache(db), Metrics(), node_id="n", policy=policy)
    second = first.sibling("dispatch_2")
    rounds: list[Counter[str]] = []
    first.on_committed.append(lambda plans: rounds.append(Counter(p.key[0] for p in plans)))
    return first, second, rounds


@pytest.mark.story("S-PC-01-001")
async def test_nobody_waits_in_the_round_of_a_flood(db: Database, manual_clock: ManualClock) -> None:
    """The loops of a process: one is at the flood, another commits what comes for somebody else meanwhile, and only that."""
    await both_at_work(db, manual_clock, {"ten-noisy": 40, "ten-quiet": 1})
    locks = HeldLocks(db, manual_clock)
    first, second, rounds = two_loops(db, manual_clock, locks)
    flood = asyncio.create_task(first.tick())
    async with asyncio.timeout(20):
        await locks.holds.wait()
        assert second.wake.is_set()  # the other clinic was left out of this round
        await second.tick()
        assert rounds == [{"ten-quiet": 1}]
        await take(db, manual_clock, "ten-quiet", [raw("c-maria", "later", manual_clock, "follow_up")])
        for tenant_id, woken in (("ten-noisy", False), ("ten-quiet", True)):
            second.wake.clear()
            first.arrived({(tenant_id, "c-1")})
            assert second.wake.is_set() is woken, tenant_id
        await second.tick()
        assert await second.tick() > 0  # the flood's other lanes are the first loop's
        locks.let_go.set()
        await flood
        await second.tick()
    assert rounds == [{"ten-quiet": 1}, {"ten-quiet": 1}, {"ten-noisy": 16}, {"ten-noisy": 16}]


async def quiet_before_a_flood(db: Database, clock: ManualClock) -> None:
    """One command of a quiet clinic, and a moment later the flood."""
    await both_at_work(db, clock, {"ten-quiet": 1})
    clock.advance(seconds=1)
    await both_at_work(db, clock, {"ten-noisy": 36})


async def test_a_flood_steps_aside_for_a_round_of_somebody_else(
    postgres_db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "STEPS_ASIDE_S", 60.0)
    await quiet_before_a_flood(postgres_db, manual_clock)
    locks = HeldLocks(postgres_db, manual_clock)
    first, second, rounds = two_loops(postgres_db, manual_clock, locks)
    async with asyncio.timeout(30):
        quiet = asyncio.create_task(first.tick())
        await locks.holds.wait()
        flood = asyncio.create_task(second.tick())
        await asyncio.wait({flood}, timeout=0.5)
        assert not flood.done()
        locks.let_go.set()
        await asyncio.gather(quiet, flood)
        assert rounds == [{"ten-quiet": 1}, {"ten-noisy": 16}]
        # what is left of a flood is still its own, though it would fit into a round of others
        await take(postgres_db, manual_clock, "ten-quiet", [raw("c-rui", "later", manual_clock, "follow_up")])
        for _ in range(4):
            await first.tick()
    assert rounds[2:] == [{"ten-noisy": 16}, {"ten-noisy": 4}, {"ten-quiet": 1}]


async def test_a_flood_does_not_step_aside_for_ever(postgres_db: Database, manual_clock: ManualClock) -> None:
    await quiet_before_a_flood(postgres_db, manual_clock)
    locks = HeldLocks(postgres_db, manual_clock)
    first, second, rounds = two_loops(postgres_db, manual_clock, locks)
    async with asyncio.timeout(30):
        quiet = asyncio.create_task(first.tick())
        await locks.holds.wait()
        await second.tick()
        locks.let_go.set()
        await quiet
    assert rounds == [{"ten-noisy": 16}, {"ten-quiet": 1}]
