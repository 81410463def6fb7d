"""Which channel a delivery leaves through: the tenant's settings, read at most once a second, and one channel per spec."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from app.channels.addresses import AllowList, checked_address
from app.channels.factory import ChannelUnavailable, World, channel_for, default_spec, is_apprise, results_channel, spec_fault
from app.channels.http import RESOLVE_S
from app.channels.outbound import Channel
from app.domain.envelopes import FieldError
from app.domain.provider_settings import MASK
from app.store.database import Database
from app.store.outbox import Due
from app.store.results import RESULTS
from app.store.settings import GLOBAL_SCOPE, load

FRESH_FOR_S: Final = 1.0
CHANNELS_MAX: Final = 1_000
"""Channels kept for their settings; webhooks name their own URLs, so there can be many."""


@dataclass(frozen=True, slots=True)
class NoChannel:
    """Why a delivery cannot leave; a short code."""

    reason: str


class ChannelBook:
    """Channels by tenant and spec.

    Private addresses that may be called (`outbound_allow`: hosts, addresses, networks) come from the global settings only,
    so that no tenant opens the installation's network to itself.
    """

    def __init__(self, database: Database, world: World) -> None:
        self._database, self._world = database, world
        self._settings: dict[str, tuple[float, dict[str, Any]]] = {}
        self._channels: dict[tuple[str, str], tuple[tuple[Mapping[str, Any], list[Any]], Channel]] = {}

    async def settings(self, tenant_id: str) -> dict[str, Any]:
        """The tenant's settings document, at most a second old."""
        known = self._settings.get(tenant_id)
        now = time.monotonic()
        if known is None or known[0] < now:
            known = self._settings[tenant_id] = (now + FRESH_FOR_S, await self._database.read(load, tenant_id))
        return known[1]

    def forget(self) -> None:
        """Drop everything, after a settings change in this process."""
        self._settings.clear()
        self._channels.clear()

    async def faults(self, patch: Mapping[str, Any]) -> list[FieldError]:
        """What is wrong with the channels that a patch of settings names, found by building each; shapes are checked elsewhere."""
        found = []
        for pointer, spec, to_families in _specs(patch):
            # apprise loads its services once, which takes half a second
            run = asyncio.to_thread(spec_fault, spec, self._world, to_families=to_families) if is_apprise(spec) else None
            fault = await run if run is not None else spec_fault(spec, self._world, to_families=to_families)
            if fault is not None:
                found.append(FieldError(pointer, fault))
        url = patch.get("webhook_url")
        if isinstance(url, str) and url and await self._leads_inside(url):
            found.append(FieldError("/webhook_url", "leads to a private address that outbound_allow does not name"))
        return found

    async def _leads_inside(self, url: str) -> bool:
        """Whether an address is refused as it resolves now; one that does not resolve may do so later, and is asked again then."""
        try:
            parsed = httpx.URL(url)
            async with asyncio.timeout(RESOLVE_S):
                return bool(parsed.host) and await checked_address(parsed.host, parsed.port or 443, await self.allowed()) is None
        except (httpx.InvalidURL, OSError, UnicodeError, TimeoutError):
            return False

    async def channel(self, tenant_id: str, spec: str) -> Channel | NoChannel:
        """The channel of `spec` with the tenant's credentials."""
        return await self._channel(tenant_id, spec, await self.settings(tenant_id))

    async def allowed(self) -> AllowList:
        """Which private addresses may be called now."""
        return self._allowed((await self.settings(GLOBAL_SCOPE)).get("outbound_allow") or [])

    def _allowed(self, entries: list[Any]) -> AllowList:
        listed = AllowList.of([e for e in entries if isinstance(e, str)], anything=self._world.allowed.anything)
        world = self._world.allowed
        return AllowList(listed.hosts | world.hosts, listed.networks + world.networks, listed.anything)

    async def for_delivery(self, delivery: Due) -> Channel | NoChannel:
        """The channel of one outbox row: its own `channel`, else the one that carries messages to families."""
        settings = await self.settings(delivery.tenant_id)
        spec = delivery.body.get("channel")
        if not isinstance(spec, str) or not spec:
            spec = default_spec(settings)
        build = results_channel if spec == RESULTS and delivery.kind == "webhook" else channel_for
        channel = await self._channel(delivery.tenant_id, spec, settings, build)
        if isinstance(channel, NoChannel):
            return channel
        if delivery.contact_id is not None and not channel.addressable:
            return NoChannel("channel_cannot_reach_contacts")
        return channel

    async def _channel(
        self,
        tenant_id: str,
        spec: str,
        settings: Mapping[str, Any],
        build: Callable[[str, Mapping[str, Any], World], Channel] = channel_for,
    ) -> Channel | NoChannel:
        entries = (await self.settings(GLOBAL_SCOPE)).get("outbound_allow") or []
        known = self._channels.get((tenant_id, spec))
        if known is not None and known[0] == (settings, entries):
            return known[1]
        try:
            channel = build(spec, settings, replace(self._world, allowed=self._allowed(entries)))
        except ChannelUnavailable as error:
            return NoChannel(str(error))
        if len(self._channels) >= CHANNELS_MAX:
            self._channels.clear()
        self._channels[(tenant_id, spec)] = ((settings, entries), channel)
        return channel


def _specs(patch: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(pointer, words, whether it is for families) of every channel in a patch; what is masked stays as it is stored."""
    channels = patch.get("channels")
    for name, given in (channels if isinstance(channels, Mapping) else {}).items():
        several = isinstance(given, list)
        for index, spec in enumerate(given if several else [given]):
            if isinstance(spec, str) and spec and spec != MASK:
                yield f"/channels/{name[:40]}" + (f"/{index}" if several else ""), spec, False
    for name in ("contacts_channel", "contacts_fallback_channel"):
        spec = patch.get(name)
        if isinstance(spec, str) and spec and spec != MASK:
            yield f"/{name}", spec, True
