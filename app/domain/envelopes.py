"""Events and commands as they come in (contract section 3), read leniently and item by item.

A body that is no JSON at all is refused by the web layer; an item that is well-formed but unusable becomes a
`Malformed` value, is stored as `invalid_payload_manual` and opens a manual task: bad input never loses anything.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from app.domain.states import PRIORITY_OF_COMMAND, CommandType, PriorityClass, RequestedBy, Source

_T = TypeVar("_T")

ID_MAX: Final = 200
TEXT_MAX: Final = 8_000
DEPTH_MAX: Final = 16
INT_MAX: Final = 2**53 - 1
SMALL_INT_MAX: Final = 2**31 - 1
"""For numbers whose column has 32 bits."""
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2100, 1, 1, tzinfo=UTC)

_OF_THE_AGENDA: Final = frozenset({"appointment_id", "therapist_id", "start", "end"})

_RFC3339 = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field: JSON pointer into the item, and a sentence for the caller."""

    pointer: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """An item that cannot be used; kept whole, with what could be read of it."""

    kind: str
    """`command` or `message`."""
    item_id: str | None
    contact_id: str | None
    correlation_id: str | None
    reason: str
    errors: tuple[FieldError, ...]
    raw: Any


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a side effect. `commit_order` is None until accepted (unless the source gave one).

    A struct, as every command is made three times on its way and a dataclass of so many fields takes long to make.
    """

    command_id: str
    tenant_id: str
    contact_id: str
    command_type: CommandType
    idempotency_key: str
    fingerprint: str
    """SHA-256 over what the command asks for; same key with another fingerprint is a conflict."""
    requested_by: RequestedBy
    confirmed_by_contact: bool
    correlation_id: str
    payload: Mapping[str, Any]
    conversation_id: str | None = None
    patient_id: str | None = None
    guardian_version: int | None = None
    conversation_version: int | None = None
    entity_version: int | None = None
    as_of: datetime | None = None
    occurred_at: datetime | None = None
    commit_order: int | None = None
    causation_id: str | None = None
    correlation_generated: bool = False
    source: Source = Source.WHATSAPP
    requested_by_id: str | None = None
    """The person behind a human command, for audit; never a name."""
    was_parked: bool = False
    replayed: bool = False

    @property
    def priority(self) -> PriorityClass:
        """Dispatch class that follows from the command type."""
        return PRIORITY_OF_COMMAND[self.command_type]

    @property
    def touches_agenda(self) -> bool:
        """Whether it names anything that an agenda knows: a patient, a therapist, an appointment, a slot."""
        return (
            self.patient_id is not None
            or self.command_type is CommandType.SCHEDULE
            or not self.payload.keys().isdisjoint(_OF_THE_AGENDA)
        )

    @property
    def therapist_id(self) -> str | None:
        """The therapist named in the payload; None when what stands there is no text."""
        value = self.payload.get("therapist_id")
        return value if isinstance(value, str) else None

    @property
    def appointment_id(self) -> str | None:
        """The appointment named in the payload; for `schedule` without one, derived from the command's id (never beyond ID_MAX)."""
        value = self.payload.get("appointment_id")
        if isinstance(value, str) and value:
            return value
        if self.command_type is not CommandType.SCHEDULE:
            return None
        plain = f"apt-{self.command_id}"
        return plain if len(plain) <= ID_MAX else f"apt-{sha256_hex(self.command_id)}"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """An inbound event of a contact's conversation; `sequence` is None until accepted (unless given)."""

    event_id: str
    tenant_id: str
    contact_id: str | None
    external_id: str
    channel: str
    """Provider or `api`; external ids are unique per tenant and channel."""
    source: Source
    event_type: str
    occurred_at: datetime
    correlation_id: str
    payload: Mapping[str, Any]
    conversation_id: str | None = None
    phone: str | None = None
    """E.164, when the contact is known only by its number."""
    profile_name: str | None = None
    sequence: int | None = None
    causation_id: str | None = None
    payload_version: int = 1
    correlation_generated: bool = False

    @property
    def text(self) -> str:
        """The words of the message ('' when there are none)."""
        value = self.payload.get("text")
        return value if isinstance(value, str) else ""


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return _CANONICAL.encode(value)


