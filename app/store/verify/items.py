"""Checks over what was accepted: one terminal result or visibly pending, in order, and counted right."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Row, String, and_, case, cast, func, or_, select

from app.domain.states import EFFECT_RESULTS, PENDING, State
from app.store.effects import MANUAL_RESULTS
from app.store.tables import InboxCommand, InboxMessage, Lane, Ledger, MalformedItem, ManualTask, table
from app.store.verify.violation import Violation, stream

_COMMAND, _MESSAGE, _LANE, _LEDGER, _TASK = (table(t) for t in (InboxCommand, InboxMessage, Lane, Ledger, ManualTask))

_MALFORMED = table(MalformedItem)

_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_WITHOUT_PLACE: Final = frozenset({State.BLOCKED_CONFLICT, State.BLOCKED_COMMIT_ORDER_VIOLATION})


def commands_have_one_result(conn: Connection) -> Iterator[Violation]:
    """Every command is pending without an entry, or done with exactly the result its ledger entry says."""
    c, e = _COMMAND.c, _LEDGER.c
    query = (
        select(
            c.tenant_id,
            c.command_id,
            c.commit_order,
            c.status,
            c.result,
            c.done_at,
            e.commit_order.label("entry_order"),
            e.result.label("entry_result"),
            _LANE.c.last_committed,
        )
        .outerjoin(_LEDGER, and_(e.tenant_id == c.tenant_id, e.command_id == c.command_id))
        .outerjoin(_LANE, and_(_LANE.c.tenant_id == c.tenant_id, _LANE.c.contact_id == c.contact_id))
    )
    for row in stream(conn, query):
        fault = _pending_fault(row) if row.done_at is None else _done_fault(row)
        if fault is not None:
            yield Violation(fault[0], row.tenant_id, f"command {row.command_id}", fault[1])


def _pending_fault(row: Row[Any]) -> tuple[str, str] | None:
    if row.status not in PENDING or row.result is not None:
        return "command_state", f"It is not done, but says {row.status} / {row.result}."
    if row.entry_order is not None:
        return "command_result", f"It is pending, but the ledger says {row.entry_result}."
    if row.commit_order is None:
        return "command_place", "It is pending without a place in its lane, so nothing would ever serve it."
    if row.last_committed is None or row.commit_order <= row.last_committed:
        return "command_place", f"It is pending at place {row.commit_order}, which the lane has passed: it would be lost."
    return None


def _done_fault(row: Row[Any]) -> tuple[str, str] | None:
    expected = State.COMMITTED_CAUSAL if row.result in EFFECT_RESULTS else row.result
    if row.result is None or row.result in PENDING or row.status != expected:
        return "command_state", f"It is done, but says {row.status} / {row.result}."
    if row.commit_order is None:
        if row.result not in _WITHOUT_PLACE or row.entry_order is not None:
            return "command_place", f"It never had a place in its lane, but ended as {row.result}."
        return None
    if row.entry_order is None:
        return "command_result", f"It ended as {row.result} without a ledger entry."
    if (row.entry_order, row.entry_result) != (row.commit_order, row.result):
        return (
            "command_result",
            f"It says {row.result} at place {row.commit_order}, the ledger says {row.entry_result} at {row.entry_order}.",
        )
    return None


def entries_have_their_command(conn: Connection) -> Iterator[Violation]:
    """Every ledger entry belongs to a command that was accepted (a tombstone to none, and it has no effect)."""
    e, c = _LEDGER.c, _COMMAND.c
    query = (
        select(e.tenant_id, e.contact_id, e.commit_order, e.command_id, e.result)
        .outerjoin(_COMMAND, and_(c.tenant_id == e.tenant_id, c.command_id == e.command_id, c.contact_id == e.contact_id))
        .where(
            or_(
                and_(e.command_id.is_not(None), c.command_id.is_(None)),
                and_(e.command_id.is_(None), e.result.in_(EFFECT_RESULTS)),
            )
        )
    )
    for row in stream(conn, query):
        what = (
            f"names the command {row.command_id}, which this contact never sent"
            if row.command_id
            else "has an effect, but no command"
        )
        yield Violation("entry_without_command", row.tenant_id, f"entry {row.contact_id}/{row.commit_order}", f"The entry {what}.")


def manual_results_have_their_task(conn: Connection) -> Iterator[Violation]:
    """Every result that a person must look at opened its task: commands, places that nobody filled, and unusable items."""
    e, m = _LEDGER.c, _MALFORMED.c
    name = func.coalesce(e.command_id, e.contact_id + ":" + cast(e.commit_order, String))
    query = (
        select(e.tenant_id, name.label("name"), e.command_id, e.result)
        .outerjoin(_TASK, and_(_TASK.c.tenant_id == e.tenant_id, _TASK.c.dedup_key == "command:" + name))
        .where(e.result.in_(MANUAL_RESULTS), _TASK.c.task_id.is_(None))
    )
    for row in stream(conn, query):
        subject = f"command {row.command_id}" if row.command_id is not None else f"place {row.name}"
        yield Violation("task_missing", row.tenant_id, subject, f"It ended as {row.result} and nobody was told.")
    unusable = (
        select(m.tenant_id, m.item_id, m.status)
        .outerjoin(_TASK, and_(_TASK.c.tenant_id == m.tenant_id, _TASK.c.dedup_key == "malformed:" + m.raw_hash))
        .where(_TASK.c.task_id.is_(None))
    )
    for row in stream(conn, unusable):
        yield Violation("task_missing", row.tenant_id, f"item {row.item_id}", f"It was kept as {row.status} and nobody was told.")


def messages_in_sequence(conn: Connection) -> Iterator[Violation]:
    """Per contact: what was accepted earlier and stands earlier in the conversation was processed no later."""
    m = _MESSAGE.c
    query = select(m.tenant_id, m.contact_id, m.event_id, m.sequence, m.conversation_version, m.status, m.done_at).order_by(
        m.tenant_id, m.contact_id, m.conversation_version
    )
    for (tenant_id, _), rows in groupby(stream(conn, query), key=lambda r: (r.tenant_id, r.contact_id)):
        yield from _conversation(tenant_id, rows)


def _conversation(tenant_id: str, rows: Iterable[Row[Any]]) -> Iterator[Violation]:
    """One contact's messages in order of acceptance; `latest` is a staircase of (sequence, processed at), both rising."""
    latest: list[tuple[int, datetime]] = []
    for row in rows:
        subject = f"message {row.event_id}"
        if (row.done_at is None) != (row.status in PENDING):
            yield Violation(
                "message_state", tenant_id, subject, f"It says {row.status}, but its time of processing is {row.done_at}."
            )
        done_at = row.done_at or _NEVER
        at = bisect_left(latest, (row.sequence, datetime.min.replace(tzinfo=UTC)))
        if at > 0 and latest[at - 1][1] > done_at:
            yield Violation(
                "message_order",
                tenant_id,
                subject,
                f"Number {row.sequence} was processed before number {latest[at - 1][0]}, which had been accepted earlier.",
            )
            continue
        # later numbers that were processed no later say nothing that this one does not say
        while at < len(latest) and latest[at][1] <= done_at:
            del latest[at]
        insort(latest, (row.sequence, done_at))


