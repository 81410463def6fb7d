"""Signing in and out of the console.

A wrong address and a wrong password look the same and take the same time; failures close the door for a while, per account
(also for accounts that do not exist) and per address. Signing in always makes a new session and ends the browser's old one.
"""

import asyncio
from collections import OrderedDict
from datetime import datetime
from typing import Any, Final, cast
from urllib.parse import urlsplit

import structlog
from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.response import Redirect, Template
from sqlalchemy import Connection

from app.credentials import PASSWORD_MAX_CHARS, new_cookie_token, sha256, verify_password
from app.errors import TooManyRequests
from app.store import accounts, audit
from app.web.auth import LOGIN_COOKIE, SESSION_COOKIE, SESSION_MAX_AGE_S, TENANT_COOKIE, actor_of, authenticator
from app.web.security import TokenBuckets, check_csrf, client_address, login_csrf, masked

log = structlog.get_logger("web.signin")

AnyRequest = Request[Any, Any, Any]

TRIES_PER_MIN: Final = 10
"""Sign-in attempts of one address."""

_STRANGERS_MAX: Final = 10_000


class Doorkeeper:
    """Limits of this process: attempts per address, and failures for addresses that no account has."""

    def __init__(self) -> None:
        self.tries = TokenBuckets(TRIES_PER_MIN / 60, TRIES_PER_MIN)
        self._strangers: OrderedDict[str, tuple[int, datetime | None]] = OrderedDict()

    def stranger_locked_until(self, email: str) -> datetime | None:
        """Until when an unknown address is refused, exactly as a known one would be."""
        return self._strangers.get(sha256(email), (0, None))[1]

    def stranger_failed(self, email: str, now: datetime) -> None:
        """Count a failure of an unknown address."""
        name = sha256(email)
        failures = self._strangers.pop(name, (0, None))[0] + 1
        pause = accounts.lock_after(failures)
        self._strangers[name] = (failures, now + pause if pause else None)
        if len(self._strangers) > _STRANGERS_MAX:
            self._strangers.popitem(last=False)


def safe_next(target: str | None) -> str:
    """A path on this site to go on to; anything that a browser could read as another site becomes `/`."""
    if not target or not target.startswith("/") or target.startswith("//") or "\\" in target or len(target) > 2000:
        return "/"
    if any(ord(c) < 33 or ord(c) == 127 for c in target):
        return "/"
    parts = urlsplit(target)
    return "/" if parts.scheme or parts.netloc or parts.path.rstrip("/") in ("/login", "/logout") else target


@get("/login", opt={"access": "public"}, include_in_schema=False)
async def login_page(request: AnyRequest) -> Response[Any]:
    """The sign-in form; who is signed in goes on at once."""
    target = safe_next(request.query_params.get("next"))
    if request.headers.get("authorization") is None and await authenticator(request).authenticate(request.scope) is not None:
        return Redirect(target, status_code=303)
    return _form(request, target)


@post("/login", opt={"access": "public"}, include_in_schema=False, status_code=303)
async def login(request: AnyRequest) -> Response[Any]:
    """Check address and password; a new session and on to `next`, or the form again with one sentence."""
    auth, services, door = authenticator(request), request.app.state.services, _door(request)
    address = client_address(request.scope)
    door.tries.require(address)
    cookie = request.cookies.get(auth.cookie(LOGIN_COOKIE), "")
    await check_csrf(request, login_csrf(auth.secret_key, cookie) if cookie else "")
    form = await request.form()
    email, password = _text(form.get("email"))[:254], _text(form.get("password"))
    target = safe_next(_text(form.get("next")))
    now = auth.now()
    email = accounts.normal_email(email)
    user = await services.db.read(accounts.find_user_by_email, email)
    locked_until = user.locked_until if user is not None else door.stranger_locked_until(email)
    if locked_until is not None and locked_until > now:
        wait_s = int((locked_until - now).total_seconds()) + 1
        log.warning("sign_in_locked", address=address, user_id=user.user_id if user else None)
        raise TooManyRequests("Too many failed attempts; wait before you try again.", retry_after_s=wait_s)
    known_hash = user.password_hash if user is not None else None
    fits = len(password) <= PASSWORD_MAX_CHARS and await asyncio.to_thread(verify_password, known_hash, password)
    if user is None or not fits or user.disabled_at is not None:
        if user is None:
            door.stranger_failed(email, now)
        else:
            await services.db.write(_failed, user.user_id, address, now)
        log.warning("sign_in_failed", address=address, user_id=user.user_id if user else None)
        return _form(request, target, error="invalid_credentials", status=401)
    token, session_hash = new_cookie_token()
    old = request.cookies.get(auth.cookie(SESSION_COOKIE))
    await services.db.write(
        _signed_in, user.user_id, session_hash, sha256(old) if old else None, address, request.headers.get("user-agent", ""), now
    )
    log.info("signed_in", address=address, user_id=user.user_id)
    answer: Response[Any] = Redirect(target, status_code=303)
    answer.set_cookie(_cookie(request, SESSION_COOKIE, token, max_age=SESSION_MAX_AGE_S))
    answer.set_cookie(_cookie(request, LOGIN_COOKIE, "", max_age=0))
    return answer


