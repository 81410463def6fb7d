"""Settings as a form: what holds for a clinic or for all of them, what a change would change, and every version before.

A field that is empty holds no value of its own: what holds for all clinics, or the plan's value, stands beside it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from app.domain.frustration import FrustrationPolicy
from app.domain.opening_hours import WEEKDAYS
from app.domain.provider_settings import MASK
from app.domain.retention import LIMITS, Periods
from app.domain.takeover import SlaPolicy
from app.store import settings as store
from app.store.lanes import GLOBAL_SCOPE
from app.store.views.audit import AuditFilter, AuditRow, audit_rows
from app.web.console.channels import scope_of_page
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

HISTORY_MAX: Final = 20
CLOSED: Final = "-"
"""Typed for a weekday without a shift."""

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One setting of the form; `kind`: number, whole, percent, text, secret, shifts, dates, lines."""

    path: Path
    label: str
    kind: str = "number"
    unit: str = ""
    everywhere: bool = False
    """Only for all clinics together."""

    @property
    def name(self) -> str:
        """Its name in the form, and its JSON pointer without the first slash."""
        return "/".join(self.path)


_MIN, _S, _D, _H = "min", "s", mark("days"), "h"

SECTIONS: Final[Mapping[str, tuple[Field, ...]]] = {
    mark("Deadlines of requests"): (
        Field(path=("replay_ttl_min", "schedule"), label=mark("Schedule: good for"), unit=_MIN),
        Field(path=("replay_ttl_min", "reschedule"), label=mark("Reschedule: good for"), unit=_MIN),
        Field(path=("replay_ttl_min", "cancel"), label=mark("Cancel: good for"), unit=_MIN),
        Field(path=("replay_ttl_min", "follow_up"), label=mark("Follow-up: good for"), unit=_MIN),
        Field(path=("replay_ttl_min", "takeover"), label=mark("Takeover: good for"), unit=_MIN),
        Field(path=("d1_cutoff_min",), label=mark("Confirmation of the day before: at the latest before it"), unit=_MIN),
    ),
    mark("Queue"): (
        Field(path=("wait_limit_s",), label=mark("A request waits for the one before at most"), unit=_S),
        Field(path=("max_queue_size",), label=mark("Requests in the queue at most"), kind="whole"),
        Field(path=("queue_alert_share",), label=mark("Alert when the queue is full to"), kind="percent", unit="%"),
        Field(path=("drain_per_s",), label=mark("After safe mode: requests a second")),
        Field(path=("clock_skew_s",), label=mark("A sender's clock may differ by"), unit=_S),
        Field(path=("contingency_after_s",), label=mark("Contingency when a channel fails for"), unit=_S),
    ),
    mark("Opening hours"): (
        Field(path=("timezone",), label=mark("Timezone"), kind="text"),
        Field(path=("hours", "mon"), label=mark("Monday"), kind="shifts"),
        Field(path=("hours", "tue"), label=mark("Tuesday"), kind="shifts"),
        Field(path=("hours", "wed"), label=mark("Wednesday"), kind="shifts"),
        Field(path=("hours", "thu"), label=mark("Thursday"), kind="shifts"),
        Field(path=("hours", "fri"), label=mark("Friday"), kind="shifts"),
        Field(path=("hours", "sat"), label=mark("Saturday"), kind="shifts"),
        Field(path=("hours", "sun"), label=mark("Sunday"), kind="shifts"),
        Field(path=("holidays",), label=mark("Days off"), kind="dates"),
        Field(path=("national_holidays",), label=mark("National holidays of (country code)"), kind="text"),
        Field(path=("phone",), label=mark("Phone that families read"), kind="text"),
    ),
    mark("Takeovers"): (
        Field(path=("takeover_sla_min", "open_hours"), label=mark("Answer in opening hours within"), unit=_MIN),
        Field(path=("takeover_sla_min", "after_opening"), label=mark("Answer after opening within"), unit=_MIN),
        Field(path=("takeover_sla_min", "warn_before"), label=mark("Warn this long before"), unit=_MIN),
        Field(path=("takeover_sla_min", "escalate_after"), label=mark("Escalate this long after"), unit=_MIN),
        Field(
            path=("frustration", "messages"),
            label=mark("Taken over after messages not understood (0: never)"),
            kind="whole",
        ),
        Field(path=("frustration", "window_min"), label=mark("Counted within"), unit=_MIN),
    ),
    mark("How long things are kept"): (
        Field(path=("retention", "minimise_h"), label=mark("Families' words"), unit=_H),
        Field(path=("retention", "remove_d"), label=mark("Contents of messages and requests"), unit=_D),
        Field(path=("retention", "events_d"), label=mark("Events of the live screens"), unit=_D),
        Field(path=("retention", "deliveries_d"), label=mark("Receipts of deliveries"), unit=_D),
        Field(path=("retention", "alerts_d"), label=mark("Alerts"), unit=_D),
        Field(path=("retention", "replays_d"), label=mark("Replays"), unit=_D),
        Field(path=("retention", "signals_d"), label=mark("What signals fired"), unit=_D),
        Field(path=("retention", "notes_d"), label=mark("Notes and reasons that staff typed"), unit=_D),
        Field(path=("retention", "evidence_d"), label=mark("Evidence of incidents"), unit=_D),
    ),
    mark("Results to your own systems"): (
        Field(path=("webhook_url",), label=mark("Address that is told every result"), kind="text"),
        Field(path=("webhook_secret",), label=mark("Secret that signs it"), kind="secret"),
    ),
    mark("Installation"): (
        Field(path=("outbound_allow",), label=mark("Private addresses that webhooks may reach"), kind="lines", everywhere=True),
        Field(path=("drill_every_d",), label=mark("Redis drill every (0: never)"), unit=_D, everywhere=True),
    ),
}
FIELDS: Final = tuple(field for fields in SECTIONS.values() for field in fields)
HINTS: Final[Mapping[str, str]] = {
    "shifts": mark("such as 08:00-12:00, 13:00-18:00; - for closed"),
    "dates": mark("dates such as 2026-12-24, with commas"),
    "lines": mark("with commas"),
    "secret": mark("at least 16 characters; never shown again"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One field with what it holds: `own` is what this scope says (empty = nothing), `otherwise` what holds without it."""

    field: Field
    label: str
    unit: str
    hint: str
    own: str
    otherwise: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One saved version."""

    number: int
    row: AuditRow
    changes: tuple[tuple[str, str, str], ...]
    """Label, before, after; '' = nothing of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsForm:
    """Context of the fragment `settings_form`."""

    scope: str
    scope_name: str
    scope_slug: str
    version: int
    saved_at: datetime | None
    sections: tuple[tuple[str, tuple[Line, ...]], ...]
    channels_url: str
    signals_url: str
    saved: bool
    csrf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsHistory:
    """Context of the fragment `settings_history`: the newest versions, newest first."""

    versions: tuple[Version, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What somebody typed: `patch` for the store, `changes` (label, before, after) for people, `faults` by field."""

    typed: dict[str, str]
    reason: str
    patch: dict[str, Any]
    changes: tuple[tuple[str, str, str], ...]
    faults: dict[str, str]


def load_settings_form(conn: Connection, visit: Visit) -> SettingsForm:
    """Every field of the scope that the page looks at."""
    scope = scope_of_page(visit)
    state = store.state_of(conn, scope)
    words = visit.words
    clinic = visit.chosen if scope != GLOBAL_SCOPE else None
    lines = _lines(conn, words, scope)
    return SettingsForm(
        scope=scope,
        scope_name=clinic.name if clinic else words.text("All clinics"),
        scope_slug=clinic.slug if clinic else "",
        version=state.version,
        saved_at=state.updated_at,
        sections=tuple(
            (words.text(title), shown)
            for title, fields in SECTIONS.items()
            if (shown := tuple(lines[f.name] for f in fields if f.name in lines))
        ),
        channels_url=visit.urls.to("/channels", clinic=clinic.slug if clinic else None),
        signals_url=visit.urls.to("/signals", clinic=clinic.slug if clinic else None),
        saved=visit.one("saved") == "yes",
        csrf=visit.csrf_token,
    )


def load_settings_history(conn: Connection, visit: Visit) -> SettingsHistory:
    """Every save is one version: the audit trail tells who, when, why and what."""
    scope = scope_of_page(visit)
    newest = store.state_of(conn, scope).version
    wanted = AuditFilter(what="settings.save", object=f"settings/{scope}")
    rows, cursor = audit_rows(conn, None, wanted, limit=HISTORY_MAX)
    versions = [Version(number=newest - i, row=row, changes=_changed(visit.words, row)) for i, row in enumerate(rows)]
    return SettingsHistory(versions=tuple(versions), more=cursor is not None)


def _changed(words: Words, row: AuditRow) -> tuple[tuple[str, str, str], ...]:
    """What a version changed, by the names of the form where it has one."""
    found = []
    for change in row.changes:
        before, after = _flat((change.field,), change.before), _flat((change.field,), change.after)
        for path in dict.fromkeys([*before, *after]):
            old, new = before.get(path), after.get(path)
            if old != new:
                field = next((f for f in FIELDS if f.path == path), None)
                label = words.text(field.label) if field else "/".join(path)
                kind = field.kind if field else "json"
                found.append((label, _text(kind, old), _text(kind, new)))
    return tuple(found)


def _flat(path: Path, text: str | None) -> dict[Path, Any]:
    """The values of one section of the audit trail, by path; a text stands in it as it is, everything else as JSON."""
    if text is None:
        return {}
    value: Any = text
    if all(f.kind != "text" for f in FIELDS if f.path == path):
        try:
            value = msgspec.json.decode(text)
        except msgspec.MsgspecError:
            value = text
    inner = any(len(f.path) > 1 and f.path[0] == path[0] for f in FIELDS)
    if inner and isinstance(value, dict):
        return {(*path, name): part for name, part in value.items() if part is not None}
    return {path: value}


def draft_of(conn: Connection, words: Words, scope: str, typed: Mapping[str, str]) -> Draft:
    """What a form asks for against what is stored now."""
    own, lines = store.state_of(conn, scope).own, _lines(conn, words, scope)
    patch: dict[str, Any] = {}
    changes: list[tuple[str, str, str]] = []
    faults: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name, line in lines.items():
        text = typed.get(name, line.own).strip()[:4_000]
        kept[name] = text
        if text == line.own:
            continue
        try:
            value = _value(line.field.kind, text)
        except ValueError:
            faults[name] = words.text("This cannot be used: %(hint)s", hint=line.hint or words.text("a number is needed"))
            continue
        if value is None and _at(own, line.field.path) is None:
            continue
        _put(patch, line.field.path, value)
        before, after = line.own or line.otherwise, text or line.otherwise
        if line.field.kind == "secret" and text:
            after = MASK
        changes.append((line.label, _with_unit(before, line.unit), _with_unit(after, line.unit)))
    for error in store.check(patch):
        name = next((n for n in lines if error.pointer[1:] == n or error.pointer[1:].startswith(n + "/")), "")
        faults.setdefault(name, words.text("This cannot be used here: too small, too large or not known."))
    return Draft(typed=kept, reason=typed.get("reason", "").strip()[:500], patch=patch, changes=tuple(changes), faults=faults)


def _lines(conn: Connection, words: Words, scope: str) -> dict[str, Line]:
    """Every field of a scope by name."""
    own = store.state_of(conn, scope).own
    below = store.inherited(conn, scope)
    found = {}
    for field in FIELDS:
        if field.everywhere and scope != GLOBAL_SCOPE:
            continue
        value = _at(own, field.path)
        otherwise = _at(below, field.path)
        found[field.name] = Line(
            field=field,
            label=words.text(field.label),
            unit=words.text(field.unit) if field.unit == _D else field.unit,
            hint=words.text(HINTS[field.kind]) if field.kind in HINTS else "",
            own=_text(field.kind, value),
            otherwise=_text(field.kind, otherwise if otherwise is not None else _planned(field.path)),
        )
    return found


def _planned(path: Path) -> Any:
    """The plan's value where neither the clinic nor the installation says one."""
    section, name = path[0], path[-1]
    if section == "retention":
        span = getattr(Periods(), LIMITS[name][0])
        return span.total_seconds() / (3600 if name.endswith("_h") else 86_400)
    if section == "takeover_sla_min":
        return getattr(SlaPolicy(), name).total_seconds() / 60
    if section == "hours":
        return [["08:00", "18:00"]] if WEEKDAYS.index(name) < 5 else []
    if section == "frustration":
        plain = FrustrationPolicy()
        return plain.messages if name == "messages" else plain.window.total_seconds() / 60
    return None


def _at(document: Mapping[str, Any], path: Path) -> Any:
    found: Any = document
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _put(document: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    inner = document
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = value
    return document


def _text(kind: str, value: Any) -> str:
    """A stored value as people type it."""
    if value is None:
        return ""
    if kind == "json" and isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    if kind == "shifts":
        return ", ".join(f"{start}-{end}" for start, end in value) if value else CLOSED
    if kind in ("dates", "lines"):
        return ", ".join(str(part) for part in value)
    if kind == "percent":
        return f"{value * 100:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(kind: str, text: str) -> Any:
    """A typed text as it is stored; None = no own value. Raises ValueError."""
    if not text:
        return None
    if kind in ("text", "secret"):
        return text
    parts = [part for raw in text.replace("\n", ",").split(",") if (part := raw.strip())]
    if kind == "shifts":
        return [] if text == CLOSED else [list(_shift(part)) for part in parts]
    if kind == "dates":
        return [str(date.fromisoformat(part)) for part in parts]
    if kind == "lines":
        return parts
    number = float(text.replace(",", "."))
    if not -1e9 < number < 1e9:  # also refuses what is no number
        raise ValueError(text)
    if kind == "percent":
        return number / 100
    if number.is_integer():
        return int(number)
    if kind == "whole":
        raise ValueError(text)
    return number


def _shift(part: str) -> Iterator[str]:
    start, dash, end = part.partition("-")
    if not dash:
        raise ValueError(part)
    yield from (start.strip(), end.strip())


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}".strip() if text else "-"
