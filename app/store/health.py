"""What health checks ask the database, and the samples they leave behind."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from app.domain.delivery import OutboxStatus
from app.store.bulk import insert_rows
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import HealthProbe, HealthSample, Hold, InboxCommand, Lane, Outbox, table

_PROBE, _SAMPLE, _LANE = table(HealthProbe), table(HealthSample), table(Lane)
_OUTBOX, _HOLD, _COMMAND = table(Outbox), table(Hold), table(InboxCommand)

KEPT_FOR: Final = timedelta(hours=6)
SCOPED: Final = ("channels", "lane_wait", "outbox_age")
"""Checks that are about clinics: what is red at one does not keep another in safe mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one look; `detail` says what was found, in English and without personal data."""

    green: bool
    detail: str = ""
    ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlogs:
    """How long the front of each backlog has been late; None = nothing is late."""

    outbox_late: timedelta | None
    lane_wait: timedelta | None


def probe_write(conn: Connection, node_id: str, now: datetime) -> None:
    """Write a row: whether that works is the check."""
    insert_rows(conn, _PROBE, [{"node_id": node_id, "at": now}], ignore_conflicts=True)
    conn.execute(update(_PROBE).where(_PROBE.c.node_id == node_id).values(at=now))


def backlogs(conn: Connection, now: datetime, outbox_limit: timedelta, lane_limit: timedelta) -> dict[str, Backlogs]:
    """By clinic the oldest delivery that should have left `outbox_limit` ago, and the oldest lane that could move all that time.

    Clinics where nothing is late are left out. Lanes that were parked do not count: what they wait for is their turn, and
    their age is that of the outage.
    """
    o = _OUTBOX.c
    due = select(o.tenant_id, func.min(o.due_at).label("since")).where(
        o.status == OutboxStatus.PENDING, o.due_at < now - outbox_limit
    )
    held = select(_HOLD.c.tenant_id).where(_HOLD.c.command_type == "*")
    c = _COMMAND.c
    parked = and_(c.tenant_id == _LANE.c.tenant_id, c.contact_id == _LANE.c.contact_id, c.done_at.is_(None), c.was_parked)
    ready = select(_LANE.c.tenant_id, func.min(_LANE.c.ready_since).label("since")).where(
        _LANE.c.waiting > 0,
        _LANE.c.blocked_by.is_(None),
        _LANE.c.paused_at.is_(None),
        _LANE.c.ready_since < now - lane_limit,
        _LANE.c.tenant_id.not_in(held),
        ~select(c.command_id).where(parked).exists(),
    )
    late = {row.tenant_id or GLOBAL_SCOPE: now - row.since for row in conn.execute(due.group_by(o.tenant_id))}
    still = {row.tenant_id: now - row.since for row in conn.execute(ready.group_by(_LANE.c.tenant_id))}
    return {t: Backlogs(outbox_late=late.get(t), lane_wait=still.get(t)) for t in late.keys() | still.keys()}


def keep(
    conn: Connection, node_id: str, checks: Mapping[str, Check], scopes: Mapping[str, Mapping[str, str]], now: datetime
) -> None:
    """Store one sample (`scopes`: open scope -> its own red checks and why); old ones are swept on the way."""
    found = {name: {k: v for k, v in asdict(check).items() if v not in ("", None)} for name, check in checks.items()}
    row = {
        "at": now,
        "node_id": node_id,
        "green": all(check.green for check in checks.values()),
        "checks_json": msgspec.json.encode(found).decode(),
        "scopes_json": msgspec.json.encode(scopes).decode(),
    }
    conn.execute(insert(_SAMPLE).values(row))
    conn.execute(delete(_SAMPLE).where(_SAMPLE.c.at < now - KEPT_FOR))


def checks_for(sample: Row[Any], scope: str | None) -> dict[str, dict[str, Any]]:
    """The checks of a sample as they count for a scope: where it was looked at by itself, that takes the place of the whole."""
    checks: dict[str, dict[str, Any]] = msgspec.json.decode(sample.checks_json)
    red = msgspec.json.decode(sample.scopes_json).get(scope) if scope is not None else None
    if red is not None:
        for name in SCOPED:
            checks[name] = {"green": False, "detail": red[name]} if name in red else {"green": True}
    return checks


def newest(conn: Connection, since: datetime) -> list[Row[Any]]:
    """The newest sample of each node since a moment, by node."""
    last = select(func.max(_SAMPLE.c.position)).where(_SAMPLE.c.at > since).group_by(_SAMPLE.c.node_id)
    return list(conn.execute(select(_SAMPLE).where(_SAMPLE.c.position.in_(last)).order_by(_SAMPLE.c.node_id)))
