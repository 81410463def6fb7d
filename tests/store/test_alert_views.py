"""The console's list of alerts: what comes first, page by page, and what a long history costs."""

from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from app.store import alerts
from app.store.database import Database
from app.store.views.alerts import board, counts, listed
from tests import builders
from tests.builders import NOON

TENANT = "ten-sol"


def fill(conn: Connection) -> None:
    """Two of each state and severity, raised one minute after the other."""
    builders.tenant(conn, tenant_id=TENANT)
    minute = 0
    for status in ("resolved", "acknowledged", "open"):
        for severity in ("warning", "critical"):
            for _ in range(2):
                minute += 2
                now = NOON + timedelta(minutes=minute)
                name = f"{status}-{severity}-{minute}"
                alert_id = alerts.raise_alert(
                    conn,
                    tenant_id=TENANT,
                    trigger=name,
                    severity=severity,
                    summary=name,
                    dedup_key=name,
                    correlation_id=None,
                    now=now,
                ).alert_id
                if status == "resolved":
                    alerts.resolve(conn, alert_id, by="user:ana", now=now)
                elif status == "acknowledged":
                    alerts.acknowledge(conn, alert_id, by="user:ana", how="api", now=now)


@pytest.fixture
async def filled(db: Database) -> Database:
    await db.write(fill)
    return db


EXPECTED = [
    *("open-critical-24", "open-critical-22", "open-warning-20", "open-warning-18"),
    *("acknowledged-critical-16", "acknowledged-critical-14", "acknowledged-warning-12", "acknowledged-warning-10"),
    *("resolved-critical-8", "resolved-critical-6", "resolved-warning-4", "resolved-warning-2"),
]


@pytest.mark.parametrize("size", [1, 3, 5, 8, 12, 50])
async def test_open_ones_come_first_and_pages_miss_nothing(filled: Database, size: int) -> None:
    seen: list[str] = []
    while True:
        page = await filled.read(board, (TENANT,), offset=len(seen), limit=size)
        if not page:
            break
        seen += [row["summary"] for row in page]
    assert seen == EXPECTED


async def test_the_api_lists_by_time_and_the_frame_counts_open_ones(filled: Database) -> None:
    latest = await filled.read(lambda conn: listed(conn, (TENANT,), limit=3))
    assert [row["summary"] for row in latest] == ["open-critical-24", "open-critical-22", "open-warning-20"]
    found = await filled.read(counts, (TENANT,))
    assert (found.open, found.critical, found.next_safe_mode_at) == (4, 2, NOON + timedelta(minutes=22 + 15))


async def test_the_frames_count_does_not_read_the_history(sqlite_db: Database) -> None:
    def plan(conn: Connection) -> str:
        query = (
            "EXPLAIN QUERY PLAN SELECT count(*) FROM alert "
            "WHERE alert.scope = 'ten-sol' AND alert.status <> 'resolved' AND alert.status = 'open'"
        )
        return " ".join(str(row) for row in conn.execute(text(query)))

    assert "uq_alert_open" in await sqlite_db.read(plan)
