"""The benchmark's peers that do the same job: what they leave behind is ours by our own check, so it is compared like for like."""

import pytest
from sqlalchemy import select

from app.domain.states import State
from app.store.database import Database
from app.store.tables import EventLog, Ledger, Outbox, table
from app.store.verify import verify
from bench.peers import WARM_ROUNDS
from bench.same_job import SAME_JOB

COMMANDS, CONTACTS = 30, 8


@pytest.mark.parametrize("name", SAME_JOB)
async def test_a_peer_of_the_same_job_leaves_what_the_engine_leaves(postgres_url: str, postgres_db: Database, name: str) -> None:
    await SAME_JOB[name].prepare(postgres_url, CONTACTS)
    assert await SAME_JOB[name].run(postgres_url, COMMANDS, CONTACTS) > 0
    assert await postgres_db.read(verify) == []
    every = COMMANDS + WARM_ROUNDS * CONTACTS
    results = await postgres_db.read(lambda conn: conn.scalars(select(table(Ledger).c.result)).all())
    assert results == [State.APPLIED_ONCE] * every
    told = await postgres_db.read(lambda conn: conn.scalars(select(table(Outbox).c.cause_id)).all())
    assert len(set(told)) == every
    topics = await postgres_db.read(lambda conn: conn.scalars(select(table(EventLog).c.topic)).all())
    assert set(topics) == {"queue", "lane"}
