"""Signals as people and programs read them: value, limits, level, since, owner, alert, history, and what other limits would do."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, case, func, select

from app.domain.signals import SIGNALS, Signal, SignalLevel, Threshold, carried_forward, clean_limits, limited, preview
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import SettingsDoc, SignalFiring, SignalPoint, SignalRound, SignalStateRow, table
from app.store.views.scope import Scope

_STATE, _POINT, _FIRING, _ROUND = table(SignalStateRow), table(SignalPoint), table(SignalFiring), table(SignalRound)
_DOC = table(SettingsDoc)

PREVIEW: Final = timedelta(days=7)
Limits = Mapping[str, Mapping[str, Mapping[str, float]]]


def limits_of(conn: Connection, scope: str) -> Limits:
    """The thresholds that a scope and the installation set, merged."""
    rows = conn.execute(select(_DOC.c.scope, _DOC.c.data_json).where(_DOC.c.scope.in_([GLOBAL_SCOPE, scope])))
    stored = {row.scope: msgspec.json.decode(row.data_json).get("thresholds") for row in rows}
    return clean_limits(stored.get(GLOBAL_SCOPE), stored.get(scope) if scope != GLOBAL_SCOPE else None)


def looked_at(conn: Connection) -> datetime | None:
    """When the newest look was."""
    found: datetime | None = conn.execute(select(_ROUND.c.looked_at)).scalar()
    return found


def listed(conn: Connection, scope: str) -> list[dict[str, Any]]:
    """Every signal of a clinic, or of the installation (`global`), in the contract's order.

    The installation shows the signals that are its own with their state, and for the clinics' signals the numbers over all
    clinics (`over` says which), how many clinics are at which level, and the highest level.
    """
    limits = limits_of(conn, scope)
    rows = {row.signal: row for row in conn.execute(select(_STATE).where(_STATE.c.scope == scope))}
    summary = _summary(conn)
    return [
        _document(limited(signal, limits), rows.get(name), summary.get(name, {}), scope)
        for name, signal in SIGNALS.items()
        if scope == GLOBAL_SCOPE or not signal.is_global
    ]


def one(conn: Connection, scope: str, name: str) -> dict[str, Any] | None:
    """One signal of a scope; None when there is no such signal there."""
    return next((s for s in listed(conn, scope) if s["signal"] == name), None)


def _summary(conn: Connection) -> Mapping[str, Any]:
    stored = conn.execute(select(_ROUND.c.summary_json)).scalar()
    found: Mapping[str, Any] = msgspec.json.decode(stored) if stored else {}
    return found


def _document(signal: Signal, row: Row[Any] | None, summary: Mapping[str, Any], scope: str) -> dict[str, Any]:
    found = {
        "signal": signal.name,
        "scope": scope,
        "window_s": signal.window.total_seconds() if signal.window else None,
        "is_global": signal.is_global,
        "owner": signal.owner,
        "values": msgspec.json.decode(row.values_json) if row is not None else {},
        "samples": row.samples if row is not None else None,
        "hits": row.hits if row is not None else None,
        "level": row.level if row is not None else "normal",
        "since": row.since if row is not None else None,
        "calm_since": row.calm_since if row is not None else None,
        "alert_id": row.alert_id if row is not None else None,
        "thresholds": {"warning": _limits(signal.warning), "critical": _limits(signal.critical)},
        "limits_changed": _changed(signal),
    }
    if scope == GLOBAL_SCOPE:
        levels = summary.get("scopes", {})
        found["clinics"] = {str(level): int(levels.get(level, 0)) for level in SignalLevel}
        if not signal.is_global:
            found["values"] = summary.get("all", {})
            found["worst"] = summary.get("worst", {})
            found["level"] = max(
                (level for level in SignalLevel if levels.get(level)), key=lambda level: level.rank, default="normal"
            )
    return found


def _limits(thresholds: tuple[Threshold, ...]) -> list[dict[str, Any]]:
    return [{"metric": t.metric, "operator": str(t.operator), "value": t.value, "unit": str(t.unit)} for t in thresholds]


def _changed(signal: Signal) -> bool:
    default = SIGNALS[signal.name]
    return (signal.warning, signal.critical) != (default.warning, default.critical)


def off_normal(conn: Connection, scope: Scope, limit: int) -> tuple[Sequence[Row[Any, Any, Any, Any]], int]:
    """Signals that are at warning or critical, worst and oldest first (scope, signal, level, since), and how many there are."""
    query = select(_STATE.c.scope, _STATE.c.signal, _STATE.c.level, _STATE.c.since).where(_STATE.c.level != SignalLevel.NORMAL)
    if scope is not None:
        query = query.where(_STATE.c.scope.in_(scope))
    worst_first = case((_STATE.c.level == SignalLevel.CRITICAL, 0), else_=1)
    rows = conn.execute(query.order_by(worst_first, _STATE.c.since, _STATE.c.scope, _STATE.c.signal).limit(limit)).all()
    found: int = conn.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    return rows, found


def firings(
    conn: Connection, scope: Scope, *, name: str | None = None, own: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Rises, latest first: of one scope (`own`), or of clinics (`scope`; None = of everything)."""
    query = select(_FIRING).order_by(_FIRING.c.at.desc(), _FIRING.c.firing_id).limit(limit)
    if own is not None:
        query = query.where(_FIRING.c.scope == own)
    elif scope is not None:
        query = query.where(_FIRING.c.scope.in_(scope))
    if name is not None:
        query = query.where(_FIRING.c.signal == name)
    return [
        {
            "firing_id": row.firing_id,
            "signal": row.signal,
            "scope": row.scope,
            "level": row.level,
            "at": row.at,
            "ended_at": row.ended_at,
            "owner": row.owner,
            "values": msgspec.json.decode(row.values_json),
            "alert_id": row.alert_id,
        }
        for row in conn.execute(query)
    ]


