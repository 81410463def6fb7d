"""A storm: 500 alerts of 3 kinds in a minute, raised through the API at the same time, are few messages and hide nothing."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.store.tables import Alert, AlertStep, PhoneMessage, table
from app.store.verify import verify
from tests.web.conftest import Browser, Clinic, add_key, add_tenant

ALERT, STEP, PHONE = table(Alert), table(AlertStep), table(PhoneMessage)
TOTAL, WAVES = 500, 10
CLINICS = 8


@asynccontextmanager
async def sending(services: Services) -> AsyncIterator[None]:
    """The alert loop at work beside the requests."""

    async def run() -> None:
        while True:
            services.alerts.wake.clear()
            delay_s = await services.alerts.tick()
            if delay_s > 0:
                await asyncio.wait([asyncio.ensure_future(services.alerts.wake.wait())], timeout=min(delay_s, 0.05))

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        await services.alerts.close()


async def quiet(services: Services) -> None:
    """Until nothing is due and nothing is on its way."""
    query = select(STEP.c.step_id).where(STEP.c.action == "send", STEP.c.done_at.is_(None), STEP.c.due_at <= services.clock.now())

    def busy(conn: Connection) -> bool:
        return conn.execute(query.limit(1)).first() is not None

    async with asyncio.timeout(30):
        while services.alerts.in_flight or await services.db.read(busy):
            await asyncio.sleep(0.01)


async def messages(services: Services) -> Counter[str]:
    """How many each phone got."""
    return Counter(await services.db.read(lambda conn: conn.execute(select(PHONE.c.target)).scalars().all()))


@pytest.mark.story("S-PC-03-001")
async def test_500_alerts_of_3_kinds_in_a_minute_over_clinics_that_share_a_phone(
    services: Services, client: httpx.AsyncClient, tenant: Clinic, manual_clock: ManualClock, admin_session: Browser
) -> None:
    clinics = [tenant, *[await add_tenant(services, f"clinica-{i}") for i in range(1, CLINICS)]]
    key = await add_key(services, None)

    async def post(number: int) -> None:
        # the first kind is one clinic's, the others are everybody's
        clinic = tenant if number % 3 == 0 else clinics[number // 3 % CLINICS]
        body: dict[str, Any] = {
            "trigger": f"kind-{number % 3}",
            "severity": "critical",
            "summary": f"Aviso {number}",
            "dedup_key": f"k-{number}",
            "tenant_id": clinic.slug,
        }
        answer = await client.post("/api/v1/alerts", json=body, headers=key)
        assert answer.status_code == 201, answer.text

    async with sending(services):
        for wave in range(WAVES):
            manual_clock.advance(seconds=0 if wave == 0 else 6)
            await asyncio.gather(*(post(n) for n in range(wave, TOTAL, WAVES)))
        await quiet(services)
        assert await messages(services) == {"ops": 3, "superadmin_whatsapp": 3}
        manual_clock.advance(minutes=5)  # the resends of the whole storm are due
        await quiet(services)
        assert await messages(services) == {"ops": 3, "superadmin_whatsapp": 6}
    rows = await services.db.read(lambda conn: conn.execute(select(ALERT)).all())
    assert len(rows) == TOTAL
    assert {(r.status, r.safe_mode_at - r.raised_at) for r in rows} == {("open", timedelta(minutes=15))}
    bodies = await services.db.read(
        lambda conn: (
            conn.execute(select(PHONE.c.body).where(PHONE.c.target == "superadmin_whatsapp").order_by(PHONE.c.position))
            .scalars()
            .all()
        )
    )
    resent = bodies[3:]
    assert sorted(int(b.split("Mais ")[1].split()[0]) + 1 for b in resent) == [166, 167, 167]
    assert sum(f"em {CLINICS} clínicas" in b for b in resent) == 2
    page = await admin_session.client.get("/alerts?clinic=all", headers={"accept": "text/html"})
    assert f"{TOTAL} avisos abertos" in " ".join(re.sub(r"<[^>]+>", " ", page.text).split())
    assert await services.db.read(verify) == []
