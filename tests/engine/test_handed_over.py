"""A command that our own code cannot read or plan goes to a person; its lane, the others and the process go on."""

from typing import Any

import pytest
from sqlalchemy import Connection, select
from structlog.testing import capture_logs

from app.clock import ManualClock
from app.domain.envelopes import Command
from app.engine import planning
from app.store import lanes
from app.store.database import Database
from app.store.tables import InboxCommand, ManualTask, table
from app.store.verify import verify
from tests.builders import clinic, contact
from tests.engine.test_main_path import Engine, until

COMMAND, TASK = table(InboxCommand), table(ManualTask)
BAD = "boom"


def _results(conn: Connection) -> list[tuple[str, str | None, str | None]]:
    query = select(COMMAND).order_by(COMMAND.c.contact_id, COMMAND.c.commit_order)
    return [(row.contact_id, row.result, row.reason) for row in conn.execute(query)]


@pytest.mark.story("S-PC-01-002")
@pytest.mark.parametrize("where", [lanes, planning])
async def test_the_command_at_fault_goes_to_a_person_and_everything_else_goes_on(
    db: Database, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch, where: Any
) -> None:
    def furnish(conn: Connection) -> None:
        clinic(conn, now=manual_clock.now())
        contact(conn, contact_id="c-bad")

    slot = where.wanted_slot

    def stumbling(command: Command) -> Any:
        if command.payload.get("text") == BAD:
            raise TypeError("unhashable type: 'list'")
        return slot(command)

    monkeypatch.setattr(where, "wanted_slot", stumbling)
    await db.write(furnish)
    engine = Engine(db, manual_clock)
    said = [("c-bad", "oi"), ("c-bad", BAD), ("c-bad", BAD), ("c-bad", "e agora?"), ("c-maria", "oi")]
    raws = [
        engine.command("follow_up", {"text": text}, contact_id=name, idempotency_key=str(n)) for n, (name, text) in enumerate(said)
    ]
    with capture_logs() as logs:  # which draws no traces, and takes no time
        async with engine.running():
            await engine.intake.commands("ten-sol", raws)

            async def all_done() -> bool:
                return engine.supervisor.defect is not None or all(result for _, result, _ in await db.read(_results))

            await until(all_done)
    assert {"lane_unreadable", "command_unreadable"} <= {entry["event"] for entry in logs}
    failed = ("c-bad", "manual_review_required", "unexpected_failure")
    assert await db.read(_results) == [
        ("c-bad", "applied_once", "applied"),
        failed,
        failed,
        ("c-bad", "applied_once", "applied"),
        ("c-maria", "applied_once", "applied"),
    ]
    assert len(await db.read(lambda conn: conn.execute(select(TASK)).all())) == 2
    assert await db.read(verify) == []
