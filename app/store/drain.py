"""The drain (F-05): lets parked lanes go again, most urgent first, at a rate; the way out of contingency.

A lane that was parked (`lane.blocked_by` is `safe_mode` or `contingency`) stays closed when its mode allows commands again,
also for commands that come later: `engine.planning` holds it until a drain releases it. So whoever ends contingency only
writes the mode row (`store.contingency.switch`). While a scope's safe mode is `draining`, `store.stabilisation` frees what
safe mode parked; what is parked by either cause in a mode that is normal again is released here.

`release` runs one step for one clinic in one transaction: it reads the clinic's mode under a share lock, and when the mode
blocks (again), it ends the drain and releases nothing. A lane that was released just before its mode blocked is parked
again by the gate; so entering a mode needs no call here either. The loop `engine.drain` calls `release` for every clinic
in `due`; any number of nodes may. Lanes that a person paused, or that a replay batch has, are left to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, select, update

from app.domain.drain import DrainPolicy, Pace, Trend, begin, fill, is_incident, look, spend
from app.domain.states import ModeState
from app.store.alerts import raise_alert
from app.store.bulk import insert_rows, update_rows
from app.store.events import publish_many
from app.store.lanes import GLOBAL_SCOPE, PARKED_BY, merge_modes
from app.store.settings import load
from app.store.tables import DrainRow, InboxCommand, Lane, ModeRow, table

_DRAIN, _LANE, _MODE, _COMMAND = table(DrainRow), table(Lane), table(ModeRow), table(InboxCommand)

LANES_PER_STEP = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What one step did: `contacts` in the order in which they were released, `left` lanes still parked."""

    drain_id: str
    contacts: tuple[str, ...]
    items: int
    left: int
    rate_per_s: float
    trend: Trend | None = None
    ended: bool = False
    incident: bool = False
    """True exactly once a drain: the backlog has grown for several windows."""
    backlog: int = 0


@dataclass(frozen=True, slots=True)
class _ParkedLane:
    contact_id: str
    blocked_by: str
    waiting: int


def drain_policy(document: dict[str, Any]) -> DrainPolicy:
    """The numbers out of a loaded settings document."""
    rate = float(document["drain_per_s"])
    return DrainPolicy(rate_per_s=rate, burst=max(10, int(rate)))


def _parked(causes: Sequence[str]) -> ColumnElement[bool]:
    """Lanes that were parked by one of the causes and are nobody else's to open."""
    return and_(_LANE.c.waiting > 0, _LANE.c.blocked_by.in_(causes), _LANE.c.paused_at.is_(None), _LANE.c.replay_id.is_(None))


def _causes(everywhere: Row[Any] | None, own: Row[Any] | None, now: datetime) -> tuple[str, ...]:
    """What the mode lets a drain release: nothing while it blocks, and not what safe mode's own exit is draining."""
    mode = merge_modes(everywhere, own)
    if mode.contingency or mode.safe_mode_blocks(now):
        return ()
    return ("contingency",) if mode.state is ModeState.DRAINING else PARKED_BY


_PARKED_TENANTS = select(_LANE.c.tenant_id, _LANE.c.blocked_by).where(_parked(PARKED_BY)).distinct()
_DRAINING_TENANTS = select(_DRAIN.c.tenant_id).where(_DRAIN.c.ended_at.is_(None))


def due(conn: Connection, now: datetime) -> list[str]:
    """Clinics with something to do: parked lanes in a mode that lets them go, or a drain that is open."""
    found = conn.execute(_PARKED_TENANTS).all()
    draining = {str(t) for t in conn.execute(_DRAINING_TENANTS).scalars()}
    if not found and not draining:
        return []
    scopes = [GLOBAL_SCOPE, *(row.tenant_id for row in found)]
    modes = {row.scope: row for row in conn.execute(select(_MODE).where(_MODE.c.scope.in_(scopes)))}
    everywhere = modes.get(GLOBAL_SCOPE)
    free = {str(row.tenant_id) for row in found if row.blocked_by in _causes(everywhere, modes.get(row.tenant_id), now)}
    return sorted(free | draining)


def parked_left(conn: Connection, tenant_id: str, causes: Sequence[str] = PARKED_BY) -> int:
    """Lanes of a clinic that a drain still has to release."""
    query = select(func.count()).select_from(_LANE).where(_LANE.c.tenant_id == tenant_id, _parked(causes))
    return int(conn.execute(query).scalar_one())


