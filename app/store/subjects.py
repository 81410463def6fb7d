"""One contact's personal data (LGPD): all of it in one document, and its erasure.

Erasure takes name, number, words and permissions away and leaves ids, times and results: the ledger and its chains name ids
only, so order and once can still be proven, and `kora verify` finds the same as before. Where staff or machines typed the
family into a text that is not the contact's own (an alert, an episode, another's task), `[name]` stands in its place.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, Table, and_, delete, exists, func, or_, select, update

from app.domain.evidence_kinds import EvidenceKind
from app.domain.redaction import NAME, names_pattern, without_names
from app.domain.retention import REMOVED
from app.errors import Conflict, NotFound
from app.store import audit
from app.store.events import publish
from app.store.outbox import ACTIVE
from app.store.people import By
from app.store.private import private_of
from app.store.tables import (
    Alert,
    Appointment,
    Contact,
    ContingencyChannel,
    ContingencyNotice,
    D1StepRow,
    DeliveryStatus,
    EvidenceFile,
    EvidencePack,
    Guardian,
    Hold,
    InboxCommand,
    InboxMessage,
    Lane,
    Ledger,
    MalformedItem,
    ManualTask,
    ModeRow,
    Outbox,
    Patient,
    PhoneMessage,
    Proposal,
    ReplayItem,
    SafeCause,
    SafeEpisode,
    SafeStep,
    Ticket,
    table,
)

_CONTACT, _LANE, _GUARDIAN, _LEDGER = table(Contact), table(Lane), table(Guardian), table(Ledger)
_MESSAGE, _COMMAND, _OUTBOX, _MALFORMED = table(InboxMessage), table(InboxCommand), table(Outbox), table(MalformedItem)
_TASK, _TICKET, _PROPOSAL, _PHONE = table(ManualTask), table(Ticket), table(Proposal), table(PhoneMessage)
_PACK, _FILE, _STATUS, _ITEM = table(EvidencePack), table(EvidenceFile), table(DeliveryStatus), table(ReplayItem)
_PATIENT, _APPOINTMENT, _D1, _NOTICE = table(Patient), table(Appointment), table(D1StepRow), table(ContingencyNotice)
_ALERT, _EPISODE, _CAUSE, _STEP = table(Alert), table(SafeEpisode), table(SafeCause), table(SafeStep)
_HOLD, _MODE, _CHANNEL = table(Hold), table(ModeRow), table(ContingencyChannel)

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
    ("replays", _ITEM, ("replay_id", "n")),
    ("contingency_messages", _NOTICE, ("at", "episode_id", "intent")),
    ("day_before", _D1, ("done_at", "appointment_id")),
)

_TYPED: Final[tuple[tuple[Table, str, tuple[str, ...]], ...]] = (
    (_ALERT, "scope", ("summary",)),
    (_EPISODE, "scope", ("recovery_action", "runbook_step", "exit_reason")),
    (_CAUSE, "episode_id", ("summary",)),
    (_STEP, "episode_id", ("detail",)),
    (_TICKET, "tenant_id", ("reason", "close_reason", "context_json")),
    (_TASK, "tenant_id", ("note",)),
    (_LANE, "tenant_id", ("paused_reason",)),
    (_GUARDIAN, "tenant_id", ("reason",)),
    (_HOLD, "tenant_id", ("reason",)),
    (_MODE, "scope", ("reason", "contingency_reason")),
    (_CHANNEL, "tenant_id", ("reason",)),
    (_PACK, "scope", ("reason", "document_json")),
    (_PHONE, "tenant_id", ("body",)),
)
"""Texts of a clinic that anybody may have typed a family into, and the column that says whose they are."""


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
    _refuse_while_busy(conn, tenant_id, contact_id, by.now)
    private = _private(conn, tenant_id, contact_id)
    mine = {source: (source.c.tenant_id == tenant_id, source.c.contact_id == contact_id) for _, source, _ in _PARTS}
    gone: dict[str, int] = {}
    conn.execute(update(_CONTACT).where(*mine[_CONTACT]).values(name=None, phone=None, erased_at=by.now))
    # whoever this contact alone spoke for is the family's too
    gone["patients"] = conn.execute(
        update(_PATIENT).where(_PATIENT.c.tenant_id == tenant_id, _only_theirs(tenant_id, contact_id)).values(name=ERASED)
    ).rowcount
    gone["permissions"] = conn.execute(delete(_GUARDIAN).where(*mine[_GUARDIAN])).rowcount
    conn.execute(update(_LANE).where(*mine[_LANE]).values(guardian_version=_LANE.c.guardian_version + 1, conversation_id=None))
    conn.execute(update(_LANE).where(*mine[_LANE], _LANE.c.paused_reason.is_not(None)).values(paused_reason=ERASED))
    # a provider's message id carries the number; what replaces it is as unique as the message's own id
    gone["messages"] = conn.execute(
        update(_MESSAGE)
        .where(*mine[_MESSAGE])
        .values(payload_json="{}", payload_level=REMOVED, conversation_id=None, external_id=f"{ERASED}:" + _MESSAGE.c.event_id)
    ).rowcount
    gone["requests"] = conn.execute(
        update(_COMMAND).where(*mine[_COMMAND]).values(payload_json="{}", payload_level=REMOVED, conversation_id=None)
    ).rowcount
    gone["receipts"] = _forget_receipts(conn, mine[_OUTBOX])
    gone["sent"] = conn.execute(
        update(_OUTBOX)
        .where(*mine[_OUTBOX])
        .values(body_json="{}", payload_level=REMOVED, last_error=None, provider_message_id=None)
    ).rowcount
    gone["unusable"] = _forget_unusable(conn, tenant_id, contact_id, private)
    gone["tasks"] = conn.execute(update(_TASK).where(*mine[_TASK], _TASK.c.note.is_not(None)).values(note=ERASED)).rowcount
    gone["tickets"] = conn.execute(
        update(_TICKET).where(*mine[_TICKET]).values(reason=ERASED, close_reason=ERASED, context_json="{}")
    ).rowcount
    gone["replays"] = conn.execute(update(_ITEM).where(*mine[_ITEM], _ITEM.c.message.is_not(None)).values(message=None)).rowcount
    shown = (or_(_PHONE.c.tenant_id == tenant_id, _PHONE.c.tenant_id.is_(None)), _PHONE.c.target.in_([contact_id, *private]))
    gone["simulated_phone"] = conn.execute(delete(_PHONE).where(*shown)).rowcount
    about = (_PACK.c.tenant_id == tenant_id, _PACK.c.kind == EvidenceKind.CONTACT, _PACK.c.subject == contact_id)
    ids = list(conn.execute(select(_PACK.c.pack_id).where(*about)).scalars())
    gone["evidence_packs"] = len(ids)
    for part in (_FILE, _PACK):
        conn.execute(delete(part).where(part.c.pack_id.in_(ids)))
    gone["typed_names"] = _forget_typed(conn, tenant_id, private)
    _note(conn, tenant_id, contact_id, by, "contact.erase", gone, without_names(reason, names_pattern(private)))
    for topic in ("lane", "guardians"):
        publish(conn, tenant_id, topic, [contact_id], by.now)
    return gone


def _private(conn: Connection, tenant_id: str, contact_id: str) -> tuple[str, ...]:
    """Names and numbers of the family: not of a child that somebody else speaks for too."""
    shared = select(_PATIENT.c.name).join(
        _GUARDIAN, and_(_GUARDIAN.c.tenant_id == _PATIENT.c.tenant_id, _GUARDIAN.c.patient_id == _PATIENT.c.patient_id)
    )
    shared = shared.where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.contact_id == contact_id)
    kept = set(conn.execute(shared.where(~_only_theirs(tenant_id, contact_id))).scalars())
    return tuple(word for word in private_of(conn, tenant_id, contact_id) if word not in kept)


def _only_theirs(tenant_id: str, contact_id: str) -> Any:
    """Patients whom this contact speaks for, and nobody else."""
    held = _GUARDIAN.alias("held")
    of = and_(held.c.tenant_id == tenant_id, held.c.patient_id == _PATIENT.c.patient_id)
    return and_(
        exists().where(of, held.c.contact_id == contact_id),
        ~exists().where(of, held.c.contact_id != contact_id, held.c.revoked_at.is_(None)),
    )


def _forget_receipts(conn: Connection, sent: Sequence[Any]) -> int:
    """Providers' receipts of what was sent: their ids carry the number, their details may."""
    ids = select(_OUTBOX.c.provider_message_id).where(*sent, _OUTBOX.c.provider_message_id.is_not(None))
    tenant = select(_OUTBOX.c.tenant_id).where(*sent)
    return conn.execute(delete(_STATUS).where(_STATUS.c.tenant_id.in_(tenant), _STATUS.c.provider_message_id.in_(ids))).rowcount


