"""What a family reads the day before, and the buttons under it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from app.domain.envelopes import sha256_hex
from app.domain.family_texts import when

YES_BUTTON: Final = "d1:yes"
NO_BUTTON: Final = "d1:no"
WHICH_MAX: Final = 3
"""Appointments that one message can ask about: providers show three buttons."""

CAUSE_MAX: Final = 200


def question_token(tenant_id: str, appointment_id: str, start_at: datetime) -> str:
    """The name of a question: of one appointment at one start; a moved appointment is asked about under another."""
    return sha256_hex(f"{tenant_id}:{appointment_id}:{start_at.isoformat()}")[:16]


def question_cause(appointment_id: str, start_at: datetime) -> str:
    """What the messages, the task and the alerts about one appointment at one start are kept under."""
    name = f"d1:{appointment_id}:{start_at.isoformat()}"
    return name if len(name) <= CAUSE_MAX else f"d1:{sha256_hex(name)}"


def question(start_at: datetime, timezone: str) -> str:
    """The question; it makes sense without the buttons."""
    return f"Olá! A consulta é {when(start_at, timezone)}. Vocês vêm? Responda CONFIRMAR. Se não puderem, escreva para nós."


def buttons(token: str) -> list[dict[str, str]]:
    """The buttons under a question; they carry which one they answer."""
    return [{"id": f"{YES_BUTTON}:{token}", "title": "Confirmo"}, {"id": f"{NO_BUTTON}:{token}", "title": "Não vamos poder"}]


def which(asked: Sequence[tuple[str, datetime]], timezone: str) -> dict[str, object] | None:
    """The message that asks back which of these (token, start) was confirmed, with a button for each.

    None where that cannot be asked: too many for buttons, or two at one time, which no button could tell apart.
    """
    if len(asked) > WHICH_MAX or len({start_at for _, start_at in asked}) < len(asked):
        return None
    listed = "; ".join(when(start_at, timezone) for _, start_at in asked)
    return {
        "text": f"Há mais de uma consulta para confirmar: {listed}. Qual delas vocês confirmam? Toque no botão dela.",
        "buttons": [
            {"id": f"{YES_BUTTON}:{token}", "title": f"{start_at.astimezone(ZoneInfo(timezone)):%d/%m às %H:%M}"}
            for token, start_at in asked
        ],
    }
