"""Contingency through the API with the real engine on a clock that only the test moves (F-05)."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.clock import ManualClock
from app.store.tables import AuditEntry, EventLog, ModeRow, table
from tests.web.api_client import Api, open_api
from tests.web.engine_fixtures import api, engine
from tests.web.outage import ended, family, parked, switch

__all__ = ["api", "engine"]


async def test_while_a_channel_is_down_messages_are_heard_and_sensitive_commands_are_parked(api: Api) -> None:
    on = await switch(api, True)
    assert (on["channel"], on["active"], on["reason"]) == ("whatsapp", True, "o provedor caiu")
    command_id = await parked(api)
    found = await api.get(f"/commands/{command_id}")
    assert (found["source"], found["reason"], found["commit_order"]) == ("contingency", "contingency_active", 1)
    behind = await parked(api, command_type="follow_up", payload={"text": "depois"})
    assert (await api.get(f"/commands/{behind}"))["reason"] == "behind_parked"
    assert [i["source"] for i in (await api.get("/queue"))["items"]] == ["contingency", "contingency"]
    said = await api.call("POST", "/events", json=api.event("vocês estão aí?"))
    await api.processed(said.json()["event_id"])
    state = await api.get("/contingency")
    assert (state["active"], state["parked"], state["reason"]) == (True, 2, "o provedor caiu")
    assert [(c["channel"], c["active"]) for c in state["channels"]] == [("whatsapp", True)]


async def test_contingency_ends_with_its_last_channel(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True, "whatsapp")
    manual_clock.advance(seconds=1)
    await switch(api, True, "evolution", "instável")
    assert (await api.get("/contingency"))["reason"] == "o provedor caiu; instável"
    assert (await switch(api, False, "whatsapp", "voltou"))["contingency_active"]
    ended_now = await switch(api, False, "evolution", "voltou")
    assert (ended_now["contingency_active"], ended_now["active"], ended_now["since"] is not None) == (False, False, True)


async def test_every_switch_is_audited_once_and_raises_the_epoch(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    since = (await api.get("/contingency"))["since"]
    manual_clock.advance(minutes=3)
    await switch(api, True)  # the same again
    assert (await api.get("/contingency"))["since"] == since
    await switch(api, False, reason="voltou")

    def read(conn: Connection) -> tuple[list[str], int, set[str]]:
        trail, log, mode = table(AuditEntry), table(EventLog), table(ModeRow)
        acts = conn.execute(select(trail.c.action).where(trail.c.action.like("contingency.%")).order_by(trail.c.number)).scalars()
        topics = conn.execute(select(log.c.topic).where(log.c.topic.in_(["safe_mode", "replay"]))).scalars()
        return list(acts), conn.execute(select(mode.c.epoch).where(mode.c.scope == api.clinic.tenant_id)).scalar_one(), set(topics)

    assert await api.services.db.read(read) == (["contingency.on", "contingency.off"], 2, {"safe_mode", "replay"})


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"channel": "fax", "active": True, "reason": "x"}, "/channel"),
        ({"channel": "whatsapp", "active": True}, "/reason"),
        ({"channel": "whatsapp", "active": True, "reason": " "}, "/reason"),
    ],
)
async def test_a_switch_needs_a_known_channel_and_a_reason(api: Api, body: dict[str, Any], pointer: str) -> None:
    answer = await api.call("PUT", "/contingency", json=body)
    assert answer.status_code == 400
    assert [e["pointer"] for e in answer.json()["errors"]] == [pointer]
    assert not (await api.get("/contingency"))["active"]


async def test_another_clinics_contingency_is_not_ours(api: Api) -> None:
    other = await open_api(api.services, api.client, "clinica-vizinha")
    await switch(other, True)
    assert not (await api.get("/contingency"))["active"]
    assert (await api.one(api.command()))["status"] == "committed_causal"
    foreign = await api.call(
        "PUT", "/contingency", json={"channel": "api", "active": True, "reason": "x", "tenant_id": other.clinic.slug}
    )
    assert foreign.status_code in (403, 404)


@pytest.mark.story("S-PC-02-003")
async def test_after_it_the_parked_ones_leave_through_the_fences_in_lane_order(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    slot = api.slot(1, "a-1")
    first = await parked(api, payload=slot)
    cancel = await parked(api, command_type="cancel", payload={"appointment_id": "a-1"}, entity_version=1)
    manual_clock.advance(minutes=30)
    await switch(api, False)
    results = [await ended(api, c) for c in (first, cancel)]
    # the cancellation was decided when the appointment did not exist yet: its as_of is older than what it would cancel
    assert [(r["result"], r["commit_order"]) for r in results] == [("replayed", 1), ("replayed", 2)]
    assert all(r["was_parked"] for r in results)
    drain = await api.once("/contingency", lambda c: c["drain"] and c["drain"]["state"] == "completed")
    assert (drain["parked"], drain["drain"]["released"], drain["drain"]["parked_at_start"]) == (0, 2, 2)


@pytest.mark.story("S-PC-02-001")
@pytest.mark.parametrize(("late_ms", "result"), [(0, "replayed"), (1, "expired_manual")])
async def test_the_time_limit_of_a_parked_command_is_valid_to_the_millisecond(
    api: Api, manual_clock: ManualClock, late_ms: int, result: str
) -> None:
    await switch(api, True)
    command_id = await parked(api)
    manual_clock.advance(minutes=120, milliseconds=late_ms)
    await switch(api, False)
    assert (await ended(api, command_id))["result"] == result


async def test_what_comes_while_a_lane_waits_for_its_turn_waits_behind_it(api: Api, manual_clock: ManualClock) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"drain_per_s": 0.01})
    await switch(api, True)
    for n in range(12):  # two more than the first burst
        await family(api, f"c-{n:02}")
        await parked(api, contact_id=f"c-{n:02}")
    manual_clock.advance(minutes=2)
    await switch(api, False)
    await api.once("/contingency", lambda c: c["parked"] == 2)
    live = await parked(api, contact_id="c-11", command_type="follow_up", payload={"text": "e agora?"})
    assert (await api.get(f"/commands/{live}"))["reason"] == "behind_parked"
    manual_clock.advance(minutes=10)
    assert (await ended(api, live))["result"] == "replayed"


async def test_a_drain_stops_when_contingency_comes_back(api: Api, manual_clock: ManualClock) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"drain_per_s": 0.01})
    await switch(api, True)
    for n in range(12):
        await family(api, f"c-{n:02}")
        await parked(api, contact_id=f"c-{n:02}")
    await switch(api, False)
    await api.once("/contingency", lambda c: c["parked"] == 2)
    await switch(api, True, reason="caiu de novo")
    await api.once("/contingency", lambda c: c["drain"]["state"] == "interrupted")
    manual_clock.advance(minutes=10)
    assert (await api.get("/contingency"))["parked"] == 2


async def test_the_most_urgent_lanes_leave_first(api: Api, manual_clock: ManualClock) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"drain_per_s": 0.01})
    await switch(api, True)
    for n in range(11):
        await family(api, f"c-{n:02}")
        await parked(api, contact_id=f"c-{n:02}")
    await family(api, "c-urgent")
    await parked(api, contact_id="c-urgent")
    pull = await parked(api, contact_id="c-urgent", command_type="takeover", payload={})
    await switch(api, False)
    await ended(api, pull)
    assert (await api.once("/contingency", lambda c: c["parked"] == 3))["drain"]["state"] == "running"


async def test_a_backlog_that_grows_slows_the_drain_down_and_becomes_an_incident(api: Api, manual_clock: ManualClock) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"drain_per_s": 0.01})
    await switch(api, True)
    for n in range(12):
        await family(api, f"c-{n:02}")
        await parked(api, contact_id=f"c-{n:02}")
    await switch(api, False)
    await api.once("/contingency", lambda c: c["parked"] == 2)
    for backlog in (4, 6, 8, 10):  # the first look sees fewer than at the start, the next three more each time
        for word in ("oi", "tchau"):
            await parked(api, contact_id="c-11", command_type="follow_up", payload={"text": f"{word} {backlog}"})
        manual_clock.advance(seconds=11)
        drain = (await api.once("/contingency", lambda c, b=backlog: c["drain"]["backlog"] == b))["drain"]  # type: ignore[misc]
    assert (drain["slowed"], drain["incident_at"] is not None) == (3, True)
    assert drain["rate_per_s"] == pytest.approx(0.01 / 8)
    (alert,) = (await api.get("/alerts"))["items"]
    assert (alert["trigger"], alert["severity"], alert["status"]) == ("replay_backlog", "high", "open")


async def test_a_source_whose_clock_is_ahead_is_shown_and_alerted_until_it_is_right_again(
    api: Api, manual_clock: ManualClock
) -> None:
    soon = (api.now + timedelta(seconds=61)).isoformat()
    await api.one(api.command(occurred_at=soon))
    await api.services.skew.tick()
    (clock,) = (await api.get("/clock-skew"))["items"]
    assert (clock["source"], clock["state"], clock["skew_s"], clock["samples"]) == ("orchestrator", "ahead", 61, 1)
    (alert,) = (await api.get("/alerts"))["items"]
    assert (alert["trigger"], alert["severity"], alert["status"]) == ("clock_skew", "warning", "open")
    manual_clock.advance(minutes=30)
    await api.one(api.command())
    await api.services.skew.tick()
    assert [c["state"] for c in (await api.get("/clock-skew"))["items"]] == ["fine"]
    assert [a["status"] for a in (await api.get("/alerts"))["items"]] in ([], ["resolved"])