@post("/logout", opt={"access": "page"}, include_in_schema=False, status_code=303)
async def logout(request: AnyRequest) -> Response[Any]:
    """End this session."""
    actor, services = actor_of(request), request.app.state.services
    await services.db.write(
        _signed_out, actor.audit_name, actor.session_hash, client_address(request.scope), authenticator(request).now()
    )
    services.hub.end(session=actor.session_hash)
    answer: Response[Any]
    if "HX-Request" in request.headers:
        answer = Response(b"", status_code=200, headers={"HX-Redirect": "/login"})
    else:
        answer = Redirect("/login", status_code=303)
    answer.set_cookie(_cookie(request, SESSION_COOKIE, "", max_age=0))
    answer.set_cookie(Cookie(key=TENANT_COOKIE, value="", max_age=0, path="/"))
    return answer


signin_routes: Final[list[Any]] = [login_page, login, logout]


def _form(request: AnyRequest, target: str, *, error: str | None = None, status: int = 200) -> Template:
    auth = authenticator(request)
    cookie = request.cookies.get(auth.cookie(LOGIN_COOKIE))
    fresh = cookie is None or not 20 <= len(cookie) <= 100
    if cookie is None or fresh:
        cookie = new_cookie_token()[0]
    context = {"error": error, "next": target, "csrf_token": masked(login_csrf(auth.secret_key, cookie))}
    page = Template("login.html", context=context, status_code=status)
    if fresh:
        page.set_cookie(_cookie(request, LOGIN_COOKIE, cookie, max_age=3600))
    return page


def _cookie(request: AnyRequest, name: str, value: str, *, max_age: int) -> Cookie:
    auth = authenticator(request)
    return Cookie(key=auth.cookie(name), value=value, max_age=max_age, path="/", httponly=True, samesite="lax", secure=auth.secure)


def _door(request: AnyRequest) -> Doorkeeper:
    return cast("Doorkeeper", request.app.state.door)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _failed(conn: Connection, user_id: str, address: str, now: datetime) -> None:
    until = accounts.record_login_failure(conn, user_id, now)
    if until is not None:
        _note(conn, f"user:{user_id}", "session.locked", address, now)


def _signed_in(
    conn: Connection, user_id: str, session_hash: str, old_hash: str | None, address: str, user_agent: str, now: datetime
) -> None:
    if old_hash is not None:
        accounts.end_session(conn, old_hash)
    accounts.record_login_success(conn, user_id, now)
    accounts.create_session(conn, key_hash=session_hash, user_id=user_id, now=now, address=address, user_agent=user_agent)
    _note(conn, f"user:{user_id}", "session.sign_in", address, now)


def _signed_out(conn: Connection, actor: str, session_hash: str, address: str, now: datetime) -> None:
    if accounts.end_session(conn, session_hash):
        _note(conn, actor, "session.sign_out", address, now)


def _note(conn: Connection, actor: str, action: str, address: str, now: datetime) -> None:
    thing = actor.replace(":", "/", 1)
    audit.append(conn, chain=audit.GLOBAL_CHAIN, actor=actor, action=action, object=thing, origin=address, now=now)
