"""Who may come in and what they may do: keys, sessions, roles, clinics, signing in and out."""

import asyncio
import re
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request, get
from litestar.routes import HTTPRoute
from sqlalchemy import select

from app.bootstrap import Services
from app.clock import ManualClock
from app.credentials import hash_password, new_api_key, parse_api_key, verify_password
from app.store import accounts
from app.store.tables import ApiKey, AuditEntry, table
from app.web.auth import ACCESS, CACHE_S, Actor, resolve_tenant
from app.web.security import TokenBuckets
from app.web.signin import TRIES_PER_MIN, safe_next
from tests.web.conftest import (
    PASSWORD,
    Browser,
    Clinic,
    Person,
    add_key,
    add_person,
    app_over,
    browser_client,
    make_settings,
    sign_in,
    unmasked,
)


@get("/api/v1/probe-read", opt={"access": "scope:read"}, include_in_schema=False)
async def readable(request: Request[Any, Any, Any]) -> dict[str, Any]:
    actor: Actor = request.user
    return {"actor": actor.audit_name, "tenant": await resolve_tenant(request, request.query_params.get("tenant_id"))}


@get("/api/v1/probe-intake", opt={"access": "scope:intake"}, include_in_schema=False)
async def intake_only() -> None:
    return None


@get("/api/v1/probe-admin", opt={"access": "scope:admin"}, include_in_schema=False)
async def admin_only() -> None:
    return None


@get("/probe-forgotten", include_in_schema=False)
async def forgotten() -> str:
    return "must not be seen"


@get("/probe-page", opt={"access": "page", "roles": ["manager", "superadmin"]}, include_in_schema=False)
async def managers_page() -> str:
    return "page"


WHO = "/api/v1/probe-read"


@pytest.fixture
def app(services: Services) -> Litestar:
    return app_over(services, readable, intake_only, admin_only, forgotten, managers_page)


# --- every route --------------------------------------------------------------------------------------------------------


def test_every_route_says_who_may_use_it(services: Services) -> None:
    app = app_over(services)
    seen = 0
    for route in app.routes:
        handlers = route.route_handlers if isinstance(route, HTTPRoute) else [route.route_handler]
        for handler in handlers:
            if handler.handler_name == "options_handler":
                continue
            seen += 1
            access = handler.opt.get("access")
            assert access in ACCESS, f"{route.path}: {handler.handler_name} declares access {access!r}"
    assert seen >= 7


async def test_a_handler_that_says_nothing_is_closed_to_everybody(admin_session: Browser, global_key: dict[str, str]) -> None:
    assert (await admin_session.client.get("/probe-forgotten")).status_code == 403
    assert (await admin_session.client.get("/probe-forgotten", headers=global_key)).status_code == 403


# --- keys ---------------------------------------------------------------------------------------------------------------


def test_a_key_names_itself_and_hides_its_secret() -> None:
    key_id, token, secret_hash = new_api_key()
    assert token.startswith(f"kora_{key_id}_")
    assert parse_api_key(token) == (key_id, secret_hash)
    assert secret_hash not in token
    for wrong in ("", "kora", "kora_", "kora_x", "kora_x_", "other_x_y", "kora__y", "kora_x_" + "y" * 300):
        assert parse_api_key(wrong) is None


async def test_a_key_opens_its_clinic(client: httpx.AsyncClient, key: dict[str, str], tenant: Clinic) -> None:
    answer = await client.get(WHO, headers=key)
    assert answer.status_code == 200
    assert answer.json()["tenant"] == tenant.tenant_id
    assert answer.json()["actor"].startswith("key:")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic eDp5", "Bearer kora_0123456789ab_00", "Bearer é"])
