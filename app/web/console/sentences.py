"""What screens say about commands and lanes: one word for a state, one sentence for why something waits or did not happen.

Reason texts come from the domain; this module adds the numbers, times and names that only a screen knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.domain.contingency_texts import GENERAL
from app.domain.reasons import Reason, explain
from app.domain.states import EFFECT_RESULTS, PARKED, CommandType, State
from app.store.views.lane import LaneHead, TimelineItem, Visit
from app.store.views.overview import Need
from app.store.views.queue import QueueRow
from app.web.i18n import mark
from app.web.words import Words


@dataclass(frozen=True, slots=True)
class Badge:
    """A short mark: code, word and shape together, so that colour is never alone."""

    code: str
    word: str
    shape: str
    """Symbol of the icon sprite."""
    tone: str
    """crit | high | warn | human | plain."""


_CLASSES: Final = (
    ("P1", mark("Critical"), "triangle", "crit"),
    ("P2", mark("High"), "square", "high"),
    ("P3", mark("Normal"), "ring", "plain"),
    ("P4", mark("Low"), "dash", "plain"),
)

CLASS_NAMES: Final = tuple(word for _, word, _, _ in _CLASSES)

COMMAND_NAMES: Final[Mapping[str, str]] = {
    CommandType.SCHEDULE: mark("Schedule"),
    CommandType.RESCHEDULE: mark("Reschedule"),
    CommandType.CANCEL: mark("Cancel"),
    CommandType.D1_CONFIRMATION: mark("Confirm visit"),
    CommandType.FOLLOW_UP: mark("Follow up"),
    CommandType.TAKEOVER: mark("Take over"),
}

REQUESTERS: Final[Mapping[str, str]] = {"ai": mark("AI"), "human": mark("person"), "system": mark("system")}

STATE_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    State.QUEUED_FOR_DISPATCH: (mark("In the queue"), "plain"),
    State.WAITING_PREVIOUS_COMMIT: (mark("Waits for the one before"), "warn"),
    State.PENDING_SAFE_MODE: (mark("Parked by safe mode"), "high"),
    State.PENDING_CONTINGENCY: (mark("Parked by contingency"), "high"),
    State.LOCK_ACQUIRE_FAILED_SAFE_BLOCK: (mark("No lock, held for safety"), "crit"),
    State.COMMITTED_CAUSAL: (mark("Done"), "plain"),
    State.APPLIED_ONCE: (mark("Done"), "plain"),
    State.REPLAYED: (mark("Done late"), "plain"),
    State.DUPLICATE_IGNORED: (mark("Repeated, ignored"), "plain"),
    State.BLOCKED_CONFLICT: (mark("In conflict"), "warn"),
    State.BLOCKED_COMMIT_ORDER_VIOLATION: (mark("Out of order"), "warn"),
    State.VERSION_CONFLICT_BLOCKED: (mark("Out of date"), "warn"),
    State.CONFLICT_BLOCKED: (mark("Out of date"), "warn"),
    State.EXPIRED_MANUAL: (mark("Expired"), "warn"),
    State.INVALID_EVENT_MANUAL: (mark("Incomplete"), "warn"),
    State.INVALID_PAYLOAD_MANUAL: (mark("Unusable"), "warn"),
    State.DEAD_LETTER: (mark("Set aside, queue full"), "high"),
    State.MANUAL_REVIEW_REQUIRED: (mark("Needs a person"), "high"),
    State.BLOCKED_GUARDIAN_DENIED: (mark("No permission"), "warn"),
    State.BLOCKED_UNCONFIRMED: (mark("Not confirmed"), "warn"),
    State.BLOCKED_TAKEOVER_ACTIVE: (mark("With a person"), "human"),
    State.BLOCKED_AGENDA_CONFLICT: (mark("Slot taken"), "warn"),
    State.TTL_VALID_READY_FOR_REPLAY: (mark("Ready for replay"), "plain"),
    State.VERSION_MATCH_READY_FOR_REPLAY: (mark("Ready for replay"), "plain"),
    State.PROCESSED: (mark("Read"), "plain"),
}
"""Word and tone of every state."""

WAITING_STATES: Final = (
    State.QUEUED_FOR_DISPATCH,
    State.WAITING_PREVIOUS_COMMIT,
    State.PENDING_SAFE_MODE,
    State.PENDING_CONTINGENCY,
    State.LOCK_ACQUIRE_FAILED_SAFE_BLOCK,
)

_MESSAGES: Final[Mapping[str, str]] = {
    "delivery_unknown": mark("It is not known whether the message to the family went out."),
    "delivery_refused": mark("The provider refused the message to the family."),
    "delivery_given_up": mark("The message to the family could not be sent."),
    "template_required": mark("More than 24 h have passed since the family wrote: only an approved template may be sent."),
    "contact_without_phone": mark("This contact has no phone number."),
}
"""Reasons of tasks about messages to families, which are no states of a command."""

_TAKEOVERS: Final[Mapping[str, str]] = {
    "family_request": mark("The family asked for a person."),
    "frustration": mark("The family wrote several times and was not understood."),
    "d1_declined": mark("The family answered that it will not come to the appointment."),
    "d1_unclear": mark("The family answered, and it is not clear which appointment it means."),
    "d1_outdated": mark("The family answered a question about an appointment that has changed since."),
    "forgotten": mark("What was typed here has been deleted."),
    "erased": mark("What was typed here has been deleted."),
}
_STOPPED: Final[Mapping[str, str]] = {
    "gap": mark("Waits for an earlier request that has not arrived."),
    "safe_mode": mark("Parked by safe mode."),
    "contingency": mark("Parked by contingency."),
    "replay": mark("Waits for the replay of this contact's earlier requests."),
    "held": mark("A person paused this type of request."),
    "fallback": mark("The fallback lock reached its limit; goes on by itself."),
}


def class_badge(words: Words, rank: int) -> Badge:
    """Badge of a priority class."""
    code, word, shape, tone = _CLASSES[min(max(rank, 0), 3)]
    return Badge(code, words.text(word), shape, tone)


def state_badge(words: Words, status: str) -> Badge:
    """Badge of a state, terminal or not."""
    word, tone = STATE_NAMES.get(status, (status, "plain"))
    shape = {"plain": "dot", "warn": "diamond", "high": "square", "crit": "triangle", "human": "person"}[tone]
    return Badge("", words.text(word), "check" if status in _DONE else shape, tone)


_DONE: Final = frozenset({State.COMMITTED_CAUSAL, State.PROCESSED, *EFFECT_RESULTS})


def command_name(words: Words, command_type: str | None) -> str:
    """The verb of a command."""
    return words.text(COMMAND_NAMES.get(command_type or "", command_type or ""))


def intent_name(words: Words, intent: str) -> str:
    """What a message to a family was about."""
    return words.text("general") if intent == GENERAL else command_name(words, intent).lower()


def stopped_by(words: Words, cause: str | None) -> str:
    """Why a lane stands still, in a sentence."""
    return words.text(_STOPPED.get(cause or "", mark("Stopped.")))


# --- why it waits -------------------------------------------------------------------------------------------------------


def why_row_waits(words: Words, row: QueueRow) -> str:
    """Why one command of the queue waits, in one sentence."""
    if row.paused_since is not None:
        return words.text(
            "This contact is paused since %(time)s: %(reason)s", time=words.clock(row.paused_since), reason=row.paused_reason or "-"
        )
    if row.waits_for is not None:
        if row.status == State.WAITING_PREVIOUS_COMMIT and row.reason == "previous_missing":
            return words.text("Waits for no. %(n)d of this contact, which has not arrived.", n=row.waits_for)
        if row.status in PARKED:
            return words.text("Waits for no. %(n)d of this contact, which is parked.", n=row.waits_for)
        return words.text("Waits for no. %(n)d of this contact.", n=row.waits_for)
    if row.held:
        return words.text("A person paused this type of request.")
    if row.position is not None and row.status == State.QUEUED_FOR_DISPATCH:
        return words.text("Next to leave.") if row.position == 1 else words.text("Ready; waits for its turn.")
    return explain(row.status, row.reason, words.locale).why


def why_need(words: Words, need: Need) -> str:
    """Why something needs a person, in one sentence."""
    if need.kind == "takeover":
        why = takeover_reason(words, need.reason)
        return words.text("The AI is silent since %(time)s. %(reason)s", time=words.clock(need.since), reason=why)
    if need.kind == "stuck":
        return stopped_by(words, need.state)
    return task_reason(words, need.state, need.reason)


def takeover_reason(words: Words, reason: str) -> str:
    """Why a person has a conversation: a sentence for the system's own reasons, else what the person wrote."""
    return words.text(_TAKEOVERS[reason]) if reason in _TAKEOVERS else reason


