"""Episodes of safe mode as rows: causes, gates, story; and the one way to change a scope's state.

A scope is a tenant's id, or `global`. Every change locks the scope's `mode` row first (`lock`), so steps of one scope take
turns on any number of nodes, and an effect never commits beside a change of its mode. Every change of state raises the
epoch, so whatever was decided under the old state is not written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, func, select, update

from app.domain.green_window import Window, WindowPolicy
from app.domain.safe_mode import Checklist, DrainPolicy, Gates, missing
from app.domain.states import ModeState
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.people import By
from app.store.safe_story import SYSTEM
from app.store.tables import Alert, Lane, ModeRow, SafeCause, SafeEpisode, SafeStep, Tenant, table

_MODE, _EPISODE, _CAUSE, _STEP = table(ModeRow), table(SafeEpisode), table(SafeCause), table(SafeStep)
_ALERT, _LANE, _TENANT = table(Alert), table(Lane), table(Tenant)

ALERT, MANUAL, STORES_DOWN = "alert", "manual", "stores_down"
"""Kinds of causes."""
PARKED: Final = "safe_mode"
"""`lane.blocked_by` of a lane that safe mode parked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeModePolicy:
    """Numbers of the exit."""

    window: WindowPolicy
    drain: DrainPolicy = field(default_factory=DrainPolicy)


# --- rows ---------------------------------------------------------------------------------------------------------------


def ensure_modes(conn: Connection, tenant_ids: Sequence[str]) -> None:
    """A mode row for every scope, so that an effect always has a row to share-lock."""
    insert_rows(conn, _MODE, [{"scope": s} for s in sorted({GLOBAL_SCOPE, *tenant_ids})], ignore_conflicts=True)


def lock(conn: Connection, scope: str) -> Row[Any]:
    """The scope's mode row, locked until the commit."""
    ensure_modes(conn, [scope])
    query = select(_MODE).where(_MODE.c.scope == scope)
    return conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).one()


def open_episode(conn: Connection, scope: str) -> Row[Any] | None:
    """The scope's episode that has not ended."""
    return conn.execute(select(_EPISODE).where(_EPISODE.c.scope == scope, _EPISODE.c.ended_at.is_(None))).first()


def open_scopes(conn: Connection) -> list[str]:
    """Scopes with an open episode, sorted."""
    return sorted(conn.execute(select(_EPISODE.c.scope).where(_EPISODE.c.ended_at.is_(None))).scalars())


def open_flows(conn: Connection) -> dict[str, tuple[str, str]]:
    """Scope with an open episode -> (episode, correlation id), sorted."""
    query = select(_EPISODE.c.scope, _EPISODE.c.episode_id, _EPISODE.c.correlation_id).where(_EPISODE.c.ended_at.is_(None))
    return {row.scope: (row.episode_id, row.correlation_id) for row in conn.execute(query.order_by(_EPISODE.c.scope))}


def causes_of(conn: Connection, episode_id: str) -> list[Row[Any]]:
    """Causes of an episode, oldest first."""
    query = select(_CAUSE).where(_CAUSE.c.episode_id == episode_id).order_by(_CAUSE.c.at, _CAUSE.c.cause_id)
    return list(conn.execute(query))


def steps_of(conn: Connection, episode_id: str) -> list[Row[Any]]:
    """The episode's story, oldest first."""
    return list(conn.execute(select(_STEP).where(_STEP.c.episode_id == episode_id).order_by(_STEP.c.position)))


def window_of(episode: Row[Any]) -> Window:
    """The green window as stored."""
    return Window(
        green_since=episode.green_since,
        last_at=episode.last_at,
        reset_at=episode.reset_at,
        reset_by=episode.reset_by,
        reset_after_s=episode.reset_after_s,
    )


def checklist_of(episode: Row[Any]) -> Checklist:
    """Gate (c) as ticked so far."""
    return Checklist(**msgspec.json.decode(episode.checklist_json))


def gates_of(conn: Connection, episode: Row[Any]) -> Gates:
    """Gates (a) to (c) of an episode as they stand."""
    return Gates(
        acks=acks_of(conn, episode.episode_id),
        recovery_action=episode.recovery_action,
        recovery_by=episode.recovery_by,
        runbook_step=episode.runbook_step,
        checklist=checklist_of(episode),
    )


def acks_of(conn: Connection, episode_id: str) -> Mapping[str, bool]:
    """For every alert that caused the episode: whether it has been acknowledged, in time or late."""
    query = (
        select(_CAUSE.c.cause_id, _ALERT.c.acked_at)
        .outerjoin(_ALERT, _ALERT.c.alert_id == _CAUSE.c.cause_id)
        .where(_CAUSE.c.episode_id == episode_id, _CAUSE.c.kind == ALERT)
    )
    return {row.cause_id: row.acked_at is not None for row in conn.execute(query)}


def last_episode(conn: Connection, scope: str) -> Row[Any] | None:
    """The scope's newest episode, open or ended."""
    query = select(_EPISODE).where(_EPISODE.c.scope == scope).order_by(_EPISODE.c.written_at.desc(), _EPISODE.c.episode_id.desc())
    return conn.execute(query.limit(1)).first()


def parked(conn: Connection, scope: str) -> int:
    """Commands that wait because safe mode parked their lane (those behind them included)."""
    query = select(func.coalesce(func.sum(_LANE.c.waiting), 0)).where(_LANE.c.waiting > 0, _LANE.c.blocked_by == PARKED)
    if scope == GLOBAL_SCOPE:
        query = query.where(_LANE.c.tenant_id.in_(select(_TENANT.c.tenant_id)))
    else:
        query = query.where(_LANE.c.tenant_id == scope)
    return int(conn.execute(query).scalar_one())


def missing_of(conn: Connection, episode: Row[Any]) -> tuple[str, ...]:
    """What the first three gates of an episode still lack."""
    return missing(gates_of(conn, episode))


# --- changing -----------------------------------------------------------------------------------------------------------


def tenant_of(scope: str) -> str | None:
    """The tenant behind a scope; None for all of them."""
    return None if scope == GLOBAL_SCOPE else scope


def patch(conn: Connection, episode: Row[Any], **values: Any) -> None:
    """Change columns of an episode, under its scope's lock."""
    conn.execute(update(_EPISODE).where(_EPISODE.c.episode_id == episode.episode_id).values(**values))


def set_state(conn: Connection, mode: Row[Any], state: ModeState, by: By, *, why: str, **values: Any) -> None:
    """Write the new state under a new epoch, audited and published."""
    conn.execute(update(_MODE).where(_MODE.c.scope == mode.scope).values(state=state, epoch=mode.epoch + 1, **values))
    append(
        conn,
        chain=mode.scope,
        actor=by.actor,
        action=f"safe_mode.{state}",
        object=f"mode/{mode.scope}",
        before={"state": mode.state, "epoch": mode.epoch},
        after={"state": state, "epoch": mode.epoch + 1},
        reason=why,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    publish(conn, tenant_of(mode.scope), "safe_mode", [mode.scope], by.now)
    publish(conn, tenant_of(mode.scope), "queue", [], by.now)


def system(now: datetime, correlation_id: str | None = None) -> By:
    """The loop as the one who acts."""
    return By(actor=SYSTEM, now=now, origin=None, correlation_id=correlation_id)
