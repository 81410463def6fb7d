"""Addresses of users and keys: one page, one form address. What is shown once (a password, a key) is in the form's answer alone.

An act that is refused answers with the page as it is now and the form as it was sent: 400 for what is missing in it, 409 for what
has changed meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.credentials import hash_password, is_key_id, new_api_key
from app.ids import new_id
from app.store import access_acts as acts
from app.store.access_acts import ROLES, SCOPES, Refusal
from app.web.api.common import by, storable
from app.web.console.access import REFUSED, new_password
from app.web.console.pages import SUPERADMIN
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of, visit_of

ACCESS: Final = view("access", "access.html", "access_rows", "access_detail")
DANGEROUS: Final = frozenset({"change_user", "disable_user", "reset_password", "end_sessions", "revoke_key", "rotate_key"})
"""Acts that want a tick beside their effect."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What is shown once: of whom or what, the secret, and whether it is a key."""

    of: str
    value: str
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """The form as it was sent: single values, and the ticked clinics and scopes."""

    one: dict[str, str]
    clinics: tuple[str, ...]
    scopes: tuple[str, ...]

    def value(self, name: str, max_length: int = 200) -> str:
        """A value, trimmed; empty when it is missing."""
        return self.one.get(name, "").strip()[:max_length]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an act: a refusal (a key of REFUSED), a secret to show, or neither; `ended`: whose streams end."""

    refused: str | None = None
    secret: Secret | None = None
    ended: str | None = None


@get("/access", opt={"access": "page", "roles": [SUPERADMIN]})
async def page(request: AnyRequest) -> Response[str]:
    """People, or keys (`tab=keys`); `user` or `key` names the chosen one."""
    return await show(request, ACCESS)


@post("/access", status_code=200, opt={"access": "page", "roles": [SUPERADMIN]})
async def act(request: AnyRequest) -> Response[Any]:
    """One act on one account or key; every act has a reason and stands in the audit trail."""
    raw = await request.form()
    pairs = [(name, value) for name, value in raw.multi_items() if isinstance(value, str) and storable(value)]
    form = Form(
        one=dict(pairs),
        clinics=tuple(value for name, value in pairs if name == "clinics")[:200],
        scopes=tuple(value for name, value in pairs if name == "scopes" and value in SCOPES),
    )
    name = form.value("act", 40)
    run = _ACTS.get(name)
    outcome = Outcome("role") if run is None else Outcome(_missing(name, form))
    if run is not None and outcome.refused is None:
        outcome = await run(request, form)
    services = services_of(request)
    if outcome.refused is not None:
        status = 409 if outcome.refused in (Refusal.CHANGED, Refusal.TAKEN) else 400
        visit = await visit_of(request)
        answer = await show(request, ACCESS, extra={"refused": visit.words.text(REFUSED[outcome.refused]), "sent": form})
        answer.status_code = status
        return answer
    if outcome.ended is not None:
        services.hub.end(user_id=outcome.ended)
    if outcome.secret is not None:
        return await show(request, ACCESS, extra={"secret": outcome.secret})
    kept = [(k, v) for k, v in request.query_params.multi_items() if k != "done"]
    return Redirect("/access", status_code=303, query_params=dict(kept) | {"done": name})


def _missing(name: str, form: Form) -> str | None:
    if not form.value("reason", 500):
        return "reason"
    if name in DANGEROUS and form.value("confirm") != "on":
        return "confirm"
    if name in ("add_user", "add_key") and not form.value("name", 100):
        return "name"
    if name in ("add_user", "change_user") and form.value("role") not in ROLES:
        return "role"
    if name == "add_user" and not _is_email(form.value("email", 254)):
        return "email"
    if name == "add_key" and not form.scopes:
        return "scopes"
    return None


def _is_email(text: str) -> bool:
    local, at, host = text.partition("@")
    return bool(local and at and host) and " " not in text and "@" not in host


async def _add_user(request: AnyRequest, form: Form) -> Outcome:
    password, who, email = new_password(), by(request), form.value("email", 254)
    refused = await services_of(request).db.write(
        acts.add_user,
        user_id=new_id(),
        email=email,
        name=form.value("name"),
        role=form.value("role"),
        clinics=form.clinics,
        password_hash=await asyncio.to_thread(hash_password, password),
        who=who,
        reason=form.value("reason", 500),
    )
    return Outcome(refused) if refused else Outcome(secret=Secret(email, password))


async def _change_user(request: AnyRequest, form: Form) -> Outcome:
    user_id = _subject(request, "user")
    refused = await services_of(request).db.write(
        acts.change_user,
        user_id,
        role=form.value("role"),
        clinics=form.clinics,
        seen=form.value("seen"),
        who=by(request),
        reason=form.value("reason", 500),
    )
    return Outcome(refused, ended=user_id)


async def _disable(request: AnyRequest, form: Form) -> Outcome:
    user_id = _subject(request, "user")
    refused = await services_of(request).db.write(
        acts.set_user_disabled,
        user_id,
        disabled=form.value("act") == "disable_user",
        seen=form.value("seen"),
        who=by(request),
        reason=form.value("reason", 500),
    )
    return Outcome(refused, ended=user_id)


async def _reset_password(request: AnyRequest, form: Form) -> Outcome:
    user_id, password, services = _subject(request, "user"), new_password(), services_of(request)
    hashed = await asyncio.to_thread(hash_password, password)
    refused = await services.db.write(
        acts.reset_password, user_id, hashed, seen=form.value("seen"), who=by(request), reason=form.value("reason", 500)
    )
    return Outcome(refused) if refused else Outcome(secret=Secret(form.value("of"), password), ended=user_id)


async def _end_sessions(request: AnyRequest, form: Form) -> Outcome:
    user_id = _subject(request, "user")
    refused = await services_of(request).db.write(acts.end_sessions, user_id, who=by(request), reason=form.value("reason", 500))
    return Outcome(refused, ended=user_id)


async def _add_key(request: AnyRequest, form: Form) -> Outcome:
    key_id, until = form.value("key_id"), form.value("expires_at")
    expires_at = await _moment(request, until)
    if not is_key_id(key_id) or (until and expires_at is None):
        return Outcome(Refusal.WRONG_TIME if until else Refusal.UNKNOWN)
    _, token, secret_hash = new_api_key(key_id)
    refused = await services_of(request).db.write(
        acts.add_key,
        key_id=key_id,
        secret_hash=secret_hash,
        name=form.value("name", 100),
        tenant_id=form.value("tenant_id") or None,
        scopes=form.scopes,
        expires_at=expires_at,
        who=by(request),
        reason=form.value("reason", 500),
    )
    return Outcome(refused) if refused else Outcome(secret=Secret(form.value("name", 100), token, is_key=True))


async def _rotate_key(request: AnyRequest, form: Form) -> Outcome:
    new_key, old_until = form.value("key_id"), await _moment(request, form.value("old_until"))
    if old_until is None or not is_key_id(new_key):
        return Outcome(Refusal.WRONG_TIME)
    _, token, secret_hash = new_api_key(new_key)
    refused = await services_of(request).db.write(
        acts.rotate_key,
        _subject(request, "key"),
        new_id=new_key,
        secret_hash=secret_hash,
        old_until=old_until,
        seen=form.value("seen"),
        who=by(request),
        reason=form.value("reason", 500),
    )
    return Outcome(refused) if refused else Outcome(secret=Secret(form.value("of"), token, is_key=True))


async def _revoke_key(request: AnyRequest, form: Form) -> Outcome:
    refused = await services_of(request).db.write(
        acts.revoke_key, _subject(request, "key"), seen=form.value("seen"), who=by(request), reason=form.value("reason", 500)
    )
    return Outcome(refused)


_ACTS: Final[dict[str, Callable[[AnyRequest, Form], Awaitable[Outcome]]]] = {
    "add_user": _add_user,
    "change_user": _change_user,
    "disable_user": _disable,
    "enable_user": _disable,
    "reset_password": _reset_password,
    "end_sessions": _end_sessions,
    "add_key": _add_key,
    "rotate_key": _rotate_key,
    "revoke_key": _revoke_key,
}


def _subject(request: AnyRequest, name: str) -> str:
    """Whom or what the act is about: the one that the page's address names."""
    return request.query_params.get(name, "")[:40]


async def _moment(request: AnyRequest, text: str) -> datetime | None:
    """A moment of a form, in the timezone of the screen; None when there is none."""
    try:
        local = datetime.fromisoformat(text)
    except ValueError:
        return None
    zone: ZoneInfo = (await visit_of(request)).words.zone
    return local.replace(tzinfo=zone).astimezone(UTC) if local.tzinfo is None else None


access_pages: Final[list[Any]] = [Router("/", route_handlers=[page, act], opt={"access": "page"}, include_in_schema=False)]
