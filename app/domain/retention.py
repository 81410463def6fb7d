"""Retention (LGPD): how long what families write is kept, and what is left of it after that.

Two steps for everything that carries a family's words: after `minimise` only what the agenda needs is left of it, after
`remove` nothing. The ledger holds no content at all, so neither step touches what proves order and once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

KEPT_FIELDS: Final = frozenset(
    {"appointment_id", "therapist_id", "patient_id", "start", "end", "answer", "button_id", "action", "status", "channel", "target"}
)
"""Fields of a payload that stay when it is minimised: ids, times and choices, no words."""

FULL, MINIMISED, REMOVED = 0, 1, 2
"""How much of a payload is there (`payload_level`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """How long each kind is kept, counted from when it was done with."""

    minimise: timedelta = timedelta(hours=24)
    """Messages, requests, what was sent: then without words."""
    remove: timedelta = timedelta(days=7)
    """Messages, requests, what was sent, unusable items: then without content."""
    events: timedelta = timedelta(days=2)
    """What streams replay after a reconnection."""
    deliveries: timedelta = timedelta(days=90)
    """Providers' receipts."""
    alerts: timedelta = timedelta(days=400)
    """Alerts that are over, with their attempts."""
    replays: timedelta = timedelta(days=400)
    """Replay batches that are over, with their items."""
    signals: timedelta = timedelta(days=400)
    """What fired, once it is over."""
    notes: timedelta = timedelta(days=90)
    """What staff typed about a family: reasons of conversations, notes of tasks, counted from their end."""
    evidence: timedelta = timedelta(days=400)
    """Evidence packs of incidents, and those that somebody asked for."""


LIMITS: Final[Mapping[str, tuple[str, float, float]]] = {
    "minimise_h": ("minimise", 1, 24 * 30),
    "remove_d": ("remove", 1, 365 * 5),
    "events_d": ("events", 1, 30),
    "deliveries_d": ("deliveries", 7, 365 * 10),
    "alerts_d": ("alerts", 30, 365 * 10),
    "replays_d": ("replays", 30, 365 * 10),
    "signals_d": ("signals", 30, 365 * 10),
    "notes_d": ("notes", 7, 365 * 10),
    "evidence_d": ("evidence", 7, 365 * 10),
}
"""Name in the settings' `retention` -> field, least, most; `_h` hours, `_d` days."""


def periods(document: Mapping[str, Any]) -> Periods:
    """The periods out of the settings; what is not set is the default."""
    given = document.get("retention") or {}
    found = {
        field: timedelta(hours=float(given[name])) if name.endswith("_h") else timedelta(days=float(given[name]))
        for name, (field, _, _) in LIMITS.items()
        if given.get(name) is not None
    }
    return Periods(**found)


def faults(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(JSON pointer, what is wrong) of the settings' `retention`."""
    for name, value in given.items():
        if name not in LIMITS:
            yield f"/retention/{name}", f"is not one of {', '.join(LIMITS)}"
            continue
        _, least, most = LIMITS[name]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            yield f"/retention/{name}", f"must be between {least:g} and {most:g}"


def minimised(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a payload: ids, times and choices."""
    return {name: value for name, value in payload.items() if name in KEPT_FIELDS and not isinstance(value, dict | list)}


def veiled(value: str | None) -> str | None:
    """A name or number as the audit trail keeps it: enough to recognise, not enough to know. `Maria` -> `M***`."""
    if not value:
        return value
    return f"***{value[-4:]}" if value[-4:].isdigit() and len(value) > 6 else f"{value[0]}***"
