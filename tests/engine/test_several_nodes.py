"""Several engines on one database: every command once and in order, whoever gets there first."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from app.clock import ManualClock
from app.store.database import Database
from app.store.tables import Ledger, table
from app.store.verify import verify
from tests.builders import clinic, contact
from tests.engine.test_main_path import Engine, until

CONTACTS, COMMANDS = 40, 600


@pytest.mark.story("S-PC-01-002")
@pytest.mark.story("S-PC-01-003")
async def test_three_nodes_commit_shuffled_and_repeated_commands_once_and_in_order(
    postgres_url: str, manual_clock: ManualClock
) -> None:
    rng = random.Random(7)
    databases = [Database(postgres_url, pool_size=4) for _ in range(3)]
    await databases[0].write(clinic, now=manual_clock.now())
    for n in range(CONTACTS):
        await databases[0].write(contact, contact_id=f"c-{n}", now=manual_clock.now())
    nodes = [Engine(db, manual_clock, node_id=f"n{i}") for i, db in enumerate(databases)]
    raws = [
        nodes[0].command(
            "follow_up",
            {"text": f"{n}"},
            contact_id=f"c-{n % CONTACTS}",
            commit_order=n // CONTACTS + 1,
            idempotency_key=f"k-{n}",
            correlation_id=f"corr-{n}",
        )
        for n in range(COMMANDS)
    ]
    sent = raws + rng.sample(raws, COMMANDS // 10)
    rng.shuffle(sent)
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.running())
        batches = [sent[i : i + 30] for i in range(0, len(sent), 30)]
        await asyncio.gather(*(nodes[i % 3].intake.commands("ten-sol", batch) for i, batch in enumerate(batches)))
        await until(lambda: _committed(databases[0], COMMANDS), timeout_s=60)
    assert await databases[0].read(verify) == []
    assert {r[0] for r in await databases[0].read(_results)} == {"applied_once"}
    for db in databases:
        await db.close()


async def _committed(db: Database, count: int) -> bool:
    return bool(await db.read(lambda c: c.execute(select(func.count()).select_from(table(Ledger))).scalar()) == count)


def _results(conn: Connection) -> list[Any]:
    return list(conn.execute(select(table(Ledger).c.result).distinct()))
