"""Which question of the day before an answer belongs to: by its button, by the message it replies to, or because one is open."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.domain.d1_texts import NO_BUTTON, YES_BUTTON
from app.domain.envelopes import sha256_hex


class Asked(StrEnum):
    """How the appointment of a question stands."""

    OPEN = "open"
    """Not confirmed, and still at the start that was asked about."""
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    MOVED = "moved"


@dataclass(slots=True, kw_only=True)
class Question:
    """A question that the contact was asked the day before."""

    token: str
    state: Asked
    appointment: Any
    """The appointment's row as it is now."""
    sent_as: frozenset[str] = frozenset()
    """The provider's ids of the messages that asked it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`yes` or `no`, to the question `token`; None = the answer itself does not say."""

    word: str
    token: str | None


def d1_answer(button_id: str, *, said: bool) -> Answer | None:
    """What a message answers; `said` = an unambiguous CONFIRMAR in words. None for anything else: it is no answer."""
    for button, word in ((YES_BUTTON, "yes"), (NO_BUTTON, "no")):
        if button_id == button or button_id.startswith(f"{button}:"):
            return Answer(word=word, token=button_id[len(button) + 1 :] or None)
    return Answer(word="yes", token=None) if said else None


def named(answer: Answer, reply_to: str | None, questions: Sequence[Question]) -> Question | None:
    """The question that the answer names; None when it names none of these."""
    if answer.token is not None:
        return next((q for q in questions if q.token == answer.token), None)
    return next((q for q in questions if reply_to in q.sent_as), None) if reply_to else None


def still_open(questions: Sequence[Question]) -> list[Question]:
    """The questions that nobody has answered, the nearest appointment first."""
    return [q for q in questions if q.state is Asked.OPEN]


def changes_nothing(answer: Answer, state: Asked) -> bool:
    """Whether an answer to a question that is not open any more says what is so already."""
    return (answer.word, state) in (("yes", Asked.CONFIRMED), ("no", Asked.CANCELLED))


def which_cause(contact_id: str, questions: Sequence[Question]) -> str:
    """What asking back which of these was meant is kept under: the same questions are asked back about once."""
    return f"d1-which:{sha256_hex(':'.join([contact_id, *(q.token for q in questions)]))[:32]}"
