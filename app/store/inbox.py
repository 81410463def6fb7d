"""Acceptance: the transaction after which an item is ours (F-01).

`accept` takes a batch of parsed items of any tenants and, in one transaction: resolves contacts, locks their lanes in
sorted order (no deadlocks), recognises duplicates, assigns `sequence` and `commit_order` from the locked lane rows,
stores everything, and answers one `Receipt` per item in the order given. An answer may leave only after this transaction
is durable. Unusable items become a kept row and a manual task; overflow of a tenant's queue becomes a dead letter.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace as changed
from sqlalchemy import Connection, Row, text

from app.domain.envelopes import Command, FieldError, Malformed, Message, canonical_json, sha256_hex
from app.domain.lanes import Acceptance, accept_order
from app.domain.states import PRIORITY_BY_RANK, State
from app.store.alerts import raise_alert
from app.store.bulk import Bundle, insert_rows, joined_rows, update_rows
from app.store.events import publish_with
from app.store.outbox import enqueue
from app.store.results import results_at_acceptance
from app.store.tables import Contact, InboxCommand, InboxMessage, Lane, MalformedItem, ManualTask, table
from app.store.tasks import open_tasks, task_row

_LANE, _CONTACT = table(Lane), table(Contact)
_MESSAGE, _COMMAND, _MALFORMED = table(InboxMessage), table(InboxCommand), table(MalformedItem)
_TASK = table(ManualTask)

LaneKey = tuple[str, str]

_LANE_COLUMNS = (
    "tenant_id contact_id conversation_id conversation_version last_sequence last_assigned last_committed "
    "unheard unheard_since waiting wait_0 wait_1 wait_2 wait_3 ready_since"
).split()
_MESSAGE_COLUMNS = "tenant_id event_id channel external_id contact_id sequence status priority correlation_id".split()
_MAY_BE_EMPTY = (
    "conversation_id requested_by_id patient_id guardian_version conversation_version entity_version as_of occurred_at causation_id"
).split()
_COMMAND_FIELDS = (
    *"tenant_id command_id contact_id commit_order command_type priority idempotency_key fingerprint requested_by source".split(),
    *"confirmed_by_contact was_parked replayed correlation_id correlation_generated payload_json".split(),
    *_MAY_BE_EMPTY,
)
"""What an accepted command brings; what all commands of a batch have in common is written beside it."""
_COMMAND_COLUMNS = "tenant_id command_id contact_id idempotency_key fingerprint commit_order status priority correlation_id".split()


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One item on its way in: `item` as parsed, `spare_id` for what must be created with it, triage of a message."""

    tenant_id: str
    item: Command | Message | Malformed
    spare_id: str
    priority: int = 3
    intent: str | None = None


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


class _LaneState(msgspec.Struct):
    """A locked lane row while a batch is added to it."""

    row: Row[Any]
    conversation_version: int
    last_sequence: int
    last_assigned: int
    conversation_id: str | None
    unheard: int
    waits: list[int]
    touched: bool = False
    orders: set[int] = msgspec.field(default_factory=set)
    """commit_orders above last_committed known to be taken (looked up only where a source names its own)."""
    sequences: set[int] = msgspec.field(default_factory=set)


@dataclass(slots=True)
class _Batch:
    now: datetime
    receipts: list[Receipt | None]
    lanes: dict[LaneKey, _LaneState] = field(default_factory=dict)
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
) -> list[Receipt]:
    """Accept a batch; `room` is how many more items each tenant's queue takes (missing = no limit)."""
    batch = _Batch(now=now, receipts=[None] * len(submissions))
    left = dict(room or {})
    submissions = _resolve_phones(conn, submissions, now)
    batch.lanes = _lock_lanes(conn, _lane_keys(submissions), now)
    seen_messages = _known_messages(conn, submissions)
    seen_commands = _known_commands(conn, submissions)
    _load_given_numbers(conn, submissions, batch)
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


# --- contacts and lanes -------------------------------------------------------------------------------------------------


