"""Every step of the flows F-01 to F-06 leaves a line with the contract's fields and the correlation id of its flow."""

from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.d1 import D1
from app.store.database import Database
from app.store.lines import say
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.safe_mode_driver import (
    DONE,
    acknowledge,
    break_channel,
    deliver,
    hear,
    look,
    mend_channel,
    post,
    raise_alert,
    send,
    serve,
    tell,
)

pytestmark = pytest.mark.story("S-PC-04-001")

Line = MutableMapping[str, Any]

NAMED = {
    "accepted": ("F-01", {"contact_id", "intent", "dispatch_priority", "commit_order"}),
    "messages_heard": ("F-01", {"contact_id", "intent"}),
    "decided": (
        "F-02",
        {"contact_id", "intent", "dispatch_priority", "commit_order", "idempotency_key", "version_guard", "lock_backend"}
        | {"event_age", "ttl_limit", "expected_version", "event_version", "as_of", "reason"},
    ),
    "delivery": (None, {"contact_id", "intent", "channel", "attempt"}),
    "manual_task_claim": ("F-02", {"contact_id", "task_id", "cause"}),
    "manual_task_resolve": ("F-02", {"contact_id", "task_id", "cause"}),
    "d1_step": ("F-03", {"intent", "appointment_id"}),
    "ticket_opened": ("F-04", {"contact_id", "ticket_id"}),
    "ticket_start": ("F-04", {"contact_id", "ticket_id"}),
    "takeover_reply": ("F-04", {"contact_id", "ticket_id"}),
    "takeover_sla": ("F-04", {"contact_id", "ticket_id"}),
    "ticket_close": ("F-04", {"contact_id", "ticket_id"}),
    "contingency": ("F-05", {"channel"}),
    "replay_planned": ("F-05", set()),
    "replay_act": ("F-05", {"replay_id"}),
    "replay_item": ("F-05", set()),
    "alert_raised": ("F-06", {"trigger_id", "alert_id"}),
    "alert_message": ("F-06", {"trigger_id", "alert_id", "channel", "attempt"}),
    "alert_acknowledged": ("F-06", {"trigger_id", "alert_id", "ack_id", "how"}),
    "alert_resolved": ("F-06", {"trigger_id", "alert_id"}),
    "safe_mode_step": ("F-06", {"scope", "episode_id"}),
    "health_red": ("F-06", {"scope", "episode_id", "health_window"}),
    "contingency_message": ("F-06", {"contact_id", "intent"}),
}
"""What a line names beside flow, correlation id, clinic and status; a delivery is of F-02 or F-05."""


