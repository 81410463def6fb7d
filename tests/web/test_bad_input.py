"""Whatever is sent: an answer that says what is wrong, nothing lost, never a 500."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, func, select

from app.bootstrap import Services
from app.store import accounts
from app.store.tables import InboxCommand, InboxMessage, MalformedItem, ManualTask, table
from tests.web.api_client import CONTACT, Api, open_api

NUL, SURROGATE, EMOJI, RTL = "a\x00b", "a\ud800b", "👩‍👧 oi 🎉", "\u202e\u0645\u0631\u062d\u0628\u0627"
JSON = {"content-type": "application/json"}


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    return await open_api(running_services, running_client)


def _stored(conn: Connection) -> list[int]:
    tables = (table(t) for t in (InboxCommand, InboxMessage, MalformedItem, ManualTask))
    return [int(conn.execute(select(func.count()).select_from(t)).scalar_one()) for t in tables]


async def stored(api: Api) -> list[int]:
    return await api.services.db.read(_stored)


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "correlation_id"} <= set(body)
    return body


# --- bodies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/commands", "/events"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b"[{}]",
        b'"text"',
        b"null",
        b"17",
        b'{"contact_id": "\xff\xfe"}',
        b'{"contact_id": NaN}',
        b'{"contact_id": "a" "b"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"payload": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"commands": {}, "events": {}}',
        b'{"commands": "x", "events": "x"}',
        b'{"tenant_id": 7, "contact_id": "c"}',
        b'{"tenant_id": {"a": 1}, "contact_id": "c"}',
        b'{"tenant_id": "a\\u0000b", "contact_id": "c"}',
    ],
)
async def test_a_body_that_cannot_be_read_is_400_and_stores_nothing(api: Api, path: str, body: bytes) -> None:
    is_problem(await api.call("POST", path, content=body, headers=JSON), 400)
    assert await stored(api) == [0, 0, 0, 0]


@pytest.mark.parametrize(("path", "name"), [("/commands", "commands"), ("/events", "events")])
async def test_five_hundred_and_one_items_are_too_many(api: Api, path: str, name: str) -> None:
    answer = await api.call("POST", path, json={name: [api.event()] * 501})
    assert is_problem(answer, 400)["errors"][0]["pointer"] == f"/{name}"
    assert await stored(api) == [0, 0, 0, 0]


@pytest.mark.parametrize("path", ["/commands", "/events"])
async def test_a_body_of_two_mebibytes_is_413(api: Api, path: str) -> None:
    body = json.dumps(api.event("x" * (2 * 1024 * 1024))).encode()
    is_problem(await api.call("POST", path, content=body, headers=JSON), 413)
    assert await stored(api) == [0, 0, 0, 0]


@pytest.mark.parametrize("wait", ["-1", "31", "nan", "inf", "soon", ""])
async def test_a_wait_that_is_none_is_400(api: Api, wait: str) -> None:
    is_problem(await api.call("POST", "/commands", params={"wait": wait}, json=api.command()), 400)
    assert await stored(api) == [0, 0, 0, 0]


# --- items --------------------------------------------------------------------------------------------------------------


BAD_COMMANDS: list[tuple[dict[str, Any], str]] = [
    ({"contact_id": None}, "/contact_id"),
    ({"contact_id": ""}, "/contact_id"),
    ({"contact_id": 7}, "/contact_id"),
    ({"contact_id": "x" * 201}, "/contact_id"),
    ({"contact_id": NUL}, "/contact_id"),
    ({"command_type": "explode"}, "/command_type"),
    ({"command_type": ["schedule"]}, "/command_type"),
    ({"requested_by": "nobody"}, "/requested_by"),
    ({"confirmed_by_contact": "yes"}, "/confirmed_by_contact"),
    ({"guardian_version": "1"}, "/guardian_version"),
    ({"guardian_version": -1}, "/guardian_version"),
    ({"guardian_version": True}, "/guardian_version"),
    ({"conversation_version": 1.5}, "/conversation_version"),
    ({"entity_version": 2**63}, "/entity_version"),
    ({"commit_order": 0}, "/commit_order"),
    ({"commit_order": 10**30}, "/commit_order"),
    ({"occurred_at": "2026-11-23T12:00:00"}, "/occurred_at"),
    ({"occurred_at": "9999-12-31T23:59:59Z"}, "/occurred_at"),
    ({"occurred_at": "yesterday"}, "/occurred_at"),
    ({"occurred_at": 1700000000}, "/occurred_at"),
    ({"as_of": "2026-02-30T12:00:00Z"}, "/as_of"),
    ({"payload": []}, "/payload"),
    ({"payload": {"text": NUL}}, "/payload"),
    ({"idempotency_key": NUL}, "/idempotency_key"),
]


@pytest.mark.every_database
@pytest.mark.parametrize(("fields", "pointer"), BAD_COMMANDS)
async def test_an_unusable_command_is_kept_for_a_person(api: Api, fields: dict[str, Any], pointer: str) -> None:
    raw = api.command(command_id="bad-1") | fields
    answer = await api.call("POST", "/commands", json=raw, params={"wait": 5})
    assert answer.status_code == 202
    body = answer.json()
    assert (body["status"], body["result"], body["commit_order"]) == ("invalid_payload_manual", "invalid_payload_manual", None)
    assert [e["pointer"] for e in body["errors"]] == [pointer]
    assert body["reason"] == ("missing_contact_id" if fields.get("contact_id", "x") in (None, "") else "bad_field")
    assert body["next_action"]
    assert await stored(api) == [0, 0, 1, 1]
    found = await api.get("/commands/bad-1")
    assert (found["status"], found["reason"], found["errors"]) == ("invalid_payload_manual", body["reason"], body["errors"])


@pytest.mark.every_database
@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"contact_id": None}, "/contact_id"),
        ({"event_type": None}, "/event_type"),
        ({"occurred_at": None}, "/occurred_at"),
        ({"occurred_at": "2026-11-23T12:00:00"}, "/occurred_at"),
        ({"occurred_at": "9999-01-01T00:00:00Z"}, "/occurred_at"),
        ({"payload": "text"}, "/payload"),
        ({"source": "fax"}, "/source"),
        ({"payload_version": 0}, "/payload_version"),
        ({"payload_version": 2**31}, "/payload_version"),
        ({"payload_version": 2**40}, "/payload_version"),
        ({"sequence": 2**53}, "/sequence"),
        ({"external_id": NUL}, "/external_id"),
    ],
)
async def test_an_unusable_event_is_kept_for_a_person(api: Api, fields: dict[str, Any], pointer: str) -> None:
    answer = (await api.call("POST", "/events", json=api.event(event_id="bad-1") | fields)).json()
    assert (answer["status"], answer["sequence"], pointer in [e["pointer"] for e in answer["errors"]]) == (
        "invalid_payload_manual",
        None,
        True,
    )
    assert await stored(api) == [0, 0, 1, 1]
    assert (await api.get(f"/events/{answer['event_id']}"))["status"] == "invalid_payload_manual"


@pytest.mark.every_database
async def test_unusable_items_do_not_hold_up_good_ones(api: Api) -> None:
    answers = await api.send(api.command(), 7, None, "x", [], api.command(contact_id=""), {}, api.command())  # type: ignore[arg-type]
    assert [a["status"] for a in answers] == [
        "committed_causal",
        *["invalid_payload_manual"] * 6,
        "committed_causal",
    ]
    assert [a["commit_order"] for a in answers] == [1, *[None] * 6, 2]


async def test_the_same_bytes_again_open_no_second_task(api: Api) -> None:
    for _ in range(3):
        await api.one({"command_id": "bad-1", "command_type": "schedule"}, wait=0)
    assert await stored(api) == [0, 0, 1, 1]
    assert (await api.get("/commands/bad-1"))["times"] == 3


@pytest.mark.every_database
@pytest.mark.parametrize("text", [EMOJI, RTL, "ç" * 4000, "'; DROP TABLE message; --", "<script>alert(1)</script>"])
async def test_what_families_write_is_kept_as_they_wrote_it(api: Api, text: str) -> None:
    contact = f"c-{text[:20]}"
    answer = (await api.call("POST", "/events", json=api.event(text, contact_id=contact))).json()
    assert answer["status"] == "queued_for_dispatch"
    found = await api.get(f"/events/{answer['event_id']}")
    assert (found["payload"], found["contact_id"]) == ({"text": text}, contact)


@pytest.mark.every_database
async def test_an_unpaired_surrogate_is_refused_or_kept_but_never_fails(api: Api) -> None:
    for body in (api.command(contact_id=SURROGATE), api.command(payload={"text": SURROGATE})):
        answer = await api.call("POST", "/commands", content=json.dumps(body).encode(), headers=JSON)
        assert answer.status_code in (202, 400), answer.text
        assert answer.status_code == 400 or answer.json()["status"] == "invalid_payload_manual"


async def test_the_same_unusable_bytes_again_are_answered_with_the_id_under_which_they_are_kept(api: Api) -> None:
    broken = {"command_type": "dance", "payload": {"a": 1}}
    answer = await api.call("POST", "/commands", json={"commands": [broken, broken]})
    first, twin = answer.json()["items"]
    again = (await api.call("POST", "/commands", json=broken)).json()
    assert len({(r["command_id"], r["correlation_id"]) for r in (first, twin, again)}) == 1
    assert (await api.get(f"/commands/{first['command_id']}"))["result"] == "invalid_payload_manual"


# --- who asks -----------------------------------------------------------------------------------------------------------


async def test_unknown_and_foreign_tenants_are_refused_for_the_whole_request(api: Api) -> None:
    from tests.web.conftest import add_key, add_tenant

    neighbour = await add_tenant(api.services, "clinica-vizinha")
    foreign = {"commands": [api.command(), api.command(tenant_id=neighbour.slug)]}
    is_problem(await api.call("POST", "/commands", json=foreign), 403)
    is_problem(await api.call("POST", "/events", json=api.event(tenant_id=neighbour.tenant_id)), 403)
    everywhere = Api(api.client, api.services, api.clinic, await add_key(api.services, None))
    unknown = {"tenant_id": "nowhere", "events": [api.event()]}
    is_problem(await everywhere.call("POST", "/events", json=unknown), 404)
    is_problem(await everywhere.call("POST", "/commands", json=api.command(tenant_id="nowhere")), 404)
    assert await stored(api) == [0, 0, 0, 0]


async def test_no_key_a_revoked_key_and_a_key_without_the_scope(api: Api) -> None:
    from tests.web.conftest import add_key

    for headers in ({"Authorization": ""}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
        is_problem(await api.call("POST", "/commands", json=api.command(), headers=headers), 401)
    reader = await add_key(api.services, api.clinic.tenant_id, "read")
    is_problem(await api.call("POST", "/commands", json=api.command(), headers=reader), 403)
    is_problem(await api.call("PUT", "/patients/p-1", json={"name": "x"}, headers=reader), 403)
    is_problem(await api.call("GET", f"/settings/{api.clinic.slug}", headers=reader), 403)
    revoked = await add_key(api.services, api.clinic.tenant_id)
    key_id = (await api.services.db.read(accounts.list_keys, api.clinic.tenant_id))[-1].key_id
    assert await api.services.db.write(accounts.revoke_key, key_id, api.now)
    is_problem(await api.call("POST", "/commands", json=api.command(), headers=revoked), 401)
    assert await stored(api) == [0, 0, 0, 0]


# --- people, agenda, settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/contacts/c-1", {"name": NUL}),
        ("/contacts/c-1", {"name": "x" * 201}),
        ("/contacts/c-1", {"name": 7}),
        ("/contacts/c-1", {"phone": "twelve"}),
        ("/contacts/c-1", {"phone": NUL}),
        ("/contacts/c-1", []),
        ("/contacts/c%00", {}),
        ("/contacts/" + "x" * 201, {}),
        ("/patients/p-1", {}),
        ("/patients/p-1", {"name": ""}),
        ("/patients/p-1", {"name": "   "}),
        ("/patients/p-1", {"name": NUL}),
        ("/patients/p%00", {"name": "x"}),
        ("/therapists/t-1", {"name": None}),
        ("/therapists/t-1", {"name": ["Ana"]}),
        (f"/patients/p-pedro/guardians/{CONTACT}", {"can_schedule": "yes"}),
        (f"/patients/p-pedro/guardians/{CONTACT}", {"verified_by": NUL}),
        (f"/patients/p-pedro/guardians/{CONTACT}", {"reason": "x" * 501}),
        ("/patients/p-pedro/guardians/c%00", {}),
        ("/settings/clinica-aurora", {"no_such": 1}),
        ("/settings/clinica-aurora", {"timezone": "Mars/Olympus"}),
        ("/settings/clinica-aurora", {"timezone": NUL}),
        ("/settings/clinica-aurora", {"whatsapp": {"app_secret": NUL}}),
        ("/settings/clinica-aurora", []),
    ],
)
async def test_a_put_that_cannot_be_used_is_400_with_the_field(api: Api, path: str, body: Any) -> None:
    before = await api.get("/contacts"), await api.get("/patients")
    problem = is_problem(await api.call("PUT", path, json=body), 400)
    assert all(set(e) == {"pointer", "detail"} for e in problem.get("errors", []))
    assert before == (await api.get("/contacts"), await api.get("/patients"))


@pytest.mark.parametrize("path", ["/contacts/c-1", "/patients/p-1", "/settings/clinica-aurora"])
@pytest.mark.parametrize("body", [b"", b"{", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b'{"name": ' + b"[" * 50_000])
async def test_a_put_of_something_else_than_json_is_400(api: Api, path: str, body: bytes) -> None:
    is_problem(await api.call("PUT", path, content=body, headers=JSON), 400)


@pytest.mark.parametrize(
    "path",
    [
        "/contacts?limit=0",
        "/contacts?limit=201",
        "/contacts?limit=many",
        "/contacts?cursor=%00",
        "/contacts?cursor=nonsense",
        "/contacts?cursor=WzFd",
        "/contacts?cursor=W10",
        "/contacts?cursor=" + "W" * 1_999,
        "/contacts/c%00",
        f"/contacts/{CONTACT}/lane?cursor=WzFd",
        "/queue?cursor=Wy0xXQ",
        "/commands/a%00",
        "/events/a%00",
        "/appointments?from=today",
        "/appointments?to=9999-01-01T00:00:00Z",
        "/appointments?therapist_id=%00",
        "/appointments?cursor=WyJhIiwiYiJd",
        "/appointments/a%00",
        "/patients/p%00",
        "/contacts?tenant_id=%00",
    ],
)
async def test_an_address_that_cannot_be_used_is_400(api: Api, path: str) -> None:
    is_problem(await api.call("GET", path), 400)


@pytest.mark.every_database
async def test_a_null_byte_in_any_address_is_400_with_its_place(api: Api) -> None:
    hooks = [f"/webhooks/{name}/{slug}" for name in ("whatsapp", "evolution", "uazapi") for slug in ("%00", "a%00b")]
    for path in [*hooks, f"/webhooks/evolution/{api.clinic.slug}/%00"]:
        is_problem(await api.call("POST", path, content=b"{}", headers=JSON), 400)
    is_problem(await api.call("GET", hooks[0], params={"hub.mode": "subscribe"}), 400)
    for name, path in (("cause", "/manual-tasks"), ("owner", "/manual-tasks"), ("kind", "/evidence"), ("reason", "/settings/x")):
        problem = is_problem(await api.call("GET", f"{path}?limit=1&{name}=a%00"), 400)
        assert problem["errors"] == [{"pointer": f"/{name}", "detail": "contains a null byte"}]
    assert (await api.call("GET", "/manual-tasks?owner=%2500")).status_code == 200  # the four characters %00 are a text


async def test_a_body_that_an_act_needs_is_said_to_be_missing(api: Api) -> None:
    problem = is_problem(await api.call("POST", "/manual-tasks/t-1/resolve"), 400)
    assert problem["errors"] == [{"pointer": "", "detail": "a body is required"}]


@pytest.mark.parametrize(
    "path",
    [
        "/contacts/c-nobody",
        "/contacts/c-nobody/lane",
        "/commands/nothing",
        "/events/nothing",
        "/appointments/nothing",
        "/patients/nobody",
        "/patients/nobody/guardians",
        f"/patients/p-pedro/guardians/{CONTACT}x",
        "/therapists/nobody",
        "/contacts/%F0%9F%91%A9",
    ],
)
async def test_what_nobody_knows_is_404(api: Api, path: str) -> None:
    is_problem(await api.call("GET", path), 404)
