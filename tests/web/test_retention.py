"""Retention, export and erasure (LGPD): words go, what proves order and once stays; on both databases."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.domain.retention import MINIMISED, REMOVED
from app.engine.retention import Retention
from app.store import manual, retention
from app.store.alerts import raise_alert
from app.store.bulk import insert_rows
from app.store.people import By
from app.store.tables import (
    Alert,
    AlertStep,
    AuditEntry,
    EventLog,
    InboxCommand,
    InboxMessage,
    Lane,
    MalformedItem,
    ManualTask,
    Outbox,
    Patient,
    SafeCause,
    table,
)
from app.store.verify import verify
from tests.history import small_history
from tests.web.api_client import Api, open_api
from tests.web.conftest import add_key, add_person, app_over, browser_client, sign_in

COMMAND, MESSAGE, OUTBOX, TASK = table(InboxCommand), table(InboxMessage), table(Outbox), table(ManualTask)
MALFORMED, LANE, AUDIT = table(MalformedItem), table(Lane), table(AuditEntry)
TENANT = "ten-sol"


async def rows(services: Services, of: Any, *where: Any) -> list[Any]:
    return await services.db.read(lambda conn: list(conn.execute(select(of).where(*where)).all()))


def clock(services: Services) -> ManualClock:
    assert isinstance(services.clock, ManualClock)
    return services.clock


@pytest.fixture
async def lived(services: Services) -> Services:
    """A short real history with every kind of content in it, everything delivered, no conversation in a person's hands."""

    def end(conn: Connection) -> None:
        conn.execute(OUTBOX.update().values(status="sent"))
        conn.execute(LANE.update().values(takeover_id=None))

    history = await small_history(services.db, clock(services))
    clock(services).advance(hours=1)  # what waits for a missing one has waited long enough
    await history.settle()
    await services.db.write(end)
    return services


async def prune(services: Services) -> None:
    await Retention(services.db, services.clock, node_id="n1").tick()


def words(found: list[Any], name: str) -> list[str]:
    return [row for row in (getattr(r, name) for r in found) if "text" in row]


async def settle_tasks(services: Services) -> None:
    by = By(actor="user:u1", now=services.clock.now())
    for task in await rows(services, TASK, TASK.c.status != "resolved"):
        await services.db.write(manual.claim, task.tenant_id, task.task_id, by)
        told: dict[str, Any] = {"resolution": "not_needed", "note": "falei com a mãe Maria"}
        await services.db.write(manual.resolve, task.tenant_id, task.task_id, by, **told)


async def test_words_go_after_a_day_and_content_after_a_week_and_the_history_still_proves(lived: Services) -> None:
    await settle_tasks(lived)
    clock(lived).advance(hours=23)
    await prune(lived)
    assert words(await rows(lived, MESSAGE), "payload_json")
    clock(lived).advance(hours=2)
    await prune(lived)
    done = await rows(lived, COMMAND, COMMAND.c.done_at.is_not(None))
    assert {r.payload_level for r in done} == {MINIMISED}
    assert not words(done, "payload_json")
    assert any("appointment_id" in r.payload_json for r in done)
    assert not words(await rows(lived, OUTBOX), "body_json")
    clock(lived).advance(days=7)
    await prune(lived)
    for of, name in ((COMMAND, "payload_json"), (MESSAGE, "payload_json")):
        assert {(r.payload_level, getattr(r, name)) for r in await rows(lived, of, of.c.done_at.is_not(None))} == {(REMOVED, "{}")}
    assert await rows(lived, MALFORMED, MALFORMED.c.raw_json != "") == []
    assert await lived.db.read(lambda conn: list(verify(conn))) == []


async def test_what_somebody_still_has_to_decide_on_stays_whole(lived: Services) -> None:
    clock(lived).advance(days=30)
    await prune(lived)
    open_ones = {t.command_id for t in await rows(lived, TASK, TASK.c.status != "resolved") if t.command_id}
    assert open_ones
    kept = await rows(lived, COMMAND, COMMAND.c.command_id.in_(open_ones))
    assert {r.payload_level for r in kept} == {0}
    await settle_tasks(lived)
    clock(lived).advance(hours=1)
    await prune(lived)
    await prune(lived)
    assert {r.payload_level for r in await rows(lived, COMMAND, COMMAND.c.command_id.in_(open_ones))} == {REMOVED}


