"""Safe mode by an alert that nobody acknowledged: entry, what families hear, the ticket, and what happens when a step fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Connection, select, text

from app.bootstrap import Services
from app.clock import ManualClock
from app.store import notices
from app.store.tables import Alert, ContingencyNotice, Outbox, SafeStep, Ticket, table
from app.store.verify import verify
from tests.web.api_client import Api, open_api
from tests.web.safe_mode_driver import (
    DONE,
    acknowledge,
    break_channel,
    deliver,
    hear,
    look,
    post,
    raise_alert,
    result,
    send,
    serve,
    tell,
)

NOTICE, OUTBOX, TICKET, ALERT = table(ContingencyNotice), table(Outbox), table(Ticket), table(Alert)
STEP = table(SafeStep)


BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite; where the statements themselves are at stake (`BOTH`) PostgreSQL as well."""
    url: str = request.getfixturevalue("postgres_url" if getattr(request, "param", "sqlite") == "postgresql" else "sqlite_url")
    return url


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


async def rows(api: Api, of: Any) -> list[Any]:
    def read(conn: Connection) -> list[Any]:
        return list(conn.execute(select(of)))

    return await api.services.db.read(read)


async def triggers(api: Api) -> list[str]:
    """Triggers of the alerts that the product raised by itself."""
    return sorted(row.trigger for row in await rows(api, ALERT) if row.raised_by.startswith("system:"))


# --- entry --------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-002")
async def test_at_fifteen_minutes_commands_are_parked_though_no_timer_runs(api: Api, manual_clock: ManualClock) -> None:
    await raise_alert(api)
    manual_clock.advance(minutes=14, seconds=59)
    (before,) = await send(api, api.command())
    await serve(api)
    assert (await result(api, before))["result"] == "applied_once"
    manual_clock.advance(seconds=1)
    assert (await api.get("/safe-mode"))["state"] == "safe_mode_active"
    (after,) = await send(api, api.command())
    await serve(api)
    assert (await result(api, after))["status"] == "pending_safe_mode"


@pytest.mark.story("S-PC-03-002")
@BOTH
async def test_the_loop_makes_the_deadline_visible_as_one_episode_with_every_cause(api: Api, manual_clock: ManualClock) -> None:
    first = await raise_alert(api)
    manual_clock.advance(minutes=5)
    second = await raise_alert(api, "redis_down")
    deadline = api.now + timedelta(minutes=10)
    assert (await look(api, manual_clock, step_s=599))["state"] == "normal"
    state = await look(api, manual_clock, step_s=1)
    assert (state["state"], state["since"]) == ("safe_mode_active", deadline.isoformat(timespec="milliseconds")[:-6] + "Z")
    assert [c["alert_id"] for c in state["causes"]] == [first]
    state = await look(api, manual_clock, 10)
    assert [(c["alert_id"], c["acknowledged"]) for c in state["causes"]] == [(first, False), (second, False)]
    assert state["missing"][:2] == sorted([f"ack:{first}", f"ack:{second}"])


@pytest.mark.story("S-PC-03-002")
async def test_an_ack_at_14_59_prevents_safe_mode_and_one_at_15_00_does_not_lift_it(api: Api, manual_clock: ManualClock) -> None:
    early = await raise_alert(api)
    manual_clock.advance(minutes=14, seconds=59)
    await acknowledge(api, early)
    assert (await look(api, manual_clock, 4))["state"] == "normal"
    late = await raise_alert(api, "redis_down")
    manual_clock.advance(minutes=15)
    await acknowledge(api, late)
    assert (await api.get("/safe-mode"))["state"] == "safe_mode_active"
    state = await look(api, manual_clock)
    assert (state["state"], [c["acknowledged"] for c in state["causes"]]) == ("safe_mode_active", [True])


async def test_an_ack_long_after_the_deadline_enters_all_the_same_though_every_loop_was_dead(
    api: Api, manual_clock: ManualClock
) -> None:
    alert_id = await raise_alert(api)
    manual_clock.advance(hours=3)
    await acknowledge(api, alert_id)
    answer = await api.call("POST", f"/alerts/{alert_id}/resolve", json={})
    assert answer.status_code == 200, answer.text
    state = await look(api, manual_clock)
    assert (state["state"], [c["alert_id"] for c in state["causes"]]) == ("safe_mode_active", [alert_id])


