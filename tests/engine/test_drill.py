"""The Redis failure drill on a real Redis: phases, verdicts, stopping on risk, putting back, never a real clinic."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services, build, running
from app.clock import ManualClock
from app.domain.drill import TENANT, DrillLimits, DrillMeasures, running_risks, verdict
from app.domain.evidence_check import check
from app.domain.fallback import FallbackLimits
from app.engine.drill import BROKE, Drills
from app.engine.redis_locks import RedisLocks
from app.engine.signals import SignalWatch
from app.errors import Conflict
from app.ids import new_id
from app.metrics import Metrics
from app.signing import is_signed, key_id_of
from app.store import drills, evidence, ledger
from app.store.bulk import insert_rows
from app.store.people import By, put_guardian
from app.store.settings import save
from app.store.signal_facts import gather
from app.store.tables import Alert, Appointment, Drill, EvidencePack, Lane, Ledger, ModeRow, Outbox, SignalStateRow, table
from app.store.verify import verify
from app.web.app import create_app
from tests.builders import clinic
from tests.services import busy
from tests.simulation.mutants import no_walls_at_the_boundary
from tests.web.conftest import add_key, add_person, browser_client, make_settings, sign_in

pytestmark = pytest.mark.story("S-PC-05-002")
DRILL, ALERT, PACK, LANE, LEDGER = table(Drill), table(Alert), table(EvidencePack), table(Lane), table(Ledger)
MODE, STATE = table(ModeRow), table(SignalStateRow)


@pytest.fixture
async def live(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    """A whole process on a real Redis, with one real clinic; Redis counts as stable after half a second."""
    monkeypatch.setattr("app.engine.redis_locks.STABLE_FOR_S", 0.5)
    monkeypatch.setattr("app.engine.redis_locks.TIMEOUT_S", 1.0)  # a machine that pauses is no Redis that fails
    # what the clock says of this machine is judged as it is used: the rules themselves are tested in the domain
    slow = busy()
    limits = DrillLimits(detection_s=slow, lock_p95_warning_ms=500 * slow, lock_p95_critical_ms=1200 * slow)
    for judge in (verdict, running_risks):
        monkeypatch.setattr(judge, "__defaults__", (limits,))
    services = await build(make_settings(database_url, redis_url=redis_url), logs=False)
    await services.db.write(clinic, now=services.clock.now())
    async with running(services):
        yield services


async def rows(services: Services, of: Any, *where: Any) -> list[Any]:
    return await services.db.read(lambda conn: list(conn.execute(select(of).where(*where)).all()))


async def run_one(services: Services) -> Any:
    """Ask for a run and wait for its end."""
    by = By(actor="user:u1", now=services.clock.now())
    drill_id = await services.db.write(drills.ask, by, "teste")
    services.drills.wake.set()
    async with asyncio.timeout(40):
        while (row := await services.db.read(drills.drill, drill_id)) is None or row.ended_at is None:
            await asyncio.sleep(0.05)
    return row


def applied_plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, Any]]:
    """From now on: how the drill's plans were applied, each as the function, the plans and what else it was given."""
    caught: list[tuple[Any, Any, Any]] = []
    honest = ledger.apply

    def seen(conn: Connection, plans: Any, *rest: Any, **how: Any) -> Any:
        done = honest(conn, plans, *rest, **how)
        if any(plan.key[0] == TENANT and plan.entries for plan in done):
            caught.append((honest, done, rest))
        return done

    monkeypatch.setattr("app.engine.dispatch.apply", seen)
    return caught


async def its_pack_tells_it(services: Services, row: Any) -> None:
    """The report is a pack that can be checked offline: phases, every decision, and the chains that prove their order."""
    async with asyncio.timeout(20):
        while (content := await services.db.read(evidence.content, row.pack_id)) is None:
            services.evidence.wake.set()
            await asyncio.sleep(0.05)
    found = check(content, is_signed, key_id_of=key_id_of)
    report = msgspec.json.decode(row.report_json)
    assert (found.valid, found.entries) == (True, report["requests"])
    pack = await services.db.read(evidence.pack, row.pack_id)
    assert pack is not None
    assert pack.result == "evidence_pack_generated"
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        story = [msgspec.json.decode(line) for line in opened.read("timeline.jsonl").splitlines()]
    assert [r["status"] for r in story if r["event"] == "drill_phase"] == ["baseline", "cut", "fallback", "restore"]
    assert [r["at"] for r in story] == sorted(r["at"] for r in story)
    assert sum(r["event"] == "decided" for r in story) == report["requests"]


