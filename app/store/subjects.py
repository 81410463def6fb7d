"""One contact's personal data (LGPD): all of it in one document, and its erasure.

Erasure takes name, number, words and permissions away and leaves ids, times and results: the ledger and its chains name ids
only, so order and once can still be proven, and `kora verify` finds the same as before.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Table, delete, func, or_, select, update

from app.domain.evidence_kinds import EvidenceKind
from app.domain.retention import REMOVED
from app.errors import Conflict, NotFound
from app.store import audit
from app.store.events import publish
from app.store.outbox import ACTIVE
from app.store.people import By
from app.store.tables import (
    Contact,
    EvidenceFile,
    EvidencePack,
    Guardian,
    InboxCommand,
    InboxMessage,
    Lane,
    Ledger,
    MalformedItem,
    ManualTask,
    Outbox,
    PhoneMessage,
    Proposal,
    Ticket,
    table,
)

_CONTACT, _LANE, _GUARDIAN, _LEDGER = table(Contact), table(Lane), table(Guardian), table(Ledger)
_MESSAGE, _COMMAND, _OUTBOX, _MALFORMED = table(InboxMessage), table(InboxCommand), table(Outbox), table(MalformedItem)
_TASK, _TICKET, _PROPOSAL, _PHONE = table(ManualTask), table(Ticket), table(Proposal), table(PhoneMessage)
_PACK, _FILE = table(EvidencePack), table(EvidenceFile)

SCHEMA: Final = 1
ERASED: Final = "erased"
_PARTS: Final[tuple[tuple[str, Table, tuple[str, ...]], ...]] = (
    ("contact", _CONTACT, ("contact_id",)),
    ("lane", _LANE, ("contact_id",)),
    ("permissions", _GUARDIAN, ("patient_id",)),
    ("messages", _MESSAGE, ("sequence",)),
    ("requests", _COMMAND, ("accepted_at", "command_id")),
    ("decisions", _LEDGER, ("commit_order",)),
    ("sent", _OUTBOX, ("created_at", "outbox_id")),
    ("proposals", _PROPOSAL, ("opened_at", "command_id")),
    ("tasks", _TASK, ("created_at", "task_id")),
    ("tickets", _TICKET, ("opened_at", "ticket_id")),
    ("unusable", _MALFORMED, ("received_at", "item_id")),
)


def export(conn: Connection, tenant_id: str, contact_id: str, by: By) -> dict[str, Any]:
    """Everything that is kept about a contact, part by part; the export itself is audited. Raises NotFound."""
    _row(conn, tenant_id, contact_id)
    found: dict[str, Any] = {"schema": SCHEMA, "tenant_id": tenant_id, "contact_id": contact_id, "exported_at": by.now.isoformat()}
    for name, source, order in _PARTS:
        query = select(source).where(source.c.tenant_id == tenant_id, source.c.contact_id == contact_id)
        found[name] = [_plain(row) for row in conn.execute(query.order_by(*(source.c[column] for column in order)))]
    counts = {name: len(found[name]) for name, _, _ in _PARTS}
    _note(conn, tenant_id, contact_id, by, "contact.export", counts, None)
    return found


def _plain(row: Row[Any]) -> dict[str, Any]:
    """A row as JSON: documents as what they say, times as RFC 3339."""
    plain: dict[str, Any] = {}
    for name, value in row._mapping.items():
        if name.endswith("_json") and isinstance(value, str):
            plain[name.removesuffix("_json")] = msgspec.json.decode(value) if value else None
        else:
            plain[name] = value.isoformat() if isinstance(value, datetime) else value
    return plain


def erase(conn: Connection, tenant_id: str, contact_id: str, by: By, reason: str) -> dict[str, int]:
    """Erase what is personal; returns how much of each kind. Again, it changes nothing.

    Raises NotFound, and Conflict while something of the contact is not decided, heard or delivered: what is going on
    ends first, so that nothing is lost and no family is left without an answer.
    """
    before = _row(conn, tenant_id, contact_id, locked=True)
    if before.erased_at is not None:
        return {}
    _refuse_while_busy(conn, tenant_id, contact_id)
    mine = {source: (source.c.tenant_id == tenant_id, source.c.contact_id == contact_id) for _, source, _ in _PARTS}
    gone: dict[str, int] = {}
    phones = [contact_id, *([before.phone] if before.phone else [])]
    conn.execute(update(_CONTACT).where(*mine[_CONTACT]).values(name=None, phone=None, erased_at=by.now))
    gone["permissions"] = conn.execute(delete(_GUARDIAN).where(*mine[_GUARDIAN])).rowcount
    conn.execute(update(_LANE).where(*mine[_LANE]).values(guardian_version=_LANE.c.guardian_version + 1, conversation_id=None))
    # a provider's message id carries the number; what replaces it is as unique as the message's own id
    gone["messages"] = conn.execute(
        update(_MESSAGE)
        .where(*mine[_MESSAGE])
        .values(payload_json="{}", payload_level=REMOVED, conversation_id=None, external_id=f"{ERASED}:" + _MESSAGE.c.event_id)
    ).rowcount
    gone["requests"] = conn.execute(
        update(_COMMAND).where(*mine[_COMMAND]).values(payload_json="{}", payload_level=REMOVED, conversation_id=None)
    ).rowcount
    gone["sent"] = conn.execute(
        update(_OUTBOX).where(*mine[_OUTBOX]).values(body_json="{}", payload_level=REMOVED, last_error=None)
    ).rowcount
    gone["unusable"] = conn.execute(
        update(_MALFORMED).where(*mine[_MALFORMED]).values(raw_json="", errors_json="[]", given_id=None)
    ).rowcount
    gone["tasks"] = conn.execute(update(_TASK).where(*mine[_TASK], _TASK.c.note.is_not(None)).values(note=ERASED)).rowcount
    gone["tickets"] = conn.execute(
        update(_TICKET).where(*mine[_TICKET]).values(reason=ERASED, close_reason=ERASED, context_json="{}")
    ).rowcount
    shown = (or_(_PHONE.c.tenant_id == tenant_id, _PHONE.c.tenant_id.is_(None)), _PHONE.c.target.in_(phones))
    gone["simulated_phone"] = conn.execute(delete(_PHONE).where(*shown)).rowcount
    about = (_PACK.c.tenant_id == tenant_id, _PACK.c.kind == EvidenceKind.CONTACT, _PACK.c.subject == contact_id)
    ids = list(conn.execute(select(_PACK.c.pack_id).where(*about)).scalars())
    gone["evidence_packs"] = len(ids)
    for part in (_FILE, _PACK):
        conn.execute(delete(part).where(part.c.pack_id.in_(ids)))
    _note(conn, tenant_id, contact_id, by, "contact.erase", gone, reason)
    for topic in ("lane", "guardians"):
        publish(conn, tenant_id, topic, [contact_id], by.now)
    return gone


def _refuse_while_busy(conn: Connection, tenant_id: str, contact_id: str) -> None:
    lane = conn.execute(select(_LANE).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)).one()
    sending = select(func.count()).select_from(_OUTBOX)
    sending = sending.where(_OUTBOX.c.tenant_id == tenant_id, _OUTBOX.c.contact_id == contact_id, _OUTBOX.c.status.in_(ACTIVE))
    tasks = select(func.count()).select_from(_TASK)
    tasks = tasks.where(_TASK.c.tenant_id == tenant_id, _TASK.c.contact_id == contact_id, _TASK.c.status != "resolved")
    left = {
        "requests that wait": lane.waiting,
        "messages not heard yet": lane.unheard,
        "messages on their way": int(conn.execute(sending).scalar_one()),
        "open tasks": int(conn.execute(tasks).scalar_one()),
        "conversations that a person has": int(lane.takeover_id is not None),
    }
    busy = ", ".join(f"{n} {what}" for what, n in left.items() if n)
    if busy:
        raise Conflict(f"Something of this contact is still going on: {busy}. Nothing was erased; end it first.")


def _row(conn: Connection, tenant_id: str, contact_id: str, *, locked: bool = False) -> Row[Any]:
    query = select(_CONTACT).where(_CONTACT.c.tenant_id == tenant_id, _CONTACT.c.contact_id == contact_id)
    row = conn.execute(query.with_for_update() if locked else query).first()
    if row is None:
        raise NotFound("There is no such contact.")
    return row


def _note(
    conn: Connection, tenant_id: str, contact_id: str, by: By, action: str, counts: dict[str, int], reason: str | None
) -> None:
    audit.append(
        conn,
        chain=tenant_id,
        actor=by.actor,
        action=action,
        object=f"contacts/{contact_id}",
        after=counts,
        reason=reason,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
