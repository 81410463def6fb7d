"""Who is calling, and what they may do: machines with a key, people with a session, one authorization for both.

Every handler declares `opt={"access": ...}`; one that does not is closed to everybody.

    public            anyone (the handler itself checks a signature or a token, or shows nothing that matters)
    scope:<name>      intake | read | operate | admin, of a key or of a person's role
    page              a signed-in person; optionally `roles=[...]`

`Authenticator` turns a key or cookie into an `Actor` (on `request.user`), `enforce_access` is the guard on every route,
`resolve_tenant` says on which clinic a request works.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Scope
from sqlalchemy import Connection, Row

from app.clock import Clock
from app.credentials import parse_api_key, same, sha256
from app.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from app.store import accounts
from app.store.database import Database
from app.store.tenancy import narrow, scoped
from app.web.problems import header_of
from app.web.security import SAFE_METHODS, check_csrf, session_csrf

P = ParamSpec("P")
T = TypeVar("T")

AnyConnection = ASGIConnection[Any, Any, Any, Any]
AnyRequest = Request[Any, Any, Any]

ROLE_SCOPES: Final = {
    "secretary": frozenset({"read", "operate"}),
    "manager": frozenset({"read", "operate"}),
    "superadmin": frozenset({"intake", "read", "operate", "admin"}),
}
SCOPES: Final = frozenset({"intake", "read", "operate", "admin"})
ACCESS: Final = frozenset({"public", "page"} | {f"scope:{name}" for name in SCOPES})
"""Everything that a handler may declare."""

SESSION_COOKIE: Final = "kora_session"
LOGIN_COOKIE: Final = "kora_login"
TENANT_COOKIE: Final = "kora_tenant"

CACHE_S: Final = 1.0
"""How long a key, a clinic or the list of clinics is believed without asking the database again."""
_CACHE_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is calling. `tenant_ids` None = every clinic; `session_hash` only for people."""

    kind: str
    id: str
    name: str
    role: str | None
    scopes: frozenset[str]
    tenant_ids: frozenset[str] | None
    session_hash: str | None = None
    language: str = "pt_BR"
    theme: str = "auto"
    shortcuts: bool = True
    email: str = ""

    @property
    def audit_name(self) -> str:
        """The name under which acts are written down: `user:<id>` or `key:<id>`."""
        return f"{self.kind}:{self.id}"

    def may(self, scope: str) -> bool:
        """Whether the caller has a scope."""
        return scope in self.scopes

    def sees(self, tenant_id: str) -> bool:
        """Whether a clinic's data may be shown to the caller."""
        return self.tenant_ids is None or tenant_id in self.tenant_ids


