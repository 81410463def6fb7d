"""Addresses of the critical tickets, below manual review: every role sees those of its clinics."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import Conflict, InvalidRequest, NotFound
from app.store import critical_tickets
from app.store.views.tickets import critical_one
from app.web.api.common import by, storable
from app.web.auth import actor_of
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, scope_of, services_of

TICKETS: Final = view("manual", "tickets.html", "ticket_rows", "ticket_detail")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page"}}
REASON_MAX: Final = 500


@get("/manual/tickets")
async def page(request: AnyRequest) -> Response[str]:
    """What safe mode and unanswered alerts leave to the next shift; `?ticket=` names the one that is shown."""
    return await show(request, TICKETS)


@post("/manual/tickets/act", **_ACT)
async def act(request: AnyRequest) -> Response[Any]:
    """Take a ticket, or close it with a reason. Where somebody was faster the page says so (409) and nothing is done."""
    raw = await request.form()
    form = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    ticket_id, text = form.get("ticket_id", "")[:40], form.get("rev", "")
    services, who = services_of(request), by(request)
    if await services.db.read(critical_one, ticket_id, scope_of(actor_of(request))) is None:
        raise NotFound("There is no such ticket.")
    rev = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    try:
        if form.get("act") == "close":
            reason = form.get("reason", "").strip()[:REASON_MAX]
            if not reason:
                raise InvalidRequest("Say what was done.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
            await services.db.write(critical_tickets.close, ticket_id, rev, reason, who)
        else:
            await services.db.write(critical_tickets.take, ticket_id, rev, who)
    except Conflict:
        answer = await show(request, TICKETS, extra={"conflict": True})
        answer.status_code = 409
        return answer
    services.hub.wake()
    params = {"ticket": ticket_id} | {name: request.query_params[name] for name in ("clinic",) if name in request.query_params}
    return Redirect("/manual/tickets", status_code=303, query_params=params)


ticket_pages: Final[list[Any]] = [Router("/", route_handlers=[page, act], opt={"access": "page"}, include_in_schema=False)]
