"""Messages on their way through triage (F-01): heard in `sequence`, turned into a command where they carry an intent.

What makes a command by itself: an explicit CONFIRMAR for an open proposal, an answer to the question of the day before, the
wish for a person, and a family that was not understood several times in a row. Everything else is the orchestrator's to
interpret; here it is only put in order and marked processed.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec

from app.clock import Clock
from app.domain.confirmation import confirming_id, is_courtesy, is_explicit_confirmation
from app.domain.d1_answers import Answer, Asked, Question, changes_nothing, d1_answer, named, still_open, which_cause
from app.domain.d1_texts import which
from app.domain.envelopes import Command, canonical_json, sha256_hex
from app.domain.frustration import is_frustrated
from app.domain.states import CommandType, RequestedBy, Source, State
from app.domain.triage import Intent
from app.engine.intake import set_aside
from app.errors import KoraError
from app.ids import new_id
from app.store.database import Database
from app.store.intake_facts import Submission
from app.store.lanes import LaneKey, command_of
from app.store.messages import GAP_PATIENCE, Conversation, Heard, hear, said_in, unheard
from app.store.outbox import outbox_row
from app.telemetry import LineKind

HEARD: Final = LineKind("engine.conversations", "messages_heard")

BATCH = 256
CHAIN = 16
RHYTHM_S = 0.02
"""Between two batches when messages keep coming: those that arrive meanwhile share one transaction."""
POLL_S = 1.0


class Conversations:
    """The loop that hears messages."""

    name = "conversations"

    def __init__(self, database: Database, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self.on_heard: list[Callable[[], None]] = []
        self.on_commands: list[Callable[[Collection[LaneKey]], None]] = []
        """Called after `on_heard` with the lanes whose messages became commands."""
        self._database, self._clock = database, clock
        self._next_at = 0.0

    async def tick(self) -> float:
        """Hear one batch."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._next_at - loop.time())
        conversations = await self._database.read(unheard, BATCH, CHAIN, self._clock.now())
        now = self._clock.now()  # after the read: another node may have heard the message before these meanwhile
        heard = [h for h in (self._hear(c, now) for c in conversations) if h is not None]
        if not heard:
            return POLL_S
        self._next_at = loop.time() + RHYTHM_S
        await self._write(heard, now)
        HEARD.info(
            {
                "flow_id": "F-01",
                "correlation_id": h.conversation.messages[0].correlation_id,
                "tenant_id": h.conversation.row.tenant_id,
                "contact_id": h.conversation.row.contact_id,
                "intent": h.conversation.messages[0].intent,
                "status": State.PROCESSED,
                "messages": len(h.message_ids),
                "commands": len(h.commands),
            }
            for h in heard
        )
        for wake in self.on_heard:
            wake()
        lanes = {(h.conversation.row.tenant_id, h.conversation.row.contact_id) for h in heard if h.commands}
        for arrived in self.on_commands if lanes else ():
            arrived(lanes)
        more = len(conversations) == BATCH or any(len(h.message_ids) == CHAIN for h in heard)
        return 0.0 if more else POLL_S

    async def _write(self, heard: list[Heard], now: datetime) -> None:
        """All in one transaction; where the database refuses it, each conversation in its own, at last without its commands."""
        try:
            await self._database.write(hear, heard, now)
        except (KoraError, OSError):
            raise
        except Exception as error:
            if len(heard) > 1:
                for one in heard:
                    await self._write([one], now)
                return
            (only,) = heard
            if not only.commands:
                raise
            kept = [set_aside(s, error) for s in only.commands]
            await self._database.write(hear, [replace(only, commands=kept, made={}, confirmed=False)], now)

    def _hear(self, conversation: Conversation, now: datetime) -> Heard | None:
        heard = Heard(conversation=conversation, message_ids=[], last_sequence=conversation.row.last_processed)
        for row in conversation.messages:
            gap = row.sequence > heard.last_sequence + 1
            if gap and now - row.received_at < GAP_PATIENCE:
                break
            heard.message_ids.append(row.event_id)
            heard.last_sequence = max(heard.last_sequence, row.sequence)
            command = self._command(conversation, heard, row, now)
            if command is not None:
                heard.made[row.event_id] = command.command_id
                heard.commands.append(
                    Submission(tenant_id=command.tenant_id, item=command, spare_id=new_id(), priority=command.priority.rank)
                )
        return heard if heard.message_ids else None

    def _command(self, conversation: Conversation, heard: Heard, row: Any, now: datetime) -> Command | None:
        payload = msgspec.json.decode(row.payload_json)
        text = payload.get("text")
        words = text if isinstance(text, str) else ""
        button = payload.get("button_id")
        button = button if isinstance(button, str) else ""
        said = is_explicit_confirmation(words) or is_explicit_confirmation(button)
        answer = d1_answer(button, said=said)
        about = named(answer, payload.get("reply_to"), conversation.asked) if answer is not None else None
        if answer is not None and about is not None:
            return _answered(conversation, heard, row, answer, about)
        if said and conversation.proposed is not None and not heard.confirmed and not heard.expired:
            if now > conversation.proposal.expires_at:  # type: ignore[union-attr]  # proposed implies proposal
                heard.expired = True
                return None
            heard.confirmed = True
            return _confirmed(command_of(conversation.proposed), row, _decided_on(conversation, row))
        if answer is not None and answer.token is None and (unanswered := still_open(conversation.asked)):
            if len(unanswered) == 1:
                return _answered(conversation, heard, row, answer, unanswered[0])
            return _which(conversation, heard, row, answer, unanswered, now)
        if conversation.row.takeover_id is not None or heard.handed_over:
            return None
        if row.intent == Intent.TAKEOVER_REQUEST:
            heard.handed_over = True
            return _takeover(row, "family_request")
        conversation.said.append(said_in(row))
        if is_frustrated(conversation.said, now, conversation.frustration):
            heard.handed_over = True
            return _takeover(row, "frustration")
        return None


