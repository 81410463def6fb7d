"""What plans leave behind, as rows: entries of the ledger, each hashed over the one before, and everything an effect brings."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.domain import family_texts
from app.domain.confirmation import confirms
from app.domain.envelopes import Command
from app.domain.facts import BookAppointment, ChangeAppointment, Mode, OpenTakeover, SendMessage
from app.domain.ledger_chain import entry_hash
from app.domain.manual import due_after
from app.domain.states import EFFECT_RESULTS, CommandType, State
from app.store.lanes import LaneKey, wanted_slot
from app.store.outbox import outbox_row
from app.store.plans import Attempt, Entry, LanePlan
from app.store.tasks import task_row

MANUAL_RESULTS = frozenset(
    {
        State.EXPIRED_MANUAL,
        State.CONFLICT_BLOCKED,
        State.INVALID_PAYLOAD_MANUAL,
        State.INVALID_EVENT_MANUAL,
        State.MANUAL_REVIEW_REQUIRED,
        State.BLOCKED_AGENDA_CONFLICT,
    }
)
"""Terminal results that become a task for a person."""

HASHED_FIELDS = (
    "tenant_id",
    "contact_id",
    "commit_order",
    "command_id",
    "command_type",
    "result",
    "reason",
    "effect_key",
    "entity_id",
    "entity_version",
    "conversation_version",
    "guardian_version",
    "takeover_active",
    "mode_epoch",
    "late",
    "correlation_id",
    "committed_at",
)
"""Fields of an entry that its hash covers, in this order."""


@dataclass(slots=True)
class Writes:
    """Rows of one transaction, by what they are."""

    ledger: list[dict[str, Any]] = field(default_factory=list)
    ended: list[dict[str, Any]] = field(default_factory=list)
    """Commands that get their terminal result."""
    pending: list[dict[str, Any]] = field(default_factory=list)
    """Commands that stay pending in another state."""
    versions: list[dict[str, Any]] = field(default_factory=list)
    booked: list[dict[str, Any]] = field(default_factory=list)
    changed: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    owners: dict[tuple[str, str], LaneKey] = field(default_factory=dict)
    """Lane behind each written (tenant, appointment)."""
    lanes: dict[tuple[str, str], LaneKey] = field(default_factory=dict)
    """Lane behind each written (tenant, command)."""
    outbox: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    tickets: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    events: dict[tuple[str | None, str], set[str]] = field(default_factory=lambda: defaultdict(set))


def age_s(command: Command, now: datetime) -> float | None:
    """Seconds since what the command is about happened, where that is known."""
    return (now - command.occurred_at).total_seconds() if command.occurred_at is not None else None


def of_the_attempt(attempt: Attempt, now: datetime) -> dict[str, Any]:
    """What all entries of one transaction have in common."""
    return {
        "lock_backend": attempt.lock_backend,
        "lock_mode": attempt.lock_mode,
        "lock_ms": attempt.lock_ms,
        "node_id": attempt.node_id,
        "attempt": attempt.token,
        "committed_at": now,
    }


def chain(plan: LanePlan, mode: Mode, now: datetime) -> list[dict[str, Any]]:
    """The ledger rows of a plan, each hashed over the one before; without what all entries have in common."""
    row = plan.facts.row
    previous = row.chain_hash
    takeover = row.takeover_id is not None
    rows = []
    for entry in plan.entries:
        decision, command = entry.decision, entry.command
        happened = decision.state in EFFECT_RESULTS
        entity_id, entity_version = _entity(entry)
        fields: dict[str, Any] = {  # exactly HASHED_FIELDS; below, what is not hashed is added
            "tenant_id": row.tenant_id,
            "contact_id": row.contact_id,
            "commit_order": entry.order,
            "command_id": command.command_id if command else None,
            "command_type": command.command_type if command else None,
            "result": decision.state,
            "reason": decision.reason,
            "effect_key": command.idempotency_key if command and happened else None,
            "entity_id": entity_id if happened else None,
            "entity_version": entity_version if happened else None,
            "conversation_version": row.conversation_version,
            "guardian_version": row.guardian_version,
            "takeover_active": takeover,
            "mode_epoch": plan.mode.epoch,
            "late": decision.late,
            "correlation_id": command.correlation_id if command else f"lane-{row.tenant_id}-{row.contact_id}"[:220],
            "committed_at": now,
        }
        digest = entry_hash(previous, fields)
        del fields["committed_at"]
        fields["safe_deadline"] = mode.safe_deadline
        # of the moment of the effect, not of the decision
        fields["event_age_s"] = age_s(command, now) if command and decision.late else decision.event_age_s
        fields["ttl_limit_s"] = decision.ttl_limit_s
        fields["accepted_at"] = entry.accepted_at
        fields["prev_hash"] = previous
        fields["hash"] = digest
        rows.append(fields)
        previous = digest
        takeover = takeover or isinstance(decision.effect, OpenTakeover)
    return rows


def _entity(entry: Entry) -> tuple[str | None, int | None]:
    effect = entry.decision.effect
    if isinstance(effect, BookAppointment):
        return effect.appointment_id, 1
    if isinstance(effect, ChangeAppointment):
        return effect.appointment_id, effect.expected_version + 1
    return None, None


def collect(writes: Writes, plan: LanePlan, now: datetime) -> None:
    """Add all that a plan leaves behind but its ledger entries."""
    tenant_id, contact_id = plan.key
    writes.events[(tenant_id, "queue")].add(contact_id)
    writes.events[(tenant_id, "lane")].add(contact_id)
    for change in plan.pending:
        writes.lanes[(tenant_id, change.command_id)] = plan.key
        writes.pending.append(
            {
                "tenant_id": tenant_id,
                "command_id": change.command_id,
                "status": change.state,
                "reason": change.reason,
                "was_parked": change.state in (State.PENDING_SAFE_MODE, State.PENDING_CONTINGENCY),
            }
        )
    for entry in plan.entries:
        _collect_entry(writes, plan, entry, now)


def _collect_entry(writes: Writes, plan: LanePlan, entry: Entry, now: datetime) -> None:
    (tenant_id, contact_id), decision, command = plan.key, entry.decision, entry.command
    overtaken = command is not None and family_texts.overtaken(command, decision)
    done = decision.effect is not None or decision.state is State.DUPLICATE_IGNORED
    unfulfilled = command is not None and confirms(command) and not done and not overtaken
    if decision.state in MANUAL_RESULTS or unfulfilled:
        writes.events[(tenant_id, "manual")].add(entry.new_id)
        name = command.command_id if command else f"{contact_id}:{entry.order}"
        writes.tasks.append(
            task_row(
                tenant_id=tenant_id,
                task_id=entry.new_id,
                dedup_key=f"command:{name}",
                cause=decision.state,
                reason=decision.reason,
                priority=command.priority.rank if command else 1,
                contact_id=contact_id,
                command_id=command.command_id if command else None,
                correlation_id=command.correlation_id if command else f"lane-{tenant_id}-{contact_id}"[:220],
                now=now,
                due_at=now + due_after(command.priority.rank if command else 1),
            )
        )
    if command is None:
        return
    writes.lanes[(tenant_id, command.command_id)] = plan.key
    status = State.COMMITTED_CAUSAL if decision.state in EFFECT_RESULTS else decision.state
    writes.ended.append(
        {
            "tenant_id": tenant_id,
            "command_id": command.command_id,
            "status": status,
            "result": decision.state,
            "reason": decision.reason,
        }
    )
    _collect_effect(writes, plan, entry, command, now)
    if unfulfilled:  # the family said CONFIRMAR: it hears of it, and somebody sees to it
        writes.outbox.append(_say(plan, command, "answer", family_texts.confirmation_kept(), now))
    if family_texts.opens_proposal(command, decision):
        writes.proposals.append(
            {
                "tenant_id": tenant_id,
                "command_id": command.command_id,
                "contact_id": contact_id,
                "opened_at": now,
                "expires_at": now + plan.ttl,
            }
        )
        start = entry.target.start_at if entry.target and command.command_type is CommandType.CANCEL else _wanted_start(command)
        words = family_texts.proposal(command.command_type, start, plan.timezone)
        if overtaken:
            words = family_texts.asked_again(words)
        writes.outbox.append(_say(plan, command, "proposal", words, now))


def _wanted_start(command: Command) -> datetime | None:
    slot = wanted_slot(command)
    return slot[0] if slot else None


def _collect_effect(writes: Writes, plan: LanePlan, entry: Entry, command: Command, now: datetime) -> None:
    (tenant_id, contact_id), effect = plan.key, entry.decision.effect
    if isinstance(effect, BookAppointment):
        facts = {"therapist_id": effect.therapist_id, "start_at": effect.start_at, "end_at": effect.end_at, "status": "scheduled"}
        _collect_version(writes, plan, command, effect.appointment_id, 1, facts, now)
        as_of = command.as_of or now
        row = {"tenant_id": tenant_id, "appointment_id": effect.appointment_id, "patient_id": effect.patient_id, **facts}
        writes.booked.append(row | {"version": 1, "as_of": as_of})
    elif isinstance(effect, ChangeAppointment):
        assert entry.target is not None
        facts = {
            "therapist_id": entry.target.therapist_id,
            "start_at": effect.start_at,
            "end_at": effect.end_at,
            "status": effect.status,
        }
        _collect_version(writes, plan, command, effect.appointment_id, effect.expected_version + 1, facts, now)
        as_of = max(command.as_of or now, entry.target.as_of)
        key = (tenant_id, effect.appointment_id)
        booked = next((b for b in writes.booked if (b["tenant_id"], b["appointment_id"]) == key), None)
        change = {**facts, "version": effect.expected_version + 1, "as_of": as_of}
        if booked is not None:  # booked earlier in this very transaction
            booked |= change
        elif key in writes.changed:
            writes.changed[key] |= change
        else:
            writes.changed[key] = {
                "tenant_id": tenant_id,
                "appointment_id": key[1],
                "was_version": effect.expected_version,
            } | change
    elif isinstance(effect, SendMessage):
        writes.outbox.append(_say(plan, command, "effect", effect.text, now))
    elif isinstance(effect, OpenTakeover):
        writes.events[(tenant_id, "tickets")].add(entry.new_id)
        writes.tickets.append(
            {
                "ticket_id": entry.new_id,
                "tenant_id": tenant_id,
                "kind": "takeover",
                "state": "open",
                "contact_id": contact_id,
                "cause_id": command.command_id,
                "reason": effect.reason[:500],
                "opened_at": now,
                "due_at": now + timedelta(minutes=15),
                "correlation_id": command.correlation_id,
            }
        )
    if effect is not None:
        words = family_texts.answer(command.command_type, effect, plan.timezone)
        if words is not None:
            writes.outbox.append(_say(plan, command, "answer", words, now))


def _collect_version(
    writes: Writes, plan: LanePlan, command: Command, appointment_id: str, version: int, facts: dict[str, Any], now: datetime
) -> None:
    tenant_id = plan.key[0]
    writes.owners[(tenant_id, appointment_id)] = plan.key
    writes.events[(tenant_id, "agenda")].add(appointment_id)
    row = {"tenant_id": tenant_id, "appointment_id": appointment_id, "version": version, "command_id": command.command_id, **facts}
    writes.versions.append(row | {"as_of": command.as_of or now, "at": now})


def _say(plan: LanePlan, command: Command, step: str, words: str, now: datetime) -> dict[str, Any]:
    tenant_id, contact_id = plan.key
    return outbox_row(
        tenant_id=tenant_id,
        cause_id=command.command_id,
        step=step,
        kind="family_message",
        contact_id=contact_id,
        body={"text": words},
        correlation_id=command.correlation_id,
        now=now,
    )
