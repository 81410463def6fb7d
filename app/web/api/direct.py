"""The short way to a handler that takes JSON from a machine and answers with JSON: the framework's way costs more than the work.

`direct` stands between what protects every route (`Gate`) and the framework's handling of one. It takes the plain requests: a
POST by a key, without a query, whose body says its size. It asks the same guards, calls the same function as the handler,
encodes with the same encoder, and what is raised becomes the same problem. Every other request goes the framework's way.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.serialization import encode_json
from litestar.types import ASGIApp, Receive, Scope, Send

from app.web.api.common import AnyRequest
from app.web.auth import Actor
from app.web.problems import header_of
from app.web.security import BODY_MAX

Answer = Callable[[AnyRequest, bytes], Awaitable[Any]]
"""What a handler does with a body; returns the document to answer with."""

_JSON: Final = (b"content-type", b"application/json")


def direct(answer: Answer, status: int) -> Callable[[ASGIApp], ASGIApp]:
    """The middleware of a route whose handler is no more than `answer` of the request and its body."""

    def around(app: ASGIApp) -> ASGIApp:
        async def shortly(scope: Scope, receive: Receive, send: Send) -> None:
            if not _is_plain(scope):
                await app(scope, receive, send)
                return
            request: AnyRequest = Request(scope, receive, send)
            handler = scope["route_handler"]
            for guard in handler.resolve_guards():
                await guard(request, handler)  # type: ignore[misc]  # the framework's type allows plain functions, ours are none
            body = encode_json(await answer(request, await _body(receive)))
            headers = [_JSON, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})

        return shortly

    return around


def _is_plain(scope: Scope) -> bool:
    """Whether nothing about a request needs the framework: no parameters, no form, a size that is known and allowed."""
    actor = scope.get("user")
    if scope.get("method") != "POST" or scope["query_string"] or not isinstance(actor, Actor) or actor.kind != "key":
        return False
    size = header_of(scope, b"content-length")
    return size is not None and len(size) < 10 and size.isdecimal() and int(size) <= BODY_MAX


async def _body(receive: Receive) -> bytes:
    """The whole body. Raises what the framework raises: for more than it may be, and when the caller left."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise InternalServerException("client disconnected prematurely")
        parts.append(message["body"])
        size += len(message["body"])
        if size > BODY_MAX:
            raise RequestEntityTooLarge
        if not message.get("more_body", False):
            return b"".join(parts)