@pytest.mark.story("S-PC-03-004")
async def test_the_exit_needs_the_ack_of_every_cause(api: Api, manual_clock: ManualClock) -> None:
    alert_id = await raise_alert(api)
    await look(api, manual_clock, 30)
    await post(api, "recovery", DONE)
    denied = await post(api, "exit")
    assert (denied["result"], denied["missing"]) == ("safe_mode_exit_denied_missing_checklist", [f"ack:{alert_id}"])
    assert await triggers(api) == ["safe_mode_exit_denied"]
    await acknowledge(api, alert_id)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    state = await look(api, manual_clock, 20)
    assert (state["state"], state["last_exit_result"]) == ("draining", "safe_mode_exit_completed")
    assert (await look(api, manual_clock, step_s=5))["state"] == "normal"
    (done,) = await send(api, api.command())
    await serve(api)
    assert (await result(api, done))["result"] == "applied_once"


async def test_an_alert_that_ended_after_its_deadline_still_needs_its_ack(api: Api, manual_clock: ManualClock) -> None:
    alert_id = await raise_alert(api)
    await look(api, manual_clock, 31)
    assert (await api.call("POST", f"/alerts/{alert_id}/resolve", json={})).status_code == 200
    await post(api, "recovery", DONE)
    assert (await post(api, "exit"))["missing"] == [f"ack:{alert_id}"]
    await acknowledge(api, alert_id)
    await look(api, manual_clock)
    await post(api, "exit", status=202)


@pytest.mark.story("S-PC-03-004")
async def test_an_alert_that_still_counts_goes_on_counting_after_the_exit(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 10)
    await raise_alert(api)
    state = await look(api, manual_clock, 10)
    assert state["state"] == "draining", state
    assert (await look(api, manual_clock, 2, step_s=5))["state"] == "normal"
    state = await look(api, manual_clock, 20)
    assert (state["state"], len(state["causes"])) == ("safe_mode_active", 1)


@pytest.mark.story("S-PC-03-004")
async def test_another_deadline_during_the_recovery_throws_it_back_and_is_alerted(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    await look(api, manual_clock)
    await raise_alert(api)
    await look(api, manual_clock, 15)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    state = await look(api, manual_clock, 14)
    assert (state["state"], state["reentries"], len(state["causes"])) == ("safe_mode_active", 1, 2)
    assert await triggers(api) == ["safe_mode_reentry"]


@pytest.mark.story("S-PC-03-004")
@BOTH
async def test_a_second_cause_closes_the_gates_that_the_first_one_opened(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "o Redis parou"})
    await look(api, manual_clock)
    alert_id = await raise_alert(api)
    manual_clock.advance(minutes=4)
    await post(api, "recovery", DONE)
    await look(api, manual_clock, 20)  # ten green minutes for the repair of Redis
    manual_clock.advance(minutes=1)
    state = await look(api, manual_clock)
    assert [c["kind"] for c in state["causes"]] == ["manual", "alert"]
    window = state["health_window"]
    assert (state["recovery"]["action"], window["reset_by"]) == (None, "new_cause")
    await acknowledge(api, alert_id)
    denied = await post(api, "exit")
    assert denied["result"] == "safe_mode_exit_denied_missing_checklist"
    assert denied["missing"] == [
        "recovery_action", "recovery_by", "runbook_step",
        "ack_validated", "recovery_action_logged", "ops_notified", "ticket_in_recovery",
    ]  # fmt: skip
    await post(api, "recovery", DONE)
    assert (await look(api, manual_clock))["health_window"]["green_s"] < 60
    await post(api, "exit", status=202)
    assert (await look(api, manual_clock, 18))["state"] == "recovering"
    assert (await look(api, manual_clock, 3))["state"] in ("draining", "normal")


@BOTH
async def test_a_stale_recovery_form_takes_nothing_back(api: Api) -> None:
    await post(api, "enter", {"reason": "teste"})
    rev = (await api.get("/safe-mode"))["recovery"]["rev"]
    await post(api, "recovery", {"checklist": {"ops_notified": True}, "rev": rev})
    await post(api, "recovery", {"checklist": {"ops_notified": False}, "rev": rev}, status=409)
    recovery = (await api.get("/safe-mode"))["recovery"]
    assert (recovery["checklist"]["ops_notified"], recovery["rev"]) == (True, rev + 1)


@BOTH
async def test_both_stores_down_is_entered_for_everybody_once_one_can_be_written(api: Api, manual_clock: ManualClock) -> None:
    api.services.health.stores_down_at = api.now
    await api.services.safe_mode.tick()
    state = await api.get("/safe-mode")
    assert (state["state"], state["scope"]) == ("safe_mode_active", "global")
    assert sorted(c["kind"] for c in state["causes"]) == ["alert", "stores_down"]
    assert await triggers(api) == ["stores_down"]


