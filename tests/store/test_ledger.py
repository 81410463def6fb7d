"""The effect's transaction against what happens between the read and the commit: time, pauses, people's acts; on both databases."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from app.clock import ManualClock
from app.domain.envelopes import ID_MAX
from app.domain.facts import GatePolicy
from app.engine.d1 import D1
from app.engine.planning import TenantPolicy, plan_lanes
from app.errors import Conflict
from app.store import holds, lane_acts
from app.store.contingency import switch
from app.store.database import Database
from app.store.drain import release
from app.store.lanes import candidates, gather
from app.store.ledger import apply
from app.store.locks import acquire_locks, lock_name
from app.store.people import By
from app.store.plans import Attempt, LanePlan, LostRace
from app.store.safe_deadline import bring_forward
from app.store.tables import D1StepRow, InboxCommand, Lane, LaneLock, Ledger, table
from app.store.verify import verify
from tests.builders import NOON
from tests.history import History

COMMAND, LANE, LEDGER, LOCK = table(InboxCommand), table(Lane), table(Ledger), table(LaneLock)
POLICIES = {"ten-sol": TenantPolicy(gate=GatePolicy(), timezone="America/Sao_Paulo")}
WHO = By(actor="user:ana", now=NOON)
LANE_OF = ("ten-sol", "c-maria")


@pytest.fixture
async def story(db: Database, manual_clock: ManualClock) -> History:
    told = History(db, manual_clock)
    await told.begin()
    return told


def booking(story: History, hours: float = 30) -> dict[str, Any]:
    return {"therapist_id": "t-ana", "start": story.at(hours), "end": story.at(hours + 0.8)}


async def planned(story: History) -> list[LanePlan]:
    """What a round that reads now wants to do."""
    now = story.clock.now()
    ready = await story.db.read(candidates, now, 10)
    facts = await story.db.read(gather, [(c.tenant_id, c.contact_id) for c in ready], 16)
    return [plan for plan in plan_lanes(facts, POLICIES, now) if plan.changes_anything]


async def commit(
    story: History,
    plans: Sequence[LanePlan],
    clock: Callable[[], datetime] | None = None,
    *,
    lanes_last: bool = False,
    lock_token: str | None = None,
) -> list[LanePlan]:
    now = clock or story.clock.now
    attempt = Attempt(
        token="t", node_id="n1", clock=now, lock_backend="none", lock_mode="database", lock_ms=0.0, lock_token=lock_token
    )
    return await story.db.write(apply, plans, attempt, lanes_last=lanes_last)


def ticking(*moments: datetime) -> Callable[[], datetime]:
    """A clock that shows each of these once, and the last one from then on."""
    left = list(moments)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


async def lane(story: History) -> Any:
    return await story.db.read(lambda conn: conn.execute(select(LANE).where(LANE.c.contact_id == "c-maria")).one())


async def results(story: History) -> dict[str, str | None]:
    def read(conn: Connection) -> dict[str, str | None]:
        return {row.command_id: row.result for row in conn.execute(select(COMMAND))}

    return await story.db.read(read)


async def entry(story: History, command_id: str) -> Any:
    return await story.db.read(lambda conn: conn.execute(select(LEDGER).where(LEDGER.c.command_id == command_id)).one())


async def test_the_commit_gives_back_the_locks_of_its_lanes_and_of_nobody_else(story: History) -> None:
    async def held() -> set[str]:
        return set(await story.db.read(lambda conn: conn.execute(select(LOCK.c.lock_key)).scalars()))

    mine, other, now = lock_name(LANE_OF), lock_name(("ten-sol", "c-rui")), story.clock.now()
    for names, token in (([mine], "mine"), ([other], "other")):
        await story.db.write(acquire_locks, names, token, now, now + timedelta(seconds=15))
    await story.asks("c-1", "schedule", booking(story))
    plans = await planned(story)
    with pytest.raises(LostRace):  # too late at its end: nothing was written, so nothing was given back
        await commit(story, plans, ticking(now, now + timedelta(hours=3)), lock_token="mine")
    assert await held() == {mine, other}
    assert await commit(story, plans, lock_token="another's")
    assert await held() == {mine, other}
    await story.asks("c-2", "schedule", booking(story, 40))
    assert await commit(story, await planned(story), lock_token="mine")
    assert await held() == {other}


# --- time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-002")
async def test_an_effect_whose_transaction_waited_beyond_the_safe_deadline_does_not_happen(story: History) -> None:
    deadline = NOON + timedelta(seconds=3)
    await story.db.write(bring_forward, "ten-sol", deadline, NOON)
    await story.asks("c-1", "schedule", booking(story))
    plans = await planned(story)
    assert await commit(story, plans, ticking(deadline)) == []  # exactly at the deadline is too late
    before = deadline - timedelta(microseconds=1)
    with pytest.raises(LostRace):  # it began in time, and was held up by the rows of another
        await commit(story, plans, ticking(before, deadline))
    assert await results(story) == {"c-1": None}
    assert [plan.key for plan in await commit(story, plans, ticking(before))] == [LANE_OF]
    written = await entry(story, "c-1")
    assert (written.committed_at, written.safe_deadline) == (before, deadline)
    assert await story.db.read(verify) == []


async def test_a_deadline_that_came_after_the_decision_stands_in_the_entry(story: History) -> None:
    await story.asks("c-1", "schedule", booking(story))
    plans = await planned(story)
    deadline = NOON + timedelta(minutes=15)
    await story.db.write(bring_forward, "ten-sol", deadline, NOON)
    assert await commit(story, plans)
    assert (await entry(story, "c-1")).safe_deadline == deadline


@pytest.mark.story("S-PC-02-001")
async def test_a_late_command_whose_transaction_waited_beyond_its_ttl_has_no_effect_and_is_decided_again(story: History) -> None:
    limit = timedelta(minutes=120)
    await story.asks("c-1", "schedule", booking(story), occurred_at=(NOON - limit + timedelta(seconds=1)).isoformat())
    plans = await planned(story)
    assert [entry.decision.state for plan in plans for entry in plan.entries] == ["replayed"]
    story.clock.advance(seconds=1.5)
    assert await commit(story, plans) == []
    with pytest.raises(LostRace):
        await commit(story, plans, ticking(NOON + timedelta(seconds=1), NOON + timedelta(seconds=1.5)))
    assert await commit(story, await planned(story))
    assert await results(story) == {"c-1": "expired_manual"}
    assert await story.db.read(verify) == []


async def test_the_last_moment_of_the_ttl_is_in_time_and_the_entry_says_how_old_it_was(story: History) -> None:
    limit = timedelta(minutes=120)
    await story.asks("c-1", "schedule", booking(story), occurred_at=(NOON - limit + timedelta(seconds=1)).isoformat())
    plans = await planned(story)
    story.clock.advance(seconds=1)
    assert await commit(story, plans)
    written = await entry(story, "c-1")
    assert (written.event_age_s, written.ttl_limit_s) == (limit.total_seconds(), limit.total_seconds())


@pytest.mark.story("S-PC-02-001")
async def test_a_command_that_became_late_on_its_way_is_asked_by_the_fences(story: History) -> None:
    await story.asks("c-1", "schedule", booking(story), occurred_at=(NOON - timedelta(seconds=59)).isoformat())
    plans = await planned(story)
    assert [entry.decision.late for plan in plans for entry in plan.entries] == [False]
    story.clock.advance(seconds=2)
    assert await commit(story, plans) == []
    assert await commit(story, await planned(story))
    written = await entry(story, "c-1")
    assert (written.result, bool(written.late), written.event_age_s) == ("replayed", True, 61.0)
    assert await story.db.read(verify) == []


@pytest.mark.story("S-PC-02-002")
async def test_a_day_before_answer_does_not_happen_inside_the_cutoff(story: History) -> None:
    await story.asks("c-1", "schedule", {"appointment_id": "a-1", **booking(story, 1)})
    await story.settle()
    said = story.clock.now() - timedelta(minutes=5)
    answer = {"appointment_id": "a-1", "answer": "yes"}
    await story.asks("c-2", "d1_confirmation", answer, entity_version=1, occurred_at=said.isoformat())
    story.clock.set(NOON + timedelta(minutes=29, seconds=59))
    plans = await planned(story)
    assert [entry.decision.state for plan in plans for entry in plan.entries] == ["replayed"]
    assert await commit(story, plans, ticking(NOON + timedelta(minutes=30, microseconds=1))) == []
    assert await commit(story, plans, ticking(NOON + timedelta(minutes=30)))
    assert await story.db.read(verify) == []


# --- people -------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-002")
async def test_nothing_of_a_lane_happens_once_its_pause_is_answered(story: History) -> None:
    await story.asks("c-1", "follow_up", {"text": "oi"})
    plans = await planned(story)
    await story.db.write(lane_acts.pause, *LANE_OF, WHO, "olhar")
    assert await commit(story, plans) == []
    await story.db.write(lane_acts.single_step, *LANE_OF, WHO, "um")
    assert await commit(story, plans) == []  # decided without a pause: it takes no step
    steps = await planned(story)
    await story.db.write(lane_acts.release, *LANE_OF, WHO, "segue")
    assert await commit(story, steps) == []
    assert await commit(story, await planned(story))
    assert ((await lane(story)).step_credit, await results(story)) == (0, {"c-1": "applied_once"})


@pytest.mark.story("S-PC-01-001")
@pytest.mark.parametrize("command_type", ["follow_up", holds.EVERYTHING])
async def test_nothing_of_a_type_or_a_clinic_happens_once_its_pause_is_answered(story: History, command_type: str) -> None:
    await story.asks("c-1", "follow_up", {"text": "oi"})
    now = story.clock.now()
    ready = [(c.tenant_id, c.contact_id) for c in await story.db.read(candidates, now, 10)]
    plans = await planned(story)
    await story.db.write(holds.hold, "ten-sol", command_type, WHO, "sistema fora")
    assert await commit(story, plans) == []
    between = plan_lanes(await story.db.read(gather, ready, 16), POLICIES, now)  # chosen before, read after
    assert [plan.entries for plan in between] == [[]]
    with pytest.raises(Conflict):
        await story.db.write(holds.hold, "ten-sol", command_type, WHO, "de novo")
    await story.db.write(holds.resume, "ten-sol", command_type, WHO, "voltou")
    await story.settle()
    assert await results(story) == {"c-1": "applied_once"}
    assert await story.db.read(verify) == []


@pytest.mark.story("S-PC-01-002")
async def test_lanes_that_are_locked_last_are_compared_all_the_same(story: History) -> None:
    await story.asks("c-1", "schedule", booking(story))
    await story.asks("r-1", "follow_up", {"text": "oi"}, contact_id="c-rui")
    plans = await planned(story)
    assert len(plans) == 2
    await story.db.write(lane_acts.pause, *LANE_OF, WHO, "a mãe ligou")
    with pytest.raises(LostRace) as lost:
        await commit(story, plans, lanes_last=True)
    assert lost.value.keys == {LANE_OF}
    assert await results(story) == {"c-1": None, "r-1": None}
    rest = [plan for plan in plans if plan.key != LANE_OF]
    assert await commit(story, rest, lanes_last=True) == rest
    assert await results(story) == {"c-1": None, "r-1": "applied_once"}
    with pytest.raises(IntegrityError):  # the place in the ledger is taken before the lane is looked at
        await commit(story, rest, lanes_last=True)
    assert await commit(story, rest) == []
    assert await story.db.read(verify) == []


@pytest.mark.story("S-PC-01-002")
async def test_a_single_step_over_places_that_never_came_takes_one_request(story: History) -> None:
    await story.asks("c-3", "follow_up", {"text": "oi"}, commit_order=3)
    await story.asks("c-4", "follow_up", {"text": "oi"}, commit_order=4)
    await commit(story, await planned(story))
    await story.db.write(lane_acts.pause, *LANE_OF, WHO, "olhar")
    story.clock.advance(minutes=6)
    await story.db.write(lane_acts.single_step, *LANE_OF, WHO, "um")
    assert await commit(story, await planned(story))
    after = await lane(story)
    assert (after.last_committed, after.waiting, after.step_credit) == (3, 1, 0)
    assert await results(story) == {"c-3": "manual_review_required", "c-4": None}
    assert await planned(story) == []
    await story.db.write(lane_acts.single_step, *LANE_OF, WHO, "mais um")
    assert await commit(story, await planned(story))
    assert (await results(story))["c-4"] == "replayed"


@pytest.mark.story("S-PC-01-002")
async def test_a_parked_lane_stays_shut_when_its_front_is_skipped_or_handed_over(story: History) -> None:
    await story.db.write(switch, "ten-sol", "whatsapp", active=True, reason="fora", by=WHO)
    for n in range(1, 5):
        await story.asks(f"c-{n}", "schedule", booking(story, 30 * n))
    assert await commit(story, await planned(story))
    since = (await lane(story)).blocked_since
    await story.db.write(switch, "ten-sol", "whatsapp", active=False, reason="voltou", by=WHO)
    story.clock.advance(minutes=1)

    await story.db.write(lane_acts.skip, *LANE_OF, WHO, "pular", number=1, node_id="n1")
    after = await lane(story)
    assert (after.last_committed, after.blocked_by, after.blocked_since) == (1, "contingency", since)
    assert await planned(story) == []  # only the drain opens it

    # the front of a lane that a batch of replays has may be poisoned while it is parked
    facts = await story.db.read(gather, [LANE_OF], 16)
    held = facts.lanes[LANE_OF]
    await story.db.write(release, "ten-sol", story.clock.now(), "d-1")
    decided = (await planned(story))[0]
    decided.facts = held
    poisoned = decided.poisoned()
    assert (poisoned.blocked_by, poisoned.not_before) == ("contingency", held.row.not_before)
    assert [entry.order for entry in poisoned.entries] == [2]

    await story.settle()
    assert await results(story) == {
        "c-1": "manual_review_required",
        "c-2": "replayed",
        "c-3": "replayed",
        "c-4": "replayed",
    }
    assert await story.db.read(verify) == []


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-003")
async def test_an_appointment_of_the_longest_command_is_asked_about_and_can_be_moved(story: History) -> None:
    longest = "k" * ID_MAX
    await story.asks(longest, "schedule", booking(story, 54), idempotency_key="i" * ID_MAX, correlation_id="c" * ID_MAX)
    await story.settle()
    name = (await entry(story, longest)).entity_id
    assert len(name) <= ID_MAX
    story.clock.advance(hours=27)  # the day before, in the afternoon
    await D1(story.db, story.clock).tick()
    asked = await story.db.read(lambda conn: set(conn.execute(select(table(D1StepRow).c.appointment_id)).scalars()))
    assert asked == {name}
    await story.asks("c-2", "reschedule", {"appointment_id": name, **booking(story, 40)}, entity_version=1)
    await story.settle()
    assert (await results(story))["c-2"] == "applied_once"
    assert await story.db.read(verify) == []
