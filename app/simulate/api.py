"""The public API as an orchestrator and a provider use it: measured, written down, and sent again when no answer came."""

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from app.simulate.lines import Lines
from app.simulate.report import Journal, Report

TIMEOUT_S: Final = 10.0
RETRY_MAX_S: Final = 2.0
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """Where and how to send part of the messages as signed Cloud API payloads."""

    tenant: str
    app_secret: str
    phone_number_id: str
    share: float = 0.5


class Api:
    """One key on one server. `stop` ends waiting for a server that went away."""

    def __init__(
        self,
        lines: Lines,
        url: str,
        key: str,
        report: Report,
        journal: Journal,
        *,
        stop: asyncio.Event,
        tenant: str | None = None,
    ) -> None:
        self.report = report
        self._lines, self._journal, self._stop, self._tenant = lines, journal, stop, tenant
        self._base = f"{url.rstrip('/')}/api/v1"
        self._headers = {"authorization": f"Bearer {key}"}

    # --- intake ---------------------------------------------------------------------------------------------------------

    async def events(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """POST one event, or several as a batch; receipts in order, none when no answer came before the end."""
        return await self._intake("events", "event", items)

    async def command(self, item: dict[str, Any], *, wait_s: int = 0) -> dict[str, Any] | None:
        """POST one command; with `wait_s` the answer carries its terminal result when there is one in time."""
        receipts = await self._intake("commands", "command", [item], wait_s=wait_s)
        if receipts and receipts[0].get("result"):
            self.report.results[str(receipts[0]["result"])] += 1
        return receipts[0] if receipts else None

    async def _intake(self, path: str, kind: str, items: list[dict[str, Any]], *, wait_s: int = 0) -> list[dict[str, Any]]:
        self.report.sent += len(items)
        marked = [({"tenant_id": self._tenant} if self._tenant else {}) | item for item in items]
        body = marked[0] if len(marked) == 1 else {path: marked}
        target = f"{self._base}/{path}" + (f"?wait={wait_s}" if wait_s else "")
        response = await self._persistently(
            lambda: self._lines.request("POST", target, json=body, headers=self._headers, timeout=TIMEOUT_S + wait_s),
            measured=wait_s == 0,
        )
        if response is None:
            self.report.abandoned += len(items)
            return []
        if not response.is_success:
            return []
        document = response.json()
        receipts: list[dict[str, Any]] = document.get("items", [document])
        self.report.accepted += len(receipts)
        for item, receipt in zip(items, receipts, strict=True):
            self.report.statuses[str(receipt["status"])] += 1
            self._journal.write(
                kind=kind,
                id=receipt.get(f"{kind}_id"),
                contact_id=item.get("contact_id"),
                external_id=item.get("external_id"),
                idempotency_key=item.get("idempotency_key"),
                status=receipt["status"],
                number=receipt.get("commit_order") or receipt.get("sequence"),
                correlation_id=receipt.get("correlation_id"),
            )
        return receipts

    async def webhook(self, hooks: Webhooks, messages: list[dict[str, Any]], statuses: list[dict[str, Any]]) -> bool:
        """POST a signed Cloud API payload; whether it was taken."""
        value = {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "551130000000", "phone_number_id": hooks.phone_number_id},
            "contacts": [{"profile": {"name": m.pop("_name", "Família")}, "wa_id": m["from"]} for m in messages],
            "messages": messages,
        } | ({"statuses": statuses} if statuses else {})
        document = {
            "object": "whatsapp_business_account",
            "entry": [{"id": "0", "changes": [{"field": "messages", "value": value}]}],
        }
        body = json.dumps(document, ensure_ascii=False).encode()
        signature = "sha256=" + hmac.new(hooks.app_secret.encode(), body, hashlib.sha256).hexdigest()
        self.report.sent += len(messages)
        headers = {"content-type": "application/json", "x-hub-signature-256": signature}
        target = f"{self._base}/webhooks/whatsapp/{hooks.tenant}"
        response = await self._persistently(
            lambda: self._lines.request("POST", target, content=body, headers=headers, timeout=TIMEOUT_S), measured=True
        )
        if response is None:
            self.report.abandoned += len(messages)
        if response is None or not response.is_success:
            return False
        self.report.accepted += len(messages)
        for message in messages:
            self.report.statuses["webhook_accepted"] += 1
            self._journal.write(kind="webhook", external_id=message["id"], contact_id=None, phone=message["from"])
        return True

    # --- state ----------------------------------------------------------------------------------------------------------

    async def get(self, path: str) -> dict[str, Any] | None:
        """GET a document; None for anything but 200."""
        response = await self._persistently(
            lambda: self._lines.request("GET", self._base + path, headers=self._headers, timeout=TIMEOUT_S)
        )
        if response is None or response.status_code != 200:
            return None
        document: dict[str, Any] = response.json()
        return document

    async def put(self, path: str, body: Mapping[str, Any]) -> bool:
        """PUT a document; whether it was taken."""
        response = await self._persistently(
            lambda: self._lines.request("PUT", self._base + path, json=body, headers=self._headers, timeout=TIMEOUT_S)
        )
        return response is not None and response.is_success

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """POST a document that is not part of the intake; None for anything but 2xx."""
        response = await self._persistently(
            lambda: self._lines.request("POST", self._base + path, json=body, headers=self._headers, timeout=TIMEOUT_S)
        )
        if response is None or not response.is_success:
            return None
        document: dict[str, Any] = response.json()
        return document

    async def _persistently(self, send: Callable[[], Any], *, measured: bool = False) -> httpx.Response | None:
        """Send until there is an answer that counts, as a provider does; None when the run ended first."""
        delay_s = 0.05
        while True:
            started = time.perf_counter()
            try:
                response: httpx.Response = await send()
            except (httpx.HTTPError, OSError) as error:
                self.report.errors[type(error).__name__] += 1
            else:
                self.report.http[response.status_code] += 1
                if response.status_code not in _AGAIN:
                    if measured and response.is_success:
                        self.report.ack_s.append(time.perf_counter() - started)
                    return response
            if await self._stopped_within(delay_s * (0.5 + random.random())):
                return None
            self.report.retried += 1
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True
