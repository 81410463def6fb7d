"""WhatsApp Cloud API, outgoing: text within 24 h of the recipient's last message, an approved template outside.

Source: Meta's Cloud API reference, messages endpoint and error codes.
"""

from typing import Any, Final

import httpx

from app.channels.addresses import AllowList
from app.channels.http import Answer, Limits, call, checked_call, judge, text_at
from app.channels.outbound import OutboundMessage, Outcome, SendResult, refused
from app.channels.reach import endpoint

CLOUD_API: Final = "https://graph.facebook.com/v23.0"
OUTSIDE_WINDOW: Final = 131047
"""More than 24 h since the recipient last wrote: only an approved template may be sent."""
INTERACTIVE_MAX: Final = 1024
"""Characters that the body of a message with buttons may have."""
_BUSY: Final = frozenset({4, 80007, 130429, 131048, 131056, 131016, 131000, 131057, 133016, 1, 2})
"""Rate limits and outages: not sent, may be tried again."""
_LOCKED_OUT: Final = frozenset({0, 3, 10, 190, *range(200, 300), 368, 131031, 131042})
"""Credentials, permissions, payment: a person can repair it while the message waits."""


class WhatsAppCloudChannel:
    """Messages from one clinic's number."""

    addressable = True

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        phone_number_id: str,
        access_token: str,
        base_url: str = CLOUD_API,
        target: str | None = None,
        allowed: AllowList | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.key = f"whatsapp:{phone_number_id}"
        self._client = client
        self._url = f"{base_url.rstrip('/')}/{phone_number_id}/messages"
        self._headers = {"authorization": f"Bearer {access_token}"}
        self._target = target
        self._own = base_url != CLOUD_API
        """Somebody chose the address; Meta's own is called by its name."""
        self.endpoint = endpoint(base_url, guarded=self._own)
        self._allowed = allowed or AllowList()
        self._limits = limits or Limits()

    async def send(self, message: OutboundMessage) -> SendResult:
        """Text, or the template where only that is allowed; refused as `template_required` when there is none."""
        to = message.to or self._target
        if not to:
            return refused("no_recipient")
        if message.window_open is False:
            return await self._template(message, to)
        result = await self._post(to, message.key, _free_text(message))
        if result.detail == "template_required" and message.template is not None:
            return await self._template(message, to)
        return result

    async def _template(self, message: OutboundMessage, to: str) -> SendResult:
        if message.template is None:
            return refused("template_required")
        return await self._post(to, message.key, {"type": "template", "template": _template(message)})

    async def _post(self, to: str, key: str, content: dict[str, Any]) -> SendResult:
        body = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": to.removeprefix("+"),
            "biz_opaque_callback_data": key,  # comes back with each status: it settles an unknown outcome
            **content,
        }
        limits, headers = self._limits, self._headers
        if self._own:
            answer = await checked_call(self._client, self._url, allowed=self._allowed, json=body, headers=headers, limits=limits)
        else:
            answer = await call(self._client, self._url, json=body, headers=headers, limits=limits)
        return answer if isinstance(answer, SendResult) else _judge(answer)


def _free_text(message: OutboundMessage) -> dict[str, Any]:
    """Plain text, or the interactive form when there are buttons and the text fits into it."""
    if not message.buttons or len(message.text) > INTERACTIVE_MAX:
        return {"type": "text", "text": {"body": message.text, "preview_url": False}}
    buttons = [{"type": "reply", "reply": {"id": b.id, "title": b.title[:20]}} for b in message.buttons[:3]]
    return {
        "type": "interactive",
        "interactive": {"type": "button", "body": {"text": message.text}, "action": {"buttons": buttons}},
    }


def _template(message: OutboundMessage) -> dict[str, Any]:
    template = message.template
    assert template is not None
    document: dict[str, Any] = {"name": template.name, "language": {"code": template.language}}
    if template.parameters:
        parameters = [{"type": "text", "text": p} for p in template.parameters]
        document["components"] = [{"type": "body", "parameters": parameters}]
    if template.buttons:
        document.setdefault("components", []).extend(
            {"type": "button", "sub_type": "quick_reply", "index": str(i), "parameters": [{"type": "payload", "payload": b.id}]}
            for i, b in enumerate(message.buttons)
        )
    return document


def _judge(answer: Answer) -> SendResult:
    error = (answer.document or {}).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if answer.status < 400 or not isinstance(code, int):
        return judge(answer, lambda document: text_at(document, "messages", 0, "id"))
    if code == OUTSIDE_WINDOW:
        return refused("template_required")
    detail = f"whatsapp_{code}"
    if code in _BUSY or code in _LOCKED_OUT or answer.status in (429, 503):
        return SendResult(outcome=Outcome.FAILED, detail=detail, retry_after_s=answer.retry_after_s)
    return refused(detail)
