"""Webhooks to other systems: at least once, with an idempotency key, never to private addresses by accident."""

import hashlib
import hmac
from typing import Final

import httpx
import msgspec

from app.channels.addresses import AllowList
from app.channels.http import Limits, checked_call
from app.channels.outbound import OutboundMessage, Outcome, SendResult, refused
from app.channels.reach import endpoint
from app.domain.trace_context import span_id_of, traceparent

SIGNATURE: Final = "x-kora-signature-256"


def signature(secret: str, body: bytes) -> str:
    """What proves that a call is ours and unchanged: `sha256=` and the hex HMAC-SHA256 over the raw bytes of its body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class WebhookChannel:
    """One URL of another system."""

    addressable = False

    def __init__(
        self, client: httpx.AsyncClient, url: str, *, allowed: AllowList, limits: Limits | None = None, secret: str | None = None
    ) -> None:
        try:
            self._url: httpx.URL | None = httpx.URL(url)
        except httpx.InvalidURL:
            self._url = None
        self.key = f"webhook:{self._url.host}:{self._url.port or ''}" if self._url else "webhook:"
        self.endpoint = endpoint(self._url, guarded=True) if self._url else None
        self._client = client
        self._allowed = allowed
        self._limits = limits or Limits()
        self._secret = secret

    @property
    def can_be_called(self) -> bool:
        """Whether the URL is one: http or https, with a host, without credentials in front of it."""
        url = self._url
        return url is not None and url.scheme in ("http", "https") and bool(url.host) and not url.userinfo

    async def send(self, message: OutboundMessage) -> SendResult:
        """POST the document (or the text) with `Idempotency-Key`, signed where there is a secret; any 2xx is taken as received."""
        url = self._url
        if url is None or not self.can_be_called:
            return refused("bad_url")
        body = msgspec.json.encode(message.document if message.document is not None else {"text": message.text})
        headers = {"content-type": "application/json", "idempotency-key": message.key} | _trace(message)
        if self._secret is not None:
            headers[SIGNATURE] = signature(self._secret, body)
        answer = await checked_call(
            self._client,
            url,
            allowed=self._allowed,
            content=body,
            headers=headers,
            limits=self._limits,
        )
        if isinstance(answer, SendResult):
            return answer
        if 200 <= answer.status < 300:
            return SendResult(outcome=Outcome.SENT)
        detail = f"http_{answer.status}"
        if answer.status >= 500 or answer.status in (401, 403, 404, 408, 409, 425, 429):
            return SendResult(outcome=Outcome.FAILED, detail=detail, retry_after_s=answer.retry_after_s)
        return refused(detail)  # a redirect is not followed: it could lead anywhere


def _trace(message: OutboundMessage) -> dict[str, str]:
    """What joins the other side's records to ours: our id as it is, and as a W3C trace."""
    if message.correlation_id is None:
        return {}
    given = message.correlation_id
    found = {"traceparent": traceparent(given, span_id_of(message.key))}
    return found | {"x-correlation-id": given} if given.isascii() and given.isprintable() else found
