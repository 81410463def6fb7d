"""Signals over HTTP: driven by real traffic, limits changed with a preview and an audit entry."""

from typing import Any

import pytest
from sqlalchemy import select

from app.bootstrap import Services
from app.clock import ManualClock
from app.store.tables import AuditEntry, table
from tests.web.api_client import Api
from tests.web.conftest import add_key
from tests.web.engine_fixtures import api, engine

__all__ = ["api", "engine"]

pytestmark = pytest.mark.story("S-PC-04-002")

NAME = "blocked_commit_order_violation"


async def measured(api: Api, clock: ManualClock, name: str = NAME, **params: Any) -> Any:
    """The signal after the next look."""
    clock.advance(seconds=16)
    now = clock.now()
    api.services.signals.wake.set()
    await api.once("/signals", lambda found: found["looked_at"] is not None and found["looked_at"] >= now.isoformat()[:19])
    return await api.get(f"/signals/{name}", **params)


async def test_real_traffic_fires_a_signal_and_limits_can_be_changed_with_a_preview(api: Api, manual_clock: ManualClock) -> None:
    await api.one(api.command())
    for _ in range(3):
        stale = await api.one(api.command(commit_order=1, payload=api.slot(9)))
        assert stale["status"] == NAME
    found = await measured(api, manual_clock)
    assert (found["level"], found["values"], found["owner"]) == ("warning", {"count": 3.0}, "backend,superadmin")
    assert [f["level"] for f in found["firings"]] == ["warning"]
    alert = await api.get(f"/alerts/{found['alert_id']}")
    assert (alert["trigger"], alert["severity"], alert["owner"]) == (NAME, "warning", "backend,superadmin")

    body = {"warning": {"count": 2}, "critical": {"count": 3}}
    before = (await api.call("POST", f"/signals/{NAME}/preview", json={})).json()
    assert (before["fired"], before["warning"], before["critical"]) == (1, 1, 0)
    would = (await api.call("POST", f"/signals/{NAME}/preview", json=body)).json()
    assert (would["fired"], would["critical"]) == (1, 1)
    unchanged = await api.get(f"/signals/{NAME}")
    assert [t["value"] for t in unchanged["thresholds"]["critical"]] == [10]
    saved = await api.put(f"/signals/{NAME}/thresholds", body | {"reason": "too late for us"})
    assert [t["value"] for t in saved["thresholds"]["critical"]] == [3]
    assert saved["limits_changed"]
    entry = await api.services.db.read(
        lambda conn: conn.execute(
            select(table(AuditEntry))
            .where(table(AuditEntry).c.action == "settings.save")
            .order_by(table(AuditEntry).c.number.desc())
        ).first()
    )
    assert entry is not None
    assert (entry.reason, '"count":3' in entry.after_json, "thresholds" in entry.before_json) == ("too late for us", True, False)
    risen = await measured(api, manual_clock)
    assert (risen["level"], [f["level"] for f in risen["firings"]]) == ("critical", ["critical", "warning"])
    # what got worse is an alert of its own, and the first one ended quietly
    first = await api.get(f"/alerts/{found['alert_id']}")
    assert (first["severity"], first["status"]) == ("warning", "resolved")
    (worse,) = [a for a in (await api.get("/alerts", status="open"))["items"] if a["trigger"] == NAME]
    assert worse["severity"] == "critical"
    metrics = (await api.client.get("/metrics", headers=await add_key(api.services, None))).text
    assert f'kora_signal_{NAME}{{measure="count",of="worst"}} 3.0' in metrics
    assert f'kora_signal_level{{signal="{NAME}"}} 2.0' in metrics


async def test_limits_that_make_no_sense_are_refused(api: Api) -> None:
    for signal, body, status in (
        (NAME, {"warning": {"count": 11}}, 400),
        (NAME, {"warning": {"rate": 0.5}}, 400),
        (NAME, {"warning": {"count": -1}}, 400),
        ("correlation_id_coverage", {"warning": {"coverage": 0.9}}, 404),
        ("nothing", {}, 404),
    ):
        answer = await api.call("PUT", f"/signals/{signal}/thresholds", json=body)
        assert answer.status_code == status, answer.text
    assert (await api.get(f"/settings/{api.clinic.slug}"))["thresholds"] == {}


async def test_the_installation_sees_all_clinics_and_sets_what_holds_for_them(api: Api, engine: Services) -> None:
    whole = await add_key(engine, None)
    everything = (await api.client.get("/api/v1/signals", headers=whole)).json()["items"]
    assert len(everything) == 20
    assert len(await _names(api)) == 16
    coverage = {"warning": {"coverage": 0.9}, "critical": {"coverage": 0.8}}
    answer = await api.client.put("/api/v1/signals/correlation_id_coverage/thresholds", json=coverage, headers=whole)
    assert answer.status_code == 200, answer.text
    backlog = {"warning": {"backlog": 5}}
    assert (await api.client.put("/api/v1/signals/replay_backlog/thresholds", json=backlog, headers=whole)).status_code == 200
    held = await api.get("/signals/replay_backlog")
    assert {t["metric"]: t["value"] for t in held["thresholds"]["warning"]} == {"backlog": 5, "age_p95_s": 900}
    await api.put("/signals/replay_backlog/thresholds", {"warning": {"backlog": 7}})
    held = await api.get("/signals/replay_backlog")
    assert {t["metric"]: t["value"] for t in held["thresholds"]["warning"]} == {"backlog": 7, "age_p95_s": 900}


async def _names(api: Api) -> list[str]:
    return [s["signal"] for s in (await api.get("/signals"))["items"]]
