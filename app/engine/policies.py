"""Tenant policies for the hot path: read from settings, cached for a second, reloaded after a change elsewhere."""

import time
from collections.abc import Iterable

from sqlalchemy import Connection, select

from app.domain.queue_alarm import QueueLimits
from app.engine.planning import TenantPolicy
from app.store.database import Database
from app.store.results import wants_results
from app.store.settings import gate_policy, load
from app.store.tables import Tenant, table

_TENANT = table(Tenant)
FRESH_FOR_S = 1.0


class PolicyCache:
    """Policies by tenant id; an unknown tenant gets the defaults."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, TenantPolicy, QueueLimits]] = {}

    async def get(self, tenant_ids: Iterable[str]) -> dict[str, TenantPolicy]:
        """Policies of the given tenants."""
        return {t: entry[1] for t, entry in (await self._entries(tenant_ids)).items()}

    async def queue_limits(self, tenant_ids: Iterable[str]) -> dict[str, QueueLimits]:
        """How long the queues of the given tenants may be, and from where they alarm."""
        return {t: entry[2] for t, entry in (await self._entries(tenant_ids)).items()}

    def forget(self) -> None:
        """Drop everything, after a settings change in this process."""
        self._known.clear()

    async def _entries(self, tenant_ids: Iterable[str]) -> dict[str, tuple[float, TenantPolicy, QueueLimits]]:
        wanted = set(tenant_ids)
        now = time.monotonic()
        stale = [t for t in wanted if t not in self._known or self._known[t][0] < now]
        if stale:
            for tenant_id, policy, limits in await self._database.read(_load, stale):
                self._known[tenant_id] = (now + FRESH_FOR_S, policy, limits)
        return {t: self._known[t] for t in wanted}


def _load(conn: Connection, tenant_ids: list[str]) -> list[tuple[str, TenantPolicy, QueueLimits]]:
    zones = {r.tenant_id: r.timezone for r in conn.execute(select(_TENANT).where(_TENANT.c.tenant_id.in_(tenant_ids)))}
    found = []
    for tenant_id in tenant_ids:
        document = load(conn, tenant_id)
        zone = document.get("timezone") or zones.get(tenant_id, "America/Sao_Paulo")
        limits = QueueLimits(size=int(document["max_queue_size"]), alert_share=float(document["queue_alert_share"]))
        policy = TenantPolicy(gate=gate_policy(document), timezone=zone, tell_results=wants_results(document))
        found.append((tenant_id, policy, limits))
    return found
