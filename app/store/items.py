"""Accepted items as the API shows them: one command or event with its history, a contact's lane, a clinic's queue.

Reads only. An item that could not be used is found like any other, by the id that its sender gave it or by ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, func, or_, select

from app.domain.lanes import LaneCandidate, effective_rank, rank
from app.domain.states import PRIORITY_BY_RANK, State
from app.store.bulk import joined_rows
from app.store.tables import (
    DeliveryStatus,
    InboxCommand,
    InboxMessage,
    Lane,
    Ledger,
    MalformedItem,
    Outbox,
    Proposal,
    table,
)
from app.store.waiting import stopped_by, tenant_holds

_COMMAND, _MESSAGE, _MALFORMED = table(InboxCommand), table(InboxMessage), table(MalformedItem)
_LANE, _LEDGER, _OUTBOX = table(Lane), table(Ledger), table(Outbox)
_PROPOSAL, _DELIVERY = table(Proposal), table(DeliveryStatus)

LANES_MAX: Final = 10_000
"""So many waiting lanes of a clinic are ranked for its queue; the rest come behind them."""

Document = dict[str, Any]


# --- one item -----------------------------------------------------------------------------------------------------------


def command(conn: Connection, tenant_id: str, command_id: str) -> Document | None:
    """A command with everything that happened to it; None when the clinic has no such command."""
    row = conn.execute(select(_COMMAND).where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.command_id == command_id)).first()
    if row is None:
        return _malformed(conn, tenant_id, command_id, "command")
    return {
        "command_id": row.command_id,
        "contact_id": row.contact_id,
        "conversation_id": row.conversation_id,
        "command_type": row.command_type,
        "source": _source(row),
        "patient_id": row.patient_id,
        "status": row.status,
        "result": row.result,
        "reason": row.reason,
        "commit_order": row.commit_order,
        "dispatch_priority": PRIORITY_BY_RANK[row.priority],
        "attempts": row.attempts,
        "requested_by": row.requested_by,
        "confirmed_by_contact": row.confirmed_by_contact,
        "idempotency_key": row.idempotency_key,
        "conversation_version": row.conversation_version,
        "guardian_version": row.guardian_version,
        "entity_version": row.entity_version,
        "as_of": row.as_of,
        "occurred_at": row.occurred_at,
        "accepted_at": row.accepted_at,
        "done_at": row.done_at,
        "was_parked": row.was_parked,
        "replayed": row.replayed,
        "correlation_id": row.correlation_id,
        "causation_id": row.causation_id,
        "payload": msgspec.json.decode(row.payload_json),
        "timeline": _command_timeline(conn, row),
    }


def _source(row: Any) -> str:
    """Where a command comes from; one that contingency keeps comes from its queue, whoever sent it."""
    return "contingency" if row.status == State.PENDING_CONTINGENCY else str(row.source)


def event(conn: Connection, tenant_id: str, event_id: str) -> Document | None:
    """An event with everything that happened to it; None when the clinic has no such event."""
    row = conn.execute(select(_MESSAGE).where(_MESSAGE.c.tenant_id == tenant_id, _MESSAGE.c.event_id == event_id)).first()
    if row is None:
        return _malformed(conn, tenant_id, event_id, "message")
    timeline = [_step(row.occurred_at, "occurred"), _step(row.received_at, "accepted", status=State.QUEUED_FOR_DISPATCH)]
    if row.done_at is not None:
        timeline.append(_step(row.done_at, "processed", status=row.status, made_command_id=row.made_command_id))
    return {
        "event_id": row.event_id,
        "contact_id": row.contact_id,
        "conversation_id": row.conversation_id,
        "event_type": row.event_type,
        "external_id": row.external_id,
        "channel": row.channel,
        "status": row.status,
        "result": row.status if row.done_at is not None else None,
        "reason": row.reason,
        "sequence": row.sequence,
        "conversation_version": row.conversation_version,
        "dispatch_priority": PRIORITY_BY_RANK[row.priority],
        "attempts": 1 if row.done_at is not None else 0,
        "intent": row.intent,
        "made_command_id": row.made_command_id,
        "occurred_at": row.occurred_at,
        "accepted_at": row.received_at,
        "done_at": row.done_at,
        "correlation_id": row.correlation_id,
        "causation_id": row.causation_id,
        "payload": msgspec.json.decode(row.payload_json),
        "timeline": timeline,
    }


def outcomes(conn: Connection, tenant_id: str, command_ids: Sequence[str]) -> dict[str, Any]:
    """Status, result and reason of commands by id."""
    query = select(_COMMAND.c.command_id, _COMMAND.c.status, _COMMAND.c.result, _COMMAND.c.reason)
    rows = conn.execute(query.where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.command_id.in_(command_ids)))
    return {str(row.command_id): row for row in rows.all()}


def _malformed(conn: Connection, tenant_id: str, item_id: str, kind: str) -> Document | None:
    row = conn.execute(
        select(_MALFORMED)
        .where(
            _MALFORMED.c.tenant_id == tenant_id,
            _MALFORMED.c.kind == kind,
            or_(_MALFORMED.c.item_id == item_id, _MALFORMED.c.given_id == item_id),
        )
        .order_by(_MALFORMED.c.received_at.desc(), _MALFORMED.c.item_id.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    return {
        "command_id" if kind == "command" else "event_id": item_id,
        "item_id": row.item_id,
        "contact_id": row.contact_id,
        "status": row.status,
        "result": row.status,
        "reason": row.reason,
        "commit_order" if kind == "command" else "sequence": None,
        "dispatch_priority": None,
        "attempts": 0,
        "accepted_at": row.received_at,
        "done_at": row.received_at,
        "correlation_id": row.correlation_id,
        "errors": msgspec.json.decode(row.errors_json),
        "times": row.times,
        "timeline": [_step(row.received_at, "kept_for_a_person", status=row.status, reason=row.reason)],
    }


def _command_timeline(conn: Connection, row: Row[Any]) -> list[Document]:
    """What happened to a command, oldest first."""
    steps = [_step(row.accepted_at, "accepted", status=State.QUEUED_FOR_DISPATCH, commit_order=row.commit_order)]
    if row.occurred_at is not None:
        steps.insert(0, _step(row.occurred_at, "occurred"))
    if row.waiting_since is not None:
        details = {} if row.done_at is not None else {"status": row.status, "reason": row.reason}
        steps.append(_step(row.waiting_since, "parked" if row.was_parked else "waiting", **details))
    own = (row.tenant_id, row.command_id)
    entry = conn.execute(select(_LEDGER).where(_LEDGER.c.tenant_id == own[0], _LEDGER.c.command_id == own[1])).first()
    if entry is not None:
        steps.append(
            _step(
                entry.committed_at,
                "decided",
                status=row.status,
                result=entry.result,
                reason=entry.reason,
                commit_order=entry.commit_order,
                entity_id=entry.entity_id,
                entity_version=entry.entity_version,
                late=entry.late,
                lock_backend=entry.lock_backend,
                lock_mode=entry.lock_mode,
                node_id=entry.node_id,
            )
        )
    elif row.done_at is not None:
        steps.append(_step(row.done_at, "decided", status=row.status, result=row.result, reason=row.reason))
    proposal = conn.execute(select(_PROPOSAL).where(_PROPOSAL.c.tenant_id == own[0], _PROPOSAL.c.command_id == own[1])).first()
    if proposal is not None:
        steps.append(_step(proposal.opened_at, "confirmation_asked", expires_at=proposal.expires_at))
        if proposal.closed_at is not None:
            steps.append(_step(proposal.closed_at, "confirmation_closed", outcome=proposal.outcome))
    steps += _deliveries(conn, *own)
    return sorted(steps, key=lambda step: step["at"])  # stable: steps of one moment keep the order above


def _deliveries(conn: Connection, tenant_id: str, cause_id: str) -> list[Document]:
    """What was sent to the outside because of a command, and what the provider said about it."""
    rows = conn.execute(
        select(_OUTBOX).where(_OUTBOX.c.tenant_id == tenant_id, _OUTBOX.c.cause_id == cause_id).order_by(_OUTBOX.c.created_at)
    ).all()
    steps = []
    for row in rows:
        steps.append(_step(row.created_at, "message_queued", kind=row.kind, step=row.step, delivery_id=row.outbox_id))
        if row.sent_at is not None:
            steps.append(_step(row.sent_at, "message_sent", delivery_id=row.outbox_id, status=row.status, attempts=row.attempts))
        elif row.attempts:
            details = {"status": row.status, "attempts": row.attempts, "error": row.last_error}
            steps.append(_step(row.due_at, "message_attempted", delivery_id=row.outbox_id, **details))
    names = {row.provider_message_id: row.outbox_id for row in rows if row.provider_message_id}
    if names:
        said = select(_DELIVERY).where(_DELIVERY.c.tenant_id == tenant_id, _DELIVERY.c.provider_message_id.in_(list(names)))
        steps += [
            _step(row.at, "message_status", delivery_id=names[row.provider_message_id], status=row.status)
            for row in conn.execute(said)
        ]
    return steps


def _step(at: datetime, what: str, **details: Any) -> Document:
    return {"at": at, "what": what, **{k: v for k, v in details.items() if v is not None}}


# --- a contact's lane ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LanePosition:
    """Where a page of a lane ended: last sequence, last commit_order, and the last command without a place."""

    sequence: int = 0
    commit_order: int = 0
    placeless_at: datetime | None = None
    placeless_id: str = ""


def lane(
    conn: Connection, tenant_id: str, contact_id: str, *, after: LanePosition, limit: int
) -> tuple[list[Document], LanePosition | None] | None:
    """A contact's messages and commands in causal order, and where to go on; None for an unknown contact.

    Messages stand in `sequence`, commands in `commit_order`; the two are merged by when their next one was accepted.
    """
    known = conn.execute(select(_LANE.c.contact_id).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id))
    if known.first() is None:
        return None
    messages = _lane_messages(conn, tenant_id, contact_id, after, limit + 1)
    commands = _lane_commands(conn, tenant_id, contact_id, after, limit + 1)
    placeless = _lane_placeless(conn, tenant_id, contact_id, after, limit + 1)
    items: list[Document] = []
    queues = [messages, commands, placeless]
    taken = [0, 0, 0]
    while len(items) < limit:
        heads = [(queue[taken[i]]["accepted_at"], i) for i, queue in enumerate(queues) if taken[i] < len(queue)]
        if not heads:
            return items, None
        _, chosen = min(heads)
        items.append(queues[chosen][taken[chosen]])
        taken[chosen] += 1
    if all(taken[i] == len(queue) for i, queue in enumerate(queues)):
        return items, None
    last = placeless[taken[2] - 1] if taken[2] else None
    position = LanePosition(
        sequence=messages[taken[0] - 1]["sequence"] if taken[0] else after.sequence,
        commit_order=commands[taken[1] - 1]["commit_order"] if taken[1] else after.commit_order,
        placeless_at=last["accepted_at"] if last else after.placeless_at,
        placeless_id=last["id"] if last else after.placeless_id,
    )
    return items, position


def _lane_messages(conn: Connection, tenant_id: str, contact_id: str, after: LanePosition, limit: int) -> list[Document]:
    rows = conn.execute(
        select(_MESSAGE)
        .where(_MESSAGE.c.tenant_id == tenant_id, _MESSAGE.c.contact_id == contact_id, _MESSAGE.c.sequence > after.sequence)
        .order_by(_MESSAGE.c.sequence)
        .limit(limit)
    )
    return [
        {
            "kind": "message",
            "id": row.event_id,
            "sequence": row.sequence,
            "status": row.status,
            "result": row.status if row.done_at is not None else None,
            "reason": row.reason,
            "dispatch_priority": PRIORITY_BY_RANK[row.priority],
            "accepted_at": row.received_at,
            "done_at": row.done_at,
            "lock_backend": None,
            "correlation_id": row.correlation_id,
        }
        for row in rows
    ]


def _lane_commands(conn: Connection, tenant_id: str, contact_id: str, after: LanePosition, limit: int) -> list[Document]:
    """Commands with a place, and the tombstones of places that never were filled, in `commit_order`."""
    same = and_(_LEDGER.c.tenant_id == _COMMAND.c.tenant_id, _LEDGER.c.command_id == _COMMAND.c.command_id)
    rows = conn.execute(
        select(_COMMAND, _LEDGER.c.lock_backend)
        .outerjoin(_LEDGER, same)
        .where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.contact_id == contact_id, _COMMAND.c.commit_order > after.commit_order)
        .order_by(_COMMAND.c.commit_order)
        .limit(limit)
    )
    empty = conn.execute(
        select(_LEDGER)
        .where(
            _LEDGER.c.tenant_id == tenant_id,
            _LEDGER.c.contact_id == contact_id,
            _LEDGER.c.command_id.is_(None),
            _LEDGER.c.commit_order > after.commit_order,
        )
        .order_by(_LEDGER.c.commit_order)
        .limit(limit)
    )
    places = [_lane_command(row, row.lock_backend) for row in rows]
    places += [
        {
            "kind": "command",
            "id": None,
            "commit_order": row.commit_order,
            "command_type": None,
            "status": row.result,
            "result": row.result,
            "reason": row.reason,
            "dispatch_priority": None,
            "accepted_at": row.accepted_at,
            "done_at": row.committed_at,
            "lock_backend": row.lock_backend,
            "correlation_id": row.correlation_id,
        }
        for row in empty
    ]
    return sorted(places, key=lambda place: int(place["commit_order"]))[:limit]


def _lane_placeless(conn: Connection, tenant_id: str, contact_id: str, after: LanePosition, limit: int) -> list[Document]:
    """Commands that were refused a place, by acceptance."""
    query = select(_COMMAND).where(
        _COMMAND.c.tenant_id == tenant_id, _COMMAND.c.contact_id == contact_id, _COMMAND.c.commit_order.is_(None)
    )
    if after.placeless_at is not None:
        at, key = _COMMAND.c.accepted_at, _COMMAND.c.command_id
        query = query.where(or_(at > after.placeless_at, and_(at == after.placeless_at, key > after.placeless_id)))
    rows = conn.execute(query.order_by(_COMMAND.c.accepted_at, _COMMAND.c.command_id).limit(limit))
    return [_lane_command(row, None) for row in rows]


def _lane_command(row: Row[Any], lock_backend: str | None) -> Document:
    return {
        "kind": "command",
        "id": row.command_id,
        "commit_order": row.commit_order,
        "command_type": row.command_type,
        "status": row.status,
        "result": row.result,
        "reason": row.reason,
        "dispatch_priority": PRIORITY_BY_RANK[row.priority],
        "accepted_at": row.accepted_at,
        "done_at": row.done_at,
        "lock_backend": lock_backend,
        "correlation_id": row.correlation_id,
    }


# --- a clinic's queue ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueuePage:
    """Some of a clinic's waiting commands in the order in which they will be served; `total` of them wait."""

    items: list[Document]
    total: int
    unheard: int
    """Messages accepted and not processed yet."""