def lane_counters(conn: Connection) -> Iterator[Violation]:
    """What a lane says about its waiting commands and unheard messages is what the inbox says."""
    c, m, lane = _COMMAND.c, _MESSAGE.c, _LANE.c
    waiting = [
        func.sum(case((and_(c.done_at.is_(None), c.priority == rank), 1), else_=0)).label(f"wait_{rank}") for rank in range(4)
    ]
    commands = (
        select(c.tenant_id, c.contact_id, func.max(c.commit_order).label("last_assigned"), *waiting)
        .where(c.commit_order.is_not(None))
        .group_by(c.tenant_id, c.contact_id)
        .subquery()
    )
    messages = (
        select(
            m.tenant_id,
            m.contact_id,
            func.sum(case((m.done_at.is_(None), 1), else_=0)).label("unheard"),
            func.max(m.sequence).label("last_sequence"),
            func.max(case((m.done_at.is_not(None), m.sequence))).label("last_processed"),
            func.max(m.conversation_version).label("conversation_version"),
        )
        .group_by(m.tenant_id, m.contact_id)
        .subquery()
    )
    query = (
        select(
            _LANE,
            *(func.coalesce(commands.c[f"wait_{rank}"], 0).label(f"true_wait_{rank}") for rank in range(4)),
            func.coalesce(commands.c.last_assigned, 0).label("true_last_assigned"),
            func.coalesce(messages.c.unheard, 0).label("true_unheard"),
            func.coalesce(messages.c.last_sequence, 0).label("true_last_sequence"),
            func.coalesce(messages.c.last_processed, 0).label("true_last_processed"),
            func.coalesce(messages.c.conversation_version, 1).label("least_conversation_version"),
        )
        .outerjoin(commands, and_(commands.c.tenant_id == lane.tenant_id, commands.c.contact_id == lane.contact_id))
        .outerjoin(messages, and_(messages.c.tenant_id == lane.tenant_id, messages.c.contact_id == lane.contact_id))
    )
    for row in stream(conn, query):
        for name, said, true in _counted(row):
            if said != true:
                yield Violation(
                    "lane_counter", row.tenant_id, f"lane {row.contact_id}", f"It says {name} = {said}; the inbox says {true}."
                )
        if row.conversation_version < row.least_conversation_version:
            yield Violation(
                "lane_counter",
                row.tenant_id,
                f"lane {row.contact_id}",
                f"The conversation is at version {row.conversation_version}, a message of it at {row.least_conversation_version}.",
            )


def _counted(row: Row[Any]) -> Iterator[tuple[str, int, int]]:
    waits = [int(getattr(row, f"true_wait_{rank}")) for rank in range(4)]
    for rank in range(4):
        yield f"wait_{rank}", getattr(row, f"wait_{rank}"), waits[rank]
    yield "waiting", row.waiting, sum(waits)
    yield "unheard", row.unheard, int(row.true_unheard)
    # a person may close places that no command ever took: then the lane's end is where it was committed to
    yield "last_assigned", row.last_assigned, max(row.true_last_assigned, row.last_committed)
    yield "last_sequence", row.last_sequence, row.true_last_sequence
    yield "last_processed", row.last_processed, row.true_last_processed
    yield "ready (1 = has a time)", int(row.ready_since is not None), int(sum(waits) > 0)
    yield "unheard_since (1 = has a time)", int(row.unheard_since is not None), int(row.true_unheard > 0)
