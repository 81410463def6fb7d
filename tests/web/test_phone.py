"""The simulated phone: who sees whose messages."""

import json
from typing import Any

import httpx
from sqlalchemy import Connection, insert

from app.bootstrap import Services
from app.store.phone import show
from app.store.tables import InboxMessage, table
from tests.builders import contact
from tests.web.conftest import Browser, Clinic

MARIA = "+5511987654321"


def said(tenant_id: str | None, target: str, body: str, key: str) -> dict[str, Any]:
    return {"tenant_id": tenant_id, "target": target, "kind": "family_message", "body": body, "idempotency_key": key}


def _two_clinics(conn: Connection, mine: str, other: str, now: Any) -> None:
    contact(conn, tenant_id=mine, contact_id="c-maria", phone=MARIA, name="Maria", now=now)
    heard = {
        "tenant_id": mine, "event_id": "e-1", "channel": "whatsapp", "external_id": "w-1", "contact_id": "c-maria", "sequence": 1,
        "conversation_version": 2, "source": "whatsapp", "event_type": "message", "status": "processed", "priority": 3,
        "occurred_at": now, "received_at": now, "correlation_id": "c",
        "payload_json": json.dumps({"text": "Quero <b>remarcar</b>"}),
    }  # fmt: skip
    conn.execute(insert(table(InboxMessage)).values(**heard))
    rows = [
        said(mine, MARIA, "Podemos mudar a consulta", "1"),
        said(mine, MARIA, "Podemos mudar a consulta", "1"),
        said(other, "+5511900000000", "segredo da vizinha", "2"),
        said(None, "superadmin", "P0: o Redis parou", "3"),
    ]
    for row in rows:
        show(conn, [row], now)


async def _prepare(services: Services, tenant: Clinic, other_tenant: Clinic) -> None:
    await services.db.write(_two_clinics, tenant.tenant_id, other_tenant.tenant_id, services.clock.now())


async def test_a_secretary_sees_both_sides_of_her_clinics_conversations_only(
    services: Services, tenant: Clinic, other_tenant: Clinic, secretary_session: Browser
) -> None:
    await _prepare(services, tenant, other_tenant)
    page = (await secretary_session.client.get("/phone")).text
    assert "Podemos mudar a consulta" in page
    assert "Quero &lt;b&gt;remarcar&lt;/b&gt;" in page
    assert page.count('class="bubble ') == 2
    assert "segredo" not in page
    assert "P0" not in page


async def test_an_address_that_names_a_foreign_phone_shows_nothing_of_it(
    services: Services, tenant: Clinic, other_tenant: Clinic, secretary_session: Browser
) -> None:
    await _prepare(services, tenant, other_tenant)
    for of, to in ((other_tenant.slug, "+5511900000000"), ("-", "superadmin"), (tenant.slug, "+5511900000000")):
        page = (await secretary_session.client.get("/phone", params={"of": of, "to": to})).text
        assert "segredo" not in page
        assert "P0" not in page


async def test_a_superadmin_also_sees_the_phones_of_people_on_call(
    services: Services, tenant: Clinic, other_tenant: Clinic, admin_session: Browser
) -> None:
    await _prepare(services, tenant, other_tenant)
    listed = (await admin_session.client.get("/phone")).text
    assert "P0: o Redis parou" in listed
    one = await admin_session.client.get("/phone", params={"of": "-", "to": "superadmin"})
    assert "P0: o Redis parou" in one.text


async def test_one_fragment_can_be_fetched_alone(
    services: Services, tenant: Clinic, other_tenant: Clinic, secretary_session: Browser
) -> None:
    await _prepare(services, tenant, other_tenant)
    for target in ("phone_chats", "phone_chat"):
        part = await secretary_session.client.get("/phone", headers={"HX-Request": "true", "HX-Target": target})
        assert part.status_code == 200
        assert "<html" not in part.text
        assert "Podemos mudar a consulta" in part.text


async def test_the_phone_is_for_people_who_are_signed_in(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    assert (await client.get("/phone")).status_code == 303
    assert (await client.get("/phone", headers=key)).status_code == 401


async def test_an_empty_phone_says_so(secretary_session: Browser) -> None:
    page = await secretary_session.client.get("/phone", headers={"accept-language": "en"})
    assert page.status_code == 200
    assert "simulator:" in page.text


async def test_links_of_the_system_can_be_followed_and_those_of_families_cannot(
    services: Services, admin_session: Browser, tenant: Clinic
) -> None:
    ours, theirs = "https://kora.example/ack/x", "https://elsewhere.example/"

    def fill(conn: Connection) -> None:
        now = services.clock.now()
        _two_clinics(conn, tenant.tenant_id, "ten-other", now)
        message = table(InboxMessage)
        conn.execute(message.update().values(payload_json=json.dumps({"text": f"Veja {theirs}"})))
        show(conn, [said(tenant.tenant_id, MARIA, f"Veja {ours}", "k-link")], now)

    await services.db.write(fill)
    page = await admin_session.client.get("/phone", headers={"accept": "text/html"})
    assert f'<a href="{ours}"' in page.text
    assert theirs in page.text
    assert f'href="{theirs}' not in page.text
