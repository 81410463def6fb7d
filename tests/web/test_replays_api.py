"""Replay batches through the API with the real engine on a clock that only the test moves (S-PC-02-003, F-05)."""

from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from app.clock import ManualClock
from app.store.tables import ManualTask, ReplayItem, table
from app.store.verify import findings
from tests.web.api_client import CONTACT, Api
from tests.web.batches import PARKED, act, end_takeover, finished, replay, tasks, versions
from tests.web.engine_fixtures import api, engine
from tests.web.outage import ended, family, parked, switch

__all__ = ["api", "engine"]


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


async def test_batches_come_in_pages_newest_first(api: Api, manual_clock: ManualClock) -> None:
    made = []
    for _ in range(3):
        manual_clock.advance(seconds=1)
        made.append((await replay(api, PARKED))["replay_id"])
    page = await api.get("/replays", limit=2)
    rest = await api.get("/replays", limit=2, cursor=page["next_cursor"])
    assert [b["replay_id"] for b in page["items"] + rest["items"]] == made[::-1]


async def test_verify_finds_an_item_whose_result_was_changed_or_of_which_nobody_was_told(api: Api) -> None:
    await switch(api, True)
    await parked(api, guardian_version=9)
    plan = await replay(api, PARKED)
    await act(api, plan["replay_id"], "run")
    await switch(api, False)
    assert (await finished(api, plan["replay_id"]))["counts"]["manual_review_required"] == 1
    item, task = table(ReplayItem), table(ManualTask)

    async def changed(column: Any, value: str) -> list[str]:
        """What verify says while one column of the item or task says something else."""

        def work(conn: Connection) -> list[str]:
            before = conn.execute(select(column)).scalar_one()
            conn.execute(update(column.table).values({column: value}))
            found = [v.code for v in findings(conn, 10)]
            conn.execute(update(column.table).values({column: before}))
            return found

        return await api.services.db.write(work)

    assert await changed(item.c.result, "replayed") == ["replay_result"]
    assert await changed(item.c.actual_state, "conflict_blocked") == ["replay_result"]
    assert await changed(item.c.state, "released") == ["replay_open"]
    assert await changed(task.c.dedup_key, "somebody else's") == ["task_missing"]
