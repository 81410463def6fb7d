"""The outbox: what goes to the outside, written in the transaction of its cause and delivered afterwards.

`pending -> sending (lease) -> sent | failed | unknown | dead`, or back to `pending` for another attempt. Every step is a
compare-and-set: a row that does not match was taken by another node, and nothing happened. The messages of one contact
leave one after the other, in the order in which they were written. A lease that runs out on a message to a family
means that nobody knows whether it was sent: it goes to a person and is never repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Integer, Row, Select, and_, bindparam, case, func, select, update

from app.domain.delivery import REPEATABLE_KINDS, DeliveryUpdate, OutboxStatus, furthest
from app.domain.envelopes import sha256_hex
from app.ids import new_id
from app.store.alerts import raise_alert
from app.store.bulk import Bundle, insert_rows, joined_rows, update_rows
from app.store.columns import UTCDateTime
from app.store.events import publish_many
from app.store.failing import note_attempts
from app.store.tables import Contact, DeliveryStatus, InboxMessage, ManualTask, Outbox, table
from app.store.tasks import open_tasks, task_row

_OUTBOX, _STATUS, _TASK = table(Outbox), table(DeliveryStatus), table(ManualTask)
_CONTACT, _MESSAGE = table(Contact), table(InboxMessage)

ACTIVE = (OutboxStatus.PENDING, OutboxStatus.SENDING)
TASK_DUE = timedelta(minutes=15)
NOT_WANTED = "webhook_not_configured"
"""Why a result is not delivered any more once the clinic took its webhook away: nobody has to see to that."""
NOT_SENT_IN_TIME = "not_sent_in_time"
"""`last_error` of what was dropped because its time was over; what follows from it is its cause's to say, and no task's."""
_KEEP_LAST_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One delivery whose turn has come, with what its channel needs to know."""

    outbox_id: str
    tenant_id: str
    contact_id: str | None
    phone: str | None
    kind: str
    attempts: int
    """Attempts so far."""
    correlation_id: str
    body: dict[str, Any]
    last_inbound_at: datetime | None
    """When the contact last wrote (providers allow free text for 24 h after that)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one attempt came to, for `settle`."""

    outbox_id: str
    token: str
    status: OutboxStatus
    detail: str | None = None
    provider_message_id: str | None = None
    due_at: datetime | None = None
    """When to try again; only with PENDING."""


def outbox_row(
    *,
    tenant_id: str,
    cause_id: str,
    step: str,
    kind: str,
    body: dict[str, Any],
    correlation_id: str,
    now: datetime,
    contact_id: str | None = None,
    due_at: datetime | None = None,
    not_after: datetime | None = None,
) -> dict[str, Any]:
    """A row for `enqueue`. Kind `family_message` needs a contact and `body.text`; `webhook` and `notice` name `body.channel`.

    What has not been sent by `not_after` is dropped; its cause must say what happens then.
    """
    return {
        "outbox_id": new_id(),
        "tenant_id": tenant_id,
        "cause_id": cause_id,
        "step": step,
        "contact_id": contact_id,
        "kind": kind,
        "target": sha256_hex(channel) if isinstance(channel := body.get("channel"), str) and channel else "",
        "created_at": now,
        "due_at": due_at or now,
        "not_after": not_after,
        "correlation_id": correlation_id,
        "body_json": msgspec.json.encode(body).decode(),
    }


