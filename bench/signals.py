"""What one round of all signals costs with a short and with a long history, on SQLite and on PostgreSQL.

    python -m bench.signals [ENTRIES] [CLINICS] [PER_HOUR]

The last hour has the same traffic in both cases (ledger entries and messages, PER_HOUR of each over all clinics); what
differs is how much lies behind it. Printed are medians of 15 rounds in milliseconds: the look (what the goal is about), and
the whole round with its writes; and the ratio between the long history and the short one.
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
from sqlalchemy import Connection, bindparam, text

from app.clock import ManualClock
from app.engine.signals import SignalWatch
from app.metrics import Metrics
from app.store import signals
from app.store.columns import UTCDateTime
from app.store.database import Database
from app.store.migrate import upgrade
from tests.builders import tenant
from tests.services import PostgresServer

GOAL_MS = 50.0
SHORT = 10_000
ROUNDS = 15
NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)

_NUMBERS = {
    "sqlite": "WITH RECURSIVE s(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM s WHERE i < :last) ",
    "postgresql": "WITH s AS (SELECT generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i) ",
}
_AT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', :begin, '+' || ((i - :first) * :step) || ' seconds')",
    "postgresql": "CAST(:begin AS timestamptz) + (i - :first) * CAST(:step AS double precision) * interval '1 second'",
}


def fill(conn: Connection, first: int, last: int, begin: datetime, end: datetime, clinics: int) -> None:
    """Ledger entries and messages number `first` to `last`, spread evenly over clinics and time."""
    kind = conn.dialect.name
    numbers, at = _NUMBERS[kind], _AT[kind]
    values = {"first": first, "last": last, "step": (end - begin).total_seconds() / max(1, last - first), "clinics": clinics}
    result = "CASE WHEN i % 50 = 0 THEN 'version_conflict_blocked' WHEN i % 70 = 0 THEN 'expired_manual' ELSE 'applied_once' END"
    mode = "CASE WHEN i % 40 = 0 THEN 'fallback' ELSE 'primary' END"
    no = "false" if kind == "postgresql" else "0"
    for statement in (
        "INSERT INTO ledger (tenant_id, contact_id, commit_order, command_id, command_type, result, reason, conversation_version, "
        "guardian_version, takeover_active, mode_epoch, lock_backend, lock_mode, lock_ms, node_id, attempt, late, correlation_id, "
        f"accepted_at, committed_at, prev_hash, hash) {numbers} SELECT 'ten-' || (i % :clinics), 'c-' || (i % 5000), i, 'k-' || i, "
        f"'schedule', {result}, 'ok', 1, 1, {no}, 0, 'lock_acquired_primary', {mode}, 3.0 + i % 9, 'n', 'a', {no}, 'r-' || i, "
        f"{at}, {at}, '', '' FROM s",
        "INSERT INTO message (tenant_id, event_id, channel, external_id, contact_id, sequence, conversation_version, source, "
        "event_type, status, priority, occurred_at, received_at, done_at, correlation_id, correlation_generated, payload_version, "
        f"payload_json, payload_level) {numbers} "
        "SELECT 'ten-' || (i % :clinics), 'e-' || i, 'whatsapp', 'x-' || i, 'c-' || (i % 5000), i, 1, "
        f"'whatsapp', 'message', 'processed', 2, {at}, {at}, {at}, 'r-' || i, {no}, 1, '{{}}', 0 FROM s",
    ):
        conn.execute(text(statement).bindparams(bindparam("begin", type_=UTCDateTime())), values | {"begin": begin})


async def rounds(database: Database, clock: ManualClock) -> tuple[float, float]:
    """Median milliseconds of a look, and of a whole round."""
    watch = SignalWatch(database, clock, Metrics())
    looks, whole = [], []
    await watch.tick()  # the first one counts the whole hour
    for _ in range(ROUNDS):
        clock.advance(seconds=15)
        folded = (await database.read(signals.latest)).folded_minute  # type: ignore[union-attr]  # there was one look at least
        begun = time.perf_counter()
        await database.read(signals.look, clock.now(), folded, {})
        looks.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
        await watch.tick()
        whole.append((time.perf_counter() - begun) * 1000)
    return statistics.median(looks), statistics.median(whole)


async def measure(url: str, entries: int, clinics: int, per_hour: int) -> list[tuple[int, float, float]]:
    """(entries, look, round) for a short and a long history."""
    database = Database(url)
    await upgrade(database)
    for n in range(clinics):
        await database.write(tenant, tenant_id=f"ten-{n}", slug=f"clinic-{n}")
    # the clock runs on while it is measured: the traffic does too
    await database.write(fill, 1, per_hour, NOW - timedelta(minutes=50), NOW + timedelta(minutes=10), clinics)
    found, last = [], per_hour
    clock = ManualClock(NOW)
    for wanted in (SHORT, entries):
        if wanted > last:
            for step in range(last, wanted, 200_000):
                upto = min(step + 200_000, wanted)
                await database.write(fill, step + 1, upto, NOW - timedelta(days=30), NOW - timedelta(hours=2), clinics)
            last = wanted
        if database.dialect == "postgresql":
            await database.write(lambda conn: conn.execute(text("ANALYZE")))
        found.append((last, *await rounds(database, clock)))
    await database.close()
    return found


def main() -> None:
    """Measure and print; exits with 1 when a goal is missed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    given = [int(a) for a in sys.argv[1:]]
    entries, clinics, per_hour = (*given, *(1_000_000, 50, 10_000)[len(given) :])
    print(f"{clinics} clinics, {per_hour} entries and messages in the last hour, up to {entries} of each behind them")
    missed = False
    server = PostgresServer()
    server.start()
    try:
        name = server.new_name()
        server.create_database(name)
        with tempfile.TemporaryDirectory() as folder:
            for kind, url in (("SQLite", f"sqlite:///{Path(folder) / 'bench.db'}"), ("PostgreSQL", server.url(name))):
                short, long = asyncio.run(measure(url, entries, clinics, per_hour))
                for n, look, whole in (short, long):
                    print(f"  {kind:10} {n:>9} entries: look {look:6.1f} ms, whole round {whole:6.1f} ms")
                missed |= long[1] >= GOAL_MS
                verdict = "reached" if long[1] < GOAL_MS else "not reached"
                print(f"  {kind:10} ratio of looks {long[1] / short[1]:.2f}; goal: look below {GOAL_MS:g} ms, {verdict}")
    finally:
        server.close()
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