def queue(conn: Connection, tenant_id: str, now: datetime, *, offset: int, limit: int) -> QueuePage:
    """Waiting and parked commands by dispatch order: lanes ranked as dispatch ranks them, each in `commit_order`.

    Lanes that are not looked at now (paused, held, parked or waiting for a gap) come behind those that are.
    """
    totals = conn.execute(
        select(func.coalesce(func.sum(_LANE.c.waiting), 0), func.coalesce(func.sum(_LANE.c.unheard), 0)).where(
            _LANE.c.tenant_id == tenant_id, or_(_LANE.c.waiting > 0, _LANE.c.unheard > 0)
        )
    ).one()
    holds = tenant_holds(conn, tenant_id)
    lanes = conn.execute(
        select(_LANE).where(_LANE.c.tenant_id == tenant_id, _LANE.c.waiting > 0).order_by(_LANE.c.ready_since).limit(LANES_MAX)
    ).all()
    chosen, skip = _window(_dispatch_order(lanes, holds, now), offset, limit)
    items = _queue_items(conn, [row for row, _ in chosen], now, {row.contact_id: effective for row, effective in chosen})
    for row, _ in chosen:
        for item in items[row.contact_id]:
            item["blocked_by"] = stopped_by(row, holds)
    flat = [item for row, _ in chosen for item in items[row.contact_id]]
    return QueuePage(items=flat[skip : skip + limit], total=int(totals[0]), unheard=int(totals[1]))


