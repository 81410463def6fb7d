"""What a person does to one lane: pause, release, single-step, look again, skip (S-PC-01-002).

An act is a command too: its guard is in the WHERE of the one statement that does it, its audit row is in the same
transaction, and none goes around the order. Who acts says what they saw; a lane that has moved on since raises Conflict
and nothing happens. A skipped place keeps its number: the ledger gets a tombstone through the same compare-and-set as
every other entry, and a task for a person says that somebody still owes the family an answer.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, update

from app.domain.facts import Decision
from app.domain.reasons import Reason
from app.domain.states import State
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.store import audit
from app.store.events import publish_many
from app.store.lanes import LaneFacts, gather
from app.store.ledger import apply
from app.store.people import By
from app.store.plans import Attempt, Entry, LanePlan
from app.store.results import wants_results
from app.store.settings import load
from app.store.tables import Lane, table

_LANE = table(Lane)

STEPS_MAX = 100
"""Commands that may be let through one by one before the first of them has gone."""


class Act(StrEnum):
    """What can be done to a lane."""

    PAUSE = "pause"
    RELEASE = "release"
    STEP = "step"
    RETRY = "retry"
    SKIP = "skip"


def pause(conn: Connection, tenant_id: str, contact_id: str, by: By, reason: str) -> None:
    """Stop the lane before its next command; messages are still heard. Raises NotFound, Conflict."""
    before = _lane(conn, tenant_id, contact_id)
    changed = {"paused_at": by.now, "paused_by": by.actor[:200], "paused_reason": reason[:500], "step_credit": 0}
    _change(conn, before, Act.PAUSE, by, reason, _LANE.c.paused_at.is_(None), changed, "Somebody has paused this contact already.")


def release(conn: Connection, tenant_id: str, contact_id: str, by: By, reason: str) -> None:
    """End the pause; what waits goes on in its order. Raises NotFound, Conflict."""
    before = _lane(conn, tenant_id, contact_id)
    changed = {"paused_at": None, "paused_by": None, "paused_reason": None, "step_credit": 0, "not_before": None}
    _change(conn, before, Act.RELEASE, by, reason, _LANE.c.paused_at.is_not(None), changed, "This contact is not paused any more.")


def single_step(conn: Connection, tenant_id: str, contact_id: str, by: By, reason: str, *, front: int | None = None) -> None:
    """Let exactly one more command of a paused lane come to its turn; `front` is the place that the person saw as the next.

    Raises NotFound, Conflict.
    """
    before = _lane(conn, tenant_id, contact_id)
    guard = (_LANE.c.paused_at.is_not(None), _LANE.c.step_credit < _LANE.c.waiting, _LANE.c.step_credit < STEPS_MAX, *_seen(front))
    changed = {"step_credit": _LANE.c.step_credit + 1, "not_before": None}
    _change(conn, before, Act.STEP, by, reason, guard, changed, "Only a paused contact with waiting requests takes single steps.")


def retry(conn: Connection, tenant_id: str, contact_id: str, by: By, reason: str, *, front: int | None = None) -> None:
    """Look at the front command, seen as no. `front`, again now instead of at its time. Raises NotFound, Conflict."""
    before = _lane(conn, tenant_id, contact_id)
    guard = (_LANE.c.waiting > 0, *_seen(front))
    _change(conn, before, Act.RETRY, by, reason, guard, {"not_before": None}, "Nothing of this contact waits, or another request.")


def _seen(front: int | None) -> tuple[ColumnElement[bool], ...]:
    """That the next place is still the one that was seen; None = whatever it is."""
    return () if front is None else (_LANE.c.last_committed == front - 1,)


def skip(conn: Connection, tenant_id: str, contact_id: str, by: By, reason: str, *, number: int, node_id: str) -> str | None:
    """Pass over place `number`, which must be the lane's front: missing, waiting or parked.

    Returns the id of the command that stood there (None: nobody had come). The place ends as `manual_review_required`,
    reason `skipped_by_person`, with a task. Raises NotFound, Conflict when `number` is not the front any more.
    """
    before = _lane(conn, tenant_id, contact_id, locked=True)
    front = before.last_committed + 1
    if number != front or not before.waiting:
        raise Conflict(
            f"No. {number} is not this contact's next place: that is no. {front}, and {before.waiting} wait. Nothing was skipped."
        )
    facts = gather(conn, [(tenant_id, contact_id)], 2)
    lane = facts.lanes[(tenant_id, contact_id)]
    entry = _skipped(lane, number, by.now)
    rest = [row for row in lane.rows if row.commit_order > number]
    plan = LanePlan(
        facts=lane,
        mode=facts.mode_of(tenant_id),
        entries=[entry],
        next_ready_since=rest[0].accepted_at if rest else lane.more,
        tell_results=wants_results(load(conn, tenant_id)),
    )
    plan.stay_shut()
    attempt = Attempt(token=new_id(), node_id=node_id, clock=lambda: by.now, lock_backend="none", lock_mode="person", lock_ms=0.0)
    if not apply(conn, [plan], attempt):
        raise Conflict("This contact's requests moved on at the same moment. Nothing was skipped; look at the contact again.")
    command_id = entry.command.command_id if entry.command is not None else None
    after = {"skipped": number, "command_id": command_id, "task_id": entry.new_id}
    _audit(conn, before, Act.SKIP, by, reason, after)
    return command_id


def _skipped(lane: LaneFacts, number: int, now: datetime) -> Entry:
    """The tombstone of a place, with the command that stands there if there is one."""
    decision = Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=Reason.SKIPPED_BY_PERSON, terminal=True)
    stands = next((i for i, row in enumerate(lane.rows) if row.commit_order == number), None)
    if stands is None:
        return Entry(order=number, decision=decision, command=None, accepted_at=now, new_id=new_id())
    accepted_at = lane.rows[stands].accepted_at
    return Entry(order=number, decision=decision, command=lane.commands[stands], accepted_at=accepted_at, new_id=new_id())


def _lane(conn: Connection, tenant_id: str, contact_id: str, *, locked: bool = False) -> Row[Any]:
    query = select(_LANE).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)
    if locked and conn.dialect.name == "postgresql":
        query = query.with_for_update()
    row = conn.execute(query).first()
    if row is None:
        raise NotFound("There is no such contact.")
    return row


def _change(
    conn: Connection, before: Row[Any], act: Act, by: By, reason: str, guard: Any, changed: dict[str, Any], otherwise: str
) -> None:
    """Set `changed` where `guard` still holds, audit it and tell the screens. Raises Conflict with `otherwise`."""
    guards = guard if isinstance(guard, tuple) else (guard,)
    own = (_LANE.c.tenant_id == before.tenant_id, _LANE.c.contact_id == before.contact_id)
    if conn.execute(update(_LANE).where(*own, *guards).values(changed)).rowcount != 1:
        raise Conflict(f"{otherwise} Nothing was changed; look at the contact again.")
    after = conn.execute(select(_LANE).where(*own)).one()
    _audit(conn, before, act, by, reason, _state(after))
    refs = {before.contact_id}
    publish_many(conn, {(before.tenant_id, "lane"): refs, (before.tenant_id, "queue"): refs}, by.now)


def _state(row: Row[Any]) -> dict[str, Any]:
    """What the audit trail keeps of a lane."""
    return {
        "paused": row.paused_at is not None,
        "paused_by": row.paused_by,
        "step_credit": row.step_credit,
        "last_committed": row.last_committed,
        "waiting": row.waiting,
    }


def _audit(conn: Connection, before: Row[Any], act: Act, by: By, reason: str, after: dict[str, Any]) -> None:
    audit.append(
        conn,
        chain=before.tenant_id,
        actor=by.actor,
        action=f"lane_{act}",
        object=f"lane:{before.contact_id}",
        before=_state(before),
        after=after,
        reason=reason,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
        about=before.contact_id,
    )
