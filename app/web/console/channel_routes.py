"""Addresses of the channels page: test a target, set a channel's targets, change a route; every change with a reason, audited."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import InvalidRequest, NotFound
from app.store import settings
from app.store.alert_ladder import CRITICAL
from app.store.lanes import GLOBAL_SCOPE
from app.store.views import channels as views
from app.web.api.channels import refuse_unusable, test_recipient
from app.web.api.common import by, storable
from app.web.auth import authenticator
from app.web.console.pages import SUPERADMIN
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of

CHANNELS: Final = view("channels", "channels.html", "channel_rows", "routing_rows")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page", "roles": [SUPERADMIN]}}


@get("/channels")
async def page(request: AnyRequest) -> Response[str]:
    """Of the clinic that the address names, else what holds for all."""
    return await show(request, CHANNELS)


@post("/channels/test", **_ACT)
async def test_target(request: AnyRequest) -> Redirect:
    """Send a test message to one target; the page shows what came of it."""
    form, scope = await _form(request)
    recipient = form.get("recipient", "")[:60]
    known = await services_of(request).db.read(views.channels, scope)
    if recipient not in {t.recipient for c in known for t in c.targets}:
        raise NotFound("There is no such channel.")
    await test_recipient(request, scope, recipient)
    return await _back(request, scope)


@post("/channels/save", **_ACT)
async def save_channel(request: AnyRequest) -> Redirect:
    """Replace the targets of a channel: one a line, none = what holds for all clinics, or the simulated phone."""
    form, scope = await _form(request)
    name = form.get("name", "").strip()
    lines = [line.strip() for line in form.get("targets", "").splitlines() if line.strip()]
    value: Any = None if not lines else lines[0] if len(lines) == 1 else lines
    return await _save(request, scope, {"channels": {name: value}}, form)


@post("/channels/route", **_ACT)
async def save_route(request: AnyRequest) -> Redirect:
    """Change one row of the routing matrix, add one for a trigger, or (`act=default`) take it back to what holds without it."""
    form, scope = await _form(request)
    minutes = form.get("ack_sla_min", "").strip()
    route: dict[str, Any] | None = {
        "channels": [name for part in form.get("channels", "").split(",") if (name := part.strip())],
        "fallback": form.get("fallback", "").strip(),
        "owner": form.get("owner", "").strip(),
        "ack_sla_min": int(minutes) if minutes.isascii() and minutes.isdigit() and len(minutes) < 6 else -1,
    }
    trigger = form.get("trigger", "").strip()[:60]
    if form.get("act") == "default":
        route = None
    elif route is not None and trigger == CRITICAL:
        del route["ack_sla_min"]  # its 15 minutes are a frozen rule
    if not trigger:
        raise InvalidRequest("A route needs a trigger.", errors=[{"pointer": "/trigger", "detail": "must not be empty"}])
    return await _save(request, scope, {"routing": {trigger: route}}, form)


async def _save(request: AnyRequest, scope: str, patch: dict[str, Any], form: dict[str, str]) -> Redirect:
    reason = form.get("reason", "").strip()[:500]
    if not reason:
        raise InvalidRequest("Say why this is changed.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    services, who = services_of(request), by(request)
    await refuse_unusable(request, patch)
    await services.db.write(settings.save, scope, patch, actor=who.actor, now=who.now, reason=reason, origin=who.origin)
    services.channels.forget()
    services.hub.wake()
    return await _back(request, scope)


async def _form(request: AnyRequest) -> tuple[dict[str, str], str]:
    """The form's texts, and the scope that it is about. Raises NotFound."""
    raw = await request.form()
    form = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    scope = form.get("scope", "")
    if scope != GLOBAL_SCOPE and (not scope or await authenticator(request).tenant(scope) is None):
        raise NotFound("There is no such clinic.")
    return form, scope


async def _back(request: AnyRequest, scope: str) -> Redirect:
    row = await authenticator(request).tenant(scope) if scope != GLOBAL_SCOPE else None
    return Redirect("/channels", status_code=303, query_params={"clinic": row.slug} if row is not None else {})


channel_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, test_target, save_channel, save_route], opt={"access": "page"}, include_in_schema=False)
]
