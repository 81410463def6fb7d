"""Contacts, patients, therapists and permissions through the API."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select, update

from app.bootstrap import Services
from app.store.locks import acquire_locks, lock_name
from app.store.tables import AuditEntry, EventLog, Lane, table
from tests.web.api_client import CONTACT, PATIENT, PERMISSION, Api, open_api

LINK = f"/patients/{PATIENT}/guardians/{CONTACT}"


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    return await open_api(services, client)


def _actions(conn: Connection) -> list[tuple[str, str]]:
    audit = table(AuditEntry)
    return [(r.action, r.object) for r in conn.execute(select(audit).order_by(audit.c.number))]


def _topics(conn: Connection) -> set[tuple[str, str]]:
    return {(r.topic, r.refs_json) for r in conn.execute(select(table(EventLog)))}


async def test_a_contact_has_exactly_the_documented_shape(api: Api) -> None:
    contact = await api.get(f"/contacts/{CONTACT}")
    assert {"contact_id", "conversation_version", "guardian_version", "takeover_active", "lane"} <= set(contact)
    assert (contact["conversation_version"], contact["guardian_version"], contact["takeover_active"]) == (1, 1, False)
    assert contact["lane"] == {"last_assigned": 0, "last_committed": 0, "waiting": 0, "blocked_by": None, "why": None}


@pytest.mark.parametrize(("language", "locked", "turn"), [("pt-BR", "agora", "vez"), ("en", "now", "turn")])
async def test_a_lane_in_which_something_waits_says_why_in_words(api: Api, language: str, locked: str, turn: str) -> None:
    one_waits = {"last_assigned": 1, "waiting": 1, "wait_2": 1, "ready_since": api.services.clock.now()}
    await api.services.db.write(lambda conn: conn.execute(update(table(Lane)).values(one_waits)))

    async def why(path: str) -> dict[str, Any]:
        found = (await api.call("GET", path, headers={"accept-language": language})).json()
        lane = next(iter(found.get("items", [found])))["lane"]
        assert lane["blocked_by"] is None  # nothing stops it
        return dict(lane["why"])

    said = await why(f"/contacts/{CONTACT}")
    assert (said["cause"], said["holder"], said["position"], said["items_behind"]) == ("dispatch", None, 1, 0)
    assert turn in said["sentence"]
    now = api.services.clock.now()
    name = lock_name((api.clinic.tenant_id, CONTACT))
    await api.services.db.write(acquire_locks, [name], "token", now, now + timedelta(seconds=15), "n-2")
    for path in (f"/contacts/{CONTACT}", "/contacts"):
        said = await why(path)
        assert (said["cause"], said["holder"], said["position"]) == ("locked", "n-2", None)
        assert locked in said["sentence"]


async def test_a_contact_without_links_has_guardian_version_zero(api: Api) -> None:
    assert (await api.put("/contacts/c-new", {}))["guardian_version"] == 0


@pytest.mark.parametrize("written", ["(11) 98765-0000", "+55 11 8765-0000", "5511987650000"])
async def test_a_number_is_one_number_however_it_is_written(api: Api, written: str) -> None:
    saved = await api.put("/contacts/c-x", {"phone": written, "name": "👩 مريم"})
    assert (saved["phone"], saved["name"]) == ("+5511987650000", "👩 مريم")


async def test_a_put_replaces_and_the_same_put_again_changes_nothing(api: Api) -> None:
    assert (await api.put("/contacts/c-x", {"phone": "+5511987650000", "name": "A"}))["name"] == "A"
    for _ in range(2):
        assert (await api.put("/contacts/c-x", {"name": "B"}))["phone"] is None
    changes = [a for a in await api.services.db.read(_actions) if a[1] == "contacts/c-x"]
    assert changes == [("contact.put", "contacts/c-x")] * 2


async def test_another_contacts_number_is_a_conflict(api: Api) -> None:
    answer = await api.call("PUT", "/contacts/c-x", json={"phone": "+5511987654321"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, "/phone")
    assert (await api.call("GET", "/contacts/c-x")).status_code == 404


async def test_every_change_of_permissions_raises_the_version_and_is_audited(api: Api) -> None:
    assert (await api.put(LINK, PERMISSION))["guardian_version"] == 1  # the same again is no change
    less = await api.put(LINK, PERMISSION | {"can_cancel": False})
    assert (less["guardian_version"], less["can_cancel"], less["verified"]) == (2, False, True)
    gone = (await api.call("DELETE", LINK, params={"reason": "pedido da família"})).json()
    assert (gone["guardian_version"], gone["reason"]) == (3, "pedido da família")
    assert gone["revoked_at"] is not None
    assert (await api.call("DELETE", LINK)).json()["guardian_version"] == 3
    back = await api.put(LINK, PERMISSION)
    assert (back["guardian_version"], back["revoked_at"]) == (4, None)
    assert (await api.get(f"/contacts/{CONTACT}"))["guardian_version"] == 4
    actions = [a for a, what in await api.services.db.read(_actions) if what == LINK[1:]]
    assert actions == ["guardian.put", "guardian.put", "guardian.revoke", "guardian.put"]
    assert {("guardians", f'["{PATIENT}"]'), ("lane", f'["{CONTACT}"]')} <= await api.services.db.read(_topics)


@pytest.mark.parametrize("proof", [{}, {"verified_by": "recepcao"}, {"verification_method": "in_person"}])
async def test_a_link_without_proof_stays_unverified(api: Api, proof: dict[str, str]) -> None:
    saved = await api.put(f"/patients/{PATIENT}/guardians/c-new", {"can_schedule": True, **proof})
    assert (saved["verified"], saved["verified_at"], saved["guardian_version"]) == (False, None, 1)
    assert (await api.get("/contacts/c-new"))["guardian_version"] == 1


async def test_a_permission_needs_a_patient_and_a_revocation_a_permission(api: Api) -> None:
    assert (await api.call("PUT", "/patients/p-nobody/guardians/c-new", json=PERMISSION)).status_code == 404
    assert (await api.call("GET", "/contacts/c-new")).status_code == 404
    assert (await api.call("DELETE", f"/patients/{PATIENT}/guardians/c-new")).status_code == 404


async def test_a_patient_shows_its_permissions_revoked_ones_included(api: Api) -> None:
    await api.put(f"/patients/{PATIENT}/guardians/c-b", {})
    await api.call("DELETE", f"/patients/{PATIENT}/guardians/c-b")
    links = (await api.get(f"/patients/{PATIENT}"))["guardians"]
    assert [(g["contact_id"], g["verified"], g["revoked_at"] is None) for g in links] == [
        ("c-b", False, False),
        (CONTACT, True, True),
    ]
    assert (await api.get(f"/patients/{PATIENT}/guardians"))["items"] == links
    assert (await api.get(LINK)) == links[1]


@pytest.mark.parametrize(
    ("path", "key"), [("/contacts", "contact_id"), ("/patients", "patient_id"), ("/therapists", "therapist_id")]
)
async def test_lists_come_in_pages_without_gaps_or_repeats(api: Api, path: str, key: str) -> None:
    for i in range(7):
        await api.put(f"{path}/x-{i}", {"name": f"N{i}"})
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await api.get(path, limit=3, **cursor)
        seen += [item[key] for item in page["items"]]
        assert len(page["items"]) <= 3
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == 8
    assert seen == sorted(set(seen))


async def test_a_therapist_can_be_renamed(api: Api) -> None:
    await api.put("/therapists/t-ana", {"name": "Ana Lúcia"})
    assert (await api.get("/therapists/t-ana"))["name"] == "Ana Lúcia"
