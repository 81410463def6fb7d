"""What acceptance has to know before it writes: who the contacts are, how their lanes stand, and what is stored already.

`lanes_of` reads lanes locked, in sorted order (no deadlocks), or as they are; who reads them as they are compares when writing
(`store.inbox`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace as changed
from sqlalchemy import Connection, Row

from app.domain.envelopes import Command, Malformed, Message
from app.store.bulk import insert_rows, joined_rows
from app.store.lanes import LaneKey
from app.store.tables import Contact, InboxCommand, InboxMessage, Lane, table

_LANE, _CONTACT = table(Lane), table(Contact)
_MESSAGE, _COMMAND = table(InboxMessage), table(InboxCommand)

_LANE_COLUMNS = "tenant_id contact_id conversation_id conversation_version last_sequence last_assigned last_committed".split()
_MESSAGE_COLUMNS = "tenant_id event_id channel external_id contact_id sequence status priority correlation_id".split()
_COMMAND_COLUMNS = "tenant_id command_id contact_id idempotency_key fingerprint commit_order status priority correlation_id".split()


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One item on its way in: `item` as parsed, `spare_id` for what must be created with it, triage of a message."""

    tenant_id: str
    item: Command | Message | Malformed
    spare_id: str
    priority: int = 3
    intent: str | None = None


class LaneState(msgspec.Struct):
    """A lane row as it was read, while a batch is added to it."""

    row: Row[Any]
    conversation_version: int
    last_sequence: int
    last_assigned: int
    conversation_id: str | None
    touched: bool = False
    messages: int = 0
    """How many the batch adds."""
    commands: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0, 0])
    """How many the batch adds, by class."""
    orders: set[int] = msgspec.field(default_factory=set)
    """commit_orders above last_committed known to be taken (looked up only where a source names its own)."""
    sequences: set[int] = msgspec.field(default_factory=set)


class JustStored:
    """A row of this very batch, seen as one that is already stored."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.__dict__.update(row)


# --- contacts and lanes -------------------------------------------------------------------------------------------------


def resolve_phones(conn: Connection, submissions: Sequence[Submission], now: datetime) -> list[Submission]:
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


def names_own_number(item: Command | Message | Malformed) -> bool:
    """Whether its source gave the item a place in its lane."""
    if isinstance(item, Command):
        return item.commit_order is not None
    return isinstance(item, Message) and item.sequence is not None


def _lane_keys(submissions: Sequence[Submission]) -> list[LaneKey]:
    keys: set[LaneKey] = set()
    for s in submissions:
        if not isinstance(s.item, Malformed) and s.item.contact_id:
            keys.add((s.tenant_id, s.item.contact_id))
    return sorted(keys)


def lanes_of(conn: Connection, submissions: Sequence[Submission], now: datetime, *, locked: bool) -> dict[LaneKey, LaneState]:
    """The lanes of a batch, made where they do not exist yet."""
    keys = _lane_keys(submissions)
    if not keys:
        return {}
    rows = _select_lanes(conn, keys, locked)
    missing = [k for k in keys if k not in rows]
    if missing:
        ensure_lanes(conn, missing, now)
        rows |= _select_lanes(conn, missing, locked)
    return {
        key: LaneState(
            row=row,
            conversation_version=row.conversation_version,
            last_sequence=row.last_sequence,
            last_assigned=row.last_assigned,
            conversation_id=row.conversation_id,
        )
        for key, row in rows.items()
    }


def _select_lanes(conn: Connection, keys: list[LaneKey], locked: bool) -> dict[LaneKey, Row[Any]]:
    lock = "ORDER BY t.tenant_id, t.contact_id FOR UPDATE OF t" if locked and conn.dialect.name == "postgresql" else ""
    rows = joined_rows(
        conn,
        _LANE,
        [{"tenant_id": t, "contact_id": c} for t, c in keys],
        keys=("tenant_id", "contact_id"),
        columns=_LANE_COLUMNS,
        tail=lock,
    )
    return {(row.tenant_id, row.contact_id): row for row in rows}


def ensure_lanes(conn: Connection, keys: Sequence[LaneKey], now: datetime) -> None:
    """Create the contact and lane rows that do not exist yet."""
    pairs = [{"tenant_id": t, "contact_id": c} for t, c in keys]
    insert_rows(conn, _CONTACT, [{**p, "created_at": now} for p in pairs], ignore_conflicts=True)
    insert_rows(conn, _LANE, pairs, ignore_conflicts=True)


# --- duplicates ---------------------------------------------------------------------------------------------------------


def known_messages(conn: Connection, submissions: Sequence[Submission]) -> dict[tuple[str, ...], Any]:
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


def known_commands(conn: Connection, submissions: Sequence[Submission]) -> dict[tuple[str, ...], Any]:
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


def load_given_numbers(conn: Connection, submissions: Sequence[Submission], lanes: dict[LaneKey, LaneState]) -> None:
    """Which of the numbers that sources gave themselves are taken already."""
    orders = [
        {"tenant_id": s.tenant_id, "contact_id": s.item.contact_id, "commit_order": s.item.commit_order}
        for s in submissions
        if isinstance(s.item, Command) and s.item.commit_order is not None
    ]
    if orders:
        keys = ("tenant_id", "contact_id", "commit_order")
        for row in joined_rows(conn, _COMMAND, orders, keys=keys, columns=keys):
            lanes[(row.tenant_id, row.contact_id)].orders.add(row.commit_order)
    sequences = [
        {"tenant_id": s.tenant_id, "contact_id": s.item.contact_id, "sequence": s.item.sequence}
        for s in submissions
        if isinstance(s.item, Message) and s.item.sequence is not None
    ]
    if sequences:
        keys = ("tenant_id", "contact_id", "sequence")
        for row in joined_rows(conn, _MESSAGE, sequences, keys=keys, columns=keys):
            lanes[(row.tenant_id, row.contact_id)].sequences.add(row.sequence)
