"""The fences at their edges, through the API on a clock that only the test moves (S-PC-02-001, S-PC-02-002)."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from app.clock import ManualClock
from tests.web.api_client import Api
from tests.web.engine_fixtures import api, engine

__all__ = ["api", "engine"]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database is enough: the fences are pure, and tests/web/test_contingency_api.py has both kinds."""
    return sqlite_url


async def booked(api: Api, hours: float = 30) -> dict[str, str]:
    """An appointment `a-1` at version 1; returns its slot."""
    slot = api.slot(hours, "a-1")
    assert (await api.one(api.command(payload=slot)))["result"] == "applied_once"
    return slot


def at(api: Api, **ago: float) -> str:
    moment: datetime = api.now - timedelta(**ago)
    return moment.isoformat()


async def verdict(api: Api, command_type: str, payload: dict[str, Any], **fields: Any) -> tuple[str, str]:
    answer = await api.one(api.command(command_type, payload, **fields))
    return answer["result"], answer["reason"]


@pytest.mark.story("S-PC-02-001")
@pytest.mark.parametrize(
    ("command_type", "limit_min"), [("schedule", 120), ("reschedule", 120), ("cancel", 120), ("follow_up", 24 * 60)]
)
@pytest.mark.parametrize(("over_ms", "passes"), [(0, True), (1, False)])
async def test_exactly_at_the_time_limit_is_valid_one_millisecond_after_is_not(
    api: Api, command_type: str, limit_min: int, over_ms: int, passes: bool
) -> None:
    await booked(api)
    payload = {
        "schedule": api.slot(50),
        "reschedule": {"appointment_id": "a-1", **{k: v for k, v in api.slot(60).items() if k != "therapist_id"}},
        "cancel": {"appointment_id": "a-1"},
        "follow_up": {"text": "oi"},
    }[command_type]
    bound = {"entity_version": 1} if command_type in ("reschedule", "cancel") else {}
    old = at(api, minutes=limit_min, milliseconds=over_ms)
    expected = ("replayed", "replayed_within_fences") if passes else ("expired_manual", "ttl_expired")
    assert await verdict(api, command_type, payload, occurred_at=old, **bound) == expected


@pytest.mark.story("S-PC-02-001")
async def test_the_time_limit_of_a_clinic_is_its_own(api: Api) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"replay_ttl_min": {"schedule": 10}})
    assert await verdict(api, "schedule", api.slot(1), occurred_at=at(api, minutes=10)) == ("replayed", "replayed_within_fences")
    assert await verdict(api, "schedule", api.slot(2), occurred_at=at(api, minutes=10, milliseconds=1)) == (
        "expired_manual", "ttl_expired",
    )  # fmt: skip


@pytest.mark.story("S-PC-02-001")
@pytest.mark.parametrize(("over_ms", "result"), [(0, "replayed"), (1, "expired_manual")])
async def test_a_confirmation_of_the_day_before_lives_until_half_an_hour_before_the_visit(
    api: Api, manual_clock: ManualClock, over_ms: int, result: str
) -> None:
    slot = await booked(api, hours=2)
    asked = api.command("d1_confirmation", {"appointment_id": "a-1", "answer": "yes"}, entity_version=1)
    manual_clock.set(datetime.fromisoformat(slot["start"]) - timedelta(minutes=30) + timedelta(milliseconds=over_ms))
    assert (await api.one(asked))["result"] == result


@pytest.mark.story("S-PC-02-002")
@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (1, ("conflict_blocked", "entity_version_stale")),
        (2, ("replayed", "replayed_within_fences")),
        (3, ("conflict_blocked", "entity_version_stale")),
    ],
)
async def test_only_the_version_it_was_decided_on_lets_a_late_command_pass(
    api: Api, version: int, expected: tuple[str, str]
) -> None:
    await booked(api)
    confirmed = {"appointment_id": "a-1", "answer": "yes"}
    assert (await verdict(api, "d1_confirmation", confirmed, entity_version=1))[0] == "applied_once"  # version 2 from here
    cancel = {"appointment_id": "a-1"}
    assert await verdict(api, "cancel", cancel, entity_version=version, occurred_at=at(api, minutes=5)) == expected


@pytest.mark.story("S-PC-02-002")
@pytest.mark.parametrize(
    ("older_ms", "expected"),
    [(0, ("replayed", "replayed_within_fences")), (1, ("conflict_blocked", "as_of_stale"))],
)
async def test_an_older_as_of_stops_a_late_command_although_the_versions_match(
    api: Api, older_ms: int, expected: tuple[str, str]
) -> None:
    await booked(api)
    fields = {"entity_version": 1, "occurred_at": at(api, minutes=5), "as_of": at(api, milliseconds=older_ms)}
    assert await verdict(api, "cancel", {"appointment_id": "a-1"}, **fields) == expected


@pytest.mark.story("S-PC-02-002")
async def test_a_late_command_from_before_the_newest_message_is_stopped(api: Api) -> None:
    said = await api.call("POST", "/events", json=api.event("mudei de ideia"))
    await api.processed(said.json()["event_id"])
    found = await verdict(api, "schedule", api.slot(1), conversation_version=1, occurred_at=at(api, minutes=5))
    assert found == ("conflict_blocked", "conversation_version_stale")


@pytest.mark.story("S-PC-02-001", "S-PC-02-002")
@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("occurred_at", "missing_timestamp"),
        ("entity_version", "missing_version_metadata"),
        ("conversation_version", "missing_version_metadata"),
        ("guardian_version", "missing_version_metadata"),
        ("as_of", "missing_version_metadata"),
    ],
)
async def test_what_the_fences_cannot_judge_goes_to_a_person(api: Api, missing: str, reason: str) -> None:
    await booked(api)
    fields = {"entity_version": 1, missing: None}
    assert await verdict(api, "cancel", {"appointment_id": "a-1"}, **fields) == ("invalid_event_manual", reason)
    assert (await api.get("/appointments/a-1"))["status"] == "scheduled"
