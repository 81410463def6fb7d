"""Commands that this process accepted a moment ago: taken from memory only when they are what their row says, on both databases."""

from datetime import timedelta

import pytest
from msgspec.structs import replace as changed
from sqlalchemy import update

from app.clock import ManualClock
from app.domain.envelopes import Command, parse_command
from app.engine.recent import Recent
from app.store.database import Database
from app.store.inbox import accept
from app.store.intake_facts import Submission
from app.store.lanes import gather
from app.store.tables import InboxCommand, table
from tests.builders import NOON, clinic

COMMAND = table(InboxCommand)
LANE = ("ten-sol", "c-maria")


def command(name: str, text: str = "oi") -> Command:
    raw = {
        "command_id": name,
        "contact_id": "c-maria",
        "command_type": "follow_up",
        "correlation_id": f"corr-{name}",
        "conversation_version": 1,
        "as_of": NOON.isoformat(),
        "occurred_at": NOON.isoformat(),
        "payload": {"text": text, "n": 3, "deep": {"a": [1, 2.5, None]}},
    }
    item = parse_command(raw, tenant_id="ten-sol", new_id=f"new-{name}")
    assert isinstance(item, Command)
    return item


@pytest.fixture
async def accepted(db: Database, manual_clock: ManualClock) -> list[Command]:
    await db.write(clinic, now=manual_clock.now())
    items = [command("cmd-1"), command("cmd-2", "tudo bem?"), command("cmd-3", "até já")]
    await db.write(accept, [Submission(tenant_id="ten-sol", item=i, spare_id=f"s-{i.command_id}") for i in items], NOON)
    return [changed(item, commit_order=n) for n, item in enumerate(items, 1)]


async def test_a_known_command_is_the_same_as_the_one_that_is_read(db: Database, accepted: list[Command]) -> None:
    recent = Recent()
    for item in accepted[:2]:  # the third is read
        recent.keep(item, NOON)
    read, known = await db.read(gather, [LANE], 8), await db.read(gather, [LANE], 8, known=recent.find)
    assert known.lanes[LANE].commands == read.lanes[LANE].commands == accepted
    assert known.lanes[LANE].commands[0] is accepted[0]
    assert [row.commit_order for row in known.lanes[LANE].rows] == [1, 2, 3]
    short = await db.read(gather, [LANE], 2, known=recent.find)
    assert (len(short.lanes[LANE].commands), short.lanes[LANE].more) == (2, NOON)


async def test_what_was_parked_since_is_read_and_not_remembered(db: Database, accepted: list[Command]) -> None:
    recent = Recent()
    recent.keep(accepted[0], NOON)
    await db.write(lambda conn: conn.execute(update(COMMAND).where(COMMAND.c.command_id == "cmd-1").values(was_parked=True)))
    found = (await db.read(gather, [LANE], 1, known=recent.find)).lanes[LANE].commands[0]
    assert found == changed(accepted[0], was_parked=True)


async def test_another_command_under_the_same_id_is_read(db: Database, accepted: list[Command]) -> None:
    recent = Recent()
    recent.keep(command("cmd-1", "de outra vida do banco"), NOON - timedelta(seconds=1))
    found = (await db.read(gather, [LANE], 1, known=recent.find)).lanes[LANE].commands[0]
    assert found == accepted[0]


def test_it_keeps_so_many_and_forgets_what_is_decided() -> None:
    recent = Recent(limit=2)
    for name in ("a", "b", "c"):
        recent.keep(command(name), NOON)
    assert [recent.find("ten-sol", name, NOON) is not None for name in ("a", "b", "c")] == [False, True, True]
    recent.forget("ten-sol", "b")
    assert recent.find("ten-sol", "b", NOON) is None
    assert recent.find("ten-lua", "c", NOON) is None
