"""`kora drill redis`: rehearse the failure of Redis on a running installation, from the command line."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import click
import msgspec

from app.clock import SystemClock
from app.domain.drill import DrillResult
from app.store import drills
from app.store.database import Database
from app.store.people import By

ACTOR = "system:cli"
TAKEN_WITHIN_S: Final = 15.0
Run = Callable[[Callable[[Database], Awaitable[Any]]], Any]


def drill_commands(run: Run) -> click.Group:
    """The group; `run` runs work on the configured, migrated database."""

    @click.group()
    def drill() -> None:
        """Rehearse failures inside the running installation."""

    @drill.command("redis")
    @click.option("--reason", required=True, help="Stays in the audit trail.")
    def redis(reason: str) -> None:
        """Cut a running server's path to Redis and prove what happens; prints the report. Exit 1 unless it passed."""
        report = run(lambda db: _drill(db, reason))
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
        if report["result"] == DrillResult.DRILL_FAILED_SIDE_EFFECT_RISK:
            raise click.exceptions.Exit(1)

    return drill


async def _drill(db: Database, reason: str) -> dict[str, Any]:
    clock = SystemClock()
    drill_id = await db.write(drills.ask, By(actor=ACTOR, now=clock.now(), origin="cli"), reason)
    asked, phase = time.monotonic(), ""
    while True:
        row = await db.read(drills.drill, drill_id)
        assert row is not None
        if row.phase != phase:
            phase = row.phase
            click.echo(phase, err=True)
        if row.ended_at is not None:
            return drills.document(row)
        if phase == drills.REQUESTED and time.monotonic() - asked > TAKEN_WITHIN_S and await db.write(drills.withdraw, drill_id):
            raise click.ClickException("no running server with Redis took the drill; it was withdrawn, nothing happened")
        await asyncio.sleep(0.3)
