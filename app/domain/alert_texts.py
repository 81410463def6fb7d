"""What an alert's messages say, in pt-BR: numbered, calm, without names or numbers of families."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from app.domain.redaction import redact_text

SEVERITY_WORDS: Final = {"critical": "CRÍTICO", "high": "IMPORTANTE", "warning": "ATENÇÃO"}
ACK_BUTTON: Final = "Estou cuidando"
"""Label of the button and of the link; at most 20 characters (WhatsApp's limit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """Facts of one message. `others`: further open alerts of the same kind, of `clinics` in all; `due_at`: when it should leave."""

    severity: str
    summary: str
    raised_at: datetime
    now: datetime
    due_at: datetime
    attempt: int
    others: int = 0
    clinics: int = 1
    safe_mode_at: datetime | None = None
    link: str | None = None
    clinic: str | None = None
    passed_on: bool = False
    fallback: bool = False
    late: bool = False
    timezone: str = "America/Sao_Paulo"


def title(message: AlertMessage) -> str:
    """One line: severity, and from the second attempt on that it is still open."""
    word = SEVERITY_WORDS.get(message.severity, message.severity.upper())
    again = f", ainda aberto, tentativa {message.attempt}" if message.attempt > 1 else ""
    return f"KoraOS {word}{again}"


def text(message: AlertMessage) -> str:
    """The whole message; every line says one thing."""
    zone = ZoneInfo(message.timezone)

    def clock(moment: datetime) -> str:
        return f"{moment.astimezone(zone):%H:%M}"

    lines = [redact_text(message.summary)]
    if message.clinic:
        lines.append(f"Clínica: {message.clinic}.")
    if message.others:
        where = f" em {message.clinics} clínicas" if message.clinics > 1 else ""
        lines.append(f"Mais {message.others} avisos do mesmo tipo{where}. Um toque vale para todos.")
    if message.attempt > 1:
        waited = int((message.now - message.raised_at).total_seconds() // 60)
        lines.append(f"Ainda aberto, tentativa {message.attempt}. Desde {clock(message.raised_at)} (há {waited} min).")
    else:
        lines.append(f"Desde {clock(message.raised_at)}.")
    if message.late:
        lines.append(f"Esta mensagem está atrasada: devia ter saído às {clock(message.due_at)}.")
    if message.passed_on:
        lines.append("Outra pessoa não pode agora e passou este aviso para você.")
    if message.fallback:
        lines.append("O canal principal falhou; este é o caminho alternativo.")
    if message.safe_mode_at is not None:
        moment = clock(message.safe_mode_at)
        if message.now < message.safe_mode_at:
            lines.append(f"Sem confirmação, o modo seguro liga às {moment}.")
        else:
            lines.append(f"O modo seguro está valendo desde {moment}.")
    if message.link:
        lines.append(f"{ACK_BUTTON}: {message.link}")
    return "\n".join(lines)


TEST_TITLE: Final = "KoraOS TESTE"


def test_text(channel: str, now: datetime, timezone: str) -> str:
    """The message of a channel's test button."""
    return f"Teste do canal {channel}, às {now.astimezone(ZoneInfo(timezone)):%H:%M}. Está tudo bem; não é preciso fazer nada."
