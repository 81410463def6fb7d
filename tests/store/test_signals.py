"""Counting in minutes: catching up after downtime, counting again, rounds of several nodes, history that is kept and dropped."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from app.clock import ManualClock
from app.engine.signals import EVERY, SignalWatch
from app.ids import new_id
from app.metrics import Metrics
from app.store import settings, signals
from app.store.database import Database
from app.store.lanes import GLOBAL_SCOPE
from app.store.signal_facts import gather, minute_of
from app.store.tables import Alert, SignalFiring, SignalMinute, SignalPoint, SignalRound, SignalStateRow, table
from app.store.views import signals as views
from tests.builders import tenant
from tests.engine.signal_world import messages, results, tasks, violations

pytestmark = pytest.mark.story("S-PC-04-002")

TEN = "ten-sol"


def rows(conn: Connection, model: Any) -> int:
    return int(conn.execute(select(func.count()).select_from(table(model))).scalar_one())


async def test_counting_again_counts_nothing_twice_and_a_window_ends(db: Database, manual_clock: ManualClock) -> None:
    watch = SignalWatch(db, manual_clock, Metrics())
    await db.write(results, TEN, manual_clock.now(), 30)
    await db.write(results, TEN, manual_clock.now(), 3, "conflict_blocked")
    for _ in range(8):
        manual_clock.advance(seconds=20)
        await watch.tick()
    facts = (await db.read(gather, manual_clock.now(), minute_of(manual_clock.now()))).facts[TEN]
    assert (facts.hour["done"], facts.hour["conflict_blocked"], facts.quarter["items"]) == (33, 3, 33)
    for _ in range(3):
        manual_clock.advance(minutes=21)
        await watch.tick()
    gone = (await db.read(gather, manual_clock.now(), minute_of(manual_clock.now()))).facts.get(TEN)
    assert gone is None or not gone.hour
    manual_clock.advance(hours=2)
    await watch.tick()
    assert await db.read(rows, SignalMinute) == 0


async def test_after_downtime_the_last_hour_is_counted_once(db: Database, manual_clock: ManualClock) -> None:
    watch = SignalWatch(db, manual_clock, Metrics())
    await watch.tick()
    for minutes in (5, 40, 80):
        await db.write(results, TEN, manual_clock.now() + timedelta(minutes=minutes), 10)
    manual_clock.advance(minutes=90)
    await watch.tick()
    facts = (await db.read(gather, manual_clock.now(), minute_of(manual_clock.now()))).facts[TEN]
    assert (facts.hour["done"], facts.quarter["done"]) == (20, 10), "what is older than an hour is no longer of interest"


async def test_an_entry_that_becomes_visible_late_is_still_counted(db: Database, manual_clock: ManualClock) -> None:
    watch = SignalWatch(db, manual_clock, Metrics())
    committed_at = manual_clock.now()
    manual_clock.advance(seconds=70)
    await watch.tick()
    await db.write(violations, TEN, committed_at, 3)
    manual_clock.advance(seconds=15)
    await watch.tick()
    state = await db.read(views.one, TEN, "blocked_commit_order_violation")
    assert state is not None
    assert (state["level"], state["values"]) == ("warning", {"count": 3})


async def test_one_node_has_a_round_and_one_that_lost_it_writes_nothing(db: Database, manual_clock: ManualClock) -> None:
    await db.write(violations, TEN, manual_clock.now(), 5)
    now = manual_clock.now()
    first, second = new_id(), new_id()
    assert await db.write(signals.claim, first, now, EVERY) == 0
    assert await db.write(signals.claim, second, now + EVERY / 2, EVERY) is None
    look = await db.read(signals.look, now, 0, {})
    assert await db.write(signals.claim, second, now + EVERY, EVERY) == 0, "the first one took too long"
    later = await db.read(signals.look, now + EVERY, 0, {})
    assert await db.write(signals.record, first, look, 1.0) is None
    assert await db.read(rows, SignalStateRow) == 0
    fired = await db.write(signals.record, second, later, 1.0)
    assert [(f.signal, f.level) for f in fired or []] == [("blocked_commit_order_violation", "warning")]
    # the same look written once more finds every state moved on
    assert await db.write(signals.record, second, later, 1.0) == []
    assert (await db.read(rows, Alert), await db.read(rows, SignalFiring)) == (1, 1)
    stepped_back = now - timedelta(hours=1)
    assert await db.write(signals.claim, first, stepped_back, EVERY) is not None, "a clock that was set back does not stop it"


async def test_a_clinics_limits_go_over_those_of_all_and_hold_from_the_next_look(db: Database, manual_clock: ManualClock) -> None:
    watch = SignalWatch(db, manual_clock, Metrics())
    for one in (TEN, "ten-lua"):
        await db.write(tenant, tenant_id=one)
        await db.write(tasks, one, manual_clock.now(), 12)

    async def levels() -> list[str]:
        manual_clock.advance(seconds=15)
        await watch.tick()
        found = [await db.read(views.one, scope, "replay_manual_backlog") for scope in (TEN, "ten-lua")]
        return [one["level"] for one in found if one is not None]

    async def save(scope: str, warning: float, critical: float) -> None:
        patch = {"thresholds": {"replay_manual_backlog": {"warning": {"backlog": warning}, "critical": {"backlog": critical}}}}
        await db.write(settings.save, scope, patch, actor="user:ana", now=manual_clock.now())

    assert await levels() == ["normal", "normal"]
    await save(TEN, 50, 60)
    await save(GLOBAL_SCOPE, 10, 60)
    assert await levels() == ["normal", "warning"]
    await save(TEN, 5, 11)
    assert await levels() == ["critical", "warning"]


async def test_history_is_kept_as_points_of_change_and_dropped_after_eight_days(db: Database, manual_clock: ManualClock) -> None:
    watch = SignalWatch(db, manual_clock, Metrics())
    await db.write(messages, TEN, manual_clock.now(), 3)
    await db.write(tasks, TEN, manual_clock.now(), 5, 3600.0)
    for _ in range(20):
        manual_clock.advance(seconds=15)
        await watch.tick()
    points = await db.read(views.points, TEN, "replay_manual_backlog", manual_clock.now() - timedelta(days=1))
    assert len(points) == 5, "at most one a minute"
    assert await db.read(lambda conn: views.points(conn, TEN, "expired_manual", manual_clock.now())) == []
    manual_clock.advance(days=9)
    for _ in range(3):
        manual_clock.advance(seconds=15)
        await watch.tick()
    oldest = await db.read(lambda conn: conn.execute(select(func.min(table(SignalPoint).c.at))).scalar())
    assert oldest is not None
    assert oldest > manual_clock.now() - signals.POINTS_KEPT
    took = await db.read(lambda conn: conn.execute(select(table(SignalRound).c.took_ms)).scalar_one())
    assert took > 0
