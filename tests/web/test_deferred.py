"""The deferred item S-PC-P1-001: its trigger on live facts, the reopening with alert and evidence, people's decision."""

from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.deferred import DeferredWatch
from app.engine.signals import SignalWatch
from app.metrics import Metrics
from app.store.alerts import raise_alert
from app.store.tables import Alert, AuditEntry, EvidencePack, table
from app.store.verify import verify
from tests.engine.signal_world import clear_commands, waiting
from tests.web.api_client import Api, open_api
from tests.web.conftest import add_key, add_person, app_over, browser_client, sign_in

pytestmark = pytest.mark.story("S-PC-P1-001")
ALERT, PACK, AUDIT = table(Alert), table(EvidencePack), table(AuditEntry)


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


@pytest.fixture
async def superadmin(services: Services, client: httpx.AsyncClient, api: Api) -> Api:
    return Api(client, services, api.clinic, await add_key(services, None))


def clock(api: Api) -> ManualClock:
    found = api.services.clock
    assert isinstance(found, ManualClock)
    return found


async def incident(api: Api, trigger: str = "n8n_down", severity: str = "critical") -> None:
    number = len(await rows(api, ALERT))
    await api.services.db.write(
        raise_alert, tenant_id=api.clinic.tenant_id, trigger=trigger, severity=severity, summary="x", dedup_key=f"k-{number}",
        correlation_id=None, now=api.now,
    )  # fmt: skip


async def rows(api: Api, of: Any, *where: Any) -> list[Any]:
    return await api.services.db.read(lambda conn: list(conn.execute(select(of).where(*where)).all()))


async def looked(api: Api) -> Any:
    """The watch of two nodes looks; the item as the API shows it."""
    for _ in range(2):
        await DeferredWatch(api.services.db, api.services.clock).tick()
    return await api.get("/deferred")


async def test_two_incidents_of_the_orchestrator_in_a_fortnight_reopen_it_once(superadmin: Api) -> None:
    api = superadmin
    assert (await looked(api))["state"] == "deferred_with_trigger"
    await incident(api)
    await incident(api, trigger="redis_down")  # not the orchestrator
    await incident(api, trigger="n8n_slow", severity="high")  # not P0
    seen = await looked(api)
    assert (seen["state"], seen["incidents"]["count"], seen["progress"]) == ("deferred_with_trigger", 1, 0.5)
    clock(api).advance(days=13, hours=23)
    await incident(api, trigger="orchestrator_dead")
    seen = await looked(api)
    assert (seen["state"], seen["incidents"]["count"], seen["progress"]) == ("reopen_triggered", 2, 1.0)
    assert [i["alert_id"] for i in seen["met_by"]["incidents"]["items"]] == [i["alert_id"] for i in seen["incidents"]["items"]]
    (alert,) = await rows(api, ALERT, ALERT.c.trigger == "deferred_reopen_trigger")
    assert (alert.alert_id, alert.scope, alert.severity) == (seen["alert_id"], "global", "high")
    (pack,) = await rows(api, PACK, PACK.c.kind == "deferred")
    assert (pack.pack_id, pack.subject) == (seen["evidence_pack_id"], "S-PC-P1-001")
    clock(api).advance(days=60)  # time alone takes nothing back
    assert (await looked(api))["state"] == "reopen_triggered"
    assert len(await rows(api, ALERT, ALERT.c.trigger == "deferred_reopen_trigger")) == 1


async def test_incidents_a_fortnight_apart_do_not(superadmin: Api) -> None:
    await incident(superadmin)
    clock(superadmin).advance(days=14, minutes=1)
    await incident(superadmin)
    assert (await looked(superadmin))["incidents"]["count"] == 1


async def backlog(api: Api, n: int) -> None:
    """So many items wait for their replay from now on, and the signal is measured."""
    tenant_id, now = api.clinic.tenant_id, api.now
    await api.services.db.write(clear_commands, tenant_id, now)
    await api.services.db.write(waiting, tenant_id, now, n, 1, "pending_contingency")
    await SignalWatch(api.services.db, api.services.clock, Metrics()).tick()


@pytest.mark.parametrize(("daily", "state"), [((81, 81), "deferred_with_trigger"), ((81, 81, 81), "reopen_triggered"),
                                              ((81, 0, 81, 81), "deferred_with_trigger"),
                                              ((81, 40, 40, 40), "deferred_with_trigger")])  # fmt: skip
