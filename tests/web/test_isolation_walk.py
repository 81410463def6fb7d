"""A walk over every address there is, with the ids of another clinic in hand: nothing of it is seen, nothing of it changes.

The addresses come from the application itself, so a new one is walked from the day it exists; an id that the walk does not
know how to guess stops it.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute
from sqlalchemy import Connection, select
from sqlmodel import SQLModel

from app.bootstrap import Services
from tests.web.api_client import PERMISSION, Api, open_api
from tests.web.conftest import Browser, add_person, app_over, browser_client, sign_in

pytestmark = pytest.mark.every_database

SECRET = "segredo-da-vizinha"
"""Stands in every text that the neighbour has; whoever reads it has seen too much."""
MOVING = {"outbox", "delivery_status", "event_log", "signal_minute", "evidence_pack", "alert", "alert_step", "log_line"} | {
    "phone_message",
    "source_clock",
    "queue_alarm",
}
"""What the engine goes on writing by itself; the alert is asked for its state instead."""
NOBODY: dict[str, str] = {}
"""No clinic is named: the caller's own is meant."""


@pytest.fixture
async def application(running_services: Services) -> Litestar:
    return app_over(running_services)


@pytest.fixture
async def ours(running_services: Services, application: Litestar) -> AsyncIterator[Api]:
    async with browser_client(application) as client:
        yield await open_api(running_services, client, "clinica-aurora")


@pytest.fixture
async def theirs(running_services: Services, application: Litestar) -> AsyncIterator[Api]:
    """The neighbour, with one of everything that has an id."""
    async with browser_client(application) as client:
        api = await open_api(running_services, client, "clinica-vizinha")
        for path in ("/contacts/c-theirs", "/patients/p-theirs", "/therapists/t-theirs"):
            await api.put(path, {"name": SECRET})
        await api.put("/patients/p-theirs/guardians/c-theirs", PERMISSION | {"reason": SECRET})
        yield api


async def names_of(theirs: Api) -> dict[str, str]:
    """An id of theirs for every placeholder of an address."""
    booking = theirs.command(
        contact_id="c-theirs",
        patient_id="p-theirs",
        correlation_id="corr-theirs",
        payload=theirs.slot(1, "a-theirs") | {"therapist_id": "t-theirs"},
    )
    applied = await theirs.one(booking)
    assert applied["result"] == "applied_once"
    await theirs.one({"command_id": "bad-theirs", "payload": {"text": SECRET}}, wait=0)
    event = (await theirs.call("POST", "/events", json=theirs.event(SECRET, contact_id="c-theirs"))).json()
    await theirs.processed(event["event_id"])
    (task,) = (await theirs.get("/manual-tasks"))["items"]
    alert = await theirs.call(
        "POST", "/alerts", json={"trigger": "n8n_down", "severity": "high", "summary": SECRET, "dedup_key": "k"}
    )
    ticket = await theirs.call("POST", "/takeovers", json={"contact_id": "c-theirs", "reason": SECRET})
    await theirs.once("/contacts/c-theirs", lambda contact: contact["takeover_active"])
    replay = await theirs.call("POST", "/replays", json={"filter": {"contact_id": "c-theirs"}})
    pack = await theirs.call("POST", "/evidence", json={"kind": "contact", "subject": "c-theirs", "reason": SECRET})
    for answer in (alert, ticket, replay, pack):
        assert answer.is_success, answer.text
    (opened,) = (await theirs.get("/tickets"))["items"]
    return {
        "contact_id": "c-theirs",
        "patient_id": "p-theirs",
        "therapist_id": "t-theirs",
        "appointment_id": "a-theirs",
        "command_id": applied["command_id"],
        "event_id": event["event_id"],
        "task_id": task["task_id"],
        "alert_id": alert.json()["alert_id"],
        "ticket_id": opened["ticket_id"],
        "replay_id": replay.json()["replay_id"],
        "pack_id": pack.json()["pack_id"],
        "correlation_id": "corr-theirs",
        "drill_id": "d-theirs",
        "act": "pause",
        "signal": "expired_manual",
        "tenant": theirs.clinic.slug,
        "clinic": theirs.clinic.slug,
        "name": f"{pack.json()['pack_id']}.zip",
    }


