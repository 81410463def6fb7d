"""One lane that the database, or our own code, cannot take never stops the others: through the real loops, on both databases."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DataError

from app.clock import ManualClock
from app.engine import dispatch
from app.engine.dispatch import POISON_AFTER
from app.store import lanes, ledger
from app.store.database import Database
from app.store.lanes import Facts, LaneKey
from app.store.plans import LanePlan
from app.store.tables import InboxCommand, Lane, ManualTask, table
from app.store.verify import verify
from tests.builders import clinic, contact
from tests.engine.test_main_path import Engine, until

COMMAND, TASK, LANE = table(InboxCommand), table(ManualTask), table(Lane)
FAMILIES = ("c-maria", "c-bad", "c-rui")


@pytest.fixture
async def engine(db: Database, manual_clock: ManualClock) -> Engine:
    return await furnished(db, manual_clock)


async def furnished(db: Database, manual_clock: ManualClock) -> Engine:
    def furnish(conn: Connection) -> None:
        clinic(conn, now=manual_clock.now())
        contact(conn, contact_id="c-bad")
        contact(conn, contact_id="c-rui")

    await db.write(furnish)
    return Engine(db, manual_clock)


def refusing(times: int, tried: list[int]) -> Any:
    """`apply` of a database that does not take what the lane of c-bad writes, `times` times when it is alone."""

    def apply(conn: Connection, plans: Sequence[LanePlan], attempt: Any, **how: Any) -> list[LanePlan]:
        written = ledger.apply(conn, plans, attempt, **how)
        if any(plan.key[1] == "c-bad" for plan in written) and len(tried) < times:
            if len(plans) == 1:
                tried.append(1)
            raise DataError("INSERT INTO ledger ...", {}, Exception("value too long for type character varying(200)"))
        return written

    return apply


async def _results(engine: Engine) -> dict[str, str | None]:
    def read(conn: Connection) -> dict[str, str | None]:
        return {row.contact_id: row.result for row in conn.execute(select(COMMAND))}

    return await engine.db.read(read)


async def _send(engine: Engine) -> None:
    raws = [engine.command("follow_up", {"text": "oi"}, contact_id=name) for name in FAMILIES]
    await engine.intake.commands("ten-sol", raws)


async def _ended(engine: Engine, *contacts: str) -> bool:
    found = await _results(engine)
    return all(found.get(name) for name in contacts)


@pytest.mark.story("S-PC-01-002")
async def test_a_plan_that_the_database_refuses_goes_to_a_person_and_its_lane_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(dispatch, "apply", refusing(POISON_AFTER, tried))
    async with engine.running():
        await _send(engine)
        await until(lambda: _ended(engine, "c-maria", "c-rui"))  # at once: they do not wait for it
        await until(lambda: _ended(engine, "c-bad"))
        assert len(tried) == POISON_AFTER
        assert await _results(engine) == {"c-maria": "applied_once", "c-rui": "applied_once", "c-bad": "manual_review_required"}
        (again,) = await engine.done(engine.command("follow_up", {"text": "e agora?"}, contact_id="c-bad"))
        assert again.result == "applied_once"
    reasons = await engine.db.read(lambda conn: list(conn.execute(select(TASK.c.reason)).scalars()))
    assert reasons == ["unexpected_failure"]
    assert await engine.db.read(verify) == []


async def test_a_lane_that_not_even_a_person_can_be_handed_is_left_alone_and_nobody_else_waits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(dispatch, "apply", refusing(1_000, tried))
    async with engine.running():
        await _send(engine)

        async def given_up() -> bool:
            return len(tried) > POISON_AFTER

        await until(given_up)
        for name in ("c-maria", "c-rui"):
            (row,) = await engine.done(engine.command("follow_up", {"text": "de novo"}, contact_id=name))
            assert row.result == "applied_once"
        assert len(tried) == POISON_AFTER + 1  # and not again and again
        assert (await _results(engine))["c-bad"] is None


async def test_a_lane_that_cannot_be_read_is_tried_alone_and_nobody_else_waits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(conn: Connection, keys: Sequence[LaneKey], chain: int, **how: Any) -> Facts:
        if any(contact_id == "c-bad" for _, contact_id in keys):
            raise ValueError("'dance' is not a valid CommandType")
        return lanes.gather(conn, keys, chain, **how)

    monkeypatch.setattr(dispatch, "gather", gather)
    async with engine.running():
        await _send(engine)
        await until(lambda: _ended(engine, *FAMILIES))
        assert await _results(engine) == {"c-maria": "applied_once", "c-rui": "applied_once", "c-bad": "manual_review_required"}
    assert await engine.db.read(verify) == []


async def test_a_lane_that_changed_while_its_round_was_written_costs_the_others_one_more_try(
    postgres_db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[bool] = []

    def apply(
        conn: Connection, plans: Sequence[LanePlan], attempt: Any, *, lanes_last: bool = False, **how: bool
    ) -> list[LanePlan]:
        orders.append(lanes_last)
        if len(orders) == 1:  # as if this family had written meanwhile
            conn.execute(update(LANE).where(LANE.c.contact_id == "c-rui").values(conversation_version=7))
        return ledger.apply(conn, plans, attempt, lanes_last=lanes_last, **how)

    monkeypatch.setattr(dispatch, "apply", apply)
    engine = await furnished(postgres_db, manual_clock)
    async with engine.running():
        await _send(engine)
        await until(lambda: _ended(engine, *FAMILIES))
    assert orders[:2] == [True, False]
    assert set((await _results(engine)).values()) == {"applied_once"}
    assert await postgres_db.read(verify) == []
