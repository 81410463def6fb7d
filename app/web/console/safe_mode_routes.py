"""Addresses of the safe mode page; what a superadmin does there goes through the same store functions as the API."""

from collections.abc import Awaitable
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.domain.safe_mode import Checklist
from app.errors import Conflict, Forbidden, InvalidRequest
from app.store import settings
from app.store.lanes import GLOBAL_SCOPE
from app.web.api.common import by, storable
from app.web.auth import actor_of, authenticator
from app.web.console.family_texts import patch_of
from app.web.console.pages import SUPERADMIN
from app.web.console.render import show, view
from app.web.console.safe_mode import ACTION_MAX, REASON_MAX, STEP_MAX, Typed
from app.web.console.visit import AnyRequest, services_of

SAFE_MODE: Final = view("safe_mode", "safe_mode.html", "safe_now", "safe_window", "safe_forms", "safe_past", "safe_texts")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page", "roles": [SUPERADMIN]}}


@get("/safe-mode")
async def page(request: AnyRequest) -> Response[str]:
    """Why, since when, what waits, what is missing."""
    return await show(request, SAFE_MODE)


@post("/safe-mode/enter", **_ACT)
async def enter(request: AnyRequest) -> Response[Any]:
    """Switch it on by hand. Raises InvalidRequest without a reason."""
    form, scope = await _form(request)
    reason = _text(form, "reason", REASON_MAX)
    if not reason:
        raise InvalidRequest("Say why safe mode is switched on.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    return await _done(request, form, services_of(request).safe_mode.enter_by_hand(scope, reason, by(request)))


@post("/safe-mode/recovery", **_ACT)
async def recovery(request: AnyRequest) -> Response[Any]:
    """Record what was done and the ticks; an unticked box takes its tick back. Nothing is saved over what a colleague saved."""
    form, scope = await _form(request)
    action, step = _text(form, "action", ACTION_MAX), _text(form, "runbook_step", STEP_MAX)
    ticks = {name: form.get(name) == "on" for name in Checklist.__slots__}
    loop = services_of(request).safe_mode
    rev = int(text) if (text := form.get("rev", "")).isascii() and text.isdigit() and len(text) < 10 else None
    act = loop.recover(scope, by(request), action=action or None, runbook_step=step or None, checklist=ticks, rev=rev)
    return await _done(request, form, act, Typed(action, step))


@post("/safe-mode/exit", **_ACT)
async def leave(request: AnyRequest) -> Response[Any]:
    """Ask to leave; the page says what came of it."""
    form, scope = await _form(request)
    return await _done(request, form, services_of(request).safe_mode.leave(scope, by(request)))


@post("/safe-mode/texts", **_ACT)
async def texts(request: AnyRequest) -> Redirect:
    """Word anew what families read; audited with before and after. Raises InvalidRequest for a text that cannot be used."""
    form, scope = await _form(request)
    who, services = by(request), services_of(request)
    patch = {"family_texts": patch_of(form)}
    reason = _text(form, "reason", REASON_MAX) or None
    await services.db.write(settings.save, scope, patch, actor=who.actor, now=who.now, reason=reason, origin=who.origin)
    services.policies.forget()
    services.channels.forget()
    return Redirect(_back(form), status_code=303)


async def _form(request: AnyRequest) -> tuple[dict[str, str], str]:
    """The form's texts, and the scope that it is about. Raises Forbidden for one that the person does not see."""
    raw = await request.form()
    form = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    scope = form.get("scope", "")
    if scope == GLOBAL_SCOPE:
        if actor_of(request).tenant_ids is not None:
            raise Forbidden("Safe mode for all clinics is a superadmin's.")
        return form, scope
    row = await authenticator(request).tenant(scope) if scope else None
    if row is None or not actor_of(request).sees(row.tenant_id):
        raise Forbidden("This clinic is not yours.")
    return form, str(row.tenant_id)


def _text(form: dict[str, str], name: str, max_length: int) -> str:
    return form.get(name, "").strip()[:max_length]


async def _done(request: AnyRequest, form: dict[str, str], act: Awaitable[object], typed: Typed | None = None) -> Response[Any]:
    """Do it and show the page again; where somebody was faster, what holds now (409) beside what was typed."""
    try:
        await act
    except Conflict:
        answer = await show(request, SAFE_MODE, clinic_slug=_clinic(form), extra={"conflict": True, "typed": typed})
        answer.status_code = 409
        return answer
    return Redirect(_back(form), status_code=303)


def _back(form: dict[str, str]) -> str:
    known = _clinic(form)
    return f"/safe-mode?clinic={known}" if known else "/safe-mode"


def _clinic(form: dict[str, str]) -> str | None:
    """The clinic that the form was made for; None = the visit's own choice."""
    clinic = form.get("clinic", "")
    return clinic if clinic.replace("-", "").isalnum() and clinic.isascii() else None


safe_mode_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, enter, recovery, leave, texts], opt={"access": "page"}, include_in_schema=False)
]
