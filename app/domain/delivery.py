"""What became of a message that we sent: the provider's statuses, and what may be concluded from a failed call.

Statuses arrive out of order and more than once. The history keeps each of them once; the summary never goes back.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """What one attempt to send came to."""

    SENT = "sent"
    """The other side said that it took it."""
    FAILED = "failed"
    """It certainly did not happen; it may be tried again."""
    UNKNOWN = "unknown"
    """It may have happened (silence after sending): never blindly repeated as if new."""
    REJECTED = "rejected"
    """Refused for good: the same call would be refused again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """The outcome of one attempt. `detail` is a short code without secrets, texts or numbers."""

    outcome: Outcome
    provider_message_id: str | None = None
    detail: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryUpdate:
    """A provider's status of a message that we sent; unique by (message id, status)."""

    tenant_id: str
    channel: str
    provider_message_id: str
    status: str
    """sent | delivered | read | played | failed, or the provider's own word."""
    at: datetime
    detail: str | None = None
    """Error code and title of a failure."""
    reference: str | None = None
    """Our own id of the message, where the provider gives it back."""


DELIVERY_RANK: Final = {"sent": 1, "failed": 2, "delivered": 3, "read": 4, "played": 5}
"""A later proof of arrival outranks an earlier failure; words that are not listed leave the summary as it is."""


def furthest(current: str | None, *seen: str) -> str | None:
    """The summary after seeing further statuses: the highest rank so far, whatever the order of arrival."""
    known = [s for s in (current, *seen) if s in DELIVERY_RANK]
    return max(known, key=lambda s: DELIVERY_RANK[s]) if known else current


# --- the outbox: what an attempt means for its row ---------------------------------------------------------------------


class OutboxStatus(StrEnum):
    """Status of an outbox row."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    """Refused for good by the other side."""
    UNKNOWN = "unknown"
    """It may have been sent; a person looks."""
    DEAD = "dead"
    """Given up after the last attempt."""


REPEATABLE_KINDS: Final = frozenset({"webhook", "notice"})
"""Kinds that are sent at least once (with an idempotency key). Every other kind reaches a family and is sent at most once."""


def after_attempt(kind: str, outcome: Outcome, attempts: int, attempts_max: int) -> OutboxStatus:
    """The row's next status after attempt number `attempts` (1, 2, ...); PENDING means: try again later."""
    if outcome is Outcome.SENT:
        return OutboxStatus.SENT
    if outcome is Outcome.REJECTED:
        return OutboxStatus.FAILED
    if outcome is Outcome.UNKNOWN and kind not in REPEATABLE_KINDS:
        return OutboxStatus.UNKNOWN
    return OutboxStatus.PENDING if attempts < attempts_max else OutboxStatus.DEAD
