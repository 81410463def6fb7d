"""Addresses of the drills: look, and start one."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import InvalidRequest
from app.web.api.common import storable
from app.web.api.drills import started
from app.web.console.pages import SUPERADMIN
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest

DRILL_VIEW: Final = view("drills", "drills.html", "drill_now")
_SUPERADMIN: Final[dict[str, Any]] = {"access": "page", "roles": [SUPERADMIN]}


@get("/drills", opt=_SUPERADMIN)
async def page(request: AnyRequest) -> Response[str]:
    """The run that goes on, and those before."""
    return await show(request, DRILL_VIEW)


@post("/drills/start", status_code=303, opt=_SUPERADMIN)
async def start(request: AnyRequest) -> Redirect:
    """Start a Redis failure drill, confirmed and with a reason. Raises Conflict (nothing was started)."""
    form = await request.form()
    reason = str(form.get("reason", "")).strip()[:500]
    if not reason or not storable(reason):
        raise InvalidRequest("Say why the drill is run.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    if form.get("sure") != "on":
        raise InvalidRequest("Confirm that the path to Redis is cut.", errors=[{"pointer": "/sure", "detail": "must be confirmed"}])
    await started(request, reason)
    return Redirect("/drills", status_code=303)


drill_pages: Final[list[Any]] = [Router("/", route_handlers=[page, start], include_in_schema=False)]
