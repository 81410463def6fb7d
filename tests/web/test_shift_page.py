"""Shift handover: what happened since the person left and what is open, of their clinics alone."""

import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from litestar import Litestar

from app.bootstrap import Services
from app.clock import ManualClock
from app.store import accounts
from app.store.bulk import insert_rows
from app.store.tables import ManualTask, ReplayBatch, SafeCause, SafeEpisode, Ticket, table
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in

PAGE = {"accept": "text/html"}
HOUR = timedelta(hours=1)


def plain(answered: httpx.Response) -> str:
    assert answered.status_code == 200, answered.text[:500]
    inside = answered.text.split('id="shift_report"', 1)[1]
    return " ".join(re.sub(r"<[^>]+>", " ", inside).split())


async def happened(services: Services, tenant_id: str, name: str) -> None:
    """An episode, a critical ticket, a takeover, tasks and a replay two hours ago, and older ones that are over."""
    now = services.clock.now() - 2 * HOUR

    def work(conn: Any) -> None:
        for label, at, end in ((name, now, None), (f"{name}-antigo", now - 30 * HOUR, now - 29 * HOUR)):
            episode = {"episode_id": f"e-{label}", "scope": tenant_id, "entered_at": at, "written_at": at, "entered_by": "system:x"}
            insert_rows(conn, table(SafeEpisode), [episode | {"correlation_id": "c", "ended_at": end}])
            cause = {
                "episode_id": f"e-{label}",
                "cause_id": "1",
                "kind": "manual",
                "summary": f"motivo {label}",
                "at": at,
                "by": "x",
            }
            insert_rows(conn, table(SafeCause), [cause])
            for kind in ("critical", "takeover"):
                ticket = {"ticket_id": f"{kind}-{label}", "tenant_id": tenant_id, "kind": kind, "reason": f"{kind} {label}"}
                state = {"state": "resolved" if end else "open", "opened_at": at, "closed_at": end, "correlation_id": "c"}
                insert_rows(conn, table(Ticket), [ticket | state | {"contact_id": f"{kind}-{label}"}])
            task = {"task_id": f"t-{label}", "tenant_id": tenant_id, "dedup_key": label, "cause": "expired_manual", "reason": "x"}
            status = {"status": "resolved" if end else "open", "resolved_at": end, "created_at": at, "due_at": at}
            insert_rows(conn, table(ManualTask), [task | status | {"priority": 1, "correlation_id": "c"}])
            batch = {"replay_id": f"r-{label}", "tenant_id": tenant_id, "status": "finished", "filter_json": "{}", "rate_per_s": 1}
            times = {"filled_at": at, "planned_at": at, "planned_by": f"system:{label}", "started_at": at, "ended_at": end or at}
            counts = {"tokens": 0, "total": 7, "done": 7, "correlation_id": "c", "started_by": f"key:{label}"}
            insert_rows(conn, table(ReplayBatch), [batch | times | counts])

    await services.db.write(work)


@pytest.mark.parametrize("role", ["secretary", "manager", "superadmin"])
async def test_everybody_reads_what_happened_at_their_clinics_and_nothing_of_others(
    app: Litestar, services: Services, tenant: Clinic, other_tenant: Clinic, role: str
) -> None:
    await happened(services, tenant.tenant_id, "nosso")
    await happened(services, other_tenant.tenant_id, "deles")
    person = await add_person(services, role, [tenant.tenant_id])
    async with browser_client(app) as client:
        browser = await sign_in(services, client, person)
        shown = plain(await browser.client.get("/shift", headers=PAGE))
        for part in ("motivo nosso", "critical nosso", "takeover-nosso", "key:nosso", "7 de 7 pedidos", "Vencido 1 0 1"):
            assert (part.replace(" 1 0 1", " 2 0 2") if role == "superadmin" else part) in shown, part
        assert ("deles" in shown) == (role == "superadmin")
        assert "antigo" not in shown, "over before the span"
        longer = plain(await browser.client.get("/shift?since=2020-01-01T00:00", headers=PAGE))
        assert "motivo nosso-antigo" in longer


async def test_the_span_begins_where_the_last_session_ended(
    services: Services, secretary_session: Browser, manual_clock: ManualClock
) -> None:
    user_id = secretary_session.person.user_id
    first = plain(await secretary_session.client.get("/shift", headers=PAGE))
    assert "desde que você saiu às" not in first, "she has never left"
    start = services.clock.now()
    await services.db.write(lambda conn: accounts.create_session(conn, key_hash="h", user_id=user_id, now=start))
    await services.db.write(accounts.end_session, "h")
    manual_clock.advance(minutes=20)
    shown = plain(await secretary_session.client.get("/shift", headers=PAGE))
    local = start - 3 * HOUR
    assert f"desde que você saiu às {local:%H:%M}" in shown
    chosen = plain(await secretary_session.client.get(f"/shift?since={local - HOUR:%Y-%m-%dT%H:%M}", headers=PAGE))
    assert f"Passagem de turno: desde {local - HOUR:%H:%M}" in chosen


async def test_a_session_that_ran_out_leaves_its_moment(services: Services, tenant: Clinic) -> None:
    person = await add_person(services, "secretary", [tenant.tenant_id])
    start = services.clock.now()

    def work(conn: Any) -> None:
        accounts.create_session(conn, key_hash="old", user_id=person.user_id, now=start - 9 * HOUR)
        accounts.create_session(conn, key_hash="new", user_id=person.user_id, now=start)

    await services.db.write(work)
    row = await services.db.read(accounts.find_user, person.user_id)
    assert row is not None
    assert row.left_at == start - 9 * HOUR