Ranked = tuple[Row[Any], int]
"""A lane and its effective class, ageing included."""


def _dispatch_order(lanes: Sequence[Row[Any]], holds: Mapping[str, Row[Any]], now: datetime) -> list[Ranked]:
    rows = {row.contact_id: row for row in lanes}
    candidates = {row.contact_id: _candidate(row, now) for row in lanes}
    ready = [candidates[row.contact_id] for row in lanes if _ready(row, holds, now)]
    served = [lane.contact_id for lane in rank(ready, now)]
    later = sorted(
        rows.keys() - set(served), key=lambda contact: (rows[contact].not_before or now, rows[contact].ready_since or now, contact)
    )
    return [(rows[contact], effective_rank(candidates[contact], now)) for contact in (*served, *later)]


def _candidate(row: Row[Any], now: datetime) -> LaneCandidate:
    best = next((i for i, count in enumerate((row.wait_0, row.wait_1, row.wait_2)) if count > 0), 3)
    return LaneCandidate(
        tenant_id=row.tenant_id,
        contact_id=row.contact_id,
        best_rank=best,
        ready_since=row.ready_since or now,
        waiting=row.waiting,
    )


def _ready(row: Row[Any], holds: Mapping[str, Row[Any]], now: datetime) -> bool:
    due = row.not_before is None or row.not_before <= now
    return due and (row.paused_at is None or row.step_credit > 0) and "*" not in holds and row.blocked_by is None


