"""What a family reads the day before, the buttons under it, and what its answer means."""

from datetime import datetime
from typing import Final

from app.domain.family_texts import when

YES_BUTTON: Final = "d1:yes"
NO_BUTTON: Final = "d1:no"
BUTTONS: Final = ({"id": YES_BUTTON, "title": "Confirmo"}, {"id": NO_BUTTON, "title": "Não vamos poder"})


def question(start_at: datetime, timezone: str) -> str:
    """The question; it makes sense without the buttons."""
    return f"Olá! A consulta é {when(start_at, timezone)}. Vocês vêm? Responda CONFIRMAR. Se não puderem, escreva para nós."


def d1_answer(button_id: str, *, said: bool) -> str | None:
    """`yes` or `no`; `said` = an unambiguous CONFIRMAR in words. None for anything else: it is no answer."""
    if button_id == NO_BUTTON:
        return "no"
    return "yes" if button_id == YES_BUTTON or said else None