async def test_a_clinic_has_its_own_periods_and_only_one_node_prunes(lived: Services, client: httpx.AsyncClient) -> None:
    everyone = {"Authorization": (await add_key(lived, None))["Authorization"]}
    put = await client.put("/api/v1/settings/sol", json={"retention": {"minimise_h": 2}}, headers=everyone)
    assert put.status_code == 200, put.text
    bad = await client.put("/api/v1/settings/sol", json={"retention": {"minimise_h": 0}}, headers=everyone)
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (400, "/retention/minimise_h")
    await settle_tasks(lived)
    clock(lived).advance(hours=3)
    now = lived.clock.now()
    assert await lived.db.write(retention.claim, "n2", now, now + timedelta(minutes=10))
    await prune(lived)  # n1: the round is another's
    assert words(await rows(lived, MESSAGE), "payload_json")
    clock(lived).advance(minutes=11)
    await prune(lived)  # n2 has died
    assert not words(await rows(lived, MESSAGE, MESSAGE.c.done_at.is_not(None)), "payload_json")


async def test_one_batch_is_bounded(lived: Services) -> None:
    await settle_tasks(lived)
    clock(lived).advance(days=2)
    kept = await Retention(lived.db, lived.clock, node_id="n1")._periods(TENANT)
    done = await lived.db.write(retention.payloads, TENANT, kept, lived.clock.now(), 1)
    assert 1 <= done <= 6


async def test_what_is_long_over_is_dropped_whole_and_what_explains_an_episode_stays(services: Services) -> None:
    alert, event, cause = table(Alert), table(EventLog), table(SafeCause)
    ids = []
    for n in range(3):
        raised = await services.db.write(
            raise_alert, tenant_id=None, trigger="disk_full", severity="high", summary="x", dedup_key=f"k-{n}", correlation_id=None,
            now=services.clock.now(),
        )  # fmt: skip
        ids.append(raised.alert_id)
    over = alert.update().where(alert.c.alert_id.in_(ids[:2])).values(status="resolved", resolved_at=services.clock.now())
    told = {"kind": "alert", "summary": "x", "at": services.clock.now(), "by": "system:kora"}
    await services.db.write(lambda conn: conn.execute(over))
    await services.db.write(insert_rows, cause, [{"episode_id": "e-1", "cause_id": ids[1], **told}])
    assert await rows(services, event)
    clock(services).advance(days=401)
    await prune(services)
    assert {row.alert_id for row in await rows(services, alert)} == set(ids[1:])
    assert {row.alert_id for row in await rows(services, table(AlertStep))} == set(ids[1:])
    assert await rows(services, event) == []


# --- one family's own data ----------------------------------------------------------------------------------------------


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient, lived: Services) -> Api:
    """A key of the clinic that has lived."""
    opened = await open_api(services, client, "outra")
    return Api(client, services, opened.clinic, await add_key(services, None))


async def call(api: Api, method: str, path: str, status: int = 200, **body: Any) -> Any:
    options: dict[str, Any] = {"json": body | {"tenant_id": TENANT}} if method == "POST" else {"params": {"tenant_id": TENANT}}
    answer = await api.call(method, f"/contacts/c-maria{path}", **options)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_an_export_says_everything_and_is_audited(api: Api) -> None:
    found = await call(api, "GET", "/export")
    assert (found["contact"][0]["name"], found["contact"][0]["phone"]) == ("Maria", "+5511987654321")
    assert "quero marcar" in {m["payload"].get("text") for m in found["messages"]}
    assert {"c-1", "c-2", "c-9"} <= {c["command_id"] for c in found["requests"]}
    assert len(found["decisions"]) == max(d["commit_order"] for d in found["decisions"])
    (entry,) = await rows(api.services, AUDIT, AUDIT.c.action == "contact.export")
    assert "Maria" not in entry.after_json


