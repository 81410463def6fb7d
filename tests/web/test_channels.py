"""Channels: tested, set and routed; secrets go in and never come out."""

import re
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.bootstrap import Services
from app.domain.alerts import ROUTING
from app.store import settings
from app.store.tables import AuditEntry, PhoneMessage, table
from tests.provider import answer, provider
from tests.web.conftest import Browser, Clinic

PAGE = {"accept": "text/html"}
SECRET = "token-of-the-chat"


def plain(answered: httpx.Response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", answered.text).split())


async def submit(browser: Browser, path: str, **form: str) -> httpx.Response:
    data = {"_csrf": browser.csrf_token, "scope": "global", **form}
    return await browser.client.post(path, data=data, headers=PAGE)


async def audited(services: Services, action: str) -> list[Any]:
    audit = table(AuditEntry)
    query = select(audit).where(audit.c.action == action).order_by(audit.c.number)
    return await services.db.read(lambda conn: list(conn.execute(query)))


async def test_a_test_goes_to_one_target_and_says_what_came_of_it(
    services: Services, client: httpx.AsyncClient, tenant: Clinic, key: dict[str, str]
) -> None:
    async def test(**body: Any) -> Any:
        answered = await client.post("/api/v1/channels/test", json=body, headers=key)
        assert answered.status_code == 200, answered.text
        return answered.json()

    async with provider(answer(200)) as good, provider(answer(500)) as bad:
        patch = {"channels": {"ops": f"webhook:{good.url}/{SECRET}", "email": [f"webhook:{bad.url}", f"webhook:{good.url}/2"]}}
        saved = await client.put(f"/api/v1/settings/{tenant.slug}", json=patch, headers=key)
        assert saved.json()["channels"] == {"ops": "***", "email": "***"}
        services.channels.forget()
        assert await test(channel="ops") == {
            "channel": "ops",
            "target": "webhook:127.0.0.1",
            "outcome": "sent",
            "answer": None,
        }
        assert (await test(channel="email"))["answer"] == "http_500"
        assert (await test(channel="email", number=2))["outcome"] == "sent"
        assert [r.path for r in good.requests] == [f"/{SECRET}", "/2"]
        assert good.requests[0].json["test"] is True
    assert (await test(channel="superadmin_whatsapp"))["target"] == "simulator:superadmin_whatsapp"
    shown = await services.db.read(lambda conn: conn.execute(select(table(PhoneMessage).c.body)).scalars().all())
    assert ["Teste do canal" in body for body in shown] == [True]
    entries = await audited(services, "channel.test")
    assert [e.object for e in entries] == ["channel/ops", "channel/email", "channel/email:2", "channel/superadmin_whatsapp"]
    assert not any(SECRET in e.after_json for e in entries)


async def test_a_test_needs_the_right_and_a_target_that_exists(
    client: httpx.AsyncClient, key: dict[str, str], global_key: dict[str, str], other_tenant: Clinic
) -> None:
    async def status(headers: dict[str, str], **body: Any) -> int:
        return (await client.post("/api/v1/channels/test", json=body, headers=headers)).status_code

    assert await status({}, channel="ops") == 401
    assert await status(key, channel="ops", tenant_id="global") == 403
    assert await status(key, channel="ops", tenant_id=other_tenant.slug) == 403
    assert await status(key, channel="ops", number=2) == 400
    assert await status(key, channel="") == 400
    assert await status(global_key, channel="ops", tenant_id="global") == 200


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({"channels": {"a:b": "x"}}, "/channels/a:b"),
        ({"channels": {"ops": [1]}}, "/channels/ops"),
        ({"routing": {"gap": {"channels": []}}}, "/routing/gap/channels"),
        ({"routing": {"critical": {"channels": ["ops", "ops"]}}}, "/routing/critical/channels"),
        ({"routing": {"gap": {"fallback": 1}}}, "/routing/gap/fallback"),
        ({"routing": {"gap": {"ack_sla_min": 0}}}, "/routing/gap/ack_sla_min"),
        ({"routing": {"gap": {"minutes": 5}}}, "/routing/gap"),
    ],
)
async def test_channels_and_routes_that_cannot_be_used_are_refused(
    client: httpx.AsyncClient, tenant: Clinic, key: dict[str, str], patch: Any, pointer: str
) -> None:
    refused = await client.put(f"/api/v1/settings/{tenant.slug}", json=patch, headers=key)
    assert refused.status_code == 400
    assert [e["pointer"] for e in refused.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("patch", "pointers"),
    [
        ({"channels": {"ops": "NaN", "email": ["simulator:", "é", "2026-11-28"]}}, ["ops", "email/1", "email/2"]),
        ({"channels": {"ops": "whatsapp:12"}}, ["ops"]),
        ({"channels": {"ops": ["webhook:", "webhook:ftp://h/", "webhook:https://u:p@h/", "webhook:nonsense"]}}, "0123"),
        ({"contacts_channel": "NaN"}, ["/contacts_channel"]),
        ({"contacts_channel": "webhook:https://h.example/"}, ["/contacts_channel"]),
        ({"contacts_fallback_channel": "json://h.example/p"}, ["/contacts_fallback_channel"]),
        ({"phone": "call us"}, ["/phone"]),
        ({"phone": "+-()"}, ["/phone"]),
        ({"outbound_allow": [[], "10.0.0.0/8", "a b", 7, "printer.local", ""]}, [f"/outbound_allow/{n}" for n in (0, 2, 3, 5)]),
        ({"whatsapp": {"app_secret": 0, "phone_number_id": 123}}, ["/whatsapp/app_secret", "/whatsapp/phone_number_id"]),
        ({"whatsapp": {"app_secret": [], "verify_token": {"a": 1}}}, ["/whatsapp/app_secret", "/whatsapp/verify_token"]),
        ({"evolution": {"secret": True, "base_url": "evolution"}}, ["/evolution/secret", "/evolution/base_url"]),
        ({"uazapi": {"token": 1.5, "allowed_addresses": "10.0.0.1"}}, ["/uazapi/token", "/uazapi/allowed_addresses"]),
        ({"uazapi": {"allowed_addresses": ["10.0.0.1", "host"]}}, ["/uazapi/allowed_addresses/1"]),
    ],
)
async def test_settings_that_could_never_work_are_refused_with_their_place(
    client: httpx.AsyncClient, tenant: Clinic, key: dict[str, str], patch: Any, pointers: Any
) -> None:
    address = f"/api/v1/settings/{tenant.slug}"
    before = (await client.get(address, headers=key)).json()
    refused = await client.put(address, json=patch, headers=key)
    assert refused.status_code == 400, refused.text
    if "channels" in patch:
        only = [f"ops/{n}" for n in pointers] if isinstance(pointers, str) else pointers
        pointers = [f"/channels/{name}" for name in only]
    assert [e["pointer"] for e in refused.json()["errors"]] == pointers
    assert (await client.get(address, headers=key)).json() == before


