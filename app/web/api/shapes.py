"""How bodies and answers look where our types do not say it, for the OpenAPI description.

The intake's bodies are read leniently by `app.domain.envelopes`, item by item, so their shapes describe and never refuse: an
item that does not fit them is answered 202 `invalid_payload_manual` and kept for a person.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar.openapi.spec import (
    Example,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)

from app.domain.envelopes import ID_MAX
from app.domain.states import CommandType, RequestedBy, Source

BATCH_MAX: Final = 500

COMMAND_EXAMPLE: Final = {
    "contact_id": "c-maria",
    "conversation_id": "conv-1",
    "command_type": "schedule",
    "patient_id": "p-pedro",
    "requested_by": "ai",
    "confirmed_by_contact": True,
    "guardian_version": 1,
    "conversation_version": 1,
    "as_of": "2026-11-23T12:00:00Z",
    "occurred_at": "2026-11-23T12:00:00Z",
    "idempotency_key": "k-1",
    "correlation_id": "corr-1",
    "payload": {
        "appointment_id": "a-1",
        "therapist_id": "t-ana",
        "start": "2026-12-01T13:00:00Z",
        "end": "2026-12-01T13:50:00Z",
    },
}
EVENT_EXAMPLE: Final = {
    "contact_id": "c-maria",
    "external_id": "wamid.1",
    "event_type": "message",
    "occurred_at": "2026-11-23T12:00:00Z",
    "payload": {"text": "Quero remarcar"},
}


class FieldFault(msgspec.Struct):
    """One bad field of an item."""

    pointer: str
    detail: str


class EventAnswer(msgspec.Struct, omit_defaults=True):
    """The answer to one event, given once it is durable."""

    event_id: str
    status: str
    sequence: int | None
    dispatch_priority: str | None
    correlation_id: str
    reason: str = ""
    next_action: str = ""
    errors: list[FieldFault] = []


class CommandAnswer(msgspec.Struct, omit_defaults=True):
    """The answer to one command, given once it is durable; `result` comes with `?wait`."""

    command_id: str
    status: str
    commit_order: int | None
    dispatch_priority: str | None
    correlation_id: str
    result: str | None = None
    reason: str | None = None
    next_action: str = ""
    errors: list[FieldFault] = []


class EventAnswers(msgspec.Struct):
    """The answers to a batch, in request order."""

    items: list[EventAnswer]


class CommandAnswers(msgspec.Struct):
    """The answers to a batch, in request order."""

    items: list[CommandAnswer]


def _text(description: str | None = None, *, enum: list[str] | None = None) -> Schema:
    return Schema(type=OpenAPIType.STRING, max_length=None if enum else ID_MAX, description=description, enum=enum)


def _number(minimum: int = 0) -> Schema:
    return Schema(type=OpenAPIType.INTEGER, minimum=minimum, maximum=2**53 - 1)


def _time() -> Schema:
    return Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME)


_PAYLOAD: Final = Schema(type=OpenAPIType.OBJECT, additional_properties=True)

_COMMON: Final[dict[str, Any]] = {
    "tenant_id": _text("Id or slug; may be left out with a tenant's key"),
    "contact_id": _text(),
    "conversation_id": _text(),
    "correlation_id": _text(),
    "causation_id": _text(),
    "external_id": _text(),
    "source": _text(enum=[s.value for s in Source]),
    "occurred_at": _time(),
    "payload": _PAYLOAD,
}
EVENT: Final = Schema(
    title="Event",
    type=OpenAPIType.OBJECT,
    required=["contact_id", "event_type", "occurred_at"],
    properties=_COMMON | {"event_id": _text(), "event_type": _text(), "sequence": _number(1), "payload_version": _number(1)},
)
COMMAND: Final = Schema(
    title="Command",
    type=OpenAPIType.OBJECT,
    required=["contact_id", "command_type"],
    properties=_COMMON
    | {
        "command_id": _text(),
        "command_type": _text(enum=[t.value for t in CommandType]),
        "patient_id": _text(),
        "requested_by": _text(enum=[r.value for r in RequestedBy]),
        "confirmed_by_contact": Schema(type=OpenAPIType.BOOLEAN),
        "idempotency_key": _text(),
        "guardian_version": _number(),
        "conversation_version": _number(),
        "entity_version": _number(),
        "commit_order": _number(1),
        "as_of": _time(),
    },
)


def _body(name: str, item: Schema, example: dict[str, Any]) -> RequestBody:
    batch = Schema(
        title=f"Batch of {name}",
        type=OpenAPIType.OBJECT,
        required=[name],
        properties={"tenant_id": _text(), name: Schema(type=OpenAPIType.ARRAY, items=item, max_items=BATCH_MAX)},
    )
    return RequestBody(
        required=True,
        content={
            "application/json": OpenAPIMediaType(
                schema=Schema(any_of=[item, batch]),
                examples={"one": Example(value=example), "several": Example(value={name: [example]})},
            )
        },
    )


@dataclass
class OpenOperation(Operation):
    """An address that asks for no key: anybody may use it, or its handler checks a signature or a secret."""

    def __post_init__(self) -> None:
        """Lift what holds for every other address."""
        self.security = []


def also_as(media_type: str) -> type[Operation]:
    """An operation whose good answer comes as JSON or as a file of this type, whichever was asked for."""

    @dataclass
    class FileOperation(Operation):
        """Its description."""

        def __post_init__(self) -> None:
            """Add the file to the JSON."""
            answer = (self.responses or {})["200"]
            assert isinstance(answer, OpenAPIResponse)
            file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
            answer.content = {**(answer.content or {}), media_type: OpenAPIMediaType(schema=file)}

    return FileOperation


@dataclass
class EventsOperation(Operation):
    """`POST /api/v1/events` with its body described."""

    def __post_init__(self) -> None:
        """Describe the body, which the handler reads by itself."""
        self.request_body = _body("events", EVENT, EVENT_EXAMPLE)


@dataclass
class CommandsOperation(Operation):
    """`POST /api/v1/commands` with its body described."""

    def __post_init__(self) -> None:
        """Describe the body, which the handler reads by itself."""
        self.request_body = _body("commands", COMMAND, COMMAND_EXAMPLE)