def task_reason(
    words: Words, cause: str, reason: str, *, occurred_at: datetime | None = None, ttl_limit_s: float | None = None
) -> str:
    """Why a task is there, in one sentence; of an expired request with how old it is and what its limit was."""
    if reason in _MESSAGES:
        return words.text(_MESSAGES[reason])
    # the limit of an answer of the day before depends on its visit, and may have been over before it came
    if reason == Reason.TTL_EXPIRED and occurred_at is not None and ttl_limit_s is not None and ttl_limit_s > 0:
        return words.text(
            "The request came %(age)s ago and its limit was %(limit)s.",
            age=words.span(words.now - occurred_at),
            limit=words.span(ttl_limit_s),
        )
    return explain(cause, reason, words.locale).why


def need_name(words: Words, need: Need) -> str:
    """What the item is about, in a word or two."""
    if need.command_type:
        return command_name(words, need.command_type)
    if need.kind == "takeover":
        return words.text("Conversation")
    if need.kind == "stuck":
        return words.count("%(n)s waiting request", "%(n)s waiting requests", need.waiting)
    if need.state in _MESSAGES:
        return words.text("Message to the family")
    return state_badge(words, need.state).word


# --- the lane in one sentence -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """Why this family waits, or why it did not happen: the rule, since when, what frees it, what is at stake."""

    tone: str
    headline: str
    lines: tuple[str, ...] = ()