async def test_settings_that_work_are_taken(client: httpx.AsyncClient, tenant: Clinic, key: dict[str, str]) -> None:
    patch = {
        "channels": {"ops": ["simulator:", "whatsapp:+5511987654321", "json://h/p", "webhook:https://h.example/x"], "sms": None},
        "contacts_channel": "whatsapp:",
        "contacts_fallback_channel": "simulator:",
        "phone": "0800 123 456",
        "outbound_allow": ["10.0.0.0/8", "::1", "printer.local", "n8n_internal"],
        "whatsapp": {"app_secret": "s", "phone_number_id": "123", "access_token": "", "verify_token": None},
        "evolution": {"base_url": "http://10.0.0.5:8080", "instance": "sol", "api_key": "k"},
        "uazapi": {"allowed_addresses": ["203.0.113.0/24", "2001:db8::1"]},
    }
    for _ in range(2):  # and what is shown can be sent back as it is
        saved = await client.put(f"/api/v1/settings/{tenant.slug}", json=patch, headers=key)
        assert saved.status_code == 200, saved.text
        patch = saved.json()


async def test_the_page_refuses_a_target_that_is_none(admin_session: Browser) -> None:
    refused = await submit(admin_session, "/channels/save", name="ops", targets="NaN", reason="novo")
    assert refused.status_code == 400


