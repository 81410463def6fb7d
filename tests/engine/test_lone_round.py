"""A command by itself: as few transactions and looks as it can do with, and none too few."""

from collections import Counter

from sqlalchemy import event, select

from app.clock import ManualClock
from app.engine.dispatch import Dispatch, DispatchPolicy
from app.engine.locks import DatabaseLocks
from app.engine.policies import PolicyCache
from app.metrics import Metrics
from app.store.database import Database
from app.store.tables import LaneLock, table
from tests.builders import clinic
from tests.engine.test_fairness import raw, take


def dispatching(db: Database, clock: ManualClock) -> Dispatch:
    policy = DispatchPolicy(chain=2)
    return Dispatch(db, clock, DatabaseLocks(db, clock), PolicyCache(db), Metrics(), node_id="n", policy=policy)


async def test_a_round_that_leaves_nothing_is_followed_by_no_look(db: Database, manual_clock: ManualClock) -> None:
    await db.write(clinic, tenant_id="ten-sol")
    dispatch = dispatching(db, manual_clock)
    await take(db, manual_clock, "ten-sol", [raw("c-maria", f"k-{n}", manual_clock, "follow_up") for n in range(3)])
    assert await dispatch.tick() == 0.0  # two of three
    assert await dispatch.tick() > 0
    await take(db, manual_clock, "ten-sol", [raw("c-rui", "k-rui", manual_clock, "follow_up")])
    assert await dispatch.sibling("dispatch_2").tick() > 0


async def test_a_lane_that_waits_for_its_time_is_looked_at_then(db: Database, manual_clock: ManualClock) -> None:
    await db.write(clinic, tenant_id="ten-sol")
    dispatch = dispatching(db, manual_clock)
    ahead = raw("c-rui", "k-rui", manual_clock, "follow_up") | {"commit_order": 2}  # nobody has sent the first yet
    await take(db, manual_clock, "ten-sol", [ahead])
    assert await dispatch.tick() == 0.0
    assert await dispatch.tick() > 0
    await take(db, manual_clock, "ten-sol", [raw("c-maria", "k-maria", manual_clock, "follow_up")])
    assert await dispatch.tick() > 0
    manual_clock.advance(seconds=400)  # the gap is given up in this time
    await take(db, manual_clock, "ten-sol", [raw("c-maria", "k-late", manual_clock, "follow_up")])
    done: Counter[str] = Counter()
    dispatch.on_committed.append(lambda plans: done.update(p.key[1] for p in plans if p.entries))
    await dispatch.tick()
    assert done == {"c-maria": 1, "c-rui": 1}


async def test_a_lone_command_is_claimed_and_committed_in_two_transactions(
    postgres_db: Database, manual_clock: ManualClock
) -> None:
    """Read, decided and written in one, which gives back the claim."""
    await postgres_db.write(clinic, tenant_id="ten-sol")
    dispatch = dispatching(postgres_db, manual_clock)
    await take(postgres_db, manual_clock, "ten-sol", [raw("c-maria", "k-0", manual_clock, "follow_up")])
    await dispatch.tick()
    await take(postgres_db, manual_clock, "ten-sol", [raw("c-maria", "k-1", manual_clock, "follow_up")])
    commits: list[object] = []
    assert postgres_db._async is not None
    event.listen(postgres_db._async.sync_engine, "commit", commits.append)
    await dispatch.tick()
    assert len(commits) == 2
    assert await postgres_db.read(lambda conn: conn.execute(select(table(LaneLock))).all()) == []
