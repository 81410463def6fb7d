"""`make bench`: ordered commands against peers on one PostgreSQL, in one run, and how fast an intake is acknowledged.

    python -m bench [COMMANDS] [CONTACTS] [REPEATS]

Peers do two jobs. The same job is ours: each command leaves the rows in the product's own schema that the engine leaves, and
`kora verify` must accept every peer's database as it does ours (`bench.same_job`); that comparison is like for like. The
bare job only adds one to a counter and notes a number (`bench.peers`): what a queue costs that promises nothing else.

Everything is durable and its order is verified. Figures are medians of the repeats, which take turns, and what counts is
their ratio: the machine is the same for all. Slow peers get a tenth of the commands; theirs is a rate too. Beside each rate
stand the rows that one command had inserted, updated and deleted, as PostgreSQL counted them over the whole run.
"""

import asyncio
import logging
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg
import structlog
import uvloop

from app.__main__ import keep_pauses_short
from bench.over_http import acks, batches
from bench.peers import BARE, FIFTY, FIFTY_TOGETHER, ONE, PROCRASTINATE, WARM_ROUNDS, Peer, prepare, raw_writes
from bench.same_job import SAME_JOB
from bench.throughput import measure
from tests.server import kora
from tests.services import PostgresServer

Name = tuple[str, str]
"""A row of the first block: (heading, who)."""

SAME: Final = "same job: inbox row, ledger entry, outbox message, event log"
BARELY: Final = "bare job: a counter and a note"
LIMIT: Final = "no job: rows into one table"
OURS: Final = "this"
DRIVER: Final = "driver alone, 256 rows per statement"
ENGINE: Final = "engine: gate, ledger, outbox, event log"
HTTP: Final = "HTTP batches of 200"
GOALS: Final = {(ENGINE, ONE): 5.0, (ENGINE, FIFTY): 1.5, (ENGINE, PROCRASTINATE): 25.0, (HTTP, ONE): 3.0}
"""The same for either job."""

Rows = tuple[float, float, float]
"""Inserted, updated, deleted."""


