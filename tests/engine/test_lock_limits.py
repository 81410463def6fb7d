"""Limits of the fallback lock through the real loops: what goes beyond is parked in its place; nothing fails, nothing twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.clock import ManualClock
from app.domain.fallback import FallbackLimits, FallbackPolicy
from app.engine.intake import command_submission
from app.engine.locks import DatabaseLocks, Grant
from app.store.database import Database
from app.store.inbox import accept
from app.store.tables import InboxCommand, Lane, Ledger, table
from app.store.verify import verify
from app.store.waiting import why_waiting
from tests.builders import clinic, contact, guardian, patient
from tests.engine.test_main_path import Engine, until

pytestmark = pytest.mark.story("S-PC-05-001")

FAMILIES = 5
COMMAND, LANE, LEDGER = table(InboxCommand), table(Lane), table(Ledger)


class SlowLocks(DatabaseLocks):
    """The database's locks, reported as slow as told, and given when told."""

    ms: float | None = None
    waits_for: asyncio.Event | None = None
    taken = 0

    async def granted(self, locks: int) -> bool:
        return self.taken == locks

    async def acquire(self, keys: Sequence[str]) -> Grant:
        grant = await super().acquire(keys)
        self.taken += len(grant.keys)
        if self.waits_for is not None:
            await self.waits_for.wait()
        return grant if self.ms is None else replace(grant, ms=self.ms)


@pytest.fixture
async def locks(db: Database, manual_clock: ManualClock) -> SlowLocks:
    return SlowLocks(db, manual_clock, mode="fallback")


def furnish(conn: Connection, tenant_id: str, now: datetime) -> None:
    """A clinic with its families."""
    clinic(conn, tenant_id=tenant_id, now=now)
    for n in range(FAMILIES):
        contact(conn, tenant_id=tenant_id, contact_id=f"c-{n}", phone=f"+551198765000{n}", now=now)
        patient(conn, tenant_id=tenant_id, patient_id=f"p-{n}", now=now)
        guardian(conn, tenant_id=tenant_id, patient_id=f"p-{n}", contact_id=f"c-{n}", now=now)


@pytest.fixture
async def engine(db: Database, manual_clock: ManualClock, locks: SlowLocks) -> AsyncIterator[Engine]:
    await db.write(furnish, "ten-sol", manual_clock.now())
    limits = FallbackLimits(FallbackPolicy(effects_per_second=2))
    async with Engine(db, manual_clock, locks=locks, limits=limits).running() as running:
        yield running
    assert await db.read(verify) == []


def booking(engine: Engine, n: int, **fields: Any) -> dict[str, Any]:
    """A booking of family `n`, in a slot of its own."""
    payload = {"appointment_id": f"a-{n}", "therapist_id": "t-ana", **engine.slot(30 + n)}
    return engine.command("schedule", payload, contact_id=f"c-{n}", patient_id=f"p-{n}", **fields)


async def results(engine: Engine, result: str | None) -> int:
    def count(conn: Connection) -> int:
        return len(conn.execute(select(COMMAND.c.command_id).where(COMMAND.c.result == result)).all())

    return await engine.db.read(count)


async def parked(engine: Engine) -> list[Any]:
    """Lanes that the limits stopped, with what stands in them."""

    def read(conn: Connection) -> list[Any]:
        own = (COMMAND.c.tenant_id == LANE.c.tenant_id) & (COMMAND.c.contact_id == LANE.c.contact_id)
        query = select(LANE, COMMAND.c.status, COMMAND.c.reason, COMMAND.c.commit_order).join(COMMAND, own)
        return list(
            conn.execute(
                query.where(LANE.c.blocked_by == "fallback", COMMAND.c.done_at.is_(None)).order_by(
                    LANE.c.contact_id, COMMAND.c.commit_order
                )
            )
        )

    return await engine.db.read(read)


