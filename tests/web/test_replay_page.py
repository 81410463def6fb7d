"""The replay page over HTTP: who sees it, what its forms do, and when nothing can be sent."""

import asyncio
import html
import re
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from litestar import Litestar

from app.bootstrap import Services
from app.clock import ManualClock
from tests.web.api_client import Api
from tests.web.conftest import Browser, Clinic, add_key, add_person, browser_client, sign_in

PAGE = {"accept": "text/html"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database is enough for forms; the batches themselves are tested on both."""
    return sqlite_url


@pytest.fixture
async def api(app: Litestar, services: Services, tenant: Clinic) -> Any:
    async with browser_client(app) as client:
        opened = Api(client, services, tenant, await add_key(services, tenant.tenant_id))
        await opened.furnish()
        yield opened


@pytest.fixture
async def manager(app: Litestar, services: Services, tenant: Clinic) -> Any:
    person = await add_person(services, "manager", [tenant.tenant_id])
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, person)


async def post(browser: Browser, path: str, **fields: Any) -> Any:
    return await browser.client.post(f"/replay{path}", data={"_csrf": browser.csrf_token, **fields}, headers=PAGE)


async def shown(browser: Browser, **params: str) -> str:
    answer = await browser.client.get("/replay", params=params, headers=PAGE)
    assert answer.status_code == 200
    return answer.text


async def turn(services: Services, rounds: int = 4) -> None:
    """The engine's loops, moved by hand."""
    for _ in range(rounds):
        for loop in (services.intake, services.drain, services.replay, services.dispatch):
            await loop.tick()


async def park(api: Api, *commands: dict[str, Any]) -> None:
    """Contingency on, commands accepted and parked."""
    await api.put("/contingency", {"channel": "whatsapp", "active": True, "reason": "caiu"})
    for command in commands:
        sent = api.services.intake.commands(api.clinic.tenant_id, [command])
        await _with_turns(api.services, sent)
    await turn(api.services)


async def _with_turns(services: Services, work: Any) -> Any:
    task = asyncio.ensure_future(work)
    while not task.done():
        await services.intake.tick()
        await asyncio.sleep(0)
    return task.result()


async def test_a_secretary_has_no_replay_page(secretary_session: Browser, tenant: Clinic) -> None:
    assert (await secretary_session.client.get("/replay", headers=PAGE)).status_code == 403
    fields = {"tenant": tenant.tenant_id, "channel": "whatsapp", "active": "on", "reason": "x"}
    assert (await post(secretary_session, "/contingency", **fields)).status_code == 403


async def test_a_manager_switches_a_channel_with_a_reason_and_only_at_her_clinic(
    api: Api, manager: Browser, other_tenant: Clinic
) -> None:
    fields = {"tenant": api.clinic.tenant_id, "channel": "whatsapp", "active": "on"}
    assert (await post(manager, "/contingency", **fields, reason=" ")).status_code == 400
    assert not (await api.get("/contingency"))["active"]
    assert (await post(manager, "/contingency", **fields, reason="o provedor caiu")).status_code == 303
    assert (await api.get("/contingency"))["reason"] == "o provedor caiu"
    assert "o provedor caiu" in await shown(manager)
    foreign = fields | {"tenant": other_tenant.tenant_id}
    assert (await post(manager, "/contingency", **foreign, reason="x")).status_code == 403


async def test_nothing_can_be_sent_without_a_fresh_dry_run(api: Api, manager: Browser, manual_clock: ManualClock) -> None:
    await park(api, api.command(), api.command(payload=api.slot(5)), api.command(guardian_version=9, payload=api.slot(7)))
    assert 'id="run"' not in await shown(manager)
    assert (await post(manager, "/plan", tenant=api.clinic.tenant_id)).status_code == 400  # an empty filter
    made = await post(manager, "/plan", tenant=api.clinic.tenant_id, state="pending_contingency", rate="300")
    text = await shown(manager)
    assert re.search(r'id="run">\s*Reenviar 2\s*<', text)
    assert "de 3 pedidos, 2 saem, 1 está sem permissão. Nada foi enviado ainda." in text
    manual_clock.advance(minutes=11)
    stale = await shown(manager)
    assert 'id="run"' not in stale
    assert 'id="plan_stale"' in stale
    replay_id = made.headers["location"].rsplit("batch=")[1]
    await post(manager, f"/{replay_id}/run", tenant=api.clinic.tenant_id, rev="1")
    assert (await api.get(f"/replays/{replay_id}"))["status"] == "planned"


async def test_the_number_on_the_button_is_the_number_of_results(api: Api, manager: Browser, manual_clock: ManualClock) -> None:
    await park(api, api.command(), api.command(payload=api.slot(5)), api.command(guardian_version=9, payload=api.slot(7)))
    made = await post(manager, "/plan", tenant=api.clinic.tenant_id, state="pending_contingency", rate="300")
    replay_id = made.headers["location"].rsplit("batch=")[1]
    assert (await post(manager, f"/{replay_id}/run", tenant=api.clinic.tenant_id, rev="1")).status_code == 303
    assert (await api.get(f"/replays/{replay_id}"))["status"] == "running"
    await post(manager, "/contingency", tenant=api.clinic.tenant_id, channel="whatsapp", active="off", reason="voltou")
    for _ in range(4):
        manual_clock.advance(seconds=1)
        await turn(api.services)
    done = await api.get(f"/replays/{replay_id}")
    assert (done["status"], done["counts"]["replayed"], done["counts"]["manual_review_required"]) == ("finished", 2, 1)
    text = await shown(manager, batch=replay_id)
    assert "3 de 3 prontos: 2 saíram, 1 foram para uma pessoa." in text
    report = await manager.client.get(re.search(r'href="(/api/v1/replays/[^"]+csv[^"]*)"', text)[1].replace("&amp;", "&"))  # type: ignore[index]
    assert report.text.count("\r\n") == 4


async def test_every_row_of_a_long_dry_run_can_be_seen_before_it_runs(
    api: Api, manager: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.console.replay.ROWS", 2)
    await park(api, *(api.command(payload=api.slot(n)) for n in (1, 3, 5)))
    await post(manager, "/plan", tenant=api.clinic.tenant_id, state="pending_contingency")
    first = await shown(manager)
    assert "Linhas 1 a 2 de 3" in first
    assert re.findall(r'id="item_(\d+)"', first) == ["1", "2"]
    onwards = re.search(r'rel="next" href="([^"]+)"', first)
    assert onwards is not None
    rest = (await manager.client.get(html.unescape(onwards[1]), headers=PAGE)).text
    assert "Linhas 3 a 3 de 3" in rest
    assert re.findall(r'id="item_(\d+)"', rest) == ["3"]
    assert 'rel="next"' not in rest


async def test_a_dry_run_is_narrowed_by_priority_and_by_the_clinics_own_time(
    api: Api, manager: Browser, manual_clock: ManualClock
) -> None:
    await park(api, api.command(payload=api.slot(1)))
    manual_clock.advance(minutes=10)
    await park(api, api.command(payload=api.slot(3)))
    here = (api.now - timedelta(minutes=5)).astimezone(ZoneInfo("America/Sao_Paulo"))
    asked = {"tenant": api.clinic.tenant_id, "state": "pending_contingency"}
    for more, found in (
        ({"from": f"{here:%Y-%m-%dT%H:%M}"}, 1),
        ({"to": f"{here:%Y-%m-%dT%H:%M}"}, 1),
        ({"priority": "new_lead"}, 2),
        ({"priority": "urgent_takeover"}, 0),
    ):
        made = await post(manager, "/plan", **asked, **more)
        replay_id = made.headers["location"].split("batch=")[1]
        items = (await api.get(f"/replays/{replay_id}"))["items"]
        assert sum(not item["pulled_in"] for item in items) == found, more  # what stands before it comes along
    assert (await post(manager, "/plan", **asked, **{"from": "ontem"})).status_code == 400


async def test_an_act_on_a_batch_that_changed_meanwhile_does_nothing(api: Api, manager: Browser) -> None:
    await park(api, api.command())
    made = await post(manager, "/plan", tenant=api.clinic.tenant_id, state="pending_contingency")
    replay_id = made.headers["location"].rsplit("batch=")[1]
    await post(manager, f"/{replay_id}/run", tenant=api.clinic.tenant_id, rev="1")
    await post(manager, f"/{replay_id}/cancel", tenant=api.clinic.tenant_id, rev="1")  # seen before it ran
    assert (await api.get(f"/replays/{replay_id}"))["status"] == "running"
    await post(manager, f"/{replay_id}/pause", tenant=api.clinic.tenant_id, rev="2")
    assert "Continuar" in await shown(manager)
    assert (await post(manager, f"/{replay_id}/explode", tenant=api.clinic.tenant_id)).status_code == 404


async def test_with_several_clinics_one_is_chosen_first(api: Api, admin_session: Browser, other_tenant: Clinic) -> None:
    await api.put("/contingency", {"channel": "whatsapp", "active": True, "reason": "caiu"})
    text = await shown(admin_session)
    assert "/replay?clinic=clinica-aurora" in text
    assert 'id="dry_run"' not in text
    assert 'id="dry_run"' in await shown(admin_session, clinic="clinica-vizinha")
