"""No clinic sees or touches another's data, by any address of the API."""

from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from app.bootstrap import Services
from app.web.api import api_routes
from tests.web.api_client import CONTACT, PATIENT, PERMISSION, Api, open_api
from tests.web.conftest import app_over

pytestmark = pytest.mark.every_database

READS = [
    "/contacts/{contact}",
    "/contacts/{contact}/lane",
    "/patients/{patient}",
    "/patients/{patient}/guardians",
    "/patients/{patient}/guardians/{contact}",
    "/therapists/{therapist}",
    "/appointments/{appointment}",
    "/appointments/{appointment}/versions",
    "/commands/{command}",
    "/commands/{bad_command}",
    "/events/{event}",
]
MOVING = ["/commands/{command}"]
"""What goes on changing by itself: deliveries are on their way."""
ELSEWHERE = [
    "/safe-mode",
    "/tickets",
    "/tickets/{ticket}",
    "/takeovers/{takeover}",
    "/manual-tasks",
    "/manual-tasks/{task}",
    "/alerts",
    "/alerts/{alert}",
    "/contingency",
    "/clock-skew",
    "/replays",
    "/replays/{replay}",
    "/replays/{replay}/report",
    "/stories",
    "/deferred",
    "/drills",
    "/drills/{drill}",
    "/contacts/{contact}/export",
    "/signals",
    "/signals/{signal}",
    "/evidence",
    "/evidence/{flow}",
    "/evidence-packs/{pack}",
    "/evidence-key",
]
"""Tried in the test of its own part."""
LISTS = ["/contacts", "/patients", "/therapists", "/appointments", "/queue", "/holds"]


@pytest.fixture
async def two(running_services: Services, running_client: httpx.AsyncClient) -> tuple[Api, Api, dict[str, Any]]:
    """Our clinic (empty), the neighbour's, and the names of what the neighbour has and we have not."""
    theirs = await open_api(running_services, running_client, "clinica-vizinha")
    ours = await open_api(running_services, running_client, "clinica-aurora")
    await theirs.put("/contacts/c-theirs", {"name": "Deles"})
    await theirs.put("/patients/p-theirs", {"name": "Deles"})
    await theirs.put("/therapists/t-theirs", {"name": "Deles"})
    await theirs.put("/patients/p-theirs/guardians/c-theirs", PERMISSION)
    done = theirs.command(
        contact_id="c-theirs", patient_id="p-theirs", payload=theirs.slot(1, "a-theirs") | {"therapist_id": "t-theirs"}
    )
    applied = await theirs.one(done)
    assert applied["result"] == "applied_once"
    await theirs.one(theirs.command(contact_id="c-theirs", commit_order=9), wait=0)
    await theirs.one({"command_id": "bad-theirs"}, wait=0)
    await theirs.put("/holds", {"command_type": "cancel", "active": True, "reason": "theirs"})
    event = (await theirs.call("POST", "/events", json=theirs.event(contact_id="c-theirs"))).json()
    await theirs.processed(event["event_id"])
    await theirs.once("/contacts/c-theirs", lambda contact: contact["lane"]["blocked_by"] == "gap")
    names = {
        "contact": "c-theirs",
        "patient": "p-theirs",
        "therapist": "t-theirs",
        "appointment": "a-theirs",
        "command": applied["command_id"],
        "bad_command": "bad-theirs",
        "event": event["event_id"],
    }
    return ours, theirs, names


async def test_what_is_theirs_does_not_exist_for_us(two: tuple[Api, Api, dict[str, Any]]) -> None:
    ours, theirs, names = two
    for path in READS:
        address = path.format(**names)
        assert (await theirs.call("GET", address)).status_code == 200, path
        missing = await ours.call("GET", address)
        assert missing.status_code == 404, path
        for tenant in (theirs.clinic.slug, theirs.clinic.tenant_id, "nowhere"):
            assert (await ours.call("GET", address, params={"tenant_id": tenant})).status_code == 403, path


async def test_our_lists_show_only_what_is_ours(two: tuple[Api, Api, dict[str, Any]]) -> None:
    ours, theirs, _ = two
    for path in LISTS:
        assert "theirs" in (await theirs.call("GET", path)).text, path
        shown = await ours.call("GET", path)
        assert shown.status_code == 200
        assert "theirs" not in shown.text, path
        assert (await ours.call("GET", path, params={"tenant_id": theirs.clinic.slug})).status_code == 403, path


async def test_nothing_of_theirs_can_be_written_with_our_key(two: tuple[Api, Api, dict[str, Any]]) -> None:
    ours, theirs, names = two
    before = [(await theirs.call("GET", path.format(**names))).json() for path in READS if path not in MOVING]
    tenant = {"tenant_id": theirs.clinic.slug}
    writes: list[tuple[str, str, Any]] = [
        ("PUT", "/contacts/c-theirs", {"name": "x"}),
        ("PUT", "/patients/p-theirs", {"name": "x"}),
        ("PUT", "/therapists/t-theirs", {"name": "x"}),
        ("PUT", "/patients/p-theirs/guardians/c-theirs", {}),
        ("DELETE", "/patients/p-theirs/guardians/c-theirs", None),
    ]
    for method, path, body in writes:
        assert (await ours.call(method, path, json=body, params=tenant)).status_code == 403, path
        if body is not None:
            assert (await ours.call(method, path, json=body | tenant)).status_code == 403, path
    for method in ("GET", "PUT"):
        for scope in (theirs.clinic.slug, theirs.clinic.tenant_id, "global"):
            assert (await ours.call(method, f"/settings/{scope}", json={})).status_code == 403
    for path, item in (("/commands", ours.command()), ("/events", ours.event())):
        assert (await ours.call("POST", path, json=item | tenant)).status_code == 403
    # the same names in our own clinic are other things
    assert (await ours.call("DELETE", "/patients/p-theirs/guardians/c-theirs")).status_code == 404
    await ours.put("/contacts/c-theirs", {"name": "Nossa"})
    await ours.put("/patients/p-theirs", {"name": "Nosso"})
    after = [(await theirs.call("GET", path.format(**names))).json() for path in READS if path not in MOVING]
    assert after == before


async def test_equal_ids_and_keys_of_two_clinics_do_not_meet(two: tuple[Api, Api, dict[str, Any]]) -> None:
    ours, theirs, _ = two
    same = {"command_id": "same", "idempotency_key": "same", "contact_id": CONTACT, "patient_id": PATIENT}
    answers = [await api.one(api.command(payload=api.slot(4, "a-same"), **same)) for api in (ours, theirs)]
    assert [a["result"] for a in answers] == ["applied_once", "applied_once"]
    events = [(await api.call("POST", "/events", json=api.event(event_id="e", external_id="w"))).json() for api in (ours, theirs)]
    assert [e["status"] for e in events] == ["queued_for_dispatch"] * 2


def test_every_read_of_the_api_is_tried_here(services: Services) -> None:
    """A new address of the API must be added to the lists above."""
    app: Litestar = app_over(services)
    mine = {id(handler) for handler in api_routes}
    assert mine
    listed = {path.split("?")[0] for path in (*READS, *LISTS, *ELSEWHERE)} | {"/settings/{tenant}"}
    shapes = {_shape(f"/api/v1{path}") for path in listed}
    names = {handler.handler_name for handler in api_routes}
    found = {
        _shape(route.path_format)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.handler_name in names and "GET" in handler.http_methods
    }
    assert found == shapes


def _shape(path: str) -> str:
    return "/".join("*" if part.startswith("{") else part for part in path.split("/"))
