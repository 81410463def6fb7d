"""Acceptance: the transaction after which an item is ours (F-01).

`accept` takes a batch of parsed items of any tenants and, in one transaction: resolves contacts, reads their lanes,
recognises duplicates, assigns `sequence` and `commit_order` from the lane rows, stores everything, and answers one `Receipt`
per item in the order given. An answer may leave only after this transaction is durable. Unusable items become a kept row and
a manual task; overflow of a tenant's queue becomes a dead letter.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace as changed
from sqlalchemy import Connection, text

from app.domain.envelopes import Command, FieldError, Malformed, Message, canonical_json, sha256_hex
from app.domain.lanes import Acceptance, accept_order
from app.domain.states import PRIORITY_BY_RANK, State
from app.store.alerts import raise_alert
from app.store.bulk import Bundle, insert_rows, joined_rows, update_rows
from app.store.events import publish_with
from app.store.intake_facts import (
    JustStored,
    LaneState,
    Submission,
    known_commands,
    known_messages,
    lanes_of,
    load_given_numbers,
    names_own_number,
    resolve_phones,
)
from app.store.lanes import LaneKey
from app.store.outbox import enqueue
from app.store.results import results_at_acceptance
from app.store.tables import InboxCommand, InboxMessage, Lane, MalformedItem, ManualTask, table
from app.store.tasks import open_tasks, task_row

_LANE, _MESSAGE, _COMMAND = table(Lane), table(InboxMessage), table(InboxCommand)
_MALFORMED, _TASK = table(MalformedItem), table(ManualTask)

_MAY_BE_EMPTY = (
    "conversation_id requested_by_id patient_id guardian_version conversation_version entity_version as_of occurred_at causation_id"
).split()
_COMMAND_FIELDS = (
    *"tenant_id command_id contact_id commit_order command_type priority idempotency_key fingerprint requested_by source".split(),
    *"confirmed_by_contact was_parked replayed correlation_id correlation_generated payload_json".split(),
    *_MAY_BE_EMPTY,
)
"""What an accepted command brings; what all commands of a batch have in common is written beside it."""


class LanesMoved(Exception):
    """Other acceptances took places in lanes that were not locked; the transaction must be rolled back."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one item. `number` is its `sequence` or `commit_order` (None when it got no place)."""

    kind: str
    item_id: str
    contact_id: str | None
    status: State
    number: int | None
    dispatch_priority: str | None
    correlation_id: str
    reason: str | None = None
    errors: tuple[FieldError, ...] = ()
    duplicate: bool = False
    holds_key: bool = False
    """Whether the item named here was the first under this item's key: what an exact repeat is answered with for good."""


@dataclass(slots=True)
class _Batch:
    now: datetime
    receipts: list[Receipt | None]
    lanes: dict[LaneKey, LaneState] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)
    """Those that got a place in their lane."""
    placeless: list[dict[str, Any]] = field(default_factory=list)
    """Those that did not: terminal at once."""
    malformed: list[dict[str, Any]] = field(default_factory=list)
    malformed_at: list[int] = field(default_factory=list)
    """Index of the receipt behind each row of `malformed`."""
    tasks: list[dict[str, Any]] = field(default_factory=list)


def accept(
    conn: Connection,
    submissions: Sequence[Submission],
    now: datetime,
    *,
    room: Mapping[str, int] | None = None,
    lanes_last: bool = False,
) -> list[Receipt]:
    """Accept a batch; `room` is how many more items each tenant's queue takes (missing = no limit).

    The lanes are locked before anything is looked up. With `lanes_last` they are compared and advanced by the message that
    writes instead, so that commits, which need them too, wait for that and not for the whole transaction; where another
    acceptance was at one of them meanwhile, nothing is written and `LanesMoved`, or the IntegrityError of a place taken twice,
    is raised. Where a source names its own numbers the lanes are locked first in any case: those tell nobody else that they
    are taken.
    """
    lanes_last = lanes_last and not any(names_own_number(s.item) for s in submissions)
    batch = _Batch(now=now, receipts=[None] * len(submissions))
    left = dict(room or {})
    submissions = resolve_phones(conn, submissions, now)
    batch.lanes = lanes_of(conn, submissions, now, locked=not lanes_last)
    seen_messages = known_messages(conn, submissions)
    seen_commands = known_commands(conn, submissions)
    load_given_numbers(conn, submissions, batch.lanes)
    for index, submission in enumerate(submissions):
        item = submission.item
        if isinstance(item, Malformed):
            receipt = _take_malformed(batch, submission, item, State.INVALID_PAYLOAD_MANUAL)
        elif isinstance(item, Message):
            receipt = _take_message(batch, submission, item, seen_messages, left)
        else:
            receipt = _take_command(batch, submission, item, seen_commands, left)
        batch.receipts[index] = receipt
        batch.malformed_at += [index] * (len(batch.malformed) - len(batch.malformed_at))
    _write(conn, batch)
    return [r for r in batch.receipts if r is not None]


