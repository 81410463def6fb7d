"""The real application in this process, over a real database: what every web test asks for.

`client` speaks HTTP to the app (no socket); the engine is built and not running, except under `running_client`. `tenant` is
a clinic, `other_tenant` another one, `key` and friends are API keys as header values, `admin_session` a signed-in superadmin.
"""

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar

from app.bootstrap import Services, build, running
from app.clock import ManualClock
from app.credentials import hash_password, new_api_key, new_cookie_token
from app.ids import new_id
from app.settings import Settings
from app.store import accounts
from app.web.app import create_routes, serve
from app.web.security import session_csrf

PASSWORD = "correct horse battery staple"
SECRET_KEY = "a-secret-key-for-tests-of-enough-length"
BASE_URL = "http://testserver"

_PASSWORD_HASH = hash_password(PASSWORD)


@dataclass(frozen=True)
class Clinic:
    """A tenant of the test."""

    tenant_id: str
    slug: str


@dataclass(frozen=True)
class Person:
    """Someone who may sign in with PASSWORD."""

    user_id: str
    email: str
    role: str


@dataclass(frozen=True)
class Browser:
    """A signed-in browser: its client carries the cookie; unsafe requests need `headers`."""

    client: httpx.AsyncClient
    person: Person
    csrf_token: str
    session_hash: str

    @property
    def headers(self) -> dict[str, str]:
        """What the page's own scripts send along."""
        return {"X-CSRF-Token": self.csrf_token, "Sec-Fetch-Site": "same-origin"}


def make_settings(database_url: str, **changes: object) -> Settings:
    """Settings of a process in tests."""
    values: dict[str, object] = {
        "database_url": database_url,
        "secret_key": SECRET_KEY,
        "env": "test",
        "node_id": "test-node",
        "public_url": BASE_URL,
    }
    return Settings(**(values | changes))  # type: ignore[arg-type]  # the dataclass checks the names


@pytest.fixture
async def services(database_url: str, manual_clock: ManualClock) -> AsyncIterator[Services]:
    """Everything of one process on a fresh database, its clock standing still; nothing runs."""
    built = await build(make_settings(database_url), clock=manual_clock, logs=False)
    # a red check is a finding of the test: a machine that stalls for two real seconds is none
    built.health.policy = replace(built.health.policy, probe_s=30.0)
    yield built
    await built.close()


@pytest.fixture
async def running_services(database_url: str) -> AsyncIterator[Services]:
    """The same with the real clock and the engine running."""
    built = await build(make_settings(database_url), logs=False)
    async with running(built):
        yield built


def unmasked(html: str) -> str:
    """A page without its CSRF tokens, which are other bytes in each answer."""
    return re.sub(r'(name="_csrf" value=)"[0-9a-f]{128}"', r"\1", html)


_free: dict[tuple[Any, ...], list[Litestar]] = {}
_lent: list[tuple[tuple[Any, ...], Litestar]] = []


def app_over(services: Services, *probes: Any) -> Litestar:
    """The application over the test's services, with routes of the test's own. Routes that an earlier test had serve again:
    to register them all costs more than most tests."""
    free = _free.setdefault(probes, [])
    if free:
        app = free.pop()
    else:
        app = create_routes()
        for probe in probes:
            app.register(probe)
    serve(app, services)
    _lent.append((probes, app))
    return app


@pytest.fixture(autouse=True)
def _give_back() -> Iterator[None]:
    """After a test, nothing of it stands behind the routes that it used."""
    yield
    while _lent:
        probes, app = _lent.pop()
        app.state.clear()
        _free[probes].append(app)


@pytest.fixture
def app(services: Services) -> Litestar:
    """The application over `services`."""
    return app_over(services)


@pytest.fixture
async def client(app: Litestar) -> AsyncIterator[httpx.AsyncClient]:
    """A caller without key or session."""
    async with browser_client(app) as opened:
        yield opened


