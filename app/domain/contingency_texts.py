"""What families read while safe mode holds (S-PC-03-003), in pt-BR: one text per intent, for open and for closed hours.

A text may be edited per clinic; `{hora}` is by when a person answers, `{recebido}` when the request came, `{tel}` the
clinic's number. A sentence with `{tel}` falls away where there is no number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.domain.business_hours import Hours
from app.domain.envelopes import sha256_hex
from app.domain.family_texts import when

GENERAL: Final = "general"
"""Intent of a message that asked for nothing that safe mode parks."""
INTENTS: Final = ("schedule", "reschedule", "cancel", GENERAL)
HOURS_NAMES: Final = ("open", "closed")
PLACEHOLDERS: Final = ("{hora}", "{recebido}", "{tel}")
ANSWER_WITHIN: Final = timedelta(hours=1)
"""Of opening hours."""
AFTER_OPENING: Final = timedelta(minutes=30)
TEXT_MAX: Final = 1_000

TEXTS: Final[Mapping[str, Mapping[str, str]]] = {
    "schedule": {
        "open": "Olá! Recebemos seu pedido de consulta. O sistema está instável e nada foi marcado ainda. "
        "Nossa equipe responde até {hora}. Não precisa enviar de novo. Telefone: {tel}.",
        "closed": "Olá! Recebemos seu pedido de consulta. O sistema está instável, a clínica está fechada agora e nada foi "
        "marcado ainda. Nossa equipe responde até {hora}. Não precisa enviar de novo.",
    },
    "reschedule": {
        "open": "Recebemos seu pedido de mudança. Por enquanto, vale o horário já marcado. "
        "Só mude a rotina depois da nossa confirmação, até {hora}. Telefone: {tel}.",
        "closed": "Recebemos seu pedido de mudança. Por enquanto, vale o horário já marcado. A clínica está fechada agora; "
        "só mude a rotina depois da nossa confirmação, até {hora}.",
    },
    "cancel": {
        "open": "Recebemos seu pedido de cancelamento às {recebido}. Ainda não foi concluído. Confirmamos até {hora}. "
        "Telefone: {tel}.",
        "closed": "Recebemos seu pedido de cancelamento às {recebido}. Ainda não foi concluído. A clínica está fechada agora. "
        "Confirmamos até {hora}.",
    },
    GENERAL: {
        "open": "Sua mensagem chegou. Hoje a resposta vai demorar mais: até {hora}. "
        "Emergência de saúde: ligue 192. Clínica: {tel}.",
        "closed": "Sua mensagem chegou. A clínica está fechada agora; a resposta vem até {hora}. Emergência de saúde: ligue 192.",
    },
}

_PHONE_SENTENCE: Final = re.compile(r"\s*[^.!?:]*:?[^.!?:]*\{tel\}[.!?]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A text ready to be sent; `template` names it with the first digits of the hash of its wording."""

    text: str
    template: str


def faults(texts: object) -> list[tuple[str, str]]:
    """What is wrong with edited texts, as (path, sentence); they are {intent: {open|closed: text}}."""
    if not isinstance(texts, Mapping):
        return [("", "must be an object")]
    found: list[tuple[str, str]] = []
    for intent, wordings in texts.items():
        if intent not in INTENTS:
            found.append((f"/{intent}", f"is not one of {', '.join(INTENTS)}"))
        elif not isinstance(wordings, Mapping):
            found.append((f"/{intent}", "must be an object"))
        else:
            found += [(f"/{intent}/{name}", fault) for name, text in wordings.items() if (fault := _fault(name, text))]
    return found


def _fault(name: object, text: object) -> str | None:
    if name not in HOURS_NAMES:
        return f"is not one of {', '.join(HOURS_NAMES)}"
    if text is None:
        return None  # taken back: the built-in text holds again
    if not isinstance(text, str) or not text.strip() or len(text) > TEXT_MAX:
        return f"must be a text of at most {TEXT_MAX} characters"
    unknown = sorted(set(re.findall(r"\{[^}]*\}?", text)) - set(PLACEHOLDERS))
    if unknown:
        return f"has {unknown[0]}; known are {', '.join(PLACEHOLDERS)}"
    return None if "{hora}" in text else "must say {hora}: by when a person answers"


def answer_by(hours: Hours, now: datetime) -> datetime:
    """By when a person answers: an hour of opening time, or half an hour after the next opening."""
    opening = hours.next_opening(now)
    if opening is None:
        return now + timedelta(days=1)
    if opening > now:
        return opening + AFTER_OPENING
    return hours.add_open_time(now, ANSWER_WITHIN) or now + ANSWER_WITHIN


def notice(
    intent: str, *, hours: Hours, now: datetime, received_at: datetime, phone: str | None, edited: Mapping[str, Mapping[str, str]]
) -> Notice:
    """The text for one family; an intent without a text of its own gets the general one."""
    name = intent if intent in TEXTS else GENERAL
    kind = "open" if hours.is_open(now) else "closed"
    wording = edited.get(name, {}).get(kind) or TEXTS[name][kind]
    text = wording if phone else _PHONE_SENTENCE.sub("", wording)
    by = answer_by(hours, now)
    same_day = hours.local(by).date() == hours.local(now).date()
    values = {
        "{hora}": f"{hours.local(by):%H:%M}" if same_day else when(by, hours.timezone),
        "{recebido}": f"{hours.local(received_at):%H:%M}",
        "{tel}": phone or "",
    }
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return Notice(text=text.strip(), template=f"{name}/{kind} {sha256_hex(wording)[:8]}")