async def test_the_page_sets_tests_and_routes_without_showing_a_secret(services: Services, admin_session: Browser) -> None:
    async with provider(answer(200)) as there:
        targets = f"webhook:{there.url}/{SECRET}\nwhatsapp:+5511987654321"
        assert (await submit(admin_session, "/channels/save", name="ops", targets=targets, reason="novo")).status_code == 303
        services.channels.forget()
        assert (await submit(admin_session, "/channels/test", recipient="ops")).status_code == 303
        assert (await submit(admin_session, "/channels/test", recipient="ops:2")).status_code == 303
    page = await admin_session.client.get("/channels", headers=PAGE)
    shown = plain(page)
    assert "webhook:127.0.0.1 Testar chegou há 0 s" in shown
    assert "whatsapp:+55...4321 Testar recusado (whatsapp_not_configured)" in shown
    assert SECRET not in page.text
    route = {"trigger": "gap", "channels": "ops, email", "fallback": "superadmin_sms", "owner": "ops", "ack_sla_min": "7"}
    assert (await submit(admin_session, "/channels/route", **route, reason="turno novo")).status_code == 303
    assert "ops, email · alternativo: superadmin_sms · Responsável: ops · confirmação em até 7 min" in plain(
        await admin_session.client.get("/channels", headers=PAGE)
    )
    held = await services.db.read(settings.load, "global")
    assert held["routing"]["gap"]["ack_sla_min"] == 7
    saves = await audited(services, "settings.save")
    assert [s.reason for s in saves] == ["novo", "turno novo"]
    assert not any(SECRET in s.after_json for s in saves)


async def test_a_trigger_gets_a_route_and_goes_back_and_critical_keeps_its_minutes(
    services: Services, admin_session: Browser
) -> None:
    async def shown() -> str:
        return plain(await admin_session.client.get("/channels", headers=PAGE))

    given = {"channels": "ops, email", "fallback": "superadmin_sms", "owner": "ops", "reason": "x"}
    assert (await submit(admin_session, "/channels/route", trigger="n8n_down", ack_sla_min="7", **given)).status_code == 303
    assert "n8n_down alterado ops, email" in await shown()
    back = await submit(admin_session, "/channels/route", trigger="n8n_down", act="default", reason="fim do teste")
    assert back.status_code == 303
    assert "n8n_down" not in await shown()
    assert (await submit(admin_session, "/channels/route", trigger="critical", ack_sla_min="99", **given)).status_code == 303
    held = (await services.db.read(settings.load, "global"))["routing"]
    assert "n8n_down" not in held
    assert "ack_sla_min" not in held["critical"]
    page = (await admin_session.client.get("/channels", headers=PAGE)).text
    assert page.count('name="ack_sla_min"') == len(ROUTING), "one a row, one for a new row, none for critical"


async def test_whatsapp_without_an_approved_template_is_said(services: Services, admin_session: Browser) -> None:
    async def warned() -> bool:
        return "Sem modelo aprovado" in plain(await admin_session.client.get("/channels", headers=PAGE))

    assert not await warned()
    await submit(admin_session, "/channels/save", name="superadmin_whatsapp", targets="whatsapp:+5511987654321", reason="x")
    assert await warned()
    patch = {"whatsapp": {"alert_template": "kora_aviso"}}
    await services.db.write(settings.save, "global", patch, actor="user:ana", now=services.clock.now())
    assert not await warned()


async def test_a_change_wants_a_reason_a_known_target_and_a_superadmin(
    services: Services, admin_session: Browser, secretary_session: Browser
) -> None:
    assert (await submit(admin_session, "/channels/save", name="ops", targets="simulator:", reason=" ")).status_code == 400
    assert (await submit(admin_session, "/channels/route", trigger="gap", channels="", reason="x")).status_code == 400
    assert (await submit(admin_session, "/channels/route", trigger="", channels="ops", reason="x")).status_code == 400
    assert (await submit(admin_session, "/channels/test", recipient="nowhere")).status_code == 404
    assert (await submit(admin_session, "/channels/test", scope="nowhere", recipient="ops")).status_code == 404
    assert (await secretary_session.client.get("/channels", headers=PAGE)).status_code == 403
    assert (await submit(secretary_session, "/channels/test", recipient="ops")).status_code == 403
    assert await audited(services, "settings.save") == []


async def test_a_clinics_own_channels_stand_beside_those_of_all(
    services: Services, tenant: Clinic, other_tenant: Clinic, admin_session: Browser
) -> None:
    saved = await submit(
        admin_session, "/channels/save", scope=tenant.tenant_id, name="ops", targets="simulator:plantao", reason="da casa"
    )
    assert saved.headers["location"] == f"/channels?clinic={tenant.slug}"
    ours = plain(await admin_session.client.get(f"/channels?clinic={tenant.slug}", headers=PAGE))
    assert "simulator:plantao" in ours
    everyones = plain(await admin_session.client.get("/channels?clinic=all", headers=PAGE))
    assert "simulator:plantao" not in everyones
