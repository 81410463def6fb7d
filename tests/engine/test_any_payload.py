"""Whatever JSON stands in a payload: every command gets its terminal result, every message is heard, and no loop ends."""

from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from app.clock import ManualClock
from app.domain.states import CommandType
from app.store.database import Database
from app.store.tables import InboxCommand, InboxMessage, table
from app.store.verify import verify
from tests.builders import clinic, contact, guardian
from tests.engine.test_main_path import Engine, until

COMMAND, MESSAGE = table(InboxCommand), table(InboxMessage)
KINDS: tuple[Any, ...] = (None, True, 2**53 - 1, -1.5, "", "é👩‍👧", "y" * 5_000, [], ["x"], {}, {"a": [1]})
FIELDS = ("appointment_id", "therapist_id", "start", "end", "answer", "reason", "text")


def good(engine: Engine, command_type: CommandType) -> dict[str, Any]:
    """A payload that the gate takes, with every field of every type in it."""
    return {
        **engine.slot(30),
        "therapist_id": "t-ana",
        "appointment_id": "a-new" if command_type is CommandType.SCHEDULE else "a-1",
        "answer": "yes",
        "reason": "mudou",
        "text": "oi",
    }


def _unfinished(conn: Connection) -> list[Any]:
    return list(conn.execute(select(COMMAND.c.command_type, COMMAND.c.payload_json).where(COMMAND.c.result.is_(None))))


def _unheard(conn: Connection) -> int:
    return conn.execute(select(func.count()).select_from(MESSAGE).where(MESSAGE.c.done_at.is_(None))).scalar_one()


@pytest.mark.story("S-PC-01-001")
async def test_every_kind_of_json_in_every_field_of_every_command_gets_a_result(db: Database, manual_clock: ManualClock) -> None:
    engine, raws = Engine(db, manual_clock), []
    for command_type in CommandType:
        for field in FIELDS:
            lane = f"c-{command_type}-{field}"
            payloads = [good(engine, command_type) | {field: kind} for kind in KINDS]
            raws += [engine.command(command_type, payload, contact_id=lane) for payload in payloads]

    def furnish(conn: Connection) -> None:
        clinic(conn, now=manual_clock.now())
        for lane in sorted({raw["contact_id"] for raw in raws}):
            contact(conn, contact_id=lane)
            guardian(conn, contact_id=lane)

    await db.write(furnish)
    async with engine.running():
        (booked,) = await engine.done(engine.command("schedule", good(engine, CommandType.SCHEDULE) | {"appointment_id": "a-1"}))
        assert booked.result == "applied_once"
        await engine.intake.commands("ten-sol", raws)

        async def all_done() -> bool:
            return engine.supervisor.defect is not None or not await db.read(_unfinished)

        await until(all_done, 30)
    assert await db.read(_unfinished) == []
    assert await db.read(verify) == []


async def test_every_kind_of_json_in_a_message_is_heard(db: Database, manual_clock: ManualClock) -> None:
    engine = Engine(db, manual_clock)
    await db.write(clinic, now=manual_clock.now())
    message = {"contact_id": "c-maria", "event_type": "message", "occurred_at": manual_clock.now().isoformat()}
    payloads = [{"text": "oi"} | {field: kind} for field in ("text", "button_id", "kind") for kind in KINDS]
    async with engine.running():
        await engine.intake.events("ten-sol", [message | {"payload": payload} for payload in payloads])

        async def all_heard() -> bool:
            return engine.supervisor.defect is not None or not await db.read(_unheard)

        await until(all_heard, 30)
    assert await db.read(_unheard) == 0
    assert await db.read(verify) == []
