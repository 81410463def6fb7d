"""What people do to lanes, through the API and the console's forms, with the engine running where it matters."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.domain.envelopes import Command, parse_command
from app.engine.planning import plan_lanes
from app.errors import Conflict
from app.store import holds, lane_acts
from app.store.inbox import accept
from app.store.intake_facts import Submission
from app.store.lanes import candidates, gather
from app.store.ledger import apply
from app.store.people import By
from app.store.plans import Attempt
from app.store.tables import AuditEntry, Ledger, table
from app.store.verify import verify
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in

AUDIT, LEDGER = table(AuditEntry), table(Ledger)
WHY = {"reason": "a família pediu para esperar"}


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    return await open_api(running_services, running_client)


async def act(api: Api, name: str, status: int = 200, **body: Any) -> Any:
    answer = await api.call("POST", f"/contacts/{CONTACT}/lane/{name}", json={**WHY, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


async def lane(api: Api) -> Any:
    return (await api.get(f"/contacts/{CONTACT}"))["lane"]


async def settled(api: Api, committed: int) -> Any:
    return (await api.once(f"/contacts/{CONTACT}", lambda c: c["lane"]["last_committed"] == committed))["lane"]


async def audited(api: Api) -> list[str]:
    def read(conn: Connection) -> list[str]:
        query = select(AUDIT.c.action).where(AUDIT.c.object == f"lane:{CONTACT}").order_by(AUDIT.c.number)
        return [row.action for row in conn.execute(query)]

    return await api.services.db.read(read)


async def sound(api: Api) -> None:
    assert await api.services.db.read(lambda conn: list(verify(conn))) == []


def note(api: Api, **fields: Any) -> dict[str, Any]:
    return api.command("follow_up", {"text": "oi"}, **fields)


# --- pause, step, release -----------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-002")
async def test_a_paused_contact_takes_single_steps_and_goes_on_in_order_when_it_is_released(api: Api) -> None:
    paused = await act(api, "pause")
    assert paused["lane"]["why"]["cause"] == "paused"
    for _ in range(3):
        await api.one(note(api), wait=0)
    heard = (await api.call("POST", "/events", json=api.event("ainda estou aqui"))).json()
    assert await api.processed(heard["event_id"])
    assert (await lane(api))["last_committed"] == 0
    await act(api, "step")
    assert (await settled(api, 1))["waiting"] == 2
    await act(api, "release")
    assert (await settled(api, 3))["waiting"] == 0
    assert await audited(api) == ["lane_pause", "lane_step", "lane_release"]
    await sound(api)


async def test_an_act_that_came_too_late_changes_nothing_and_shows_what_is(api: Api) -> None:
    await act(api, "pause")
    again = await act(api, "pause", 409)
    assert again["contact"]["lane"]["why"]["cause"] == "paused"
    assert await act(api, "step", 409)  # nothing waits
    await act(api, "release")
    for name in ("release", "step", "retry"):
        assert (await act(api, name, 409))["contact"]["contact_id"] == CONTACT
    assert await audited(api) == ["lane_pause", "lane_release"]


@pytest.mark.parametrize("name", ["pause", "release", "step", "retry", "skip"])
async def test_an_act_needs_a_reason_and_a_contact_of_ones_own(api: Api, name: str) -> None:
    number = {"number": 1} if name == "skip" else {}
    refused = await act(api, name, 400, reason="  ", **number)
    assert refused["errors"][0]["pointer"] == "/reason"
    unknown = await api.call("POST", f"/contacts/c-nobody/lane/{name}", json={**WHY, **number})
    assert unknown.status_code == 404
    stranger = await open_api(api.services, api.client, "clinica-vizinha")
    assert (await stranger.call("POST", f"/contacts/{CONTACT}x/lane/{name}", json={**WHY, **number})).status_code == 404
    assert await audited(api) == []


# --- skip ---------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-002")
async def test_skipping_a_missing_place_leaves_a_tombstone_and_a_task_and_the_lane_goes_on(api: Api) -> None:
    behind = await api.one(note(api, commit_order=2), wait=0)
    await api.once(f"/commands/{behind['command_id']}", lambda c: c["status"] == "waiting_previous_commit")
    await act(api, "skip", number=1)
    await settled(api, 2)
    assert (await api.get(f"/commands/{behind['command_id']}"))["result"] == "applied_once"
    late = await api.one(note(api, commit_order=1))
    assert (late["status"], late["reason"]) == ("blocked_commit_order_violation", "commit_order_passed")

    def entry(conn: Connection) -> Any:
        return conn.execute(select(LEDGER.c.result, LEDGER.c.reason, LEDGER.c.command_id).where(LEDGER.c.commit_order == 1)).one()

    assert tuple(await api.services.db.read(entry)) == ("manual_review_required", "skipped_by_person", None)
    await sound(api)


@pytest.mark.story("S-PC-01-002")
async def test_skipping_a_waiting_request_ends_it_for_a_person_and_never_applies_it(api: Api) -> None:
    await act(api, "pause")
    first = await api.one(api.command(payload=api.slot(1, "a-1")), wait=0)
    second = await api.one(note(api), wait=0)
    await act(api, "skip", 409, number=2)  # the order is not gone around
    await act(api, "skip", number=1)
    skipped = await api.get(f"/commands/{first['command_id']}")
    assert (skipped["result"], skipped["reason"]) == ("manual_review_required", "skipped_by_person")
    assert skipped["next_action"]
    await act(api, "release")
    await settled(api, 2)
    assert (await api.get(f"/commands/{second['command_id']}"))["result"] == "applied_once"
    assert (await api.call("GET", "/appointments/a-1")).status_code == 404
    await sound(api)


async def test_two_people_skip_one_place_once(api: Api) -> None:
    await act(api, "pause")
    for _ in range(2):
        await api.one(note(api), wait=0)
    path = f"/contacts/{CONTACT}/lane/skip"
    answers = await asyncio.gather(*(api.call("POST", path, json={**WHY, "number": 1}) for _ in range(6)))
    assert sorted(a.status_code for a in answers) == [200, 409, 409, 409, 409, 409]
    assert ((await lane(api))["last_committed"], await audited(api)) == (1, ["lane_pause", "lane_skip"])
    await sound(api)


# --- holds --------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-001")
async def test_a_type_of_request_or_a_whole_clinic_is_paused_and_resumed(api: Api) -> None:
    async def put(status: int = 200, **body: Any) -> Any:
        answer = await api.call("PUT", "/holds", json={**WHY, **body})
        assert answer.status_code == status, answer.text
        return answer.json()

    await put(active=True, command_type="schedule")
    held = await api.one(api.command(payload=api.slot(1, "a-1")), wait=0)
    await api.once(f"/contacts/{CONTACT}", lambda c: (c["lane"]["why"] or {}).get("cause") == "held")
    other = {**note(api), "contact_id": "c-other"}
    assert (await api.one(other))["result"] == "applied_once"  # other types and contacts go on
    await put(409, active=True, command_type="schedule")
    await put(active=True)
    stopped = await api.one({**note(api), "contact_id": "c-other"}, wait=0.5)
    assert stopped["result"] is None
    assert [h["command_type"] for h in (await api.get("/holds"))["items"]] == ["*", "schedule"]
    await put(active=False)
    await put(active=False, command_type="schedule")
    await put(409, active=False, command_type="schedule")
    assert (await put(400, active=True, command_type="dance"))["errors"][0]["pointer"] == "/command_type"
    for item in (held, stopped):
        await api.once(f"/commands/{item['command_id']}", lambda c: c["result"] == "applied_once")
    await sound(api)


async def test_a_resume_is_not_undone_by_a_round_that_read_before_it(services: Services, client: httpx.AsyncClient) -> None:
    api = await open_api(services, client)
    tenant_id, db, now = api.clinic.tenant_id, services.db, services.clock.now()
    who = By(actor="user:test", now=now)
    item = parse_command(note(api), tenant_id=tenant_id, new_id="n-1")
    assert isinstance(item, Command)
    await db.write(accept, [Submission(tenant_id=tenant_id, item=item, spare_id="s-1")], now)
    await db.write(holds.hold, tenant_id, "follow_up", who, "pausa")
    facts = await db.read(gather, [(tenant_id, CONTACT)], 16)
    plans = plan_lanes(facts, await services.policies.get({tenant_id}), now)
    assert [p.blocked_by for p in plans] == ["held"]
    await db.write(holds.resume, tenant_id, "follow_up", who, "fim")
    attempt = Attempt(token="t", node_id="n", clock=lambda: now, lock_backend="none", lock_mode="database", lock_ms=0.0)
    assert await db.write(apply, plans, attempt) == []
    assert [c.contact_id for c in await db.read(candidates, now, 10)] == [CONTACT]


# --- the console's forms ------------------------------------------------------------------------------------------------


@pytest.fixture
async def manager(app: Litestar, services: Services, tenant: Clinic) -> Any:
    person = await add_person(services, "manager", [tenant.tenant_id])
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, person)


async def test_a_manager_steers_from_the_page_and_a_secretary_does_not(
    services: Services, tenant: Clinic, manager: Browser, secretary_session: Browser, key: dict[str, str]
) -> None:
    made = await manager.client.put("/api/v1/contacts/c-1", json={"name": "Rosa"}, headers=key)
    assert made.status_code == 200
    form = {"_csrf": manager.csrf_token, "clinic": tenant.slug, "contact_id": "c-1", "act": "pause", "reason": "espera"}
    there = f"/contacts/{tenant.slug}/c-1"
    page = {"accept": "text/html"}
    assert 'name="act" value="pause"' in (await manager.client.get(there, headers=page)).text
    done = await manager.client.post("/lane-acts", data=form)
    assert (done.status_code, done.headers["location"]) == (303, there)
    assert 'name="act" value="release"' in (await manager.client.get(there, headers=page)).text
    assert (await manager.client.post("/lane-acts", data=form, headers=page)).status_code == 409
    assert (await manager.client.post("/lane-acts", data={**form, "reason": " "}, headers=page)).status_code == 400
    own = {**form, "_csrf": secretary_session.csrf_token}
    assert (await secretary_session.client.post("/lane-acts", data=own)).status_code == 403
    assert "/lane-acts" not in (await secretary_session.client.get(there, headers=page)).text


async def test_a_manager_pauses_a_type_from_the_queue(tenant: Clinic, manager: Browser) -> None:
    form = {"_csrf": manager.csrf_token, "clinic": tenant.slug, "command_type": "cancel", "act": "hold", "reason": "mutirão"}
    page = {"accept": "text/html"}
    assert (await manager.client.post("/queue/holds", data=form)).status_code == 303
    shown = (await manager.client.get(f"/queue?clinic={tenant.slug}", headers=page)).text
    assert "mutirão" in shown
    assert (await manager.client.post("/queue/holds", data={**form, "act": "resume"})).status_code == 303
    shown = (await manager.client.get(f"/queue?clinic={tenant.slug}", headers=page)).text
    assert "mutirão" not in shown
    other = {**form, "clinic": "clinica-vizinha"}
    assert (await manager.client.post("/queue/holds", data=other)).status_code == 403


async def test_a_refused_act_is_answered_with_the_contact_as_it_is_and_what_was_typed(
    services: Services, tenant: Clinic, manager: Browser, key: dict[str, str]
) -> None:
    assert (await manager.client.put("/api/v1/contacts/c-1", json={"name": "Rosa"}, headers=key)).status_code == 200
    form = {"_csrf": manager.csrf_token, "clinic": tenant.slug, "contact_id": "c-1", "reason": "espera o retorno"}
    page = {"accept": "text/html"}
    refused = await manager.client.post("/lane-acts", data={**form, "act": "release"}, headers=page)  # it is not paused
    assert refused.status_code == 409
    assert f'data-here="/contacts/{tenant.slug}/c-1"' in refused.text
    assert "Nada foi feito" in refused.text
    assert 'value="espera o retorno" data-kept' in refused.text
    assert 'name="act" value="pause"' in refused.text  # the act that fits how it is now


@pytest.mark.parametrize("name", ["step", "retry"])
async def test_an_act_on_the_next_request_is_refused_when_another_one_is_the_next(api: Api, name: str) -> None:
    await act(api, "pause")
    await api.one(note(api), wait=0)
    do = {"step": lane_acts.single_step, "retry": lane_acts.retry}[name]
    who, db = By(actor="user:test", now=api.services.clock.now()), api.services.db
    with pytest.raises(Conflict):
        await db.write(lambda conn: do(conn, api.clinic.tenant_id, CONTACT, who, "espera", front=2))
    await db.write(lambda conn: do(conn, api.clinic.tenant_id, CONTACT, who, "espera", front=1))
