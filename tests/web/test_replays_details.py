"""Replay batches in detail: filters, pace, staleness, agendas, the report, the trail (S-PC-02-003)."""

import csv
import io
from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.clock import ManualClock
from app.store.tables import AuditEntry, ManualTask, table
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.batches import PARKED, act, end_takeover, finished, replay, tasks
from tests.web.engine_fixtures import api, engine
from tests.web.outage import family, parked, switch

__all__ = ["api", "engine"]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database is enough here; tests/web/test_replays_api.py has both."""
    return sqlite_url


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


async def test_appointments_of_the_next_day_are_named(api: Api, manual_clock: ManualClock) -> None:
    await switch(api, True)
    soon = await parked(api, payload=api.slot(-2))
    await parked(api, payload=api.slot(2))
    assert [i["command_id"] for i in (await replay(api, PARKED))["within_24h"]] == [soon]


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


async def test_what_would_expire_before_its_turn_at_this_pace_is_foreseen_and_is_no_surprise(
    api: Api, manual_clock: ManualClock
) -> None:
    await switch(api, True)
    for n in range(3):
        await family(api, f"c-{n}")
        await parked(api, contact_id=f"c-{n}", payload=api.slot(n))
    manual_clock.advance(minutes=118)  # two minutes are left: time for the first two, one a minute and a bit
    plan = await replay(api, PARKED, rate=1 / 90)
    assert [i["predicted"]["result"] for i in plan["items"]] == ["replayed", "replayed", "expired_manual"]
    assert [i["event_age_s"] for i in plan["items"]] == [7080, 7170, 7260]
    assert (await replay(api, PARKED, rate=1))["would_replay"] == 3
    await act(api, plan["replay_id"], "run")
    await switch(api, False)
    path = f"/replays/{plan['replay_id']}"
    await api.once(path, lambda b: b["done"] == 1)
    manual_clock.advance(seconds=90)
    await api.once(path, lambda b: b["done"] == 2)
    manual_clock.advance(seconds=90)
    end = await finished(api, plan["replay_id"])
    assert (end["drift"], end["counts"]["replayed"], end["counts"]["expired_manual"]) == (0, 2, 1)


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


async def test_cancelling_hands_what_has_its_place_already_to_a_person(api: Api, manual_clock: ManualClock) -> None:
    await api.one(api.command("takeover", {"reason": "pediu"}))
    asked = [await api.one(api.command(payload=api.slot(n))) for n in (1, 2, 3)]
    await end_takeover(api)
    plan = await replay(api, {"state": "blocked_takeover_active"}, rate=0.01)
    await act(api, plan["replay_id"], "run")
    await api.once(f"/replays/{plan['replay_id']}", lambda b: b["done"] == 1)
    await act(api, plan["replay_id"], "cancel")
    done = await finished(api, plan["replay_id"], "cancelled")
    assert [(i["command_id"], i["result"], i["reason"]) for i in done["items"]] == [
        (asked[0]["command_id"], "replayed", "replayed_within_fences"),
        (asked[1]["command_id"], "manual_review_required", "replay_cancelled"),
        (asked[2]["command_id"], "manual_review_required", "replay_cancelled"),
    ]
    assert (await api.one(api.command(payload=api.slot(9))))["result"] == "applied_once"  # the lane is free again


async def test_the_task_of_a_request_that_was_replayed_after_all_is_closed(api: Api) -> None:
    slot = api.slot(1)
    await api.one(api.command(payload=slot | {"appointment_id": "a-1"}))
    refused = await api.one(api.command(payload=slot))
    assert refused["result"] == "blocked_agenda_conflict"
    assert [t["status"] for t in (await api.get("/manual-tasks"))["items"]] == ["open"]
    await api.one(api.command("cancel", {"appointment_id": "a-1"}, entity_version=1))
    done = await finished(api, (await replay(api, {"command_id": refused["command_id"]}, dry_run=False))["replay_id"])
    assert done["counts"]["replayed"] == 1

    def read(conn: Connection) -> list[tuple[str, str]]:
        task = table(ManualTask)
        return [(r.status, r.resolution) for r in conn.execute(select(task))]

    assert await api.services.db.read(read) == [("resolved", "applied_by_command")]