@pytest.mark.story("S-PC-03-004")
@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
async def test_a_clock_that_steps_by_an_hour_skips_no_stage_and_shortens_none(
    api: Api, manual_clock: ManualClock, hours: int
) -> None:
    """In the wait for the ACK, in the window and in the drain: what was due happens, late rather than never and never early."""
    alert_id = await raise_alert(api)
    await look(api, manual_clock, 10, step_s=60)
    manual_clock.advance(hours=hours)
    state = await look(api, manual_clock)
    assert state["state"] == ("normal" if hours < 0 else "safe_mode_active")
    manual_clock.advance(hours=max(0, -hours))
    await look(api, manual_clock, 5, step_s=60)
    assert [c["alert_id"] for c in (await api.get("/safe-mode"))["causes"]] == [alert_id]
    ids = await send(api, api.command())
    await serve(api)
    await acknowledge(api, alert_id)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 10)
    manual_clock.advance(hours=hours)
    state = await look(api, manual_clock, 5)
    assert (state["state"], state["health_window"]["green_s"] < 600) == ("recovering", True)
    manual_clock.advance(hours=max(0, -hours))
    for _ in range(40):
        if (await look(api, manual_clock))["state"] != "recovering":
            break
    assert (await api.get("/safe-mode"))["state"] == "draining"
    manual_clock.advance(hours=hours)
    assert (await look(api, manual_clock))["last_exit_result"] == "safe_mode_exit_completed"
    manual_clock.advance(hours=max(0, -hours))
    for _ in range(6):
        await look(api, manual_clock, step_s=5)
        await serve(api)
    assert (await api.get("/safe-mode"))["state"] == "normal"
    assert (await result(api, ids[0]))["result"] is not None
    entered = [row for row in await rows(api, STEP) if row.kind in ("entered", "drained")]
    assert [row.kind for row in entered] == ["entered", "drained"]
    assert await api.services.db.read(verify) == []


# --- families and the ticket --------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-003")
@BOTH
async def test_each_family_hears_once_per_intent_and_the_next_shift_has_a_ticket(api: Api, manual_clock: ManualClock) -> None:
    await raise_alert(api)
    manual_clock.advance(minutes=15)
    await api.put("/contacts/c-joana", {"phone": "+5511900000001", "name": "Joana"})
    await send(
        api,
        api.command(),
        api.command("follow_up", {"text": "oi"}),
        api.command("cancel", {"appointment_id": "a"}, entity_version=1),
    )
    await hear(api, "vocês abrem amanhã?", contact_id="c-joana")
    await serve(api)
    for _ in range(3):
        await tell(api)
    assert sorted((n.contact_id, n.intent) for n in await rows(api, NOTICE)) == [("c-maria", "cancel"), ("c-maria", "schedule")]
    manual_clock.advance(seconds=61)
    for _ in range(2):
        await tell(api)
    await deliver(api)
    await tell(api)
    found = await rows(api, NOTICE)
    assert sorted((n.contact_id, n.intent) for n in found) == [
        ("c-joana", "general"), ("c-maria", "cancel"), ("c-maria", "schedule"),
    ]  # fmt: skip
    assert {n.result for n in found} == {"contingency_message_sent_ticket_opened"}
    said = [msgspec.json.decode(o.body_json)["text"] for o in await rows(api, OUTBOX) if o.kind == "contingency_message"]
    assert len(said) == 3
    assert any("nada foi marcado ainda. Nossa equipe responde até 10:15." in each for each in said)
    (ticket,) = await rows(api, TICKET)
    context = msgspec.json.decode(ticket.context_json)
    assert (ticket.kind, ticket.tenant_id, ticket.state, ticket.reason) == (
        "critical", api.clinic.tenant_id, "open", "n8n_down aconteceu",
    )  # fmt: skip
    assert (context["priority"], context["parked"]) == ("P0", {"cancel": 1, "follow_up": 1, "schedule": 1})
    assert set(context["correlation_ids"]) >= {"corr-1", "corr-2", "corr-3"}
    await post(api, "recovery", {"checklist": {"ticket_in_recovery": True}})
    assert [t.state for t in await rows(api, TICKET)] == ["in_progress"]


