"""What health checks ask the database, and the samples they leave behind."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from app.domain.delivery import OutboxStatus
from app.store.bulk import insert_rows
from app.store.tables import HealthProbe, HealthSample, Hold, InboxCommand, Lane, Outbox, table

_PROBE, _SAMPLE, _LANE = table(HealthProbe), table(HealthSample), table(Lane)
_OUTBOX, _HOLD, _COMMAND = table(Outbox), table(Hold), table(InboxCommand)

KEPT_FOR: Final = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one look; `detail` says what was found, in English and without personal data."""

    green: bool
    detail: str = ""
    ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlogs:
    """How long the front of each backlog has been late; None = nothing waits."""

    outbox_late: timedelta | None
    lane_wait: timedelta | None


def probe_write(conn: Connection, node_id: str, now: datetime) -> None:
    """Write a row: whether that works is the check."""
    insert_rows(conn, _PROBE, [{"node_id": node_id, "at": now}], ignore_conflicts=True)
    conn.execute(update(_PROBE).where(_PROBE.c.node_id == node_id).values(at=now))


def backlogs(conn: Connection, now: datetime, lane_limit: timedelta) -> Backlogs:
    """The oldest delivery that should have left, and the oldest lane that could move and has not for `lane_limit`.

    Lanes that were parked do not count: what they wait for is their turn, and their age is that of the outage.
    """
    due: datetime | None = conn.execute(
        select(func.min(_OUTBOX.c.due_at)).where(_OUTBOX.c.status == OutboxStatus.PENDING, _OUTBOX.c.due_at <= now)
    ).scalar()
    held = select(_HOLD.c.tenant_id).where(_HOLD.c.command_type == "*")
    c = _COMMAND.c
    parked = and_(c.tenant_id == _LANE.c.tenant_id, c.contact_id == _LANE.c.contact_id, c.done_at.is_(None), c.was_parked)
    ready: datetime | None = conn.execute(
        select(func.min(_LANE.c.ready_since)).where(
            _LANE.c.waiting > 0,
            _LANE.c.blocked_by.is_(None),
            _LANE.c.paused_at.is_(None),
            _LANE.c.ready_since < now - lane_limit,
            _LANE.c.tenant_id.not_in(held),
            ~select(c.command_id).where(parked).exists(),
        )
    ).scalar()
    return Backlogs(outbox_late=now - due if due else None, lane_wait=now - ready if ready else None)


def keep(conn: Connection, node_id: str, checks: Mapping[str, Check], now: datetime) -> None:
    """Store one sample; old ones are swept on the way."""
    found = {name: {k: v for k, v in asdict(check).items() if v not in ("", None)} for name, check in checks.items()}
    row = {
        "at": now,
        "node_id": node_id,
        "green": all(check.green for check in checks.values()),
        "checks_json": msgspec.json.encode(found).decode(),
    }
    conn.execute(insert(_SAMPLE).values(row))
    conn.execute(delete(_SAMPLE).where(_SAMPLE.c.at < now - KEPT_FOR))


def newest(conn: Connection, since: datetime) -> list[Row[Any]]:
    """The newest sample of each node since a moment, by node."""
    last = select(func.max(_SAMPLE.c.position)).where(_SAMPLE.c.at > since).group_by(_SAMPLE.c.node_id)
    return list(conn.execute(select(_SAMPLE).where(_SAMPLE.c.position.in_(last)).order_by(_SAMPLE.c.node_id)))
