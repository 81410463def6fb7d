"""Evolution API 2.3.x, incoming: `messages.upsert` and `messages.update`.

`date_time` of the envelope is local wall time with a wrong `Z`; the message's own timestamp is used instead. With
`addressingMode: lid` the phone is in `remoteJidAlt`; a message without any phone goes to a person.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from app.channels.inbound import Parsed, mapping, message, moment, objects, unusable, words
from app.domain.delivery import DeliveryUpdate
from app.domain.phones import from_whatsapp_id, is_group

CHANNEL: Final = "evolution"

_STATUS: Final = {
    "ERROR": "failed",
    "PENDING": "pending",
    "SERVER_ACK": "sent",
    "DELIVERY_ACK": "delivered",
    "READ": "read",
    "PLAYED": "played",
    "DELETED": "deleted",
}
_JWT_LEEWAY_S: Final = 60


def jwt_is_valid(secret: str | None, header: str | None, now: datetime) -> bool:
    """A `Bearer` JWT (HS256, short-lived) made with the webhook's secret; any other algorithm is refused."""
    if not secret or not header or not header.startswith("Bearer "):
        return False
    parts = header.removeprefix("Bearer ").strip().split(".")
    if len(parts) != 3:
        return False
    try:
        head, claims = (json.loads(_unpadded(p)) for p in parts[:2])
        signature = _unpadded(parts[2])
    except (ValueError, RecursionError):
        return False
    expected = hmac.new(secret.encode(), f"{parts[0]}.{parts[1]}".encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(expected, signature):
        return False
    expires = claims.get("exp") if isinstance(claims, dict) else None
    if not isinstance(head, dict) or head.get("alg") != "HS256" or not isinstance(expires, int | float):
        return False
    return now.timestamp() <= expires + _JWT_LEEWAY_S


def _unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def parse(document: Any, *, tenant_id: str, received_at: datetime) -> Parsed:
    """Messages and statuses of one POST; `data` may be one object or a list of them."""
    parsed = Parsed()
    body = mapping(document)
    event = (words(body.get("event")) or "").lower().replace("_", ".").replace("-", ".")
    data = body.get("data")
    parts = data if isinstance(data, list) else [data]
    if event == "messages.upsert":
        for part in parts:
            _message(parsed, part, tenant_id, received_at)
    elif event == "messages.update":
        for part in parts:
            _status(parsed, part, tenant_id, received_at)
    elif event and isinstance(data, dict | list):
        parsed.ignored.append("other_event")  # connection, contacts, chats, presence: nothing that a family said
    else:
        parsed.items.append(unusable("unknown_shape", document, channel=CHANNEL, tenant_id=tenant_id))
    return parsed


def _message(parsed: Parsed, data: Any, tenant_id: str, received_at: datetime) -> None:
    key = mapping(mapping(data).get("key"))
    message_id = words(key.get("id"))
    if not key:
        parsed.items.append(unusable("unknown_shape", data, channel=CHANNEL, tenant_id=tenant_id))
        return
    if key.get("fromMe") is True:
        parsed.ignored.append("from_me")
        return
    addresses = [words(key.get(name)) for name in ("remoteJid", "remoteJidAlt", "senderPn", "previousRemoteJid")]
    if is_group(addresses[0]):
        parsed.ignored.append("group")
        return
    if message_id is None:
        parsed.items.append(unusable("missing_message_id", data, channel=CHANNEL, tenant_id=tenant_id))
        return
    phone = next((p for p in map(from_whatsapp_id, addresses) if p is not None), None)
    if phone is None:
        parsed.items.append(unusable("missing_phone", data, channel=CHANNEL, tenant_id=tenant_id, external_id=message_id))
        return
    parsed.items.append(
        message(
            channel=CHANNEL,
            tenant_id=tenant_id,
            external_id=message_id,
            phone=phone,
            profile_name=words(data.get("pushName")),
            occurred_at=moment(data.get("messageTimestamp"), received_at),
            payload=_payload(mapping(data.get("message")), words(data.get("messageType")) or "unknown"),
        )
    )


_WRAPPERS: Final = ("ephemeralMessage", "viewOnceMessage", "viewOnceMessageV2", "documentWithCaptionMessage", "editedMessage")
_MEDIA: Final = {
    "imageMessage": "image",
    "videoMessage": "video",
    "audioMessage": "audio",
    "documentMessage": "document",
    "stickerMessage": "sticker",
}
_MEDIA_FIELDS: Final = ("mimetype", "fileName", "fileLength", "seconds", "ptt")


def _payload(content: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The message in our words, from the first part that is known."""
    for wrapper in _WRAPPERS:
        inner = mapping(mapping(content.get(wrapper)).get("message"))
        if inner:
            content = inner
    if isinstance(content.get("conversation"), str):
        return {"kind": "text", "text": content["conversation"]}
    extended = mapping(content.get("extendedTextMessage"))
    if extended:
        reply = words(mapping(extended.get("contextInfo")).get("stanzaId"))
        return {"kind": "text", "text": words(extended.get("text")), "reply_to": reply}
    buttons = mapping(content.get("buttonsResponseMessage"))
    if buttons:
        title = words(buttons.get("selectedDisplayText"))
        return {"kind": "button_reply", "text": title, "button_id": words(buttons.get("selectedButtonId"))}
    template = mapping(content.get("templateButtonReplyMessage"))
    if template:
        title = words(template.get("selectedDisplayText"))
        return {"kind": "button_reply", "text": title, "button_id": words(template.get("selectedId"))}
    listed = mapping(content.get("listResponseMessage"))
    if listed:
        chosen = words(mapping(listed.get("singleSelectReply")).get("selectedRowId"))
        return {"kind": "list_reply", "text": words(listed.get("title")), "button_id": chosen}
    for name, medium in _MEDIA.items():
        part = mapping(content.get(name))
        if part:
            media = {k: part[k] for k in _MEDIA_FIELDS if isinstance(part.get(k), str | int | bool)}
            return {"kind": medium, "text": words(part.get("caption")), "media": media}
    reaction = mapping(content.get("reactionMessage"))
    if reaction:
        return {"kind": "reaction", "emoji": words(reaction.get("text")), "reply_to": words(mapping(reaction.get("key")).get("id"))}
    return {"kind": kind}


def _status(parsed: Parsed, data: Any, tenant_id: str, received_at: datetime) -> None:
    part = mapping(data)
    message_id, status = words(part.get("keyId")), words(part.get("status"))
    if message_id is None or status is None:
        if objects(part.get("pollUpdates")):
            parsed.ignored.append("poll")
            return
        parsed.items.append(unusable("unknown_shape", data, channel=CHANNEL, tenant_id=tenant_id))
        return
    if part.get("fromMe") is False:
        parsed.ignored.append("not_ours")  # how far a message of the family came
        return
    parsed.deliveries.append(
        DeliveryUpdate(
            tenant_id=tenant_id,
            channel=CHANNEL,
            provider_message_id=message_id[:200],
            status=_STATUS.get(status, status.lower())[:20],
            at=received_at,
        )
    )
