"""Addresses of a person's own account: end own sessions, change the own password. Nobody else's account can be named here."""

import asyncio
from datetime import datetime
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.datastructures import Cookie
from litestar.response import Redirect
from sqlalchemy import Connection

from app import passwords
from app.credentials import PASSWORD_MAX_CHARS, hash_password, new_cookie_token, verify_password
from app.store import accounts, audit
from app.store.people import By
from app.web.api.common import by, storable
from app.web.auth import SESSION_COOKIE, SESSION_MAX_AGE_S, Actor, actor_of, authenticator
from app.web.console.access import PASSWORD_FAULTS, password_said
from app.web.console.account import REFUSED, session_ref
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of, visit_of
from app.web.security import client_address

ACCOUNT: Final = view("account", "account.html", "account")


@get("/account")
async def page(request: AnyRequest) -> Response[str]:
    """The person's own sessions and password form."""
    return await show(request, ACCOUNT)


@post("/account", status_code=303)
async def act(request: AnyRequest) -> Response[Any]:
    """End one own session, or all others; or change the own password, which ends all others and renews this one."""
    raw = await request.form()
    form = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    name = form.get("act", "")
    if name == "change_password":
        return await _change_password(request, form)
    actor, auth, services = actor_of(request), authenticator(request), services_of(request)
    ref = form.get("session", "") if name == "end_session" else None
    ended = await services.db.write(_end, actor, ref, auth.now(), client_address(request.scope))
    for session_hash in ended:
        services.hub.end(session=session_hash)
    if name == "end_session" and not ended:
        return await _refused(request, "gone", 409)
    return Redirect("/account", status_code=303, query_params={"done": name if name == "end_session" else "end_others"})


async def _change_password(request: AnyRequest, form: dict[str, str]) -> Response[Any]:
    actor, auth, services = actor_of(request), authenticator(request), services_of(request)
    old, new = form.get("old", ""), form.get("new", "")
    row = await services.db.read(accounts.find_user, actor.id)
    if row is None or (row.locked_until is not None and row.locked_until > auth.now()):
        return await _refused(request, "locked", 429)
    if len(old) > PASSWORD_MAX_CHARS or not await asyncio.to_thread(verify_password, row.password_hash, old):
        # somebody at an open screen may not guess without end
        await services.db.write(accounts.record_login_failure, actor.id, auth.now())
        return await _refused(request, "wrong", 400)
    if new != form.get("again", ""):
        return await _refused(request, "twice", 400)
    if new == old:
        return await _refused(request, "same", 400)
    fault = await asyncio.to_thread(passwords.fault, new, services.settings.breach_list)
    if fault is not None:
        return await _refused(request, fault, 400)
    password_hash = await asyncio.to_thread(hash_password, new)
    token, session_hash = new_cookie_token()
    address, agent = client_address(request.scope), request.headers.get("user-agent", "")
    await services.db.write(_renew, actor.id, password_hash, session_hash, by(request), address, agent, auth.now())
    services.hub.end(user_id=actor.id)
    answer: Response[Any] = Redirect("/account", status_code=303, query_params={"done": "change_password"})
    answer.set_cookie(
        Cookie(
            key=auth.cookie(SESSION_COOKIE),
            value=token,
            max_age=SESSION_MAX_AGE_S,
            path="/",
            httponly=True,
            samesite="lax",
            secure=auth.secure,
        )
    )
    return answer


async def _refused(request: AnyRequest, why: str, status: int) -> Response[str]:
    words = (await visit_of(request)).words
    said = password_said(words, why) if why in PASSWORD_FAULTS else words.text(REFUSED[why])
    answer = await show(request, ACCOUNT, extra={"refused": said})
    answer.status_code = status
    return answer


def _end(conn: Connection, actor: Actor, ref: str | None, now: datetime, address: str) -> list[str]:
    """End the person's session with this name, or all but the one that asks; returns the hashes of those that ended."""
    mine = [row.key_hash for row in accounts.sessions_of_user(conn, actor.id, now)]
    wanted = [h for h in mine if (h != actor.session_hash if ref is None else session_ref(h) == ref)]
    ended = [h for h in wanted if accounts.end_session(conn, h)]
    if ended:
        _note(conn, actor.audit_name, "session.end", address, now, {"sessions": len(mine)}, {"sessions": len(mine) - len(ended)})
    return ended


def _renew(
    conn: Connection, user_id: str, password_hash: str, session_hash: str, who: By, address: str, agent: str, now: datetime
) -> None:
    """A new password, and a new session in place of every old one."""
    before = len(accounts.sessions_of_user(conn, user_id, now))
    accounts.set_password(conn, user_id, password_hash)
    accounts.create_session(conn, key_hash=session_hash, user_id=user_id, now=now, address=address, user_agent=agent)
    _note(conn, who.actor, "user.change_password", address, now, {"sessions": before}, {"sessions": 1})


def _note(
    conn: Connection, actor: str, action: str, address: str, now: datetime, before: dict[str, Any], after: dict[str, Any]
) -> None:
    thing = actor.replace(":", "/", 1)
    audit.append(
        conn,
        chain=audit.GLOBAL_CHAIN,
        actor=actor,
        action=action,
        object=thing,
        before=before,
        after=after,
        origin=address,
        now=now,
    )


account_pages: Final[list[Any]] = [Router("/", route_handlers=[page, act], opt={"access": "page"}, include_in_schema=False)]