class Authenticator:
    """Finds the actor behind a connection; keys and clinics are cached for a second, sessions are always looked up."""

    def __init__(self, database: Database, clock: Clock, *, secret_key: str, secure: bool) -> None:
        self._db = database
        self._clock = clock
        self.secret_key = secret_key
        self.secure = secure
        self._keys: dict[str, tuple[float, Row[Any]]] = {}
        self._tenants: dict[str, tuple[float, Row[Any]]] = {}
        self._all_tenants: tuple[float, Sequence[Row[Any]]] | None = None
        self._loading = asyncio.Lock()

    async def _read(self, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Read above the walls: who is calling, and for which clinics, is not known yet."""
        with scoped(None):
            return await self._db.read(fn, *args, **kwargs)

    async def _write(self, fn: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with scoped(None):
            return await self._db.write(fn, *args, **kwargs)

    def now(self) -> datetime:
        """The time by which sessions, keys and lockouts end: a person's time, also where the engine's is scaled."""
        return self._clock.now()

    def cookie(self, name: str) -> str:
        """The cookie's full name; under TLS the prefix ties it to this host."""
        return f"__Host-{name}" if self.secure else name

    async def authenticate(self, scope: Scope) -> Actor | None:
        """The actor of a connection; None when there is no key or session, or not a good one."""
        given = header_of(scope, b"authorization")
        if given is not None:
            scheme, _, token = given.partition(" ")
            return await self.by_key(token.strip()) if scheme.lower() == "bearer" else None
        cookie = ASGIConnection[Any, Any, Any, Any](scope).cookies.get(self.cookie(SESSION_COOKIE))
        return await self.by_session(sha256(cookie)) if cookie else None

    async def by_key(self, token: str) -> Actor | None:
        """The machine that owns a token."""
        parsed = parse_api_key(token)
        if parsed is None:
            return None
        key_id, secret_hash = parsed
        row = await self._key(key_id)
        now = self._clock.now()
        if row is None or not same(secret_hash, row.secret_hash):
            return None
        expired = row.expires_at is not None and row.expires_at <= now
        if expired or row.revoked_at is not None or row.tenant_disabled_at is not None:
            return None
        return _machine(key_id, row.name, row.scopes, row.tenant_id)

    async def by_session(self, session_hash: str) -> Actor | None:
        """The person whose session has this hash, if it is still good; its use is noted once a minute."""
        now = self._clock.now()
        found = await self._read(_session_and_tenants, session_hash, now)
        if found is None:
            return None
        row, tenant_ids = found
        if now - row.seen_at >= accounts.TOUCH_EVERY:
            await self._write(accounts.touch_session, session_hash, now)
        return Actor(
            kind="user",
            id=row.user_id,
            name=row.name,
            role=row.role,
            scopes=ROLE_SCOPES[row.role],
            tenant_ids=None if row.role == "superadmin" else frozenset(tenant_ids),
            session_hash=session_hash,
            language=row.language,
            theme=row.theme,
            shortcuts=row.shortcuts,
            email=row.email,
        )

    async def still_good(self, actor: Actor) -> bool:
        """Whether a person who opened a stream may go on reading: same session, same role, same clinics."""
        if actor.session_hash is None:
            return True
        found = await self._read(_session_and_tenants, actor.session_hash, self._clock.now())
        if found is None:
            return False
        row, tenant_ids = found
        return row.role == actor.role and (actor.tenant_ids is None or actor.tenant_ids == frozenset(tenant_ids))

    def csrf_token(self, actor: Actor) -> str:
        """What a person's forms send back, before it is masked for a page; empty for machines, which need none."""
        return "" if actor.session_hash is None else session_csrf(self.secret_key, actor.session_hash)

    async def tenant(self, id_or_slug: str) -> Row[Any] | None:
        """An open clinic by id or slug."""
        cached = self._tenants.get(id_or_slug)
        if cached is not None and time.monotonic() - cached[0] < CACHE_S:
            return cached[1]
        row = await self._read(accounts.find_tenant, id_or_slug)
        if row is None:
            self._tenants.pop(id_or_slug, None)
            return None
        _remember(self._tenants, id_or_slug, row)
        return row

    async def tenants_of(self, actor: Actor) -> list[Row[Any]]:
        """The open clinics that an actor sees, by slug."""
        cached = self._all_tenants
        if cached is None or time.monotonic() - cached[0] >= CACHE_S:
            cached = self._all_tenants = (time.monotonic(), await self._read(accounts.list_tenants))
        return [row for row in cached[1] if row.disabled_at is None and actor.sees(row.tenant_id)]

    async def _key(self, key_id: str) -> Row[Any] | None:
        cached = self._keys.get(key_id)
        if cached is not None and time.monotonic() - cached[0] < CACHE_S:
            return cached[1]
        async with self._loading:  # one of many requests asks, the others take its answer
            cached = self._keys.get(key_id)
            if cached is not None and time.monotonic() - cached[0] < CACHE_S:
                return cached[1]
            row = await self._read(accounts.find_key, key_id)
            if row is None:
                self._keys.pop(key_id, None)
                return None
            _remember(self._keys, key_id, row)
        now = self._clock.now()
        if row.revoked_at is None and (row.last_used_at is None or now - row.last_used_at >= accounts.TOUCH_EVERY):
            await self._write(accounts.touch_keys, [key_id], now)
        return row


@lru_cache(_CACHE_MAX)
def _machine(key_id: str, name: str, scopes: str, tenant_id: str | None) -> Actor:
    """The actor that a key's row describes; whether the key is good is asked each time."""
    tenants = None if tenant_id is None else frozenset({str(tenant_id)})
    return Actor("key", key_id, name, None, frozenset(scopes.split()) & SCOPES, tenants)


def _remember(cache: dict[str, tuple[float, Row[Any]]], name: str, row: Row[Any]) -> None:
    if len(cache) >= _CACHE_MAX:
        cache.clear()
    cache[name] = (time.monotonic(), row)


def _session_and_tenants(conn: Connection, session_hash: str, now: datetime) -> tuple[Row[Any], list[str]] | None:
    row = accounts.session_by_hash(conn, session_hash, now)
    return None if row is None else (row, accounts.tenants_of_user(conn, row.user_id))


# --- on a request -------------------------------------------------------------------------------------------------------


def authenticator(connection: AnyConnection) -> Authenticator:
    """The app's authenticator."""
    return cast("Authenticator", connection.app.state.auth)


def actor_of(connection: AnyConnection) -> Actor:
    """The caller of a route that is not public. Raises Unauthenticated."""
    actor = connection.scope.get("user")
    if not isinstance(actor, Actor):
        raise Unauthenticated("A valid API key or a session is needed here.")
    return actor


async def enforce_access(connection: AnyConnection, handler: BaseRouteHandler) -> None:
    """The guard of every route: refuses what the handler did not open. Raises Unauthenticated or Forbidden.

    What the caller may see is also what the database shows to the handler's transactions; until here it shows nothing.
    Public handlers find their clinic by what they check themselves (a signature, a token), so for them it is all.
    """
    method = str(connection.scope.get("method", "GET"))
    if method == "OPTIONS":
        return  # answered by the framework with the methods of the address, nothing else
    access = handler.opt.get("access")
    if access == "public":
        narrow(None)
        return
    if access not in ACCESS:
        raise Forbidden("This address is closed: nothing says who may use it.")
    actor = actor_of(connection)
    if access == "page":
        if actor.kind != "user":
            raise Unauthenticated("This page is for people who are signed in.")
        roles = handler.opt.get("roles")
        if roles is not None and actor.role not in roles:
            raise Forbidden("Your role does not include this page.")
    elif not actor.may(str(access).removeprefix("scope:")):
        raise Forbidden(f"This needs the scope {str(access).removeprefix('scope:')}.")
    if actor.session_hash is not None and method not in SAFE_METHODS:
        auth = authenticator(connection)
        await check_csrf(cast("AnyRequest", connection), auth.csrf_token(actor))
    narrow(actor.tenant_ids)


async def resolve_tenant(request: AnyRequest, given: str | None = None) -> str:
    """The id of the clinic that a request works on (see below); from here on its transactions see this clinic only."""
    tenant_id = await _resolve_tenant(request, given)
    narrow([tenant_id])
    return tenant_id


async def _resolve_tenant(request: AnyRequest, given: str | None = None) -> str:
    """The id of the clinic that a request works on; `given` is the id or slug in its body or address.

    A key works on its own clinic, a person on the chosen one (cookie) or the first that they see. Raises Forbidden for a
    clinic that the caller does not see, NotFound for an unknown one, InvalidRequest when a global key names none.
    """
    actor, auth = actor_of(request), authenticator(request)
    if given is not None:
        row = await auth.tenant(given)
        if row is not None and actor.sees(row.tenant_id):
            return str(row.tenant_id)
        if actor.tenant_ids is not None:
            raise Forbidden("This tenant is not yours.")  # the same for an unknown one: nothing to learn here
        raise NotFound(f"There is no tenant {given[:60]!r}.")
    if actor.kind == "key":
        if actor.tenant_ids is None:
            raise InvalidRequest(
                "tenant_id is required with a global key.", errors=[{"pointer": "/tenant_id", "detail": "is required"}]
            )
        return next(iter(actor.tenant_ids))
    row = await current_tenant(request)
    if row is None:
        raise Forbidden("You do not work for any clinic.")
    return str(row.tenant_id)


async def current_tenant(request: AnyRequest) -> Row[Any] | None:
    """The clinic that a person looks at: the one that their cookie names, else the first that they see; None without any."""
    actor, auth = actor_of(request), authenticator(request)
    seen = await auth.tenants_of(actor)
    chosen = request.cookies.get(TENANT_COOKIE)
    return next((row for row in seen if chosen in (row.tenant_id, row.slug)), seen[0] if seen else None)


SESSION_MAX_AGE_S: Final = int(accounts.SESSION_LIFETIME / timedelta(seconds=1))
