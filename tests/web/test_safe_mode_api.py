"""Safe mode through the API, the engine moved by hand: entry, the four gates of the exit, the window, the drain."""

import httpx
import pytest
from sqlalchemy import text

from app.bootstrap import Services
from app.clock import ManualClock
from app.store.verify import verify
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.conftest import add_key, add_tenant
from tests.web.safe_mode_driver import (
    ALL_TICKS,
    DONE,
    acknowledge,
    break_channel,
    hear,
    look,
    mend_channel,
    post,
    raise_alert,
    result,
    send,
    serve,
)

BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite; where the statements themselves are at stake (`BOTH`) PostgreSQL as well."""
    url: str = request.getfixturevalue("postgres_url" if getattr(request, "param", "sqlite") == "postgresql" else "sqlite_url")
    return url


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


@pytest.mark.story("S-PC-03-002")
async def test_safe_mode_by_hand_parks_what_changes_the_agenda_and_says_so(api: Api) -> None:
    assert (await api.get("/safe-mode"))["state"] == "normal"
    entered = await post(api, "enter", {"reason": "o Redis parou"})
    assert entered["state"] == "safe_mode_active"
    assert entered["blocked_types"] == ["cancel", "reschedule", "schedule"]
    assert [c["summary"] for c in entered["causes"]] == ["o Redis parou"]
    ids = await send(api, api.command(), api.command("follow_up", {"text": "oi"}))
    await serve(api)
    assert [(await result(api, i))["status"] for i in ids] == ["pending_safe_mode", "pending_safe_mode"]
    assert (await api.get("/safe-mode"))["parked"] == 2
    again = await post(api, "enter", {"reason": "o Redis parou"})
    assert [c["summary"] for c in again["causes"]] == ["o Redis parou"]
    more = await post(api, "enter", {"reason": "e o n8n também"})
    assert (more["episode_id"], len(more["causes"])) == (entered["episode_id"], 2)


@pytest.mark.story("S-PC-03-004")
async def test_the_exit_is_refused_with_what_is_missing_until_every_gate_is_there(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    await look(api, manual_clock, 25)
    names = ["recovery_action", "recovery_by", "runbook_step", *ALL_TICKS]
    assert (await post(api, "exit"))["missing"] == names
    await post(api, "recovery", {"action": "reiniciado", "runbook_step": "redis-3"})
    denied = await post(api, "exit")
    assert (denied["result"], denied["missing"]) == ("safe_mode_exit_denied_missing_checklist", list(ALL_TICKS))
    await post(api, "recovery", {"checklist": {**ALL_TICKS, "ops_notified": False}})
    assert (await post(api, "exit"))["missing"] == ["ops_notified"]
    state = await api.get("/safe-mode")
    assert (state["state"], state["last_exit_result"]) == ("safe_mode_active", "safe_mode_exit_denied_missing_checklist")


@pytest.mark.story("S-PC-03-004")
@BOTH
async def test_the_exit_waits_for_ten_green_minutes_then_completes_by_itself_and_drains_in_order(
    api: Api, manual_clock: ManualClock
) -> None:
    await post(api, "enter", {"reason": "teste"})
    ids = await send(api, api.command(), api.command("follow_up", {"text": "oi"}))
    await serve(api)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    assert (await post(api, "exit", status=202)) | {"health_window": None} == {
        "result": None, "missing": [], "reason": None, "state": "recovering", "health_window": None,
    }  # fmt: skip
    state = await look(api, manual_clock, 19)
    assert (state["state"], state["health_window"]["green_s"], state["health_window"]["needed_s"]) == ("recovering", 570, 600)
    await serve(api)
    assert (await result(api, ids[0]))["status"] == "pending_safe_mode"
    state = await look(api, manual_clock)
    assert (state["state"], state["last_exit_result"]) == ("draining", "safe_mode_exit_completed")
    assert state["blocked_types"] == []
    await serve(api)
    assert (await result(api, ids[0]))["status"] == "pending_safe_mode"  # its turn comes with the drain
    await look(api, manual_clock, step_s=5)
    await serve(api)
    assert [(await result(api, i))["result"] for i in ids] == ["replayed", "replayed"]
    assert (await look(api, manual_clock, step_s=5))["state"] == "normal"
    assert (await post(api, "exit"))["result"] == "safe_mode_exit_completed"
    everybody = Api(api.client, api.services, api.clinic, await add_key(api.services, None))
    assert (await everybody.get("/safe-mode"))["last_exit_result"] == "safe_mode_exit_completed"
    assert (await post(everybody, "exit"))["result"] == "safe_mode_exit_completed"
    assert await api.services.db.read(verify) == []


@pytest.mark.story("S-PC-03-004")
@BOTH
async def test_a_red_check_in_minute_six_sets_the_window_back_to_zero_and_names_itself(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 12)
    await break_channel(api)
    state = await look(api, manual_clock)
    window = state["health_window"]
    assert (state["state"], state["last_exit_result"]) == ("safe_mode_active", "safe_mode_exit_aborted_health_unstable")
    assert (window["green_since"], window["reset_by"], window["reset_after_s"]) == (None, "channels", 360)
    assert [c["name"] for c in window["checks"] if c["status"] == "red"] == ["channels"]
    assert (await post(api, "exit"))["result"] == "safe_mode_exit_aborted_health_unstable"
    await mend_channel(api)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    assert (await look(api, manual_clock, 19))["state"] == "recovering"
    assert (await look(api, manual_clock, 1))["state"] == "draining"


@pytest.mark.story("S-PC-03-004")
async def test_a_hole_between_samples_restarts_the_window_without_ending_the_attempt(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 10)
    manual_clock.advance(seconds=31)
    await api.services.safe_mode.tick()
    state = await api.get("/safe-mode")
    assert (state["state"], state["health_window"]["reset_by"], state["health_window"]["green_s"]) == ("recovering", "no_sample", 0)
    assert (await look(api, manual_clock, 20))["state"] == "recovering"
    assert (await look(api, manual_clock, 1))["state"] == "draining"


@pytest.mark.story("S-PC-03-004")
@BOTH
async def test_red_while_draining_parks_what_is_left_at_once_and_is_counted(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    (held,) = await send(api, api.command())
    await serve(api)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    assert (await look(api, manual_clock, 20))["state"] == "draining"
    await break_channel(api)
    state = await look(api, manual_clock, step_s=5)
    assert (state["state"], state["reentries"], state["parked"]) == ("safe_mode_active", 1, 1)
    await serve(api)
    assert (await result(api, held))["status"] == "pending_safe_mode"


async def test_a_new_action_starts_the_window_anew(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    state = await look(api, manual_clock, 6)
    assert state["health_window"]["green_s"] == 150
    state = await post(api, "recovery", DONE)
    assert state["health_window"]["green_s"] == 0
    await look(api, manual_clock, 3)
    assert (await post(api, "recovery", DONE))["health_window"]["green_s"] == 60


@BOTH
async def test_the_most_urgent_lanes_leave_first_and_no_faster_than_the_rate(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    families = [f"c-{n}" for n in range(4)]
    for name in families:
        await api.put(f"/contacts/{name}", {"phone": None, "name": name})
    await send(api, *(api.command(contact_id=name, guardian_version=0) for name in families))
    await send(api, api.command("takeover", {"reason": "pediu"}, contact_id="c-3"))
    await serve(api)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    assert (await look(api, manual_clock, 20))["state"] == "draining"
    left = []
    for _ in range(4):
        await look(api, manual_clock, step_s=1)
        await serve(api)
        lanes = {name: (await api.get(f"/contacts/{name}"))["lane"]["waiting"] for name in families}
        left.append(sorted(name for name, waiting in lanes.items() if not waiting))
    assert left == [["c-3"], ["c-0", "c-3"], ["c-0", "c-1", "c-3"], ["c-0", "c-1", "c-2", "c-3"]]


@BOTH
async def test_a_global_key_without_a_clinic_enters_for_all_and_a_clinics_key_cannot_leave_that(
    api: Api, client: httpx.AsyncClient, services: Services, global_key: dict[str, str], manual_clock: ManualClock
) -> None:
    other = await open_api(services, client, "clinica-vizinha")
    answer = await client.post("/api/v1/safe-mode/enter", headers=global_key, json={"reason": "tudo parado"})
    assert (answer.status_code, answer.json()["scope"]) == (200, "global")
    for each in (api, other):
        assert (await each.get("/safe-mode"))["state"] == "safe_mode_active"
        assert (await each.call("POST", "/safe-mode/exit")).status_code == 403
        (held,) = await send(each, each.command())
        await serve(each)
        assert (await result(each, held))["status"] == "pending_safe_mode"
    assert (await client.get("/api/v1/safe-mode", headers=global_key)).json()["parked"] == 2


async def test_leaving_for_all_clinics_leaves_a_clinic_in_its_own_safe_mode(
    api: Api, client: httpx.AsyncClient, services: Services, global_key: dict[str, str], manual_clock: ManualClock
) -> None:
    other = await open_api(services, client, "clinica-vizinha")
    everybody = Api(client, services, other.clinic, global_key)
    await post(api, "enter", {"reason": "só aqui"})
    await post(everybody, "enter", {"reason": "tudo parado"})
    (ours,), (theirs,) = await send(api, api.command()), await send(other, other.command())
    await serve(api)
    await post(everybody, "recovery", DONE)
    await look(everybody, manual_clock)
    await post(everybody, "exit", status=202)
    everywhere = {"tenant_id": "global"}
    answer = await everybody.call("POST", "/safe-mode/exit", params=everywhere)
    assert (answer.status_code, answer.json()["state"]) == (202, "recovering")
    await look(everybody, manual_clock, 20)
    assert (await everybody.get("/safe-mode", **everywhere))["state"] == "draining"
    for _ in range(3):
        await look(everybody, manual_clock, step_s=5)
        await serve(api)
    assert [(await result(api, ours))["status"], (await result(other, theirs))["result"]] == ["pending_safe_mode", "replayed"]
    assert (await other.get("/safe-mode"))["state"] == "normal"
    assert [(await each.get("/safe-mode"))["scope"] for each in (api, everybody)] == [api.clinic.tenant_id] * 2
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 20)
    await look(api, manual_clock, step_s=5)
    await serve(api)
    assert (await result(api, ours))["result"] == "replayed"
    assert await services.db.read(verify) == []


async def test_of_several_clinics_a_global_key_must_name_the_one_it_means(
    api: Api, client: httpx.AsyncClient, services: Services, global_key: dict[str, str]
) -> None:
    other = await open_api(services, client, "clinica-vizinha")
    everybody = Api(client, services, other.clinic, global_key)
    await post(api, "enter", {"reason": "aqui"})
    assert (await post(everybody, "exit"))["state"] == "safe_mode_active"  # there is only one it can mean
    await post(other, "enter", {"reason": "ali"})
    await post(everybody, "exit", status=400)
    answer = await post(everybody, "exit", {"tenant_id": "clinica-vizinha"})
    assert answer["result"] == "safe_mode_exit_denied_missing_checklist"


async def test_a_clinics_safe_mode_leaves_the_others_alone(api: Api, client: httpx.AsyncClient, services: Services) -> None:
    other = await open_api(services, client, "clinica-vizinha")
    await post(api, "enter", {"reason": "só aqui"})
    ours = {"tenant_id": api.clinic.slug}
    assert (await other.call("GET", "/safe-mode", params=ours)).status_code == 403
    assert (await other.call("POST", "/safe-mode/exit", params=ours)).status_code == 403
    for path, body in (("enter", {"reason": "x"}), ("recovery", DONE)):
        assert (await other.call("POST", f"/safe-mode/{path}", json=body | ours)).status_code == 403
    assert (await other.get("/safe-mode"))["state"] == "normal"
    (done,) = await send(other, other.command())
    await serve(other)
    assert (await result(other, done))["result"] == "applied_once"


async def test_entering_needs_admin_and_leaving_needs_operate(api: Api, services: Services, client: httpx.AsyncClient) -> None:
    clinic = await add_tenant(services, "so-leitura")
    for scopes, path, status in (("operate read", "enter", 403), ("read", "exit", 403), ("read", "recovery", 403)):
        key = await add_key(services, clinic.tenant_id, scopes)
        answer = await client.post(f"/api/v1/safe-mode/{path}", headers=key, json={"reason": "x"})
        assert answer.status_code == status, path


async def test_leaving_what_was_never_entered_is_a_conflict_and_bad_words_are_refused(api: Api) -> None:
    assert (await api.call("POST", "/safe-mode/exit")).status_code == 409
    assert (await api.call("POST", "/safe-mode/recovery", json=DONE)).status_code == 409
    assert (await api.call("POST", "/safe-mode/enter", json={"reason": "  "})).status_code == 400
    assert (await api.call("POST", "/safe-mode/enter", json={"reason": "a\x00b"})).status_code == 400


async def test_messages_of_families_are_heard_in_safe_mode(api: Api) -> None:
    await post(api, "enter", {"reason": "teste"})
    event_id = await hear(api)
    await api.services.conversations.tick()
    assert (await api.get(f"/events/{event_id}"))["status"] == "processed"
    assert (await api.get(f"/contacts/{CONTACT}"))["conversation_version"] == 2


@pytest.mark.parametrize(
    ("code", "tamper"),
    [
        ("effect_in_safe_mode", "UPDATE ledger SET committed_at = (SELECT at FROM safe_cause)"),
        ("exit_without_recovery", "UPDATE safe_episode SET recovery_action = NULL"),
        ("exit_without_checklist", "UPDATE safe_episode SET checklist_json = '{}'"),
        ("exit_without_ack", "UPDATE alert SET acked_at = NULL"),
    ],
)
async def test_the_checker_sees_what_safe_mode_must_not_allow(api: Api, manual_clock: ManualClock, code: str, tamper: str) -> None:
    await send(api, api.command())
    await serve(api)
    manual_clock.advance(minutes=1)
    alert_id = await raise_alert(api)
    await look(api, manual_clock, 30)
    await acknowledge(api, alert_id)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    assert (await look(api, manual_clock, 20))["state"] == "draining"
    assert await api.services.db.read(verify) == []
    await api.services.db.write(lambda conn: conn.execute(text(tamper)))
    assert code in {v.code for v in await api.services.db.read(verify)}
