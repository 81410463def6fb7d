"""Watching the watcher: the outside heartbeat, the log sink's outage, and the defect that ends a process."""

import queue

import pytest
from sqlalchemy import select

from app.channels.http import new_client
from app.clock import ManualClock
from app.engine.supervisor import Heartbeat as Beat
from app.engine.supervisor import Supervisor
from app.engine.watch import Audit, Findings, Heartbeat, report_defect
from app.store.database import Database
from app.store.tables import Alert, table
from app.telemetry import Metrics
from tests.provider import answer, provider

ALERT = table(Alert)


async def raised(db: Database) -> list[tuple[str, str, str]]:
    return await db.read(lambda conn: [(r.trigger, r.severity, r.summary) for r in conn.execute(select(ALERT))])


def audit_of(db: Database, clock: ManualClock) -> Audit:
    return Audit(db, clock, Metrics(), queue.SimpleQueue())


async def test_the_heartbeat_goes_out_only_while_all_is_well(sqlite_db: Database, manual_clock: ManualClock) -> None:
    supervisor, watcher = Supervisor(), audit_of(sqlite_db, manual_clock)
    async with provider(answer(200)) as there, new_client() as client:
        heartbeat = Heartbeat(client, f"{there.url}/beat", supervisor, watcher)
        assert await heartbeat.tick() < 60
        assert there.requests == [], "no audit has looked yet"
        await watcher.tick()
        assert await heartbeat.tick() == 60
        assert [(r.method, r.path) for r in there.requests] == [("GET", "/beat")]
        watcher.last = Findings(overdue=1, rungs_written=0, deadlines_set=0)
        await heartbeat.tick()
        await watcher.tick()
        supervisor.heartbeats["alerts"] = Beat(beat_at=-1e9)
        await heartbeat.tick()
        assert len(there.requests) == 1
        del supervisor.heartbeats["alerts"]
        there.default = answer(500)
        assert await heartbeat.tick() == 60
    assert await Heartbeat(new_client(), "http://127.0.0.1:1/", supervisor, watcher).tick() == 60


@pytest.mark.story("S-PC-04-001")
async def test_an_outage_of_the_log_sink_becomes_an_alert(db: Database, manual_clock: ManualClock) -> None:
    watcher = audit_of(db, manual_clock)
    watcher._failures.put("log lines cannot be written: no space left")
    woken: list[bool] = []
    watcher.on_raised.append(lambda: woken.append(True))
    await watcher.tick()
    await watcher.tick()
    assert await raised(db) == [("log_emit_failed", "high", "log lines cannot be written: no space left")]
    assert woken == [True]


async def test_the_defect_that_ends_a_process_is_a_critical_alert(db: Database, manual_clock: ManualClock) -> None:
    supervisor = Supervisor()
    await report_defect(db, manual_clock, supervisor, "node-1")
    assert await raised(db) == []
    supervisor.defect = ValueError("a secret in the message")
    await report_defect(db, manual_clock, supervisor, "node-1")
    ((trigger, severity, summary),) = await raised(db)
    assert (trigger, severity) == ("loop_defect", "critical")
    assert "ValueError on node-1" in summary
    assert "secret" not in summary
