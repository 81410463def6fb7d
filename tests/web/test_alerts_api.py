"""Alerts through the API: raised, seen by whom they concern, acknowledged and resolved; Alertmanager's webhook."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from litestar import Litestar

from app.bootstrap import Services
from app.clock import ManualClock
from tests.web.api_client import Api, open_api
from tests.web.conftest import Clinic, add_person, browser_client, sign_in

ALERT = {"trigger": "n8n_down", "severity": "critical", "summary": "n8n does not answer", "dedup_key": "n8n-1"}


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


async def post(api: Api, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
    answer = await api.call("POST", path, json=body, **options) if body is not None else await api.call("POST", path, **options)
    assert answer.status_code == status, answer.text
    return answer.json()


def text(moment: Any) -> str:
    return str(moment.isoformat()).replace("+00:00", "Z")


@pytest.mark.story("S-PC-03-001")
async def test_an_alert_is_raised_acknowledged_and_resolved(api: Api, manual_clock: ManualClock) -> None:
    raised = await post(api, "/alerts", {**ALERT, "correlation_id": "corr-9"}, 201)
    now = api.now
    assert (raised["status"], raised["level"], raised["result"], raised["tenant_id"]) == (
        "open",
        "raised",
        None,
        api.clinic.tenant_id,
    )
    assert (raised["attempts"], raised["next_attempt_at"], raised["safe_mode_at"]) == (
        [],
        text(now),
        text(now + timedelta(minutes=15)),
    )
    assert raised["correlation_id"] == "corr-9"
    alert_id = raised["alert_id"]
    assert (await post(api, "/alerts", ALERT, 201))["count"] == 2
    manual_clock.advance(minutes=2)
    acked = await post(api, f"/alerts/{alert_id}/ack")
    assert (acked["status"], acked["result"], acked["ack_how"], acked["ack_delay_s"]) == (
        "acknowledged",
        "ack_received",
        "api",
        120.0,
    )
    assert acked["next_attempt_at"] is None
    assert (await post(api, f"/alerts/{alert_id}/ack", {}))["records"] == acked["records"]
    resolved = await post(api, f"/alerts/{alert_id}/resolve", {"reason": "restarted"})
    assert (resolved["status"], resolved["resolved_by"]) == ("resolved", resolved["acked_by"])
    assert await api.get(f"/alerts/{alert_id}") == resolved
    assert [a["alert_id"] for a in (await api.get("/alerts", status="resolved"))["items"]] == [alert_id]
    assert (await api.get("/alerts", status="open"))["items"] == []


async def test_an_outdated_view_is_refused(api: Api) -> None:
    raised = await post(api, "/alerts", ALERT, 201)
    await post(api, "/alerts", ALERT, 201)
    await post(api, f"/alerts/{raised['alert_id']}/ack", {"rev": raised["rev"]}, 409)
    assert (await api.get(f"/alerts/{raised['alert_id']}"))["status"] == "open"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"severity": "fatal"}, "/severity"),
        ({"trigger": ""}, "/trigger"),
        ({"summary": "x" * 501}, "/summary"),
        ({"dedup_key": " "}, "/dedup_key"),
    ],
)
async def test_an_alert_that_cannot_be_used_is_refused(api: Api, change: dict[str, str], pointer: str) -> None:
    problem = await post(api, "/alerts", {**ALERT, **change}, 400)
    assert [e["pointer"] for e in problem["errors"]] == [pointer]


async def test_nobody_sees_or_touches_another_clinics_alert(
    api: Api, app: Litestar, other_key: dict[str, str], global_key: dict[str, str]
) -> None:
    mine = await post(api, "/alerts", ALERT, 201)
    everywhere = await post(api, "/alerts", ALERT, 201, headers=global_key)
    assert everywhere["tenant_id"] is None
    path = f"/alerts/{mine['alert_id']}"
    assert (await api.call("GET", path, headers=other_key)).status_code == 404
    assert (await api.call("POST", f"{path}/ack", headers=other_key)).status_code == 404
    assert (await api.call("GET", f"/alerts/{everywhere['alert_id']}")).status_code == 404
    assert [a["alert_id"] for a in (await api.get("/alerts"))["items"]] == [mine["alert_id"]]
    assert (await api.call("POST", "/alerts", json={**ALERT, "tenant_id": "nowhere"}, headers=global_key)).status_code == 404
    everything = (await api.call("GET", "/alerts", headers=global_key)).json()["items"]
    assert {a["alert_id"] for a in everything} == {mine["alert_id"], everywhere["alert_id"]}
    async with browser_client(app) as opened:
        person = await add_person(api.services, "secretary", [api.clinic.tenant_id])
        browser = await sign_in(api.services, opened, person)
        refused = await opened.post(f"/api/v1{path}/ack", headers=browser.headers)
    assert refused.status_code == 403
    assert (await api.get(path))["status"] == "open"


async def test_the_list_comes_in_pages(api: Api, manual_clock: ManualClock) -> None:
    for i in range(5):
        await post(api, "/alerts", {**ALERT, "dedup_key": f"k-{i}"}, 201)
        manual_clock.advance(seconds=1)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await api.get("/alerts", limit=2, **cursor)
        seen += [a["dedup_key"] for a in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"k-{i}" for i in reversed(range(5))]


async def test_alertmanager_raises_and_resolves(api: Api) -> None:
    def body(status: str, severity: str = "critical") -> dict[str, Any]:
        alert = {
            "status": status,
            "labels": {"alertname": "RedisDown", "severity": severity},
            "annotations": {"summary": "Redis is gone"},
            "fingerprint": f"f-{severity}",
        }
        return {"version": "4", "groupKey": "g", "status": status, "receiver": "kora", "alerts": [alert]}

    counts = await post(api, "/webhooks/alertmanager", body("firing"))
    assert counts == {"raised": 1, "resolved": 0, "ignored": 0}
    (alert,) = (await api.get("/alerts"))["items"]
    assert (alert["trigger"], alert["severity"], alert["summary"]) == ("RedisDown", "critical", "Redis is gone")
    assert alert["safe_mode_at"] is not None
    assert await post(api, "/webhooks/alertmanager", body("firing", "info")) == {"raised": 0, "resolved": 0, "ignored": 1}
    assert (await post(api, "/webhooks/alertmanager", body("resolved")))["resolved"] == 1
    assert (await api.get(f"/alerts/{alert['alert_id']}"))["status"] == "resolved"
    await post(api, "/webhooks/alertmanager", {"version": "4"}, 400)
    assert (await api.call("POST", "/webhooks/alertmanager", content=b"{")).status_code == 400
    assert (await api.call("POST", "/webhooks/alertmanager", json=body("firing"), headers={"Authorization": ""})).status_code == 401


@pytest.mark.parametrize("label", ["ours", "theirs", "nowhere", None])
async def test_a_label_that_names_no_clinic_of_the_callers_loses_no_signal(
    api: Api, other_tenant: Clinic, global_key: dict[str, str], label: str | None
) -> None:
    named = {"ours": api.clinic.slug, "theirs": other_tenant.slug, "nowhere": "prod-1", None: None}[label]
    labels = {"alertname": "RedisDown", "severity": "critical"} | ({"tenant": named} if named else {})
    body = {"version": "4", "status": "firing", "alerts": [{"status": "firing", "labels": labels, "fingerprint": "f"}]}
    assert (await post(api, "/webhooks/alertmanager", body))["raised"] == 1
    assert [a["tenant_id"] for a in (await api.get("/alerts"))["items"]] == [api.clinic.tenant_id]
    await post(api, "/webhooks/alertmanager", body, headers=global_key)
    seen = (await api.call("GET", "/alerts", headers=global_key)).json()["items"]
    expected = {"ours": api.clinic.tenant_id, "theirs": other_tenant.tenant_id}.get(label or "")
    assert {a["tenant_id"] for a in seen} == {api.clinic.tenant_id, expected}