def _forget_unusable(conn: Connection, tenant_id: str, contact_id: str, private: Sequence[str]) -> int:
    """Items that nobody could use: the contact's own, and those that name nobody but hold its number or name."""
    own = _MALFORMED.c.contact_id == contact_id
    held = [_MALFORMED.c.raw_json.contains(needle, autoescape=True) for needle in _needles(private)]
    hidden = and_(_MALFORMED.c.contact_id.is_(None), _MALFORMED.c.raw_json != "", or_(*held)) if held else own
    mine = (_MALFORMED.c.tenant_id == tenant_id, or_(own, hidden))
    ids = list(conn.execute(select(_MALFORMED.c.item_id).where(*mine)).scalars())
    found = (_MALFORMED.c.tenant_id == tenant_id, _MALFORMED.c.item_id.in_(ids))
    conn.execute(update(_MALFORMED).where(*found).values(raw_json="", errors_json="[]", given_id=None))
    about = (_TASK.c.tenant_id == tenant_id, _TASK.c.item_id.in_(ids), _TASK.c.note.is_not(None))
    conn.execute(update(_TASK).where(*about).values(note=ERASED))
    return len(ids)


def _needles(private: Sequence[str]) -> list[str]:
    """How a name or number may stand in bytes that nobody could read: as it is, as JSON writes it, and without its plus."""
    found = {form for word in private for form in (word, word.removeprefix("+"), msgspec.json.encode(word).decode()[1:-1])}
    return sorted(form for form in found if " " in form or form.isdigit() or form.startswith("+"))


