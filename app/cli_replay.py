"""`kora replay`: dry runs and batches from the command line; the running server's engine executes what is started here."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import click
import structlog

from app.clock import SystemClock
from app.domain.replay_batch import BatchAct
from app.domain.replay_filter import read_filter
from app.engine.policies import PolicyCache
from app.engine.replay import Replay
from app.store import accounts
from app.store.database import Database
from app.store.people import By
from app.store.views import replays

ACTOR = "system:cli"
Run = Callable[[Callable[[Database], Awaitable[Any]]], Any]


def replay_commands(run: Run) -> click.Group:
    """The group; `run` runs work on the configured, migrated database."""

    @click.group()
    def replay() -> None:
        """Replay what is parked or ended badly: plan (a dry run), run, show, pause, resume, cancel."""
        # only the answer goes to standard output
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    @replay.command("plan")
    @click.option("--tenant", "slug", required=True, help="Clinic (slug or id).")
    @click.option("--intent", multiple=True, help="Command type; may be repeated.")
    @click.option("--priority", multiple=True, help="Priority class; may be repeated.")
    @click.option("--state", multiple=True, help="Status, such as pending_contingency; may be repeated.")
    @click.option("--contact", "contacts", multiple=True, help="Contact id; may be repeated.")
    @click.option("--from", "from_at", default=None, help="RFC 3339 time of acceptance.")
    @click.option("--to", "to_at", default=None, help="RFC 3339 time of acceptance (default: now).")
    @click.option("--rate", type=float, default=None, help="Items a second (default: ten a minute).")
    def plan(slug: str, rate: float | None, **parts: Any) -> None:
        """Dry run: say what would happen to each request and why; nothing changes. Prints the id to run it with."""
        names = {"contacts": "contact_id", "from_at": "from", "to_at": "to"}
        raw = {names.get(k, k): list(v) if isinstance(v, tuple) else v for k, v in parts.items() if v}
        click.echo(run(lambda db: _plan(db, slug, raw, rate)))

    for what, help_text in _ACTS.items():
        replay.add_command(_act_command(run, what, help_text))

    @replay.command("show")
    @click.argument("replay_id")
    def show(replay_id: str) -> None:
        """Say how far a batch is, and every item of it."""
        click.echo(run(lambda db: _show(db, replay_id)))

    return replay


_ACTS = {
    BatchAct.RUN: "Run exactly a dry run of the last ten minutes; the server's engine does it.",
    BatchAct.PAUSE: "Let nothing further go.",
    BatchAct.RESUME: "Go on with a paused batch.",
    BatchAct.CANCEL: "Stop for good; what was parked stays parked.",
}


def _act_command(run: Run, what: BatchAct, help_text: str) -> click.Command:
    @click.command(what.value, help=help_text)
    @click.argument("replay_id")
    def act(replay_id: str) -> None:
        click.echo(run(lambda db: _act(db, replay_id, what)))

    return act


async def _plan(database: Database, slug: str, raw: dict[str, Any], rate: float | None) -> str:
    by = _by()
    row = await database.read(accounts.find_tenant, slug)
    if row is None:
        raise click.ClickException(f"no tenant {slug!r}; see: kora tenant list")
    if not raw:
        raise click.ClickException("an empty filter is refused; name an intent, priority, state, contact or time")
    wanted, errors = read_filter(raw, by.now)
    if wanted is None:
        raise click.ClickException("; ".join(f"{e.pointer.removeprefix('/filter/')} {e.detail}" for e in errors))
    replay_id = await _service(database).plan(row.tenant_id, wanted, rate_per_s=rate, by=by)
    return await _show(database, replay_id)


async def _act(database: Database, replay_id: str, what: BatchAct) -> str:
    tenant_id = await database.read(replays.tenant_of_batch, replay_id)
    if tenant_id is None:
        raise click.ClickException(f"no replay {replay_id!r}")
    await _service(database).act(tenant_id, replay_id, what, _by())
    return (await _show(database, replay_id)).splitlines()[0]


async def _show(database: Database, replay_id: str) -> str:
    tenant_id = await database.read(replays.tenant_of_batch, replay_id)
    if tenant_id is None:
        raise click.ClickException(f"no replay {replay_id!r}")
    head = await database.read(replays.batch, tenant_id, replay_id, _by().now)
    assert head is not None
    counts = ", ".join(f"{number} {name}" for name, number in head["counts"].items())
    lines = [f"{replay_id}\t{head['status']}\t{head['done']} of {head['total']} done\t{head['drift']} drifted\t{counts}"]
    for item in await database.read(lambda conn: list(replays.all_items(conn, replay_id))):
        said = item["predicted"]
        ended = f"{item['result']} ({item['reason']})" if item["result"] else item["state"]
        lines.append(
            f"{item['n']}\t{item['contact_id']}\t{item['command_type']}\t{item['correlation_id']}\t"
            f"{said['result']} ({said['reason']})\t{ended}"
        )
    return "\n".join(lines)


def _service(database: Database) -> Replay:
    return Replay(database, SystemClock(), PolicyCache(database))


def _by() -> By:
    now: datetime = SystemClock().now()
    return By(actor=ACTOR, now=now)