def queue_sizes(conn: Connection, tenant_ids: Iterable[str]) -> dict[str, int]:
    """Waiting commands and unheard messages of the given tenants."""
    sizes = all_queue_sizes(conn)
    return {t: sizes.get(t, 0) for t in tenant_ids}


def all_queue_sizes(conn: Connection) -> dict[str, int]:
    """The same of every tenant that has some."""
    rows = conn.execute(
        text("SELECT tenant_id, sum(waiting + unheard) FROM lane WHERE waiting > 0 OR unheard > 0 GROUP BY tenant_id")
    )
    return {tenant: int(total) for tenant, total in rows}


# --- one item -----------------------------------------------------------------------------------------------------------


def _take_message(
    batch: _Batch, submission: Submission, item: Message, known: dict[tuple[str, ...], Any], left: dict[str, int]
) -> Receipt:
    assert item.contact_id is not None
    external, own = ("ext", item.tenant_id, item.channel, item.external_id), ("id", item.tenant_id, item.event_id)
    earlier = known.get(external) or known.get(own)
    if earlier is not None:
        return _duplicate("message", earlier.event_id, earlier, earlier.sequence, by_key=external in known)
    if not _room(left, item.tenant_id):
        return _take_malformed(batch, submission, _overflow("message", item), State.DEAD_LETTER)
    lane = batch.lanes[(item.tenant_id, item.contact_id)]
    number = item.sequence
    if number is None or number <= lane.row.last_sequence - 1000 or number in lane.sequences or number > lane.last_sequence + 1000:
        number = lane.last_sequence + 1  # families must be heard: an unusable number is replaced, never refused
    lane.sequences.add(number)
    lane.last_sequence = max(lane.last_sequence, number)
    lane.conversation_version += 1
    lane.conversation_id = item.conversation_id or lane.conversation_id
    lane.messages += 1
    lane.touched = True
    row = {
        "tenant_id": item.tenant_id,
        "event_id": item.event_id,
        "channel": item.channel,
        "external_id": item.external_id,
        "contact_id": item.contact_id,
        "conversation_id": item.conversation_id,
        "sequence": number,
        "conversation_version": lane.conversation_version,
        "source": item.source,
        "event_type": item.event_type,
        "status": State.QUEUED_FOR_DISPATCH,
        "intent": submission.intent,
        "priority": submission.priority,
        "occurred_at": item.occurred_at,
        "received_at": batch.now,
        "correlation_id": item.correlation_id,
        "correlation_generated": item.correlation_generated,
        "causation_id": item.causation_id,
        "payload_version": item.payload_version,
        "payload_json": canonical_json(item.payload),
    }
    batch.messages.append(row)
    receipt = changed(
        _queued("message", item.event_id, item.contact_id, number, submission.priority, item.correlation_id), holds_key=True
    )
    known[external] = known[own] = JustStored(row)
    return receipt