@pytest.fixture
def lines() -> Any:
    """Every line written in a test."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    made = await open_api(services, client)
    await made.put(f"/contacts/{CONTACT}", {"phone": "+5511987654321", "name": "Maria da Silva"})
    return made


def checked(lines: list[Line], correlation_id: str | None, *names: str) -> None:
    """Those lines are there, of that flow, with every field that they must have."""
    for name in names:
        flow_id, fields = NAMED[name]
        found = [line for line in lines if line["event"] == name and correlation_id in (None, line.get("correlation_id"))]
        assert found, f"no line {name} of {correlation_id}: {sorted({str(x['event']) for x in lines})}"
        for line in found:
            assert {"flow_id", "correlation_id", "tenant_id", "status"} | fields <= line.keys(), line
            assert line["correlation_id"], line
            assert flow_id in (None, line["flow_id"]), line


async def test_a_request_and_a_persons_decision(api: Api, lines: list[Line]) -> None:
    await send(api, api.command(payload=api.slot(1, "a-1"), correlation_id="corr-book"))
    await send(api, api.command("cancel", {"appointment_id": "a-1"}, entity_version=7, correlation_id="corr-wrong"))
    long_ago = (api.now - timedelta(days=3)).isoformat()
    await send(api, api.command(payload=api.slot(5, "a-2"), occurred_at=long_ago, correlation_id="corr-late"))
    await serve(api)
    await deliver(api)
    await hear(api, "quero marcar", correlation_id="corr-oi")
    await api.services.conversations.tick()
    checked(lines, "corr-oi", "accepted", "messages_heard")
    checked(lines, "corr-book", "accepted", "decided", "delivery")
    decided = next(x for x in lines if x["event"] == "decided" and x["correlation_id"] == "corr-wrong")
    assert (decided["version_guard"], bool(decided["idempotency_key"]), bool(decided["as_of"])) == (7, True, True)
    (task,) = (await api.get("/manual-tasks"))["items"]
    for act, body in (("claim", {}), ("resolve", {"resolution": "not_needed"})):
        answer = await api.call("POST", f"/manual-tasks/{task['task_id']}/{act}", json=body)
        assert answer.status_code == 200, answer.text
    checked(lines, "corr-late", "manual_task_claim", "manual_task_resolve")


async def test_the_day_before(api: Api, lines: list[Line], manual_clock: ManualClock) -> None:
    await send(api, api.command(payload=api.slot(30, "a-1")))
    await serve(api)
    manual_clock.advance(hours=25)
    await D1(api.services.db, api.services.clock).tick()
    checked(lines, "d1-a-1", "d1_step")


async def test_a_takeover(api: Api, lines: list[Line], manual_clock: ManualClock) -> None:
    await send(api, api.command("takeover", {"reason": "family_request"}, correlation_id="corr-help"))
    await serve(api)
    (ticket_id,) = [t["ticket_id"] for t in (await api.get("/tickets"))["items"]]
    await api.services.takeovers.tick()
    manual_clock.advance(hours=3)
    await api.services.takeovers.tick()
    for act, body in (("start", {}), ("reply", {"text": "Oi"}), ("close", {"reason": "resolvido"})):
        answer = await api.call("POST", f"/takeovers/{ticket_id}/{act}", json=body)
        assert answer.status_code == 200, answer.text
    checked(lines, "corr-help", "ticket_opened", "takeover_sla", "ticket_start", "takeover_reply", "ticket_close")
    assert {x["contact_id"] for x in lines if x["event"] == "ticket_close"} == {CONTACT}


async def test_contingency_and_replay(api: Api, lines: list[Line], manual_clock: ManualClock) -> None:
    await api.put("/contingency", {"channel": "whatsapp", "active": True, "reason": "o provedor caiu"})
    await send(api, api.command(payload=api.slot(1, "a-1")))
    await serve(api)
    plan = {"filter": {"state": ["pending_contingency"]}, "dry_run": True, "rate": 100}
    replay_id = (await api.call("POST", "/replays", json=plan)).json()["replay_id"]
    await api.put("/contingency", {"channel": "whatsapp", "active": False, "reason": "voltou"})
    assert (await api.call("POST", f"/replays/{replay_id}/run")).status_code == 200
    for _ in range(4):
        manual_clock.advance(seconds=1)
        await api.services.replay.tick()
        await serve(api)
    checked(lines, f"replay-{replay_id}", "replay_planned", "replay_act")
    checked(lines, None, "contingency", "replay_item")


async def test_an_alert_and_safe_mode(api: Api, lines: list[Line], manual_clock: ManualClock) -> None:
    alert_id = await raise_alert(api, correlation_id="corr-n8n")
    await api.services.alerts.tick()
    manual_clock.advance(minutes=15)
    await look(api, manual_clock)
    await send(api, api.command(payload=api.slot(1, "a-1"), correlation_id="corr-held"))
    await serve(api)
    await tell(api)
    await deliver(api)
    assert not [x for x in lines if x["event"] == "health_red"]
    await break_channel(api)
    await look(api, manual_clock)
    await mend_channel(api)
    await acknowledge(api, alert_id)
    await post(api, "recovery", DONE)
    assert (await api.call("POST", f"/alerts/{alert_id}/resolve", json={"reason": "ok"})).status_code == 200
    checked(lines, "corr-n8n", "alert_raised", "alert_acknowledged", "alert_resolved", "safe_mode_step", "health_red")
    assert {x["health_window"] for x in lines if x["event"] == "health_red"} == {"channels"}
    checked(lines, "corr-held", "contingency_message")
    steps = {x["status"] for x in lines if x["event"] == "safe_mode_step"}
    assert {"entered", "ticket_opened", "acknowledged", "recovery_recorded"} <= steps
    assert {x["trigger_id"] for x in lines if "trigger_id" in x} == {"n8n_down"}


async def test_what_is_rolled_back_is_never_told(db: Database, lines: list[Line]) -> None:
    def act(conn: Connection, fails: bool) -> None:
        say(conn, "said", flow_id="F-04", correlation_id="corr-1", tenant_id="t-1", status="open")
        assert not lines, "not before the commit"
        if fails:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await db.write(act, True)
    assert lines == []
    await db.write(act, False)
    assert [(x["event"], x["correlation_id"]) for x in lines] == [("said", "corr-1")]
