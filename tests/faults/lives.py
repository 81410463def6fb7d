"""A process that lives many short lives: each ends by SIGKILL at a named point of the product, the next one goes on.

Run as `python -m tests.faults.lives PLAN` (JSON: `url`, `journal`, `lives` as [[failpoint, n], ...]). The first life has no
failpoint and is the process's own: what it imports and compiles is there for those that follow, which are forks of it, so a
life costs a tenth of a second where a new process costs three. A life sends once more what no earlier life was answered, sends
work of its own, and is killed when it comes to its failpoint for the n-th time; the last one has none, adds nothing and runs
until nothing is left to do. One line per life says how it ended; the journal holds what was answered.
"""

import asyncio
import gc
import json
import os
import random
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from sqlalchemy import Connection, func, select

from app import ids
from app.bootstrap import Services, build, running
from app.errors import Conflict
from app.settings import Settings
from app.store.alerts import raise_alert
from app.store.database import Database
from app.store.episodes import open_scopes
from app.store.people import By
from app.store.tables import AlertStep, ContingencyNotice, InboxCommand, Lane, Outbox, table
from tests.engines import share_compiled_statements

TENANT: Final = "ten-sol"
FAMILIES: Final = 3
"""New families in every life."""
LIFE_S: Final = 20.0
LAST_LIFE_S: Final = 90.0
LATE: Final = timedelta(minutes=5, seconds=1)
"""How long nobody has acknowledged an alert whose warning and first resend are due."""
TICKS: Final = dict.fromkeys(("ack_validated", "recovery_action_logged", "ops_notified", "ticket_in_recovery"), True)
BEFORE, WRITTEN, DONE = "before", "written", "done"


@dataclass(frozen=True, slots=True)
class Failpoint:
    """A moment around one transaction: before it began, after its last statement, or after its commit."""

    functions: str
    """Module and name of the store function, or of what the loop hands over; any of several, with a space between."""
    moment: str
    counts: Callable[[Any], bool] = lambda _: True
    """Whether what the function returned makes this the moment; a claim that won nothing does not. Not asked before it ran."""


def _changed(progress: Any) -> bool:
    """The look at an open episode took a step."""
    return bool(progress.changed)


def _released(progress: Any) -> bool:
    """The look at an open episode let lanes go."""
    return bool(progress.released)


COMMIT: Final = "app.store.ledger.apply app.engine.dispatch.decide_and_apply"
FAILPOINTS: Final = {
    "intake.written": Failpoint("app.store.inbox.accept", WRITTEN),
    "intake.stored": Failpoint("app.store.inbox.accept", DONE),
    "message.written": Failpoint("app.store.messages.hear", WRITTEN),
    "message.heard": Failpoint("app.store.messages.hear", DONE),
    "lane.locked": Failpoint("app.store.locks.acquire_locks", DONE, bool),
    "commit.begun": Failpoint(COMMIT, BEFORE),
    "commit.written": Failpoint(COMMIT, WRITTEN),
    "commit.done": Failpoint(COMMIT, DONE),
    "outbox.claimed": Failpoint("app.store.outbox.claim", DONE, bool),
    "outbox.sent": Failpoint("app.store.outbox.settle", BEFORE),
    "outbox.settled": Failpoint("app.store.outbox.settle", DONE),
    "alert.claimed": Failpoint("app.engine.alerts.AlertLoop._start.<locals>.<lambda>", DONE, bool),
    "alert.sent": Failpoint("app.store.alert_steps.settle", BEFORE),
    "alert.settled": Failpoint("app.store.alert_steps.settle", DONE),
}
"""Of intake, messages, commits, deliveries and alerts."""
LADDER_POINTS: Final = {
    "alert.climbing": Failpoint("app.store.alert_ladder.climb_due", WRITTEN, bool),
    "alert.climbed": Failpoint("app.store.alert_ladder.climb_due", DONE, bool),
}
"""Of an alert that nobody acknowledged for more than five minutes: a warning and a resend are due."""
EXIT_POINTS: Final = {
    "safe_mode.writing": Failpoint("app.store.safe_mode.enter_by_hand", WRITTEN),
    "safe_mode.entered": Failpoint("app.store.safe_mode.enter_by_hand", DONE),
    "families.told": Failpoint("app.store.notices.tell_families", DONE, bool),
    "ticket.opening": Failpoint("app.store.critical_tickets.open_ticket", WRITTEN),
    "recovery.recorded": Failpoint("app.store.safe_mode.record_recovery", DONE),
    "exit.asked": Failpoint("app.store.safe_mode.ask_exit", WRITTEN),
    "exit.granting": Failpoint("app.store.stabilisation.advance", WRITTEN, _changed),
    "drain.releasing": Failpoint("app.store.stabilisation.advance", WRITTEN, _released),
    "drain.released": Failpoint("app.store.stabilisation.advance", DONE, _released),
}
"""Of safe mode's entry, stay and exit."""
ALL_POINTS: Final = FAILPOINTS | LADDER_POINTS | EXIT_POINTS


