"""Inbound messages on their way through triage: in `sequence` per contact, never behind a command."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Integer, Row, Select, Table, bindparam, exists, func, or_, select

from app.domain.d1_answers import Asked, Question, still_open, which_cause
from app.domain.d1_texts import question_cause, question_token
from app.domain.frustration import FrustrationPolicy, Said, frustration_policy
from app.domain.states import State
from app.domain.triage import Intent
from app.store.bulk import Bundle, joined_rows, update_rows
from app.store.columns import UTCDateTime
from app.store.events import publish_with
from app.store.inbox import Receipt, accept
from app.store.intake_facts import Submission
from app.store.lanes import LaneKey
from app.store.outbox import enqueue_with
from app.store.settings import load
from app.store.tables import Appointment, D1StepRow, InboxCommand, InboxMessage, Lane, Outbox, Proposal, Ticket, table

_LANE, _MESSAGE = table(Lane), table(InboxMessage)
_PROPOSAL, _COMMAND = table(Proposal), table(InboxCommand)
_ASKED, _APPOINTMENT, _TICKET, _OUTBOX = table(D1StepRow), table(Appointment), table(Ticket), table(Outbox)
_KEY = ("tenant_id", "contact_id")
_STANDS = {"scheduled": Asked.OPEN, "confirmed": Asked.CONFIRMED, "cancelled": Asked.CANCELLED}
"""What an appointment's status makes of the question about it."""

_OF_LANE = ("tenant_id", "contact_id", "conversation_version", "last_processed", "unheard", "takeover_id")
_OF_MESSAGE = (
    "tenant_id", "contact_id", "event_id", "conversation_id", "sequence", "conversation_version", "intent", "occurred_at",
    "received_at", "correlation_id", "payload_json",
)  # fmt: skip
"""What hearing looks at; every other column would be read and made into Python for nothing, of each message."""

NOT_UNDERSTOOD = frozenset({None, str(Intent.OTHER), str(Intent.COMPLAINT)})
RECENT_MAX = 50
"""Earlier messages that are looked at for frustration."""
GAP_PATIENCE = timedelta(seconds=10)
"""How long a message waits for a missing one before it: families must be heard."""


@dataclass(slots=True)
class Conversation:
    """A contact's unheard messages, in sequence, and its open proposal with the command behind it."""

    row: Row[Any]
    messages: list[Row[Any]] = field(default_factory=list)
    proposal: Row[Any] | None = None
    proposed: Row[Any] | None = None
    said: list[Said] = field(default_factory=list)
    """What the family said lately that nothing has come of, oldest first; read only where frustration is possible."""
    frustration: FrustrationPolicy = field(default_factory=FrustrationPolicy)
    asked: list[Question] = field(default_factory=list)
    """What the contact was asked the day before, the nearest appointment first."""
    timezone: str = "America/Sao_Paulo"
    """The clinic's; read only where several questions are open."""
    asked_back: bool = False
    """Whether the contact was asked already which of the open questions it answers."""

    @property
    def key(self) -> LaneKey:
        """(tenant, contact)."""
        return (self.row.tenant_id, self.row.contact_id)


@dataclass(slots=True, kw_only=True)
class Heard:
    """What triage made of one conversation's messages: those done, and commands that follow from them."""

    conversation: Conversation
    message_ids: list[str]
    last_sequence: int
    commands: list[Submission] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    """Message id -> command id."""
    confirmed: bool = False
    expired: bool = False
    handed_over: bool = False
    """A takeover was asked for among these messages."""
    says: list[dict[str, Any]] = field(default_factory=list)
    """Rows for the outbox: what is asked back."""


def _unheard_query() -> Select[Any]:
    mine = (_MESSAGE.c.tenant_id == _LANE.c.tenant_id, _MESSAGE.c.contact_id == _LANE.c.contact_id, _MESSAGE.c.done_at.is_(None))
    patient_at = bindparam("patient_at", type_=UTCDateTime)
    due = or_(_MESSAGE.c.sequence <= _LANE.c.last_processed + 1, _MESSAGE.c.received_at <= patient_at)
    turn = func.row_number().over(partition_by=_LANE.c.tenant_id, order_by=_LANE.c.unheard_since).label("turn")
    seen = [_LANE.c[name] for name in _OF_LANE]
    ready = select(*seen, _LANE.c.unheard_since, turn).where(_LANE.c.unheard > 0, exists().where(*mine, due)).subquery("t")
    shown = select(*(ready.c[name] for name in _OF_LANE))
    return shown.order_by(ready.c.turn, ready.c.unheard_since).limit(bindparam("limit", type_=Integer))


_UNHEARD = _unheard_query()


