"""What protects every answer and every request whatever its handler does: headers, CSRF, rates, slow bodies.

The content policy allows our own files only, without inline script or style. CSRF tokens are bound to one session (or, for
the login form, to one random cookie), so a token minted for another browser is worthless. Sizes of bodies are limited by
Litestar itself (`request_max_body_size`), also when they come in chunks.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from types import coroutine
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.types import HTTPReceiveMessage, Message, Receive, Scope

from app.credentials import bound_token, same
from app.errors import Forbidden, InvalidRequest, TooManyRequests
from app.web.problems import CORRELATION_HEADER, correlation_id

T = TypeVar("T")

CONTENT_POLICY: Final = "; ".join(  # noqa: FLY002  # one rule a line can be read
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "worker-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS: Final = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), camera=(), microphone=(), payment=()",
}
_HEADERS: Final = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_CORRELATION: Final = CORRELATION_HEADER.lower().encode()

BODY_MAX: Final = 1024 * 1024
BODY_WITHIN_S: Final = 30.0
"""A body that is not here by then is given up (slow-loris)."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "_csrf"

STATIC_PREFIX: Final = "/static/"


def set_headers(message: Message, scope: Scope, *, secure: bool) -> None:
    """Put the security headers on an answer that is about to start; what a handler set itself stays."""
    if message["type"] != "http.response.start":
        return
    headers: list[tuple[bytes, bytes]] = list(message["headers"])
    present = {name.lower() for name, _ in headers}
    wanted = [*_HEADERS, (_CORRELATION, correlation_id(scope).encode("latin-1"))]
    if secure:
        wanted.append(_STRICT_TRANSPORT)
    if scope["path"].startswith(STATIC_PREFIX):
        # an address with a version in it never changes its content
        fixed = b"v=" in scope.get("query_string", b"") and message["status"] == 200
        headers = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
        headers.append((b"cache-control", b"public, max-age=31536000, immutable" if fixed else b"no-cache"))
    else:
        wanted.append((b"cache-control", b"no-store"))
    message["headers"] = headers + [pair for pair in wanted if pair[0] not in present]


def refuse_null_bytes(scope: Scope) -> None:
    """No id, slug or filter holds a null byte, and PostgreSQL takes none. Raises InvalidRequest."""
    if "\x00" in scope["path"]:
        raise InvalidRequest("There is a null byte in this address.", errors=[{"pointer": "", "detail": "contains a null byte"}])
    query = scope.get("query_string", b"")
    if b"%00" in query or b"\x00" in query:
        names = [name for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if "\x00" in name + value]
        raise InvalidRequest(
            "There is a null byte in this address.",
            errors=[{"pointer": f"/{name}", "detail": "contains a null byte"} for name in names],
        )


# --- CSRF ---------------------------------------------------------------------------------------------------------------


def session_csrf(secret_key: str, session_hash: str) -> str:
    """The token that forms and htmx of one session send back."""
    return bound_token(secret_key, "csrf", session_hash)


def login_csrf(secret_key: str, cookie: str) -> str:
    """The token of the login form, good together with one random cookie."""
    return bound_token(secret_key, "login", cookie)


def masked(token: str) -> str:
    """A token (hex) as a page shows it: a fresh one-time pad, then the token under it, both in hex.

    No two answers hold the same bytes, so that pages may travel compressed: their length says nothing about the token (BREACH).
    """
    pad = secrets.token_bytes(len(token) // 2)
    return pad.hex() + _under(pad, bytes.fromhex(token)).hex()


def _unmasked(given: str, length: int) -> str:
    """What a page showed as the token itself, `length` digits long; anything else stays as it is and will not be equal."""
    if len(given) != 2 * length:
        return given
    try:
        return _under(bytes.fromhex(given[:length]), bytes.fromhex(given[length:])).hex()
    except ValueError:
        return given


def _under(pad: bytes, text: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(pad, text, strict=False))


def check_origin(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Refuse what a page of another site made the browser send. Raises Forbidden."""
    site = connection.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise Forbidden("This request came from another site.")


async def check_csrf(request: Request[Any, Any, Any], expected: str) -> None:
    """Refuse an unsafe request without the expected token in the header or the form. Raises Forbidden."""
    check_origin(request)
    given = request.headers.get(CSRF_HEADER)
    if given is None:
        field = (await request.form()).get(CSRF_FIELD)
        given = field if isinstance(field, str) else ""
    if not expected or not same(_unmasked(given, len(expected)), expected):
        raise Forbidden("The form is out of date or was not made for this session; load the page again.")


# --- rates --------------------------------------------------------------------------------------------------------------


class TokenBuckets:
    """One bucket of tokens per name: `burst` at once, `per_s` afterwards. The least used names are forgotten first."""

    def __init__(
        self, per_s: float, burst: float, *, names_max: int = 10_000, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._names_max = names_max
        self._monotonic = monotonic
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token; returns 0.0, or the seconds to wait when there is none."""
        now = self._monotonic()
        level, at = self._levels.pop(name, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_s)
        enough = level >= 1.0
        self._levels[name] = (level - 1.0 if enough else level, now)
        if len(self._levels) > self._names_max:
            self._levels.popitem(last=False)
        return 0.0 if enough else (1.0 - level) / self._per_s

    def require(self, name: str) -> None:
        """Take a token. Raises TooManyRequests, with the time to wait."""
        wait_s = self.take(name)
        if wait_s > 0:
            raise TooManyRequests("Too many requests; slow down.", retry_after_s=int(wait_s) + 1)


def client_address(scope: Scope) -> str:
    """Where a request came from (the server puts a trusted proxy's word here)."""
    client = scope.get("client")
    return client[0] if client else "unknown"


# --- slow bodies --------------------------------------------------------------------------------------------------------


def hurried(receive: Receive, *, within_s: float = BODY_WITHIN_S) -> Receive:
    """`receive` that gives a request's body a deadline; afterwards (streams, disconnects) it waits for ever."""
    deadline: float | None = None
    complete = False

    async def receive_in_time() -> Any:
        nonlocal complete, deadline
        if complete:
            return await receive()
        deadline = deadline or time.monotonic() + within_s
        steps = receive().__await__()
        try:
            awaited = next(steps)
        except StopIteration as here:  # as most bodies are: with their head, so that nothing has to be set up
            message: HTTPReceiveMessage | Any = here.value
        else:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await _rest(steps, awaited)
            except TimeoutError:
                complete = True
                raise HTTPException("The body took too long to arrive.", status_code=408) from None
        complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return receive_in_time


@coroutine
def _rest(steps: Generator[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """What is left of an awaitable whose first step was done already, and waits for `awaited`."""
    try:
        yield awaited
        return (yield from steps)
    finally:
        steps.close()
