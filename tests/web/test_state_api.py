"""Lanes, queue, agenda and settings through the API, the engine standing still."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select, update

from app.bootstrap import Services
from app.clock import ManualClock
from app.domain.envelopes import Command, Message, parse_command, parse_event
from app.store.bulk import insert_rows
from app.store.inbox import accept
from app.store.intake_facts import Submission
from app.store.tables import AuditEntry, Hold, Lane, table
from tests import builders
from tests.web.api_client import CONTACT, Api, open_api

LANE = table(Lane)


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


async def take(api: Api, *items: Command | Message) -> None:
    """Accept parsed items without the intake loop."""
    tenant_id = api.clinic.tenant_id
    ranks = [i.priority.rank if isinstance(i, Command) else 3 for i in items]
    given = [
        Submission(tenant_id=tenant_id, item=i, spare_id=f"s-{api.now.timestamp()}-{n}", priority=r)
        for n, (i, r) in enumerate(zip(items, ranks, strict=True))
    ]
    await api.services.db.write(accept, given, api.now)


def command(api: Api, number: int, command_type: str = "schedule", **fields: Any) -> Command:
    raw = api.command(command_type, command_id=f"cmd-{number}", idempotency_key=f"key-{number}", **fields)
    made = parse_command(raw, tenant_id=api.clinic.tenant_id, new_id=f"n-{number}")
    assert isinstance(made, Command)
    return made


def message(api: Api, number: int, **fields: Any) -> Message:
    raw = api.event(event_id=f"ev-{number}", external_id=f"w-{number}", **fields)
    made = parse_event(raw, tenant_id=api.clinic.tenant_id, new_id=f"n-{number}")
    assert isinstance(made, Message)
    return made


async def set_lane(api: Api, contact_id: str, **values: Any) -> None:
    def change(conn: Connection) -> None:
        done = conn.execute(update(LANE).where(LANE.c.contact_id == contact_id).values(**values))
        assert done.rowcount == 1

    await api.services.db.write(change)


# --- lane ---------------------------------------------------------------------------------------------------------------


async def test_a_lane_shows_messages_and_commands_in_causal_order(api: Api, manual_clock: ManualClock) -> None:
    await take(api, message(api, 1))
    for i in (1, 2):
        manual_clock.advance(seconds=1)
        await take(api, command(api, i, "follow_up", payload={"text": "oi"}))
    manual_clock.advance(seconds=1)
    await take(api, message(api, 2), message(api, 3))
    items = (await api.get(f"/contacts/{CONTACT}/lane"))["items"]
    assert [i["id"] for i in items] == ["ev-1", "cmd-1", "cmd-2", "ev-2", "ev-3"]
    assert [i.get("sequence") for i in items if i["kind"] == "message"] == [1, 2, 3]
    assert [i.get("commit_order") for i in items if i["kind"] == "command"] == [1, 2]
    fields = {"kind", "id", "status", "reason", "dispatch_priority", "accepted_at", "done_at", "lock_backend", "correlation_id"}
    assert all(fields <= set(item) for item in items)
    assert items[1]["command_type"] == "follow_up"


async def test_commands_keep_their_commit_order_though_they_came_the_other_way_round(api: Api, manual_clock: ManualClock) -> None:
    for order in (3, 1, 2):
        await take(api, command(api, order, commit_order=order))
        manual_clock.advance(seconds=1)
    items = (await api.get(f"/contacts/{CONTACT}/lane"))["items"]
    assert [i["commit_order"] for i in items] == [1, 2, 3]


async def test_a_long_lane_comes_in_pages_that_join_without_gaps(api: Api, manual_clock: ManualClock) -> None:
    for i in range(1, 6):
        await take(api, message(api, i), command(api, i))
        manual_clock.advance(seconds=1)
    await take(api, command(api, 99, commit_order=3))  # taken: it gets no place, and is still seen
    whole = [i["id"] for i in (await api.get(f"/contacts/{CONTACT}/lane"))["items"]]
    assert len(whole) == 11
    assert whole[-1] == "cmd-99"
    for limit in (1, 2, 3, 10):
        seen: list[str] = []
        cursor: dict[str, str] = {}
        for _ in range(20):
            page = await api.get(f"/contacts/{CONTACT}/lane", limit=limit, **cursor)
            seen += [i["id"] for i in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert seen == whole


# --- why a lane stands still --------------------------------------------------------------------------------------------


async def test_a_pause_says_who_since_when_and_what_waits(api: Api) -> None:
    await take(api, command(api, 1), command(api, 2))
    await set_lane(api, CONTACT, paused_at=api.now, paused_by="user:ines", paused_reason="conferir")
    lane = (await api.get(f"/contacts/{CONTACT}"))["lane"]
    assert (lane["waiting"], lane["blocked_by"]) == (2, "paused")
    why = lane["why"]
    assert set(why) == {"cause", "since", "next_look_at", "holder", "items_behind", "position", "sentence"}
    assert (why["holder"], why["items_behind"]) == ("user:ines", 2)
    await set_lane(api, CONTACT, paused_at=None)
    assert (await api.get(f"/contacts/{CONTACT}"))["lane"]["blocked_by"] is None


@pytest.mark.parametrize("held", ["*", "schedule"])
async def test_a_hold_on_the_clinic_or_the_type_names_the_person(api: Api, held: str) -> None:
    await take(api, command(api, 1))
    row = {"tenant_id": api.clinic.tenant_id, "command_type": held, "since": api.now, "by": "user:ines", "reason": "feriado"}
    await api.services.db.write(lambda conn: insert_rows(conn, table(Hold), [row]))
    if held != "*":
        await set_lane(api, CONTACT, blocked_by="held", blocked_since=api.now, not_before=api.now + timedelta(hours=1))
    lane = (await api.get(f"/contacts/{CONTACT}"))["lane"]
    assert (lane["blocked_by"], lane["why"]["holder"], lane["why"]["since"]) == ("held", "user:ines", "2026-11-23T12:00:00Z")


@pytest.mark.parametrize("cause", ["safe_mode", "contingency", "gap"])
async def test_a_parked_lane_says_why_in_both_languages(api: Api, cause: str) -> None:
    await take(api, *(command(api, i) for i in (1, 2, 3)))
    await set_lane(api, CONTACT, blocked_by=cause, blocked_since=api.now, not_before=api.now + timedelta(minutes=1))
    portuguese = (await api.get(f"/contacts/{CONTACT}"))["lane"]["why"]
    english = (await api.call("GET", f"/contacts/{CONTACT}", headers={"Accept-Language": "en"})).json()["lane"]["why"]
    assert (portuguese["cause"], portuguese["items_behind"]) == (cause, 2)
    assert portuguese["next_look_at"] == "2026-11-23T12:01:00Z"
    assert portuguese["sentence"] != english["sentence"]


# --- queue --------------------------------------------------------------------------------------------------------------


async def test_the_queue_stands_in_the_order_of_dispatch(api: Api, manual_clock: ManualClock) -> None:
    await take(api, command(api, 1, "follow_up", contact_id="c-a", payload={"text": "x"}))
    manual_clock.advance(seconds=1)
    await take(api, command(api, 2, "schedule", contact_id="c-b"), command(api, 3, "takeover", contact_id="c-b", payload={}))
    manual_clock.advance(seconds=1)
    await take(api, command(api, 4, "cancel", contact_id="c-c", payload={"appointment_id": "a-1"}))
    manual_clock.advance(seconds=5)
    queue = await api.get("/queue")
    # an urgent command pulls its whole lane forward, past nothing of its own
    assert [i["command_id"] for i in queue["items"]] == ["cmd-2", "cmd-3", "cmd-4", "cmd-1"]
    assert queue["total"] == 4
    first = queue["items"][0]
    assert (first["priority"], first["served_as"], first["age_s"], first["commit_order"]) == ("new_lead", "urgent_takeover", 6.0, 1)
    assert (first["status"], first["blocked_by"]) == ("queued_for_dispatch", None)


async def test_parked_lanes_come_behind_those_that_can_go(api: Api, manual_clock: ManualClock) -> None:
    await take(api, command(api, 1, "takeover", contact_id="c-a", payload={}))
    manual_clock.advance(seconds=1)
    await take(api, command(api, 2, "follow_up", contact_id="c-b", payload={"text": "x"}))
    await set_lane(api, "c-a", blocked_by="safe_mode", blocked_since=api.now, not_before=api.now + timedelta(minutes=1))
    assert [(i["command_id"], i["blocked_by"]) for i in (await api.get("/queue"))["items"]] == [
        ("cmd-2", None),
        ("cmd-1", "safe_mode"),
    ]


async def test_a_lane_that_waited_long_is_served_as_a_higher_class(api: Api, manual_clock: ManualClock) -> None:
    await take(api, command(api, 1, "follow_up", contact_id="c-a", payload={"text": "x"}))
    manual_clock.advance(seconds=5 * 60)
    await take(api, command(api, 2, "schedule", contact_id="c-b"))
    items = (await api.get("/queue"))["items"]
    assert [(i["command_id"], i["served_as"]) for i in items] == [("cmd-1", "confirmation_reschedule"), ("cmd-2", "new_lead")]


async def test_the_queue_comes_in_pages(api: Api) -> None:
    await take(api, *(command(api, i, contact_id=f"c-{i % 3}") for i in range(10)))
    whole = [i["command_id"] for i in (await api.get("/queue"))["items"]]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(10):
        page = await api.get("/queue", limit=3, **cursor)
        seen += [i["command_id"] for i in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(whole) == 10
    assert seen == whole


# --- agenda -------------------------------------------------------------------------------------------------------------


async def test_the_agenda_is_filtered_by_time_therapist_and_patient(api: Api) -> None:
    def book(conn: Connection) -> None:
        for i in range(4):
            start = api.now + timedelta(hours=i)
            builders.appointment(
                conn,
                tenant_id=api.clinic.tenant_id,
                appointment_id=f"a-{i}",
                therapist_id=f"t-{i % 2}",
                patient_id=f"p-{i // 2}",
                start_at=start,
                end_at=start + timedelta(minutes=50),
            )

    await api.services.db.write(book)

    async def ids(**filters: str) -> list[str]:
        return [a["appointment_id"] for a in (await api.get("/appointments", **filters))["items"]]

    assert await ids() == ["a-0", "a-1", "a-2", "a-3"]
    assert await ids(therapist_id="t-1") == ["a-1", "a-3"]
    assert await ids(patient_id="p-1") == ["a-2", "a-3"]
    assert await ids(**{"from": _at(api, 1), "to": _at(api, 3)}) == ["a-1", "a-2"]
    assert await ids(**{"from": _at(api, 0.5), "to": _at(api, 0.6)}) == ["a-0"]
    page = await api.get("/appointments", limit=3)
    assert await ids(cursor=page["next_cursor"]) == ["a-3"]


def _at(api: Api, hours: float) -> str:
    moment: datetime = api.now + timedelta(hours=hours)
    return moment.isoformat()


# --- settings -----------------------------------------------------------------------------------------------------------


async def test_settings_merge_hide_secrets_and_are_audited(api: Api) -> None:
    path = f"/settings/{api.clinic.slug}"
    await api.put(path, {"whatsapp": {"app_secret": "s3cret", "phone_number_id": "77"}, "wait_limit_s": 120})
    saved = await api.put(path, {"whatsapp": {"app_secret": "***"}, "replay_ttl_min": {"schedule": 90}})
    assert saved == await api.get(path)
    assert saved["whatsapp"] == {"app_secret": "***", "phone_number_id": "77"}
    assert (saved["wait_limit_s"], saved["replay_ttl_min"]["schedule"], saved["replay_ttl_min"]["cancel"]) == (120, 90, 120)

    def trail(conn: Connection) -> list[str]:
        audit = table(AuditEntry)
        rows = conn.execute(select(audit).where(audit.c.action == "settings.save").order_by(audit.c.number))
        return [r.before_json + r.after_json + r.actor for r in rows]

    entries = await api.services.db.read(trail)
    assert len(entries) == 2
    assert not any("s3cret" in entry for entry in entries)
    assert all("key:" in entry for entry in entries)


async def test_global_settings_need_a_global_key(api: Api, global_key: dict[str, str]) -> None:
    assert (await api.call("GET", "/settings/global")).status_code == 403
    assert (await api.call("PUT", "/settings/global", json={"wait_limit_s": 1})).status_code == 403
    changed = await api.call("PUT", "/settings/global", json={"wait_limit_s": 77}, headers=global_key)
    assert changed.json()["wait_limit_s"] == 77
    assert (await api.get(f"/settings/{api.clinic.tenant_id}"))["wait_limit_s"] == 77
