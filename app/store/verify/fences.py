"""Checks over what an effect had to pass: deadlines, ages and versions, computed again from what was asked and when it happened."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, select

from app.domain.facts import GatePolicy
from app.domain.states import EFFECT_RESULTS, SENSITIVE, CommandType, RequestedBy
from app.store.tables import InboxCommand, Ledger, table
from app.store.verify.violation import Violation, stream

_COMMAND, _LEDGER = table(InboxCommand), table(Ledger)

_LATE_AFTER_S: Final = GatePolicy().late_after.total_seconds()
_EXACT_S: Final = 0.001
"""Figures are stored as floating point numbers."""


def decided_inside_the_fences(conn: Connection) -> Iterator[Violation]:
    """Every effect: before the safe deadline, within its TTL, on current versions, and none by the AI during a takeover."""
    e, c = _LEDGER.c, _COMMAND.c
    query = (
        select(
            e.tenant_id,
            e.command_id,
            e.command_type,
            e.committed_at,
            e.safe_deadline,
            e.late,
            e.event_age_s,
            e.ttl_limit_s,
            e.takeover_active,
            e.conversation_version,
            e.guardian_version,
            e.entity_version,
            c.requested_by,
            c.occurred_at,
            c.conversation_version.label("asked_conversation"),
            c.guardian_version.label("asked_guardian"),
            c.entity_version.label("asked_entity"),
            c.confirmed_by_contact,
        )
        .join(_COMMAND, and_(c.tenant_id == e.tenant_id, c.command_id == e.command_id))
        .where(e.result.in_(EFFECT_RESULTS))
    )
    for row in stream(conn, query):
        for code, sentence in (*_time_faults(row), *_version_faults(row)):
            yield Violation(code, row.tenant_id, f"command {row.command_id}", sentence)


def _time_faults(row: Row[Any]) -> Iterator[tuple[str, str]]:
    """Against the moment of the effect, whatever the decision said of itself."""
    if row.command_type in SENSITIVE and row.safe_deadline is not None and row.committed_at >= row.safe_deadline:
        yield "after_safe_deadline", f"It took effect at {row.committed_at}, but safe mode held from {row.safe_deadline}."
    if row.occurred_at is None:
        yield "ttl_passed", "It took effect, but nobody knows when it happened."
        return
    age_s = (row.committed_at - row.occurred_at).total_seconds()
    if not row.late:
        if age_s > _LATE_AFTER_S:
            yield "late_unasked", f"It took effect {age_s} s after it happened, and no fence was asked."
    elif row.ttl_limit_s is None or row.event_age_s is None or age_s > row.ttl_limit_s:
        yield "ttl_passed", f"It took effect {age_s} s after it happened; the limit was {row.ttl_limit_s} s."
    elif abs(row.event_age_s - age_s) > _EXACT_S:
        yield "ttl_figures", f"It took effect {age_s} s after it happened, but its entry says {row.event_age_s} s."


def _version_faults(row: Row[Any]) -> Iterator[tuple[str, str]]:
    sensitive = row.command_type in SENSITIVE
    if row.takeover_active and row.requested_by == RequestedBy.AI:
        yield "ai_during_takeover", "The AI changed something while a person had the conversation."
    if row.asked_conversation is not None and row.asked_conversation != row.conversation_version:
        yield (
            "stale_conversation",
            f"It was decided on version {row.asked_conversation} of the conversation, which was at {row.conversation_version}.",
        )
    if sensitive and row.asked_guardian != row.guardian_version:
        yield "stale_guardian", f"It was decided on permissions version {row.asked_guardian}; {row.guardian_version} was valid."
    if sensitive and not row.confirmed_by_contact:
        yield "unconfirmed_effect", "It changed the agenda without the family's explicit confirmation."
    if row.entity_version is None:
        return  # it changed nothing on the agenda
    before = 0 if row.command_type == CommandType.SCHEDULE else row.asked_entity
    if before is None or row.entity_version != before + 1:
        yield "stale_entity", f"It was asked for on version {before} of the appointment and made version {row.entity_version}."
