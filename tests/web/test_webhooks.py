"""Providers' webhooks: what is believed, what is kept, what is answered."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, func, insert, select

from app.bootstrap import Services
from app.store.alerts import raise_alert
from app.store.database import Database
from app.store.settings import save
from app.store.tables import Alert, AlertStep, Contact, DeliveryStatus, InboxMessage, MalformedItem, ManualTask, SettingsDoc, table
from app.web.api.webhooks import BODY_MAX
from tests import builders
from tests.channels import payloads as p
from tests.conftest import NOON
from tests.provider import accepts, provider

MESSAGE, MALFORMED, TASK, STATUS, CONTACT = (
    table(t) for t in (InboxMessage, MalformedItem, ManualTask, DeliveryStatus, Contact)
)  # fmt: skip
SETTINGS = {
    "whatsapp": {"app_secret": "app-secret", "verify_token": "verify-me", "phone_number_id": p.PHONE_NUMBER_ID},
    "evolution": {"secret": "evolution-secret"},
    "uazapi": {"secret": "uazapi-secret"},
}
WHATSAPP, EVOLUTION, UAZAPI = (f"/api/v1/webhooks/{name}/sol" for name in ("whatsapp", "evolution", "uazapi"))
Client = httpx.AsyncClient


def _configured(conn: Connection) -> None:
    builders.clinic(conn)
    row = {"scope": "ten-sol", "data_json": json.dumps(SETTINGS), "updated_at": NOON, "updated_by": "system:test"}
    conn.execute(insert(table(SettingsDoc)).values(**row))


@pytest.fixture
def db(running_services: Services) -> Database:
    return running_services.db


@pytest.fixture
async def client(running_client: httpx.AsyncClient, db: Database) -> httpx.AsyncClient:
    await db.write(_configured)
    return running_client


def _kept(conn: Connection) -> tuple[list[tuple[str, int, str]], int, int, int]:
    messages = conn.execute(select(MESSAGE).order_by(MESSAGE.c.contact_id, MESSAGE.c.sequence))
    counts = [int(conn.execute(select(func.count()).select_from(t)).scalar_one()) for t in (MALFORMED, TASK, STATUS)]
    return [(m.external_id, m.sequence, json.loads(m.payload_json).get("text", "")) for m in messages], *counts  # type: ignore[return-value]


NOTHING: tuple[list[Any], int, int, int] = ([], 0, 0, 0)


async def whatsapp(
    client: Client, document: Any, *, secret: str = "app-secret", body: bytes | None = None, url: str = WHATSAPP
) -> Any:
    body = json.dumps(document).encode() if body is None else body
    headers = {"x-hub-signature-256": p.sign(secret, body), "content-type": "application/json"}
    return await client.post(url, content=body, headers=headers)


TWO = p.cloud(p.cloud_change([p.cloud_message("wamid.1", "Oi"), p.cloud_message("wamid.2", "Quero remarcar")], [p.cloud_status()]))


# --- Cloud API ----------------------------------------------------------------------------------------------------------


async def test_two_messages_and_a_status_in_one_post_become_one_conversation_in_order(client: Client, db: Database) -> None:
    answer = await whatsapp(client, TWO)
    assert (answer.status_code, answer.json()) == (200, {"messages": 2, "statuses": 1, "ignored": 0})
    assert await db.read(_kept) == ([("wamid.1", 1, "Oi"), ("wamid.2", 2, "Quero remarcar")], 0, 0, 1)
    contacts = await db.read(lambda conn: [r.contact_id for r in conn.execute(select(MESSAGE.c.contact_id).distinct())])
    assert contacts == ["c-maria"]  # known by phone, whatever the provider calls it


async def test_a_webhook_that_is_sent_again_changes_nothing(client: Client, db: Database) -> None:
    for _ in range(3):
        assert (await whatsapp(client, TWO)).status_code == 200
    messages, malformed, tasks, statuses = await db.read(_kept)
    assert ([m[0] for m in messages], malformed, tasks, statuses) == (["wamid.1", "wamid.2"], 0, 0, 1)


async def test_the_ninth_digit_does_not_make_a_second_contact(client: Client, db: Database) -> None:
    old = p.cloud_message("wamid.3") | {"from": "551187654321"}
    unknown = p.cloud_message("wamid.4") | {"from": "551196543210"}
    again = p.cloud_message("wamid.5") | {"from": "5511996543210"}
    await whatsapp(client, p.cloud(p.cloud_change([old, unknown, again])))
    phones = await db.read(lambda conn: sorted(r.phone for r in conn.execute(select(CONTACT))))
    assert phones == ["+5511987654321", "+5511996543210"]


@pytest.mark.parametrize("header", [None, "", "sha256=00", p.sign("other", json.dumps(TWO).encode())])
async def test_a_bad_or_missing_signature_is_refused_and_nothing_is_stored(
    client: Client, db: Database, header: str | None
) -> None:
    headers = {"content-type": "application/json"} | ({"x-hub-signature-256": header} if header is not None else {})
    answer = await client.post(WHATSAPP, content=json.dumps(TWO).encode(), headers=headers)
    assert answer.status_code == 401
    assert await db.read(_kept) == NOTHING


async def test_a_clinic_without_a_secret_believes_nobody(client: Client, db: Database) -> None:
    await db.write(builders.tenant, tenant_id="ten-lua", slug="lua")
    for secret in ("app-secret", ""):
        assert (await whatsapp(client, TWO, secret=secret, url="/api/v1/webhooks/whatsapp/lua")).status_code == 401
    for name in ("evolution", "uazapi"):
        answer = await client.post(f"/api/v1/webhooks/{name}/lua", json={}, headers={"x-secret": "x", "authorization": "Bearer "})
        assert answer.status_code == 401
    assert await db.read(_kept) == NOTHING


async def test_an_unknown_clinic_is_not_found(client: Client) -> None:
    assert (await whatsapp(client, TWO, url="/api/v1/webhooks/whatsapp/nobody")).status_code == 404
    assert (await client.get("/api/v1/webhooks/whatsapp/nobody?hub.mode=subscribe")).status_code == 404


async def test_the_clinics_id_works_like_its_slug(client: Client, db: Database) -> None:
    assert (await whatsapp(client, TWO, url="/api/v1/webhooks/whatsapp/ten-sol")).status_code == 200
    assert len((await db.read(_kept))[0]) == 2


async def test_messages_of_another_number_are_not_heard_but_kept_and_told_once(client: Client, db: Database) -> None:
    for name in ("wamid.1", "wamid.2", "wamid.2"):
        answer = await whatsapp(client, p.cloud(p.cloud_change([p.cloud_message(name)], phone_number_id="999")))
        assert (answer.status_code, answer.json()["ignored"]) == (200, 1)
    assert await db.read(_kept) == ([], 2, 2, 0)
    alerts = await db.read(lambda conn: conn.execute(select(table(Alert).c.trigger)).scalars().all())
    assert alerts == ["other_number"]


@pytest.mark.parametrize(
    "document", [{}, [], {"object": "page"}, {"object": "whatsapp_business_account", "entry": [{"changes": [{}]}]}]
)
async def test_an_unknown_shape_is_kept_for_a_person_and_answered_200(client: Client, db: Database, document: Any) -> None:
    for _ in range(2):
        assert (await whatsapp(client, document)).status_code == 200
    assert await db.read(_kept) == ([], 1, 1, 0)


@pytest.mark.parametrize("body", [b"", b"{", b"not json", b"\xff\xff", b"[" * 5000])
async def test_a_signed_body_that_is_no_json_is_a_bad_request(client: Client, db: Database, body: bytes) -> None:
    assert (await whatsapp(client, None, body=body)).status_code == 400
    assert await db.read(_kept) == NOTHING


async def test_null_bytes_and_broken_characters_are_no_reason_not_to_hear_a_family(client: Client, db: Database) -> None:
    raw = json.dumps(p.cloud(p.cloud_change([p.cloud_message("wamid.9", "TEXT")]))).replace("TEXT", "a\\u0000b\\ud800 🙂 مرحبا")
    assert (await whatsapp(client, None, body=raw.encode())).status_code == 200
    assert (await db.read(_kept))[0] == [("wamid.9", 1, "ab? 🙂 مرحبا")]


async def test_a_body_of_three_megabytes_is_read_and_a_larger_one_is_not(client: Client, db: Database) -> None:
    big = p.cloud(p.cloud_change([p.cloud_message(f"wamid.{n}", "x" * 900) for n in range(2500)]))
    assert 2_000_000 < len(json.dumps(big)) < BODY_MAX
    assert (await whatsapp(client, big)).json()["messages"] == 2500
    assert (await whatsapp(client, None, body=b" " * (BODY_MAX + 1))).status_code == 413
    assert len((await db.read(_kept))[0]) == 2500


async def test_the_handshake_answers_the_challenge_only_to_the_right_token(client: Client) -> None:
    asked = {"hub.mode": "subscribe", "hub.verify_token": "verify-me", "hub.challenge": "1158201444"}
    answer = await client.get(WHATSAPP, params=asked)
    assert (answer.status_code, answer.text) == (200, "1158201444")
    assert answer.headers["content-type"].startswith("text/plain")
    for wrong in ({"hub.verify_token": "x"}, {"hub.verify_token": ""}, {"hub.mode": "unsubscribe"}):
        assert (await client.get(WHATSAPP, params=asked | wrong)).status_code == 403
    assert (await client.get(WHATSAPP)).status_code == 403


# --- Evolution and Uazapi -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"x-webhook-secret": "evolution-secret"}, {"authorization": "Bearer evolution-secret"}])
@pytest.mark.parametrize("path", [EVOLUTION, f"{EVOLUTION}/messages-upsert"])
async def test_evolution_is_believed_by_its_secret(client: Client, db: Database, headers: dict[str, str], path: str) -> None:
    document = p.evolution(p.evolution_message())
    assert (await client.post(path, json=document, headers=headers)).json() == {"messages": 1, "statuses": 0, "ignored": 0}
    assert (await db.read(_kept))[0] == [("3EB0A1", 1, "Bom dia")]


async def test_the_event_of_evolution_may_be_in_the_path_only(client: Client, db: Database) -> None:
    document = {k: v for k, v in p.evolution(p.evolution_message()).items() if k != "event"}
    await client.post(f"{EVOLUTION}/messages-upsert", json=document, headers={"x-s": "evolution-secret"})
    assert len((await db.read(_kept))[0]) == 1


@pytest.mark.parametrize("url", [EVOLUTION, UAZAPI])
@pytest.mark.parametrize("headers", [{}, {"x-webhook-secret": "wrong"}, {"authorization": "Bearer wrong"}])
async def test_providers_without_their_secret_are_refused(client: Client, db: Database, url: str, headers: dict[str, str]) -> None:
    assert (await client.post(url, json=p.evolution(p.evolution_message()), headers=headers)).status_code == 401
    assert await db.read(_kept) == NOTHING


async def test_a_message_without_a_phone_becomes_a_persons_work_without_secrets(client: Client, db: Database) -> None:
    document = p.evolution(p.evolution_message(remoteJid="123@lid"))
    headers = {"x-webhook-secret": "evolution-secret"}
    assert (await client.post(EVOLUTION, json=document, headers=headers)).status_code == 200
    assert (await client.post(EVOLUTION, json={"apikey": "EVOLUTION-SECRET"}, headers=headers)).status_code == 200
    assert await db.read(_kept) == ([], 2, 2, 0)
    raws = await db.read(lambda conn: [r.raw_json for r in conn.execute(select(MALFORMED))])
    assert not [raw for raw in raws if "EVOLUTION-SECRET" in raw]


async def test_uazapi_is_believed_by_header_or_path(client: Client, db: Database) -> None:
    assert (await client.post(UAZAPI, json=p.uazapi(), headers={"x-secret": "uazapi-secret"})).status_code == 200
    again = await client.post(f"{UAZAPI}/uazapi-secret", json=p.uazapi({"messageid": "3A56"}))
    assert again.status_code == 200
    assert [m[0] for m in (await db.read(_kept))[0]] == ["3A55", "3A56"]
    assert (await client.post(f"{UAZAPI}/guess", json=p.uazapi())).status_code == 401


async def test_uazapi_can_be_limited_to_addresses(client: Client, db: Database) -> None:
    limited = SETTINGS | {"uazapi": {"secret": "uazapi-secret", "allowed_addresses": ["10.1.0.0/16"]}}

    def narrow(conn: Connection) -> None:
        doc = table(SettingsDoc)
        conn.execute(doc.update().where(doc.c.scope == "ten-sol").values(data_json=json.dumps(limited)))

    await db.write(narrow)
    assert (await client.post(UAZAPI, json=p.uazapi(), headers={"x-secret": "uazapi-secret"})).status_code == 401
    assert await db.read(_kept) == NOTHING


async def test_statuses_reach_the_delivery_history(client: Client, db: Database) -> None:
    event = {"MessageIDs": ["A", "B"], "Type": "Read", "Timestamp": 1795435200, "IsFromMe": True}
    body = {"EventType": "messages_update", "event": event}
    answer = await client.post(UAZAPI, json=body, headers={"x-secret": "uazapi-secret"})
    assert answer.json()["statuses"] == 2
    assert await db.read(_kept) == ([], 0, 0, 2)


# --- the ACK button of an alert -----------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-001")
async def test_the_ack_button_acknowledges_from_the_phone_that_was_told_and_from_no_other(
    client: Client, db: Database, running_services: Services
) -> None:
    services, ours = running_services, "+5511900000001"
    async with provider(accepts("wamid.alert")) as there:
        patch = {
            "whatsapp": {"access_token": "t", "base_url": there.url},
            "channels": {"superadmin_whatsapp": f"whatsapp:{ours}"},
        }
        now = services.clock.now()
        await db.write(lambda conn: save(conn, "ten-sol", patch, actor="user:ana", now=now))
        services.channels.forget()
        raised = await db.write(
            lambda conn: raise_alert(
                conn,
                tenant_id="ten-sol",
                trigger="n8n_down",
                severity="critical",
                summary="n8n does not answer",
                dedup_key="n8n",
                correlation_id=None,
                now=now,
            )
        )
        services.alerts.wake.set()
        async with asyncio.timeout(20):
            await there.arrived.wait()
        sent = there.requests[0].json
    button = sent["interactive"]["action"]["buttons"][0]["reply"]
    assert (sent["to"], button["title"]) == (ours.removeprefix("+"), "Estou cuidando")

    async def press(message_id: str, **over: Any) -> int:
        reply = {"type": "button_reply", "button_reply": button}
        message = p.cloud_message(message_id, type="interactive", interactive=reply, **over)
        return int((await whatsapp(client, p.cloud(p.cloud_change([message])))).json()["messages"])

    async def found() -> tuple[str, str | None]:
        alert = table(Alert)
        query = select(alert.c.status, alert.c.ack_how).where(alert.c.alert_id == raised.alert_id)
        return await db.read(lambda conn: tuple(conn.execute(query).one()))

    assert await press("wamid.1") == 1, "somebody else's phone: a message like any other"
    assert await found() == ("open", None)
    for message_id in ("wamid.2", "wamid.3"):
        assert await press(message_id, **{"from": "5511900000001"}) == 0
        assert await found() == ("acknowledged", "whatsapp_button")
    delivered = p.cloud_status("wamid.alert", "read")
    await whatsapp(client, p.cloud(p.cloud_change(statuses=[delivered])))
    step = table(AlertStep)
    query = select(step.c.delivery).where(step.c.provider_message_id == "wamid.alert")
    assert await db.read(lambda conn: conn.execute(query).scalar_one()) == "read"
