"""`make bench`: ordered commands against peers on one PostgreSQL, in one run, and how fast an intake is acknowledged.

    python -m bench [COMMANDS] [CONTACTS] [REPEATS]

Everything is durable and its order is verified. Figures are medians of the repeats, which take turns, and what counts is
their ratio: the machine is the same for all. Slow peers get a tenth of the commands; theirs is a rate too.
"""

import asyncio
import logging
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import structlog

from bench.over_http import acks, batches
from bench.peers import PEERS, SLOW
from bench.throughput import measure
from tests.server import kora
from tests.services import PostgresServer

OURS = "this, engine: gate, ledger, outbox, event log"
HTTP = "this, HTTP batches of 200"
GOALS = {
    (OURS, "SKIP LOCKED, one job per transaction"): 5.0,
    (OURS, "SKIP LOCKED, fifty per transaction, job by job"): 1.5,
    (OURS, "procrastinate, lock per key"): 25.0,
    (HTTP, "SKIP LOCKED, one job per transaction"): 3.0,
}


def main() -> None:
    """Measure and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    commands, contacts, repeats = (
        (int(a) for a in (*sys.argv[1:], "20000", "500", "3")[:3]) if len(sys.argv) > 1 else (20000, 500, 3)
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; load {os.getloadavg()[0]:.2f} at the start")
    print(f"{commands} ordered commands over {contacts} contacts on PostgreSQL, {repeats} repeats, medians")
    server = PostgresServer(durable=True)
    server.start()
    try:
        found: dict[str, list[float]] = {}
        for _ in range(repeats):
            for name, rate in _round(server, commands, contacts).items():
                found.setdefault(name, []).append(rate)
        medians = {name: statistics.median(rates) for name, rates in found.items()}
        for name, rate in medians.items():
            print(f"  {rate:9.0f}/s  {name}   ({', '.join(f'{r:.0f}' for r in found[name])})")
        print("ratios (the goal behind each)")
        for (ours, peer), goal in GOALS.items():
            ratio = medians[ours] / medians[peer]
            verdict = "reached" if ratio >= goal else "not reached"
            print(f"  {ratio:6.1f}x  {ours.split(':')[0]}  /  {peer}   (goal {goal:g}x, {verdict})")
        print("ACK of single POSTs offered at 1,000/s for 10 s (goal: p99 at most 25 ms)")
        with tempfile.TemporaryDirectory() as folder:
            postgres, sqlite = _fresh(server), f"sqlite:///{Path(folder) / 'acks.db'}"
            for kind, url, settle in (
                ("PostgreSQL", postgres, lambda: _analyze(server, postgres)),
                ("SQLite", sqlite, lambda: None),
            ):
                a = asyncio.run(acks(url, 1_000, 10, contacts, settle))
                print(f"  {kind}: {a.per_s:.0f}/s  p50 {a.p50_ms:.1f} ms  p95 {a.p95_ms:.1f} ms  p99 {a.p99_ms:.1f} ms")
    finally:
        server.close()


def _round(server: PostgresServer, commands: int, contacts: int) -> dict[str, float]:
    rates: dict[str, float] = {}
    for name, peer in PEERS.items():
        dsn = _fresh(server).replace("+asyncpg", "")
        rates[name] = asyncio.run(peer(dsn, commands // 10 if name in SLOW else commands, contacts))
    url = _fresh(server)
    rates[OURS] = asyncio.run(measure(url, commands, contacts))[1]
    _verified(url)
    url = _fresh(server)
    rates[HTTP] = asyncio.run(batches(url, commands, contacts))
    _verified(url)
    return rates


def _analyze(server: PostgresServer, url: str) -> None:
    """What autovacuum does within a database's first minute: until then the planner takes every table for a small one."""
    server.execute("ANALYZE", url.rsplit("/", 1)[1])


def _fresh(server: PostgresServer) -> str:
    name = server.new_name()
    server.create_database(name)
    return server.url(name)


def _verified(url: str) -> None:
    """The order of our own run, by the product's own check."""
    kora(url, "verify")


main()