def sha256_hex(text: str) -> str:
    """Hex SHA-256 of UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def parse_time(value: object) -> datetime:
    """Aware UTC time from RFC 3339 with offset; raises ValueError with a sentence for the caller."""
    if not isinstance(value, str) or (written := _RFC3339.match(value)) is None:
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-11-23T12:00:00Z")
    try:
        text = value.upper().replace("Z", "+00:00")
        if len(written[1] or "") > len(".123456"):
            # fractions beyond microseconds are cut, as RFC 3339 allows more digits than a datetime holds
            text = re.sub(r"(\.\d{6})\d+", r"\1", text)
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is not a real time: {error}") from error
    if not EARLIEST <= moment < LATEST:
        raise ValueError("must lie between the years 2000 and 2100")
    return moment


@dataclass(slots=True)
class _Reader:
    """Reads fields of one raw item and collects what is wrong with them."""

    raw: Mapping[str, Any]
    errors: list[FieldError] = field(default_factory=list)

    def fail(self, name: str, detail: str) -> None:
        self.errors.append(FieldError(f"/{name}", detail))

    def text(self, name: str, *, required: bool = False, max_length: int = ID_MAX) -> str | None:
        value = self.raw.get(name)
        if value is None or value == "":
            if required:
                self.fail(name, "is required")
            return None
        if not isinstance(value, str):
            self.fail(name, "must be a string")
            return None
        if len(value) > max_length:
            self.fail(name, f"must have at most {max_length} characters")
            return None
        if not _storable(value):
            self.fail(name, "contains a null byte or an unpaired surrogate")
            return None
        return value

    def number(self, name: str, *, minimum: int = 0, maximum: int = INT_MAX) -> int | None:
        value = self.raw.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            self.fail(name, f"must be a whole number from {minimum} to {maximum}")
            return None
        return value

    def flag(self, name: str) -> bool:
        value = self.raw.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            self.fail(name, "must be true or false")
            return False
        return value

    def time(self, name: str) -> datetime | None:
        value = self.raw.get(name)
        if value is None:
            return None
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(name, str(error))
            return None

    def choice(self, name: str, options: Mapping[str, _T], *, default: _T | None = None) -> _T | None:
        value = self.raw.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or value not in options:
            self.fail(name, "must be one of " + ", ".join(options))
            return None
        return options[value]

    def document(self, name: str) -> Mapping[str, Any]:
        value = self.raw.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fail(name, "must be an object")
            return {}
        if not _document_ok(value):
            self.fail(name, f"contains a null byte, a broken character, a number beyond 2^53 or more than {DEPTH_MAX} levels")
            return {}
        return value


def _storable(text: str) -> bool:
    """Whether both databases can hold the text: no NUL (PostgreSQL refuses it), no lone surrogate (no UTF-8)."""
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _document_ok(value: Any, depth: int = 0) -> bool:
    if depth > DEPTH_MAX:
        return False
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int):
        return abs(value) <= INT_MAX
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _storable(k) and _document_ok(v, depth + 1) for k, v in value.items())
    if isinstance(value, list):
        return all(_document_ok(v, depth + 1) for v in value)
    return False


COMMAND_TYPES: Final = {t.value: t for t in CommandType}
REQUESTERS: Final = {r.value: r for r in RequestedBy}
SOURCES: Final = {s.value: s for s in Source}
"""Members by their value: a look into a dict costs a fraction of asking the enum."""


def parse_command(raw: object, *, tenant_id: str, new_id: str) -> Command | Malformed:
    """Read one Command envelope.

    `new_id` is used for a missing `command_id` and, prefixed, for a missing `correlation_id`. Missing times and
    versions are not an error here: the gate answers them with `invalid_event_manual` at the command's turn.
    """
    if not isinstance(raw, dict):
        return _not_an_object("command", raw)
    r = _Reader(raw)
    contact_id = r.text("contact_id", required=True)
    command_type = r.choice("command_type", COMMAND_TYPES)
    requested_by = r.choice("requested_by", REQUESTERS, default=RequestedBy.AI)
    source = r.choice("source", SOURCES, default=Source.WHATSAPP)
    command_id = r.text("command_id")
    correlation_id = r.text("correlation_id")
    key = r.text("idempotency_key")
    external_id = r.text("external_id")
    patient_id = r.text("patient_id")
    conversation_id = r.text("conversation_id")
    causation_id = r.text("causation_id")
    confirmed = r.flag("confirmed_by_contact")
    guardian_version, conversation_version = r.number("guardian_version"), r.number("conversation_version")
    entity_version = r.number("entity_version")
    commit_order = r.number("commit_order", minimum=1)
    as_of, occurred_at = r.time("as_of"), r.time("occurred_at")
    payload = r.document("payload")
    if r.errors or contact_id is None or command_type is None or requested_by is None or source is None:
        return _malformed("command", raw, r.errors, item_id=command_id, contact_id=contact_id, correlation_id=correlation_id)
    fingerprint = sha256_hex(canonical_json([contact_id, command_type, patient_id, payload]))
    if key is None:
        identity = external_id or fingerprint
        key = "auto:" + sha256_hex(canonical_json([tenant_id, contact_id, command_type, identity]))
    return Command(
        command_id=command_id or new_id,
        tenant_id=tenant_id,
        contact_id=contact_id,
        command_type=command_type,
        idempotency_key=key,
        fingerprint=fingerprint,
        requested_by=requested_by,
        confirmed_by_contact=confirmed,
        correlation_id=correlation_id or f"corr-{new_id}",
        correlation_generated=correlation_id is None,
        payload=payload,
        conversation_id=conversation_id,
        patient_id=patient_id,
        as_of=as_of,
        occurred_at=occurred_at,
        commit_order=commit_order,
        causation_id=causation_id,
        source=source,
        guardian_version=guardian_version,
        conversation_version=conversation_version,
        entity_version=entity_version,
    )


def parse_event(raw: object, *, tenant_id: str, new_id: str, channel: str = "api") -> Message | Malformed:
    """Read one Event envelope; `occurred_at` is required because replay and D-1 depend on it."""
    if not isinstance(raw, dict):
        return _not_an_object("message", raw)
    r = _Reader(raw)
    contact_id = r.text("contact_id", required=True)
    event_id = r.text("event_id")
    external_id = r.text("external_id")
    event_type = r.text("event_type", required=True)
    source = r.choice("source", SOURCES, default=Source.WHATSAPP)
    correlation_id = r.text("correlation_id")
    conversation_id = r.text("conversation_id")
    causation_id = r.text("causation_id")
    sequence = r.number("sequence", minimum=1)
    payload_version = r.number("payload_version", minimum=1, maximum=SMALL_INT_MAX)
    if raw.get("occurred_at") is None:
        r.fail("occurred_at", "is required")
    occurred_at = r.time("occurred_at")
    payload = r.document("payload")
    if r.errors or contact_id is None or event_type is None or source is None or occurred_at is None:
        return _malformed("message", raw, r.errors, item_id=event_id, contact_id=contact_id, correlation_id=correlation_id)
    return Message(
        event_id=event_id or new_id,
        tenant_id=tenant_id,
        contact_id=contact_id,
        external_id=external_id or event_id or new_id,
        channel=channel,
        source=source,
        event_type=event_type,
        occurred_at=occurred_at,
        correlation_id=correlation_id or f"corr-{new_id}",
        correlation_generated=correlation_id is None,
        payload=payload,
        conversation_id=conversation_id,
        sequence=sequence,
        causation_id=causation_id,
        payload_version=payload_version or 1,
    )


def _not_an_object(kind: str, raw: object) -> Malformed:
    return Malformed(
        kind=kind,
        item_id=None,
        contact_id=None,
        correlation_id=None,
        reason="not_an_object",
        errors=(FieldError("", "must be an object"),),
        raw=raw,
    )


def _malformed(
    kind: str,
    raw: Mapping[str, Any],
    errors: list[FieldError],
    *,
    item_id: str | None,
    contact_id: str | None,
    correlation_id: str | None,
) -> Malformed:
    reason = "missing_contact_id" if raw.get("contact_id") in (None, "") else "bad_field"
    return Malformed(
        kind=kind,
        item_id=item_id,
        contact_id=contact_id,
        correlation_id=correlation_id,
        reason=reason,
        errors=tuple(errors),
        raw=raw,
    )


def _fields_of(item: Command | Message | Malformed) -> dict[str, Any]:
    return asdict(item) if isinstance(item, Malformed) else msgspec.structs.asdict(item)


def not_storable(item: Command | Message | Malformed) -> Malformed:
    """The item as one that a person must look at, in a form that every database holds; for what a database refused as it was."""
    if isinstance(item, Malformed):
        kind, item_id = item.kind, item.item_id
    else:
        kind, item_id = ("command", item.command_id) if isinstance(item, Command) else ("message", item.event_id)
    return Malformed(
        kind=kind,
        item_id=_kept(item_id),
        contact_id=_kept(item.contact_id),
        correlation_id=_kept(item.correlation_id),
        reason="not_storable",
        errors=(FieldError("", "was refused by the database"),),
        # as text with escapes only: whatever it was that could not be held, this can
        raw={"as_received": json.dumps(_fields_of(item), sort_keys=True, default=str)},
    )


def _kept(value: str | None) -> str | None:
    return value if value is not None and len(value) <= ID_MAX and _storable(value) else None
