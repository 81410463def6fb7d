"""Measures the clocks of sources while items are accepted, and writes what it found twice a minute.

What was measured is in memory only: a node that dies loses measurements, no item. A window in which nothing was quick goes on
until it has enough items to say something, an hour at most: a quiet clinic sends a few a minute.
"""

import asyncio
from datetime import datetime

import structlog

from app.clock import Clock
from app.domain.clock_skew import PATIENCE, Lags, SkewState, first, skew_s
from app.domain.envelopes import Command, Malformed, Message
from app.store.clocks import record
from app.store.database import Database

log = structlog.get_logger("engine.skew")

EVERY_S = 30.0
ORCHESTRATOR = "orchestrator"


class SkewWatch:
    """Collects lags by clinic and source; the loop writes and judges them."""

    name = "skew"

    def __init__(self, database: Database, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock = database, clock
        self._windows: dict[tuple[str, str], Lags] = {}
        self._slow: dict[tuple[str, str], tuple[datetime, Lags]] = {}
        """Since when a source had nothing but slow items, too few to judge."""

    def note(self, item: Command | Message | Malformed, received_at: datetime) -> None:
        """One accepted item; items without a time say nothing."""
        if isinstance(item, Malformed) or item.occurred_at is None:
            return
        lag_s = (received_at - item.occurred_at).total_seconds()
        key = (item.tenant_id, item.channel if isinstance(item, Message) else ORCHESTRATOR)
        window = self._windows.get(key)
        self._windows[key] = window.add(lag_s) if window is not None else first(lag_s)

    async def tick(self) -> float:
        """Write what was measured since the last time."""
        windows, self._windows = self._windows, {}
        for (tenant_id, source), measured in windows.items():
            now, key, lags = self._clock.now(), (tenant_id, source), measured
            since, earlier = self._slow.pop(key, (now, None))
            if earlier is not None and now - since < PATIENCE:
                lags = earlier.join(measured)
            else:
                since = now
            state, undecided = await self._database.write(record, tenant_id, source, lags, now)
            if undecided:
                self._slow[key] = (since, lags)
            if state is not SkewState.FINE:
                log.warning(
                    "clock_skew",
                    flow_id="F-01",
                    tenant_id=tenant_id,
                    channel=source,
                    status=state,
                    skew_s=round(skew_s(lags), 3),
                    samples=lags.samples,
                )
        return EVERY_S / self._clock.scale
