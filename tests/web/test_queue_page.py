"""The queue's kept views and its owners, the palette, and the overview's numbers and first act, over HTTP."""

from datetime import timedelta
from functools import partial
from typing import Any

from app.bootstrap import Services
from app.store import saved_views
from app.store.alerts import raise_alert
from app.store.views.alarm_load import alarm_load
from tests.web.api_client import open_api
from tests.web.conftest import Browser, Clinic

PAGE = {"accept": "text/html"}


async def send(browser: Browser, **form: str) -> tuple[int, str]:
    answer = await browser.client.post("/queue/views", data={"_csrf": browser.csrf_token, **form}, headers=PAGE)
    return answer.status_code, answer.headers.get("location", "")


async def test_a_view_is_kept_for_the_person_replaced_by_its_name_and_forgotten(
    secretary_session: Browser, admin_session: Browser
) -> None:
    wanted = "class=new_lead&state=pending_safe_mode&cursor=9.1&next=//evil.example"
    there = (303, "/queue?state=pending_safe_mode&class=new_lead")
    assert await send(secretary_session, name="Novas <paradas>", filter=wanted, act="keep") == there
    page = (await secretary_session.client.get(there[1], headers=PAGE)).text
    assert 'aria-current="true">Novas &lt;paradas&gt;</a>' in page
    assert "Novas" not in (await admin_session.client.get("/queue", headers=PAGE)).text  # it is hers alone
    await send(secretary_session, name="Novas <paradas>", filter="", act="keep")
    assert 'href="/queue" aria-current="true">Novas' in (await secretary_session.client.get("/queue", headers=PAGE)).text
    assert await send(secretary_session, name="Novas <paradas>", act="forget") == (303, "/queue")
    assert "Novas" not in (await secretary_session.client.get("/queue", headers=PAGE)).text
    assert (await send(secretary_session, name=" ", act="keep"))[0] == 400


async def test_a_person_keeps_twenty_views(services: Services, secretary_session: Browser) -> None:
    for number in range(saved_views.VIEWS_MAX):
        person, now = secretary_session.person.user_id, services.clock.now()
        await services.db.write(saved_views.keep_view, person, "queue", f"v{number}", "", now)
    assert (await send(secretary_session, name="v0", act="keep"))[0] == 303  # replaced
    assert (await send(secretary_session, name="one more", act="keep"))[0] == 409


async def test_the_palette_finds_contacts_of_the_persons_clinics_only(
    services: Services, secretary_session: Browser, key: dict[str, str]
) -> None:
    client = secretary_session.client
    await client.put("/api/v1/contacts/c-1", json={"name": "Rosa Lima"}, headers=key)
    stranger = await open_api(services, client, "clinica-de-outros")
    assert (await stranger.call("PUT", "/contacts/c-2", json={"name": "Rosa Neves"})).is_success
    found = (await client.get("/find", params={"q": "rosa"})).json()
    assert [f["name"] for f in found] == ["Rosa Lima"]
    assert (await client.get(found[0]["url"], headers=PAGE)).status_code == 200
    assert (await client.get("/find", params={"q": " "})).json() == []


async def test_alarms_are_counted_by_storm_and_shared_by_those_who_were_there(
    services: Services, tenant: Clinic, admin_session: Browser
) -> None:
    now = services.clock.now()
    for number in range(3):
        alert: dict[str, Any] = {"tenant_id": tenant.tenant_id, "trigger": f"t{number // 2}", "dedup_key": f"d{number}"}
        alert |= {"severity": "high", "summary": "s", "correlation_id": None, "now": now}
        await services.db.write(partial(raise_alert, **alert))
    load = await services.db.read(alarm_load, (tenant.tenant_id,), now)
    assert (load.alarms, load.people, load.per_person, load.over) == (2, 1, 2.0, True)
    later = await services.db.read(alarm_load, (tenant.tenant_id,), now + timedelta(minutes=11))
    assert (later.alarms, later.per_person, later.over) == (0, 0.0, False)
    page = (await admin_session.client.get("/", headers=PAGE)).text
    assert "Alarmes por pessoa em 10 min" in page
    assert "limite 1" in page
