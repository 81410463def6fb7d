"""The way out of safe mode: the green window over health samples, and the drain of what was parked."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, case, select

from app.domain.green_window import Sample, Window, WindowPolicy, expire, failing, observe
from app.domain.safe_mode import DrainPolicy, ModeEvent, SafeModeResult, attempt_exit, drain_allowance, on_reset
from app.domain.states import ModeState
from app.store import evidence
from app.store.alerts import reset_deadline
from app.store.bulk import update_rows
from app.store.critical_tickets import close_tickets
from app.store.episodes import (
    PARKED,
    SafeModePolicy,
    gates_of,
    lock,
    open_episode,
    parked,
    patch,
    set_state,
    system,
    tenant_of,
    window_of,
)
from app.store.events import publish
from app.store.health import checks_for
from app.store.lanes import GLOBAL_SCOPE, merge_modes
from app.store.people import By
from app.store.safe_story import tell
from app.store.tables import HealthSample, Lane, ModeRow, Tenant, table

_MODE, _SAMPLE, _LANE, _TENANT = table(ModeRow), table(HealthSample), table(Lane), table(Tenant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one look at an open episode came to."""

    state: ModeState
    episode_id: str = ""
    changed: bool = False
    released: int = 0
    reentered: bool = False
    result: SafeModeResult | None = None
    reason: str | None = None


# --- the window and the drain -------------------------------------------------------------------------------------------


def advance(conn: Connection, scope: str, policy: SafeModePolicy, now: datetime) -> Progress:
    """Look at an open episode: fold new samples into its window, and take the step that follows from them."""
    mode = lock(conn, scope)
    episode = open_episode(conn, scope)
    state = ModeState(mode.state)
    if episode is None:
        return Progress(state=state)
    by = system(now, episode.correlation_id)
    window, red = _fold(conn, mode, episode, policy.window, now)
    if red:
        verdict = on_reset(state, window, red)
        if verdict.event is ModeEvent.HEALTH_RED:
            return _throw_back(conn, mode, episode, verdict.reason or ", ".join(red), by)
        return Progress(state=state)
    if state is ModeState.RECOVERING:
        answer = attempt_exit(state, gates_of(conn, episode), window, now, policy.window)
        if answer.event is ModeEvent.WINDOW_GREEN:
            start_drain(conn, mode, episode, by)
            return Progress(state=ModeState.DRAINING, changed=True, result=answer.result)
    if state is ModeState.DRAINING and window.last_at is not None and now - window.last_at <= policy.window.gap_max:
        return _drain(conn, mode, episode, policy.drain, by)
    return Progress(state=state)


def _fold(conn: Connection, mode: Row[Any], episode: Row[Any], policy: WindowPolicy, now: datetime) -> tuple[Window, list[str]]:
    """The window with every sample since; and what is red in those that counted."""
    before = window_of(episode)
    start = max(episode.entered_at, before.last_at - policy.gap_max) if before.last_at else episode.entered_at
    if episode.recovery_at is not None and episode.recovery_at <= now:
        start = max(start, episode.recovery_at)
    window, red = before, set[str]()
    for sample in samples(conn, mode.scope, start, now):
        after = observe(window, sample, policy)
        if after != window:
            red.update(failing(sample, policy))
        window = after
    window = expire(window, now, policy)
    if window != before:
        patch(
            conn,
            episode,
            green_since=window.green_since,
            last_at=window.last_at,
            reset_at=window.reset_at,
            reset_by=window.reset_by,
            reset_after_s=window.reset_after_s,
        )
    if window.reset_at != before.reset_at:
        tell(conn, episode.episode_id, "window_reset", now, detail=f"{window.reset_by} · {window.reset_after_s or 0:.0f}")
    if window.last_at != before.last_at:
        publish(conn, tenant_of(mode.scope), "health", [mode.scope], now)
    if (window.reset_at, window.green_since) != (before.reset_at, before.green_since):
        publish(conn, tenant_of(mode.scope), "safe_mode", [mode.scope], now)
    return window, sorted(red)


def samples(conn: Connection, scope: str, after: datetime, until: datetime) -> list[Sample]:
    """Health samples taken after a moment, as they count for a scope, oldest first."""
    query = select(_SAMPLE).where(_SAMPLE.c.at > after, _SAMPLE.c.at <= until).order_by(_SAMPLE.c.at, _SAMPLE.c.position)
    found = []
    for row in conn.execute(query):
        checks = checks_for(row, scope)
        found.append(Sample(at=row.at, checks={name: bool(check["green"]) for name, check in checks.items()}))
    return found


def red_now(conn: Connection, scope: str, now: datetime, policy: WindowPolicy) -> list[str]:
    """What the newest samples say is red for a scope; empty also when there are none."""
    found = samples(conn, scope, now - policy.gap_max, now)
    return sorted(failing(found[-1], policy)) if found else []