def _resolve_phones(conn: Connection, submissions: Sequence[Submission], now: datetime) -> list[Submission]:
    """Give every message a contact: known by phone, or created for it."""
    wanted = {(s.tenant_id, s.item.phone): s for s in submissions if isinstance(s.item, Message) and s.item.contact_id is None}
    if not wanted:
        return list(submissions)
    keys = [{"tenant_id": t, "phone": p} for t, p in wanted]
    known = {(r.tenant_id, r.phone): r.contact_id for r in _contacts_by_phone(conn, keys)}
    missing = [
        {"tenant_id": t, "contact_id": f"c-{s.spare_id}", "phone": p, "name": _profile_name(s.item), "created_at": now}
        for (t, p), s in sorted(wanted.items(), key=lambda entry: (entry[0][0], entry[0][1] or ""))
        if (t, p) not in known
    ]
    if missing:
        insert_rows(conn, _CONTACT, missing, ignore_conflicts=True)
        known = {(r.tenant_id, r.phone): r.contact_id for r in _contacts_by_phone(conn, keys)}
    resolved = []
    for s in submissions:
        item = s.item
        if isinstance(item, Message) and item.contact_id is None:
            item = changed(item, contact_id=known[(s.tenant_id, item.phone)])
        resolved.append(changed(s, item=item))
    return resolved


def _contacts_by_phone(conn: Connection, keys: list[dict[str, Any]]) -> Any:
    return joined_rows(conn, _CONTACT, keys, keys=("tenant_id", "phone"), columns=("tenant_id", "phone", "contact_id"))


def _profile_name(item: object) -> str | None:
    return item.profile_name[:200] if isinstance(item, Message) and item.profile_name else None


def _lane_keys(submissions: Sequence[Submission]) -> list[LaneKey]:
    keys: set[LaneKey] = set()
    for s in submissions:
        if not isinstance(s.item, Malformed) and s.item.contact_id:
            keys.add((s.tenant_id, s.item.contact_id))
    return sorted(keys)


def _lock_lanes(conn: Connection, keys: list[LaneKey], now: datetime) -> dict[LaneKey, _LaneState]:
    if not keys:
        return {}
    rows = _select_lanes(conn, keys)
    missing = [k for k in keys if k not in rows]
    if missing:
        ensure_lanes(conn, missing, now)
        rows |= _select_lanes(conn, missing)
    return {
        key: _LaneState(
            row=row,
            conversation_version=row.conversation_version,
            last_sequence=row.last_sequence,
            last_assigned=row.last_assigned,
            conversation_id=row.conversation_id,
            unheard=row.unheard,
            waits=[row.wait_0, row.wait_1, row.wait_2, row.wait_3],
        )
        for key, row in rows.items()
    }


def _select_lanes(conn: Connection, keys: list[LaneKey]) -> dict[LaneKey, Row[Any]]:
    lock = "FOR UPDATE OF t" if conn.dialect.name == "postgresql" else ""
    rows = joined_rows(
        conn,
        _LANE,
        [{"tenant_id": t, "contact_id": c} for t, c in keys],
        keys=("tenant_id", "contact_id"),
        columns=_LANE_COLUMNS,
        tail=f"ORDER BY t.tenant_id, t.contact_id {lock}",
    )
    return {(row.tenant_id, row.contact_id): row for row in rows}


def ensure_lanes(conn: Connection, keys: Sequence[LaneKey], now: datetime) -> None:
    """Create the contact and lane rows that do not exist yet."""
    pairs = [{"tenant_id": t, "contact_id": c} for t, c in keys]
    insert_rows(conn, _CONTACT, [{**p, "created_at": now} for p in pairs], ignore_conflicts=True)
    insert_rows(conn, _LANE, pairs, ignore_conflicts=True)


# --- duplicates ---------------------------------------------------------------------------------------------------------


def _known_messages(conn: Connection, submissions: Sequence[Submission]) -> dict[tuple[str, ...], Any]:
    """Messages already stored, by provider id and by event id."""
    items = [s.item for s in submissions if isinstance(s.item, Message)]
    if not items:
        return {}
    by_external = joined_rows(
        conn,
        _MESSAGE,
        [{"tenant_id": m.tenant_id, "channel": m.channel, "external_id": m.external_id} for m in items],
        keys=("tenant_id", "channel", "external_id"),
        columns=_MESSAGE_COLUMNS,
    ).all()
    known: dict[tuple[str, ...], Any] = {("ext", r.tenant_id, r.channel, r.external_id): r for r in by_external}
    given = [
        {"tenant_id": s.tenant_id, "event_id": s.item.event_id}
        for s in submissions
        if isinstance(s.item, Message) and s.item.event_id != s.spare_id  # an id made here a moment ago is nobody else's
    ]
    if given:
        by_id = joined_rows(conn, _MESSAGE, given, keys=("tenant_id", "event_id"), columns=_MESSAGE_COLUMNS)
        known |= {("id", r.tenant_id, r.event_id): r for r in by_id}
    return known


