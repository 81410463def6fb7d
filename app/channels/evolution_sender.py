"""Evolution API 2.x, outgoing: `POST {base}/message/sendText/{instance}` with the instance's key."""

from urllib.parse import quote

import httpx

from app.channels.addresses import AllowList
from app.channels.http import Limits, checked_call, judge, text_at
from app.channels.outbound import OutboundMessage, SendResult, refused
from app.channels.reach import endpoint


class EvolutionChannel:
    """Messages from one Evolution instance."""

    addressable = True

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        instance: str,
        api_key: str,
        target: str | None = None,
        allowed: AllowList | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.key = f"evolution:{instance}"
        self.endpoint = endpoint(base_url, guarded=True)
        self._client = client
        self._url = f"{base_url.rstrip('/')}/message/sendText/{quote(instance, safe='')}"
        self._headers = {"apikey": api_key}
        self._target = target
        self._allowed = allowed or AllowList()
        self._limits = limits or Limits()

    async def send(self, message: OutboundMessage) -> SendResult:
        """One text."""
        to = message.to or self._target
        if not to:
            return refused("no_recipient")
        body = {"number": to.removeprefix("+"), "text": message.text}
        answer = await checked_call(
            self._client, self._url, allowed=self._allowed, json=body, headers=self._headers, limits=self._limits
        )
        if isinstance(answer, SendResult):
            return answer
        return judge(answer, lambda document: text_at(document, "key", "id"))