def _take_command(
    batch: _Batch, submission: Submission, item: Command, known: dict[tuple[str, ...], Any], left: dict[str, int]
) -> Receipt:
    by_key, own = ("key", item.tenant_id, item.idempotency_key), ("id", item.tenant_id, item.command_id)
    for name in (by_key, own):  # by its id also one that asks for something else than the first holder of its key
        earlier = known.get(name)
        if earlier is not None and (earlier.fingerprint, earlier.contact_id) == (item.fingerprint, item.contact_id):
            return _duplicate("command", earlier.command_id, earlier, earlier.commit_order, by_key=name is by_key)
    if own in known:
        return _take_malformed(batch, submission, _reused_id(item), State.INVALID_PAYLOAD_MANUAL)
    if not _room(left, item.tenant_id):
        return _take_malformed(batch, submission, _overflow("command", item), State.DEAD_LETTER)
    lane = batch.lanes[(item.tenant_id, item.contact_id)]
    verdict: Acceptance = accept_order(
        given=item.commit_order, last_assigned=lane.last_assigned, last_committed=lane.row.last_committed, taken=lane.orders
    )
    if verdict.state is State.INVALID_PAYLOAD_MANUAL:
        return _take_malformed(batch, submission, _too_far(item), State.INVALID_PAYLOAD_MANUAL)
    row = _command_row(item)
    row["commit_order"] = verdict.number
    if verdict.number is None:  # no place in the lane: terminal at once, visible, never silently dropped
        batch.placeless.append(row | {"status": verdict.state, "result": verdict.state, "reason": verdict.reason})
    else:
        lane.orders.add(verdict.number)
        lane.last_assigned = max(lane.last_assigned, verdict.number)
        lane.commands[item.priority.rank] += 1
        lane.touched = True
        batch.commands.append(row)
    first = by_key not in known
    rank = item.priority.rank
    receipt = _queued("command", item.command_id, item.contact_id, verdict.number, rank, item.correlation_id, holds_key=first)
    known[own] = JustStored(row)
    known.setdefault(by_key, known[own])
    return receipt if verdict.number is not None else changed(receipt, status=verdict.state, reason=verdict.reason)


def _command_row(item: Command) -> dict[str, Any]:
    """The row of a freshly accepted command (its `commit_order` still as given): `_COMMAND_FIELDS` without the empty ones."""
    row: dict[str, Any] = {
        "tenant_id": item.tenant_id,
        "command_id": item.command_id,
        "contact_id": item.contact_id,
        "commit_order": item.commit_order,
        "command_type": item.command_type,
        "priority": item.priority.rank,
        "idempotency_key": item.idempotency_key,
        "fingerprint": item.fingerprint,
        "requested_by": item.requested_by,
        "source": item.source,
        "confirmed_by_contact": item.confirmed_by_contact,
        "was_parked": item.was_parked,
        "replayed": item.replayed,
        "correlation_id": item.correlation_id,
        "correlation_generated": item.correlation_generated,
        "payload_json": canonical_json(item.payload),
    }
    for name in _MAY_BE_EMPTY:
        value = getattr(item, name)
        if value is not None:
            row[name] = value
    return row


def _take_malformed(batch: _Batch, submission: Submission, item: Malformed, status: State) -> Receipt:
    item_id = item.item_id or submission.spare_id
    correlation_id = item.correlation_id or f"corr-{submission.spare_id}"
    raw = canonical_json(item.raw)
    row = {
        "tenant_id": submission.tenant_id,
        "item_id": submission.spare_id,
        "given_id": item.item_id,
        "kind": item.kind,
        "status": status,
        "contact_id": item.contact_id,
        "correlation_id": correlation_id,
        "reason": item.reason,
        "errors_json": msgspec.json.encode([{"pointer": e.pointer, "detail": e.detail} for e in item.errors]).decode(),
        "raw_hash": sha256_hex(raw),
        "raw_json": raw,
        "received_at": batch.now,
    }
    batch.malformed.append(row)
    batch.tasks.append(
        task_row(
            tenant_id=submission.tenant_id,
            task_id=submission.spare_id,
            dedup_key=f"malformed:{row['raw_hash']}",
            cause=status,
            reason=item.reason,
            priority=2,
            contact_id=item.contact_id,
            item_id=submission.spare_id,
            correlation_id=correlation_id,
            now=batch.now,
            due_at=batch.now + timedelta(minutes=30),
        )
    )
    return Receipt(
        kind=item.kind,
        item_id=item_id,
        contact_id=item.contact_id,
        status=status,
        number=None,
        dispatch_priority=None,
        correlation_id=correlation_id,
        reason=item.reason,
        errors=item.errors,
    )


