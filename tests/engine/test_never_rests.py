"""With the polls switched off every command is committed all the same: a loop never rests while there is something to do.

Polls are for wake-ups that got lost. A rest that only a poll ends would be a pause of half a second after every round of a
backlog, and no test that waits for an outcome would notice. Each world draws the sizes of its rounds, its clinics and senders,
with sources that number their own commands in any order, and people who pause and release contacts meanwhile.
"""

import asyncio
import random
from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.clock import SystemClock
from app.engine import dispatch as dispatching
from app.engine.dispatch import Dispatch, DispatchPolicy
from app.engine.intake import Intake
from app.engine.locks import DatabaseLocks
from app.engine.policies import PolicyCache
from app.engine.recent import Recent
from app.engine.supervisor import Supervisor
from app.metrics import Metrics
from app.store import lane_acts
from app.store.database import Database
from app.store.people import By
from app.store.tables import Lane, table
from app.store.verify import verify
from tests.builders import clinic

CLINICS = ("ten-sol", "ten-lua", "ten-mar")
WORLDS, PARTS = 6, 3
"""Worlds of each part; each ends with a burst over many contacts, after which nothing more wakes a loop."""
WITHIN_S = 30.0
"""For what never comes: a busy machine takes long."""
LANE = table(Lane)


def _waiting(conn: Connection) -> list[Any]:
    return list(conn.execute(select(LANE).where(LANE.c.waiting > 0)))


def _paused(conn: Connection) -> list[tuple[str, str]]:
    rows = conn.execute(select(LANE.c.tenant_id, LANE.c.contact_id).where(LANE.c.paused_at.is_not(None)))
    return [(row.tenant_id, row.contact_id) for row in rows]


def _idle_lane(conn: Connection, rng: random.Random) -> tuple[str, str] | None:
    keys = conn.execute(select(LANE.c.tenant_id, LANE.c.contact_id).where(LANE.c.paused_at.is_(None)).order_by(LANE.c.contact_id))
    found = [(row.tenant_id, row.contact_id) for row in keys]
    return rng.choice(found) if found else None


class World:
    """One process, or on PostgreSQL sometimes two, and what happens to it."""

    def __init__(self, db: Database, seed: int) -> None:
        self.db, self.clock, self.rng, self.name = db, SystemClock(), random.Random(seed), f"w{seed}"
        rng, policies, metrics, recent = self.rng, PolicyCache(db), Metrics(), Recent()
        self.clinics = rng.sample(CLINICS, rng.choice((1, 1, 2, 3)))
        policy = DispatchPolicy(
            lanes_per_round=rng.choice((4, 16, 256)), per_tenant=rng.choice((4, 16, 256)),
            chain=rng.choice((1, 4, 16)), chain_beside=rng.choice((1, 2, 4)),
            lanes_beside=rng.choice((2, 4, 16)), lanes_of_flood=rng.choice((4, 8, 64)), beside_s=rng.choice((0.05, 0.3, 1.0)),
            part_min=None if db.is_sqlite else rng.choice((2, 32)),
        )  # fmt: skip
        self.intake = Intake(db, self.clock, policies, metrics, recent=recent)
        nodes = 1 if db.is_sqlite or rng.random() < 0.7 else 2
        self.loops = [
            Dispatch(
                db, self.clock, DatabaseLocks(db, self.clock), policies, metrics, node_id=f"n{n}", recent=recent, policy=policy
            )
            for n in range(nodes)
        ]
        self.intake.on_commands.append(self.loops[0].arrived)
        if nodes == 2:
            self.intake.on_commands.append(lambda _: self.loops[1].wake.set())  # as a hint from another node does
        if not db.is_sqlite and rng.random() < 0.8:
            self.loops.append(self.loops[0].sibling("dispatch_2"))
        self.supervisor = Supervisor()
        self._sent = 0

    async def live(self) -> list[Any]:
        """Everything happens; what is left undone when nothing more does."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.supervisor.run(self.intake))
            for loop in self.loops:
                group.create_task(self.supervisor.run(loop))
            try:
                senders = [self._senders_own_numbers(), *(self._sender() for _ in range(self.rng.randint(1, 3)))]
                await asyncio.gather(*senders, self._person())
                await self.intake.commands(self.clinics[0], [self._raw(f"c-{n}") for n in range(self.rng.choice((1, 8, 40, 90)))])
                return await self._left()
            finally:
                self.supervisor.stop.set()
                for wake in (self.intake.wake, *(loop.wake for loop in self.loops)):
                    wake.set()

    async def _left(self) -> list[Any]:
        try:
            async with asyncio.timeout(WITHIN_S):
                while await self.db.read(_waiting):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return await self.db.read(_waiting)
        return []

    async def _moment(self) -> None:
        await asyncio.sleep(self.rng.choice((0, 0, 0.002, 0.01, 0.04)) * self.rng.random())

    def _raw(self, contact_id: str, **fields: int) -> dict[str, Any]:
        self._sent += 1
        now = self.clock.now().isoformat()
        raw = {"contact_id": contact_id, "command_type": "follow_up", "conversation_version": 1, "as_of": now, "occurred_at": now}
        return raw | {"idempotency_key": f"{self.name}-{self._sent}", "payload": {"text": "x"}, **fields}

    async def _sender(self) -> None:
        for _ in range(self.rng.randint(1, 10)):
            await self._moment()
            contacts, count = self.rng.choice((1, 3, 30, 120)), self.rng.choice((1, 1, 2, 5, 9, 20, 60))
            raws = [self._raw(f"c-{self.rng.randrange(contacts)}") for _ in range(count)]
            await self.intake.commands(self.rng.choice(self.clinics), raws)

    async def _senders_own_numbers(self) -> None:
        numbers = list(range(1, self.rng.randint(2, 12)))
        self.rng.shuffle(numbers)
        for number in numbers:
            await self._moment()
            await self.intake.commands(self.clinics[0], [self._raw(f"c-own-{self.name}", commit_order=number)])

    async def _person(self) -> None:
        """Pauses contacts and lets all of them go at the end."""
        for _ in range(self.rng.randint(0, 4)):
            await self._moment()
            key = await self.db.read(_idle_lane, self.rng)
            if key is not None:
                await self.db.write(lane_acts.pause, *key, self._by(), "a look first")
        await self._moment()
        for key in await self.db.read(_paused):
            await self.db.write(lane_acts.release, *key, self._by(), "seen")
            for loop in self.loops:
                loop.wake.set()  # as the console does here, and a hint on other nodes

    def _by(self) -> By:
        return By(actor="user:super", now=self.clock.now())


@pytest.mark.story("S-PC-01-001")
@pytest.mark.parametrize("part", range(PARTS))
async def test_everything_is_committed_without_a_poll(db: Database, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    for name in ("POLL_S", "SIBLING_POLL_S"):
        monkeypatch.setattr(dispatching, name, 3_600.0)
    for tenant_id in CLINICS:
        await db.write(clinic, tenant_id=tenant_id)
    for seed in range(part * WORLDS, (part + 1) * WORLDS):
        world = World(db, seed)
        left = await world.live()
        assert not left, f"world {seed}: {len(left)} lanes wait, {[(row.tenant_id, row.contact_id) for row in left[:5]]}"
        assert world.supervisor.defect is None
        assert not await db.read(_paused)
    assert await db.read(verify) == []
