"""Uazapi (uazapiGO 2.x), incoming: `messages` and `messages_update`. Unofficial: known from captures only.

The body carries the instance's token: it is redacted before anything is kept.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from app.channels.inbound import Parsed, mapping, message, moment, objects, unusable, words
from app.domain.delivery import DeliveryUpdate
from app.domain.phones import e164, from_whatsapp_id, is_group

CHANNEL: Final = "uazapi"

_STATUS: Final = {
    "Sent": "sent",
    "Delivered": "delivered",
    "Read": "read",
    "Played": "played",
    "Error": "failed",
    "Deleted": "deleted",
}
_KIND: Final = {
    "Conversation": "text",
    "ExtendedTextMessage": "text",
    "ImageMessage": "image",
    "VideoMessage": "video",
    "AudioMessage": "audio",
    "DocumentMessage": "document",
    "StickerMessage": "sticker",
    "ReactionMessage": "reaction",
    "LocationMessage": "location",
    "ContactMessage": "contacts",
    "ButtonsResponseMessage": "button_reply",
    "TemplateButtonReplyMessage": "button_reply",
    "ListResponseMessage": "list_reply",
}


def parse(document: Any, *, tenant_id: str, received_at: datetime) -> Parsed:
    """Messages and statuses of one POST."""
    parsed = Parsed()
    body = mapping(document)
    kind = (words(body.get("EventType")) or "").lower()
    if kind == "messages" and isinstance(body.get("message"), dict):
        _message(parsed, body["message"], mapping(body.get("chat")), tenant_id, received_at)
    elif kind == "messages_update" and isinstance(body.get("event"), dict):
        _statuses(parsed, body["event"], tenant_id, received_at)
    elif kind and kind not in ("messages", "messages_update"):
        parsed.ignored.append("other_event")
    else:
        parsed.items.append(unusable("unknown_shape", document, channel=CHANNEL, tenant_id=tenant_id))
    return parsed


def _message(parsed: Parsed, raw: Mapping[str, Any], chat: Mapping[str, Any], tenant_id: str, received_at: datetime) -> None:
    if _yes(raw.get("fromMe")) or _yes(raw.get("wasSentByApi")):
        parsed.ignored.append("from_me")
        return
    if _yes(raw.get("isGroup")) or is_group(words(raw.get("chatid"))):
        parsed.ignored.append("group")
        return
    message_id = words(raw.get("messageid")) or (words(raw.get("id")) or "").rpartition(":")[2] or None
    if message_id is None:
        parsed.items.append(unusable("missing_message_id", raw, channel=CHANNEL, tenant_id=tenant_id))
        return
    addresses = [from_whatsapp_id(words(raw.get(name))) for name in ("sender_pn", "chatid", "sender")]
    phone = next((p for p in addresses if p is not None), None) or e164(words(chat.get("phone")))
    if phone is None:
        parsed.items.append(unusable("missing_phone", raw, channel=CHANNEL, tenant_id=tenant_id, external_id=message_id))
        return
    parsed.items.append(
        message(
            channel=CHANNEL,
            tenant_id=tenant_id,
            external_id=message_id,
            phone=phone,
            profile_name=words(raw.get("senderName")),
            occurred_at=moment(raw.get("messageTimestamp"), received_at),
            payload=_payload(raw),
        )
    )


def _payload(raw: Mapping[str, Any]) -> dict[str, Any]:
    kind = words(raw.get("messageType")) or "unknown"
    content = raw.get("content")
    text = words(raw.get("text")) or words(content) or words(mapping(content).get("text")) or words(mapping(content).get("caption"))
    return {
        "kind": _KIND.get(kind, kind),
        "text": text,
        "button_id": words(raw.get("buttonOrListid")),
        "reply_to": words(raw.get("quoted")),
    }


def _statuses(parsed: Parsed, event: Mapping[str, Any], tenant_id: str, received_at: datetime) -> None:
    status = words(event.get("Type"))
    ids = [i for i in objects(event.get("MessageIDs")) if words(i)]
    if status is None or not ids:
        parsed.items.append(unusable("unknown_shape", dict(event), channel=CHANNEL, tenant_id=tenant_id))
        return
    if event.get("IsFromMe") is not None and not _yes(event.get("IsFromMe")):
        parsed.ignored.append("not_ours")
        return
    for message_id in ids:
        parsed.deliveries.append(
            DeliveryUpdate(
                tenant_id=tenant_id,
                channel=CHANNEL,
                provider_message_id=message_id[:200],
                status=_STATUS.get(status, status.lower())[:20],
                at=moment(event.get("Timestamp"), received_at),
            )
        )


def _yes(value: Any) -> bool:
    """True as a boolean, or as the word that some versions send."""
    return value is True or (isinstance(value, str) and value.lower() == "true")
