"""What the API and the console say about safe mode: state, causes, gates, window, drain, past episodes."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from app.domain.green_window import WindowPolicy, expire, green_for
from app.domain.states import SENSITIVE, ModeState
from app.store.episodes import acks_of, causes_of, checklist_of, last_episode, missing_of, open_episode, parked, window_of
from app.store.health import checks_for, newest
from app.store.lanes import GLOBAL_SCOPE, merge_modes
from app.store.tables import ModeRow, SafeEpisode, table

_MODE, _EPISODE = table(ModeRow), table(SafeEpisode)
_STRICTEST: Final = (ModeState.SAFE_MODE_ACTIVE, ModeState.RECOVERING, ModeState.DRAINING, ModeState.NORMAL)


def state_of(mode: Row[Any] | None, now: datetime) -> ModeState:
    """The state of one scope as it holds now: a deadline that passed counts though nobody wrote it down yet."""
    merged = merge_modes(mode, None)
    if merged.state is not ModeState.RECOVERING and merged.safe_mode_blocks(now):
        return ModeState.SAFE_MODE_ACTIVE
    return merged.state


def modes(conn: Connection, scopes: list[str] | None = None) -> dict[str, Row[Any]]:
    """Mode rows by scope; None = all."""
    query = select(_MODE) if scopes is None else select(_MODE).where(_MODE.c.scope.in_(scopes))
    return {row.scope: row for row in conn.execute(query)}


def strictest(conn: Connection, tenant_id: str | None, now: datetime) -> str:
    """The scope that decides for a tenant (its own, or `global` where that is stricter); without a tenant the strictest of all.

    Where all is normal it is the one that was in safe mode last: its last exit is what somebody asks about.
    """
    scopes = None if tenant_id is None else [GLOBAL_SCOPE, tenant_id]
    found = strictest_of(conn, scopes, tenant_id or GLOBAL_SCOPE, now)
    if state_of(modes(conn, [found]).get(found), now) is ModeState.NORMAL:
        last = episodes(conn, scopes, 1)
        return str(last[0].scope) if last else found
    return found


def strictest_of(conn: Connection, scopes: list[str] | None, first: str, now: datetime) -> str:
    """The strictest of some scopes (None = all); `first` wins a tie."""
    order = {scope: _STRICTEST.index(state_of(row, now)) for scope, row in modes(conn, scopes).items()}
    return min(order, key=lambda s: (order[s], s != first, s), default=first)


def overview(conn: Connection, scope: str, policy: WindowPolicy, now: datetime) -> dict[str, Any]:
    """The answer of `GET /api/v1/safe-mode` for one scope."""
    mode = modes(conn, [scope]).get(scope)
    state = state_of(mode, now)
    episode = open_episode(conn, scope)
    last = episode or last_episode(conn, scope)
    since = mode.since or mode.safe_deadline if mode is not None and state is not ModeState.NORMAL else None
    return {
        "state": state,
        "scope": scope,
        "since": _iso(since),
        "reason": mode.reason if mode is not None and state is not ModeState.NORMAL else None,
        "episode_id": episode.episode_id if episode is not None else None,
        "causes": _causes(conn, episode),
        "blocked_types": sorted(SENSITIVE) if merge_modes(mode, None).safe_mode_blocks(now) else [],
        "parked": parked(conn, scope),
        "recovery": _recovery(episode),
        "missing": list(missing_of(conn, episode)) if episode is not None else [],
        "health_window": window(conn, episode, policy, now),
        "reentries": episode.reentries if episode is not None else 0,
        "released": episode.released if episode is not None else 0,
        "last_exit_result": last.exit_result if last is not None else None,
        "last_exit_reason": last.exit_reason if last is not None else None,
    }


def _causes(conn: Connection, episode: Row[Any] | None) -> list[dict[str, Any]]:
    if episode is None:
        return []
    acks = acks_of(conn, episode.episode_id)
    return [
        {
            "cause_id": row.cause_id,
            "kind": row.kind,
            "alert_id": row.cause_id if row.kind == "alert" else None,
            "summary": row.summary,
            "at": _iso(row.at),
            "acknowledged": acks.get(row.cause_id, True),
        }
        for row in causes_of(conn, episode.episode_id)
    ]


def _recovery(episode: Row[Any] | None) -> dict[str, Any] | None:
    if episode is None:
        return None
    return {
        "rev": episode.rev,
        "action": episode.recovery_action,
        "runbook_step": episode.runbook_step,
        "by": episode.recovery_by,
        "at": _iso(episode.recovery_at),
        "checklist": asdict(checklist_of(episode)),
    }


def window(conn: Connection, episode: Row[Any] | None, policy: WindowPolicy, now: datetime) -> dict[str, Any]:
    """How far the green window has come, what last set it back, and every check as it was last seen."""
    shown: dict[str, Any] = {
        "green_since": None,
        "green_s": 0.0,
        "needed_s": policy.needed.total_seconds(),
        "reset_at": None,
        "reset_by": None,
        "reset_after_s": None,
        "checks": checks(conn, policy, now, episode.scope if episode is not None else None),
    }
    if episode is not None:
        current = expire(window_of(episode), now, policy)
        shown |= {
            "green_since": _iso(current.green_since),
            "green_s": round(green_for(current, now, policy).total_seconds(), 1),
            "reset_at": _iso(current.reset_at),
            "reset_by": current.reset_by,
            "reset_after_s": current.reset_after_s,
        }
    return shown


def checks(conn: Connection, policy: WindowPolicy, now: datetime, scope: str | None = None) -> list[dict[str, Any]]:
    """Every check of the window: red when any node saw it red, `missing` when no node looked lately.

    With the scope of an open episode as they count for it, else as they are about everybody.
    """
    found: dict[str, dict[str, Any]] = {}
    # a look while all is well is rarer than one in safe mode
    for sample in newest(conn, now - max(policy.gap_max, timedelta(minutes=1))):
        for name, check in checks_for(sample, scope).items():
            known = found.get(name)
            if known is None or (known["status"] == "green" and not check["green"]):
                found[name] = {
                    "name": name,
                    "status": "green" if check["green"] else "red",
                    "detail": check.get("detail"),
                    "at": _iso(sample.at),
                    "node_id": sample.node_id,
                }
    for name in policy.checks - found.keys():
        found[name] = {"name": name, "status": "missing", "detail": None, "at": None, "node_id": None}
    return [found[name] for name in sorted(found)]


def episodes(conn: Connection, scopes: list[str] | None, limit: int) -> list[Row[Any]]:
    """Newest episodes first; `scopes` None = all."""
    query = select(_EPISODE).order_by(_EPISODE.c.written_at.desc(), _EPISODE.c.episode_id.desc()).limit(limit)
    if scopes is not None:
        query = query.where(_EPISODE.c.scope.in_(scopes))
    return list(conn.execute(query))


def episode(conn: Connection, episode_id: str) -> Row[Any] | None:
    """One episode."""
    return conn.execute(select(_EPISODE).where(_EPISODE.c.episode_id == episode_id)).first()


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