async def test_a_critical_backlog_on_three_days_in_a_row_reopens_it(superadmin: Api, daily: tuple[int, ...], state: str) -> None:
    """81 are critical, 40 a warning: a level that rose stays, but a day on which it was not reached again does not count."""
    for n in daily:
        await backlog(superadmin, n)
        await backlog(superadmin, min(n, 40))
        await looked(superadmin)
        clock(superadmin).advance(hours=23, minutes=59)
    seen = await looked(superadmin)
    assert (seen["state"], seen["critical_replay_backlog"]["days_in_a_row"]) == (state, _longest(daily))


def _longest(daily: tuple[int, ...]) -> int:
    runs = "".join("x" if n > 80 else " " for n in daily).split()
    return max(map(len, runs))


async def test_an_incident_exactly_a_fortnight_old_counts_and_one_from_before_the_decision_does_not(superadmin: Api) -> None:
    await incident(superadmin)
    clock(superadmin).advance(days=14)
    await incident(superadmin)
    seen = await looked(superadmin)
    assert (seen["state"], seen["incidents"]["count"]) == ("reopen_triggered", 2)
    decided = await superadmin.call("POST", "/deferred/decision", json={"reason": "aguardar", "rev": seen["rev"]})
    assert (decided.status_code, (await looked(superadmin))["incidents"]["count"]) == (200, 0)


async def test_a_person_defers_it_again_and_what_met_it_does_not_count_again(superadmin: Api, api: Api) -> None:
    await incident(superadmin)
    await incident(superadmin)
    seen = await looked(superadmin)
    theirs = await api.get("/deferred")  # a clinic sees where it stands, not others' alerts
    assert theirs["state"] == "reopen_triggered"
    assert (theirs["incidents"]["items"], theirs["alert_id"], theirs["met_by"]) == ([], None, None)
    body = {"reason": "aguardar o contrato", "rev": seen["rev"]}
    assert (await api.call("POST", "/deferred/decision", json=body)).status_code == 403
    assert (await superadmin.call("POST", "/deferred/decision", json=body | {"rev": 0})).status_code == 409
    assert (await superadmin.call("POST", "/deferred/decision", json=body | {"reason": " "})).status_code == 400
    clock(superadmin).advance(minutes=1)
    decided = await superadmin.call("POST", "/deferred/decision", json=body)
    assert (decided.status_code, decided.json()["state"]) == (200, "deferred_with_trigger")
    assert (await superadmin.call("POST", "/deferred/decision", json=body)).status_code == 409
    again = await looked(superadmin)
    assert (again["state"], again["incidents"]["count"], again["decision"]) == ("deferred_with_trigger", 0, "aguardar o contrato")
    assert [row.action for row in await rows(superadmin, AUDIT, AUDIT.c.action == "deferred.decide")] == ["deferred.decide"]
    assert await superadmin.services.db.read(lambda conn: list(verify(conn))) == []


async def test_the_page_shows_the_trigger_and_takes_the_decision(superadmin: Api, api: Api, services: Services) -> None:
    person, manager = await add_person(services, "superadmin", []), await add_person(services, "manager", [api.clinic.tenant_id])
    page = {"accept": "text/html"}
    async with browser_client(app_over(services)) as opened:
        boss = await sign_in(services, opened, person)
        assert "Adiado, com gatilho" in (await boss.client.get("/deferred", headers=page)).text
        await incident(superadmin)
        await incident(superadmin)
        seen = await looked(superadmin)
        shown = (await boss.client.get("/deferred", headers=page)).text
        assert "Reaberto: o gatilho foi atingido" in shown
        assert seen["alert_id"] in shown
        form = {"_csrf": boss.csrf_token, "rev": str(seen["rev"]), "reason": "aguardar"}
        assert (await boss.client.post("/deferred/decide", data=form, headers=page)).status_code == 303
        assert "aguardar" in (await boss.client.get("/deferred", headers=page)).text
    async with browser_client(app_over(services)) as opened:
        desk = await sign_in(services, opened, manager)
        shown = (await desk.client.get("/deferred", headers=page)).text
        assert "Adiado, com gatilho" in shown
        assert "aguardar" not in shown
        refused = await desk.client.post("/deferred/decide", data=form | {"_csrf": desk.csrf_token}, headers=page)
        assert refused.status_code in (403, 404)