def arm(name: str, count: int) -> None:
    """Kill this process when it is at the failpoint for the `count`-th time."""
    point, left, write = ALL_POINTS[name], [count], Database.write

    def reached(moment: str, result: Any = None) -> None:
        if moment == point.moment and (moment == BEFORE or point.counts(result)):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    async def watched(self: Database, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if f"{fn.__module__}.{getattr(fn, '__qualname__', '')}" not in point.functions.split(" "):
            return await write(self, fn, *args, **kwargs)

        def inside(conn: Connection, *a: Any, **k: Any) -> Any:
            result = fn(conn, *a, **k)
            reached(WRITTEN, result)
            return result

        reached(BEFORE)
        result = await write(self, inside, *args, **kwargs)
        reached(DONE, result)
        return result

    Database.write = watched  # type: ignore[method-assign]  # for this life only: nothing of it outlives the process


def tenant_of(life: int, failpoint: str | None) -> str:
    """Whose families a life serves: ladders and exits have a clinic of their own, so that nothing else is hurt by safe mode."""
    return TENANT if failpoint in FAILPOINTS else f"ten-{life}"


def work(life: int, moment: str) -> list[dict[str, Any]]:
    """What this life's families send: a booking and two messages of the clinic to each, and two words of another one."""
    items: list[dict[str, Any]] = []
    for family in range(FAMILIES):
        contact, common = f"c-{life}-{family}", {"occurred_at": moment}
        command = common | {"contact_id": contact, "as_of": moment, "conversation_version": 1, "guardian_version": 1}
        for n in range(3):
            name = f"k-{life}-{family}-{n}"
            fields = {"idempotency_key": name, "correlation_id": name, "commit_order": n + 1}
            if n == 1:
                start = f"2027-03-{1 + life % 28:02d}T{8 + family:02d}:00:00Z"
                slot = {"therapist_id": f"t-{life}", "start": start, "end": start.replace(":00:00Z", ":50:00Z")}
                fields |= {"command_type": "schedule", "patient_id": f"p-{contact}", "confirmed_by_contact": True, "payload": slot}
            else:
                fields |= {"command_type": "follow_up", "payload": {"text": f"Mensagem {name}"}}
            items.append(command | fields)
    for n in range(2):
        name = f"wamid.{life}.{n}"
        items.append({"contact_id": f"c-{life}-says", "external_id": name, "event_type": "message", "occurred_at": moment,
                      "correlation_id": name, "payload": {"text": "bom dia"}})  # fmt: skip
    return items


def name_of(item: dict[str, Any]) -> str:
    """The key under which an item is answered once."""
    return str(item.get("idempotency_key") or item["external_id"])


class Journal:
    """Append-only, written outside the database: what was sent, and what was answered."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def lines(self) -> list[dict[str, Any]]:
        """Everything so far."""
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []

    def note(self, **line: Any) -> None:
        """One line, in one write."""
        handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, json.dumps(line).encode() + b"\n")
        os.close(handle)

    def unanswered(self) -> dict[str, list[dict[str, Any]]]:
        """What was sent by an earlier life and has no answer, by clinic."""
        lines, found = self.lines(), dict[str, list[dict[str, Any]]]()
        answered = {line["answered"] for line in lines if "answered" in line}
        for line in lines:
            if "sent" in line and name_of(line["sent"]) not in answered:
                found.setdefault(line["clinic"], []).append(line["sent"])
        return found


async def send(services: Services, journal: Journal, tenant_id: str, items: list[dict[str, Any]]) -> None:
    """Send in small batches and note each answer as soon as it is there."""
    events = [item for item in items if "external_id" in item]
    commands = [item for item in items if "external_id" not in item]
    for kind, batch in (
        (services.intake.events, events),
        *((services.intake.commands, commands[i : i + 3]) for i in range(0, len(commands), 3)),
    ):
        for item, receipt in zip(batch, await kind(tenant_id, batch) if batch else [], strict=True):
            journal.note(answered=name_of(item), id=receipt.item_id, number=receipt.number)


def left_to_do(conn: Connection, now: datetime) -> int:
    """Commands, messages, deliveries, due steps of alerts and episodes of safe mode that are not over."""
    command, lane, outbox, step = table(InboxCommand), table(Lane), table(Outbox), table(AlertStep)
    counts = (
        select(func.count()).select_from(command).where(command.c.done_at.is_(None)),
        select(func.count()).select_from(lane).where(lane.c.unheard > 0),
        select(func.count()).select_from(outbox).where(outbox.c.status.in_(("pending", "sending"))),
        select(func.count()).select_from(step).where(step.c.done_at.is_(None), step.c.due_at <= now),
    )
    return sum(int(conn.scalar(query) or 0) for query in counts) + len(open_scopes(conn))


def untold(conn: Connection, scope: str) -> bool:
    """Whether requests of a clinic are parked and nobody told their families yet."""
    command, notice = table(InboxCommand), table(ContingencyNotice)
    waits = select(command.c.command_id).where(command.c.tenant_id == scope, command.c.done_at.is_(None)).limit(1)
    return bool(conn.scalar(waits)) and not conn.scalar(select(notice.c.contact_id).where(notice.c.tenant_id == scope).limit(1))


def hurry(services: Services) -> None:
    """Look often and call half a second green enough: the gates and their order stay as they are."""
    window, health = services.safe_mode.policy.window, services.health.policy
    services.safe_mode.policy = replace(services.safe_mode.policy, window=replace(window, needed=timedelta(seconds=0.5)))
    services.health.policy = replace(health, every=timedelta(seconds=0.2), idle_every=timedelta(seconds=0.2))


async def lead_out(services: Services) -> None:
    """What a superadmin does in every open episode: record the repair, tick everything, ask for the exit."""
    for scope in await services.db.read(open_scopes):
        if await services.db.read(untold, scope):
            continue
        by = By(actor="user:superadmin", now=services.clock.now())
        with suppress(Conflict):  # the loop may end an episode between our look and our act
            await services.safe_mode.recover(scope, by, action="restarted", runbook_step="redis-3", checklist=TICKS)
            await services.safe_mode.leave(scope, replace(by, now=services.clock.now()))


async def busy(services: Services) -> int:
    """How much is not over."""
    return await services.db.read(left_to_do, services.clock.now())


async def live(plan: dict[str, Any], life: int, failpoint: str | None, count: int) -> None:
    """One life. Ends by SIGKILL, or returns: after the last life's work, or when a failpoint was not reached."""
    journal = Journal(Path(plan["journal"]))
    services = await build(Settings(database_url=plan["url"], env="test", public_url="http://127.0.0.1"), logs=False)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # a line of stdout is a life
    if failpoint is not None:
        arm(failpoint, count)
    exits = failpoint is None or failpoint in EXIT_POINTS
    last = life == len(plan["lives"]) - 1
    if exits:
        hurry(services)
    async with running(services):
        for tenant_id, items in journal.unanswered().items():
            await send(services, journal, tenant_id, items)
        if not last:
            await begin(services, journal, life, failpoint)
        async with asyncio.timeout(LIFE_S if failpoint else LAST_LIFE_S):
            while failpoint or await busy(services):
                if exits:
                    await lead_out(services)
                await asyncio.sleep(0.1)  # the loops of this process do the work


async def begin(services: Services, journal: Journal, life: int, failpoint: str | None) -> None:
    """What a life adds: an alert, or safe mode; then families that ask for something."""
    tenant_id, now = tenant_of(life, failpoint), services.clock.now()
    items = work(life, now.isoformat())
    if failpoint in EXIT_POINTS:
        await services.safe_mode.enter_by_hand(tenant_id, f"life {life}", By(actor="user:superadmin", now=now))
    else:
        raised_at = now if failpoint in FAILPOINTS else now - LATE
        raised = await services.db.write(
            lambda conn: raise_alert(
                conn, tenant_id=tenant_id, trigger=f"life-{life}", severity="critical", summary=f"life {life}",
                dedup_key=f"life-{life}", correlation_id=f"life-{life}", now=raised_at,
            ).alert_id
        )  # fmt: skip
        journal.note(raised=raised)
        services.alerts.wake.set()
    for item in items:
        journal.note(sent=item, clinic=tenant_id)
    await send(services, journal, tenant_id, items)


def main() -> None:
    """Live once, then fork one life after the other."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    share_compiled_statements()
    asyncio.run(live(plan, 0, *plan["lives"][0]))
    assert threading.active_count() == 1, "a fork has none of its parent's threads"
    print(json.dumps([None, 0]), flush=True)
    gc.freeze()  # collections of the children leave what is shared alone
    for life, (failpoint, count) in list(enumerate(plan["lives"]))[1:]:
        child = os.fork()
        if child == 0:
            ids._dice.seed(secrets.randbits(256))  # a fork has its parent's dice
            random.seed()
            asyncio.run(live(plan, life, failpoint, count))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps([failpoint, "killed" if killed else os.waitstatus_to_exitcode(status)]), flush=True)


if __name__ == "__main__":
    main()