def unheard(conn: Connection, limit: int, chain: int, now: datetime) -> list[Conversation]:
    """Conversations with messages to process, each with its next messages: clinics take turns, oldest first in each.

    One that waits for a missing message is not among them before its patience is over, so it delays nobody.
    """
    lanes = conn.execute(_UNHEARD, {"limit": limit, "patient_at": now - GAP_PATIENCE}).all()
    if not lanes:
        return []
    found = {(row.tenant_id, row.contact_id): Conversation(row) for row in lanes}
    keys = [{"tenant_id": t, "contact_id": c} for t, c in found]
    tail = "ORDER BY t.tenant_id, t.contact_id, t.sequence"
    for row in joined_rows(conn, _MESSAGE, keys, keys=_KEY, columns=_OF_MESSAGE, where="t.done_at IS NULL", tail=tail):
        conversation = found[(row.tenant_id, row.contact_id)]
        if len(conversation.messages) < chain:
            conversation.messages.append(row)
    for row in joined_rows(conn, _PROPOSAL, keys, keys=_KEY, columns=_PROPOSAL.c.keys(), where="t.closed_at IS NULL"):
        found[(row.tenant_id, row.contact_id)].proposal = row
    ids = [{"tenant_id": c.row.tenant_id, "command_id": c.proposal.command_id} for c in found.values() if c.proposal is not None]
    if ids:
        for row in joined_rows(conn, _COMMAND, ids, keys=("tenant_id", "command_id"), columns=_COMMAND.c.keys()):
            found[(row.tenant_id, row.contact_id)].proposed = row
    _load_asked(conn, found, keys)
    _load_said(conn, list(found.values()), now)
    return list(found.values())


def _load_asked(conn: Connection, found: dict[LaneKey, Conversation], keys: list[dict[str, Any]]) -> None:
    """The questions of the day before whose appointment had not begun when the first of these messages came."""
    since = [
        key | {"was_start_at": min(m.received_at for m in found[(key["tenant_id"], key["contact_id"])].messages)}
        for key in keys
        if found[(key["tenant_id"], key["contact_id"])].messages
    ]
    if not since:
        return
    where = "t.action = 'ask_family' AND t.outcome = 'done' AND t.start_at > r.was_start_at"
    asked = joined_rows(conn, _ASKED, since, keys=_KEY, columns=_ASKED.c.keys(), where=where, tail="ORDER BY t.start_at").all()
    if not asked:
        return
    names = [{"tenant_id": t, "appointment_id": a} for t, a in dict.fromkeys((row.tenant_id, row.appointment_id) for row in asked)]
    columns = _APPOINTMENT.c.keys()
    standing = {
        (row.tenant_id, row.appointment_id): row
        for row in joined_rows(conn, _APPOINTMENT, names, keys=("tenant_id", "appointment_id"), columns=columns)
    }
    sent = _sent_as(conn, asked)
    for row in asked:
        appointment = standing.get((row.tenant_id, row.appointment_id))
        if appointment is not None:
            question = Question(
                token=question_token(row.tenant_id, row.appointment_id, row.start_at),
                state=Asked.MOVED if appointment.start_at != row.start_at else _STANDS[appointment.status],
                appointment=appointment,
                sent_as=frozenset(sent.get((row.tenant_id, question_cause(row.appointment_id, row.start_at)), ())),
            )
            found[(row.tenant_id, row.contact_id)].asked.append(question)
    for talk in found.values():
        unanswered = still_open(talk.asked)
        if len(unanswered) > 1:
            talk.timezone = load(conn, talk.key[0])["timezone"]
            own = (_OUTBOX.c.tenant_id == talk.key[0], _OUTBOX.c.cause_id == which_cause(talk.key[1], unanswered))
            talk.asked_back = conn.execute(select(_OUTBOX.c.outbox_id).where(*own).limit(1)).first() is not None


def _sent_as(conn: Connection, asked: Sequence[Row[Any]]) -> dict[tuple[str, str], list[str]]:
    """The provider's ids of the messages that asked, by (tenant, cause)."""
    causes = [{"tenant_id": row.tenant_id, "cause_id": question_cause(row.appointment_id, row.start_at)} for row in asked]
    columns = ("tenant_id", "cause_id", "provider_message_id")
    sent: dict[tuple[str, str], list[str]] = {}
    for row in joined_rows(conn, _OUTBOX, causes, keys=("tenant_id", "cause_id"), columns=columns):
        if row.provider_message_id:
            sent.setdefault((row.tenant_id, row.cause_id), []).append(row.provider_message_id)
    return sent


def _of_the_contact(table: Table) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.tenant_id == bindparam("tenant_id"), table.c.contact_id == bindparam("contact_id")


