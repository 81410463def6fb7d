"""What intake does when the database refuses a batch: everybody is answered, and only the item at fault is set aside."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace as changed
from sqlalchemy import BigInteger, Connection, Integer, select
from sqlalchemy.exc import DataError, IntegrityError

from app.clock import ManualClock
from app.domain.envelopes import INT_MAX, Command, Message, parse_command, parse_event
from app.engine.intake import command_submission, message_submission
from app.errors import StorageUnavailable
from app.store.database import Database
from app.store.inbox import accept
from app.store.intake_facts import Submission
from app.store.messages import unheard
from app.store.tables import InboxCommand, InboxMessage, MalformedItem, ManualTask, table
from app.store.verify import verify
from tests.builders import clinic
from tests.engine.test_main_path import Engine

HALF = "half\ud83d"
TWICE = IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed: two nodes at once"))


@pytest.fixture
async def engine(db: Database, manual_clock: ManualClock) -> AsyncIterator[Engine]:
    await db.write(clinic, now=manual_clock.now())
    async with Engine(db, manual_clock).running() as running:
        yield running
    assert await db.read(verify) == []


def refusing(db: Database, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[int], Exception | None]) -> None:
    """Acceptances number 1, 2, ... of `db` fail with what `refuse` says of them."""
    write, count = db.write, 0

    async def written(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if fn is accept:
            count += 1
            if (error := refuse(count)) is not None:
                raise error
        return await write(fn, *args, **kwargs)

    monkeypatch.setattr(db, "write", written)


def asks(engine: Engine, *keys: str) -> list[Any]:
    raws = [[engine.command("follow_up", {"text": key}, idempotency_key=key)] for key in keys]
    return [engine.intake.commands("ten-sol", raw) for raw in raws]


async def test_nobody_hangs_when_the_store_goes_away_while_each_request_is_tried_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: dict[int, Exception] = {1: TWICE, 2: StorageUnavailable("the connection was lost")}
    refusing(engine.db, monkeypatch, faults.get)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*asks(engine, "a", "b", "c"), return_exceptions=True)
        assert [type(a) for a in answers] == [StorageUnavailable] * 3
        ((later,),) = await asyncio.gather(*asks(engine, "d"))
    assert later.status == "queued_for_dispatch"
    assert engine.supervisor.defect is None


async def test_a_request_that_keeps_losing_the_race_is_refused_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 4 if engine.db.is_sqlite else 5  # the whole batch once with its lanes last
    refusing(engine.db, monkeypatch, lambda n: TWICE if n <= tries else None)
    async with asyncio.timeout(10):
        first, *rest = await asyncio.gather(*asks(engine, "a", "b", "c"), return_exceptions=True)
    assert isinstance(first, StorageUnavailable)
    assert [r[0].status for r in rest if not isinstance(r, BaseException)] == ["queued_for_dispatch"] * 2
    assert engine.supervisor.defect is None


def odd_message(engine: Engine) -> Submission:
    """A message with half a character that no database holds, as if a parser had let it through."""
    raw = {"contact_id": "c-maria", "event_type": "message", "occurred_at": engine.clock.now().isoformat(), "event_id": "e-odd"}
    item = parse_event(raw | {"payload": {"text": "oi"}}, tenant_id="ten-sol", new_id="spare-odd")
    assert isinstance(item, Message)
    return message_submission("ten-sol", changed(item, conversation_id=HALF), "spare-odd")


def _kept(conn: Connection) -> tuple[Any, Any]:
    item, task = table(MalformedItem), table(ManualTask)
    kept = conn.execute(select(item)).one()
    return kept, conn.execute(select(task).where(task.c.item_id == kept.item_id)).one()


async def test_an_item_that_the_database_cannot_hold_is_a_persons_and_its_neighbours_are_accepted(engine: Engine) -> None:
    beside = command_submission("ten-sol", engine.command("follow_up", {"text": "mesmo pedido"}, idempotency_key="same"))
    async with asyncio.timeout(10):
        odd, *others = await asyncio.gather(engine.intake.submit([odd_message(engine), beside]), *asks(engine, "a", "b"))
    assert [o[0].status for o in others] == ["queued_for_dispatch"] * 2
    assert [(r.status, r.reason) for r in odd] == [("invalid_payload_manual", "not_storable"), ("queued_for_dispatch", None)]
    kept, task = await engine.db.read(_kept)
    assert (kept.given_id, kept.contact_id, task.reason) == ("e-odd", "c-maria", "not_storable")
    assert r"half\\ud83d" in kept.raw_json
    assert engine.supervisor.defect is None


async def test_a_command_sent_again_gets_its_own_place_also_when_its_key_is_anothers(engine: Engine) -> None:
    first = engine.command("follow_up", {"text": "um"}, command_id="k-1", idempotency_key="same")
    other = engine.command("follow_up", {"text": "outro"}, command_id="k-2", idempotency_key="same")
    receipts = [(await engine.intake.commands("ten-sol", [raw]))[0] for raw in (first, other)]
    again = await engine.intake.commands("ten-sol", [other, first, other])
    assert [(r.item_id, r.number) for r in receipts] == [("k-1", 1), ("k-2", 2)]
    assert [(r.status, r.item_id, r.number) for r in again] == [
        ("duplicate_ignored", "k-2", 2),
        ("duplicate_ignored", "k-1", 1),
        ("duplicate_ignored", "k-2", 2),
    ]
    together = [raw | {"command_id": f"{raw['command_id']}x", "idempotency_key": "both"} for raw in (first, other)]
    receipts = await engine.intake.commands("ten-sol", [*together, together[1]])
    assert [(r.item_id, r.number) for r in receipts] == [("k-1x", 3), ("k-2x", 4), ("k-2x", 4)]


async def test_a_database_that_refuses_whatever_it_is_given_is_a_defect_and_everybody_is_told(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.write(clinic, now=manual_clock.now())
    broken = DataError("INSERT", {}, Exception("no such column"))
    refusing(db, monkeypatch, lambda _: broken)
    answers: list[Any] = []

    async def use() -> None:
        async with asyncio.timeout(10), Engine(db, manual_clock).running() as engine:
            answers.extend(await asyncio.gather(*asks(engine, "a", "b"), return_exceptions=True))

    with pytest.raises(DataError):
        await use()
    assert answers[0] is broken
    assert isinstance(answers[1], DataError | StorageUnavailable)  # in the same batch, or behind it


async def test_a_server_that_stops_finishes_the_batch_in_hand_and_refuses_what_lies_behind_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, at_it, go_on = engine.db.write, asyncio.Event(), asyncio.Event()

    async def held(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if fn is accept:
            at_it.set()
            await go_on.wait()
        return await write(fn, *args, **kwargs)

    monkeypatch.setattr(engine.db, "write", held)
    in_hand, behind = (asyncio.ensure_future(ask) for ask in asks(engine, "a", "b"))
    async with asyncio.timeout(10):
        # both are asked before the loop runs; a third comes while the batch is being written
        await at_it.wait()
        late = asyncio.ensure_future(asks(engine, "c")[0])
        await asyncio.sleep(0)
        engine.supervisor.stop.set()
        engine.intake.close()
        try:
            async with asyncio.timeout(1):
                with pytest.raises(StorageUnavailable, match="nothing was accepted"):
                    await late
        finally:
            go_on.set()
        assert [(await one)[0].status for one in (in_hand, behind)] == ["queued_for_dispatch"] * 2


NUMBERS: dict[str, tuple[str, ...]] = {
    "command": ("guardian_version", "conversation_version", "entity_version", "commit_order"),
    "message": ("sequence", "payload_version"),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NUMBERS.items() for name in names])
def test_no_envelope_lets_a_number_through_that_its_column_does_not_hold(kind: str, name: str) -> None:
    raw = {"contact_id": "c", "command_type": "follow_up", "event_type": "message", "occurred_at": "2026-11-23T12:00:00Z"}
    parse = parse_command if kind == "command" else parse_event
    column = table(InboxCommand if kind == "command" else InboxMessage).c[name].type
    assert isinstance(column, Integer)
    holds = 2**63 - 1 if isinstance(column, BigInteger) else 2**31 - 1
    for number in (2**31 - 1, 2**31, INT_MAX, 2**63 - 1, 2**63):
        taken = isinstance(parse({**raw, name: number}, tenant_id="t", new_id="n"), Command | Message)
        assert taken == (number <= min(holds, INT_MAX)), number


TEXTS: dict[str, tuple[str, ...]] = {
    "command": ("command_id", "contact_id", "correlation_id", "idempotency_key", "patient_id", "conversation_id", "causation_id"),
    "message": ("event_id", "external_id", "event_type", "correlation_id", "conversation_id", "causation_id", "contact_id"),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in TEXTS.items() for name in names])
def test_no_envelope_lets_a_text_through_that_its_column_does_not_hold(kind: str, name: str) -> None:
    raw = {"contact_id": "c", "command_type": "follow_up", "event_type": "message", "occurred_at": "2026-11-23T12:00:00Z"}
    parse = parse_command if kind == "command" else parse_event
    length = table(InboxCommand if kind == "command" else InboxMessage).c[name].type.length  # type: ignore[attr-defined]
    assert not isinstance(parse({**raw, name: "x" * (length + 1)}, tenant_id="t", new_id="n"), Command | Message)


async def test_a_full_disk_refuses_and_the_engine_goes_on_when_there_is_room(
    sqlite_db: Database, manual_clock: ManualClock
) -> None:
    await sqlite_db.write(clinic, now=manual_clock.now())
    async with asyncio.timeout(20), Engine(sqlite_db, manual_clock).running() as engine:
        await sqlite_db.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1").close())  # as small as it already is
        raw = engine.command("follow_up", {"text": "x" * 3000}, idempotency_key="k")

        async def until_full() -> None:  # the pages that are free in the file are used first
            while True:
                await engine.intake.commands("ten-sol", [raw | {"idempotency_key": f"k{engine.clock.now()}"}])
                engine.clock.advance(seconds=1)

        with pytest.raises(StorageUnavailable):
            await until_full()
        assert engine.supervisor.defect is None
        await sqlite_db.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000").close())
        (receipt,) = await engine.intake.commands("ten-sol", [raw])
        await engine.intake.result("ten-sol", receipt.item_id, 10)
    assert await sqlite_db.read(verify) == []


def lane_row(n: int, tenant_id: str, *, sequence: int) -> dict[str, Any]:
    raw = {"contact_id": f"c-{n}", "event_type": "message", "occurred_at": "2026-11-23T12:00:00Z", "payload": {"text": "oi"}}
    item = parse_event({**raw, "sequence": sequence}, tenant_id=tenant_id, new_id=f"e-{tenant_id}-{n}")
    assert isinstance(item, Message)
    return {"tenant_id": tenant_id, "item": item, "spare_id": f"e-{tenant_id}-{n}"}


async def test_a_flood_or_gaps_of_one_clinic_delay_no_other(db: Database, manual_clock: ManualClock) -> None:
    now = manual_clock.now()
    await db.write(clinic, now=now)
    waiting = [Submission(**lane_row(n, "ten-gaps", sequence=2)) for n in range(6)]
    flood = [Submission(**lane_row(n, "ten-flood", sequence=1)) for n in range(6)]
    late = [Submission(**lane_row(n, "ten-late", sequence=1)) for n in range(2)]
    for second, batch in enumerate((waiting, flood, late)):
        await db.write(accept, batch, now + timedelta(seconds=second))

    def heard(conn: Connection, seconds: int) -> list[str]:
        return [talk.key[0] for talk in unheard(conn, 4, 16, now + timedelta(seconds=seconds))]

    assert sorted(await db.read(heard, 3)) == ["ten-flood", "ten-flood", "ten-late", "ten-late"]
    assert sorted(await db.read(heard, 10)) == ["ten-flood", "ten-gaps", "ten-gaps", "ten-late"]