def _decided_on(conversation: Conversation, message: Any, question: Question | None = None) -> int:
    """The conversation's version that an answer of the family is decided on.

    Whoever answers and says thanks right after it, or answers another question too, has not changed its mind: where everything
    behind the message is in view
    and is no more than that, the command is decided on the conversation as it is heard now (`hear` compares the version
    again). Anything else makes the command as old as its message, and the gate finds it stale.
    """
    unread = conversation.row.unheard > len(conversation.messages)
    later = [m for m in conversation.messages if m.conversation_version > message.conversation_version]
    if unread or not all(is_courtesy(_words(m)) or _answers_another(conversation, m, question) for m in later):
        return int(message.conversation_version)
    return int(conversation.row.conversation_version)


def _answers_another(conversation: Conversation, message: Any, question: Question | None) -> bool:
    """Whether a message confirms an appointment, by its button or as a reply, and not the one of this question."""
    payload = msgspec.json.decode(message.payload_json)
    button = payload.get("button_id")
    answer = d1_answer(button if isinstance(button, str) else "", said=is_explicit_confirmation(_words(message)))
    other = named(answer, payload.get("reply_to"), conversation.asked) if answer is not None and answer.word == "yes" else None
    return question is not None and other is not None and other is not question


def _words(message: Any) -> str:
    text = msgspec.json.decode(message.payload_json).get("text")
    return text if isinstance(text, str) else ""


def _confirmed(proposed: Command, message: Any, conversation_version: int) -> Command:
    """The proposed command again, now confirmed by this message: once per proposal, on the versions it was proposed on."""
    command_id = confirming_id(proposed.tenant_id, proposed.command_id)
    return Command(
        command_id=command_id,
        tenant_id=proposed.tenant_id,
        contact_id=proposed.contact_id,
        command_type=proposed.command_type,
        idempotency_key=f"confirm:{proposed.command_id}" if len(proposed.command_id) <= 192 else f"confirm:{command_id}",
        fingerprint=proposed.fingerprint,
        requested_by=proposed.requested_by,
        requested_by_id=proposed.requested_by_id,
        confirmed_by_contact=True,
        correlation_id=proposed.correlation_id,
        payload=proposed.payload,
        conversation_id=message.conversation_id or proposed.conversation_id,
        patient_id=proposed.patient_id,
        guardian_version=proposed.guardian_version,
        conversation_version=conversation_version,
        entity_version=proposed.entity_version,
        as_of=proposed.as_of,
        occurred_at=message.occurred_at,
        causation_id=proposed.command_id,
        source=Source.WHATSAPP,
    )