def rows_of(conn: Connection, tenant_id: str) -> dict[str, list[Any]]:
    """Everything a clinic has, by table."""
    found = {}
    for table in SQLModel.metadata.sorted_tables:
        if "tenant_id" in table.c and table.name not in MOVING:
            rows = conn.execute(select(table).where(table.c.tenant_id == tenant_id).order_by(*table.primary_key)).all()
            found[table.name] = [tuple(row) for row in rows]
    return found


def addresses(application: Litestar, access: str, names: dict[str, str]) -> Iterator[tuple[str, str, bool]]:
    """(method, address, whether it has an id of theirs) of every handler with such an access."""
    for route in application.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                if str(handler.opt.get("access", "")).startswith(access):
                    for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"}):
                        yield method, route.path_format.format(**names), "{" in route.path_format


BODY = {
    "reason": "x",
    "name": "x",
    "text": "x",
    "outcome": "other",
    "note": "x",
    "command_type": "cancel",
    "active": True,
    "filter": {"contact_id": "c-theirs"},
    "kind": "contact",
    "subject": "c-theirs",
    "contact_id": "c-theirs",
}


async def test_with_a_key_of_ours_nothing_of_theirs_is_seen_or_changed(
    application: Litestar, ours: Api, theirs: Api, running_services: Services
) -> None:
    names = await names_of(theirs)
    before = await running_services.db.read(rows_of, theirs.clinic.tenant_id)
    assert SECRET in str(before)
    own = [await theirs.client.get(a, headers=theirs.key) for m, a, _ in addresses(application, "scope:", names) if m == "GET"]
    assert sum(SECRET in answer.text for answer in own) >= 12, "the walk sees what it looks for when it may"
    walked = 0
    for method, address, guessed in addresses(application, "scope:", names):
        for tenant in NOBODY, {"tenant_id": theirs.clinic.slug}, {"tenant_id": theirs.clinic.tenant_id}:
            body = None if method == "GET" else BODY | tenant | {"ids": [names["task_id"]]}
            answer = await ours.client.request(method, address, headers=ours.key, params=tenant, json=body)
            told = f"{method} {address} {tenant}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code < 500, told
            assert SECRET not in answer.text, told
            if tenant and guessed and method == "GET":
                assert answer.status_code in (200, 403, 404), told
            walked += 1
    assert walked > 200
    assert await running_services.db.read(rows_of, theirs.clinic.tenant_id) == before
    assert (await theirs.get(f"/alerts/{names['alert_id']}"))["status"] == "open"


@pytest.mark.parametrize("role", ["secretary", "manager"])
async def test_with_a_session_of_ours_no_page_shows_or_changes_anything_of_theirs(
    application: Litestar, ours: Api, theirs: Api, running_services: Services, role: str
) -> None:
    names = await names_of(theirs)
    async with browser_client(application) as client:
        insider = await sign_in(running_services, client, await add_person(running_services, "manager", [theirs.clinic.tenant_id]))
        pages = [(a, {"clinic": theirs.clinic.slug}) for m, a, _ in addresses(application, "page", names) if m == "GET"]
        own = [await insider.client.get(a, params=p) for a, p in pages if a != "/stream"]
        assert sum(SECRET in answer.text for answer in own) >= 5, "the walk sees what it looks for when it may"
    before = await running_services.db.read(rows_of, theirs.clinic.tenant_id)
    person = await add_person(running_services, role, [ours.clinic.tenant_id])
    async with browser_client(application) as client:
        browser: Browser = await sign_in(running_services, client, person)
        for method, address, _ in addresses(application, "page", names):
            if address in ("/stream", "/logout"):  # the stream has no end (tests/web/test_stream.py); leaving ends the walk
                continue
            for clinic in NOBODY, {"clinic": theirs.clinic.slug}, {"clinic": theirs.clinic.tenant_id}:
                wanted = names | {"id": names["task_id"], "alert": names["alert_id"], "contact": "c-theirs", "reason": "x"} | clinic
                answer = await _asked(browser, method, address, wanted)
                told = f"{method} {address} {clinic}: {answer.status_code} {answer.text[:300]}"
                assert answer.status_code < 500, told
                assert SECRET not in answer.text, told
    assert await running_services.db.read(rows_of, theirs.clinic.tenant_id) == before
    assert (await theirs.get(f"/alerts/{names['alert_id']}"))["status"] == "open"


async def _asked(browser: Browser, method: str, address: str, wanted: dict[str, str]) -> httpx.Response:
    if method == "GET":
        return await browser.client.get(address, params=wanted)
    return await browser.client.request(method, address, data=wanted, headers=browser.headers)
