"""The loop that measures all signals every 15 s, on one node at a time, and fires what rose (S-PC-04-002).

Every node shows the newest look on its /metrics, whoever measured it. A node that dies in its round costs one round.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog

from app.clock import Clock
from app.domain.signals import clean_limits
from app.ids import new_id
from app.metrics import Metrics
from app.store import signals
from app.store.database import Database
from app.store.lanes import GLOBAL_SCOPE

log = structlog.get_logger("engine.signals")

EVERY: Final = timedelta(seconds=15)
"""Of the product's time."""


class SignalWatch:
    """Measures, fires, and shows."""

    name = "signals"

    def __init__(self, database: Database, clock: Clock, metrics: Metrics) -> None:
        self.wake = asyncio.Event()
        self.on_fired: list[Callable[[], None]] = []
        self._database, self._clock, self._metrics = database, clock, metrics
        self._versions: dict[str, int] = {}
        self._own: dict[str, Any] = {}
        self._limits: dict[str, signals.Limits] = {}

    async def tick(self) -> float:
        """One look, if it is due and no other node has it."""
        token = new_id()
        folded = await self._database.write(signals.claim, token, self._clock.now(), EVERY)
        if folded is not None:
            await self._look(token, folded)
        await self._show()
        return max(0.5, EVERY.total_seconds() / self._clock.scale)

    async def _look(self, token: str, folded_minute: int) -> None:
        begun, now = time.perf_counter(), self._clock.now()
        limits = await self._current_limits()
        found = await self._database.read(signals.look, now, folded_minute, limits)
        took_ms = (time.perf_counter() - begun) * 1000
        self._metrics.signal_look_seconds.observe(took_ms / 1000)
        fired = await self._database.write(signals.record, token, found, took_ms)
        for one in fired or ():
            log.warning(
                "signal_fired",
                flow_id="F-06",
                correlation_id=one.correlation_id,
                tenant_id=None if one.scope == GLOBAL_SCOPE else one.scope,
                status=str(one.level),
                trigger_id=one.signal,
                alert_id=one.alert_id,
                owner=one.owner,
            )
        if fired:
            for call in self.on_fired:
                call()

    async def _current_limits(self) -> dict[str, signals.Limits]:
        """Limits of every scope that sets some, over the installation's; documents are read again only when they changed."""
        versions = await self._database.read(signals.limit_versions)
        stale = sorted(scope for scope, version in versions.items() if self._versions.get(scope) != version)
        if stale:
            self._own |= await self._database.read(signals.limits_in, stale)
            self._versions = versions
            base = self._own.get(GLOBAL_SCOPE)
            self._limits = {scope: clean_limits(base, own) for scope, own in self._own.items() if own}
        return self._limits

    async def _show(self) -> None:
        row = await self._database.read(signals.latest)
        if row is not None:
            self._metrics.show_signals(msgspec.json.decode(row.summary_json))
