"""Events and commands through the API, with the engine running, on both databases."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.bootstrap import Services
from app.store.verify import verify
from app.web.security import BODY_MAX
from tests.web.api_client import CONTACT, THERAPIST, Api, open_api
from tests.web.conftest import add_key


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    return await open_api(running_services, running_client)


async def sound(api: Api) -> None:
    assert await api.services.db.read(verify) == []


# --- the main path ------------------------------------------------------------------------------------------------------


async def test_a_confirmed_schedule_is_applied_once_and_stands_in_the_agenda(api: Api) -> None:
    command = api.command(payload=api.slot(1, "a-1"), conversation_id="conv-1")
    answer = await api.one(command)
    command_id = answer["command_id"]
    assert answer == {
        "command_id": command_id,
        "status": "committed_causal",
        "commit_order": 1,
        "dispatch_priority": "new_lead",
        "correlation_id": command["correlation_id"],
        "result": "applied_once",
        "reason": "applied",
        "next_action": "Nada a fazer.",
    }
    booked = await api.get("/appointments/a-1")
    assert (booked["status"], booked["version"], booked["therapist_id"]) == ("scheduled", 1, THERAPIST)
    assert set(booked) == {"appointment_id", "patient_id", "therapist_id", "start", "end", "status", "version", "as_of"}
    assert booked["start"].endswith("Z")
    contact = await api.get(f"/contacts/{CONTACT}")
    assert contact["lane"] == {"last_assigned": 1, "last_committed": 1, "waiting": 0, "blocked_by": None, "why": None}
    await sound(api)


async def test_without_wait_the_answer_is_the_receipt_alone(api: Api) -> None:
    answer = await api.one(api.command(), wait=0)
    assert set(answer) == {"command_id", "status", "commit_order", "dispatch_priority", "correlation_id"}
    assert (answer["status"], answer["commit_order"]) == ("queued_for_dispatch", 1)


async def test_whoever_waits_while_the_server_stops_is_told_that_the_command_is_stored(api: Api) -> None:
    held = asyncio.create_task(api.one(api.command(command_id="cmd-held", commit_order=2), wait=25))
    await api.once(f"/contacts/{CONTACT}", lambda found: found["lane"]["waiting"] == 1)
    await api.once("/commands/cmd-held", lambda found: found["status"] == "waiting_previous_commit")
    assert not held.done()
    api.services.intake.close()
    async with asyncio.timeout(5):
        answer = await held
    assert (answer["command_id"], answer["status"], answer["result"]) == ("cmd-held", "waiting_previous_commit", None)
    refused = await api.call("POST", "/commands", json=api.command())
    assert refused.status_code == 503


async def test_an_event_is_durable_and_triaged_when_it_is_answered(api: Api) -> None:
    event = api.event("Quero remarcar a consulta", correlation_id="corr-e")
    answer = await api.call("POST", "/events", json=event)
    assert answer.status_code == 202
    body = answer.json()
    assert set(body) == {"event_id", "status", "sequence", "dispatch_priority", "correlation_id"}
    assert (body["status"], body["sequence"], body["correlation_id"]) == ("queued_for_dispatch", 1, "corr-e")
    assert (await api.get(f"/events/{body['event_id']}"))["external_id"] == event["external_id"]
    assert (await api.get(f"/contacts/{CONTACT}"))["conversation_version"] == 2


async def test_a_batch_is_answered_in_request_order(api: Api) -> None:
    commands = [api.command(contact_id=f"c-{i % 3}", command_id=f"cmd-{i}") for i in range(9)]
    answers = await api.send(*commands, wait=0)
    assert [a["command_id"] for a in answers] == [f"cmd-{i}" for i in range(9)]
    assert [a["commit_order"] for a in answers] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    events = (await api.call("POST", "/events", json={"events": [api.event(str(i)) for i in range(5)]})).json()["items"]
    assert [e["sequence"] for e in events] == [1, 2, 3, 4, 5]
    assert (await api.call("POST", "/events", json={"events": []})).json() == {"items": []}


async def test_five_hundred_items_are_taken_at_once(api: Api) -> None:
    events = {"events": [api.event(str(i), contact_id=f"c-{i % 7}") for i in range(500)]}
    answer = await api.call("POST", "/events", json=events)
    assert answer.status_code == 202
    assert {item["status"] for item in answer.json()["items"]} == {"queued_for_dispatch"}


async def test_a_global_key_names_the_tenant_in_the_item_or_for_the_batch(api: Api) -> None:
    from tests.web.conftest import add_key

    stranger = Api(api.client, api.services, api.clinic, await add_key(api.services, None))
    unnamed = await stranger.call("POST", "/commands", json=api.command())
    assert (unnamed.status_code, unnamed.json()["errors"][0]["pointer"]) == (400, "/tenant_id")
    assert (await stranger.one(api.command(tenant_id=api.clinic.slug)))["result"] == "applied_once"
    batch = {"tenant_id": api.clinic.tenant_id, "commands": [api.command(), api.command()]}
    answer = await stranger.call("POST", "/commands", params={"wait": 10}, json=batch)
    assert [item["result"] for item in answer.json()["items"]] == ["applied_once", "applied_once"]
    seen = await stranger.call("GET", "/appointments", params={"tenant_id": api.clinic.slug})
    assert len(seen.json()["items"]) == 3


# --- duplicates ---------------------------------------------------------------------------------------------------------


async def test_a_message_that_comes_twice_is_one_message(api: Api) -> None:
    event = api.event()
    first, second = [(await api.call("POST", "/events", json=event)).json() for _ in range(2)]
    assert (first["status"], second["status"]) == ("queued_for_dispatch", "duplicate_ignored")
    assert (first["event_id"], first["sequence"]) == (second["event_id"], second["sequence"])
    lane = await api.get(f"/contacts/{CONTACT}/lane")
    assert [item["id"] for item in lane["items"]] == [first["event_id"]]


async def test_a_command_that_comes_twice_takes_effect_once(api: Api) -> None:
    command = api.command(payload=api.slot(1, "a-1"))
    first, second = await api.one(command), await api.one(command)
    assert (first["result"], second["status"], second["original_result"]) == ("applied_once", "duplicate_ignored", "applied_once")
    assert first["command_id"] == second["command_id"]
    assert (await api.get("/appointments/a-1"))["version"] == 1
    await sound(api)


async def test_the_same_command_from_many_callers_at_once_takes_effect_once(api: Api) -> None:
    command = api.command(payload=api.slot(1, "a-1"))
    answers = await asyncio.gather(*(api.one(command) for _ in range(12)))
    assert sorted(a["result"] for a in answers) == ["applied_once", *["duplicate_ignored"] * 11]
    assert len({a["command_id"] for a in answers}) == 1
    await sound(api)


async def test_a_key_used_again_for_something_else_is_a_conflict_that_is_seen(api: Api) -> None:
    first = await api.one(api.command(payload=api.slot(1, "a-1"), idempotency_key="same"))
    second = await api.one(api.command(payload=api.slot(5, "a-2"), idempotency_key="same"))
    assert (first["result"], second["result"], second["reason"]) == ("applied_once", "blocked_conflict", "idempotency_key_reused")
    assert (await api.call("GET", "/appointments/a-2")).status_code == 404
    await sound(api)


# --- every terminal state of the causal stories -------------------------------------------------------------------------


@pytest.mark.story("S-PC-01-001")
async def test_a_place_that_has_passed_or_is_taken_is_refused_and_seen(api: Api) -> None:
    assert (await api.one(api.command(commit_order=1)))["result"] == "applied_once"
    passed, ahead = await api.one(api.command(commit_order=1)), await api.one(api.command(commit_order=3), wait=0)
    taken = await api.one(api.command(commit_order=3))
    far = await api.one(api.command(commit_order=5_000))
    # the number of a command that was decided is both passed and taken; that its turn is over is what is said
    assert (passed["status"], passed["reason"]) == ("blocked_commit_order_violation", "commit_order_passed")
    assert passed["commit_order"] is None
    assert (ahead["status"], ahead["commit_order"]) == ("queued_for_dispatch", 3)
    assert (taken["status"], taken["reason"]) == ("blocked_conflict", "commit_order_taken")
    assert (far["status"], far["reason"]) == ("invalid_payload_manual", "commit_order_too_far")
    detail = await api.get(f"/commands/{passed['command_id']}")
    assert (detail["result"], detail["commit_order"]) == ("blocked_commit_order_violation", None)


@pytest.mark.story("S-PC-01-001")
async def test_a_full_queue_keeps_what_comes_as_dead_letters(api: Api) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"max_queue_size": 0})
    answer = await api.one(api.command(command_id="late-1"))
    assert (answer["status"], answer["reason"], answer["commit_order"]) == ("dead_letter", "queue_overflow", None)
    kept = await api.get("/commands/late-1")
    assert (kept["status"], kept["result"], kept["times"]) == ("dead_letter", "dead_letter", 1)
    assert kept["next_action"]
    (alert,) = (await api.get("/alerts"))["items"]
    assert (alert["trigger"], alert["severity"], alert["status"]) == ("queue_overflow", "high", "open")


@pytest.mark.story("S-PC-01-002")
async def test_a_command_behind_a_gap_waits_visibly_and_goes_on_when_it_is_filled(api: Api) -> None:
    behind = await api.one(api.command(payload=api.slot(2, "a-2"), commit_order=2), wait=0.7)
    assert (behind["status"], behind["result"], behind["reason"]) == ("waiting_previous_commit", None, "previous_missing")
    lane = (await api.get(f"/contacts/{CONTACT}"))["lane"]
    assert (lane["last_committed"], lane["waiting"], lane["blocked_by"]) == (0, 1, "gap")
    assert (lane["why"]["cause"], lane["why"]["items_behind"]) == ("gap", 0)
    assert lane["why"]["sentence"]
    assert lane["why"]["next_look_at"] > lane["why"]["since"]
    queued = await api.get("/queue")
    assert [(i["id"], i["status"], i["commit_order"], i["blocked_by"]) for i in queued["items"]] == [
        (behind["command_id"], "waiting_previous_commit", 2, "gap")
    ]
    first = await api.one(api.command(payload=api.slot(1, "a-1"), commit_order=1))
    assert first["result"] == "applied_once"
    await api.services.intake.result(api.clinic.tenant_id, behind["command_id"], 10)
    done = await api.get(f"/commands/{behind['command_id']}")
    assert (done["status"], done["result"]) == ("committed_causal", "applied_once")
    assert [step["what"] for step in done["timeline"]][:2] == ["occurred", "accepted"]
    assert {"waiting", "decided", "message_queued"} <= {step["what"] for step in done["timeline"]}
    await sound(api)


@pytest.mark.story("S-PC-01-002")
async def test_a_gap_that_is_never_filled_goes_to_a_person(api: Api) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"wait_limit_s": 0.2})
    answer = await api.one(api.command(commit_order=2))
    assert (answer["result"], answer["reason"], answer["status"]) == (
        "manual_review_required",
        "waited_too_long",
        "manual_review_required",
    )
    lane = (await api.get(f"/contacts/{CONTACT}/lane"))["items"]
    assert [(i["commit_order"], i["id"], i["status"]) for i in lane] == [
        (1, None, "manual_review_required"),
        (2, answer["command_id"], "manual_review_required"),
    ]
    await sound(api)


@pytest.mark.story("S-PC-01-003")
@pytest.mark.parametrize(
    ("fields", "result", "reason"),
    [
        ({"conversation_version": 7}, "version_conflict_blocked", "conversation_version_stale"),
        ({"guardian_version": 9}, "blocked_guardian_denied", "guardian_version_stale"),
        ({"conversation_version": None}, "invalid_event_manual", "missing_version_metadata"),
        ({"guardian_version": None}, "invalid_event_manual", "missing_version_metadata"),
        ({"occurred_at": None}, "invalid_event_manual", "missing_timestamp"),
        ({"confirmed_by_contact": False}, "blocked_unconfirmed", "not_confirmed"),
        ({"patient_id": "p-nobody"}, "blocked_guardian_denied", "patient_unknown"),
        ({"patient_id": None}, "invalid_payload_manual", "missing_patient"),
    ],
)
async def test_what_must_not_happen_ends_with_its_state_and_no_effect(
    api: Api, fields: dict[str, Any], result: str, reason: str
) -> None:
    answer = await api.one(api.command(payload=api.slot(1, "a-1"), **fields))
    assert (answer["status"], answer["result"], answer["reason"]) == (result, result, reason)
    assert answer["next_action"]
    assert (await api.call("GET", "/appointments/a-1")).status_code == 404
    await sound(api)


async def test_a_contact_without_permission_is_denied(api: Api) -> None:
    await api.put("/contacts/c-joao", {"name": "João"})
    stranger = api.command(contact_id="c-joao", guardian_version=0)
    assert (await api.one(stranger))["reason"] == "no_guardian_link"
    await api.put("/patients/p-pedro/guardians/c-joao", {"can_schedule": True})
    unverified = api.command(contact_id="c-joao", guardian_version=1)
    assert (await api.one(unverified))["reason"] == "guardian_not_verified"
    await api.put("/patients/p-pedro/guardians/c-joao", {"verified_by": "recepcao", "verification_method": "in_person"})
    powerless = api.command(contact_id="c-joao", guardian_version=2)
    assert (await api.one(powerless))["reason"] == "permission_missing"
    assert (await api.call("DELETE", f"/patients/p-pedro/guardians/{CONTACT}")).json()["guardian_version"] == 2
    revoked = api.command(guardian_version=2)
    answer = await api.one(revoked)
    assert (answer["result"], answer["reason"]) == ("blocked_guardian_denied", "guardian_revoked")
    assert (await api.get("/appointments"))["items"] == []


async def test_a_late_command_goes_through_the_fences(api: Api) -> None:
    old = (api.now - timedelta(minutes=5)).isoformat()
    replayed = await api.one(api.command(payload=api.slot(1, "a-1"), occurred_at=old, as_of=old))
    assert (replayed["status"], replayed["result"]) == ("committed_causal", "replayed")
    expired = (api.now - timedelta(hours=3)).isoformat()
    answer = await api.one(api.command(payload=api.slot(3, "a-3"), occurred_at=expired, as_of=expired))
    assert (answer["status"], answer["result"]) == ("expired_manual", "expired_manual")
    await sound(api)


async def test_the_agenda_moves_with_reschedule_and_cancel(api: Api) -> None:
    await api.one(api.command(payload=api.slot(1, "a-1")))
    moved = {"appointment_id": "a-1", **{k: v for k, v in api.slot(4).items() if k != "therapist_id"}}
    assert (await api.one(api.command("reschedule", moved, entity_version=1)))["result"] == "applied_once"
    stale = await api.one(api.command("cancel", {"appointment_id": "a-1"}, entity_version=1))
    assert (stale["result"], stale["reason"]) == ("version_conflict_blocked", "entity_version_stale")
    assert (await api.one(api.command("cancel", {"appointment_id": "a-1"}, entity_version=2)))["result"] == "applied_once"
    now = await api.get("/appointments/a-1")
    assert (now["status"], now["version"]) == ("cancelled", 3)
    clash = await api.one(api.command(payload=api.slot(8, "a-8")))
    again = await api.one(api.command(payload=api.slot(8, "a-9")))
    assert (clash["result"], again["result"], again["reason"]) == ("applied_once", "blocked_agenda_conflict", "slot_taken")
    await sound(api)


async def test_a_takeover_stops_the_ai(api: Api) -> None:
    assert (await api.one(api.command("takeover", {"reason": "pediu"})))["result"] == "applied_once"
    assert (await api.get(f"/contacts/{CONTACT}"))["takeover_active"] is True
    answer = await api.one(api.command("follow_up", {"text": "Olá"}))
    assert answer["result"] == "blocked_takeover_active"


# --- looking things up --------------------------------------------------------------------------------------------------


async def test_a_command_is_explained_in_the_language_of_the_reader(api: Api) -> None:
    answer = await api.one(api.command(guardian_version=9))
    path = f"/commands/{answer['command_id']}"
    english = (await api.call("GET", path, headers={"Accept-Language": "en-GB,en;q=0.9,pt;q=0.5"})).json()
    portuguese = (await api.call("GET", path, headers={"Accept-Language": "fr, pt-BR;q=0.8, en;q=0.3"})).json()
    unsaid = (await api.call("GET", path)).json()
    assert unsaid["next_action"] == portuguese["next_action"] != english["next_action"]
    assert english["why"].isascii()


async def test_a_processed_event_says_what_became_of_it(api: Api) -> None:
    event_id = (await api.call("POST", "/events", json=api.event("quero falar com uma pessoa"))).json()["event_id"]
    found = await api.processed(event_id)
    assert (found["result"], found["attempts"], found["intent"]) == ("processed", 1, "takeover_request")
    assert [step["what"] for step in found["timeline"]] == ["occurred", "accepted", "processed"]
    made = await api.get(f"/commands/{found['made_command_id']}")
    assert (made["command_type"], made["causation_id"], made["correlation_id"]) == ("takeover", event_id, found["correlation_id"])


async def test_the_api_describes_itself(api: Api) -> None:
    schema = (await api.client.get("/schema/openapi.json", headers=api.key)).json()
    body = schema["paths"]["/api/v1/commands"]["post"]["requestBody"]["content"]["application/json"]
    assert body["examples"]["one"]["value"]["command_type"] == "schedule"
    assert schema["paths"]["/api/v1/commands"]["post"]["responses"]["202"]["content"]
    assert "application/problem+json" in schema["paths"]["/api/v1/events"]["post"]["responses"]["400"]["content"]


# --- two ways to one handler --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/events", "/commands"])
async def test_a_body_that_says_its_size_is_answered_like_one_in_pieces(api: Api, path: str) -> None:
    item = (api.event() if path == "/events" else api.command()) | {"correlation_id": "corr-two-ways"}
    bodies = [
        json.dumps(item).encode(),
        json.dumps({path[1:]: [item, {"contact_id": 1}, "no object"]}).encode(),
        b"{}", b"", b"[]", b"{", b'"\xff"', b"[" * 100_000, b" " * BODY_MAX + b"{}",
        json.dumps({path[1:]: 1}).encode(),
        json.dumps({path[1:]: [{}] * 501}).encode(),
        json.dumps(item | {"tenant_id": "nowhere"}).encode(),
        json.dumps(item | {"tenant_id": 7}).encode(),
    ]  # fmt: skip
    reader = await add_key(api.services, api.clinic.tenant_id, "read")
    said = {"X-Correlation-ID": "asked", "Accept-Language": "en"}
    asked = [(body, headers) for body in bodies for headers in (api.key | said, reader | said)]
    asked += [(bodies[0], {"Authorization": "Bearer kora_no_key"} | said), (bodies[0], said)]
    await api.client.post(f"/api/v1{path}", content=bodies[0], headers=api.key)  # from here on a repeat, each time
    seen = set()
    for body, headers in asked:
        whole = await api.client.post(f"/api/v1{path}", content=body, headers=headers)
        pieces = await api.client.post(f"/api/v1{path}", content=in_pieces(body), headers=headers)
        assert told(whole) == told(pieces), body[:200]
        seen.add(whole.status_code)
    assert seen == {202, 400, 401, 403, 413}


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body without a size in its head."""
    half = len(body) // 2
    for piece in (body[:half], body[half:]):
        yield piece


def told(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """What an answer says, without what differs between two requests: ids of ours, places in the queue, numbers of repeats."""
    text = re.sub(r'"(sequence|commit_order)":\d+', r'"\1":0', re.sub(r"\b[0-9a-f]{32}\b", "id", answer.text))
    headers = dict(answer.headers)
    assert int(headers.pop("content-length")) == len(answer.content)
    return answer.status_code, headers, text
