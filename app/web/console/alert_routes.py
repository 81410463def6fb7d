"""Addresses of the alerts page; what a person does there goes through the same store functions as the API."""

from datetime import datetime
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import Conflict, InvalidRequest, NotFound
from app.store import alerts
from app.store.views import alerts as views
from app.web.api.common import by, storable
from app.web.auth import actor_of
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, scope_of, services_of

ALERTS: Final = view("alerts", "alerts.html", "alert_rows", "alert_detail")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page", "roles": [MANAGER, SUPERADMIN]}}


@get("/alerts")
async def page(request: AnyRequest) -> Response[str]:
    """What is open first; `?alert=` names the one that is shown."""
    return await show(request, ALERTS)


@get(["/alerts/ack", "/alerts/resolve"])
async def back(request: AnyRequest) -> Redirect:
    """Where a refused act was answered, loaded again: the page itself."""
    return _back(request)


@post("/alerts/ack", **_ACT)
async def ack(request: AnyRequest) -> Response[Any]:
    """Take on the alert that was seen; 409 with how it is now when somebody changed it."""
    form, alert_id = await _seen(request)
    who = by(request)
    services = services_of(request)
    try:
        await services.db.write(
            lambda conn: alerts.acknowledge(
                conn,
                alert_id,
                by=who.actor,
                how="console",
                now=services.clock.now,
                rev=_rev(form),
                seen_until=_seen_until(form),
                whole_group=form.get("group") == "on",
                origin=who.origin,
            )
        )
    except Conflict:
        return await _refused(request)
    return _done(request)


@post("/alerts/resolve", **_ACT)
async def resolve(request: AnyRequest) -> Response[Any]:
    """Say that it is over, with a reason. Raises InvalidRequest without one."""
    form, alert_id = await _seen(request)
    reason = form.get("reason", "").strip()[:500]
    if not reason:
        raise InvalidRequest("Say why it is over.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    who = by(request)
    services = services_of(request)
    try:
        await services.db.write(
            lambda conn: alerts.resolve(
                conn, alert_id, by=who.actor, now=services.clock.now, rev=_rev(form), reason=reason, origin=who.origin
            )
        )
    except Conflict:
        return await _refused(request)
    return _done(request)


async def _seen(request: AnyRequest) -> tuple[dict[str, str], str]:
    """The form's texts and the alert of the address. Raises NotFound for one that the person does not see."""
    raw = await request.form()
    form = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    alert_id = request.query_params.get("alert", "")[:40]
    scope = scope_of(actor_of(request))
    if not storable(alert_id) or await services_of(request).db.read(views.one, alert_id, scope) is None:
        raise NotFound("There is no such alert.")
    return form, alert_id


def _rev(form: dict[str, str]) -> int | None:
    text = form.get("rev", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _seen_until(form: dict[str, str]) -> datetime | None:
    """When the page was made that the person looked at."""
    try:
        moment = datetime.fromisoformat(form.get("seen_until", ""))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


async def _refused(request: AnyRequest) -> Response[Any]:
    """The page with the alert as it is now: nothing was done."""
    answer = await show(request, ALERTS)
    answer.status_code = 409
    return answer


def _done(request: AnyRequest) -> Redirect:
    services = services_of(request)
    services.alerts.wake.set()
    services.hub.wake()
    return _back(request)


def _back(request: AnyRequest) -> Redirect:
    params = {name: request.query_params[name] for name in ("alert", "clinic") if name in request.query_params}
    return Redirect("/alerts", status_code=303, query_params=params)


alert_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, back, ack, resolve], opt={"access": "page"}, include_in_schema=False)
]
