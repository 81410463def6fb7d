"""Users and keys: who may, what is shown once, what is audited, what is refused."""

import html
import re
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import select

from app.bootstrap import Services
from app.credentials import verify_password
from app.store import accounts
from app.store.tables import AuditEntry, table
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in

PAGE = {"accept": "text/html"}


def hidden(page: httpx.Response, act: str) -> dict[str, str]:
    """The hidden fields of the form of an act."""
    form = next(part for part in page.text.split("<form")[1:] if f'name="act" value="{act}"' in part).split("</form>")[0]
    return {n: html.unescape(v) for n, v in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)}


async def submit(browser: Browser, query: str, act: str, **form: Any) -> httpx.Response:
    page = await browser.client.get(f"/access{query}", headers=PAGE)
    assert page.status_code == 200, page.text[:500]
    data = {**hidden(page, act), "reason": "motivo", "confirm": "on", **form}
    return await browser.client.post(f"/access{query}", data=data, headers=PAGE)


def shown_once(answer: httpx.Response) -> str:
    found = re.search(r'id="secret_value"[^>]*>([^<]+)<', answer.text)
    assert found is not None, answer.text[:2000]
    return found[1]


async def audited(services: Services, action: str) -> list[Any]:
    audit = table(AuditEntry)
    query = select(audit).where(audit.c.action == action).order_by(audit.c.number)
    return await services.db.read(lambda conn: list(conn.execute(query)))


async def person_of(services: Services, user_id: str) -> Any:
    return await services.db.read(accounts.find_user, user_id)


@pytest.mark.parametrize("role", ["secretary", "manager"])
async def test_only_a_superadmin_sees_keys_and_people(app: Any, services: Services, tenant: Clinic, role: str) -> None:
    person = await add_person(services, role, [tenant.tenant_id])
    async with browser_client(app) as client:
        browser = await sign_in(services, client, person)
        for query in ("", "?tab=keys"):
            assert (await client.get(f"/access{query}", headers=PAGE)).status_code == 403
        refused = await client.post("/access", data={"_csrf": browser.csrf_token, "act": "add_key"}, headers=PAGE)
        assert refused.status_code == 403
        assert 'href="/access' not in (await client.get("/", headers=PAGE)).text


async def test_a_new_person_gets_a_password_that_is_shown_once(services: Services, admin_session: Browser, tenant: Clinic) -> None:
    answer = await submit(
        admin_session, "", "add_user", name="Ana", email=" Ana@Clinica.example ", role="secretary", clinics=[tenant.tenant_id]
    )
    assert answer.status_code == 200
    password = shown_once(answer)
    row = await services.db.read(accounts.find_user_by_email, "ana@clinica.example")
    assert row is not None
    assert verify_password(row.password_hash, password)
    assert await services.db.read(accounts.tenants_of_user, row.user_id) == [tenant.tenant_id]
    (entry,) = await audited(services, "user.add")
    assert (entry.reason, msgspec.json.decode(entry.after_json)["role"]) == ("motivo", "secretary")
    assert password not in entry.after_json
    later = await admin_session.client.get(f"/access?user={row.user_id}", headers=PAGE)
    assert password not in later.text
    again = await submit(
        admin_session, "", "add_user", name="Ana", email="ana@clinica.example", role="secretary", clinics=[tenant.tenant_id]
    )
    assert again.status_code == 409
    assert 'value="ana@clinica.example"' in again.text, "what was typed is kept"


async def test_a_change_of_rights_is_audited_and_ends_the_sessions(
    services: Services, admin_session: Browser, secretary_session: Browser, tenant: Clinic, other_tenant: Clinic
) -> None:
    user_id = secretary_session.person.user_id
    clinics = [tenant.tenant_id, other_tenant.tenant_id]
    answer = await submit(admin_session, f"?user={user_id}", "change_user", role="manager", clinics=clinics)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/access?user={user_id}&done=change_user")
    assert (await person_of(services, user_id)).role == "manager"
    assert sorted(await services.db.read(accounts.tenants_of_user, user_id)) == sorted(clinics)
    assert (await secretary_session.client.get("/api/v1/queue")).status_code == 401
    (entry,) = await audited(services, "user.change")
    before, after = msgspec.json.decode(entry.before_json), msgspec.json.decode(entry.after_json)
    assert (before["role"], after["role"]) == ("secretary", "manager")
    assert len(after["clinics"]) == 2


async def test_disabling_ends_access_and_enabling_gives_it_back(
    services: Services, admin_session: Browser, secretary_session: Browser
) -> None:
    user_id = secretary_session.person.user_id
    assert (await submit(admin_session, f"?user={user_id}", "disable_user", confirm="")).status_code == 400
    assert (await submit(admin_session, f"?user={user_id}", "disable_user", reason=" ")).status_code == 400
    assert (await person_of(services, user_id)).disabled_at is None
    assert (await submit(admin_session, f"?user={user_id}", "disable_user")).status_code == 303
    assert (await person_of(services, user_id)).disabled_at is not None
    assert (await submit(admin_session, f"?user={user_id}", "enable_user")).status_code == 303
    assert (await person_of(services, user_id)).disabled_at is None
    assert len(await audited(services, "user.disable")) == len(await audited(services, "user.enable")) == 1


