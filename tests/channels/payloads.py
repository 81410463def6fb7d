"""Bodies as the providers send them (shapes from their public documentation and captures; all people are made up)."""

import hashlib
import hmac
from typing import Any

PHONE_NUMBER_ID = "106540352242922"
WA_ID = "5511987654321"


def cloud_message(message_id: str = "wamid.A", text: str = "Quero remarcar", **over: Any) -> dict[str, Any]:
    return {"from": WA_ID, "id": message_id, "timestamp": "1795435200", "type": "text", "text": {"body": text}} | over


def cloud_status(message_id: str = "wamid.OUT", status: str = "delivered", **over: Any) -> dict[str, Any]:
    return {"id": message_id, "status": status, "timestamp": "1795435260", "recipient_id": WA_ID} | over


def cloud_change(
    messages: list[Any] | None = None, statuses: list[Any] | None = None, phone_number_id: str = PHONE_NUMBER_ID, **over: Any
) -> dict[str, Any]:
    value: dict[str, Any] = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "15550783881", "phone_number_id": phone_number_id},
        "contacts": [{"profile": {"name": "Maria"}, "wa_id": WA_ID}],
    }
    if messages is not None:
        value["messages"] = messages
    if statuses is not None:
        value["statuses"] = statuses
    return {"field": "messages", "value": value | over}


def cloud(*changes: dict[str, Any]) -> dict[str, Any]:
    return {"object": "whatsapp_business_account", "entry": [{"id": "102290129340398", "changes": list(changes)}]}


def sign(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def evolution(data: Any, event: str = "messages.upsert") -> dict[str, Any]:
    return {
        "event": event,
        "instance": "clinica",
        "data": data,
        "destination": "https://example.org/hook",
        "date_time": "2026-11-23T09:00:00.000Z",
        "sender": f"{WA_ID}@s.whatsapp.net",
        "server_url": "https://evo.example.org",
        "apikey": "EVOLUTION-SECRET",
    }


def evolution_message(message: Any = None, **key: Any) -> dict[str, Any]:
    return {
        "key": {"remoteJid": "551187654321@s.whatsapp.net", "fromMe": False, "id": "3EB0A1"} | key,
        "pushName": "Maria",
        "message": message or {"conversation": "Bom dia"},
        "messageType": "conversation",
        "messageTimestamp": 1795435200,
        "instanceId": "x",
        "source": "android",
    }


def uazapi(message: Any = None, **over: Any) -> dict[str, Any]:
    body = {
        "BaseUrl": "https://free.uazapi.com",
        "EventType": "messages",
        "token": "UAZAPI-SECRET",
        "owner": "5511999990000",
        "instanceName": "clinica",
        "chat": {"phone": "+55 11 98765-4321"},
        "message": {
            "id": "5511999990000:3A55",
            "messageid": "3A55",
            "chatid": f"{WA_ID}@s.whatsapp.net",
            "sender": "123456789@lid",
            "sender_pn": f"{WA_ID}@s.whatsapp.net",
            "sender_lid": "123456789@lid",
            "senderName": "Maria",
            "fromMe": False,
            "isGroup": False,
            "wasSentByApi": False,
            "messageType": "Conversation",
            "text": "Bom dia",
            "content": "Bom dia",
            "buttonOrListid": "",
            "quoted": "",
            "messageTimestamp": 1795435200000,
        },
    }
    return body | {"message": body["message"] | (message or {})} | over  # type: ignore[operator]


ALERTMANAGER = {
    "version": "4",
    "groupKey": "{}:{alertname='RedisDown'}",
    "status": "firing",
    "receiver": "kora",
    "groupLabels": {"alertname": "RedisDown"},
    "commonLabels": {"alertname": "RedisDown", "severity": "critical"},
    "commonAnnotations": {"summary": "Redis parou de responder"},
    "externalURL": "http://alertmanager:9093",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "RedisDown", "severity": "critical", "tenant": "aurora"},
            "annotations": {"summary": "Redis parou de responder"},
            "startsAt": "2026-11-23T12:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus:9090",
            "fingerprint": "a1b2c3",
        },
        {"status": "resolved", "labels": {"alertname": "DiskFull", "severity": "page"}, "annotations": {}, "fingerprint": "d4"},
    ],
}