async def test_no_key_or_an_unknown_one_is_401(client: httpx.AsyncClient, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    answer = await client.get(WHO, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_right_id_with_a_wrong_secret_is_401(client: httpx.AsyncClient, key: dict[str, str]) -> None:
    wrong = key["Authorization"][:-1] + ("0" if key["Authorization"][-1] != "0" else "1")
    assert (await client.get(WHO, headers={"Authorization": wrong})).status_code == 401


async def test_a_key_does_only_what_its_scopes_name(client: httpx.AsyncClient, services: Services, tenant: Clinic) -> None:
    reader = await add_key(services, tenant.tenant_id, "read")
    assert (await client.get(WHO, headers=reader)).status_code == 200
    assert (await client.get("/api/v1/probe-intake", headers=reader)).status_code == 403
    assert (await client.get("/api/v1/probe-admin", headers=reader)).status_code == 403
    assert (await client.get("/probe-page", headers=await add_key(services, None))).status_code == 401


async def test_a_revoked_key_stops_working_within_moments(
    client: httpx.AsyncClient, key: dict[str, str], services: Services
) -> None:
    assert (await client.get(WHO, headers=key)).status_code == 200
    key_id = key["Authorization"].split("_")[1]
    await services.db.write(accounts.revoke_key, key_id, services.clock.now())
    asked_at = revoked_at = time.monotonic()
    while (status := (await client.get(WHO, headers=key)).status_code) == 200:
        assert asked_at - revoked_at < CACHE_S
        await asyncio.sleep(0.05)
        asked_at = time.monotonic()
    assert status == 401


async def test_an_expired_key_and_a_key_of_a_closed_clinic_are_401(
    client: httpx.AsyncClient, services: Services, tenant: Clinic, manual_clock: ManualClock
) -> None:
    key_id, token, secret_hash = new_api_key()
    until = manual_clock.now() + timedelta(minutes=5)
    await services.db.write(
        lambda conn: accounts.create_key(
            conn,
            key_id=key_id,
            secret_hash=secret_hash,
            name="short",
            tenant_id=None,
            scopes="read",
            now=manual_clock.now(),
            expires_at=until,
        )
    )
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{WHO}?tenant_id={tenant.slug}"
    assert (await client.get(url, headers=headers)).status_code == 200
    manual_clock.advance(minutes=5)
    assert (await client.get(url, headers=headers)).status_code == 401
    closed = await add_key(services, tenant.tenant_id)
    await services.db.write(accounts.disable_tenant, tenant.tenant_id, manual_clock.now())
    assert (await client.get(WHO, headers=closed)).status_code == 401


async def test_the_last_use_of_a_key_is_shown(client: httpx.AsyncClient, key: dict[str, str], services: Services) -> None:
    await client.get(WHO, headers=key)
    used = await services.db.read(lambda conn: conn.execute(select(table(ApiKey).c.last_used_at)).scalar_one())
    assert used == services.clock.now()


# --- clinics ------------------------------------------------------------------------------------------------------------


async def test_a_key_may_name_its_own_clinic_and_no_other(
    client: httpx.AsyncClient, key: dict[str, str], tenant: Clinic, other_tenant: Clinic
) -> None:
    for name in (tenant.tenant_id, tenant.slug):
        assert (await client.get(WHO, params={"tenant_id": name}, headers=key)).json()["tenant"] == tenant.tenant_id
    for name in (other_tenant.tenant_id, other_tenant.slug, "nowhere"):
        assert (await client.get(WHO, params={"tenant_id": name}, headers=key)).status_code == 403


async def test_a_global_key_must_name_a_clinic_that_exists(
    client: httpx.AsyncClient, global_key: dict[str, str], tenant: Clinic
) -> None:
    missing = await client.get(WHO, headers=global_key)
    assert (missing.status_code, missing.json()["errors"][0]["pointer"]) == (400, "/tenant_id")
    assert (await client.get(WHO, params={"tenant_id": tenant.slug}, headers=global_key)).json()["tenant"] == tenant.tenant_id
    assert (await client.get(WHO, params={"tenant_id": "nowhere"}, headers=global_key)).status_code == 404


async def test_people_work_on_the_clinic_that_they_chose_among_theirs(
    services: Services, app: Litestar, tenant: Clinic, other_tenant: Clinic
) -> None:
    person = await add_person(services, "manager", [tenant.tenant_id])
    async with browser_client(app) as client:
        await sign_in(services, client, person)
        assert (await client.get(WHO)).json() == {"actor": f"user:{person.user_id}", "tenant": tenant.tenant_id}
        assert (await client.get(WHO, params={"tenant_id": other_tenant.slug})).status_code == 403
        client.cookies.set("kora_tenant", other_tenant.tenant_id)
        assert (await client.get(WHO)).json()["tenant"] == tenant.tenant_id


async def test_a_superadmin_chooses_among_all_clinics(admin_session: Browser, tenant: Clinic, other_tenant: Clinic) -> None:
    client = admin_session.client
    assert (await client.get(WHO)).json()["tenant"] == tenant.tenant_id
    client.cookies.set("kora_tenant", other_tenant.slug)
    assert (await client.get(WHO)).json()["tenant"] == other_tenant.tenant_id


async def test_someone_without_a_clinic_works_on_none(services: Services, app: Litestar, tenant: Clinic) -> None:
    async with browser_client(app) as client:
        await sign_in(services, client, await add_person(services, "secretary", []))
        assert (await client.get(WHO)).status_code == 403


# --- people -------------------------------------------------------------------------------------------------------------


async def test_a_role_opens_its_pages_and_scopes(admin_session: Browser, secretary_session: Browser) -> None:
    assert (await admin_session.client.get("/probe-page")).text == "page"
    assert (await secretary_session.client.get("/probe-page")).status_code == 403
    assert (await admin_session.client.get("/api/v1/probe-admin")).status_code == 200
    assert (await secretary_session.client.get("/api/v1/probe-admin")).status_code == 403
    assert (await secretary_session.client.get("/api/v1/probe-intake")).status_code == 403


async def test_a_page_sends_strangers_to_the_login_form_and_back(client: httpx.AsyncClient) -> None:
    answer = await client.get("/probe-page?tab=2", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fprobe-page%3Ftab%3D2")
    htmx = await client.get("/probe-page", headers={"HX-Request": "true"})
    assert (htmx.status_code, htmx.headers["hx-redirect"]) == (401, "/login")
    stream = await client.get("/probe-page", headers={"Accept": "text/event-stream"})
    assert stream.status_code == 401


async def test_a_session_ends_after_half_an_hour_without_use(admin_session: Browser, manual_clock: ManualClock) -> None:
    for _ in range(3):
        manual_clock.advance(minutes=29)
        assert (await admin_session.client.get("/probe-page")).status_code == 200
    manual_clock.advance(minutes=30)
    assert (await admin_session.client.get("/probe-page")).status_code == 303


async def test_an_open_stream_is_told_when_its_session_ends_or_its_person_changes(
    services: Services, app: Litestar, secretary_session: Browser, other_tenant: Clinic
) -> None:
    auth = app.state.auth
    actor = await auth.by_session(secretary_session.session_hash)
    assert await auth.still_good(actor)
    assert not await auth.still_good(replace(actor, tenant_ids=frozenset({other_tenant.tenant_id})))
    await services.db.write(accounts.set_role, secretary_session.person.user_id, "manager")
    assert not await auth.still_good(actor)


# --- signing in ---------------------------------------------------------------------------------------------------------


async def token_of(client: httpx.AsyncClient) -> str:
    page = await client.get("/login")
    assert page.status_code == 200
    found = re.search(r'name="_csrf"\s+value="([0-9a-f]{128})"', page.text)
    assert found is not None, "the form carries its token"
    return found[1]


async def attempt(client: httpx.AsyncClient, email: str, password: str, **fields: str) -> httpx.Response:
    form = {"email": email, "password": password, "_csrf": await token_of(client), **fields}
    return await client.post("/login", data=form, headers={"Sec-Fetch-Site": "same-origin"})


async def actions(services: Services) -> list[str]:
    query = select(table(AuditEntry).c.action).order_by(table(AuditEntry).c.number)
    return list(await services.db.read(lambda conn: conn.execute(query).scalars().all()))


async def test_signing_in_makes_a_session_and_signing_out_ends_it(
    client: httpx.AsyncClient, services: Services, admin: Person, tenant: Clinic
) -> None:
    answer = await attempt(client, admin.email.upper(), PASSWORD, next="/probe-page?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/probe-page?x=1")
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("kora_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert (await client.get("/probe-page")).text == "page"
    assert (await client.get("/login")).headers["location"] == "/"
    session_hash = (await services.db.read(accounts.sessions_of_user, admin.user_id, services.clock.now()))[0].key_hash
    token = client.cookies["kora_session"]
    assert token not in session_hash
    out = await client.post("/logout", headers={"X-CSRF-Token": csrf_of(services, session_hash)})
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    client.cookies.set("kora_session", token)
    assert (await client.get("/probe-page")).status_code == 303
    assert await actions(services) == ["session.sign_in", "session.sign_out"]


def csrf_of(services: Services, session_hash: str) -> str:
    from app.web.security import session_csrf

    return session_csrf(services.settings.secret_key, session_hash)


async def test_signing_in_again_ends_the_browsers_old_session(client: httpx.AsyncClient, services: Services, admin: Person) -> None:
    await attempt(client, admin.email, PASSWORD)
    old = client.cookies["kora_session"]
    form = {"email": admin.email, "password": PASSWORD}
    # the login page is skipped by someone who is signed in, so the form's token is taken in another tab without a session
    async with browser_client(client._transport.app) as other:  # type: ignore[attr-defined]
        form["_csrf"] = await token_of(other)
        client.cookies.set("kora_login", other.cookies["kora_login"])
    assert (await client.post("/login", data=form)).status_code == 303
    assert len(await services.db.read(accounts.sessions_of_user, admin.user_id, services.clock.now())) == 1
    assert old not in client.cookies.jar.__repr__()


async def test_a_stranger_and_a_wrong_password_look_the_same(client: httpx.AsyncClient, admin: Person) -> None:
    wrong = await attempt(client, admin.email, "not it")
    stranger = await attempt(client, "nobody@clinica.example", PASSWORD)
    assert wrong.status_code == stranger.status_code == 401
    assert unmasked(wrong.text) == unmasked(stranger.text)
    assert "kora_session" not in client.cookies


async def test_a_disabled_person_cannot_sign_in(client: httpx.AsyncClient, services: Services, admin: Person) -> None:
    await services.db.write(accounts.set_disabled, admin.user_id, services.clock.now())
    assert (await attempt(client, admin.email, PASSWORD)).status_code == 401


@pytest.mark.parametrize("known", [True, False])
async def test_failures_close_the_door_for_known_and_unknown_addresses_alike(
    app: Litestar, services: Services, admin: Person, manual_clock: ManualClock, known: bool
) -> None:
    email = admin.email if known else "nobody@clinica.example"
    async with browser_client(app) as client:
        for _ in range(5):
            assert (await attempt(client, email, "not it")).status_code == 401
        closed = await attempt(client, email, PASSWORD)
        assert closed.status_code == 429
        assert closed.headers["retry-after"] == "31"
        manual_clock.advance(seconds=31)
        assert (await attempt(client, email, PASSWORD)).status_code == (303 if known else 401)
    assert ("session.locked" in await actions(services)) == known


async def test_one_address_may_try_ten_times_a_minute(app: Litestar, monkeypatch: pytest.MonkeyPatch) -> None:
    # no time passes between tries: on a slow machine one more would be allowed meanwhile
    monkeypatch.setattr(app.state.door, "tries", TokenBuckets(TRIES_PER_MIN / 60, TRIES_PER_MIN, monotonic=lambda: 100.0))
    async with browser_client(app) as client:
        statuses = [(await attempt(client, f"p{n}@clinica.example", "x")).status_code for n in range(11)]
    assert statuses == [401] * 10 + [429]
    async with browser_client(app, "192.0.2.9") as other:
        assert (await attempt(other, "p@clinica.example", "x")).status_code == 401


async def test_the_form_is_refused_without_the_token_of_this_browser(
    app: Litestar, client: httpx.AsyncClient, admin: Person
) -> None:
    form = {"email": admin.email, "password": PASSWORD}
    assert (await client.post("/login", data=form)).status_code == 403
    assert (await client.post("/login", data=form | {"_csrf": ""})).status_code == 403
    async with browser_client(app) as attacker:
        foreign = await token_of(attacker)
    await token_of(client)
    assert (await client.post("/login", data=form | {"_csrf": foreign})).status_code == 403
    cross = {"Sec-Fetch-Site": "cross-site"}
    assert (await client.post("/login", data=form | {"_csrf": await token_of(client)}, headers=cross)).status_code == 403


@pytest.mark.parametrize(
    ("target", "safe"),
    [
        ("/queue?x=1", "/queue?x=1"),
        (None, "/"),
        ("", "/"),
        ("queue", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("/login?next=/login", "/"),
        ("/logout", "/"),
    ],
)
def test_after_signing_in_people_stay_on_this_site(target: str | None, safe: str) -> None:
    assert safe_next(target) == safe


async def test_under_tls_cookies_belong_to_this_host_only(services: Services, tenant: Clinic, database_url: str) -> None:
    services.settings = make_settings(database_url, public_url="https://console.clinica.example")
    app = app_over(services)
    person = await add_person(services, "superadmin", ())
    async with browser_client(app) as client:
        client.base_url = httpx.URL("https://testserver")
        answer = await attempt(client, person.email, PASSWORD)
        assert answer.status_code == 303
        cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("__Host-kora_session="))
        assert "Secure" in cookie
        assert "Path=/" in cookie
        assert "Domain" not in cookie
        assert answer.headers["strict-transport-security"].startswith("max-age=31536000")


def test_a_password_is_hashed_with_argon2id_and_checked_for_nobody_too() -> None:
    hashed = hash_password("s3cret-and-long")
    assert hashed.startswith("$argon2id$")
    assert verify_password(hashed, "s3cret-and-long")
    assert not verify_password(hashed, "other")
    assert not verify_password(None, "other")
    assert not verify_password("not a hash", "other")