async def test_an_alert_of_everybody_tells_the_families_of_every_clinic_and_each_has_its_ticket(
    api: Api, client: httpx.AsyncClient, services: Services, global_key: dict[str, str], manual_clock: ManualClock
) -> None:
    other = await open_api(services, client, "clinica-vizinha")
    everybody = Api(client, services, other.clinic, global_key)
    await raise_alert(everybody)
    await look(api, manual_clock, 30)
    await send(api, api.command())
    await send(other, other.command())
    await serve(api)
    for _ in range(2):
        await tell(api)
    clinics = sorted([api.clinic.tenant_id, other.clinic.tenant_id])
    assert sorted(n.tenant_id for n in await rows(api, NOTICE)) == clinics
    assert sorted(t.tenant_id for t in await rows(api, TICKET)) == sorted([*clinics, "global"])
    parked = {t.tenant_id: msgspec.json.decode(t.context_json)["parked"] for t in await rows(api, TICKET)}
    assert parked[clinics[0]] == parked[clinics[1]] == {"schedule": 1}
    for each in (api, other):
        listed = (await each.get("/tickets", kind="critical"))["items"]
        assert [(t["tenant_id"], t["state"], t["context"]["priority"]) for t in listed] == [(each.clinic.tenant_id, "open", "P0")]
        assert (await each.get("/tickets", kind="takeover"))["items"] == []
    assert (await api.call("GET", "/tickets", params={"tenant_id": other.clinic.slug})).status_code == 403
    first = await everybody.get("/tickets", limit=2)
    rest = await everybody.get("/tickets", limit=2, cursor=first["next_cursor"])
    assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)


@pytest.mark.story("S-PC-03-003")
async def test_what_whatsapp_could_not_carry_goes_over_the_second_channel(api: Api, manual_clock: ManualClock) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"contacts_channel": "whatsapp:", "contacts_fallback_channel": "simulator:"})
    await post(api, "enter", {"reason": "teste"})
    await send(api, api.command())
    await serve(api)
    await tell(api)
    await deliver(api)
    await tell(api)
    await deliver(api)
    await tell(api)
    steps = {o.step: o.status for o in await rows(api, OUTBOX)}
    assert steps == {"contingency_schedule": "failed", "fallback_schedule": "sent"}
    assert [n.result for n in await rows(api, NOTICE)] == ["contingency_message_sent_ticket_opened"]


@pytest.mark.story("S-PC-03-003")
async def test_a_family_that_cannot_be_told_is_in_the_ticket_and_people_are_alerted(api: Api, manual_clock: ManualClock) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"contacts_channel": "whatsapp:"})
    await post(api, "enter", {"reason": "teste"})
    await send(api, api.command())
    await serve(api)
    await tell(api)
    await deliver(api)
    await tell(api)
    assert [n.result for n in await rows(api, NOTICE)] == ["contingency_message_failed_ticket_opened"]
    assert len(await rows(api, TICKET)) == 1
    assert await triggers(api) == ["contingency_message_failed"]


async def test_a_clinic_may_word_what_its_families_read(api: Api) -> None:
    bad = await api.call("PUT", f"/settings/{api.clinic.slug}", json={"family_texts": {"schedule": {"open": "Olá {nome}"}}})
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (400, "/family_texts/schedule/open")
    await api.put(f"/settings/{api.clinic.slug}", {"family_texts": {"schedule": {"open": "Até {hora}."}}, "phone": "4000"})
    await post(api, "enter", {"reason": "teste"})
    await send(api, api.command())
    await serve(api)
    await tell(api)
    assert [msgspec.json.decode(o.body_json)["text"] for o in await rows(api, OUTBOX)] == ["Até 10:00."]