async def test_a_reset_password_works_and_signing_out_everywhere_is_audited(
    services: Services, admin_session: Browser, secretary_session: Browser
) -> None:
    user_id = secretary_session.person.user_id
    assert (await submit(admin_session, f"?user={user_id}", "end_sessions")).status_code == 303
    assert (await secretary_session.client.get("/api/v1/queue")).status_code == 401
    (entry,) = await audited(services, "user.end_sessions")
    assert (entry.before_json, entry.after_json) == ('{"sessions":1}', '{"sessions":0}')
    answer = await submit(admin_session, f"?user={user_id}", "reset_password")
    assert verify_password((await person_of(services, user_id)).password_hash, shown_once(answer))
    (entry,) = await audited(services, "user.reset_password")
    assert shown_once(answer) not in entry.before_json + entry.after_json


async def test_who_looked_before_somebody_elses_change_is_refused(
    services: Services, admin_session: Browser, secretary_session: Browser, tenant: Clinic
) -> None:
    user_id = secretary_session.person.user_id
    stale = hidden(await admin_session.client.get(f"/access?user={user_id}", headers=PAGE), "disable_user")
    await services.db.write(accounts.set_role, user_id, "manager")
    data = {**stale, "reason": "x", "confirm": "on"}
    refused = await admin_session.client.post(f"/access?user={user_id}", data=data, headers=PAGE)
    assert refused.status_code == 409
    assert "Nada foi feito" in refused.text
    assert (await person_of(services, user_id)).disabled_at is None
    assert await audited(services, "user.disable") == []


async def test_nobody_locks_the_house_from_outside(services: Services, admin_session: Browser, tenant: Clinic) -> None:
    own = admin_session.person.user_id
    page = await admin_session.client.get(f"/access?user={own}", headers=PAGE)
    assert 'value="disable_user"' not in page.text
    seen = hidden(page, "change_user")
    data = {**seen, "act": "disable_user", "reason": "x", "confirm": "on"}
    assert (await admin_session.client.post(f"/access?user={own}", data=data, headers=PAGE)).status_code == 400
    other = await add_person(services, "superadmin", ())
    await services.db.write(accounts.set_disabled, own, None)
    assert (await submit(admin_session, f"?user={other.user_id}", "disable_user")).status_code == 303
    demoted = {**seen, "act": "change_user", "role": "manager", "clinics": tenant.tenant_id, "reason": "x", "confirm": "on"}
    assert (await admin_session.client.post(f"/access?user={own}", data=demoted, headers=PAGE)).status_code == 400
    assert (await person_of(services, own)).role == "superadmin"


async def test_a_key_is_shown_once_rotated_with_an_overlap_and_revoked(
    services: Services, admin_session: Browser, client: httpx.AsyncClient, tenant: Clinic, manual_clock: Any
) -> None:
    async def works(token: str) -> bool:
        return (await client.get("/api/v1/queue", headers={"Authorization": f"Bearer {token}"})).status_code == 200

    made = await submit(admin_session, "?tab=keys", "add_key", name="n8n", tenant_id=tenant.tenant_id, scopes=["intake", "read"])
    old = shown_once(made)
    old_id = old.split("_")[1]
    assert await works(old)
    assert shown_once(made) not in (await admin_session.client.get("/access?tab=keys", headers=PAGE)).text
    where = f"?tab=keys&key={old_id}"
    until = (services.clock.now() + timedelta(days=1)).replace(second=0, microsecond=0)
    local = until - timedelta(hours=3)  # times of the form are those of São Paulo
    late = await submit(admin_session, where, "rotate_key", old_until="2001-01-01T00:00")
    assert late.status_code == 400
    new = shown_once(await submit(admin_session, where, "rotate_key", old_until=f"{local:%Y-%m-%dT%H:%M}"))
    row = await services.db.read(accounts.find_key, old_id)
    assert row is not None
    assert row.expires_at == until
    fresh = await services.db.read(accounts.find_key, new.split("_")[1])
    assert fresh is not None
    assert (fresh.name, fresh.tenant_id, fresh.scopes) == ("n8n", tenant.tenant_id, "intake read")
    assert await works(new)
    (rotated,) = await audited(services, "key.rotate")
    assert msgspec.json.decode(rotated.after_json)["replaced_by"] == new.split("_")[1]
    assert (await submit(admin_session, where, "revoke_key")).status_code == 303
    revoked = await services.db.read(accounts.find_key, old_id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    (entry,) = await audited(services, "key.revoke")
    assert (msgspec.json.decode(entry.before_json)["revoked"], msgspec.json.decode(entry.after_json)["revoked"]) == (False, True)
    made_entries = await audited(services, "key.add")
    assert len(made_entries) == 2
    assert not any(token in e.after_json for token in (old, new) for e in made_entries)


async def test_the_same_form_sent_twice_makes_one_key(services: Services, admin_session: Browser, tenant: Clinic) -> None:
    page = await admin_session.client.get("/access?tab=keys", headers=PAGE)
    data = {**hidden(page, "add_key"), "name": "n8n", "tenant_id": tenant.tenant_id, "scopes": "read", "reason": "x"}
    assert (await admin_session.client.post("/access?tab=keys", data=data, headers=PAGE)).status_code == 200
    assert (await admin_session.client.post("/access?tab=keys", data=data, headers=PAGE)).status_code == 409
    assert len(await services.db.read(accounts.list_keys)) == 1