def _room(left: dict[str, int], tenant_id: str) -> bool:
    if tenant_id not in left:
        return True
    left[tenant_id] -= 1
    return left[tenant_id] >= 0


def _queued(
    kind: str, item_id: str, contact_id: str, number: int | None, rank: int, correlation_id: str, *, holds_key: bool = False
) -> Receipt:
    return Receipt(
        kind=kind,
        item_id=item_id,
        contact_id=contact_id,
        status=State.QUEUED_FOR_DISPATCH,
        number=number,
        dispatch_priority=PRIORITY_BY_RANK[rank],
        correlation_id=correlation_id,
        holds_key=holds_key,
    )


def _duplicate(kind: str, item_id: str, earlier: Any, number: int | None, *, by_key: bool) -> Receipt:
    return Receipt(
        kind=kind,
        item_id=item_id,
        contact_id=earlier.contact_id,
        status=State.DUPLICATE_IGNORED,
        number=number,
        dispatch_priority=PRIORITY_BY_RANK[earlier.priority],
        correlation_id=earlier.correlation_id,
        reason="already_accepted",
        duplicate=True,
        holds_key=by_key,
    )


def _as_malformed(kind: str, item: Message | Command, item_id: str, reason: str, pointer: str, detail: str) -> Malformed:
    raw = {k: v for k, v in msgspec.to_builtins(item).items() if v is not None}
    return Malformed(
        kind=kind,
        item_id=item_id,
        contact_id=item.contact_id,
        correlation_id=item.correlation_id,
        reason=reason,
        errors=(FieldError(pointer, detail),),
        raw=raw,
    )


def _overflow(kind: str, item: Message | Command) -> Malformed:
    item_id = item.event_id if isinstance(item, Message) else item.command_id
    return _as_malformed(kind, item, item_id, "queue_overflow", "", "the tenant's queue is full; kept in the dead-letter list")


def _reused_id(item: Command) -> Malformed:
    return _as_malformed("command", item, item.command_id, "command_id_reused", "/command_id", "names another command already")


def _too_far(item: Command) -> Malformed:
    detail = "is too far beyond the last number of this contact"
    return _as_malformed("command", item, item.command_id, "commit_order_too_far", "/commit_order", detail)


# --- writing ------------------------------------------------------------------------------------------------------------


_ADDED = {name: f"t.{name} + r.{name}" for name in ("waiting", "wait_0", "wait_1", "wait_2", "wait_3")}
_ALL_READY = {
    "not_before": "NULL",
    "ready_since": "CASE WHEN t.waiting + r.waiting > 0 THEN coalesce(t.ready_since, r.ready_since) END",
}
_ALL_HEARD = {
    "unheard": "t.unheard + r.unheard",
    "unheard_since": "CASE WHEN t.unheard + r.unheard > 0 THEN coalesce(t.unheard_since, r.unheard_since) END",
}
_SAME_COMMANDS = "t.last_assigned = r.was_last_assigned"
_SAME_MESSAGES = "t.last_sequence = r.was_last_sequence AND t.conversation_version = r.was_conversation_version"
"""What an acceptance changes of a lane, as SQL over what is there and what it brings."""