@pytest.fixture
async def running_client(running_services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of an application whose engine runs."""
    async with browser_client(app_over(running_services)) as opened:
        yield opened


def browser_client(app: Litestar, address: str = "192.0.2.1") -> httpx.AsyncClient:
    """A client of the app with cookies of its own; a defect in the app is answered, not raised."""
    transport = httpx.ASGITransport(cast("Any", app), raise_app_exceptions=False, client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL)


@pytest.fixture
async def tenant(services: Services) -> Clinic:
    """The clinic of the test."""
    return await add_tenant(services, "clinica-aurora")


@pytest.fixture
async def other_tenant(services: Services) -> Clinic:
    """A clinic that the caller must not see."""
    return await add_tenant(services, "clinica-vizinha")


@pytest.fixture
async def key(services: Services, tenant: Clinic) -> dict[str, str]:
    """Header with a key of `tenant` that has every scope."""
    return await add_key(services, tenant.tenant_id)


@pytest.fixture
async def other_key(services: Services, other_tenant: Clinic) -> dict[str, str]:
    """Header with a key of `other_tenant` that has every scope."""
    return await add_key(services, other_tenant.tenant_id)


@pytest.fixture
async def global_key(services: Services) -> dict[str, str]:
    """Header with a key of no tenant that has every scope."""
    return await add_key(services, None)


@pytest.fixture
async def admin(services: Services) -> Person:
    """A superadmin."""
    return await add_person(services, "superadmin", ())


@pytest.fixture
async def admin_session(app: Litestar, services: Services, tenant: Clinic, admin: Person) -> AsyncIterator[Browser]:
    """A signed-in superadmin."""
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, admin)


@pytest.fixture
async def secretary_session(app: Litestar, services: Services, tenant: Clinic) -> AsyncIterator[Browser]:
    """A signed-in secretary of `tenant`."""
    person = await add_person(services, "secretary", [tenant.tenant_id])
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, person)


# --- making things ------------------------------------------------------------------------------------------------------


async def add_tenant(services: Services, slug: str) -> Clinic:
    """Create a clinic."""
    clinic = Clinic(new_id(), slug)
    now = services.clock.now()
    await services.db.write(
        lambda conn: accounts.create_tenant(
            conn, tenant_id=clinic.tenant_id, slug=slug, name=slug.title(), timezone="America/Sao_Paulo", now=now
        )
    )
    return clinic


async def add_key(services: Services, tenant_id: str | None, scopes: str = "intake read operate admin") -> dict[str, str]:
    """Create a key; returns the header that shows it."""
    key_id, token, secret_hash = new_api_key()
    now = services.clock.now()
    await services.db.write(
        lambda conn: accounts.create_key(
            conn, key_id=key_id, secret_hash=secret_hash, name="test", tenant_id=tenant_id, scopes=scopes, now=now
        )
    )
    return {"Authorization": f"Bearer {token}"}


async def add_person(services: Services, role: str, tenant_ids: Iterable[str], email: str | None = None) -> Person:
    """Create someone who signs in with PASSWORD."""
    user_id = new_id()
    person = Person(user_id, email or f"{role}-{user_id[-6:]}@clinica.example", role)
    now = services.clock.now()
    await services.db.write(
        lambda conn: accounts.create_user(
            conn,
            user_id=user_id,
            email=person.email,
            name=role.title(),
            role=role,
            password_hash=_PASSWORD_HASH,
            tenant_ids=tenant_ids,
            now=now,
        )
    )
    return person


async def sign_in(services: Services, client: httpx.AsyncClient, person: Person) -> Browser:
    """Give the client a session of the person, as the login form would."""
    token, session_hash = new_cookie_token()
    now = services.clock.now()
    await services.db.write(lambda conn: accounts.create_session(conn, key_hash=session_hash, user_id=person.user_id, now=now))
    client.cookies.set("kora_session", token, domain="testserver.local")
    return Browser(client, person, session_csrf(SECRET_KEY, session_hash), session_hash)
