"""Drills: the run that goes on, phase by phase, its verdict, the history, and the form for the next one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row

from app.domain.drill import DrillPhase, DrillResult
from app.store import drills
from app.store.views.overview import live_nodes
from app.web.console.sentences import Badge
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

_PHASES: Final = {
    DrillPhase.BASELINE: mark("with Redis"),
    DrillPhase.CUT: mark("cut"),
    DrillPhase.FALLBACK: mark("in the fallback"),
    DrillPhase.RESTORE: mark("path back"),
    DrillPhase.VERIFY: mark("proof"),
}
_RESULTS: Final = {
    DrillResult.DRILL_PASSED_CONTROLLED_CONTINUITY: (mark("Passed: everything went on, nothing happened twice"), "plain", "check"),
    DrillResult.DRILL_PASSED_WITH_WARNINGS: (mark("Passed, with warnings"), "warn", "diamond"),
    DrillResult.DRILL_FAILED_SIDE_EFFECT_RISK: (mark("Failed: risk of a wrong effect"), "crit", "triangle"),
}
HISTORY: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase of a run."""

    name: str
    state: str
    """done | now | ahead."""
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run."""

    drill_id: str
    badge: Badge
    at: datetime
    by: str
    reason: str
    measures: tuple[tuple[str, str], ...]
    findings: tuple[str, ...]
    pack_url: str
    alert_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillNow:
    """Context of the fragment `drill_now`."""

    running: bool
    possible: bool
    """Whether any live process has a path to Redis that could be cut."""
    phases: tuple[Phase, ...]
    since: datetime | None
    normal: bool
    next_at: datetime | None
    """When the schedule asks for a run; None without one."""
    runs: tuple[Run, ...]
    csrf: str


def load_drill_now(conn: Connection, visit: Visit) -> DrillNow:
    """The open run with its phases, and those that ended."""
    rows = drills.drills(conn, HISTORY)
    opened = next((row for row in rows if row.ended_at is None), None)
    return DrillNow(
        running=opened is not None,
        possible=any(node.lock_mode != "database" for node in live_nodes(conn, visit.words.now)),
        phases=_phases(visit.words, opened),
        since=opened.started_at if opened is not None else None,
        normal=drills.normal(conn),
        next_at=drills.next_due(conn),
        runs=tuple(_run(visit, row) for row in rows if row.ended_at is not None),
        csrf=visit.csrf_token,
    )


def _phases(words: Words, row: Row[Any] | None) -> tuple[Phase, ...]:
    if row is None:
        return ()
    order = [*_PHASES]
    here = order.index(DrillPhase(row.phase)) if row.phase in order else -1
    told = {p["phase"]: p for p in msgspec.json.decode(row.measures_json).get("phases", [])}
    return tuple(
        Phase(
            name=words.text(_PHASES[phase]),
            state="done" if n < here else "now" if n == here else "ahead",
            told=words.text("%(n)d requests, %(rate)s per second", n=told[phase]["requests"], rate=told[phase]["per_s"])
            if phase in told
            else "",
        )
        for n, phase in enumerate(order)
    )


def _run(visit: Visit, row: Row[Any]) -> Run:
    words = visit.words
    word, tone, shape = _RESULTS[DrillResult(row.result)]
    measured, report = msgspec.json.decode(row.measures_json), msgspec.json.decode(row.report_json)
    names = (
        (mark("noticed after"), "detection_s", "s"),
        (mark("decisions in the fallback"), "commits_in_fallback", ""),
        (mark("database lock, p95"), "lock_p95_ms", "ms"),
        (mark("back after"), "recovery_s", "s"),
        (mark("wrong effects"), "invalid_side_effects", ""),
    )
    return Run(
        drill_id=row.drill_id,
        badge=Badge(code="", word=words.text(word), tone=tone, shape=shape),
        at=row.ended_at,
        by=row.requested_by,
        reason=row.reason,
        measures=tuple(
            (words.text(name), f"{measured[key]:g} {unit}".strip()) for name, key, unit in names if measured.get(key) is not None
        ),
        findings=(*report.get("risks", ()), *report.get("warnings", ()), *report.get("wrong", ())[:5]),
        pack_url=visit.urls.to("/evidence", pack=row.pack_id) if row.pack_id else "",
        alert_url=visit.urls.to("/alerts", alert=row.alert_id) if row.alert_id else "",
    )
