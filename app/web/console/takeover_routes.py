"""Addresses of the takeovers page; what a person does there goes through the same store functions as the API."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import Conflict, InvalidRequest, NotFound
from app.store import takeovers
from app.web.api.common import by, storable
from app.web.api.takeovers import TEXT_MAX, take_over, tickets_changed
from app.web.auth import actor_of, authenticator
from app.web.console.render import show, view
from app.web.console.takeovers import Typed
from app.web.console.visit import AnyRequest, scope_of, services_of

TAKEOVERS: Final = view("takeovers", "takeovers.html", "takeover_rows", "takeover_detail")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page"}}
REASON_MAX: Final = 500


@get("/takeovers")
async def page(request: AnyRequest) -> Response[str]:
    """Conversations that people have; `?takeover=` names the one that is shown."""
    return await show(request, TAKEOVERS)


@post("/takeovers/act", **_ACT)
async def act(request: AnyRequest) -> Response[Any]:
    """Take a ticket, answer the family, or give the conversation back.

    409 with the conversation as it is now, and with what was typed, when somebody else changed it.
    """
    form = await _form(request)
    ticket_id, name = request.query_params.get("takeover", form.get("ticket_id", ""))[:40], form.get("act", "")
    services, who = services_of(request), by(request)
    found = await services.db.read(takeovers.ticket, scope_of(actor_of(request)), ticket_id)
    if found is None:
        raise NotFound("There is no such ticket.")
    tenant_id, rev = found["tenant_id"], _rev(form)
    try:
        if name == "start":
            reason = form.get("reason", "").strip()[:REASON_MAX] or None
            await services.db.write(takeovers.start, tenant_id, ticket_id, who, rev=rev, reason=reason)
        elif name == "reply":
            text = _need(form, "text", "Write what the family reads.", TEXT_MAX)
            await services.db.write(takeovers.reply, tenant_id, ticket_id, who, text, rev=rev)
        elif name == "close":
            reason = _need(form, "reason", "Say how it ended.", REASON_MAX)
            await services.db.write(takeovers.close, tenant_id, ticket_id, who, reason, rev=rev)
        else:
            raise InvalidRequest("Say what is to be done.", errors=[{"pointer": "/act", "detail": "is not one of the acts"}])
    except Conflict:
        return await _with_typed(request, form, status=409)
    tickets_changed(request)
    if name == "start" and form.get("text"):  # typed while somebody else had it: it waits to be sent
        return await _with_typed(request, form, status=200)
    return _back(request, {"takeover": ticket_id})


@get("/takeovers/act")
async def back(request: AnyRequest) -> Redirect:
    """Where a refused act was answered, loaded again: the page itself."""
    shown = request.query_params.get("takeover", "")[:40]
    return _back(request, {"takeover": shown} if shown else {})


async def _with_typed(request: AnyRequest, form: Mapping[str, str], *, status: int) -> Response[str]:
    """The page with the conversation as it is now, and everything that was typed in its place."""
    reason = "" if form.get("act") == "start" else form.get("reason", "")[:REASON_MAX]
    typed = Typed(refused=status == 409, text=form.get("text", "")[:TEXT_MAX], reason=reason)
    answer = await show(request, TAKEOVERS, extra={"typed": typed})
    answer.status_code = status
    return answer


@post("/takeovers/open", **_ACT)
async def open_one(request: AnyRequest) -> Redirect:
    """Take the conversation of a contact. Raises Conflict when somebody has it."""
    form = await _form(request)
    row = await authenticator(request).tenant(form.get("clinic", ""))
    if row is None or not actor_of(request).sees(row.tenant_id):
        raise NotFound("There is no such contact.")
    reason = _need(form, "reason", "Say why a person takes it.", REASON_MAX)
    taken = await take_over(request, str(row.tenant_id), form.get("contact_id", "")[:200], reason)
    return _back(request, {"takeover": taken["ticket_id"]})


async def _form(request: AnyRequest) -> dict[str, str]:
    raw = await request.form()
    return {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}


def _need(form: Mapping[str, str], name: str, sentence: str, max_length: int) -> str:
    value = form.get(name, "").strip()[:max_length]
    if not value:
        raise InvalidRequest(sentence, errors=[{"pointer": f"/{name}", "detail": "must not be empty"}])
    return value


def _rev(form: Mapping[str, str]) -> int | None:
    text = form.get("rev", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _back(request: AnyRequest, params: Mapping[str, str]) -> Redirect:
    kept = {"clinic": request.query_params["clinic"]} if "clinic" in request.query_params else {}
    return Redirect("/takeovers", status_code=303, query_params={**kept, **params})


takeover_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, act, back, open_one], opt={"access": "page"}, include_in_schema=False)
]
