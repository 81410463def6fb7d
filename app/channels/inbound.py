"""What the parsers of provider payloads share: their result, signatures, and making a body safe to keep.

Parsers are pure and never raise for what a body contains. A message becomes a `Message`; one that cannot be used becomes a
`Malformed`, which is kept and opens a manual task; a status becomes a `DeliveryUpdate`. Ids are derived from the provider's
message id, so that a webhook that is sent again gives the same ones.
"""

import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from app.domain.delivery import DeliveryUpdate
from app.domain.envelopes import EARLIEST, LATEST, TEXT_MAX, FieldError, Malformed, Message, sha256_hex
from app.domain.states import Source

DEPTH_MAX: Final = 32
EXTERNAL_ID_MAX: Final = 300


@dataclass(slots=True)
class Parsed:
    """Everything found in one POST, in the order of the body."""

    items: list[Message | Malformed] = field(default_factory=list)
    deliveries: list[DeliveryUpdate] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    """Codes of what was left out on purpose: own messages, groups, notices about the account."""


class NotJson(ValueError):
    """The body is no JSON document."""


# --- signatures ---------------------------------------------------------------------------------------------------------


def signature_is_valid(app_secret: str | None, body: bytes, header: str | None) -> bool:
    """`X-Hub-Signature-256` over the raw body, compared in constant time; without secret or header never valid."""
    if not app_secret or not header:
        return False
    expected = "sha256=" + hmac.new(app_secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), header.strip().lower().encode("utf-8", "surrogateescape"))


def secret_is_valid(secret: str | None, *presented: str | None) -> bool:
    """Whether one of the presented values is the secret; all are compared in constant time, none configured is a no."""
    if not secret:
        return False
    matches = [hmac.compare_digest(secret.encode(), value.encode("utf-8", "surrogateescape")) for value in presented if value]
    return any(matches)


# --- bodies -------------------------------------------------------------------------------------------------------------


def decode(body: bytes) -> Any:
    """The JSON document of a body, every string of it storable; raises NotJson."""
    try:
        return clean(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise NotJson("the body is not JSON") from error


def clean(value: Any, depth: int = 0) -> Any:
    """A copy that both databases can hold: no NUL, no lone surrogate, no infinite number, no more than DEPTH_MAX levels."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if depth >= DEPTH_MAX:
        return "[too deep]"
    if isinstance(value, dict):
        return {str(clean(str(k))): clean(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [clean(v, depth + 1) for v in value]
    return str(value)


_SECRET_KEYS: Final = frozenset(
    "apikey token accesstoken refreshtoken secret clientsecret appsecret verifytoken password authorization admintoken jwt "
    "mediakey".split()
)
_SECRET_TEXT: Final = (
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), "***"),
    (re.compile(r"(?i)([?&](?:token|apikey|access_token)=)[^&\s\"']+"), r"\1***"),
    (re.compile(r"\bEAA[A-Za-z0-9]{20,}"), "***"),
)


def redact_secrets(value: Any) -> Any:
    """A copy without keys and tokens; what a person needs in order to act (who, what, when) stays."""
    if isinstance(value, Mapping):
        return {k: "***" if _is_secret(str(k)) and v not in (None, "") else redact_secrets(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redact_secrets(v) for v in value]
    if isinstance(value, str):
        for pattern, replacement in _SECRET_TEXT:
            value = pattern.sub(replacement, value)
    return value


def _is_secret(key: str) -> bool:
    return re.sub(r"[^a-z]", "", key.lower()) in _SECRET_KEYS


# --- items --------------------------------------------------------------------------------------------------------------


def event_id(channel: str, tenant_id: str, external_id: str) -> str:
    """The id of a provider's message in our inbox: the same whenever it comes again."""
    return sha256_hex(f"{channel}\n{tenant_id}\n{external_id}")[:32]


def message(
    *,
    channel: str,
    tenant_id: str,
    external_id: str,
    phone: str,
    occurred_at: datetime,
    payload: Mapping[str, Any],
    profile_name: str | None = None,
    event_type: str = "message",
) -> Message:
    """An inbound message of a phone number; the intake finds or makes its contact."""
    own = event_id(channel, tenant_id, external_id)
    words = payload.get("text")
    text = {"text": words[:TEXT_MAX]} if isinstance(words, str) else {}
    return Message(
        event_id=own,
        tenant_id=tenant_id,
        contact_id=None,
        external_id=external_id if len(external_id) <= EXTERNAL_ID_MAX else f"sha256:{sha256_hex(external_id)}",
        channel=channel,
        source=Source.WHATSAPP,
        event_type=event_type,
        occurred_at=occurred_at,
        correlation_id=f"corr-{own}",
        payload={k: v for k, v in {**payload, **text}.items() if v is not None},
        phone=phone,
        profile_name=profile_name,
    )


def unusable(
    reason: str, raw: Any, *, channel: str, tenant_id: str, external_id: str | None = None, pointer: str = ""
) -> Malformed:
    """An item that a person must look at, kept without its secrets."""
    own = event_id(channel, tenant_id, external_id) if external_id else None
    return Malformed(
        kind="message",
        item_id=own,
        contact_id=None,
        correlation_id=f"corr-{own}" if own else None,
        reason=reason,
        errors=(FieldError(pointer, _SENTENCES[reason]),),
        raw={"channel": channel, "item": redact_secrets(raw)},
    )


_SENTENCES: Final = {
    "unknown_shape": "has a shape that this provider was not known to send",
    "other_number": "was sent to another number than the one in the settings",
    "missing_message_id": "carries no message id",
    "missing_phone": "carries no phone number, so the family cannot be told",
    "provider_error": "the provider reports an error of its own",
}


def moment(value: Any, fallback: datetime) -> datetime:
    """A provider's Unix time in seconds or milliseconds (number, digits, or a Long object); else `fallback`."""
    if isinstance(value, dict):  # a 64-bit number as some JavaScript libraries write it
        value = value.get("low")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        return fallback
    try:
        found = datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
    except (ValueError, OverflowError, OSError):
        return fallback
    return found if EARLIEST <= found < LATEST else fallback


def words(value: Any) -> str | None:
    """A non-empty string, else None."""
    return value if isinstance(value, str) and value else None


def mapping(value: Any) -> dict[str, Any]:
    """The value when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Any]:
    """The elements when it is a list, else none."""
    return value if isinstance(value, list) else []
