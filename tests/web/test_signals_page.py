"""The signals page over HTTP: what is shown to whom, trying limits changes nothing, saving them does."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from litestar import Litestar

from app.bootstrap import Services
from app.clock import ManualClock
from app.store.views import signals as views
from app.web.console.signals import spark
from tests.engine.signal_world import results, violations
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in

pytestmark = pytest.mark.story("S-PC-04-002")

PAGE = {"accept": "text/html"}
NAME = "blocked_commit_order_violation"


@pytest.fixture
async def measured(services: Services, tenant: Clinic, other_tenant: Clinic, manual_clock: ManualClock) -> None:
    """Four requests out of order in the clinic, and too few results for a rate."""
    now = manual_clock.now()
    await services.db.write(lambda conn: violations(conn, tenant.tenant_id, now, 4))
    await services.db.write(lambda conn: results(conn, tenant.tenant_id, now, 7))
    await services.signals.tick()
    manual_clock.advance(seconds=20)


@pytest.fixture
async def manager(app: Litestar, services: Services, tenant: Clinic, measured: None) -> AsyncIterator[Browser]:
    """Runs the clinic."""
    person = await add_person(services, "manager", [tenant.tenant_id])
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, person)


async def shown(viewer: Browser, **params: str) -> str:
    answer = await viewer.client.get("/signals", params=params, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_a_manager_tries_limits_and_saves_them_with_a_reason(manager: Browser, services: Services, tenant: Clinic) -> None:
    page = await shown(manager, signal=NAME)
    for text in (
        "Pedidos fora de ordem",
        "Atenção: a partir de 3",
        "backend, superadmin",
        "só 7 amostras",
        "/alerts?alert=",
        "Histórico",
    ):
        assert text in page, text
    wanted = {"signal": NAME, "warning.count": "2", "critical.count": "4"}
    tried = await shown(manager, **wanted)
    assert "Estes limites teriam disparado 1 vez." in tried
    assert "De atenção: 0, críticos: 1." in tried
    assert "<del>10 </del> <ins>4 </ins>" in tried
    held = await services.db.read(views.limits_of, tenant.tenant_id)
    assert held == {}, "a GET changes nothing"
    assert "Um limite não é um número." in await shown(manager, **wanted | {"critical.count": "many"})
    assert "antes do de atenção" in await shown(manager, **wanted | {"critical.count": "1"})

    form = {"_csrf": manager.csrf_token, "scope": tenant.tenant_id, **wanted}
    origin = {"Sec-Fetch-Site": "same-origin", **PAGE}
    assert (await manager.client.post("/signals/save", data=form, headers=origin)).status_code == 400, "no reason"
    saved = await manager.client.post("/signals/save", data=form | {"reason": "cedo demais"}, headers=origin)
    assert (saved.status_code, saved.headers["location"]) == (303, f"/signals?clinic={tenant.slug}&signal={NAME}")
    held = await services.db.read(views.limits_of, tenant.tenant_id)
    assert held == {NAME: {"warning": {"count": 2}, "critical": {"count": 4}}}
    assert "do plano: 10" in await shown(manager, signal=NAME)
    back = {"_csrf": manager.csrf_token, "scope": tenant.tenant_id, "signal": NAME, "reset": "yes", "reason": "de volta"}
    assert (await manager.client.post("/signals/save", data=back, headers=origin)).status_code == 303
    assert await services.db.read(views.limits_of, tenant.tenant_id) == {}


async def test_only_a_superadmin_sees_and_sets_what_holds_for_all_clinics(
    manager: Browser, secretary_session: Browser, admin_session: Browser, services: Services, other_tenant: Clinic
) -> None:
    origin = {"Sec-Fetch-Site": "same-origin", **PAGE}
    for scope in ("global", other_tenant.tenant_id, "nowhere"):
        form = {"_csrf": manager.csrf_token, "scope": scope, "signal": NAME, "warning.count": "1", "reason": "x"}
        assert (await manager.client.post("/signals/save", data=form, headers=origin)).status_code == 403
    assert (await secretary_session.client.get("/signals", headers=PAGE)).status_code == 403
    assert "Travas fora do Redis" not in await shown(manager)
    whole = await shown(admin_session, signal=NAME, clinic="all")
    for text in ("Travas fora do Redis", "pior clínica: 4", "1 em atenção", "Clínicas fora do normal"):
        assert text in whole, text
    form = {
        "_csrf": admin_session.csrf_token,
        "scope": "global",
        "signal": "redis_fallback_rate",
        "warning.rate": "7,5",
        "reason": "x",
    }
    assert (await admin_session.client.post("/signals/save", data=form, headers=origin)).status_code == 303
    assert await services.db.read(views.limits_of, "global") == {"redis_fallback_rate": {"warning": {"rate": 0.075}}}


def test_a_line_of_the_last_day_holds_each_value_until_the_next(manual_clock: ManualClock) -> None:
    now = manual_clock.now()
    points = [(now - timedelta(hours=24), {"rate": 0.0}), (now - timedelta(hours=12), {"rate": 0.5}), (now, {"other": 1.0})]
    assert spark(points, "rate", now) == "0.0,22.0 60.0,22.0 60.0,2.0 120.0,2.0"
    assert spark([], "rate", now) == ""


async def test_the_overview_lists_what_is_not_normal_for_those_who_see_signals(
    manager: Browser, secretary_session: Browser, admin_session: Browser, services: Services, tenant: Clinic, other_tenant: Clinic
) -> None:
    async def overview(viewer: Browser, **params: str) -> str:
        answer = await viewer.client.get("/", params=params, headers=PAGE)
        assert answer.status_code == 200, answer.text
        return answer.text

    title = "Sinais fora do normal"
    for viewer, params in ((manager, {}), (admin_session, {"clinic": "all"})):
        seen = await overview(viewer, **params)
        assert title in seen
        assert f'id="off_{tenant.tenant_id}_{NAME}"' in seen
    assert f"/signals?clinic={tenant.slug}&amp;signal={NAME}" in await overview(admin_session, clinic="all")
    assert title not in await overview(secretary_session)
    assert "Todos os sinais estão normais." in await overview(admin_session, clinic=other_tenant.slug)
    rows, found = await services.db.read(views.off_normal, (tenant.tenant_id,), 0)
    assert (rows, found) == ([], 1)