# --- when a step fails --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def refused_inserts(api: Api, name: str, trigger: str = "refuse") -> AsyncIterator[None]:
    """The database refuses new rows of a table."""

    def run(*statements: str) -> Any:
        return api.services.db.write(lambda conn: [conn.execute(text(s)) for s in statements])

    if api.services.db.is_sqlite:
        await run(f"CREATE TRIGGER {trigger} BEFORE INSERT ON {name} BEGIN SELECT RAISE(ABORT, 'refused'); END")
    else:
        await run(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$",
            f"CREATE TRIGGER {trigger} BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
    try:
        yield
    finally:
        await run(f"DROP TRIGGER {trigger}" + ("" if api.services.db.is_sqlite else f" ON {name}"))


@pytest.mark.story("S-PC-03-002")
@BOTH
async def test_an_activation_that_cannot_be_written_is_alerted_tried_on_and_on_and_blocks_all_the_same(
    api: Api, manual_clock: ManualClock
) -> None:
    await raise_alert(api)
    manual_clock.advance(minutes=15)
    async with refused_inserts(api, "safe_episode"):
        for _ in range(3):
            await api.services.safe_mode.tick()
        failed = api.services.safe_mode._failures[api.clinic.tenant_id]
        assert failed.count == 1  # the next attempt has its time
        for wait_s in (1, 2, 5, 10, 30, 60, 60):
            manual_clock.advance(seconds=wait_s)
            await api.services.safe_mode.tick()
        assert failed.count == 8
        (held,) = await send(api, api.command())
        await serve(api)
        assert (await result(api, held))["status"] == "pending_safe_mode"
        assert await triggers(api) == ["safe_mode_activation_failed"]
    await api.services.safe_mode.tick()
    assert (await api.get("/safe-mode"))["episode_id"] is None
    manual_clock.advance(minutes=1)
    await api.services.safe_mode.tick()  # a minute after the database is well the episode is there
    state = await api.get("/safe-mode")
    assert (state["state"], state["episode_id"] is not None) == ("safe_mode_active", True)
    assert api.services.safe_mode._failures == {}


@BOTH
async def test_the_alert_about_a_failed_activation_is_tried_again_by_itself(api: Api, manual_clock: ManualClock) -> None:
    await raise_alert(api)
    manual_clock.advance(minutes=15)
    async with refused_inserts(api, "safe_episode"):
        async with refused_inserts(api, "alert", "refuse_too"):
            await api.services.safe_mode.tick()
            assert await triggers(api) == []
            failed = api.services.safe_mode._failures[api.clinic.tenant_id]
            failed.again_at = api.now + timedelta(hours=1)
        manual_clock.advance(seconds=1)
        await api.services.safe_mode.tick()
        assert await triggers(api) == ["safe_mode_activation_failed"]
        assert failed.count == 1


@pytest.mark.parametrize("act", ["recovery", "exit", "enter"])
async def test_who_acts_before_the_next_attempt_writes_the_entry_down(api: Api, manual_clock: ManualClock, act: str) -> None:
    alert_id = await raise_alert(api)
    manual_clock.advance(minutes=15)
    body = {"recovery": DONE, "exit": None, "enter": {"reason": "ainda parado"}}[act]
    answer = await post(api, act, body)
    if act == "exit":
        assert answer["missing"][0] == f"ack:{alert_id}"
    state = await api.get("/safe-mode")
    assert (state["episode_id"] is not None, state["causes"][0]["alert_id"]) == (True, alert_id)


@pytest.mark.story("S-PC-03-003")
@BOTH
async def test_a_ticket_that_cannot_be_opened_is_alerted_and_tried_again(api: Api) -> None:
    await post(api, "enter", {"reason": "teste"})
    await send(api, api.command())
    await serve(api)
    async with refused_inserts(api, "ticket"):
        await tell(api)
        await deliver(api)
        await tell(api)
        assert [n.result for n in await rows(api, NOTICE)] == ["ticket_open_failed_alerted"]
        assert await triggers(api) == ["ticket_open_failed"]
    await tell(api)
    assert len(await rows(api, TICKET)) == 1
    assert await api.services.db.read(verify) == []


async def test_a_message_that_is_faster_than_its_ticket_waits_for_it(api: Api, manual_clock: ManualClock) -> None:
    """Another node may be about to open the ticket: the notice does not end as if that had failed."""
    await post(api, "enter", {"reason": "teste"})
    await send(api, api.command())
    await serve(api)
    scope = api.clinic.tenant_id
    waiting = await api.services.db.read(notices.affected, scope, api.now, 10)
    await api.services.db.write(notices.tell_families, scope, waiting, api.now)
    await deliver(api)
    assert await api.services.db.write(notices.settle, api.now) == []
    await tell(api)
    assert [n.result for n in await rows(api, NOTICE)] == ["contingency_message_sent_ticket_opened"]
    await send(api, api.command("cancel", {"appointment_id": "a"}, entity_version=1))
    await serve(api)
    await api.services.db.write(lambda conn: conn.execute(TICKET.delete()))
    waiting = await api.services.db.read(notices.affected, scope, api.now, 10)
    await api.services.db.write(notices.tell_families, scope, waiting, api.now)
    await deliver(api)
    manual_clock.advance(minutes=5)
    (ended,) = await api.services.db.write(notices.settle, api.now)
    assert (ended.intent, ended.result) == ("cancel", "ticket_open_failed_alerted")


async def test_red_health_while_draining_is_alerted(api: Api, manual_clock: ManualClock) -> None:
    await post(api, "enter", {"reason": "teste"})
    await send(api, api.command())
    await serve(api)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 20)
    await break_channel(api)
    await look(api, manual_clock, step_s=5)
    assert await triggers(api) == ["safe_mode_reentry"]