def lane_answer(
    words: Words, head: LaneHead, front: TimelineItem | None, last: TimelineItem | None, visits: tuple[Visit, ...]
) -> Answer:
    """The one answer at the top of a contact's page."""
    lines: list[str] = []
    if head.waiting and front is not None:
        tone, headline = _waiting(words, head, front, lines)
    elif last is not None and last.result is not None and last.result not in EFFECT_RESULTS:
        told = explain(last.result, last.reason, words.locale)
        tone = state_badge(words, last.result).tone
        headline = words.text(
            "The last request (%(name)s, no. %(n)s) did not happen: %(why)s",
            name=command_name(words, last.command_type).lower(),
            n=last.number if last.number is not None else "-",
            why=told.why[:1].lower() + told.why[1:],
        )
        lines.append(words.text("Next step: %(action)s", action=told.next_action))
    elif last is not None and last.done_at is not None:
        tone = "plain"
        headline = words.text(
            "Nothing waits. Last request: %(name)s, done %(ago)s.",
            name=command_name(words, last.command_type).lower(),
            ago=words.ago(last.done_at),
        )
    else:
        tone, headline = "plain", words.text("Nothing waits for this contact.")
    if head.takeover:
        lines.append(words.text("A person has this conversation; the AI is silent."))
    if head.proposal_until is not None:
        lines.append(
            words.text("A proposal waits for the family's CONFIRMAR until %(time)s.", time=words.clock(head.proposal_until))
        )
    nearest = next((v for v in visits if v.status != "cancelled"), None)
    if nearest is not None:
        lines.append(
            words.text(
                "Nearest appointment: %(when)s, %(patient)s with %(therapist)s.",
                when=words.visit(nearest.start_at),
                patient=nearest.patient_name or nearest.patient_id,
                therapist=nearest.therapist_name or "-",
            )
        )
    return Answer(tone, headline, tuple(lines))


def _waiting(words: Words, head: LaneHead, front: TimelineItem, lines: list[str]) -> tuple[str, str]:
    """Tone and headline of a lane with something waiting; what frees it goes into `lines`."""
    name, number = command_name(words, front.command_type), front.number or 0
    behind = head.waiting - 1
    if behind > 0:
        lines.append(words.count("%(n)s more request waits behind it.", "%(n)s more requests wait behind it.", behind))
    if head.paused_since is not None:
        by = words.text("Paused since %(time)s: %(reason)s", time=words.clock(head.paused_since), reason=head.paused_reason or "-")
        lines.append(words.text("Released by: whoever paused it, or management."))
        return "warn", by
    if head.held_since is not None:
        lines.append(words.text("Released by: management."))
        since, reason = words.clock(head.held_since), head.held_reason or "-"
        return "warn", words.text(
            "A person paused the clinic or this type of request since %(time)s: %(reason)s", time=since, reason=reason
        )
    if head.blocked_by == "gap":
        if head.next_look_at is not None:
            lines.append(
                words.text("Released by: its arrival or, at %(time)s, a person's review.", time=words.clock(head.next_look_at))
            )
        since = words.clock(head.blocked_since) if head.blocked_since else "-"
        return "warn", words.text(
            "%(name)s (no. %(n)d) waits for no. %(before)d, which has not arrived, since %(time)s.",
            name=name,
            n=number,
            before=number - 1,
            time=since,
        )
    told = explain(front.status, front.reason, words.locale)
    if front.status != State.QUEUED_FOR_DISPATCH:
        lines.insert(0, told.next_action)
        since = words.clock(head.blocked_since or front.waiting_since or front.at)
        return state_badge(words, front.status).tone, words.text(
            "%(name)s (no. %(n)d) waits since %(time)s: %(why)s",
            name=name,
            n=number,
            time=since,
            why=told.why[:1].lower() + told.why[1:],
        )
    if head.blocked_by == "fallback":
        lines.append(words.text("Released by: the system, within seconds."))
        return "warn", stopped_by(words, head.blocked_by)
    if head.locked:
        lines.append(words.text("Released by: the system, within seconds."))
        return "plain", words.text("%(name)s (no. %(n)d) is being handled now.", name=name, n=number)
    if head.position is None:
        return "plain", words.text("%(name)s (no. %(n)d) is in the queue.", name=name, n=number)
    return "plain", words.text(
        "%(name)s (no. %(n)d) is ready: position %(position)d to leave.", name=name, n=number, position=head.position
    )
