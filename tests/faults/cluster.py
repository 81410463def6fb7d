"""Several nodes under load, and a witness outside them: what was answered is written down and compared with what is stored.

The load is `count` commands of their source's own `commit_order` over `contacts` lanes: a share comes twice, a share comes
out of order. It is posted in batches to whichever node answers; a batch without an answer is sent again as it is.
"""

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, func, select, text

from app.clock import SystemClock
from app.domain.states import State
from app.store.database import run_in_thread
from app.store.tables import InboxCommand, Lane, Ledger, Outbox, table
from tests.server import Server

BATCH = 100
SENDERS = 6
PATIENCE_S = 60.0
_COMMAND, _LANE, _LEDGER, _OUTBOX = table(InboxCommand), table(Lane), table(Ledger), table(Outbox)


def commands(count: int, contacts: int, rng: random.Random, *, first: int = 0, name: str = "c") -> list[dict[str, Any]]:
    """The load in the order in which it is sent: 10 % twice, 20 % moved up to 200 places away from their turn.

    `first` is how many commands went before: the lanes go on behind them. `name` is how contacts' ids begin.
    """
    moment = SystemClock().now().isoformat()
    made = [
        {
            "contact_id": f"{name}-{n % contacts}",
            "command_type": "follow_up",
            "conversation_version": 1,
            "commit_order": n // contacts + 1,
            "as_of": moment,
            "occurred_at": moment,
            "idempotency_key": f"k-{n}",
            "correlation_id": f"corr-{n}",
            "payload": {"text": f"mensagem {n}"},
        }
        for n in range(first, first + count)
    ]
    places = [(n + rng.uniform(-200, 200) if rng.random() < 0.2 else float(n), command) for n, command in enumerate(made)]
    places += [(place + rng.uniform(0, 1000), command) for place, command in rng.sample(places, count // 10)]
    return [command for _, command in sorted(places, key=lambda p: p[0])]


@dataclass
class Load:
    """Sends the load to the nodes and keeps the append-only journal of every item that was answered with 2xx."""

    nodes: Sequence[Server]
    key: str
    journal: Path
    rate: float = 0.0
    """Items per second at most; 0 = as fast as they are taken."""
    batch: int = BATCH
    senders: int = SENDERS
    may_refuse: frozenset[int] = frozenset({503})
    """Answers after which a batch is sent again."""
    up_to: float = float("inf")
    """Items beyond this one wait: whoever hurts the nodes wants the load to be there while it does."""
    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    refusal: httpx.Response | None = None
    """The last of them."""
    slowest_s: float = 0.0
    """The longest that one request waited for its answer."""

    async def run(self, items: list[dict[str, Any]]) -> None:
        """Send everything; returns when each item has its answer. Raises when one got no place in its lane."""
        batches: asyncio.Queue[tuple[int, list[dict[str, Any]]]] = asyncio.Queue()
        for n in range(0, len(items), self.batch):
            batches.put_nowait((n, items[n : n + self.batch]))
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {self.key}"}
        async with httpx.AsyncClient(headers=headers, trust_env=False, timeout=10) as client:
            with self.journal.open("a") as journal:

                async def send(sender: int) -> None:
                    while not batches.empty():
                        at, batch = batches.get_nowait()
                        while at >= self.up_to:  # another task raises it
                            await asyncio.sleep(0.01)
                        if self.rate:
                            await asyncio.sleep(began + at / self.rate - time.monotonic())
                        answers = await self._until_answered(client, batch, sender)
                        for asked, answer in zip(batch, answers, strict=True):
                            assert answer["commit_order"] == asked["commit_order"], f"not taken into its lane: {answer}"
                            journal.write(
                                json.dumps([asked["idempotency_key"], answer["command_id"], answer["commit_order"]]) + "\n"
                            )
                        journal.flush()
                        self.sent += len(batch)

                async with asyncio.TaskGroup() as group:
                    for sender in range(self.senders):
                        group.create_task(send(sender))

    async def _until_answered(self, client: httpx.AsyncClient, batch: list[dict[str, Any]], sender: int) -> Any:
        deadline, turn = time.monotonic() + PATIENCE_S, sender
        while True:
            node = self.nodes[turn % len(self.nodes)]
            asked_at = time.monotonic()
            try:
                answer = await client.post(f"{node.url}/api/v1/commands", json={"commands": batch})
            except httpx.TransportError as error:
                self.refused[type(error).__name__] += 1
            else:
                self.slowest_s = max(self.slowest_s, time.monotonic() - asked_at)
                if answer.is_success:
                    return answer.json()["items"]
                assert answer.status_code in self.may_refuse, f"{answer.status_code} {answer.text}"
                self.refused[str(answer.status_code)] += 1
                self.refusal = answer
            assert time.monotonic() < deadline, f"no node takes a batch: {self.refused} {node.tail()}"
            turn += 1
            await asyncio.sleep(0.05)


def _standing(conn: Connection) -> list[str]:
    """The first lanes that still have work, with what stands in front: what a person would ask first."""
    query = select(_LANE).where(_LANE.c.waiting > 0).order_by(_LANE.c.contact_id).limit(5)
    moment = "clock_timestamp()" if conn.dialect.name == "postgresql" else "CURRENT_TIMESTAMP"
    found = [f"now {conn.execute(text(f'SELECT {moment}')).scalar_one()}"]
    for lane in conn.execute(query).all():
        own = (_COMMAND.c.contact_id == lane.contact_id, _COMMAND.c.done_at.is_(None))
        front = conn.execute(select(_COMMAND).where(*own).order_by(_COMMAND.c.commit_order).limit(1)).first()
        lock = conn.execute(text("SELECT * FROM lane_lock WHERE lock_key LIKE :key"), {"key": f"%:{lane.contact_id}"}).first()
        found.append(f"{lane._asdict()} front {front._asdict() if front else None} lock {lock}")
    found.append(f"lanes {conn.execute(select(func.count()).select_from(_LANE).where(_LANE.c.waiting > 0)).scalar_one()}")
    found.append(f"nodes {[tuple(row) for row in conn.execute(text('SELECT * FROM node'))]}")
    return found


def settled(url: str, limit_s: float = PATIENCE_S) -> float:
    """Wait until every stored command has its terminal result; returns how long that took (s)."""

    def left(conn: Connection) -> int:
        return int(conn.execute(select(func.count()).select_from(_COMMAND).where(_COMMAND.c.done_at.is_(None))).scalar_one())

    began = time.monotonic()
    while waiting := run_in_thread(url, left):
        assert time.monotonic() - began < limit_s, (
            f"{waiting} commands still wait after {limit_s:g} s: {run_in_thread(url, _standing)}"
        )
        time.sleep(0.2)
    return time.monotonic() - began


def witness(url: str, journal: Path, count: int, contacts: int) -> None:
    """The journal against the database: nothing lost, nothing twice, everything in order."""
    answered: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for line in journal.read_text().splitlines():
        key, command_id, number = json.loads(line)
        answered[key].add((command_id, number))
    assert len(answered) == count
    torn = {key: answers for key, answers in answered.items() if len(answers) != 1}
    assert not torn, f"the same id had different answers: {torn}"
    told = {next(iter(answers)) for answers in answered.values()}

    def read(conn: Connection) -> tuple[list[Any], list[Any], list[Any]]:
        stored = select(_COMMAND.c.idempotency_key, _COMMAND.c.command_id, _COMMAND.c.commit_order, _COMMAND.c.result)
        entries = select(
            _LEDGER.c.contact_id, _LEDGER.c.commit_order, _LEDGER.c.command_id, _LEDGER.c.result, _LEDGER.c.committed_at
        ).order_by(_LEDGER.c.contact_id, _LEDGER.c.commit_order)
        effects = select(_OUTBOX.c.cause_id).where(_OUTBOX.c.kind == "family_message")
        return list(conn.execute(stored)), list(conn.execute(entries)), list(conn.execute(effects))

    inbox, ledger, outbox = run_in_thread(url, read)
    assert {(row.command_id, row.commit_order) for row in inbox} == told
    assert len(inbox) == count
    assert {row.result for row in inbox} == {State.APPLIED_ONCE}
    lanes: dict[str, list[Any]] = defaultdict(list)
    for row in ledger:
        lanes[row.contact_id].append(row)
    assert len(lanes) == contacts
    for rows in lanes.values():
        assert [row.commit_order for row in rows] == list(range(1, len(rows) + 1))
    assert sorted(row.command_id for row in ledger) == sorted(row.command_id for row in inbox)
    assert {row.result for row in ledger} == {State.APPLIED_ONCE}
    effects = Counter(row.cause_id for row in outbox)
    assert effects == Counter({row.command_id: 1 for row in inbox})


def database_time(url: str) -> datetime:
    """The moment on the database's clock, which the nodes follow."""
    moment: datetime = run_in_thread(url, lambda conn: conn.execute(text("SELECT clock_timestamp()")).scalar_one())
    return moment


def first_fallback_commit(url: str, since: datetime) -> datetime | None:
    """When the first command was committed under the database's locks after `since`."""
    query = select(func.min(_LEDGER.c.committed_at)).where(_LEDGER.c.committed_at >= since, _LEDGER.c.lock_mode == "fallback")
    moment: datetime | None = run_in_thread(url, lambda conn: conn.execute(query).scalar_one())
    return moment
