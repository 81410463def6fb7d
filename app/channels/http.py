"""One HTTP call to the outside: bounded in time and size, without redirects, and honest about what may have happened.

Until the first byte of the request leaves, nothing can have happened (`failed`). From then on every silence, reset or
broken answer is `unknown`. Neither URLs nor bodies appear in a detail.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import httpx

from app.channels.addresses import AllowList, checked_address
from app.domain.delivery import Outcome, SendResult

RESOLVE_S: Final = 3.0
CONNECT_S: Final = 3.0
READ_S: Final = 10.0
TOTAL_S: Final = 15.0
ANSWER_MAX: Final = 64 * 1024
RETRY_AFTER_MAX_S: Final = 3600.0

_SAFE_TO_REPEAT: Final = frozenset({429, 503})
"""Answers that say that the request was not taken up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take, in seconds."""

    connect_s: float = CONNECT_S
    read_s: float = READ_S
    total_s: float = TOTAL_S


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer; `document` is its JSON object, None when it is not one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    document: dict[str, Any] | None = None

    @property
    def retry_after_s(self) -> float | None:
        """Seconds that the other side asked us to wait (only the number form is read)."""
        value = self.headers.get("retry-after", "")
        return min(float(value), RETRY_AFTER_MAX_S) if value.isascii() and value.isdigit() else None


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    """Whom we trust, read once: reading it costs tens of milliseconds, and the drill opens clients of its own."""
    return httpx.create_ssl_context()


def new_client() -> httpx.AsyncClient:
    """The process's client for outgoing calls: no redirects, no proxies from the environment."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=30)
    headers = {"user-agent": "koraos"}
    return httpx.AsyncClient(follow_redirects=False, trust_env=False, verify=_certificates(), limits=limits, headers=headers)


async def call(
    client: httpx.AsyncClient,
    url: str | httpx.URL,
    *,
    json: object = None,
    content: bytes | None = None,
    headers: Mapping[str, str],
    limits: Limits,
    extensions: Mapping[str, Any] | None = None,
) -> Answer | SendResult:
    """POST `json`, or the bytes of `content`; an `Answer` when one arrived whole, else the `SendResult` of how it broke."""
    started = False

    async def trace(event: str, _info: object) -> None:
        nonlocal started
        if event.endswith(".send_request_headers.started"):
            started = True

    timeout = httpx.Timeout(limits.read_s, connect=limits.connect_s, pool=limits.connect_s)
    try:
        async with asyncio.timeout(limits.total_s):
            request = client.build_request("POST", url, json=json, content=content, headers=dict(headers), timeout=timeout)
            request.extensions = {**request.extensions, **(extensions or {}), "trace": trace}
            response = await client.send(request, stream=True)
            try:
                body = await _read(response)
            finally:
                await response.aclose()
    except TimeoutError:
        return _broken(started, "timeout")
    except httpx.TimeoutException:
        return _broken(started, "timeout")
    except httpx.InvalidURL:
        return SendResult(outcome=Outcome.REJECTED, detail="bad_url")
    except (httpx.HTTPError, OSError) as error:
        return _broken(started, type(error).__name__)
    return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, _document(body))


async def checked_call(
    client: httpx.AsyncClient,
    url: str | httpx.URL,
    *,
    allowed: AllowList,
    json: object = None,
    content: bytes | None = None,
    headers: Mapping[str, str],
    limits: Limits,
) -> Answer | SendResult:
    """`call` to a URL that a clinic may choose: only to a permitted address, and to the very one that was checked."""
    try:
        url = httpx.URL(url)
    except httpx.InvalidURL:
        return _refused("bad_url")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        return _refused("bad_url")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        async with asyncio.timeout(RESOLVE_S):
            address = await checked_address(url.host, port, allowed)
    except (OSError, UnicodeError, TimeoutError):
        return SendResult(outcome=Outcome.FAILED, detail="host_not_found")
    if address is None:
        return _refused("private_address")
    # the name stays for Host and for the certificate
    host = url.netloc.decode("ascii")
    return await call(
        client,
        url.copy_with(host=str(address)),
        json=json,
        content=content,
        headers={"host": host, **headers},
        limits=limits,
        extensions={"sni_hostname": url.host},
    )


def _refused(detail: str) -> SendResult:
    return SendResult(outcome=Outcome.REJECTED, detail=detail)


async def _read(response: httpx.Response) -> bytes:
    """The body up to the limit; what lies beyond is not needed."""
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > ANSWER_MAX:
            break
    return b"".join(parts)[:ANSWER_MAX]


def _document(body: bytes) -> dict[str, Any] | None:
    import msgspec

    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) else None


def _broken(started: bool, detail: str) -> SendResult:
    return SendResult(outcome=Outcome.UNKNOWN if started else Outcome.FAILED, detail=detail)


def judge(answer: Answer, accepted: Callable[[dict[str, Any]], str | None]) -> SendResult:
    """The outcome of a messaging API's answer; `accepted` finds the message's id in it.

    200 without an id, and 5xx other than 503, leave open whether the message went out.
    """
    detail = f"http_{answer.status}"
    if 200 <= answer.status < 300:
        message_id = accepted(answer.document) if answer.document is not None else None
        if message_id is None:
            return SendResult(outcome=Outcome.UNKNOWN, detail="answer_without_message_id")
        return SendResult(outcome=Outcome.SENT, provider_message_id=message_id)
    if answer.status in _SAFE_TO_REPEAT:
        return SendResult(outcome=Outcome.FAILED, detail=detail, retry_after_s=answer.retry_after_s)
    if answer.status >= 500 or answer.status == 408:
        return SendResult(outcome=Outcome.UNKNOWN, detail=detail)
    if answer.status in (401, 403, 404):
        # credentials or an instance that a person can repair while we wait
        return SendResult(outcome=Outcome.FAILED, detail=detail)
    return SendResult(outcome=Outcome.REJECTED, detail=detail)


def text_at(document: object, *path: str | int) -> str | None:
    """The non-empty string at `path` of a JSON document; None when anything on the way is not what it should be."""
    value: Any = document
    for step in path:
        if isinstance(step, str) and isinstance(value, dict):
            value = value.get(step)
        elif isinstance(step, int) and isinstance(value, list) and step < len(value):
            value = value[step]
        else:
            return None
    return value if isinstance(value, str) and value else None
