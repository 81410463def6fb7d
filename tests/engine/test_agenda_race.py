"""Two nodes book one therapist's hour for two families at once: one of them gets it, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from app.clock import ManualClock
from app.domain.facts import GatePolicy
from app.engine.planning import TenantPolicy, plan_lanes
from app.ids import new_id
from app.store.database import Database
from app.store.lanes import gather
from app.store.ledger import apply
from app.store.plans import Attempt, LostRace
from app.store.tables import Appointment, InboxCommand, table
from app.store.verify import verify
from tests.builders import contact, guardian
from tests.history import History

POLICIES = {"ten-sol": TenantPolicy(gate=GatePolicy(), timezone="America/Sao_Paulo")}
APPOINTMENT, COMMAND = table(Appointment), table(InboxCommand)


@pytest.fixture
async def nodes(database_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """Two processes' connections to one database."""
    opened = Database(database_url), Database(database_url)
    yield opened
    for db in opened:
        await db.close()


def rows(conn: Connection) -> list[Any]:
    query = select(COMMAND.c.command_id, COMMAND.c.result, COMMAND.c.reason).order_by(COMMAND.c.command_id)
    return [tuple(row) for row in conn.execute(query)]


@pytest.mark.parametrize("shift_min", [0, 25])
async def test_two_nodes_never_book_overlapping_hours(
    nodes: tuple[Database, Database], manual_clock: ManualClock, shift_min: int
) -> None:
    first, second = nodes
    story = History(first, manual_clock)
    await story.begin()
    await first.write(contact, contact_id="c-rui", now=manual_clock.now())
    await first.write(guardian, contact_id="c-rui", now=manual_clock.now())
    for name, who, late in (("c-1", "c-maria", 0), ("c-2", "c-rui", shift_min)):
        start = manual_clock.now() + timedelta(days=1, minutes=late)
        slot = {"start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat(), "therapist_id": "t-ana"}
        await story.asks(name, "schedule", slot, contact_id=who)
    # both look before either writes: each sees a free hour
    now = manual_clock.now()
    plans = [
        plan_lanes(await db.read(gather, [("ten-sol", who)], 16), POLICIES, now)
        for db, who in ((first, "c-maria"), (second, "c-rui"))
    ]
    attempts = [
        Attempt(
            token=new_id(), node_id=n, clock=lambda: now, lock_backend="lock_acquired_primary", lock_mode="database", lock_ms=1.0
        )
        for n in ("n1", "n2")
    ]
    written = await asyncio.gather(
        *(db.write(apply, plan, attempt) for db, plan, attempt in zip(nodes, plans, attempts, strict=True)), return_exceptions=True
    )
    lost = [outcome for outcome in written if isinstance(outcome, BaseException)]
    assert len(lost) == 1
    assert isinstance(lost[0], LostRace | IntegrityError)
    assert len(await first.read(lambda c: c.execute(select(APPOINTMENT)).all())) == 1
    # the one that lost looks again, and is told that the hour is taken
    await story.settle()
    outcomes = await first.read(rows)
    assert sorted(result for _, result, _ in outcomes) == ["applied_once", "blocked_agenda_conflict"]
    assert {reason for _, result, reason in outcomes if result == "blocked_agenda_conflict"} == {"slot_taken"}
    assert await first.read(verify) == []