def release(conn: Connection, tenant_id: str, now: datetime, new_id: str) -> Released | None:
    """One step of a clinic's drain; None when there was nothing to do. `new_id` names the drain that may begin."""
    row = _open_drain(conn, tenant_id)
    causes = allowed(conn, tenant_id, now)
    if not causes:
        if row is not None:
            _end(conn, row.drain_id, "interrupted", now)
            publish_many(conn, {(tenant_id, "replay"): []}, now)
        return None
    policy = drain_policy(load(conn, tenant_id))
    if row is None:
        if not parked_left(conn, tenant_id, causes):
            return None
        _begin(conn, tenant_id, new_id, now, policy)
        row = _open_drain(conn, tenant_id)
        assert row is not None
    pace, trend = look(_pace(row), _backlog(conn, tenant_id), now, policy)
    pace = fill(pace, now, policy)
    lanes = _next_lanes(conn, tenant_id, causes, pace.tokens)
    released = _open_lanes(conn, tenant_id, lanes)
    chosen = [lane for lane in lanes if lane.contact_id in released]
    items = sum(lane.waiting for lane in chosen)
    pace = spend(pace, items)
    left = parked_left(conn, tenant_id, causes)
    incident = row.incident_at is None and is_incident(pace, policy)
    conn.execute(
        update(_DRAIN)
        .where(_DRAIN.c.drain_id == row.drain_id)
        .values(
            rate_per_s=pace.rate_per_s,
            tokens=pace.tokens,
            filled_at=pace.filled_at,
            backlog=pace.backlog,
            looked_at=pace.looked_at,
            released_since=pace.released_since,
            growing=pace.growing,
            slowed=pace.slowed,
            lanes_released=row.lanes_released + len(chosen),
            items_released=row.items_released + items,
            incident_at=now if incident else row.incident_at,
        )
    )
    if incident:
        raise_alert(
            conn,
            tenant_id=tenant_id,
            trigger="replay_backlog",
            severity="high",
            summary=f"Parked requests arrive faster than they leave: {pace.backlog} wait, {pace.rate_per_s:.2f} a second leave",
            dedup_key=f"drain:{row.drain_id}",
            correlation_id=f"drain-{row.drain_id}",
            now=now,
            raised_by="system:drain",
        )
    if left == 0:
        _end(conn, row.drain_id, "completed", now)
    names = [lane.contact_id for lane in chosen]
    if names or left == 0 or trend is not None:
        publish_many(conn, {(tenant_id, "queue"): names, (tenant_id, "lane"): names, (tenant_id, "replay"): [row.drain_id]}, now)
    return Released(
        drain_id=row.drain_id,
        contacts=tuple(names),
        items=items,
        left=left,
        rate_per_s=pace.rate_per_s,
        trend=trend,
        ended=left == 0,
        incident=incident,
        backlog=pace.backlog,
    )


def latest(conn: Connection, tenant_id: str) -> dict[str, Any] | None:
    """The clinic's open drain, else its last one; None when there never was one."""
    row = conn.execute(
        select(_DRAIN).where(_DRAIN.c.tenant_id == tenant_id).order_by(_DRAIN.c.ended_at.is_not(None), _DRAIN.c.started_at.desc())
    ).first()
    if row is None:
        return None
    return {
        "drain_id": row.drain_id,
        "state": "running" if row.ended_at is None else row.outcome,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "parked_at_start": row.parked_at_start,
        "released": row.items_released,
        "lanes_released": row.lanes_released,
        "backlog": row.backlog,
        "rate_per_s": row.rate_per_s,
        "slowed": row.slowed,
        "incident_at": row.incident_at,
    }


# --- parts --------------------------------------------------------------------------------------------------------------


def allowed(conn: Connection, tenant_id: str, now: datetime) -> tuple[str, ...]:
    """What the clinic's mode lets go; the share lock keeps it so until this transaction ends."""
    query = select(_MODE).where(_MODE.c.scope.in_([GLOBAL_SCOPE, tenant_id])).with_for_update(read=True)
    rows = {row.scope: row for row in conn.execute(query)}
    return _causes(rows.get(GLOBAL_SCOPE), rows.get(tenant_id), now)