def rises(conn: Connection, scope: Scope, since: datetime) -> dict[str, int]:
    """How often each signal rose from `since` on."""
    query = select(_FIRING.c.signal, func.count()).where(_FIRING.c.at >= since).group_by(_FIRING.c.signal)
    if scope is not None:
        query = query.where(_FIRING.c.scope.in_(scope))
    return {name: int(n) for name, n in conn.execute(query)}


def not_normal(conn: Connection, name: str) -> list[tuple[str, str]]:
    """Scopes where a signal is not normal, with its level; the worst first."""
    query = select(_STATE.c.scope, _STATE.c.level).where(_STATE.c.signal == name, _STATE.c.level != "normal")
    found = [(row.scope, row.level) for row in conn.execute(query)]
    return sorted(found, key=lambda one: (one[1] != "critical", one[0]))[:100]


def points(conn: Connection, scope: str, name: str, since: datetime) -> list[tuple[datetime, dict[str, float]]]:
    """What was measured from `since` on, oldest first, begun by the value that held then."""
    mine = (_POINT.c.scope == scope, _POINT.c.signal == name)
    before = conn.execute(select(_POINT).where(*mine, _POINT.c.at < since).order_by(_POINT.c.at.desc()).limit(1)).first()
    rows = conn.execute(select(_POINT).where(*mine, _POINT.c.at >= since).order_by(_POINT.c.at)).all()
    found = [(row.at, msgspec.json.decode(row.values_json)) for row in rows]
    return ([(since, msgspec.json.decode(before.values_json))] if before is not None else []) + found


def previewed(conn: Connection, scope: str, signal: Signal, now: datetime, days: timedelta = PREVIEW) -> dict[str, Any]:
    """What the limits of `signal` would have fired in the days before `now`, and since when there are measurements.

    For a clinic's signal seen from the installation: in how many clinics, too.
    """
    since = now - days
    scopes = [scope]
    if scope == GLOBAL_SCOPE and not signal.is_global:
        query = select(_POINT.c.scope).where(_POINT.c.signal == signal.name).distinct()
        scopes = list(conn.execute(query).scalars())
    fired, measured_since = [], None
    for one_scope in scopes:
        history = points(conn, one_scope, signal.name, since)
        if not history:
            continue
        measured_since = min(history[0][0], measured_since or history[0][0])
        fired += [(f.at, str(f.level), one_scope) for f in preview(signal, carried_forward(history, now))]
    fired.sort()
    return {
        "signal": signal.name,
        "since": since,
        "measured_since": measured_since,
        "fired": len(fired),
        "warning": sum(1 for _, level, _ in fired if level == "warning"),
        "critical": sum(1 for _, level, _ in fired if level == "critical"),
        "clinics": len({where for _, _, where in fired}),
        "firings": [{"at": at, "level": level, "scope": where} for at, level, where in fired[-50:]],
    }