async def test_a_run_cuts_redis_carries_traffic_proves_it_and_puts_everything_back(
    live: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await rows(live, LANE, LANE.c.tenant_id == "ten-sol")
    row = await run_one(live)
    report, measures = msgspec.json.decode(row.report_json), msgspec.json.decode(row.measures_json)
    assert (row.result, report["risks"], report["wrong"]) == ("drill_passed_controlled_continuity", [], [])
    assert measures["invalid_side_effects"] == 0 < measures["commits_in_fallback"]
    assert measures["detection_s"] < busy()
    assert 0.4 < measures["recovery_s"] < 30
    assert measures["restored"]
    assert [p["phase"] for p in report["phases"]] == ["baseline", "cut", "fallback", "restore"]
    by_phase = {p["phase"]: p for p in report["phases"]}
    assert by_phase["fallback"]["in_fallback"] == by_phase["fallback"]["requests"]
    assert isinstance(live.locks, RedisLocks)
    assert (live.locks.mode, live.locks.is_cut) == ("primary", False)
    assert await rows(live, LANE, LANE.c.tenant_id == "ten-sol") == before
    assert await rows(live, LEDGER, LEDGER.c.tenant_id != TENANT) == []
    booked = table(Appointment)
    assert {r.status for r in await rows(live, booked, booked.c.tenant_id == TENANT)} == {"cancelled"}
    (pack,) = await rows(live, PACK, PACK.c.kind == "drill")
    assert (pack.subject, pack.pack_id) == (row.drill_id, row.pack_id)
    alerts = await rows(live, ALERT)
    assert alerts == [], "a rehearsal alarms nobody"
    facts = await live.db.read(gather, live.clock.now(), 0)
    assert not facts.of("global").hour.get("lock_fallback"), "and its locks are no outage of the installation"
    await its_pack_tells_it(live, row)
    assert not await live.db.read(drills.normal)

    caught = applied_plans(monkeypatch)

    def again(conn: Connection, drill_id: str) -> None:
        """A second node comes with what has been applied already: the walls of the boundary are up, and nothing happens."""
        assert [honest(conn, plans, *rest) for honest, plans, rest in caught] == [[] for _ in caught]

    live.drills._tamper = again
    assert (await run_one(live)).result == "drill_passed_controlled_continuity"
    assert caught
    assert await live.db.read(drills.normal)  # two clean ones in a row
    assert await live.db.read(lambda conn: list(verify(conn))) == []


async def test_a_double_effect_stops_the_run_at_once_with_a_critical_alert(live: Services) -> None:
    def twice(conn: Connection, drill_id: str) -> None:
        """What a broken compare-and-set would leave behind: an effect that happened a second time."""
        said = table(Outbox)
        last = conn.execute(select(said).where(said.c.cause_id.like(f"drill-{drill_id}-%")).limit(1)).one()
        insert_rows(conn, said, [{**last._mapping, "outbox_id": new_id(), "step": "again", "status": "sent"}])

    live.drills._tamper = twice
    row = await run_one(live)
    report = msgspec.json.decode(row.report_json)
    assert (row.result, report["risks"][0]) == ("drill_failed_side_effect_risk", "invalid_side_effects")
    assert "had its effect 2 times" in report["wrong"][0]
    assert [p["phase"] for p in report["phases"]] == ["baseline", "cut", "fallback"]  # stopped there
    (alert,) = await rows(live, ALERT, ALERT.c.trigger == "drill_failed_side_effect_risk")
    assert (alert.severity, alert.alert_id) == ("critical", row.alert_id)
    assert isinstance(live.locks, RedisLocks)
    assert not live.locks.is_cut
    facts = await live.db.read(gather, live.clock.now(), 0)
    assert facts.of("global").now["drill_invalid_side_effects"] >= 1
    await SignalWatch(live.db, ManualClock(live.clock.now() + timedelta(minutes=1)), Metrics()).tick()
    (stands,) = await rows(live, STATE, STATE.c.signal == "drill_result")
    assert stands.level == "critical"


async def test_a_commit_without_its_compare_and_set_fails_the_run_at_once(live: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second node applies what another one has applied already, and nothing at the boundary stops it."""
    caught = applied_plans(monkeypatch)

    def again(conn: Connection, drill_id: str) -> None:
        honest, plans, rest = caught[0]
        counts = {name: LANE.c[name] + 16 for name in ("wait_0", "wait_1", "wait_2", "wait_3")} | {"waiting": LANE.c.waiting + 64}
        conn.execute(LANE.update().where(LANE.c.tenant_id == TENANT).values(**counts))  # its own check is a wall too
        with no_walls_at_the_boundary():
            assert honest(conn, plans, *rest), "with its walls away, it must come through"

    live.drills._tamper = again
    row = await run_one(live)
    report = msgspec.json.decode(row.report_json)
    assert (row.result, report["risks"][0]) == ("drill_failed_side_effect_risk", "invalid_side_effects")
    assert "stands at place" in report["wrong"][0]
    assert [p["phase"] for p in report["phases"]] == ["baseline", "cut", "fallback"]  # stopped there
    (alert,) = await rows(live, ALERT, ALERT.c.trigger == "drill_failed_side_effect_risk")
    assert alert.severity == "critical"


async def test_trouble_in_the_installation_stops_the_run(live: Services) -> None:
    def trouble(conn: Connection, drill_id: str) -> None:
        """Contingency begins somewhere while the path is cut."""
        conn.execute(MODE.update().values(contingency=True))

    row_before = await rows(live, MODE)
    if not row_before:
        mode = {"scope": "global", "state": "normal", "epoch": 1, "contingency": False}
        await live.db.write(insert_rows, MODE, [mode])
    live.drills._tamper = trouble
    row = await run_one(live)
    report = msgspec.json.decode(row.report_json)
    assert row.result == "drill_failed_side_effect_risk"
    assert report["risks"][0] == "mode_not_normal"
    assert isinstance(live.locks, RedisLocks)
    assert not live.locks.is_cut


async def test_a_run_in_which_every_request_was_refused_proves_nothing(live: Services) -> None:
    now = live.clock.now()
    await live.db.write(drills.furnish, now)
    refusing = {"is_primary": False, "can_schedule": False, "can_cancel": False, "reason": "teste"}
    refusing |= {"verified_by": "teste", "verification_method": "teste"}

    def refuse_all(conn: Connection) -> None:
        for n in range(drills.FAMILIES):
            put_guardian(conn, TENANT, f"p-drill-{n}", f"c-drill-{n}", refusing, by=By(actor="user:u1", now=now))

    await live.db.write(refuse_all)
    row = await run_one(live)
    report = msgspec.json.decode(row.report_json)
    assert row.result == "drill_failed_side_effect_risk"
    assert "not_measured:commits_in_fallback" in report["risks"]
    (alert,) = await rows(live, ALERT, ALERT.c.trigger == "drill_failed_side_effect_risk")
    assert alert.severity == "high"  # nothing wrong happened; nothing was proven either


async def test_a_drill_that_breaks_fails_and_the_process_goes_on(live: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(conn: Connection) -> None:
        raise KeyError("versions")

    monkeypatch.setattr(drills, "versions", broken)
    row = await run_one(live)
    report = msgspec.json.decode(row.report_json)
    assert (row.result, report["wrong"]) == ("drill_failed_side_effect_risk", [BROKE])
    assert isinstance(live.locks, RedisLocks)
    assert not live.locks.is_cut
    await live.drills.tick()  # the loop that started it takes note and lives on


async def test_a_run_whose_process_died_is_ended_and_nothing_stays_cut(database_url: str, redis_url: str) -> None:
    services = await build(make_settings(database_url, redis_url=redis_url), logs=False)
    now = services.clock.now()
    drill_id = await services.db.write(drills.ask, By(actor="user:u1", now=now), "teste")
    claimed = await services.db.write(drills.claim, "dead-node", now)
    assert claimed is not None
    assert claimed.drill_id == drill_id
    with pytest.raises(Conflict):
        await services.db.write(drills.ask, By(actor="user:u1", now=now), "noch einer")
    measured = DrillMeasures(detection_s=0.4)
    phases = {"phases": [{"phase": "baseline", "requests": 36, "per_s": 9.0, "in_fallback": 0}]}
    assert await services.db.write(drills.phase, drill_id, "baseline", "cut", now, measured, phases)
    clock = ManualClock(now + drills.LEASE)
    other = Drills(services.db, clock, services.intake, services.locks, limits=FallbackLimits(), node_id="other")
    await other.tick()
    row = await services.db.read(drills.drill, drill_id)
    assert row is not None
    report = msgspec.json.decode(row.report_json)
    assert (row.result, report["risks"][0]) == ("drill_failed_side_effect_risk", "interrupted")
    assert (report["detection_s"], report["phases"], row.invalid_side_effects) == (0.4, phases["phases"], 0)
    (alert,) = await rows(services, ALERT)
    assert alert.severity == "high"
    assert isinstance(services.locks, RedisLocks)
    assert not services.locks.is_cut
    await services.close()


async def test_the_cut_ends_by_itself(redis_url: str, database_url: str) -> None:
    services = await build(make_settings(database_url, redis_url=redis_url), logs=False)
    assert isinstance(services.locks, RedisLocks)
    services.locks.cut(0.6)
    assert (await services.locks.acquire(["lane:x"])).mode == "fallback"
    async with asyncio.timeout(20):
        while services.locks.is_cut:
            await asyncio.sleep(0.05)
    await services.close()


async def test_no_drill_while_anything_is_not_normal_and_scheduled_ones_keep_their_distance(
    database_url: str, manual_clock: ManualClock
) -> None:
    services = await build(make_settings(database_url), clock=manual_clock, logs=False)
    by = By(actor="user:u1", now=manual_clock.now())
    mode = {"scope": "global", "state": "safe_mode_active", "epoch": 1, "contingency": False}
    await services.db.write(insert_rows, table(ModeRow), [mode], ignore_conflicts=True)
    await services.db.write(lambda conn: conn.execute(table(ModeRow).update().values(state="safe_mode_active")))
    with pytest.raises(Conflict):
        await services.db.write(drills.ask, by, "teste")
    await services.db.write(lambda conn: conn.execute(table(ModeRow).update().values(state="normal")))
    assert await services.db.write(drills.schedule_if_due, manual_clock.now()) is None
    await services.db.write(lambda conn: save(conn, "global", {"drill_every_d": 7}, actor="user:u1", now=manual_clock.now()))
    first = await services.db.write(drills.schedule_if_due, manual_clock.now())
    assert first is not None
    over = DRILL.update().values(ended_at=manual_clock.now(), phase="done")
    await services.db.write(lambda conn: conn.execute(over))
    manual_clock.advance(days=6, hours=23)
    assert await services.db.write(drills.schedule_if_due, manual_clock.now()) is None
    manual_clock.advance(hours=1)
    assert await services.db.write(drills.schedule_if_due, manual_clock.now()) not in (None, first)
    assert {r.reason for r in await rows(services, DRILL)} == {"scheduled"}
    assert await rows(services, table(Outbox)) == []
    await services.close()


async def test_the_api_and_the_page_start_and_show_a_run(live: Services) -> None:
    superadmin = await add_person(live, "superadmin", [])
    key, theirs = await add_key(live, None), await add_key(live, "ten-sol")
    async with browser_client(create_app(live)) as opened:
        refused = await opened.post("/api/v1/drills/redis", json={"reason": "x"}, headers=theirs)
        assert refused.status_code == 403
        desk = await sign_in(live, opened, superadmin)
        page = {"accept": "text/html"}
        form = {"_csrf": desk.csrf_token, "reason": "semanal"}
        unsure = await desk.client.post("/drills/start", data=form, headers=page)
        assert unsure.status_code == 400, unsure.text
        assert (await desk.client.post("/drills/start", data=form | {"sure": "on"}, headers=page)).status_code == 303
        assert "SIMULAÇÃO" in (await desk.client.get("/drills", headers=page)).text
        again = await opened.post("/api/v1/drills/redis", json={"reason": "x"}, headers=key)
        assert again.status_code == 409
        async with asyncio.timeout(40):
            while (shown := (await opened.get("/api/v1/drills", headers=key)).json()["items"][0])["ended_at"] is None:
                await asyncio.sleep(0.1)
        one = (await opened.get(f"/api/v1/drills/{shown['drill_id']}", headers=key)).json()
        assert (one["result"], one["reason"]) == ("drill_passed_controlled_continuity", "semanal")
        assert one["report"]["phases"][2]["phase"] == "fallback"
        assert "Passou" in (await desk.client.get("/drills", headers=page)).text
        assert (await opened.get("/api/v1/drills/none", headers=key)).status_code == 404


async def test_without_redis_there_is_nothing_to_rehearse(sqlite_url: str) -> None:
    services = await build(make_settings(sqlite_url), logs=False)
    key = await add_key(services, None)
    async with browser_client(create_app(services)) as opened:
        bodies: list[dict[str, Any]] = [{}, {"json": {}}, {"json": {"reason": "x"}}]
        for body in bodies:  # the text of the interface names none
            refused = await opened.post("/api/v1/drills/redis", headers=key, **body)
            assert refused.status_code == 409, refused.text
        assert (await opened.post("/api/v1/drills/redis", json={"reason": " "}, headers=key)).status_code == 400
        assert await rows(services, DRILL) == []
    await services.close()
