"""WhatsApp Cloud API, incoming: every entry, change, message and status of a webhook POST.

Source: Meta's webhook reference, `messages` field. One POST may hold several messages and statuses of several numbers.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from app.channels.inbound import Parsed, mapping, message, moment, objects, redact_secrets, unusable, words
from app.domain.delivery import DeliveryUpdate
from app.domain.phones import from_whatsapp_id

CHANNEL: Final = "whatsapp"

_MEDIA: Final = frozenset({"image", "video", "sticker", "audio", "document"})
_MEDIA_FIELDS: Final = ("id", "mime_type", "sha256", "filename", "voice", "animated")
_STATUS_MAX: Final = 20


def parse(document: Any, *, tenant_id: str, phone_number_id: str | None, received_at: datetime) -> Parsed:
    """Messages and statuses for the tenant's number; messages to another number are kept for a person, as `other_number`."""
    parsed = Parsed()
    entries = objects(mapping(document).get("entry"))
    if mapping(document).get("object") != "whatsapp_business_account" or not entries:
        parsed.items.append(unusable("unknown_shape", document, channel=CHANNEL, tenant_id=tenant_id))
        return parsed
    reader = _Reader(parsed, tenant_id, phone_number_id, received_at)
    for entry in entries:
        changes = objects(mapping(entry).get("changes"))
        if not changes:
            reader.odd(entry)
        for change in changes:
            reader.change(change)
    return parsed


class _Reader:
    """Walks the changes of one POST and fills `parsed`."""

    def __init__(self, parsed: Parsed, tenant_id: str, phone_number_id: str | None, received_at: datetime) -> None:
        self.parsed, self.tenant_id, self.received_at = parsed, tenant_id, received_at
        self.phone_number_id = phone_number_id

    def odd(self, raw: Any, reason: str = "unknown_shape", external_id: str | None = None) -> None:
        item = unusable(reason, raw, channel=CHANNEL, tenant_id=self.tenant_id, external_id=external_id)
        self.parsed.items.append(item)

    def change(self, change: Any) -> None:
        kind, value = mapping(change).get("field"), mapping(change).get("value")
        if not isinstance(kind, str) or not isinstance(value, dict):
            return self.odd(change)
        if kind != "messages":  # news about the account or templates, echoes of our own messages
            self.parsed.ignored.append("other_field")
            return None
        theirs = mapping(value.get("metadata")).get("phone_number_id")
        if self.phone_number_id and theirs != self.phone_number_id:
            return self.elsewhere(value)
        found = False
        names = _names(value)
        for raw in objects(value.get("messages")):
            found = True
            self.message(raw, names)
        for raw in objects(value.get("statuses")):
            found = True
            self.status(raw)
        if value.get("errors"):
            found = True
            self.odd(value, "provider_error")
        if not found:
            self.odd(change)
        return None

    def elsewhere(self, value: Mapping[str, Any]) -> None:
        """A change of another number: what families wrote is kept, each message for itself; statuses tell us nothing."""
        self.parsed.ignored.append("phone_number_id_mismatch")
        for raw in objects(value.get("messages")):
            item = {"metadata": value.get("metadata"), "message": raw}
            self.odd(item, "other_number", words(mapping(raw).get("id")))

    def message(self, raw: Any, names: Mapping[str, str]) -> None:
        message_id, sender = words(mapping(raw).get("id")), words(mapping(raw).get("from"))
        if message_id is None:
            return self.odd(raw, "missing_message_id" if isinstance(raw, dict) else "unknown_shape")
        phone = from_whatsapp_id(sender)
        if phone is None:
            return self.odd(raw, "missing_phone", message_id)
        kind = words(raw.get("type")) or "unknown"
        self.parsed.items.append(
            message(
                channel=CHANNEL,
                tenant_id=self.tenant_id,
                external_id=message_id,
                phone=phone,
                profile_name=names.get(sender or ""),
                occurred_at=moment(raw.get("timestamp"), self.received_at),
                payload=_payload(kind, raw),
                event_type="system" if kind == "system" else "message",
            )
        )
        return None

    def status(self, raw: Any) -> None:
        message_id, status = words(mapping(raw).get("id")), words(mapping(raw).get("status"))
        if message_id is None or status is None:
            return self.odd(raw)
        self.parsed.deliveries.append(
            DeliveryUpdate(
                tenant_id=self.tenant_id,
                channel=CHANNEL,
                provider_message_id=message_id[:200],
                status=status[:_STATUS_MAX],
                at=moment(raw.get("timestamp"), self.received_at),
                detail=_error(raw),
                reference=words(raw.get("biz_opaque_callback_data")),
            )
        )
        return None


def _names(value: Mapping[str, Any]) -> dict[str, str]:
    """Profile names by wa_id."""
    found = {}
    for contact in objects(value.get("contacts")):
        wa_id, name = words(mapping(contact).get("wa_id")), words(mapping(mapping(contact).get("profile")).get("name"))
        if wa_id and name:
            found[wa_id] = name
    return found


def _error(raw: Mapping[str, Any]) -> str | None:
    """`131047 Re-engagement message` of a failed status."""
    errors = objects(raw.get("errors"))
    if not errors:
        return None
    first = mapping(errors[0])
    title = words(first.get("title")) or words(first.get("message")) or ""
    return f"{first.get('code', '')} {title}".strip()[:300] or None


def _payload(kind: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The message in our words: `kind`, `text` where there are words, `button_id` of an answer by button or list."""
    part = mapping(raw.get(kind))
    payload: dict[str, Any] = {"kind": kind, "reply_to": words(mapping(raw.get("context")).get("id"))}
    if kind == "text":
        payload["text"] = words(part.get("body"))
    elif kind == "interactive":
        how = words(part.get("type")) or ""
        reply = mapping(part.get(how))
        payload |= {"kind": how or kind, "text": words(reply.get("title")), "button_id": words(reply.get("id"))}
        if how not in ("button_reply", "list_reply"):
            payload["raw"] = redact_secrets(part)
    elif kind == "button":
        payload |= {"text": words(part.get("text")), "button_id": words(part.get("payload"))}
    elif kind in _MEDIA:
        payload |= {"text": words(part.get("caption")), "media": {k: part[k] for k in _MEDIA_FIELDS if k in part}}
    elif kind == "reaction":
        payload |= {"emoji": words(part.get("emoji")), "reply_to": words(part.get("message_id"))}
    elif kind in ("location", "contacts", "system", "order", "referral"):
        payload[kind] = raw.get(kind)
    else:  # `unsupported`, or a type that Meta adds later: kept as it came
        payload["raw"] = redact_secrets({k: v for k, v in raw.items() if k not in ("from", "id", "timestamp", "type", "context")})
    return payload
