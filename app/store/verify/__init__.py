"""`kora verify`: walk the whole stored history and list everything that contradicts our promises (reliability.md, I1 to I7).

Read-only and streaming: memory does not grow with the history, except for one contact's messages at a time. All checks see
one snapshot of the database, so it may run beside live nodes. An empty list means: every accepted item has exactly one
terminal result or is visibly pending, commit orders are dense and effects happened in that order, once, with their ledger
entry, inside every fence and outside safe mode, alerts climbed their whole ladders and stopped at their ACK, and both hash
chains are whole.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from sqlalchemy import Connection, text

from app.store.verify.alerts import (
    acks_are_what_they_say,
    claims_take_turns,
    deadlines_are_in_force,
    ladders_are_whole,
    nothing_is_claimed_after_an_ack,
    passed_deadlines_entered_safe_mode,
    steps_are_not_forgotten,
)
from app.store.verify.chains import audit_chains, lane_chains
from app.store.verify.effects import (
    agenda_equals_history,
    effects_happened,
    effects_have_their_entry,
    keys_used_once,
    no_overlaps,
    versions_dense,
)
from app.store.verify.evidence import packs_hang_on_the_trail
from app.store.verify.fences import decided_inside_the_fences
from app.store.verify.items import (
    commands_have_one_result,
    entries_have_their_command,
    lane_counters,
    manual_results_have_their_task,
    messages_in_sequence,
)
from app.store.verify.replays import replay_items_ended, replay_items_have_their_task
from app.store.verify.safe_mode import contingency_was_kept, exits_had_their_gates, safe_mode_was_kept
from app.store.verify.violation import Violation

__all__ = ["CHECKS", "Violation", "findings", "verify"]

CHECKS: Final[tuple[Callable[[Connection], Iterator[Violation]], ...]] = (
    commands_have_one_result,
    entries_have_their_command,
    manual_results_have_their_task,
    messages_in_sequence,
    lane_counters,
    lane_chains,
    keys_used_once,
    effects_happened,
    effects_have_their_entry,
    versions_dense,
    agenda_equals_history,
    no_overlaps,
    decided_inside_the_fences,
    acks_are_what_they_say,
    nothing_is_claimed_after_an_ack,
    ladders_are_whole,
    steps_are_not_forgotten,
    claims_take_turns,
    deadlines_are_in_force,
    passed_deadlines_entered_safe_mode,
    safe_mode_was_kept,
    contingency_was_kept,
    exits_had_their_gates,
    replay_items_ended,
    replay_items_have_their_task,
    audit_chains,
    packs_hang_on_the_trail,
)
"""Every check, in the order in which a person would want to read what they find."""


def verify(conn: Connection, *, limit_per_check: int = 1_000) -> list[Violation]:
    """Everything that is wrong, at most `limit_per_check` findings of each check; must be first in its transaction."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    return findings(conn, limit_per_check)


def findings(conn: Connection, limit_per_check: int) -> list[Violation]:
    """What `verify` finds, inside whatever transaction `conn` is in."""
    return [violation for check in CHECKS for violation in islice(check(conn), limit_per_check)]
