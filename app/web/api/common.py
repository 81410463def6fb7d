"""What the API's handlers share: the clinic of a request, cursors, languages, and texts that can be stored."""

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import msgspec
from litestar import Request
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter

from app.domain.envelopes import DEPTH_MAX, ID_MAX, parse_time
from app.domain.reasons import explain
from app.errors import InvalidRequest
from app.store.people import By
from app.web.auth import actor_of, resolve_tenant
from app.web.problems import correlation_id, header_of

if TYPE_CHECKING:
    from app.bootstrap import Services

AnyRequest = Request[Any, Any, Any]
Document = dict[str, Any]

Limit = Annotated[int, QueryParameter(ge=1, le=200, description="How many items at most")]
Cursor = Annotated[str | None, QueryParameter(max_length=2_000, description="`next_cursor` of the page before")]
TenantId = Annotated[
    str | None, QueryParameter(max_length=ID_MAX, description="Id or slug of the clinic; a global key must name one")
]


class Problem(msgspec.Struct):
    """RFC 9457 problem details (`application/problem+json`)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    correlation_id: str
    errors: list[dict[str, str]] = []


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """OpenAPI descriptions of the failures that a call may answer: the usual ones and the given ones."""
    return {status: failure(text) for status, text in _FAILURES.items() if status in (400, 401, 403, 429, 503, *statuses)}


def failure(description: str) -> ResponseSpec:
    """OpenAPI description of one failure."""
    return ResponseSpec(Problem, description=description, media_type="application/problem+json", generate_examples=False)


_FAILURES: Final = {
    400: "Something in the request cannot be used; `errors[]` says what",
    401: "No key, or one that is not valid any more",
    403: "Key without the scope, or of another tenant",
    404: "Unknown, or another tenant's",
    409: "In conflict with what is stored",
    413: "Body over 1 MiB",
    429: "Too many requests",
    503: "Storage unavailable; nothing was done",
}


def services_of(request: AnyRequest) -> "Services":
    """What the process shares."""
    return cast("Services", request.app.state.services)


async def tenant_of(request: AnyRequest, given: object = None) -> str:
    """The id of the clinic that a request works on; `given` is what its address or body names, of any type."""
    if given is None or given == "":
        return await resolve_tenant(request)
    if not isinstance(given, str) or not storable(given) or len(given) > ID_MAX:
        raise InvalidRequest("tenant_id cannot be used.", errors=[_error("/tenant_id", "must be the id or slug of a clinic")])
    return await resolve_tenant(request, given)


def by(request: AnyRequest) -> By:
    """Who changes something, for the audit trail."""
    return By(
        actor=actor_of(request).audit_name,
        now=services_of(request).clock.now(),
        origin=request.client.host[:100] if request.client else None,
        correlation_id=correlation_id(request.scope),
    )


# --- bodies -------------------------------------------------------------------------------------------------------------


async def json_body(request: AnyRequest) -> Any:
    """The body as a JSON document; raises InvalidRequest for bytes that are none, or nested without end."""
    return json_of(await request.body())


def json_of(body: bytes) -> Any:
    """Bytes as a JSON document; raises InvalidRequest for what is none, or nested without end."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from error


async def json_or_nothing(request: AnyRequest) -> None:
    """An act needs no body; one that is there must be JSON."""
    if await request.body():
        await require_json(request)


async def require_json(request: AnyRequest) -> None:
    """Before a handler with a typed body: refuse what would break the framework's own reading of it."""
    await json_body(request)


# --- texts --------------------------------------------------------------------------------------------------------------


def storable(value: object, depth: int = 0) -> bool:
    """Whether both databases can hold a JSON value: no NUL, no lone surrogate, not too deep."""
    if isinstance(value, str):
        return "\x00" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
    if depth > DEPTH_MAX:
        return False
    if isinstance(value, Mapping):
        return all(storable(k) and storable(v, depth + 1) for k, v in value.items())
    if isinstance(value, list):
        return all(storable(v, depth + 1) for v in value)
    return True


class Texts:
    """Checks texts of a request and collects what is wrong with them, to be raised together."""

    def __init__(self) -> None:
        self.errors: list[dict[str, str]] = []

    def need(self, pointer: str, value: str, max_length: int = ID_MAX) -> str:
        """A text with something in it."""
        if not value.strip():
            self.fail(pointer, "must not be empty")
        return self.optional(pointer, value, max_length) or ""

    def optional(self, pointer: str, value: str | None, max_length: int = ID_MAX) -> str | None:
        """A text, or nothing (also for an empty one)."""
        if not value:
            return None
        if len(value) > max_length:
            self.fail(pointer, f"must have at most {max_length} characters")
        if not storable(value):
            self.fail(pointer, "contains a null byte or an unpaired surrogate")
        return value

    def fail(self, pointer: str, detail: str) -> None:
        """Note one fault."""
        self.errors.append(_error(pointer, detail))

    def check(self) -> None:
        """Raise InvalidRequest when anything is wrong."""
        if self.errors:
            raise InvalidRequest("Some values of this request cannot be used.", errors=self.errors)


def check_ids(**ids: str) -> None:
    """Ids out of an address; raises InvalidRequest for one that nothing can have."""
    texts = Texts()
    for name, value in ids.items():
        texts.need(f"/{name}", value, ID_MAX)
    texts.check()


def _error(pointer: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "detail": detail}


# --- pages --------------------------------------------------------------------------------------------------------------


def next_cursor(*position: object) -> str:
    """An opaque cursor for a position."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: type) -> list[Any] | None:
    """The position inside a cursor, each part of the kind given; None without one. Raises InvalidRequest."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        position = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=list[Any])
    except (UnicodeError, binascii.Error, msgspec.DecodeError, RecursionError):
        position = []
    good = len(position) == len(kinds) and all(
        type(part) is kind and storable(part) and (not isinstance(part, int) or 0 <= part < 2**53)
        for part, kind in zip(position, kinds, strict=True)
    )
    if not good:
        raise InvalidRequest("The cursor is not one that this address gave.", errors=[_error("/cursor", "is not a cursor")])
    return position


def cursor_time(text: str) -> Any:
    """A time inside a cursor. Raises InvalidRequest."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise InvalidRequest(
            "The cursor is not one that this address gave.", errors=[_error("/cursor", "is not a cursor")]
        ) from error


def page(items: list[Document], limit: int, *key: str) -> Document:
    """A page out of up to `limit` + 1 items; the cursor carries the last item's `key` fields."""
    more = len(items) > limit
    shown = items[:limit]
    return {"items": shown, "next_cursor": next_cursor(*(shown[-1][k] for k in key)) if more else None}


# --- languages ----------------------------------------------------------------------------------------------------------


def locale_of(request: AnyRequest) -> str:
    """`pt_BR` or `en`, whichever Accept-Language prefers; `pt_BR` when it says neither."""
    best, locale = 0.0, "pt_BR"
    wanted = header_of(request.scope, b"accept-language")
    if wanted is None:
        return locale
    for part in wanted.split(",")[:20]:
        name, _, weight = part.strip().partition(";q=")
        try:
            quality = float(weight) if weight else 1.0
        except ValueError:
            continue
        known = {"pt": "pt_BR", "en": "en"}.get(name.strip().lower()[:2])
        if known is not None and quality > best:
            best, locale = quality, known
    return locale


def explained(item: Document, locale: str) -> Document:
    """An item with `why` and `next_action` for people, by its state and reason."""
    words = explain(item["status"], item["reason"], locale)
    return item | {"why": words.why, "next_action": words.next_action}
