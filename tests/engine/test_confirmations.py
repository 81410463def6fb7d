"""The family's CONFIRMAR is never lost: it has its effect, is asked for again, or goes to a person and the family hears of it."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DataError

from app.clock import ManualClock
from app.domain.envelopes import Command
from app.store.database import Database
from app.store.messages import hear
from app.store.tables import Lane, ManualTask, Outbox, Proposal, table
from app.store.verify import verify
from tests.builders import clinic
from tests.engine.test_main_path import Engine, _appointment, _heard, until


@pytest.fixture
async def engine(db: Database, manual_clock: ManualClock) -> AsyncIterator[Engine]:
    """A clinic with one appointment and one open proposal to move it."""
    await db.write(clinic, now=manual_clock.now())
    async with Engine(db, manual_clock).running() as running:
        await running.done(running.command("schedule", {"appointment_id": "a-1", "therapist_id": "t-ana", **running.slot(30)}))
        change = {"appointment_id": "a-1", **running.slot(50)}
        await running.done(running.command("reschedule", change, entity_version=1, confirmed_by_contact=False))
        yield running
    assert await db.read(verify) == []


async def says_at_once(engine: Engine, *texts: str) -> None:
    """The family's messages, accepted together: all are there when the first is heard."""
    raw = {"contact_id": "c-maria", "event_type": "message", "occurred_at": engine.clock.now().isoformat()}
    await engine.intake.events("ten-sol", [{**raw, "payload": {"text": text}} for text in texts])


def _said(conn: Connection) -> list[str]:
    outbox = table(Outbox)
    rows = conn.execute(select(outbox.c.body_json).where(outbox.c.kind == "family_message").order_by(outbox.c.created_at))
    return [msgspec.json.decode(row.body_json)["text"] for row in rows]


def _open_proposals(conn: Connection) -> int:
    return len(conn.execute(select(table(Proposal)).where(table(Proposal).c.closed_at.is_(None))).all())


def _tasks(conn: Connection) -> list[Any]:
    return list(conn.execute(select(table(ManualTask))))


async def version(engine: Engine) -> int:
    return int((await engine.db.read(_appointment, "a-1")).version)


@pytest.mark.parametrize("courtesy", ["obrigada!", "👍", "Até lá, bom dia"])
async def test_thanks_right_after_it_take_nothing_back(engine: Engine, courtesy: str) -> None:
    await says_at_once(engine, "CONFIRMAR", courtesy)
    await until(lambda: _heard(engine, 2))
    assert await version(engine) == 2
    assert (await engine.db.read(_said))[-1].startswith("Pronto: o novo horário é")


async def test_a_message_that_may_mean_something_makes_us_ask_again(engine: Engine) -> None:
    await says_at_once(engine, "CONFIRMAR", "na verdade acho que não")
    await until(lambda: _heard(engine, 2))
    assert await version(engine) == 1
    assert (await engine.db.read(_said))[-1].startswith("Chegou outra mensagem sua logo depois do CONFIRMAR")
    assert await engine.db.read(_open_proposals) == 1
    await says_at_once(engine, "CONFIRMAR")
    await until(lambda: _heard(engine, 3))
    assert await version(engine) == 2
    await says_at_once(engine, "CONFIRMAR")
    await until(lambda: _heard(engine, 4))
    assert await version(engine) == 2
    assert await engine.db.read(_open_proposals) == 0
    assert await engine.db.read(_tasks) == []


async def test_one_that_cannot_be_done_goes_to_a_person_and_the_family_hears_of_it(engine: Engine) -> None:
    lane = table(Lane)
    await engine.db.write(lambda c: c.execute(update(lane).values(guardian_version=lane.c.guardian_version + 1)).close())
    await says_at_once(engine, "CONFIRMAR")
    await until(lambda: _heard(engine, 1))
    assert await version(engine) == 1
    assert (await engine.db.read(_said))[-1].startswith("Recebemos seu CONFIRMAR, mas ainda não foi possível concluir")
    (task,) = await engine.db.read(_tasks)
    assert (task.cause, task.reason, task.contact_id) == ("blocked_guardian_denied", "guardian_version_stale", "c-maria")


async def test_one_that_the_database_refuses_goes_to_a_person_and_the_messages_are_heard(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = engine.db.write

    async def refused(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if fn is hear and any(isinstance(s.item, Command) for h in args[0] for s in h.commands):
            raise DataError("INSERT", {}, Exception("value out of range"))
        return await write(fn, *args, **kwargs)

    monkeypatch.setattr(engine.db, "write", refused)
    await says_at_once(engine, "CONFIRMAR")
    await until(lambda: _heard(engine, 1))
    (task,) = await engine.db.read(_tasks)
    assert (task.cause, task.reason) == ("invalid_payload_manual", "not_storable")
    assert await engine.db.read(_open_proposals) == 1
