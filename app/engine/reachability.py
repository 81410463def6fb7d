"""Channel reachability for the exit of safe mode: the real servers behind a scope's channels are connected to, nothing is sent.

A scope's targets are what carries messages to its families and every target of its route for critical alerts. Each server
is looked at on its own (`reach_every`, sooner while it is red), whoever shares it, and a scope is red by its own targets
only. The circuits of deliveries count too: a server that takes connections and refuses the work is no channel.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.channels.factory import default_spec
from app.channels.outbound import Channel
from app.channels.reach import Endpoint, reach
from app.channels.targets import kind_of
from app.engine.alerts import channel_of
from app.engine.channel_book import ChannelBook, NoChannel
from app.engine.circuits import Circuits
from app.store.alert_ladder import CRITICAL, recipients_of, route_of
from app.store.alert_voices import spec_of
from app.store.database import Database
from app.store.lanes import GLOBAL_SCOPE
from app.store.settings import Clinics, clinics_with_settings

LOOKED_AT_MAX: Final = 64
"""Servers in one look; with more of them those that were seen longest ago come first."""
AT_ONCE: Final = 32
CLINICS_MAX: Final = 200
"""Clinics whose own channels a look for the whole installation takes into account."""


NOBODY: Final = Clinics(ids=(), own=0, all=0)


@dataclass(frozen=True, slots=True)
class _Target:
    """A channel as a scope uses it; `code` says why it cannot be used at all."""

    kind: str
    key: str = ""
    endpoint: Endpoint | None = None
    code: str = ""


@dataclass(frozen=True, slots=True)
class _Seen:
    at: datetime
    code: str
    """What was in the way; '' = reached."""


class Reachability:
    """What each scope cannot reach. `every` is the clock's, `timeout_s` real."""

    def __init__(
        self, database: Database, channels: ChannelBook, circuits: Circuits, *, every: timedelta, timeout_s: float
    ) -> None:
        self._database, self._channels, self._circuits = database, channels, circuits
        self._every, self._timeout_s = every, timeout_s
        self._seen: dict[Endpoint, _Seen] = {}
        self.dead_clinics: frozenset[str] = frozenset()
        """Clinics whose own channel a look for the whole installation did not reach."""

    async def look(self, scopes: Sequence[str], now: datetime) -> dict[str, str]:
        """For each scope what it cannot reach, in words without secrets; '' = every target is there."""
        own = {scope: await self._targets(scope) for scope in scopes}
        installation = await self._database.read(clinics_with_settings, CLINICS_MAX) if GLOBAL_SCOPE in own else NOBODY
        clinics = {tenant_id: await self._families(tenant_id) for tenant_id in installation.ids}
        await self._look_at([*(t for targets in own.values() for t in targets), *clinics.values()], now)
        open_circuits = set(self._circuits.open_targets())
        self.dead_clinics = frozenset(t for t, target in clinics.items() if self._lost(target, open_circuits))
        found = {}
        for scope, targets in own.items():
            lost = [f"{t.kind}: {why}" for t in targets if (why := self._lost(t, open_circuits))]
            if scope == GLOBAL_SCOPE and not lost and self._most(installation):
                # one clinic's own channel is that clinic's contingency; most of them are an outage
                lost = [f"{len(self.dead_clinics)} of {len(clinics)} clinics"]
            found[scope] = ", ".join(dict.fromkeys(lost))[:200]
        return found

    def _most(self, installation: Clinics) -> bool:
        """Whether most clinics are without their channel, those that inherit one included."""
        examined = len(installation.ids)
        return len(self.dead_clinics) * installation.own * 2 > installation.all * examined > 0

    async def _targets(self, scope: str) -> list[_Target]:
        """What carries messages to a scope's families, and every target of its route for critical alerts."""
        settings = await self._channels.settings(scope)
        route = route_of(settings, "", CRITICAL)
        specs = [
            spec_of(settings["channels"], channel, recipient)
            for channel in dict.fromkeys(route.channels)
            for recipient in recipients_of(settings, channel)
        ]
        return [await self._families(scope), *[await self._target(scope, spec) for spec in specs]]

    async def _families(self, scope: str) -> _Target:
        return await self._target(scope, default_spec(await self._channels.settings(scope)))

    async def _target(self, scope: str, spec: str) -> _Target:
        channel: Channel | NoChannel = await channel_of(self._channels, scope, spec)
        if isinstance(channel, NoChannel):
            return _Target(kind_of(spec), code=channel.reason)
        return _Target(kind_of(spec), channel.key, channel.endpoint)

    async def _look_at(self, targets: Iterable[_Target], now: datetime) -> None:
        """Connect to the servers that are due; each once, so many at a time."""
        needed = {t.endpoint for t in targets if t.endpoint is not None}
        self._seen = {e: seen for e, seen in self._seen.items() if e in needed}
        due = [e for e in needed if (seen := self._seen.get(e)) is None or seen.code or abs(now - seen.at) >= self._every]
        due.sort(key=lambda e: self._seen[e].at.timestamp() if e in self._seen else 0.0)
        allowed = await self._channels.allowed()
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(endpoint: Endpoint) -> str:
            async with turn:
                return await reach(endpoint, allowed, self._timeout_s)

        chosen = due[:LOOKED_AT_MAX]
        for endpoint, code in zip(chosen, await asyncio.gather(*map(one, chosen)), strict=True):
            self._seen[endpoint] = _Seen(now, code)

    def _lost(self, target: _Target, open_circuits: set[str]) -> str:
        """Why a target cannot be used; '' = it can."""
        if target.code:
            return target.code
        if target.key in open_circuits:
            return "deliveries fail"
        if target.endpoint is None:
            return ""
        seen = self._seen.get(target.endpoint)
        return "not looked at yet" if seen is None else seen.code
