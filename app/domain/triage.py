"""Triage (F-01): what an inbound message is about, and how soon it must be heard.

Deterministic rules over folded pt-BR text. They only choose the dispatch class and whether a person is wanted; no agenda
effect ever rests on them. `Triager` is the seam where other rules, or a model, can be put.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from app.domain.confirmation import fold, is_explicit_confirmation
from app.domain.states import PriorityClass

_READ_MAX: Final = 2_000
"""Characters that are read; an intent stands at the beginning of a message."""


class Intent(StrEnum):
    """What a message asks for."""

    TAKEOVER_REQUEST = "takeover_request"
    COMPLAINT = "complaint"
    CONFIRMATION = "confirmation"
    CANCEL_REQUEST = "cancel_request"
    RESCHEDULE_REQUEST = "reschedule_request"
    SCHEDULE_REQUEST = "schedule_request"
    GREETING = "greeting"
    OTHER = "other"


PRIORITY_OF_INTENT: Final = {
    Intent.TAKEOVER_REQUEST: PriorityClass.URGENT_TAKEOVER,
    Intent.COMPLAINT: PriorityClass.URGENT_TAKEOVER,
    Intent.CONFIRMATION: PriorityClass.CONFIRMATION_RESCHEDULE,
    Intent.CANCEL_REQUEST: PriorityClass.CONFIRMATION_RESCHEDULE,
    Intent.RESCHEDULE_REQUEST: PriorityClass.CONFIRMATION_RESCHEDULE,
    Intent.SCHEDULE_REQUEST: PriorityClass.NEW_LEAD,
    Intent.GREETING: PriorityClass.NEW_LEAD,
    Intent.OTHER: PriorityClass.FOLLOW_UP,
}


@dataclass(frozen=True, slots=True)
class Triage:
    """The outcome for one message."""

    intent: Intent
    priority: PriorityClass


class Triager(Protocol):
    """Anything that can triage one message; total and free of I/O."""

    def __call__(self, text: str) -> Triage:
        """Intent and class of the message text ('' for media without words)."""
        ...


_PERSON: Final = r"(?:pessoa|atendente|humano|humana|alguem|recepcao|secretaria|recepcionista|gente de verdade)"
_WANT: Final = r"(?:falar|fala|conversar|tratar|atend\w+|cham\w+|quero|queria|preciso|pass[ae]r?|transf\w+|me liga|ligar)"
_MACHINE: Final = r"(?:robo|bot|maquina|ia|inteligencia artificial)"

# first match wins: whoever wants a person gets one, whatever else the message says
_WORDS: Final[tuple[tuple[Intent, tuple[str, ...]], ...]] = (
    (
        Intent.TAKEOVER_REQUEST,
        (
            rf"\b{_WANT}\b(?: (?:me|ja|agora|logo|por favor))?(?: (?:falar|conversar|tratar|atendid[oa]|ajuda))?"
            rf" (?:com|por|de|a|pra|para|um|uma|o)(?: (?:um|uma|a|o|outra|alguma))? ?{_PERSON}\b",
            rf"\b(?:quero|queria|preciso de|chama|chame|cade) (?:um|uma|o|a|alguma)? ?{_PERSON}\b",
            rf"^(?:um|uma|o|a)? ?{_PERSON}(?: por favor)?[ .!?]*$",
            r"\batendimento humano\b",
            rf"\bnao quero (?:mais )?(?:falar com |conversar com )?(?:o |um |uma |a |essa |esse )?{_MACHINE}\b",
        ),
    ),
    (
        Intent.COMPLAINT,
        (
            r"\b(?:absurdo|ridicul[oa]|pessim[oa]|horrivel|palhacada|descaso|vergonha|procon|reclamar|reclamacao)\b",
            r"\b(?:irritad[oa]|indignad[oa]|revoltad[oa]|cansei|cansad[oa] de|falta de respeito|nao aguento)\b",
            r"\bninguem (?:me |nos )?(?:responde|respondeu|atende|atendeu|ajuda|resolve|resolveu)\b",
            r"\b(?:ja )?e a (?:segunda|terceira|quarta|quinta|decima|milesima) vez\b",
            r"\b(?:voce|voces|esse robo|isso) nao (?:entende|entendem|funciona|funcionam|ajuda|ajudam)\b",
        ),
    ),
    (
        Intent.RESCHEDULE_REQUEST,
        (
            r"\b(?:remarc|reagend)\w*\b|\b(?:adiar|antecipar)\b",
            r"\b(?:mud|troc|alter|transfer|pass)(?:ar|a|e|o|ir|ando)\b(?: \w+){0,4} (?:horario|dia|data|consulta|sessao|terapia)\b",
        ),
    ),
    (
        Intent.CANCEL_REQUEST,
        (
            r"\b(?:cancel|desmarc)\w*\b",
            r"\bnao (?:vamos|vou|vai|iremos|podemos|posso|podera|conseguimos|consigo|da para|da pra)"
            r"(?: poder| conseguir)? (?:ir|comparecer|levar)\b",
        ),
    ),
    (
        Intent.SCHEDULE_REQUEST,
        (
            r"\b(?:agend|marc(?:ar|a|o|acao)\b)\w*",
            r"\b(?:vaga|vagas|horario|horarios|avaliacao|disponibilidade|disponivel)\b",
            r"\b(?:primeira|nova|uma) consulta\b",
        ),
    ),
    (
        Intent.GREETING,
        (
            r"^(?:oi+e?|ola|opa|hey|alo|e ai|bom dia|boa tarde|boa noite|tudo bem|tudo bom)"
            r"(?:[ ,.!?]+(?:bom dia|boa tarde|boa noite|tudo bem|tudo bom|td bem|pessoal|gente|como vai))*[ ,.!?]*$",
        ),
    ),
)
_RULES: Final = tuple((intent, re.compile("|".join(patterns))) for intent, patterns in _WORDS)


def triage(text: str) -> Triage:
    """Intent and dispatch class of a message; never raises, equal text gives the equal answer."""
    intent = _intent(text[:_READ_MAX])
    return Triage(intent, PRIORITY_OF_INTENT[intent])


def _intent(text: str) -> Intent:
    if is_explicit_confirmation(text):
        return Intent.CONFIRMATION
    folded = fold(text)
    for intent, pattern in _RULES:
        if pattern.search(folded):
            return intent
    return Intent.OTHER