def _forget_typed(conn: Connection, tenant_id: str, private: Sequence[str]) -> int:
    """`[name]` in place of the family's full names and numbers, wherever the clinic's texts hold them."""
    names = [word for word in private if " " in word or word.startswith("+")]  # a first name alone may be anybody's
    forms = sorted({form for word in names for form in (word, word.removeprefix("+"))})
    pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)), re.IGNORECASE)
    if not forms:
        return 0
    done = 0
    episodes = select(_EPISODE.c.episode_id).where(_EPISODE.c.scope == tenant_id)
    for source, whose, fields in _TYPED:
        own = source.c[whose].in_(episodes) if whose == "episode_id" else source.c[whose] == tenant_id
        key = [column.name for column in source.primary_key.columns]
        for field in fields:
            held = or_(*(source.c[field].icontains(form, autoescape=True) for form in forms))
            rows = conn.execute(select(*(source.c[name] for name in key), source.c[field].label("said")).where(own, held)).all()
            for row in rows:
                same = (source.c[name] == getattr(row, name) for name in key)
                conn.execute(update(source).where(*same).values({field: pattern.sub(NAME, row.said)}))
            done += len(rows)
    return done


def _to_come(conn: Connection, tenant_id: str, contact_id: str, now: datetime) -> int:
    """Appointments ahead of patients whom nobody else speaks for: a therapist would wait for a family that nobody knows."""
    theirs = select(_PATIENT.c.patient_id).where(_PATIENT.c.tenant_id == tenant_id, _only_theirs(tenant_id, contact_id))
    ahead = (_APPOINTMENT.c.tenant_id == tenant_id, _APPOINTMENT.c.status != "cancelled", _APPOINTMENT.c.end_at > now)
    query = select(func.count()).select_from(_APPOINTMENT).where(*ahead, _APPOINTMENT.c.patient_id.in_(theirs))
    return int(conn.execute(query).scalar_one())


def _refuse_while_busy(conn: Connection, tenant_id: str, contact_id: str, now: datetime) -> None:
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
        "appointments to come": _to_come(conn, tenant_id, contact_id, now),
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
        about=contact_id,
    )
