"""Addresses of the signals page: look, preview (a GET: nothing changes), save with a reason."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.domain.signals import SIGNALS, limited
from app.errors import Forbidden, InvalidRequest, NotFound
from app.store import settings
from app.store.lanes import GLOBAL_SCOPE
from app.store.views import signals as views
from app.web.api.common import by, storable
from app.web.auth import actor_of, authenticator
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.render import show, view
from app.web.console.signals import limits_in_form
from app.web.console.visit import AnyRequest, services_of

SIGNAL_VIEW: Final = view("signals", "signals.html", "signal_rows", "signal_detail")


@get("/signals")
async def page(request: AnyRequest) -> Response[str]:
    """Every signal; `signal` names the one that is looked at, further fields are limits to try."""
    return await show(request, SIGNAL_VIEW)


@post("/signals/save", status_code=303, opt={"access": "page", "roles": [MANAGER, SUPERADMIN]})
async def save(request: AnyRequest) -> Redirect:
    """Save limits of one signal, or take the own ones back (`reset`); audited with before and after."""
    raw = await request.form()
    form = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    scope, slug = await _scope(request, form.get("scope", ""))
    name = form.get("signal", "")
    if name not in SIGNALS or (SIGNALS[name].is_global and scope != GLOBAL_SCOPE):
        raise NotFound("There is no such signal here.")
    reason = form.get("reason", "").strip()[:500]
    if not reason:
        raise InvalidRequest("Say why this is changed.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    services, who = services_of(request), by(request)
    patch: dict[str, Any] = {name: None}
    if "reset" not in form:
        held = await services.db.read(views.limits_of, scope)
        changed, fault = limits_in_form(form, limited(SIGNALS[name], held))
        if fault:
            raise InvalidRequest(fault)
        patch = {name: changed}
    await services.db.write(
        settings.save, scope, {"thresholds": patch}, actor=who.actor, now=who.now, reason=reason, origin=who.origin
    )
    services.hub.wake()
    return Redirect("/signals", status_code=303, query_params={**({"clinic": slug} if slug else {}), "signal": name})


async def _scope(request: AnyRequest, given: str) -> tuple[str, str]:
    """The scope of a form and the slug of its clinic. Raises Forbidden for one that the person does not see."""
    if given == GLOBAL_SCOPE:
        if actor_of(request).tenant_ids is not None:
            raise Forbidden("The limits of the installation are a superadmin's.")
        return given, ""
    row = await authenticator(request).tenant(given) if given else None
    if row is None or not actor_of(request).sees(row.tenant_id):
        raise Forbidden("This clinic is not yours.")
    return str(row.tenant_id), str(row.slug)


signal_pages: Final[list[Any]] = [Router("/", route_handlers=[page, save], opt={"access": "page"}, include_in_schema=False)]
