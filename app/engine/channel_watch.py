"""The loop that looks at the health of the channels to families, and lets it switch contingency (F-05)."""

import asyncio
from collections.abc import Callable

import structlog

from app.channels.factory import default_spec
from app.clock import Clock
from app.store.channel_health import follow_health, suspects, try_again
from app.store.database import Database
from app.store.settings import load

log = structlog.get_logger("engine.channel_watch")

POLL_S = 10.0


class ChannelWatch:
    """Follows the outbox of every clinic whose messages fail."""

    name = "channel_watch"

    def __init__(self, database: Database, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        self._database, self._clock = database, clock

    async def tick(self) -> float:
        """Look once."""
        for tenant_id in await self._database.read(suspects, self._clock.now()):
            spec = default_spec(await self._database.read(load, tenant_id))
            channel = spec.partition(":")[0]
            changed = await self._database.write(follow_health, tenant_id, self._clock.now(), channel)
            if changed is None:
                await self._ask(tenant_id)
                continue
            log.warning(
                "contingency_by_health",
                flow_id="F-05",
                tenant_id=tenant_id,
                channel=channel,
                status="on" if changed else "off",
            )
            for wake in self.on_change:
                wake()
        return POLL_S / self._clock.scale

    async def _ask(self, tenant_id: str) -> None:
        """A clinic in contingency that has nothing to send sends one given-up message again."""
        outbox_id = await self._database.write(try_again, tenant_id, self._clock.now())
        if outbox_id is not None:
            log.info("given_up_message_tried_again", flow_id="F-05", tenant_id=tenant_id, outbox_id=outbox_id, status="pending")