def _open_drain(conn: Connection, tenant_id: str) -> Row[Any] | None:
    """The open drain, locked: the steps of one clinic take turns on it, whatever node they run on."""
    query = select(_DRAIN).where(_DRAIN.c.tenant_id == tenant_id, _DRAIN.c.ended_at.is_(None)).with_for_update()
    return conn.execute(query).first()


def _begin(conn: Connection, tenant_id: str, drain_id: str, now: datetime, policy: DrainPolicy) -> None:
    backlog = _backlog(conn, tenant_id)
    pace = begin(backlog, now, policy)
    row = {
        "drain_id": drain_id,
        "tenant_id": tenant_id,
        "started_at": now,
        "parked_at_start": backlog,
        "rate_per_s": pace.rate_per_s,
        "tokens": float(pace.tokens),
        "filled_at": now,
        "backlog": backlog,
        "looked_at": now,
    }
    insert_rows(conn, _DRAIN, [row], ignore_conflicts=True)


def _end(conn: Connection, drain_id: str, outcome: str, now: datetime) -> None:
    conn.execute(update(_DRAIN).where(_DRAIN.c.drain_id == drain_id).values(ended_at=now, outcome=outcome))


def _pace(row: Row[Any]) -> Pace:
    return Pace(
        rate_per_s=row.rate_per_s,
        tokens=row.tokens,
        filled_at=row.filled_at,
        backlog=row.backlog,
        looked_at=row.looked_at,
        released_since=row.released_since,
        growing=row.growing,
        slowed=row.slowed,
    )


def _backlog(conn: Connection, tenant_id: str) -> int:
    """Commands that were parked and have no result yet, outside lanes that a person paused or a batch has."""
    same = and_(_LANE.c.tenant_id == _COMMAND.c.tenant_id, _LANE.c.contact_id == _COMMAND.c.contact_id)
    query = (
        select(func.count())
        .select_from(_COMMAND.join(_LANE, same))
        .where(
            _COMMAND.c.tenant_id == tenant_id,
            _COMMAND.c.done_at.is_(None),
            _COMMAND.c.was_parked,
            _LANE.c.paused_at.is_(None),
            _LANE.c.replay_id.is_(None),
        )
    )
    return int(conn.execute(query).scalar_one())


def _next_lanes(conn: Connection, tenant_id: str, causes: Sequence[str], tokens: float) -> list[_ParkedLane]:
    """The most urgent lanes that the tokens pay for, oldest first inside a class; the last one may cost more than is left.

    Without ageing, unlike dispatch: after an hour of contingency every lane has aged to the highest class.
    """
    if tokens < 1:
        return []
    best = case((_LANE.c.wait_0 > 0, 0), (_LANE.c.wait_1 > 0, 1), (_LANE.c.wait_2 > 0, 2), else_=3)
    query = (
        select(_LANE.c.contact_id, _LANE.c.blocked_by, _LANE.c.waiting)
        .where(_LANE.c.tenant_id == tenant_id, _parked(causes))
        .order_by(best, _LANE.c.ready_since, _LANE.c.contact_id)
        .limit(LANES_PER_STEP)
    )
    chosen = []
    for row in conn.execute(query):
        if tokens < 1:
            break
        chosen.append(_ParkedLane(row.contact_id, row.blocked_by, row.waiting))
        tokens -= row.waiting
    return chosen


def _open_lanes(conn: Connection, tenant_id: str, lanes: Sequence[_ParkedLane]) -> set[str]:
    """Open the lanes that are still parked; returns their contacts."""
    rows = [
        {
            "tenant_id": tenant_id,
            "contact_id": lane.contact_id,
            "was_blocked_by": lane.blocked_by,
            "blocked_by": None,
            "blocked_since": None,
            "not_before": None,
        }
        for lane in sorted(lanes, key=lambda lane: lane.contact_id)
    ]
    matched = update_rows(
        conn,
        _LANE,
        rows,
        keys=("tenant_id", "contact_id"),
        in_order=True,
        assign=("blocked_by", "blocked_since", "not_before"),
        guard="t.blocked_by = r.was_blocked_by AND t.replay_id IS NULL AND t.paused_at IS NULL",
    )
    return {str(contact_id) for _, contact_id in matched}
