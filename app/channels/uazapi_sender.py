"""Uazapi (uazapiGO 2.x), outgoing: `POST {base}/send/text` with the instance's token."""

import httpx

from app.channels.addresses import AllowList
from app.channels.http import Limits, checked_call, judge, text_at
from app.channels.outbound import OutboundMessage, SendResult, refused
from app.channels.reach import endpoint


class UazapiChannel:
    """Messages from one Uazapi instance."""

    addressable = True

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        token: str,
        target: str | None = None,
        allowed: AllowList | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.key = f"uazapi:{httpx.URL(base_url).host}"
        self.endpoint = endpoint(base_url, guarded=True)
        self._client = client
        self._url = f"{base_url.rstrip('/')}/send/text"
        self._headers = {"token": token}
        self._target = target
        self._allowed = allowed or AllowList()
        self._limits = limits or Limits()

    async def send(self, message: OutboundMessage) -> SendResult:
        """One text; `track_id` comes back in the provider's own records."""
        to = message.to or self._target
        if not to:
            return refused("no_recipient")
        body = {"number": to.removeprefix("+"), "text": message.text, "track_id": message.key}
        answer = await checked_call(
            self._client, self._url, allowed=self._allowed, json=body, headers=self._headers, limits=self._limits
        )
        if isinstance(answer, SendResult):
            return answer
        return judge(answer, lambda document: text_at(document, "messageid") or text_at(document, "id"))
