"""Replay batches through the API with the real engine on a clock that only the test moves (S-PC-02-003, F-05)."""

import csv
import io
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from app.clock import ManualClock
from app.store.tables import AppointmentVersion, AuditEntry, Lane, ManualTask, table
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.engine_fixtures import api, engine
from tests.web.outage import ended, family, parked, switch

__all__ = ["api", "engine"]

PARKED = {"state": ["pending_contingency"]}


async def replay(api: Api, wanted: dict[str, Any], *, dry_run: bool = True, rate: float = 1000, **fields: Any) -> Any:
    answer = await api.call("POST", "/replays", json={"filter": wanted, "dry_run": dry_run, "rate": rate, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def act(api: Api, replay_id: str, what: str, status: int = 200) -> Any:
    answer = await api.call("POST", f"/replays/{replay_id}/{what}")
    assert answer.status_code == status, answer.text
    return answer.json()


async def finished(api: Api, replay_id: str, status: str = "finished") -> Any:
    return await api.once(f"/replays/{replay_id}", lambda b: b["status"] == status and b["ended_at"] is not None)


async def tasks(api: Api) -> list[tuple[str, str]]:
    def read(conn: Connection) -> list[tuple[str, str]]:
        task = table(ManualTask)
        return [(r.cause, r.reason) for r in conn.execute(select(task).order_by(task.c.created_at, task.c.task_id))]

    return await api.services.db.read(read)


# --- asking -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"filter": {}}, "/filter"),
        ({"filter": {"intent": [], "state": None}}, "/filter"),
        ({"filter": {"intent": "dance"}}, "/filter/intent"),
        ({"filter": {"state": "applied_once"}}, "/filter/state"),
        ({"filter": {"priority": [7]}}, "/filter/priority"),
        ({"filter": {"from": "yesterday"}}, "/filter/from"),
        ({"filter": {"colour": "red"}}, "/filter/colour"),
        ({"filter": {"intent": "cancel"}, "rate": 0}, "/rate"),
    ],
)
async def test_a_filter_that_asks_for_everything_or_nonsense_is_refused(api: Api, body: dict[str, Any], pointer: str) -> None:
    answer = await api.call("POST", "/replays", json=body)
    assert answer.status_code == 400
    assert [e["pointer"] for e in answer.json()["errors"]] == [pointer]
    assert (await api.get("/replays"))["items"] == []


@pytest.mark.story("S-PC-02-003")
async def test_a_dry_run_says_what_would_happen_and_why_and_changes_nothing(api: Api, manual_clock: ManualClock) -> None:
    await api.one(api.command(payload=api.slot(30, "a-1")))
    await switch(api, True)
    goes = await parked(api, payload=api.slot(1, "a-2"))
    stale = await parked(api, command_type="cancel", payload={"appointment_id": "a-1"}, entity_version=7)
    manual_clock.advance(minutes=5)
    before = await api.get(f"/contacts/{CONTACT}/lane")
    plan = await replay(api, PARKED)
    assert (plan["status"], plan["dry_run"], plan["total"], plan["would_replay"], plan["fresh"]) == ("planned", True, 2, 1, True)
    assert plan["counts"] == {"replayed": 1, "expired_manual": 0, "conflict_blocked": 1, "manual_review_required": 0}
    first, second = plan["items"]
    assert (first["command_id"], first["predicted"]["result"], first["commit_order"]) == (goes, "replayed", 2)
    assert first["message"].startswith("Consulta marcada para terça-feira, 24/11")
    assert (second["command_id"], second["predicted"]["reason"]) == (stale, "entity_version_stale")
    assert (second["expected_version"], second["event_version"]) == (1, 7)
    assert (second["event_age_s"], second["ttl_limit_s"]) == (300, 7200)
    assert second["why"]
    assert plan["families"] == [{"contact_id": CONTACT, "name": "Maria", "count": 2}]
    assert [i["command_id"] for i in plan["within_24h"]] == []
    assert plan["filter"]["to"] == "2026-11-23T12:05:00Z"
    assert await api.get(f"/contacts/{CONTACT}/lane") == before


