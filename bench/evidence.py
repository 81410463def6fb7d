"""What one evidence pack costs with a short and with a long history behind it, on SQLite and on PostgreSQL.

    python -m bench.evidence [ENTRIES]

One clinic has ENTRIES ledger entries and messages of 5,000 contacts; a pack is built for one contact (all of its entries),
for one flow, and for one flow again when nothing has changed. Printed are medians of 5 in milliseconds, from the request to
the stored, signed zip. The goal is about the contact: below one second with 1,000,000 entries.
"""

import asyncio
import logging
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import Connection, text

from app.clock import ManualClock
from app.engine.evidence import Evidence
from app.metrics import Metrics
from app.store import evidence
from app.store.database import Database
from app.store.migrate import upgrade
from app.store.people import By
from bench.signals import fill
from tests.builders import tenant
from tests.services import PostgresServer

GOAL_MS = 1_000.0
SHORT = 10_000
REPEATS = 5
NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
CONTACT = "c-7"


def furnish(conn: Connection) -> int:
    """The commands behind one contact's entries, and its lane; returns how many entries it has."""
    no = "false" if conn.dialect.name == "postgresql" else "0"
    conn.execute(text("DELETE FROM command"))
    conn.execute(text("DELETE FROM lane"))
    conn.execute(
        text(
            "INSERT INTO command (tenant_id, command_id, contact_id, commit_order, command_type, priority, status, result, reason, "
            "idempotency_key, fingerprint, requested_by, source, confirmed_by_contact, accepted_at, done_at, attempts, was_parked, "
            "replayed, correlation_id, correlation_generated, payload_json, payload_level) "
            "SELECT tenant_id, command_id, contact_id, "
            "commit_order, command_type, 1, 'committed_causal', result, reason, command_id, '', 'ai', 'api', "
            f"{no}, accepted_at, committed_at, 1, {no}, {no}, correlation_id, {no}, '{{}}', 0 "
            "FROM ledger WHERE tenant_id = 'ten-0' AND contact_id = :contact"
        ),
        {"contact": CONTACT},
    )
    count = int(conn.execute(text("SELECT count(*) FROM command")).scalar_one())
    conn.execute(
        text(
            "INSERT INTO lane (tenant_id, contact_id, conversation_version, guardian_version, last_sequence, last_processed, "
            "unheard, last_assigned, last_committed, waiting, wait_0, wait_1, wait_2, wait_3, step_credit, replay_until, "
            "chain_hash) SELECT 'ten-0', :contact, 1, 0, 0, 0, 0, max(commit_order), max(commit_order), 0, 0, 0, 0, 0, 0, 0, '' "
            "FROM command"
        ),
        {"contact": CONTACT},
    )
    return count


async def built_ms(database: Database, kind: str, subject: str, *, fresh: bool) -> tuple[float, int]:
    """Median milliseconds of a pack, and its size; `fresh` asks for a new one each time."""
    clock = ManualClock(NOW)
    loop = Evidence(database, clock, Metrics(), secret_key="a-secret-key-for-benchmarks-of-enough-length")
    took, size = [], 0
    for n in range(REPEATS + 1):
        clock.advance(seconds=1)
        until = clock.now() if fresh and kind == "contact" else None
        wanted = evidence.Wanted(
            tenant_id="ten-0", kind=kind, subject=subject, reason="bench", requested_at=clock.now(), until_at=until
        )
        begun = time.perf_counter()
        row = await loop.on_demand(wanted, By(actor="system:bench", now=clock.now()))
        if n:  # the first one makes the key
            took.append((time.perf_counter() - begun) * 1000)
        assert row is not None
        size = row.size_bytes
    return statistics.median(took), size


async def measure(url: str, entries: int) -> list[tuple[int, int, float, int, float]]:
    """(entries, of them the contact's, contact ms, contact bytes, flow ms) for a short and a long history."""
    database = Database(url)
    await upgrade(database)
    await database.write(tenant, tenant_id="ten-0", slug="clinic-0")
    found, last = [], 0
    for wanted in (SHORT, entries):
        for step in range(last, wanted, 200_000):
            upto = min(step + 200_000, wanted)
            await database.write(fill, step + 1, upto, NOW - timedelta(days=30), NOW - timedelta(hours=2), 1)
        last = wanted
        mine = await database.write(furnish)
        if database.dialect == "postgresql":
            await database.write(lambda conn: conn.execute(text("ANALYZE")))
        contact_ms, size = await built_ms(database, "contact", CONTACT, fresh=True)
        flow_ms, _ = await built_ms(database, "flow", "r-7", fresh=False)
        found.append((last, mine, contact_ms, size, flow_ms))
    await database.close()
    return found


def main() -> None:
    """Measure and print; exits with 1 when a goal is missed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    missed = False
    server = PostgresServer()
    server.start()
    try:
        name = server.new_name()
        server.create_database(name)
        with tempfile.TemporaryDirectory() as folder:
            for kind, url in (("SQLite", f"sqlite:///{Path(folder) / 'bench.db'}"), ("PostgreSQL", server.url(name))):
                rows = asyncio.run(measure(url, entries))
                for n, mine, contact_ms, size, flow_ms in rows:
                    print(
                        f"  {kind:10} {n:>9} entries: contact with {mine} of them {contact_ms:7.1f} ms ({size / 1024:.0f} KB), "
                        f"flow that has its pack {flow_ms:6.1f} ms"
                    )
                missed |= rows[-1][2] >= GOAL_MS
                verdict = "reached" if rows[-1][2] < GOAL_MS else "not reached"
                print(f"  {kind:10} goal: the contact's pack below {GOAL_MS:g} ms, {verdict}")
    finally:
        server.close()
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