def _answered(conversation: Conversation, heard: Heard, message: Any, answer: Answer, question: Question) -> Command | None:
    """An answer to this very question; one that its appointment has outlived goes to a person, unless it changes nothing."""
    if question.state is Asked.OPEN:
        question.state = Asked.CONFIRMED if answer.word == "yes" else Asked.CANCELLED
        return _d1(question.appointment, message, answer.word, _decided_on(conversation, message, question))
    if changes_nothing(answer, question.state):
        return None
    return _to_a_person(conversation, heard, message, "d1_outdated")


def _which(
    conversation: Conversation, heard: Heard, message: Any, answer: Answer, unanswered: list[Question], now: datetime
) -> Command | None:
    """An answer that could mean several appointments: asked back once, then a person's; never a guess."""
    if heard.says:
        return None  # two words in a row: the family is being asked
    body = which([(q.token, q.appointment.start_at) for q in unanswered], conversation.timezone)
    if answer.word == "no" or conversation.asked_back or body is None:
        return _to_a_person(conversation, heard, message, "d1_unclear")
    tenant_id, contact_id = conversation.key
    heard.says.append(
        outbox_row(
            tenant_id=tenant_id, contact_id=contact_id, cause_id=which_cause(contact_id, unanswered), step="which",
            kind="family_message", body=body, correlation_id=message.correlation_id, now=now,
        )
    )  # fmt: skip
    return None


def _to_a_person(conversation: Conversation, heard: Heard, message: Any, reason: str) -> Command | None:
    if conversation.row.takeover_id is not None or heard.handed_over:
        return None
    heard.handed_over = True
    return _takeover(message, reason)


def _d1(appointment: Any, message: Any, answer: str, conversation_version: int) -> Command:
    """The family's answer to the question of the day before, on the appointment as it stands."""
    name = f"{message.tenant_id}:{appointment.appointment_id}:{appointment.start_at.isoformat()}:{message.event_id}"
    payload = {"appointment_id": appointment.appointment_id, "answer": answer}
    return Command(
        command_id=sha256_hex(f"d1:{name}")[:32],
        tenant_id=message.tenant_id,
        contact_id=message.contact_id,
        command_type=CommandType.D1_CONFIRMATION,
        idempotency_key=f"d1:{sha256_hex(name)[:40]}",
        fingerprint=sha256_hex(canonical_json([message.contact_id, CommandType.D1_CONFIRMATION, appointment.patient_id, payload])),
        requested_by=RequestedBy.SYSTEM,
        confirmed_by_contact=True,
        correlation_id=message.correlation_id,
        payload=payload,
        conversation_id=message.conversation_id,
        patient_id=appointment.patient_id,
        conversation_version=conversation_version,
        entity_version=appointment.version,
        as_of=max(appointment.as_of, message.occurred_at),
        occurred_at=message.occurred_at,
        causation_id=message.event_id,
        source=Source.WHATSAPP,
    )


def _takeover(message: Any, reason: str) -> Command:
    """A person must take the conversation: the family asked for one, or was not understood too often."""
    payload = {"reason": reason}
    return Command(
        command_id=sha256_hex(f"takeover:{message.tenant_id}:{message.event_id}")[:32],
        tenant_id=message.tenant_id,
        contact_id=message.contact_id,
        command_type=CommandType.TAKEOVER,
        idempotency_key=f"takeover:{message.event_id}"[:200],
        fingerprint=sha256_hex(canonical_json([message.contact_id, CommandType.TAKEOVER, None, payload])),
        requested_by=RequestedBy.SYSTEM,
        confirmed_by_contact=False,
        correlation_id=message.correlation_id,
        payload=payload,
        conversation_id=message.conversation_id,
        occurred_at=message.occurred_at,
        causation_id=message.event_id,
        source=Source.WHATSAPP,
    )
