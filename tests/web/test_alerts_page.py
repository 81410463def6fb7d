"""The alerts page: open first, what will happen and when, and acts that only touch what was seen."""

import re
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.stream import Audience
from app.store import alerts
from app.store.tables import Alert, AuditEntry, table
from app.web.stream import renderer
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in

ALERT = table(Alert)
PAGE = {"accept": "text/html"}


async def raise_one(services: Services, tenant_id: str | None, number: int = 1, **fields: Any) -> str:
    now = services.clock.now()
    given: dict[str, Any] = {
        "trigger": "redis_down",
        "severity": "critical",
        "summary": f"Redis {number} <b>parou</b>",
        "dedup_key": f"redis-{number}",
        "correlation_id": None,
    }
    raised = await services.db.write(lambda conn: alerts.raise_alert(conn, tenant_id=tenant_id, now=now, **{**given, **fields}))
    return raised.alert_id


async def row(services: Services, alert_id: str) -> Any:
    query = select(ALERT).where(ALERT.c.alert_id == alert_id)
    return await services.db.read(lambda conn: conn.execute(query).one())


async def text(browser: Browser, path: str = "/alerts") -> str:
    answer = await browser.client.get(path, headers=PAGE)
    assert answer.status_code == 200
    return plain(answer)


def plain(answer: httpx.Response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())


async def act(browser: Browser, what: str, alert_id: str, **form: str) -> httpx.Response:
    data = {"_csrf": browser.csrf_token, **form}
    return await browser.client.post(f"/alerts/{what}", params={"alert": alert_id}, data=data, headers=PAGE)


@pytest.mark.story("S-PC-03-001")
async def test_the_page_shows_the_ladder_the_deadline_and_who_took_it_on(
    services: Services, tenant: Clinic, admin_session: Browser, manual_clock: ManualClock
) -> None:
    alert_id = await raise_one(services, tenant.tenant_id)
    shown = await text(admin_session)
    assert "1 aviso aberto" in shown
    assert "O modo seguro liga às 09:15: faltam 15 min" in shown
    assert "WhatsApp do superadmin, tentativa 7" in shown
    assert "&lt;b&gt;parou" in (await admin_session.client.get("/alerts", headers=PAGE)).text
    assert "Para 8 mensagens que ainda não saíram" in shown
    manual_clock.advance(minutes=3)
    answer = await act(admin_session, "ack", alert_id, rev=str((await row(services, alert_id)).rev))
    assert (answer.status_code, answer.headers["location"]) == (303, f"/alerts?alert={alert_id}")
    found = await row(services, alert_id)
    assert (found.status, found.ack_how, found.acked_by) == ("acknowledged", "console", f"user:{admin_session.person.user_id}")
    shown = await text(admin_session)
    assert "Superadmin assumiu no painel, 3 min depois do começo" in shown
    assert "não enviado: confirmado antes" in shown
    assert "Estou cuidando" not in shown


@pytest.mark.parametrize("what", ["ack", "resolve"])
async def test_an_act_on_a_changed_alert_is_answered_409_with_how_it_is_now(
    services: Services, tenant: Clinic, admin_session: Browser, what: str
) -> None:
    alert_id = await raise_one(services, tenant.tenant_id)
    seen = (await row(services, alert_id)).rev
    await raise_one(services, tenant.tenant_id)
    answer = await act(admin_session, what, alert_id, rev=str(seen), reason="passou")
    assert answer.status_code == 409
    assert "o aviso mudou desde que você olhou" in plain(answer)
    assert "visto 2 vezes" in plain(answer)
    assert f'name="rev" value="{seen + 1}"' in answer.text
    assert (await row(services, alert_id)).status == "open"
    again = await admin_session.client.get(f"/alerts/{what}", params={"alert": alert_id}, headers=PAGE)
    assert (again.status_code, again.headers["location"]) == (303, f"/alerts?alert={alert_id}")