def _known_commands(conn: Connection, submissions: Sequence[Submission]) -> dict[tuple[str, ...], Any]:
    """Commands already stored, by idempotency key (the first holder) and by command id."""
    items = [s.item for s in submissions if isinstance(s.item, Command)]
    if not items:
        return {}
    by_key = joined_rows(
        conn,
        _COMMAND,
        [{"tenant_id": c.tenant_id, "idempotency_key": c.idempotency_key} for c in items],
        keys=("tenant_id", "idempotency_key"),
        columns=_COMMAND_COLUMNS,
        tail="ORDER BY t.accepted_at DESC, t.command_id DESC",
    ).all()
    known: dict[tuple[str, ...], Any] = {("key", r.tenant_id, r.idempotency_key): r for r in by_key}
    given = [
        {"tenant_id": s.tenant_id, "command_id": s.item.command_id}
        for s in submissions
        if isinstance(s.item, Command) and s.item.command_id != s.spare_id
    ]
    if given:
        by_id = joined_rows(conn, _COMMAND, given, keys=("tenant_id", "command_id"), columns=_COMMAND_COLUMNS)
        known |= {("id", r.tenant_id, r.command_id): r for r in by_id}
    return known


def _load_given_numbers(conn: Connection, submissions: Sequence[Submission], batch: _Batch) -> None:
    """Which of the numbers that sources gave themselves are taken already."""
    orders = [
        {"tenant_id": s.tenant_id, "contact_id": s.item.contact_id, "commit_order": s.item.commit_order}
        for s in submissions
        if isinstance(s.item, Command) and s.item.commit_order is not None
    ]
    if orders:
        keys = ("tenant_id", "contact_id", "commit_order")
        for row in joined_rows(conn, _COMMAND, orders, keys=keys, columns=keys):
            batch.lanes[(row.tenant_id, row.contact_id)].orders.add(row.commit_order)
    sequences = [
        {"tenant_id": s.tenant_id, "contact_id": s.item.contact_id, "sequence": s.item.sequence}
        for s in submissions
        if isinstance(s.item, Message) and s.item.sequence is not None
    ]
    if sequences:
        keys = ("tenant_id", "contact_id", "sequence")
        for row in joined_rows(conn, _MESSAGE, sequences, keys=keys, columns=keys):
            batch.lanes[(row.tenant_id, row.contact_id)].sequences.add(row.sequence)


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
    lane.unheard += 1
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
    known[external] = known[own] = _Known(row)
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
        lane.waits[item.priority.rank] += 1
        lane.touched = True
        batch.commands.append(row)
    first = by_key not in known
    rank = item.priority.rank
    receipt = _queued("command", item.command_id, item.contact_id, verdict.number, rank, item.correlation_id, holds_key=first)
    known[own] = _Known(row)
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


class _Known:
    """A row of this very batch, seen as one that is already stored."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.__dict__.update(row)


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
    update = _lane_update if batch.messages else _waiting_update
    lanes = [update(key, lane, batch.now) for key, lane in batch.lanes.items() if lane.touched]
    if lanes:
        bundle.update(
            _LANE,
            lanes,
            keys=("tenant_id", "contact_id"),
            assign=[c for c in lanes[0] if c not in ("tenant_id", "contact_id")],
            expressions={"not_before": "NULL"},
        )
    changes: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for row in (*batch.messages, *batch.commands, *batch.placeless):
        changes[(row["tenant_id"], "queue")].add(row["contact_id"])
        changes[(row["tenant_id"], "lane")].add(row["contact_id"])
    for task in batch.tasks:
        changes[(task["tenant_id"], "manual")].add(task["task_id"])
    publish_with(bundle, changes, batch.now)
    bundle.run()
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


def _lane_update(key: LaneKey, lane: _LaneState, now: datetime) -> dict[str, Any]:
    return _waiting_update(key, lane, now) | {
        "conversation_id": lane.conversation_id,
        "conversation_version": lane.conversation_version,
        "last_sequence": lane.last_sequence,
        "unheard": lane.unheard,
        "unheard_since": (lane.row.unheard_since or now) if lane.unheard else None,
    }


def _waiting_update(key: LaneKey, lane: _LaneState, now: datetime) -> dict[str, Any]:
    """All that commands change."""
    waiting = sum(lane.waits)
    return {
        "tenant_id": key[0],
        "contact_id": key[1],
        "last_assigned": lane.last_assigned,
        "waiting": waiting,
        "wait_0": lane.waits[0],
        "wait_1": lane.waits[1],
        "wait_2": lane.waits[2],
        "wait_3": lane.waits[3],
        "ready_since": (lane.row.ready_since or now) if waiting else None,
    }