def _came_of_it_query() -> Select[Any]:
    """When the contact's last command was accepted and its last takeover closed; one row."""
    accepted = select(_COMMAND.c.accepted_at).where(*_of_the_contact(_COMMAND), _COMMAND.c.commit_order.is_not(None))
    last = accepted.order_by(_COMMAND.c.commit_order.desc()).limit(1).scalar_subquery()
    closed = select(func.max(_TICKET.c.closed_at)).where(*_of_the_contact(_TICKET), _TICKET.c.kind == "takeover")
    return select(last, closed.scalar_subquery())


def _earlier_query() -> Select[Any]:
    seen = select(_MESSAGE.c.received_at, _MESSAGE.c.intent, _MESSAGE.c.payload_json)
    heard, since = _MESSAGE.c.sequence <= bindparam("heard"), _MESSAGE.c.received_at > bindparam("since")
    return seen.where(*_of_the_contact(_MESSAGE), heard, since).order_by(_MESSAGE.c.sequence.desc()).limit(RECENT_MAX)


_CAME_OF_IT, _EARLIER = _came_of_it_query(), _earlier_query()


def _load_said(conn: Connection, conversations: Sequence[Conversation], now: datetime) -> None:
    """Earlier messages of families whose next ones are not understood, since something last came of what they wrote."""
    policies: dict[str, FrustrationPolicy] = {}
    for talk in conversations:
        if talk.row.takeover_id is not None or not any(m.intent in NOT_UNDERSTOOD for m in talk.messages):
            continue
        tenant_id, contact_id = talk.key
        if tenant_id not in policies:
            policies[tenant_id] = frustration_policy(load(conn, tenant_id))
        talk.frustration = policies[tenant_id]
        key = {"tenant_id": tenant_id, "contact_id": contact_id}
        came_of_it = conn.execute(_CAME_OF_IT, key).one()
        since = max([now - talk.frustration.window, *(moment for moment in came_of_it if moment is not None)])
        earlier = conn.execute(_EARLIER, key | {"heard": talk.row.last_processed, "since": since})
        talk.said = [said_in(row) for row in reversed(earlier.all())]


def said_in(message: Row[Any]) -> Said:
    """What a stored message says, for the count of those not understood."""
    text = msgspec.json.decode(message.payload_json).get("text")
    return Said(at=message.received_at, intent=message.intent, text=text if isinstance(text, str) else "")


def hear(conn: Connection, heard: Sequence[Heard], now: datetime) -> list[Receipt]:
    """Mark messages processed and accept the commands they carry, in one transaction; a lost race changes nothing."""
    rows = []
    for h in heard:
        row = h.conversation.row
        rows.append(
            {
                "tenant_id": row.tenant_id,
                "contact_id": row.contact_id,
                "was_last_processed": row.last_processed,
                "was_unheard": row.unheard,
                "was_conversation_version": row.conversation_version,
                "last_processed": max(row.last_processed, h.last_sequence),
                "unheard": len(h.message_ids),
            }
        )
    won = update_rows(
        conn,
        _LANE,
        rows,
        keys=_KEY,
        in_order=True,
        assign=("last_processed",),
        expressions={
            "unheard": "t.unheard - r.unheard",
            "unheard_since": "CASE WHEN t.unheard - r.unheard > 0 THEN t.unheard_since END",
        },
        guard="t.last_processed = r.was_last_processed AND t.unheard = r.was_unheard "
        "AND t.conversation_version = r.was_conversation_version",
    )
    winners = [h for h in heard if h.conversation.key in won]
    done = [
        {
            "tenant_id": h.conversation.row.tenant_id,
            "event_id": event_id,
            "status": State.PROCESSED,
            "done_at": now,
            "made_command_id": h.made.get(event_id),
        }
        for h in winners
        for event_id in h.message_ids
    ]
    bundle = Bundle(conn)
    bundle.update(
        _MESSAGE,
        done,
        keys=("tenant_id", "event_id"),
        assign=("status", "done_at", "made_command_id"),
        guard="t.done_at IS NULL",
    )
    for outcome in ("confirmed", "expired"):
        closed = [h.conversation for h in winners if getattr(h, outcome)]
        ids = [
            {"tenant_id": c.row.tenant_id, "command_id": c.proposal.command_id, "closed_at": now, "outcome": outcome}
            for c in closed
            if c.proposal is not None
        ]
        update_rows(
            conn, _PROPOSAL, ids, keys=("tenant_id", "command_id"), assign=("closed_at", "outcome"), guard="t.closed_at IS NULL"
        )
    changes: dict[tuple[str | None, str], set[str]] = {}
    for h in winners:
        for topic in ("lane", "queue"):
            changes.setdefault((h.conversation.key[0], topic), set()).add(h.conversation.key[1])
    publish_with(bundle, changes, now)
    enqueue_with(bundle, [row for h in winners for row in h.says])
    bundle.run()
    return accept(conn, [s for h in winners for s in h.commands], now)