async def test_resolving_wants_a_reason_and_is_audited(services: Services, tenant: Clinic, admin_session: Browser) -> None:
    alert_id = await raise_one(services, tenant.tenant_id)
    assert (await act(admin_session, "resolve", alert_id, reason=" ")).status_code == 400
    assert (await act(admin_session, "resolve", alert_id, reason="voltou")).status_code == 303
    assert (await row(services, alert_id)).status == "resolved"
    audit = table(AuditEntry)
    query = select(audit.c.reason).where(audit.c.action == "alert.resolve")
    assert await services.db.read(lambda conn: conn.execute(query).scalar_one()) == "voltou"
    assert "Superadmin encerrou" in await text(admin_session)


async def test_a_storm_is_taken_on_together_and_nothing_of_it_is_hidden(
    services: Services, tenant: Clinic, admin_session: Browser
) -> None:
    ids = [await raise_one(services, tenant.tenant_id, n) for n in range(60)]
    shown = await text(admin_session, f"/alerts?alert={ids[0]}")
    assert "60 avisos abertos" in shown
    assert "também os outros 59 avisos abertos deste tipo" in shown
    second = (await admin_session.client.get("/alerts?page=1", headers=PAGE)).text
    assert second.count("data-row") == 10
    await act(admin_session, "ack", ids[0], group="on")
    assert {(await row(services, i)).status for i in ids[::20]} == {"acknowledged"}


async def test_nobody_acts_on_what_they_do_not_see(
    services: Services, app: Litestar, tenant: Clinic, other_tenant: Clinic, admin_session: Browser, secretary_session: Browser
) -> None:
    theirs = await raise_one(services, other_tenant.tenant_id)
    everywhere = await raise_one(services, None, 2)
    mine = await raise_one(services, tenant.tenant_id, 3)
    async with browser_client(app) as opened:
        manager = await sign_in(services, opened, await add_person(services, "manager", [tenant.tenant_id]))
        shown = await text(manager)
        assert "Redis 3" in shown
        assert "Redis 1" not in shown
        assert "Redis 2" not in shown
        for alert_id in (theirs, everywhere, "none"):
            assert (await act(manager, "ack", alert_id)).status_code == 404
            assert "Nenhum aviso escolhido" in await text(manager, f"/alerts?alert={alert_id}")
        assert (await act(manager, "ack", mine)).status_code == 303
    assert (await secretary_session.client.get("/alerts", headers=PAGE)).status_code == 403
    assert (await act(secretary_session, "ack", mine)).status_code == 403
    answer = await admin_session.client.post("/alerts/ack", params={"alert": theirs}, headers=PAGE)
    assert answer.status_code == 403, "without the form's token"
    assert (await row(services, theirs)).status == "open"


async def test_the_overview_names_open_alerts_first_for_those_who_take_them_on(
    services: Services, tenant: Clinic, admin_session: Browser, secretary_session: Browser
) -> None:
    for number in range(3):
        await raise_one(services, tenant.tenant_id, number)
    mild = await raise_one(services, tenant.tenant_id, 9, severity="high", trigger="takeover")
    shown = await text(admin_session, "/")
    assert "P1 Crítica Redis 0" in shown
    assert "Redis 1" not in shown, "one line for a storm"
    assert shown.index("Redis 0") < shown.index("Redis 9")
    assert "faltam 15 min" in shown
    assert f"alert={mild}" in (await admin_session.client.get("/", headers=PAGE)).text
    assert "Redis" not in await text(secretary_session, "/")


async def test_the_frame_counts_open_alerts_of_the_viewers_clinics(services: Services, tenant: Clinic) -> None:
    await raise_one(services, tenant.tenant_id)
    await raise_one(services, None, 2, severity="high")
    render = renderer(services)
    ours = await render(Audience((tenant.tenant_id,), "secretary", "pt_BR"), frozenset({"alerts"}))
    everyone = await render(Audience(None, "superadmin", "pt_BR"), frozenset({"alerts"}))
    assert re.sub(r"<[^>]+>", "", ours["alert_count"]).split() == ["1", "abertos"]
    assert re.sub(r"<[^>]+>", "", everyone["alert_count"]).split() == ["2", "abertos"]