async def test_appointments_of_the_next_day_are_named(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    soon = await parked(api, payload=api.slot(-2))
    await parked(api, payload=api.slot(2))
    assert [i["command_id"] for i in (await replay(api, PARKED))["within_24h"]] == [soon]


# --- running ------------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-02-003")
async def test_a_run_executes_exactly_its_plan_and_waits_for_the_end_of_contingency(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    first = await parked(api, payload=api.slot(1, "a-1"))
    second = await parked(api, command_type="cancel", payload={"appointment_id": "a-1"}, entity_version=1)
    plan = await replay(api, PARKED)
    late = await parked(api, payload=api.slot(3, "a-3"))  # came after the plan: not part of it
    await act(api, plan["replay_id"], "run")
    manual_clock.advance(minutes=1)
    assert (await api.get(f"/replays/{plan['replay_id']}"))["done"] == 0
    await switch(api, False)
    done = await finished(api, plan["replay_id"])
    assert [(i["command_id"], i["result"], i["drift"]) for i in done["items"]] == [
        (first, "replayed", False),
        (second, "replayed", False),
    ]
    assert (done["done"], done["drift"], done["counts"]["replayed"], done["would_replay"]) == (2, 0, 2, 2)
    assert (await ended(api, late))["result"] == "replayed"  # the drain's


async def test_what_ended_badly_is_asked_again_as_a_new_command_on_the_same_versions(api: Api, manual_clock: ManualClock) -> None:
    await api.put(f"/patients/p-pedro/guardians/{CONTACT}", {"reason": "revogada"})  # guardian_version 2, no permission
    denied = await api.one(api.command(payload=api.slot(1, "a-1"), guardian_version=2))
    assert denied["result"] == "blocked_guardian_denied"
    manual_clock.advance(minutes=3)
    done = await finished(api, (await replay(api, {"state": "blocked_guardian_denied"}, dry_run=False))["replay_id"])
    (item,) = done["items"]
    assert (item["sent"], item["result"], item["reason"], item["commit_order"]) == (
        False, "manual_review_required", "guardian_not_verified", None,
    )  # fmt: skip
    assert await tasks(api) == [("manual_review_required", "guardian_not_verified")]


async def test_a_replayed_command_keeps_its_age_and_names_its_cause(api: Api, manual_clock: ManualClock) -> None:
    await api.one(api.command("takeover", {"reason": "pediu"}))
    blocked = await api.one(api.command(payload=api.slot(1)))
    assert blocked["result"] == "blocked_takeover_active"
    await end_takeover(api)
    manual_clock.advance(minutes=119)
    done = await finished(api, (await replay(api, {"intent": "schedule"}, dry_run=False))["replay_id"])
    (item,) = done["items"]
    assert (item["kind"], item["result"], item["command_id"]) == ("again", "replayed", blocked["command_id"])
    new = await api.get(f"/commands/{item['run_command_id']}")
    assert (new["source"], new["causation_id"], new["replayed"]) == ("replay", blocked["command_id"], True)
    assert (new["result"], new["commit_order"], new["correlation_id"]) == ("replayed", 3, "corr-2")
    assert new["payload"]["appointment_id"] == f"apt-{blocked['command_id']}"


@pytest.mark.story("S-PC-02-003")
async def test_the_same_batch_twice_changes_nothing(api: Api, manual_clock: ManualClock) -> None:
    await api.one(api.command("takeover", {"reason": "pediu"}))
    await api.one(api.command(payload=api.slot(1)))
    await end_takeover(api)
    wanted = {"state": "blocked_takeover_active", "to": api.now.isoformat()}
    plans = [await replay(api, wanted) for _ in range(2)]  # two plans over the same request
    for plan in plans:
        await act(api, plan["replay_id"], "run")
    ends = [await finished(api, plan["replay_id"]) for plan in plans]
    assert [[i["result"] for i in end["items"]] for end in ends] == [["replayed"], ["replayed"]]
    assert ends[0]["items"][0]["run_command_id"] == ends[1]["items"][0]["run_command_id"]
    assert (await replay(api, wanted))["total"] == 0
    assert await versions(api) == 1
    await act(api, plans[0]["replay_id"], "run", status=409)


@pytest.mark.story("S-PC-02-003")
async def test_the_first_surprise_stops_the_rest_of_its_family_and_no_other(api: Api, manual_clock: ManualClock) -> None:
    await family(api, "c-joao")
    await switch(api, True)
    mine = [await parked(api, payload=api.slot(n)) for n in (1, 2, 3)]
    other = await parked(api, contact_id="c-joao", payload=api.slot(5))
    plan = await replay(api, PARKED)
    assert plan["would_replay"] == 4
    said = await api.call("POST", "/events", json=api.event("mudei de ideia"))  # makes everything of Maria stale
    await api.processed(said.json()["event_id"])
    await act(api, plan["replay_id"], "run")
    await switch(api, False)
    done = await finished(api, plan["replay_id"])
    found = {i["command_id"]: (i["result"], i["reason"], i["drift"]) for i in done["items"]}
    assert found[mine[0]] == ("conflict_blocked", "conversation_version_stale", True)
    assert [found[c] for c in mine[1:]] == [("manual_review_required", "replay_stopped", True)] * 2
    assert found[other] == ("replayed", "replayed_within_fences", False)
    assert sorted(await tasks(api)) == [
        ("conflict_blocked", "conversation_version_stale"),
        ("manual_review_required", "replay_stopped"),
        ("manual_review_required", "replay_stopped"),
    ]
    live = await api.one(api.command(conversation_version=2, payload=api.slot(9)))
    assert live["result"] == "applied_once"  # the lane is free again


async def test_live_commands_of_a_contact_wait_for_its_replay(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    items = [await parked(api, payload=api.slot(n)) for n in (1, 2)]
    plan = await replay(api, PARKED, rate=0.5)
    await act(api, plan["replay_id"], "run")
    await switch(api, False)
    await ended(api, items[0])
    live = (await api.one(api.command(payload=api.slot(7)), wait=0))["command_id"]
    lane = await api.once(f"/contacts/{CONTACT}", lambda c: c["lane"]["blocked_by"] == "replay")
    assert lane["lane"]["why"]["sentence"]
    assert (await api.get(f"/commands/{live}"))["result"] is None
    manual_clock.advance(seconds=2)
    assert (await ended(api, live))["commit_order"] == 3
    assert (await finished(api, plan["replay_id"]))["drift"] == 0


async def test_the_rate_holds_and_a_paused_batch_stands_still(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    for n in range(4):
        await family(api, f"c-{n}")
        await parked(api, contact_id=f"c-{n}", payload=api.slot(n))
    plan = await replay(api, PARKED, rate=0.1)
    await act(api, plan["replay_id"], "run")
    await switch(api, False)
    path = f"/replays/{plan['replay_id']}"
    await api.once(path, lambda b: b["done"] == 1)
    manual_clock.advance(seconds=10)
    await api.once(path, lambda b: b["done"] == 2)
    await act(api, plan["replay_id"], "pause")
    manual_clock.advance(minutes=10)
    await act(api, plan["replay_id"], "resume")  # what the pause would have earned is not made up for
    assert (await api.get(path))["done"] == 2
    for done in (3, 4):
        manual_clock.advance(seconds=10)
        await api.once(path, lambda b, n=done: b["done"] == n)  # type: ignore[misc]
    assert (await finished(api, plan["replay_id"]))["drift"] == 0


async def test_a_cancelled_batch_leaves_what_was_parked_to_the_drain(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    items = [await parked(api, payload=api.slot(n)) for n in (1, 2)]
    plan = await replay(api, PARKED)
    await act(api, plan["replay_id"], "run")
    await act(api, plan["replay_id"], "cancel")
    done = await finished(api, plan["replay_id"], "cancelled")
    assert [(i["state"], i["result"]) for i in done["items"]] == [("cancelled", None)] * 2
    await act(api, plan["replay_id"], "resume", status=409)
    await switch(api, False)
    assert [(await ended(api, c))["result"] for c in items] == ["replayed", "replayed"]


async def test_a_dry_run_goes_stale_after_ten_minutes(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    await parked(api)
    plans = [await replay(api, PARKED) for _ in range(2)]
    manual_clock.advance(minutes=10)
    await act(api, plans[0]["replay_id"], "run")
    manual_clock.advance(milliseconds=1)
    assert "dry run" in (await act(api, plans[1]["replay_id"], "run", status=409))["detail"]
    assert not (await api.get(f"/replays/{plans[1]['replay_id']}"))["fresh"]
    await act(api, plans[0]["replay_id"], "cancel")
    await switch(api, False)


async def test_what_stands_before_a_chosen_request_comes_along(api: Api) -> None:
    await switch(api, True)
    await parked(api, payload=api.slot(1, "a-1"))
    wanted = await parked(api, command_type="cancel", payload={"appointment_id": "a-1"}, entity_version=1)
    plan = await replay(api, {"command_id": wanted})
    assert [(i["command_type"], i["pulled_in"]) for i in plan["items"]] == [("schedule", True), ("cancel", False)]


async def test_two_families_who_want_one_slot_get_what_the_dry_run_said(api: Api) -> None:
    await family(api, "c-ana")
    await switch(api, True)
    slot = api.slot(1)
    await parked(api, payload=slot)
    await parked(api, contact_id="c-ana", payload=slot)
    plan = await replay(api, PARKED)
    assert [i["predicted"]["status"] for i in plan["items"]] == ["replayed", "blocked_agenda_conflict"]
    await act(api, plan["replay_id"], "run")
    await switch(api, False)
    done = await finished(api, plan["replay_id"])
    assert [(i["status"], i["result"], i["drift"]) for i in done["items"]] == [
        ("replayed", "replayed", False),
        ("blocked_agenda_conflict", "manual_review_required", False),
    ]


# --- telling ------------------------------------------------------------------------------------------------------------


async def test_the_report_names_every_item_and_no_cell_begins_a_formula(api: Api) -> None:
    await family(api, "=1+1")
    await switch(api, True)
    await parked(api, contact_id="=1+1", correlation_id="@corr")
    plan = await replay(api, PARKED)
    assert (await api.call("GET", f"/replays/{plan['replay_id']}/report")).status_code == 409  # nothing has run
    await act(api, plan["replay_id"], "run")
    await switch(api, False)
    await finished(api, plan["replay_id"])
    report = await api.get(f"/replays/{plan['replay_id']}/report")
    assert (report["correlation_ids"], report["total"]) == ({"replayed": ["@corr"]}, 1)
    sheet = await api.call("GET", f"/replays/{plan['replay_id']}/report", params={"format": "csv"})
    (row,) = csv.DictReader(io.StringIO(sheet.text))
    assert (row["contact_id"], row["correlation_id"], row["result"]) == ("'=1+1", "'@corr", "replayed")
    assert "attachment" in sheet.headers["content-disposition"]


async def test_who_planned_and_ran_it_is_in_the_audit_trail(api: Api) -> None:
    await switch(api, True)
    await parked(api)
    plan = await replay(api, PARKED)
    for what in ("run", "pause", "resume", "cancel"):
        await act(api, plan["replay_id"], what)

    def read(conn: Connection) -> list[str]:
        trail = table(AuditEntry)
        query = select(trail.c.action).where(trail.c.object == f"replay/{plan['replay_id']}").order_by(trail.c.number)
        return list(conn.execute(query).scalars())

    assert await api.services.db.read(read) == ["replay.plan", "replay.run", "replay.pause", "replay.resume", "replay.cancel"]
    await switch(api, False)


async def test_another_clinics_batch_is_unknown(api: Api) -> None:
    other = await open_api(api.services, api.client, "clinica-vizinha")
    await switch(other, True)
    await parked(other)
    plan = await replay(other, PARKED)
    for path in (f"/replays/{plan['replay_id']}", f"/replays/{plan['replay_id']}/report"):
        assert (await api.call("GET", path)).status_code == 404
    await act(api, plan["replay_id"], "run", status=404)
    assert (await replay(api, PARKED))["total"] == 0
    await switch(other, False)


async def test_batches_come_in_pages_newest_first(api: Api, manual_clock: ManualClock) -> None:
    made = []
    for _ in range(3):
        manual_clock.advance(seconds=1)
        made.append((await replay(api, PARKED))["replay_id"])
    page = await api.get("/replays", limit=2)
    rest = await api.get("/replays", limit=2, cursor=page["next_cursor"])
    assert [b["replay_id"] for b in page["items"] + rest["items"]] == made[::-1]


# --- helpers ------------------------------------------------------------------------------------------------------------


async def end_takeover(api: Api) -> None:
    """The conversation goes back to the AI."""
    lane = table(Lane)
    await api.services.db.write(lambda c: c.execute(lane.update().where(lane.c.contact_id == CONTACT).values(takeover_id=None)))


async def versions(api: Api) -> int:
    def read(conn: Connection) -> int:
        return int(conn.execute(select(func.count()).select_from(table(AppointmentVersion))).scalar_one())

    return await api.services.db.read(read)
