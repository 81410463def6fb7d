"""The manual queue through the API: seen, claimed by one, closed only with an outcome, carried out only through the gate."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.store.tables import AuditEntry, table
from app.store.verify import verify
from app.web.api import manual
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.conftest import add_key

AUDIT = table(AuditEntry)
pytestmark = pytest.mark.story("S-PC-02-003")


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    return await open_api(running_services, running_client)


async def call(api: Api, path: str, status: int = 200, **body: Any) -> Any:
    answer = await api.call("POST", f"/manual-tasks/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def expired(api: Api, appointment_id: str = "a-1", hours: float = 1) -> Any:
    """A task behind a schedule that came three hours late."""
    long_ago = (api.now - timedelta(hours=3)).isoformat()
    late = await api.one(api.command(payload=api.slot(hours, appointment_id), occurred_at=long_ago))
    assert late["result"] == "expired_manual"
    (task,) = [t for t in (await api.get("/manual-tasks"))["items"] if t["command_id"] == late["command_id"]]
    return task


async def colleague(api: Api) -> Api:
    return Api(api.client, api.services, api.clinic, await add_key(api.services, api.clinic.tenant_id))


async def test_a_late_request_becomes_a_task_that_says_why_and_what_to_do(api: Api) -> None:
    task = await expired(api)
    assert (task["cause"], task["status"], task["contact_id"], task["contact_name"]) == (
        "expired_manual",
        "open",
        CONTACT,
        "Maria",
    )
    assert task["why"]
    assert task["next_action"]
    whole = await api.get(f"/manual-tasks/{task['task_id']}")
    assert whole["payload"]["appointment_id"] == "a-1"
    assert whole["can_apply"]
    assert (await api.get("/manual-tasks", cause="conflict_blocked"))["items"] == []
    assert (await api.call("GET", "/manual-tasks", params={"status": "lost"})).status_code == 400


async def test_two_people_cannot_have_one_task(api: Api) -> None:
    task_id = (await expired(api))["task_id"]
    other = await colleague(api)
    answers = await asyncio.gather(*(who.call("POST", f"/manual-tasks/{task_id}/claim") for who in (api, other)))
    assert sorted(a.status_code for a in answers) == [200, 409]
    winner, loser = (api, other) if answers[0].status_code == 200 else (other, api)
    refused = next(a for a in answers if a.status_code == 409).json()
    assert refused["task"]["status"] == "claimed"
    assert (await call(winner, f"{task_id}/claim"))["status"] == "claimed"  # one's own again changes nothing
    await call(loser, f"{task_id}/resolve", 409, resolution="not_needed")
    await call(loser, f"{task_id}/replay", 409, reason="eu também")
    assert (await call(winner, f"{task_id}/release"))["owner"] is None
    assert (await call(loser, f"{task_id}/claim"))["status"] == "claimed"


async def test_no_task_is_closed_without_an_outcome_and_a_closing_can_be_undone_for_a_while(api: Api) -> None:
    task = await expired(api)
    task_id = task["task_id"]
    for bad in ("", "Feito!", "applied_by_command"):
        assert (await call(api, f"{task_id}/resolve", 400, resolution=bad))["errors"][0]["pointer"] == "/resolution"
    await call(api, f"{task_id}/resolve", 409, resolution="not_needed", rev=task["rev"] + 5)
    closed = await call(api, f"{task_id}/resolve", resolution="done_with_family", note="remarcado por telefone")
    assert (closed["status"], closed["resolution"], closed["note"]) == ("resolved", "done_with_family", "remarcado por telefone")
    assert (await api.get("/manual-tasks"))["items"] == []
    assert [t["task_id"] for t in (await api.get("/manual-tasks", status="resolved"))["items"]] == [task_id]
    again = await call(api, f"{task_id}/reopen")
    assert (again["status"], again["resolution"], again["owner"]) == ("open", None, None)

    def acts(conn: Connection) -> list[str]:
        query = select(AUDIT.c.action).where(AUDIT.c.object == f"manual_task:{task_id}").order_by(AUDIT.c.number)
        return [row.action for row in conn.execute(query)]

    assert await api.services.db.read(acts) == ["manual_task_resolve", "manual_task_reopen"]


async def test_carrying_it_out_is_a_new_human_command_through_the_gate(api: Api) -> None:
    task = await expired(api)
    path = f"{task['task_id']}/replay"
    assert (await call(api, path, 400, reason=" "))["errors"][0]["pointer"] == "/reason"
    unconfirmed = await call(api, path, reason="a família ligou")
    assert (unconfirmed["command"]["result"], unconfirmed["status"]) == ("blocked_unconfirmed", "claimed")
    await call(api, path, 409, reason="de novo", rev=task["rev"])  # what was seen is old
    done = await call(api, path, reason="a família confirmou por telefone", confirmed_by_contact=True)
    assert (done["command"]["result"], done["command"]["requested_by"]) == ("applied_once", "human")
    assert (done["status"], done["resolution"]) == ("resolved", "applied_by_command")
    assert done["command"]["causation_id"] == task["command_id"]
    assert done["command"]["correlation_id"] == task["correlation_id"]
    assert (await api.get("/appointments/a-1"))["status"] == "scheduled"
    await call(api, f"{task['task_id']}/reopen", 409)
    assert await api.services.db.read(lambda conn: list(verify(conn))) == []


async def test_what_waits_longer_than_the_answer_closes_its_task_when_it_happens_and_a_second_press_is_harmless(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "WAIT_S", 0.2)
    task = await expired(api)
    path = f"{task['task_id']}/replay"
    await api.put("/contingency", {"channel": "whatsapp", "active": True, "reason": "fora do ar"})
    parked = await call(api, path, reason="a família ligou", confirmed_by_contact=True, rev=task["rev"])
    assert parked["status"] == "claimed"
    await api.once(f"/commands/{parked['command']['command_id']}", lambda c: c["status"] == "pending_contingency")
    again = await call(api, path, reason="de novo", confirmed_by_contact=True, rev=task["rev"])
    assert again["command"]["command_id"] == parked["command"]["command_id"]
    await api.put("/contingency", {"channel": "whatsapp", "active": False, "reason": "voltou"})
    closed = await api.once(f"/manual-tasks/{task['task_id']}", lambda t: t["status"] == "resolved")
    assert (closed["resolution"], closed["note"], closed["rev"]) == ("applied_by_command", "a família ligou", parked["rev"] + 1)
    assert (await api.get("/manual-tasks"))["items"] == []
    assert (await api.get("/appointments/a-1"))["status"] == "scheduled"

    def acts(conn: Connection) -> list[tuple[str, str, str | None]]:
        query = select(AUDIT).where(AUDIT.c.object == f"manual_task:{task['task_id']}").order_by(AUDIT.c.number)
        return [(row.action, row.actor, row.reason) for row in conn.execute(query)]

    (_, actor, _), last = await api.services.db.read(acts)
    assert last == ("manual_task_resolve", actor, "a família ligou")
    assert await api.services.db.read(lambda conn: list(verify(conn))) == []


async def test_carrying_it_out_needs_no_body_and_the_audit_trail_says_where_it_came_from(api: Api) -> None:
    task = await expired(api)
    answer = await api.call("POST", f"/manual-tasks/{task['task_id']}/replay")
    assert answer.status_code == 200, answer.text
    assert answer.json()["command"]["result"] == "blocked_unconfirmed"

    def reasons(conn: Connection) -> set[str | None]:
        return set(conn.execute(select(AUDIT.c.reason).where(AUDIT.c.object == f"manual_task:{task['task_id']}")).scalars())

    assert await api.services.db.read(reasons) == {"carried out over the API"}


async def test_a_person_is_stopped_by_the_gate_like_everybody(api: Api) -> None:
    await api.one(api.command(payload=api.slot(5, "a-taken")))
    task = await expired(api, "a-late", 5)
    done = await call(api, f"{task['task_id']}/replay", reason="insisto", confirmed_by_contact=True)
    assert (done["command"]["result"], done["status"]) == ("blocked_agenda_conflict", "claimed")
    assert (await api.call("GET", "/appointments/a-late")).status_code == 404


async def test_an_unusable_item_is_shown_as_it_came_and_cannot_be_carried_out(api: Api) -> None:
    await api.one({"command_type": "dance", "payload": {"step": 1}}, wait=0)
    (task,) = (await api.get("/manual-tasks", cause="invalid_payload_manual"))["items"]
    whole = await api.get(f"/manual-tasks/{task['task_id']}")
    assert (whole["payload"]["command_type"], whole["can_apply"]) == ("dance", False)
    await call(api, f"{task['task_id']}/replay", 400, reason="tentar")


async def test_several_tasks_are_closed_together_and_each_is_judged_alone(api: Api) -> None:
    ids = [(await expired(api, f"a-{n}", n))["task_id"] for n in (1, 2, 3)]
    other = await colleague(api)
    await call(other, f"{ids[1]}/claim")
    answer = await call(api, "resolve", task_ids=[*ids, "nothing"], resolution="not_needed", note="mutirão")
    assert [(i["task_id"], i["closed"]) for i in answer["items"]] == [
        (ids[0], True),
        (ids[1], False),
        (ids[2], True),
        ("nothing", False),
    ]
    await call(api, "resolve", 400, task_ids=[], resolution="not_needed")
    assert [t["task_id"] for t in (await api.get("/manual-tasks"))["items"]] == [ids[1]]


async def test_tasks_come_in_pages_and_another_clinic_sees_none_of_them(api: Api) -> None:
    for n in (1, 2, 3):
        await expired(api, f"a-{n}", n)
    first = await api.get("/manual-tasks", limit=2)
    rest = await api.get("/manual-tasks", limit=2, cursor=first["next_cursor"])
    assert len({t["task_id"] for t in first["items"] + rest["items"]}) == 3
    assert rest["next_cursor"] is None
    stranger = await open_api(api.services, api.client, "clinica-vizinha")
    assert (await stranger.get("/manual-tasks"))["items"] == []
    task_id = first["items"][0]["task_id"]
    assert (await stranger.call("GET", f"/manual-tasks/{task_id}")).status_code == 404
    await call(stranger, f"{task_id}/claim", 404)
    await call(stranger, f"{task_id}/resolve", 404, resolution="not_needed")