def _window(order: Sequence[Ranked], offset: int, limit: int) -> tuple[list[Ranked], int]:
    """The lanes that hold the items [offset, offset + limit), and how many items of the first come before."""
    chosen: list[Ranked] = []
    seen, skip = 0, 0
    for entry in order:
        waiting = entry[0].waiting
        if seen + waiting > offset:
            if not chosen:
                skip = offset - seen
            chosen.append(entry)
        seen += waiting
        if seen >= offset + limit:
            break
    return chosen, skip


def _queue_items(conn: Connection, lanes: Sequence[Row[Any]], now: datetime, ranks: Mapping[str, int]) -> dict[str, list[Document]]:
    """Pending commands of the lanes in `commit_order`, without their payloads."""
    found: dict[str, list[Document]] = {row.contact_id: [] for row in lanes}
    if not lanes:
        return found
    columns = (
        "contact_id command_id commit_order command_type priority status reason source accepted_at waiting_since correlation_id"
    ).split()
    rows = joined_rows(
        conn,
        _COMMAND,
        [{"tenant_id": row.tenant_id, "contact_id": row.contact_id} for row in lanes],
        keys=("tenant_id", "contact_id"),
        columns=columns,
        where="t.done_at IS NULL AND t.commit_order IS NOT NULL",
        tail="ORDER BY t.contact_id, t.commit_order",
    )
    for row in rows:
        found[row.contact_id].append(
            {
                "kind": "command",
                "id": row.command_id,
                "command_id": row.command_id,
                "contact_id": row.contact_id,
                "command_type": row.command_type,
                "commit_order": row.commit_order,
                "priority": PRIORITY_BY_RANK[row.priority],
                "dispatch_priority": PRIORITY_BY_RANK[row.priority],
                "served_as": PRIORITY_BY_RANK[ranks[row.contact_id]],
                "status": row.status,
                "reason": row.reason,
                "source": _source(row),
                "age_s": round((now - row.accepted_at).total_seconds(), 3),
                "accepted_at": row.accepted_at,
                "waiting_since": row.waiting_since,
                "correlation_id": row.correlation_id,
            }
        )
    return found