def main() -> None:
    """Measure and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    keep_pauses_short()  # as a server does; the peers run in this process too
    commands, contacts, repeats = (
        (int(a) for a in (*sys.argv[1:], "20000", "500", "3")[:3]) if len(sys.argv) > 1 else (20000, 500, 3)
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; load {os.getloadavg()[0]:.2f} at the start")
    print(f"{commands} ordered commands over {contacts} contacts on PostgreSQL, {repeats} repeats, medians")
    server = PostgresServer(durable=True)
    server.start()
    try:
        found: dict[Name, list[tuple[float, Rows]]] = {}
        for _ in range(repeats):
            for name, figures in _round(server, commands, contacts).items():
                found.setdefault(name, []).append(figures)
        medians = {name: statistics.median(rate for rate, _ in figures) for name, figures in found.items()}
        _print_rates(found, medians)
        _print_ratios("same job (like for like)", SAME, medians)
        _print_ratios("bare job (a counter and a note)", BARELY, medians)
        print("ACK of single POSTs offered at 1,000/s for 10 s (goal: p99 at most 25 ms)")
        with tempfile.TemporaryDirectory() as folder:
            postgres, sqlite = _fresh(server), f"sqlite:///{Path(folder) / 'acks.db'}"
            for kind, url, settle in (
                ("PostgreSQL", postgres, lambda: _analyze(server, postgres)),
                ("SQLite", sqlite, lambda: None),
            ):
                a = uvloop.run(acks(url, 1_000, 10, contacts, settle))
                print(f"  {kind}: {a.per_s:.0f}/s  p50 {a.p50_ms:.1f} ms  p95 {a.p95_ms:.1f} ms  p99 {a.p99_ms:.1f} ms")
    finally:
        server.close()


def _print_rates(found: Mapping[Name, list[tuple[float, Rows]]], medians: Mapping[Name, float]) -> None:
    print("commands a second (of each repeat); rows inserted + updated + deleted for one command")
    heading = ""
    for (group, who), figures in found.items():
        if group != heading:
            heading = group
            print(f"  {group}")
        inserted, updated, deleted = figures[0][1]
        each = ", ".join(f"{rate:.0f}" for rate, _ in figures)
        print(
            f"    {medians[group, who]:7.0f}/s  {who}   ({each})   {inserted:.1f} + {updated:.1f} + {deleted:.1f} rows", flush=True
        )


def _print_ratios(title: str, job: str, medians: Mapping[Name, float]) -> None:
    print(f"ratios: {title} (the goal behind each)")
    for (ours, peer), goal in GOALS.items():
        ratio = medians[OURS, ours] / medians[job, peer]
        verdict = "reached" if ratio >= goal else "not reached"
        print(f"  {ratio:6.1f}x  {ours.split(':')[0]}  /  {peer}   (goal {goal:g}x, {verdict})")
    ratio = medians[OURS, ENGINE] / medians[job, FIFTY_TOGETHER]
    print(f"  {ratio:6.1f}x  {ENGINE.split(':')[0]}  /  {FIFTY_TOGETHER}   (no goal)")


def _round(server: PostgresServer, commands: int, contacts: int) -> dict[Name, tuple[float, Rows]]:
    found: dict[Name, tuple[float, Rows]] = {}
    warm = WARM_ROUNDS * contacts
    jobs: tuple[tuple[str, Mapping[str, Peer]], ...] = (
        (BARELY, BARE),
        (SAME, SAME_JOB),
        (LIMIT, {DRIVER: Peer(prepare, raw_writes)}),
    )
    for job, peers in jobs:
        for who, peer in peers.items():
            url, count = _fresh(server), commands // 10 if peer.slow else commands
            asyncio.run(peer.prepare(url, contacts))
            before = asyncio.run(_written(url))
            rate = asyncio.run(peer.run(url, count, contacts))
            found[job, who] = rate, _for_one(before, asyncio.run(_written(url)), count + (0 if job is LIMIT else warm))
            if job is SAME:
                _verified(url)
    url = _fresh(server)
    rate = asyncio.run(measure(url, commands, contacts))[1]
    found[OURS, ENGINE] = rate, _for_one((0, 0, 0), asyncio.run(_written(url)), commands + warm)
    _verified(url)
    url = _fresh(server)
    rate = asyncio.run(batches(url, commands, contacts))
    found[OURS, HTTP] = rate, _for_one((0, 0, 0), asyncio.run(_written(url)), commands + warm)
    _verified(url)
    return found


async def _written(url: str) -> tuple[int, int, int]:
    """Rows inserted, updated and deleted in this database so far; a connection reports what it did when it ends."""
    conn = await asyncpg.connect(url)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    try:
        async with asyncio.timeout(10):
            # only PostgreSQL knows when its processes have ended
            while await conn.fetchval(others) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        row = await conn.fetchrow("SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) FROM pg_stat_user_tables")
        return int(row[0] or 0), int(row[1] or 0), int(row[2] or 0)
    finally:
        await conn.close()


def _for_one(before: tuple[int, int, int], after: tuple[int, int, int], commands: int) -> Rows:
    inserted, updated, deleted = ((b - a) / commands for a, b in zip(before, after, strict=True))
    return inserted, updated, deleted


def _analyze(server: PostgresServer, url: str) -> None:
    """What autovacuum does within a database's first minute: until then the planner takes every table for a small one."""
    server.execute("ANALYZE", url.rsplit("/", 1)[1])


def _fresh(server: PostgresServer) -> str:
    name = server.new_name()
    server.create_database(name)
    return server.url(name)


def _verified(url: str) -> None:
    """Order, effects and chains by the product's own check, of our own run and of every peer that does the same job."""
    kora(url, "verify")


main()
