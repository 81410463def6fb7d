"""What every outgoing channel is: one `send`, whose outcome is a value.

A channel never raises for what the other side does. It says `failed` only when the message certainly did not go out, and
`unknown` whenever it may have.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from app.channels.reach import Endpoint
from app.domain.delivery import Outcome, SendResult

__all__ = ["Channel", "OutboundMessage", "Outcome", "PhoneEntry", "PhoneWriter", "ReplyButton", "SendResult", "Template", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A message that the provider approved beforehand; `parameters` fill its body in order."""

    name: str
    language: str = "pt_BR"
    parameters: tuple[str, ...] = ()
    buttons: bool = False
    """Whether the approved template has quick-reply buttons that carry the message's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyButton:
    """A button under a message; pressing it sends `id` back. `title` has at most 20 characters."""

    id: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundMessage:
    """One message on its way out. `to` is the address (E.164 for phones); None = the channel's own target."""

    key: str
    """Idempotency key: the same for every attempt of one delivery."""
    text: str
    to: str | None = None
    title: str | None = None
    kind: str = "message"
    tenant_id: str | None = None
    template: Template | None = None
    """Sent instead of the text where the provider allows no free text."""
    window_open: bool | None = None
    """Whether the recipient wrote within the last 24 h; None = not known."""
    buttons: tuple[ReplyButton, ...] = ()
    """Shown where the provider can; the text must make sense without them."""
    document: object = None
    """JSON body of a webhook call."""
    correlation_id: str | None = None
    """Of what this is said about; handed over where the other side can take it."""


class Channel(Protocol):
    """One way to the outside, with credentials of its own."""

    key: str
    """Names the target in circuits and records: no secret, no personal data."""
    addressable: bool
    """Whether `OutboundMessage.to` can name any recipient (else the target is fixed)."""
    endpoint: Endpoint | None
    """The server that it calls; None = inside this process, or its service does not say."""

    async def send(self, message: OutboundMessage) -> SendResult:
        """Try once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneEntry:
    """What the simulated phone shows."""

    tenant_id: str | None
    target: str
    kind: str
    body: str
    idempotency_key: str


PhoneWriter = Callable[[PhoneEntry], Awaitable[None]]
"""Keeps an entry durably, once per idempotency key; raises OSError or a transient StorageError when it cannot."""


def refused(detail: str) -> SendResult:
    """A send that cannot be made as asked."""
    return SendResult(outcome=Outcome.REJECTED, detail=detail)