async def test_beyond_the_throttle_bookings_are_parked_in_their_place_and_go_on_by_themselves(
    engine: Engine, manual_clock: ManualClock
) -> None:
    bookings = [booking(engine, n) for n in range(FAMILIES)]
    behind = engine.command("follow_up", {"text": "Oi"}, contact_id="c-4", patient_id=None)
    await engine.intake.commands("ten-sol", [*bookings, behind])
    await until(lambda: _is(parked(engine), lambda rows: len({r.contact_id for r in rows}) == 3))
    rows = await parked(engine)
    assert {(r.commit_order, r.status, r.reason) for r in rows} == {
        (1, "queued_for_dispatch", "fallback_throttled"),
        (2, "queued_for_dispatch", "behind_parked"),
    }
    assert await results(engine, "applied_once") == 2

    def why(conn: Connection) -> Any:
        lane = conn.execute(select(LANE).where(LANE.c.contact_id == "c-4")).one()
        return why_waiting(conn, "ten-sol", [lane], manual_clock.now())["c-4"]

    said = await engine.db.read(why)
    assert (said["cause"], said["holder"], said["items_behind"]) == ("fallback", "redis", 1)
    # what moves no appointment is not held back
    (urgent,) = await engine.done(engine.command("takeover", {"reason": "pediu uma pessoa"}, patient_id=None))
    assert urgent.result == "applied_once"

    async def later(result: str | None, holds: Callable[[int], bool]) -> bool:
        manual_clock.advance(seconds=0.1)  # it goes on: a round that began before a step parks until after it
        return holds(await results(engine, result))

    began = manual_clock.now()
    await until(lambda: later("applied_once", lambda found: found >= 5))
    assert manual_clock.now() - began >= timedelta(seconds=1), "beyond what a second allows"
    await until(lambda: later(None, lambda left: left == 0))
    assert await results(engine, "applied_once") == FAMILIES + 2


async def test_while_the_locks_are_slow_bookings_are_parked_and_nothing_fails(
    engine: Engine, locks: SlowLocks, manual_clock: ManualClock
) -> None:
    locks.ms = 1_300.0
    for n in range(5):  # five slow locks make a p95
        (row,) = await engine.done(engine.command("follow_up", {"text": f"Oi {n}"}, patient_id=None))
        assert row.result == "applied_once"
    manual_clock.advance(seconds=1)
    await engine.intake.commands("ten-sol", [booking(engine, 0)])
    await until(lambda: _is(parked(engine), lambda rows: [r.reason for r in rows] == ["fallback_throttled"]))
    (row,) = await engine.done(engine.command("follow_up", {"text": "Oi de novo"}, patient_id=None))
    assert row.result == "applied_once"
    locks.ms = 3.0
    manual_clock.advance(seconds=31)  # the slow ones leave the window
    await until(lambda: _is(results(engine, None), lambda left: left == 0))

    def modes(conn: Connection) -> set[str]:
        return set(conn.execute(select(LEDGER.c.lock_mode)).scalars())

    assert await engine.db.read(modes) == {"fallback"}


async def _is(value: Any, holds: Any) -> bool:
    return bool(holds(await value))


async def test_loops_beside_each_other_share_the_limits(db: Database, manual_clock: ManualClock, locks: SlowLocks) -> None:
    engine = Engine(db, manual_clock, locks=locks, limits=FallbackLimits(FallbackPolicy(effects_per_second=1)))
    sibling = engine.dispatch.sibling("dispatch_2")
    locks.waits_for = asyncio.Event()
    applied: Counter[str] = Counter()
    engine.dispatch.on_committed.append(
        lambda plans: applied.update(p.key[0] for p in plans for e in p.entries if e.decision.effect is not None)
    )
    rounds = []
    for tenant_id, loop in (("ten-sol", engine.dispatch), ("ten-lua", sibling)):
        await db.write(furnish, tenant_id, manual_clock.now())
        await db.write(accept, [command_submission(tenant_id, booking(engine, 0))], manual_clock.now())
        rounds.append(asyncio.create_task(loop.tick()))
        await until(lambda: locks.granted(len(rounds)))
    locks.waits_for.set()  # both have their locks before either knows what the other applies
    await asyncio.gather(*rounds)
    assert applied.total() == 1