def _write(conn: Connection, batch: _Batch) -> None:
    bundle = Bundle(conn)
    bundle.insert(_MESSAGE, batch.messages)
    queued = {"status": State.QUEUED_FOR_DISPATCH, "accepted_at": batch.now}
    bundle.insert(_COMMAND, batch.commands, columns=_COMMAND_FIELDS, common=queued)
    ended = {"accepted_at": batch.now, "done_at": batch.now}
    bundle.insert(_COMMAND, batch.placeless, columns=(*_COMMAND_FIELDS, "status", "result", "reason"), common=ended)
    _write_malformed(conn, batch)
    enqueue(conn, results_at_acceptance(conn, batch.placeless, batch.now))
    open_tasks(conn, batch.tasks)
    lanes = {key: lane for key, lane in batch.lanes.items() if lane.touched}
    bundle.update(_LANE, **_advance(lanes, batch.now, heard=bool(batch.messages)))
    changes: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for row in (*batch.messages, *batch.commands, *batch.placeless):
        changes[(row["tenant_id"], "queue")].add(row["contact_id"])
        changes[(row["tenant_id"], "lane")].add(row["contact_id"])
    for task in batch.tasks:
        changes[(task["tenant_id"], "manual")].add(task["task_id"])
    publish_with(bundle, changes, batch.now)
    advanced = bundle.run()
    if advanced != lanes.keys():
        raise LanesMoved(f"{len(lanes.keys() - advanced)} lane(s) are not as they were")
    full = Counter(row["tenant_id"] for row in batch.malformed if row["status"] == State.DEAD_LETTER)
    for tenant_id, count in sorted(full.items()):
        raise_alert(
            conn,
            tenant_id=tenant_id,
            trigger="queue_overflow",
            severity="high",
            summary=f"The clinic's queue is full: {count} items went to the dead-letter list",
            dedup_key="queue_overflow",
            correlation_id=None,
            now=batch.now,
            raised_by="system:intake",
        )


def _write_malformed(conn: Connection, batch: _Batch) -> None:
    """Keep unusable items once per content; the same bytes again raise the counter and are answered with the ids kept."""
    if not batch.malformed:
        return
    unique: dict[tuple[str, str], dict[str, Any]] = {}
    for row in batch.malformed:
        unique.setdefault((row["tenant_id"], row["raw_hash"]), row)
    keys = [{"tenant_id": t, "raw_hash": h} for t, h in unique]
    columns = ("tenant_id", "raw_hash", "item_id", "correlation_id")
    stored = joined_rows(conn, _MALFORMED, keys, keys=("tenant_id", "raw_hash"), columns=columns)
    known = {(row.tenant_id, row.raw_hash): (row.item_id, row.correlation_id) for row in stored}
    insert_rows(conn, _MALFORMED, [row for key, row in unique.items() if key not in known], ignore_conflicts=True)
    again = [{"tenant_id": t, "raw_hash": h} for t, h in unique if (t, h) in known]
    update_rows(conn, _MALFORMED, again, keys=("tenant_id", "raw_hash"), expressions={"times": "t.times + 1"})
    kept = {key: (row["item_id"], row["correlation_id"]) for key, row in unique.items()} | known
    for index, row in zip(batch.malformed_at, batch.malformed, strict=True):
        receipt, (item_id, correlation_id) = batch.receipts[index], kept[(row["tenant_id"], row["raw_hash"])]
        assert receipt is not None
        batch.receipts[index] = changed(receipt, item_id=row["given_id"] or item_id, correlation_id=correlation_id)


def _advance(lanes: Mapping[LaneKey, LaneState], now: datetime, *, heard: bool) -> dict[str, Any]:
    """The update of the lanes: what messages change too only where there are some (`heard`)."""
    rows = []
    for (tenant_id, contact_id), lane in lanes.items():
        row: dict[str, Any] = {
            "tenant_id": tenant_id,
            "contact_id": contact_id,
            "was_last_assigned": lane.row.last_assigned,
            "last_assigned": lane.last_assigned,
            "waiting": sum(lane.commands),
            **{f"wait_{rank}": count for rank, count in enumerate(lane.commands)},
            "ready_since": now,
        }
        if heard:
            row |= {
                "was_conversation_version": lane.row.conversation_version,
                "was_last_sequence": lane.row.last_sequence,
                "conversation_version": lane.conversation_version,
                "last_sequence": lane.last_sequence,
                "conversation_id": lane.conversation_id,
                "unheard": lane.messages,
                "unheard_since": now,
            }
        rows.append(row)
    return {
        "rows": rows,
        "keys": ("tenant_id", "contact_id"),
        "in_order": True,
        "assign": ("last_assigned", *(("conversation_version", "last_sequence", "conversation_id") if heard else ())),
        "expressions": {**_ADDED, **_ALL_READY, **(_ALL_HEARD if heard else {})},
        "guard": f"{_SAME_COMMANDS} AND {_SAME_MESSAGES}" if heard else _SAME_COMMANDS,
    }