def enqueue(conn: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Add deliveries in the caller's transaction; a (cause, step) that is already there keeps its row."""
    bundle = Bundle(conn)
    enqueue_with(bundle, rows)
    bundle.run()


def enqueue_with(bundle: Bundle, rows: Sequence[dict[str, Any]]) -> None:
    """The same as a part of a bundle."""
    # rows of one transaction share their time: a microsecond each keeps the order in which they were said
    ordered = [row | {"created_at": row["created_at"] + timedelta(microseconds=i)} for i, row in enumerate(rows)]
    bundle.insert(_OUTBOX, ordered, ignore_conflicts=True)


def _due_query() -> Select[Any]:
    place = func.row_number().over(
        partition_by=(_OUTBOX.c.tenant_id, func.coalesce(_OUTBOX.c.contact_id, _OUTBOX.c.outbox_id)),
        order_by=(_OUTBOX.c.created_at, _OUTBOX.c.outbox_id),
    )
    # what is sorted is narrow: a backlog may be long, and of all its bodies a handful is read
    names = ("outbox_id", "tenant_id", "kind", "target", "status", "due_at")
    active = select(*(_OUTBOX.c[n] for n in names), place.label("place")).where(_OUTBOX.c.status.in_(ACTIVE)).subquery("a")
    turn = func.row_number().over(
        partition_by=(active.c.tenant_id, active.c.kind, active.c.target), order_by=(active.c.due_at, active.c.outbox_id)
    )
    front = (
        select(active.c.outbox_id, active.c.due_at, turn.label("turn"))
        .where(active.c.place == 1, active.c.status == OutboxStatus.PENDING, active.c.due_at <= bindparam("now", type_=UTCDateTime))
        .subquery("n")
    )
    chosen = (
        select(front)
        .where(front.c.turn <= bindparam("per_group", type_=Integer))
        .order_by(front.c.turn, front.c.due_at)
        .limit(bindparam("limit", type_=Integer))
        .subquery("f")
    )
    heard = (
        select(_MESSAGE.c.occurred_at)
        .where(_MESSAGE.c.tenant_id == _OUTBOX.c.tenant_id, _MESSAGE.c.contact_id == _OUTBOX.c.contact_id)
        .order_by(_MESSAGE.c.sequence.desc())
        .limit(1)
        .scalar_subquery()
    )
    return (
        select(_OUTBOX, _CONTACT.c.phone, heard.label("last_inbound_at"))
        .join(chosen, chosen.c.outbox_id == _OUTBOX.c.outbox_id)
        .outerjoin(_CONTACT, and_(_CONTACT.c.tenant_id == _OUTBOX.c.tenant_id, _CONTACT.c.contact_id == _OUTBOX.c.contact_id))
        .order_by(chosen.c.turn, chosen.c.due_at)
    )


_DUE_QUERY = _due_query()


def due(conn: Connection, now: datetime, *, per_group: int, limit: int) -> list[Due]:
    """Deliveries to make now: the front one of each contact, at most `per_group` of a tenant, kind and target, oldest first."""
    return [_due(row) for row in conn.execute(_DUE_QUERY, {"now": now, "per_group": per_group, "limit": limit})]


def _due(row: Row[Any]) -> Due:
    return Due(
        outbox_id=row.outbox_id,
        tenant_id=row.tenant_id,
        contact_id=row.contact_id,
        phone=row.phone,
        kind=row.kind,
        attempts=row.attempts,
        correlation_id=row.correlation_id,
        body=msgspec.json.decode(row.body_json),
        last_inbound_at=row.last_inbound_at,
    )


def claim(conn: Connection, found: Mapping[str, int], token: str, lease_until: datetime, now: datetime) -> set[str]:
    """Take deliveries (`found`: the attempts each had had when it was found) for sending; returns those that this call won."""
    rows = [
        {"outbox_id": i, "lease_token": token, "lease_until": lease_until, "was_due_at": now, "was_attempts": had}
        for i, had in found.items()
    ]
    won = update_rows(
        conn,
        _OUTBOX,
        rows,
        keys=("outbox_id",),
        in_order=True,
        assign=("lease_token", "lease_until"),
        expressions={"status": f"'{OutboxStatus.SENDING}'", "attempts": "t.attempts + 1"},
        guard=f"t.status = '{OutboxStatus.PENDING}' AND t.due_at <= r.was_due_at AND t.attempts = r.was_attempts"
        " AND (t.not_after IS NULL OR t.not_after > r.was_due_at)",
    )
    return {key[0] for key in won}


def defer(conn: Connection, outbox_ids: Sequence[str], due_at: datetime) -> None:
    """Let pending deliveries wait (their target is known to be down); costs them no attempt."""
    rows = [{"outbox_id": i, "due_at": due_at} for i in outbox_ids]
    guard = f"t.status = '{OutboxStatus.PENDING}'"
    update_rows(conn, _OUTBOX, rows, keys=("outbox_id",), in_order=True, assign=("due_at",), guard=guard)


def settle(conn: Connection, settlements: Sequence[Settlement], now: datetime) -> set[str]:
    """Write outcomes under the token of their lease; returns the rows that took them.

    An answer that comes after its lease ran out still turns `unknown` into what really happened. Whatever ends without
    having been sent opens a manual task.
    """
    if not settlements:
        return set()
    rows = [
        {
            "outbox_id": s.outbox_id,
            "lease_token": s.token,
            "status": s.status,
            "last_error": s.detail[:_KEEP_LAST_ERROR] if s.detail else None,
            "provider_message_id": s.provider_message_id[:200] if s.provider_message_id else None,
            "due_at": s.due_at or now,
            "sent_at": now if s.status is OutboxStatus.SENT else None,
            "delivery": "sent" if s.status is OutboxStatus.SENT else None,
        }
        for s in settlements
    ]
    won = update_rows(
        conn,
        _OUTBOX,
        rows,
        keys=("outbox_id",),
        assign=("status", "last_error", "provider_message_id", "sent_at", "delivery"),
        # the index of due rows does not know terminal ones: their due_at keeps telling when they were due
        expressions={
            "due_at": f"CASE WHEN r.status = '{OutboxStatus.PENDING}' THEN r.due_at ELSE t.due_at END",
            "lease_until": "NULL",
        },
        guard=f"t.lease_token = r.lease_token AND (t.status = '{OutboxStatus.SENDING}'"
        f" OR (t.status = '{OutboxStatus.UNKNOWN}' AND r.status <> '{OutboxStatus.PENDING}'))",
    )
    ids = {key[0] for key in won}
    stored = rows_of(conn, ids)
    _catch_up(conn, [row for row in stored if row.provider_message_id])
    _close_tasks(conn, [row for row in stored if row.status == OutboxStatus.SENT], now)
    announce(conn, stored, now)
    note_attempts(conn, stored, now)
    return ids


def expire_leases(conn: Connection, now: datetime, attempts_max: int) -> list[str]:
    """Deal with deliveries whose sender vanished; returns their ids.

    A message to a family may have been sent: `unknown`, for a person. Repeatable kinds are tried again.
    """
    lost = conn.execute(select(_OUTBOX).where(_OUTBOX.c.status == OutboxStatus.SENDING, _OUTBOX.c.lease_until <= now)).all()
    if not lost:
        return []
    rows = [
        {
            "outbox_id": row.outbox_id,
            "lease_token": row.lease_token,
            "status": _after_lease(row.kind, row.attempts, attempts_max),
            "last_error": "sender_vanished",
            "due_at": now,
        }
        for row in lost
    ]
    won = update_rows(
        conn,
        _OUTBOX,
        rows,
        keys=("outbox_id",),
        assign=("status", "last_error", "due_at"),
        expressions={"lease_until": "NULL"},
        guard=f"t.lease_token = r.lease_token AND t.status = '{OutboxStatus.SENDING}'",
    )
    ids = {key[0] for key in won}
    announce(conn, rows_of(conn, ids), now)
    return sorted(ids)


def _after_lease(kind: str, attempts: int, attempts_max: int) -> OutboxStatus:
    if kind not in REPEATABLE_KINDS:
        return OutboxStatus.UNKNOWN
    return OutboxStatus.PENDING if attempts < attempts_max else OutboxStatus.DEAD


def record_deliveries(conn: Connection, updates: Sequence[DeliveryUpdate], now: datetime) -> None:
    """Keep providers' statuses, each once, and move the summary of the messages they speak of; never back.

    A status that carries our own reference also tells the fate of a message whose outcome was unknown.
    """
    if not updates:
        return
    history = [
        {
            "tenant_id": u.tenant_id,
            "provider_message_id": u.provider_message_id,
            "status": u.status,
            "at": u.at,
            "received_at": now,
            "detail": u.detail[:300] if u.detail else None,
        }
        for u in updates
    ]
    insert_rows(conn, _STATUS, history, ignore_conflicts=True)
    _reconcile(conn, updates, now)
    keys = [{"tenant_id": t, "provider_message_id": p} for t, p in {(u.tenant_id, u.provider_message_id) for u in updates}]
    found = joined_rows(conn, _OUTBOX, keys, keys=("tenant_id", "provider_message_id"), columns=_OUTBOX.c.keys()).all()
    changed = _catch_up(conn, found)
    rows = [row for row in found if row.outbox_id in changed]
    failed = [row for row in rows if changed[row.outbox_id] == "failed"]
    details = {(u.tenant_id, u.provider_message_id): u.detail for u in updates if u.status == "failed"}
    tasks = [_task(row, "delivery_failed", _failure(details.get((row.tenant_id, row.provider_message_id))), now) for row in failed]
    open_tasks(conn, tasks)
    _publish(conn, rows, tasks, now)


def _failure(detail: str | None) -> str:
    return "template_required" if detail and detail.startswith("131047") else "delivery_failed"


def _reconcile(conn: Connection, updates: Sequence[DeliveryUpdate], now: datetime) -> None:
    """An `unknown` message that the provider reports about was sent after all."""
    known = [
        {
            "outbox_id": u.reference,
            "tenant_id": u.tenant_id,
            "provider_message_id": u.provider_message_id,
            "sent_at": u.at,
            "last_error": "reconciled_with_provider",
        }
        for u in updates
        if u.reference
    ]
    if not known:
        return
    won = update_rows(
        conn,
        _OUTBOX,
        known,
        keys=("outbox_id", "tenant_id"),
        assign=("provider_message_id", "sent_at", "last_error"),
        expressions={"status": f"'{OutboxStatus.SENT}'"},
        guard=f"t.status = '{OutboxStatus.UNKNOWN}'",
    )
    rows = rows_of(conn, {key[0] for key in won})
    _close_tasks(conn, rows, now)
    announce(conn, rows, now)
    note_attempts(conn, rows, now)


def _catch_up(conn: Connection, rows: Sequence[Row[Any]]) -> dict[str, str]:
    """Bring the summaries of these outbox rows up to their history; returns the new summary of each changed row."""
    if not rows:
        return {}
    keys = [{"tenant_id": row.tenant_id, "provider_message_id": row.provider_message_id} for row in rows]
    seen: dict[tuple[str, str], list[str]] = {}
    for entry in joined_rows(
        conn, _STATUS, keys, keys=("tenant_id", "provider_message_id"), columns=("tenant_id", "provider_message_id", "status")
    ):
        seen.setdefault((entry.tenant_id, entry.provider_message_id), []).append(entry.status)
    changed: dict[str, str] = {}
    for row in rows:
        summary = furthest(row.delivery, *seen.get((row.tenant_id, row.provider_message_id), ()))
        if summary is not None and summary != row.delivery:
            changed[row.outbox_id] = summary
    update_rows(
        conn, _OUTBOX, [{"outbox_id": i, "delivery": s} for i, s in changed.items()], keys=("outbox_id",), assign=("delivery",)
    )
    return changed


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not done: how many, since when, and when the next pending one is due, a lease or a time to send runs out."""

    count: int
    oldest_at: datetime | None
    next_due_at: datetime | None
    next_lease_at: datetime | None
    next_limit_at: datetime | None


_BACKLOG_QUERY = select(
    func.count(),
    func.min(_OUTBOX.c.created_at),
    func.min(case((_OUTBOX.c.status == OutboxStatus.PENDING, _OUTBOX.c.due_at))),
    func.min(case((_OUTBOX.c.status == OutboxStatus.SENDING, _OUTBOX.c.lease_until))),
    func.min(case((_OUTBOX.c.status == OutboxStatus.PENDING, _OUTBOX.c.not_after))),
).where(_OUTBOX.c.status.in_(ACTIVE))


def backlog(conn: Connection) -> Backlog:
    """The deliveries that are not done, in numbers."""
    return Backlog(*conn.execute(_BACKLOG_QUERY).one())


def deliveries_of(conn: Connection, tenant_id: str, correlation_id: str) -> list[dict[str, Any]]:
    """Everything sent under one correlation id, oldest first, each with its status history."""
    rows = conn.execute(
        select(_OUTBOX)
        .where(_OUTBOX.c.tenant_id == tenant_id, _OUTBOX.c.correlation_id == correlation_id)
        .order_by(_OUTBOX.c.created_at, _OUTBOX.c.outbox_id)
    ).all()
    ids = [row.provider_message_id for row in rows if row.provider_message_id]
    history = conn.execute(
        select(_STATUS)
        .where(_STATUS.c.tenant_id == tenant_id, _STATUS.c.provider_message_id.in_(ids))
        .order_by(_STATUS.c.at, _STATUS.c.received_at)
    ).all()
    return [
        {
            **dict(row._mapping),
            "history": [
                {"status": s.status, "at": s.at, "detail": s.detail}
                for s in history
                if s.provider_message_id == row.provider_message_id
            ],
        }
        for row in rows
    ]


# --- shared -------------------------------------------------------------------------------------------------------------


def rows_of(conn: Connection, outbox_ids: set[str]) -> list[Row[Any]]:
    """Deliveries as they are now."""
    if not outbox_ids:
        return []
    keys = [{"outbox_id": i} for i in sorted(outbox_ids)]
    return list(joined_rows(conn, _OUTBOX, keys, keys=("outbox_id",), columns=_OUTBOX.c.keys()))


_TASK_OF = {
    OutboxStatus.UNKNOWN: "delivery_unknown",
    OutboxStatus.FAILED: "delivery_refused",
    OutboxStatus.DEAD: "delivery_given_up",
}


def announce(conn: Connection, rows: Sequence[Row[Any]], now: datetime) -> None:
    """Open a task for each row that ended without having been sent, and tell the streams."""
    tasks = []
    for row in rows:
        cause = _TASK_OF.get(OutboxStatus(row.status))
        if cause is not None and row.last_error not in (NOT_WANTED, NOT_SENT_IN_TIME):
            reason = row.last_error if row.last_error in ("template_required", "contact_without_phone") else cause
            tasks.append(_task(row, cause, reason, now))
    open_tasks(conn, tasks)
    _publish(conn, rows, tasks, now)
    for tenant_id in sorted({row.tenant_id for row in rows if row.status == OutboxStatus.DEAD}):
        raise_alert(
            conn,
            tenant_id=tenant_id,
            trigger="outbox_dead_letter",
            severity="high",
            summary="Deliveries were given up; each is a task for a person, but for results that waited for too long",
            dedup_key="outbox_dead_letter",
            correlation_id=None,
            now=now,
            raised_by="system:outbox",
        )


def _task(row: Row[Any], cause: str, reason: str, now: datetime) -> dict[str, Any]:
    return task_row(
        tenant_id=row.tenant_id,
        task_id=new_id(),
        dedup_key=f"outbox:{row.outbox_id}",
        cause=cause,
        reason=reason,
        priority=1,
        contact_id=row.contact_id,
        item_id=row.outbox_id,
        correlation_id=row.correlation_id,
        now=now,
        due_at=now + TASK_DUE,
    )


def _close_tasks(conn: Connection, rows: Sequence[Row[Any]], now: datetime) -> None:
    """What turned out to have been sent needs nobody any more, unless a person has taken it up already."""
    if not rows:
        return
    conn.execute(
        update(_TASK)
        .where(
            _TASK.c.tenant_id.in_({row.tenant_id for row in rows}),
            _TASK.c.dedup_key.in_([f"outbox:{row.outbox_id}" for row in rows]),
            _TASK.c.status == "open",
        )
        .values(status="resolved", resolution="sent_after_all", resolved_at=now, rev=_TASK.c.rev + 1)
    )


def _publish(conn: Connection, rows: Sequence[Row[Any]], tasks: Sequence[dict[str, Any]], now: datetime) -> None:
    changes: dict[tuple[str | None, str], set[str]] = {}
    for row in rows:
        if row.contact_id:
            changes.setdefault((row.tenant_id, "lane"), set()).add(row.contact_id)
    for task in tasks:
        changes.setdefault((task["tenant_id"], "manual"), set()).add(task["task_id"])
    publish_many(conn, changes, now)
