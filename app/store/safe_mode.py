"""Entering safe mode, recording the recovery, and asking for the exit: each one transaction.

Whether commands are blocked is decided by `mode` alone, read in the effect's transaction; what happens here makes it visible
and is the only way out. The window and the drain that follow an exit are in `store.stabilisation`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, or_, select, update

from app.domain.green_window import NEW_CAUSE, expire, start_over
from app.domain.safe_mode import ExitAnswer, ModeEvent, SafeModeResult, attempt_exit, is_reentry, step
from app.domain.states import ModeState
from app.errors import Conflict
from app.ids import new_id
from app.store.alerts import raise_alert
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.critical_tickets import tickets_in_recovery
from app.store.episodes import (
    ALERT,
    MANUAL,
    STORES_DOWN,
    SafeModePolicy,
    causes_of,
    checklist_of,
    gates_of,
    last_episode,
    lock,
    open_episode,
    patch,
    set_state,
    system,
    tenant_of,
    window_of,
)
from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.people import By
from app.store.safe_story import SYSTEM, taken_on, tell, tell_ack
from app.store.stabilisation import red_now, start_drain
from app.store.tables import Alert, ModeRow, SafeCause, SafeEpisode, table

_ALERT, _MODE, _EPISODE, _CAUSE = table(Alert), table(ModeRow), table(SafeEpisode), table(SafeCause)

LOOK_BACK: Final = timedelta(days=30)
"""A deadline that passed longer ago is history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why safe mode is entered. `kind` is alert (then `cause_id` is the alert's id), manual or stores_down."""

    cause_id: str
    kind: str
    summary: str
    at: datetime
    """Since when safe mode holds because of it."""
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an entry did: `fresh` = a new episode, `reentered` = thrown back out of a recovery or drain."""

    episode_id: str
    fresh: bool
    reentered: bool


# --- entry --------------------------------------------------------------------------------------------------------------


def enter(conn: Connection, scope: str, causes: Sequence[Cause], by: By) -> Entry:
    """Enter safe mode, or add causes to the episode that is open; a recovery or drain is thrown back.

    A new cause closes the gates again: a repair, ticks and green minutes from before say nothing about what happened since.
    """
    mode = lock(conn, scope)
    state, episode = ModeState(mode.state), open_episode(conn, scope)
    since = min((c.at for c in causes), default=by.now)
    reason = "; ".join(dict.fromkeys(c.summary for c in causes))[:500]
    fresh = episode is None
    if episode is None:
        episode_id = new_id()
        row = {
            "episode_id": episode_id,
            "scope": scope,
            "entered_at": since,
            "written_at": by.now,
            "entered_by": by.actor[:200],
            "correlation_id": by.correlation_id or f"safe-mode-{episode_id}",
        }
        insert_rows(conn, _EPISODE, [row])
        tell(conn, episode_id, "entered", by.now, actor=by.actor, detail=reason)
    else:
        episode_id = episode.episode_id
    new = _add_causes(conn, episode_id, causes, by, told=fresh)
    if episode is not None and new:
        _close_gates(conn, episode, by)
    reentered = is_reentry(state, ModeEvent.ENTER) and bool(new)
    if fresh or reentered:
        after = step(state, ModeEvent.ENTER) or ModeState.SAFE_MODE_ACTIVE
        values = {"since": since, "reason": reason} if fresh else {"reason": _reason(conn, episode_id)}
        set_state(conn, mode, after, by, why=reason, **values)
    elif new:
        conn.execute(update(_MODE).where(_MODE.c.scope == scope).values(reason=_reason(conn, episode_id)))
        append(
            conn,
            chain=scope,
            actor=by.actor,
            action="safe_mode.cause",
            object=f"safe_episode/{episode_id}",
            after={"causes": [c.cause_id for c in new]},
            reason=reason,
            origin=by.origin,
            correlation_id=by.correlation_id,
            now=by.now,
        )
        publish(conn, tenant_of(scope), "safe_mode", [scope], by.now)
    if reentered:
        assert episode is not None
        patch(conn, episode, reentries=episode.reentries + 1, draining_since=None, exit_result=None, exit_reason=None)
        tell(conn, episode_id, "reentered", by.now, actor=by.actor, detail=reason)
    return Entry(episode_id=episode_id, fresh=fresh, reentered=reentered)


def _add_causes(conn: Connection, episode_id: str, causes: Sequence[Cause], by: By, *, told: bool) -> list[Cause]:
    """Add the causes that the episode does not have yet; returns them."""
    known = {row.cause_id for row in causes_of(conn, episode_id)}
    new = [c for c in causes if c.cause_id not in known]
    rows = [
        {
            "episode_id": episode_id,
            "cause_id": c.cause_id,
            "kind": c.kind,
            "summary": c.summary[:500],
            "at": c.at,
            "by": by.actor[:200],
        }
        for c in new
    ]
    insert_rows(conn, _CAUSE, rows, ignore_conflicts=True)
    if not told:
        for cause in new:
            tell(conn, episode_id, "cause_added", by.now, actor=by.actor, detail=cause.summary)
    for alert in taken_on(conn, [c.cause_id for c in new if c.kind == ALERT]):
        tell_ack(conn, episode_id, alert, alert.acked_by, alert.acked_at)
    return new


def _close_gates(conn: Connection, episode: Row[Any], by: By) -> None:
    """Gates (b), (c) and (d) from the beginning; the story keeps what was done for the causes before."""
    window = start_over(window_of(episode), by.now, NEW_CAUSE)
    patch(
        conn,
        episode,
        recovery_action=None,
        runbook_step=None,
        recovery_by=None,
        recovery_at=None,
        checklist_json="{}",
        rev=episode.rev + 1,
        **asdict(window),
    )
    if episode.recovery_action or episode.checklist_json != "{}" or episode.green_since is not None:
        tell(conn, episode.episode_id, "gates_closed", by.now)


def _reason(conn: Connection, episode_id: str) -> str:
    return "; ".join(dict.fromkeys(row.summary for row in causes_of(conn, episode_id)))[:500]


def overdue(conn: Connection, now: datetime) -> dict[str, list[Cause]]:
    """By scope the critical alerts whose deadline passed without an ACK and that no episode knows: safe mode holds by them.

    An ACK or an end after the deadline does not take them away: what they did is written down though nobody looked in time.
    """
    a = _ALERT.c
    known = select(_CAUSE.c.cause_id).where(_CAUSE.c.cause_id == a.alert_id).exists()
    query = select(_ALERT).where(
        a.safe_mode_at.is_not(None),
        a.safe_mode_at <= now,
        a.safe_mode_at > now - LOOK_BACK,
        or_(a.acked_at.is_(None), a.acked_at >= a.safe_mode_at),
        or_(a.resolved_at.is_(None), a.resolved_at >= a.safe_mode_at),
        ~known,
    )
    found: dict[str, list[Cause]] = {}
    for row in conn.execute(query.order_by(a.safe_mode_at, a.alert_id)):
        cause = Cause(
            cause_id=row.alert_id, kind=ALERT, summary=row.summary, at=row.safe_mode_at, correlation_id=row.correlation_id
        )
        found.setdefault(row.scope, []).append(cause)
    return found


def enter_overdue(conn: Connection, scope: str, now: datetime) -> Entry | None:
    """Enter by the alerts of a scope that are overdue now; None when another node did, or an ACK came in time after all."""
    lock(conn, scope)
    causes = overdue(conn, now).get(scope)
    if not causes:
        return None
    return enter(conn, scope, causes, system(now, causes[0].correlation_id))


def enter_stores_down(conn: Connection, since: datetime, now: datetime) -> Entry:
    """Enter for everybody because Redis and database were both silent: nobody knows what was on its way then.

    The critical alert that goes with it is a cause too: the exit needs its ACK.
    """
    summary = "Redis and the database were both down; nothing was applied."
    key = f"stores-down-{since:%Y%m%dT%H%M%S}"
    lock(conn, GLOBAL_SCOPE)
    raised = raise_alert(
        conn,
        tenant_id=None,
        trigger="stores_down",
        severity="critical",
        summary=summary,
        dedup_key=key,
        correlation_id=None,
        now=now,
        raised_by=SYSTEM,
    )
    causes = [
        Cause(cause_id=key, kind=STORES_DOWN, summary=summary, at=now),
        Cause(cause_id=raised.alert_id, kind=ALERT, summary=summary, at=now),
    ]
    return enter(conn, GLOBAL_SCOPE, causes, system(now))


def enter_by_hand(conn: Connection, scope: str, reason: str, by: By) -> Entry:
    """A superadmin's entry; where it is on already, one more cause, and the same reason again changes nothing."""
    enter_overdue(conn, scope, by.now)  # what holds already comes first, with its own beginning
    mode, episode = lock(conn, scope), open_episode(conn, scope)
    if mode.state == ModeState.SAFE_MODE_ACTIVE and episode is not None:
        said = {row.summary for row in causes_of(conn, episode.episode_id) if row.kind == MANUAL}
        if reason[:500] in said:
            return Entry(episode_id=episode.episode_id, fresh=False, reentered=False)
    cause = Cause(cause_id=f"manual-{new_id()}", kind=MANUAL, summary=reason, at=by.now)
    return enter(conn, scope, [cause], by)


# --- recovery and exit --------------------------------------------------------------------------------------------------


def record_recovery(
    conn: Connection,
    scope: str,
    by: By,
    *,
    action: str | None = None,
    runbook_step: str | None = None,
    checklist: Mapping[str, bool] | None = None,
    rev: int | None = None,
) -> Row[Any]:
    """Gates (b) and (c): what was done, by which step of which runbook, and the ticks; what is None stays as it is.

    The green window starts anew with a new action: health before a repair proves nothing about the repair. `rev` is the
    episode's as the person saw it. Raises Conflict where there is no safe mode, or when the episode has changed since.
    """
    lock(conn, scope)
    episode = _episode_now(conn, scope, by.now)
    if episode is None:
        raise Conflict("Safe mode is not on.")
    if rev is not None and rev != episode.rev:
        raise Conflict("Recovery or causes have changed since you looked; nothing was saved.")
    ticks = asdict(replace(checklist_of(episode), **(checklist or {})))
    values: dict[str, Any] = {"checklist_json": msgspec.json.encode(ticks).decode(), "rev": episode.rev + 1}
    if action is not None:
        values |= {"recovery_action": action[:1000], "recovery_by": by.actor[:200], "recovery_at": by.now}
    if runbook_step is not None:
        values["runbook_step"] = runbook_step[:200]
    if action is not None and action != episode.recovery_action:
        values |= {"green_since": None, "reset_at": None, "reset_by": None, "reset_after_s": None}
    patch(conn, episode, **values)
    if ticks["ticket_in_recovery"]:
        tickets_in_recovery(conn, episode.episode_id, by.now)
    detail = " · ".join(part for part in (action, runbook_step) if part) or None
    tell(conn, episode.episode_id, "recovery_recorded" if action else "checklist_ticked", by.now, actor=by.actor, detail=detail)
    append(
        conn,
        chain=scope,
        actor=by.actor,
        action="safe_mode.recovery",
        object=f"safe_episode/{episode.episode_id}",
        before={"action": episode.recovery_action, "checklist": asdict(checklist_of(episode))},
        after={"action": action or episode.recovery_action, "runbook_step": runbook_step, "checklist": ticks},
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    publish(conn, tenant_of(scope), "safe_mode", [scope], by.now)
    found = open_episode(conn, scope)
    assert found is not None
    return found


def _episode_now(conn: Connection, scope: str, now: datetime) -> Row[Any] | None:
    """The open episode; written down here where safe mode holds by its deadline and the loop could not write it yet."""
    episode = open_episode(conn, scope)
    if episode is None and enter_overdue(conn, scope, now) is not None:
        episode = open_episode(conn, scope)
    return episode


def ask_exit(conn: Connection, scope: str, policy: SafeModePolicy, by: By) -> ExitAnswer:
    """An attempt to leave: denied with what is missing, aborted by red health, or the window decides from now on.

    Raises Conflict where there never was anything to leave.
    """
    lock(conn, scope)
    episode = _episode_now(conn, scope, by.now)
    mode = lock(conn, scope)
    if episode is None:
        return _answer_of_last(conn, scope)
    state = ModeState(mode.state)
    if state is ModeState.DRAINING:
        return ExitAnswer(result=SafeModeResult.SAFE_MODE_EXIT_COMPLETED)
    window = expire(window_of(episode), by.now, policy.window)
    answer = attempt_exit(state, gates_of(conn, episode), window, by.now, policy.window)
    values: dict[str, Any] = {"exit_asked_at": by.now, "exit_asked_by": by.actor[:200]}
    if answer.result is SafeModeResult.SAFE_MODE_EXIT_DENIED_MISSING_CHECKLIST:
        _finish_attempt(conn, mode, episode, answer, ", ".join(answer.missing), by, values)
        return answer
    red = red_now(conn, scope, by.now, policy.window)
    if red:
        answer = ExitAnswer(result=SafeModeResult.SAFE_MODE_EXIT_ABORTED_HEALTH_UNSTABLE, reason=", ".join(red))
        _finish_attempt(conn, mode, episode, answer, answer.reason or "", by, values)
        return answer
    if answer.event is ModeEvent.GATES_COMPLETE:
        set_state(conn, mode, ModeState.RECOVERING, by, why="all gates but the green window are there")
        patch(conn, episode, **values, exit_result=None, exit_reason=None)
        tell(conn, episode.episode_id, "exit_started", by.now, actor=by.actor)
        mode = lock(conn, scope)
        answer = attempt_exit(ModeState.RECOVERING, gates_of(conn, episode), window, by.now, policy.window)
    if answer.event is ModeEvent.WINDOW_GREEN:
        start_drain(conn, mode, episode, by)
    return answer


def _finish_attempt(
    conn: Connection, mode: Row[Any], episode: Row[Any], answer: ExitAnswer, why: str, by: By, values: Mapping[str, Any]
) -> None:
    """Keep an attempt that failed: in the episode, the story and the audit trail."""
    patch(conn, episode, **values, exit_result=answer.result, exit_reason=why[:500])
    denied = answer.result is SafeModeResult.SAFE_MODE_EXIT_DENIED_MISSING_CHECKLIST
    tell(conn, episode.episode_id, "exit_denied" if denied else "exit_aborted", by.now, actor=by.actor, detail=why)
    append(
        conn,
        chain=mode.scope,
        actor=by.actor,
        action="safe_mode.exit",
        object=f"safe_episode/{episode.episode_id}",
        after={"result": answer.result, "missing": list(answer.missing)},
        reason=why,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    publish(conn, tenant_of(mode.scope), "safe_mode", [mode.scope], by.now)


def _answer_of_last(conn: Connection, scope: str) -> ExitAnswer:
    last = last_episode(conn, scope)
    if last is None or last.exit_result is None:
        raise Conflict("Safe mode is not on.")
    return ExitAnswer(result=SafeModeResult(last.exit_result))
