"""Checks over safe mode and contingency: nothing on the agenda happened while they held, and every exit had its gates."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, func, select

from app.domain.states import EFFECT_RESULTS, SENSITIVE
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import Alert, AuditEntry, Ledger, SafeCause, SafeEpisode, SafeStep, table
from app.store.verify.violation import Violation, stream

_EPISODE, _CAUSE, _STEP = table(SafeEpisode), table(SafeCause), table(SafeStep)
_ALERT, _AUDIT, _LEDGER = table(Alert), table(AuditEntry), table(Ledger)

CLOCKS: Final = timedelta(seconds=5)
"""Entries by hand and exits are dated before their turn at the mode row: an effect that was first may look later by this."""

_SWITCHES: Final = ("contingency.on", "contingency.off")

Interval = tuple[datetime, datetime | None]


def safe_mode_was_kept(conn: Connection) -> Iterator[Violation]:
    """No sensitive command took effect between an entry and the exit that ended it."""
    for episode in conn.execute(select(_EPISODE).order_by(_EPISODE.c.written_at)).all():
        for start, end in _held(conn, episode):
            for row in _effects(conn, episode.scope, start, end):
                sentence = (
                    f"It took effect at {row.committed_at}, while safe mode held from {start} (episode {episode.episode_id})."
                )
                yield Violation("effect_in_safe_mode", row.tenant_id, f"command {row.command_id}", sentence)


def contingency_was_kept(conn: Connection) -> Iterator[Violation]:
    """No sensitive command of a clinic took effect while one of its channels was in contingency, as the audit trail tells it."""
    a = _AUDIT.c
    switches = select(a.chain, a.action, a.object, a.at).where(a.action.in_(_SWITCHES)).order_by(a.chain, a.number)
    for tenant_id, rows in groupby(conn.execute(switches).all(), key=lambda r: r.chain):
        for start, end in _contingencies(rows):
            for row in _effects(conn, tenant_id, start, end):
                sentence = f"It took effect at {row.committed_at}, while the clinic was in contingency from {start}."
                yield Violation("effect_in_contingency", row.tenant_id, f"command {row.command_id}", sentence)


def _contingencies(switches: Iterable[Any]) -> list[Interval]:
    """When at least one channel was in contingency; entries are dated before their turn at the mode row, as with safe mode."""
    found: list[Interval] = []
    channels: set[str] = set()
    start: datetime | None = None
    for row in switches:
        (channels.add if row.action == _SWITCHES[0] else channels.discard)(row.object)
        if channels and start is None:
            start = row.at + CLOCKS
        elif not channels and start is not None:
            found.append((start, row.at - CLOCKS))
            start = None
    if start is not None:
        found.append((start, None))
    return [(a, b) for a, b in found if b is None or a < b]


def _effects(conn: Connection, scope: str, start: datetime, end: datetime | None) -> Iterator[Row[Any]]:
    """Sensitive commands that took effect in an interval."""
    e = _LEDGER.c
    during = [e.committed_at >= start] + ([e.committed_at < end] if end is not None else [])
    query = select(e.tenant_id, e.command_id, e.committed_at).where(
        e.result.in_(EFFECT_RESULTS), e.command_type.in_(SENSITIVE), *during
    )
    return stream(conn, query if scope == GLOBAL_SCOPE else query.where(e.tenant_id == scope))


def _held(conn: Connection, episode: Row[Any]) -> list[Interval]:
    """When the episode blocked, to the exact moment where a deadline began it."""
    deadlines = select(func.min(_CAUSE.c.at)).where(_CAUSE.c.episode_id == episode.episode_id, _CAUSE.c.kind == "alert")
    by_deadline: datetime | None = conn.execute(deadlines).scalar()
    start: datetime | None = min(by_deadline or episode.entered_at + CLOCKS, episode.entered_at + CLOCKS)
    held: list[Interval] = []
    steps = select(_STEP).where(_STEP.c.episode_id == episode.episode_id).order_by(_STEP.c.position)
    for step in conn.execute(steps):
        if step.kind == "exit_completed" and start is not None:
            held.append((start, step.at - CLOCKS))
            start = None
        elif step.kind == "reentered" and start is None:
            start = step.at + CLOCKS
    if start is not None:
        held.append((start, None))
    return [(a, b) for a, b in held if b is None or a < b]


def exits_had_their_gates(conn: Connection) -> Iterator[Violation]:
    """An episode that let requests go has its recovery, its whole checklist and the ACK of every alert that caused it."""
    left = select(_EPISODE).where(_EPISODE.c.exit_result == "safe_mode_exit_completed")
    for row in conn.execute(left).all():
        tenant_id = None if row.scope == GLOBAL_SCOPE else row.scope
        subject = f"episode {row.episode_id}"
        if not (row.recovery_action and row.recovery_by and row.runbook_step):
            yield Violation(
                "exit_without_recovery", tenant_id, subject, "It was left without a recovery action or its runbook step."
            )
        ticks = msgspec.json.decode(row.checklist_json)
        if len(ticks) < 4 or not all(ticks.values()):
            yield Violation("exit_without_checklist", tenant_id, subject, "It was left with an incomplete checklist.")
        unacknowledged = (
            select(_ALERT.c.alert_id)
            .join(_CAUSE, _CAUSE.c.cause_id == _ALERT.c.alert_id)
            .where(_CAUSE.c.episode_id == row.episode_id, _ALERT.c.acked_at.is_(None))
        )
        for alert in conn.execute(unacknowledged):
            sentence = f"It was left although nobody acknowledged the alert {alert.alert_id} that caused it."
            yield Violation("exit_without_ack", tenant_id, subject, sentence)
