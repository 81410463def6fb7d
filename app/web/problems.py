"""Every failure as an answer: RFC 9457 problem details for programs, a page for people, never a stack trace.

`problem` builds the answer; `EXCEPTION_HANDLERS` maps the error tree, Litestar's own exceptions and anything unexpected to
it. Each answer carries the correlation id under which the log tells the rest.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, TemplateNotFoundException, ValidationException
from litestar.types import ExceptionHandlersMap, Scope

from app.domain.trace_context import trace_in
from app.errors import OutcomeUnknown, RequestError, StorageUnavailable, Unauthenticated
from app.ids import new_id

log = structlog.get_logger("web.problems")

AnyRequest = Request[Any, Any, Any]

PROBLEM_JSON: Final = "application/problem+json"
CORRELATION_HEADER: Final = "X-Correlation-ID"
TRACEPARENT: Final = "traceparent"
ERROR_TEMPLATE: Final = "errors/error.html"

_CORRELATION: Final = "kora_correlation_id"
_CORRELATION_NAME: Final = CORRELATION_HEADER.lower().encode()
_TRACEPARENT_NAME: Final = TRACEPARENT.encode()
_CORRELATION_MAX: Final = 200
_PHRASES: Final = {s.value: s.phrase for s in HTTPStatus}


def correlation_id(scope: Scope) -> str:
    """The id that joins everything about one request: the caller's header or trace when it is usable, else a fresh one."""
    state = scope["state"]
    known: str | None = state.get(_CORRELATION)
    if known is None:
        known = state[_CORRELATION] = given_correlation(scope) or new_id()
    return known


def given_correlation(scope: Scope) -> str | None:
    """The caller's own id: `X-Correlation-ID`, else the trace of a W3C `traceparent`; None when neither can be used."""
    given = header_of(scope, _CORRELATION_NAME)
    if given and len(given) <= _CORRELATION_MAX and given.isascii() and given.isprintable():
        return given
    trace = header_of(scope, _TRACEPARENT_NAME)
    return None if trace is None else trace_in(trace)


def header_of(scope: Scope, name: bytes) -> str | None:
    """The first header of this name (in lower case), without the framework's map of all of them; None without one."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def problem(
    request: AnyRequest,
    status: int,
    title: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response[Any]:
    """One problem as RFC 9457 JSON, or as a page when a person's browser asked for a page."""
    number = correlation_id(request.scope)
    if _wants_page(request):
        # `said`: a sentence in the reader's own language, where the one that raised knew it
        said = (extra or {}).get("said", "")
        context = {"status": status, "title": title, "detail": detail, "said": said, "correlation_id": number}
        page = _page(request, context, status, headers)
        if page is not None:
            return page
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.scope["path"],
        "correlation_id": number,
    }
    body.update(extra or {})
    if errors:
        body["errors"] = [dict(e) for e in errors]
    return Response(msgspec.json.encode(body), status_code=status, media_type=PROBLEM_JSON, headers=dict(headers or {}))


def _wants_page(request: AnyRequest) -> bool:
    if request.scope["path"].startswith("/api/") or "HX-Request" in request.headers:
        return False
    return "text/html" in request.headers.get("accept", "")


def _page(request: AnyRequest, context: dict[str, Any], status: int, headers: Mapping[str, str] | None) -> Response[Any] | None:
    """The error page, rendered; None where there is none (no templates installed)."""
    engine = request.app.template_engine
    if engine is None:
        return None
    try:
        template = engine.get_template(ERROR_TEMPLATE)
    except TemplateNotFoundException:
        return None
    html = template.render(**context, request=request)
    return Response(html, status_code=status, media_type="text/html", headers=dict(headers or {}))


# --- from exceptions ----------------------------------------------------------------------------------------------------


def _request_error(request: AnyRequest, error: RequestError) -> Response[Any]:
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="kora"'
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"  # the rest of the body is not wanted
    return problem(request, error.status, error.title, error.detail, errors=error.errors, headers=headers, extra=error.extra)


def _storage_unavailable(request: AnyRequest, error: StorageUnavailable) -> Response[Any]:
    log.warning("storage_unavailable", correlation_id=correlation_id(request.scope), path=request.scope["path"], error=str(error))
    detail = "The database did not answer. Nothing was accepted or changed; try again."
    return problem(request, 503, "Storage unavailable", detail, headers={"Retry-After": "1"})


def _outcome_unknown(request: AnyRequest, error: OutcomeUnknown) -> Response[Any]:
    log.error("outcome_unknown", correlation_id=correlation_id(request.scope), path=request.scope["path"], error=str(error))
    detail = "The connection to the database was lost at the last step. Look the item up, or send it again with the same ids."
    return problem(request, 503, "Outcome unknown", detail, headers={"Retry-After": "1"})


def _validation(request: AnyRequest, error: ValidationException) -> Response[Any]:
    """Parameters or a body of the wrong form, with a JSON pointer for each field."""
    errors = []
    for entry in error.extra if isinstance(error.extra, list) else []:
        if isinstance(entry, Mapping):
            if entry.get("key") == "data" and entry.get("message") == "'data'":  # the handler's name for its body: there is none
                errors.append({"pointer": "", "detail": "a body is required"})
                continue
            key = str(entry.get("key", "")).replace("~", "~0").replace("/", "~1").replace(".", "/")
            errors.append({"pointer": f"/{key}" if key else "", "detail": str(entry.get("message", "is not usable"))})
    return problem(request, 400, "Bad request", "Some values of this request cannot be used.", errors=errors)


def _http_exception(request: AnyRequest, error: HTTPException) -> Response[Any]:
    """Litestar's own: unknown address, wrong method, body not JSON or too large."""
    status = error.status_code
    if status >= 500:
        return _unexpected(request, error)
    phrase = _PHRASES.get(status, "Request failed")
    headers = {k: v for k, v in (error.headers or {}).items() if k.lower() in ("allow", "retry-after", "www-authenticate")}
    detail = {
        404: "There is nothing at this address.",
        405: "This address does not take this method.",
        413: "The body is larger than this address accepts; it was not read to its end.",
    }.get(status, error.detail or phrase)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"
    return problem(request, status, phrase, detail, headers=headers)


def _unexpected(request: AnyRequest, error: Exception) -> Response[Any]:
    """A defect: the log gets the trace, the caller an id to ask about."""
    log.error("request_failed", correlation_id=correlation_id(request.scope), path=request.scope["path"], exc_info=error)
    detail = "Something went wrong on our side. The correlation id names this failure in the log."
    return problem(request, 500, "Internal error", detail)


EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = cast(
    "ExceptionHandlersMap",
    {
        RequestError: _request_error,
        StorageUnavailable: _storage_unavailable,
        OutcomeUnknown: _outcome_unknown,
        ValidationException: _validation,
        HTTPException: _http_exception,
        Exception: _unexpected,
    },
)
