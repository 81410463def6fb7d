"""Addresses of the deferred item: look, and defer it again with a reason."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import InvalidRequest
from app.store import deferred
from app.web.api.common import by, storable
from app.web.console.pages import SUPERADMIN
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of

DEFERRED_VIEW: Final = view("deferred", "deferred.html", "deferred_item")


@get("/deferred")
async def page(request: AnyRequest) -> Response[str]:
    """The item with its live trigger."""
    return await show(request, DEFERRED_VIEW)


@post("/deferred/decide", status_code=303, opt={"access": "page", "roles": [SUPERADMIN]})
async def decide(request: AnyRequest) -> Redirect:
    """Defer the reopened item again; audited, and what met its trigger does not count any more."""
    form = await request.form()
    reason, rev = str(form.get("reason", "")).strip()[:500], str(form.get("rev", ""))
    if not reason or not storable(reason):
        raise InvalidRequest("Say why it stays deferred.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    if not rev.isascii() or not rev.isdigit():
        raise InvalidRequest("This form is incomplete: open the page again.")
    services = services_of(request)
    await services.db.write(deferred.decide, by(request), reason, rev=int(rev[:9]))
    services.hub.wake()
    return Redirect("/deferred", status_code=303)


deferred_pages: Final[list[Any]] = [Router("/", route_handlers=[page, decide], opt={"access": "page"}, include_in_schema=False)]