async def test_an_erased_family_is_gone_and_the_ledger_still_proves(api: Api) -> None:
    services = api.services
    busy = await call(api, "POST", "/erase", 409, reason="pedido da família", confirm="c-maria")
    assert "open tasks" in busy["detail"]
    await settle_tasks(services)
    ahead = await call(api, "POST", "/erase", 409, reason="pedido da família", confirm="c-maria")
    assert "2 appointments to come" in ahead["detail"]  # a therapist would wait for a family that nobody knows
    clock(services).advance(days=4)

    assert (await call(api, "POST", "/erase", 400, reason="x", confirm="c-other"))["errors"][0]["pointer"] == "/confirm"
    gone = (await call(api, "POST", "/erase", reason="pedido da família", confirm="c-maria"))["erased"]
    assert gone["messages"] > 0 < gone["requests"]
    left = await call(api, "GET", "/export")
    assert (left["contact"][0]["name"], left["contact"][0]["phone"], left["permissions"]) == (None, None, [])
    everything = str({k: v for k, v in left.items() if k != "exported_at"})
    assert await rows(services, table(Patient), table(Patient).c.tenant_id == TENANT, table(Patient).c.name == "Pedro") == []
    for word in ("Maria", "987654321", "quero marcar", "falei com", "Como foi a sessão"):
        assert word not in everything, word
    trail = str([(e.before_json, e.after_json) for e in await rows(services, AUDIT)])
    assert "987654321" not in trail
    assert (await call(api, "POST", "/erase", reason="de novo", confirm="c-maria"))["erased"] == {}
    assert await services.db.read(lambda conn: list(verify(conn))) == []


async def test_the_contacts_page_exports_and_erases(api: Api, services: Services) -> None:
    await settle_tasks(services)
    clock(services).advance(days=4)
    person = await add_person(services, "manager", [TENANT])
    page = {"accept": "text/html"}
    async with browser_client(app_over(services)) as opened:
        desk = await sign_in(services, opened, person)
        form = {"_csrf": desk.csrf_token, "clinic": "sol", "contact_id": "c-maria", "reason": "pedido"}
        kept = await desk.client.post("/contacts/export", data=form, headers=page)
        assert (kept.status_code, kept.json()["contact"][0]["name"]) == (200, "Maria")
        assert kept.headers["content-disposition"] == 'attachment; filename="sol-c-maria.json"'
        wrong = await desk.client.post("/contacts/erase", data=form | {"confirm": "maria"}, headers=page)
        assert wrong.status_code == 400
        done = await desk.client.post("/contacts/erase", data=form | {"confirm": "c-maria"}, headers=page)
        assert done.status_code == 303
        shown = await desk.client.get(done.headers["location"], headers=page)
        assert (shown.status_code, "987654321" in shown.text) == (200, False)
    async with browser_client(app_over(services)) as opened:
        secretary = await sign_in(services, opened, await add_person(services, "secretary", [TENANT], "rita@x.example"))
        refused = await secretary.client.post("/contacts/export", data=form | {"_csrf": secretary.csrf_token}, headers=page)
        assert refused.status_code in (403, 404)


async def test_only_an_administrator_of_the_clinic_reads_or_erases(api: Api) -> None:
    reader = Api(api.client, api.services, api.clinic, await add_key(api.services, TENANT, "read"))
    for method, path, body in (("GET", "/export", None), ("POST", "/erase", {"reason": "x", "confirm": "c-maria"})):
        assert (await reader.call(method, f"/contacts/c-maria{path}", json=body)).status_code == 403
    stranger = await open_api(api.services, api.client, "terceira")
    asked = await stranger.call("GET", "/contacts/c-maria/export", params={"tenant_id": TENANT})
    assert asked.status_code in (403, 404)
    assert (await stranger.get("/contacts/c-maria/export"))["messages"] == []  # their own one of that name