def _throw_back(conn: Connection, mode: Row[Any], episode: Row[Any], why: str, by: By) -> Progress:
    """Red inside the window or the drain: back to active, counted."""
    set_state(conn, mode, ModeState.SAFE_MODE_ACTIVE, by, why=why)
    result = SafeModeResult.SAFE_MODE_EXIT_ABORTED_HEALTH_UNSTABLE
    patch(
        conn,
        episode,
        reentries=episode.reentries + 1,
        exit_result=result,
        exit_reason=why[:500],
        draining_since=None,
        green_since=None,
    )
    tell(conn, episode.episode_id, "exit_aborted" if mode.state == ModeState.RECOVERING else "reentered", by.now, detail=why)
    return Progress(
        state=ModeState.SAFE_MODE_ACTIVE, episode_id=episode.episode_id, changed=True, reentered=True, result=result, reason=why
    )


def _drain(conn: Connection, mode: Row[Any], episode: Row[Any], policy: DrainPolicy, by: By) -> Progress:
    """Let the next lanes go, the most urgent first; with none left the episode ends."""
    if _blocked_elsewhere(conn, mode.scope, by.now):
        return Progress(state=ModeState.DRAINING)
    allowed = drain_allowance(episode.released_at or episode.draining_since or by.now, by.now, policy)
    waiting = _parked_lanes(conn, mode.scope, by.now, max(allowed, 1))
    if not waiting:
        set_state(conn, mode, ModeState.NORMAL, by, why="everything that was parked has left", since=None, reason=None)
        patch(conn, episode, ended_at=by.now)
        close_tickets(conn, episode.episode_id, by.now)
        evidence.ended(conn, tenant_of(episode.scope), "safe_mode", episode.episode_id, by.now)
        tell(conn, episode.episode_id, "drained", by.now, detail=str(episode.released))
        return Progress(state=ModeState.NORMAL, changed=True)
    if allowed < 1:
        return Progress(state=ModeState.DRAINING)
    freed = update_rows(
        conn,
        _LANE,
        [{"tenant_id": t, "contact_id": c} for t, c in waiting],
        keys=("tenant_id", "contact_id"),
        in_order=True,
        expressions={"blocked_by": "NULL", "blocked_since": "NULL", "not_before": "NULL"},
        guard=f"t.blocked_by = '{PARKED}'",
    )
    patch(conn, episode, released_at=by.now, released=episode.released + len(freed))
    publish(conn, tenant_of(mode.scope), "safe_mode", [mode.scope], by.now)
    return Progress(state=ModeState.DRAINING, released=len(freed))


def _blocked_elsewhere(conn: Connection, scope: str, now: datetime) -> bool:
    """Whether a tenant's drain has to wait because safe mode holds everywhere."""
    if scope == GLOBAL_SCOPE:
        return False
    everywhere = conn.execute(select(_MODE).where(_MODE.c.scope == GLOBAL_SCOPE)).first()
    return merge_modes(everywhere, None).safe_mode_blocks(now)


def _parked_lanes(conn: Connection, scope: str, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Parked lanes that this scope's drain may free, most urgent first, oldest first among equals."""
    best = case((_LANE.c.wait_0 > 0, 0), (_LANE.c.wait_1 > 0, 1), (_LANE.c.wait_2 > 0, 2), else_=3)
    query = select(_LANE.c.tenant_id, _LANE.c.contact_id).where(
        _LANE.c.waiting > 0,
        _LANE.c.blocked_by == PARKED,
        _LANE.c.paused_at.is_(None),  # a person, or a replay batch, has the others; `store.drain` frees them afterwards
        _LANE.c.replay_id.is_(None),
    )
    if scope == GLOBAL_SCOPE:
        rows = conn.execute(select(_MODE).where(_MODE.c.scope != GLOBAL_SCOPE))
        own = [row.scope for row in rows if merge_modes(row, None).safe_mode_blocks(now)]
        query = query.where(_LANE.c.tenant_id.in_(select(_TENANT.c.tenant_id)), _LANE.c.tenant_id.not_in(own))
    else:
        query = query.where(_LANE.c.tenant_id == scope)
    query = query.order_by(best, _LANE.c.ready_since, _LANE.c.tenant_id, _LANE.c.contact_id).limit(limit)
    return [(row.tenant_id, row.contact_id) for row in conn.execute(query)]


def start_drain(conn: Connection, mode: Row[Any], episode: Row[Any], by: By) -> None:
    """The window is complete: sensitive commands may happen again, parked ones leave little by little."""
    # alerts that did not cause this episode go on counting
    reset_deadline(conn, mode.scope, by.now)
    set_state(conn, mode, ModeState.DRAINING, by, why="green for the whole window")
    patch(
        conn,
        episode,
        exit_result=SafeModeResult.SAFE_MODE_EXIT_COMPLETED,
        exit_reason=None,
        draining_since=by.now,
        released_at=None,
        released=0,
    )
    waiting = str(parked(conn, mode.scope))
    tell(conn, episode.episode_id, "exit_completed", by.now, actor=by.actor, detail=waiting)
