"""Shape of a command's payload per type: what must be there before anything else is looked at (gate, step 1)."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.envelopes import ID_MAX, Command, parse_time
from app.domain.reasons import Reason
from app.domain.states import CommandType

APPOINTMENT_MAX: Final = timedelta(hours=12)
FOLLOW_UP_MAX: Final = 4_096
"""Longest text that WhatsApp carries, in characters."""
REASON_MAX: Final = 500
ANSWERS: Final = frozenset({"yes", "no"})


def payload_fault(command: Command) -> str | None:
    """Reason code of the first thing that is wrong with the payload; None when it can be used. Total."""
    return _FAULTS[command.command_type](command)


def read_interval(payload: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """(start, end) in UTC; raises ValueError when a time cannot be read."""
    return parse_time(payload.get("start")), parse_time(payload.get("end"))


def _interval(payload: Mapping[str, Any]) -> str | None:
    try:
        start_at, end_at = read_interval(payload)
    except ValueError:
        return Reason.BAD_TIME
    return None if timedelta(0) < end_at - start_at <= APPOINTMENT_MAX else Reason.BAD_INTERVAL


def _identifier(value: object, missing: str) -> str | None:
    if value is None or value == "":
        return missing
    return None if isinstance(value, str) and len(value) <= ID_MAX else Reason.BAD_IDENTIFIER


def _optional_text(value: object, limit: int) -> str | None:
    return None if value is None or (isinstance(value, str) and len(value) <= limit) else Reason.BAD_TEXT


def _schedule(command: Command) -> str | None:
    payload = command.payload
    given = payload.get("appointment_id")
    return (
        _identifier(command.patient_id, Reason.MISSING_PATIENT)
        or _identifier(payload.get("therapist_id"), Reason.MISSING_THERAPIST)
        or (_identifier(given, Reason.BAD_IDENTIFIER) if given is not None else None)
        or _interval(payload)
    )


def _named(command: Command) -> str | None:
    return _identifier(command.payload.get("appointment_id"), Reason.MISSING_APPOINTMENT)


def _reschedule(command: Command) -> str | None:
    return _named(command) or _interval(command.payload)


def _cancel(command: Command) -> str | None:
    return _named(command) or _optional_text(command.payload.get("reason"), REASON_MAX)


def _d1_confirmation(command: Command) -> str | None:
    answer = command.payload.get("answer")
    good = isinstance(answer, str) and answer in ANSWERS
    return _named(command) or (None if good else Reason.BAD_ANSWER)


def _follow_up(command: Command) -> str | None:
    text = command.payload.get("text")
    good = isinstance(text, str) and text.strip() != "" and len(text) <= FOLLOW_UP_MAX
    return None if good else Reason.BAD_TEXT


def _takeover(command: Command) -> str | None:
    return _optional_text(command.payload.get("reason"), REASON_MAX)


_FAULTS: Final[Mapping[CommandType, Callable[[Command], str | None]]] = {
    CommandType.SCHEDULE: _schedule,
    CommandType.RESCHEDULE: _reschedule,
    CommandType.CANCEL: _cancel,
    CommandType.D1_CONFIRMATION: _d1_confirmation,
    CommandType.FOLLOW_UP: _follow_up,
    CommandType.TAKEOVER: _takeover,
}
