"""Addresses of the manual review page; what a person does there goes through the same store functions as the API."""

from typing import Any, Final
from urllib.parse import urlencode

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.domain.manual import OFFERED
from app.errors import Conflict, InvalidRequest, NotFound
from app.store import manual
from app.web.api.common import by, storable
from app.web.api.manual import BULK_MAX, carry_out, close_all, reopen_all, tasks_changed
from app.web.auth import actor_of
from app.web.console.manual import LEFT_NAMED, leads
from app.web.console.render import refuse, show, view
from app.web.console.visit import AnyRequest, scope_of, services_of

MANUAL: Final = view("manual", "manual.html", "manual_rows", "manual_detail")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page"}}


@get("/manual")
async def page(request: AnyRequest) -> Response[str]:
    """What a machine must not do, the oldest deadline first; `?task=` names the one that is shown."""
    return await show(request, MANUAL)


@post("/manual/act", **_ACT)
async def act(request: AnyRequest) -> Response[Any]:
    """Claim, give back, close, reopen or carry out one task; 409 with how it is now when somebody changed it meanwhile."""
    form = await _form(request)
    task_id, name = form.get("task_id", "")[:40], form.get("act", "")
    tenant_id = (await _tenants(request, [task_id])).get(task_id)
    if tenant_id is None:
        raise NotFound("There is no such task.")
    rev, more = _rev(form), {}
    try:
        if name == "apply":
            reason = _need(form, "reason", "Say why it is carried out after all.", 1_000)
            command = await carry_out(request, tenant_id, task_id, reason, confirmed=form.get("confirmed") == "on", rev=rev)
            more["result"] = f"{command.get('result') or command.get('status')}.{command.get('reason') or ''}"
        else:
            await _change(request, name, tenant_id, task_id, form, rev)
    except Conflict:
        return await refuse(request, MANUAL, at=_address(request, task=task_id), form=form)
    tasks_changed(request)
    return _back(request, task=task_id, **more)


@post("/manual/close", **_ACT)
async def close_many(request: AnyRequest) -> Redirect:
    """Close the ticked tasks with one outcome; the form asks first and says how many."""
    form = await _form(request)
    raw = await request.form()
    ticked = [v for v in raw.getall("task", []) if isinstance(v, str) and storable(v)][:BULK_MAX]
    if not ticked or form.get("sure") != "on":
        detail = {"pointer": "/sure" if ticked else "/task", "detail": "must be ticked"}
        raise InvalidRequest("Tick the tasks, and that they are to be closed.", errors=[detail])
    resolution = _outcome(form)
    done = await close_all(request, await _tenants(request, ticked), resolution, form.get("note", "").strip()[:1_000] or None)
    return _back(request, **_came_of(done, "closed"))


@post("/manual/reopen", **_ACT)
async def reopen_many(request: AnyRequest) -> Redirect:
    """Undo the ticked closings, as far as that is still possible."""
    raw = await request.form()
    ticked = [v for v in raw.getall("task", []) if isinstance(v, str) and storable(v)][:BULK_MAX]
    if not ticked:
        raise InvalidRequest("Tick the tasks to be opened again.", errors=[{"pointer": "/task", "detail": "must be ticked"}])
    return _back(request, **_came_of(await reopen_all(request, await _tenants(request, ticked)), "reopened"))


def _came_of(done: list[dict[str, Any]], name: str) -> dict[str, str]:
    """What a bulk act did, for the address of the page that says so."""
    left = [entry["task_id"] for entry in done if not entry[name]]
    named = {"left": "~".join(left[:LEFT_NAMED]), "left_n": str(len(left))} if left else {}
    return {name: str(len(done) - len(left)), **named}


async def _change(request: AnyRequest, name: str, tenant_id: str, task_id: str, form: dict[str, str], rev: int | None) -> None:
    services, who = services_of(request), by(request)
    anyones = leads(actor_of(request).role or "")
    if name == "claim":
        await services.db.write(manual.claim, tenant_id, task_id, who, rev=rev)
    elif name == "release":
        await services.db.write(manual.release, tenant_id, task_id, who, rev=rev, anyones=anyones)
    elif name == "reopen":
        await services.db.write(manual.reopen, tenant_id, task_id, who, rev=rev)
    elif name == "resolve":
        note = form.get("note", "").strip()[:1_000] or None
        await services.db.write(manual.resolve, tenant_id, task_id, who, resolution=_outcome(form), note=note, rev=rev)
    else:
        raise InvalidRequest("Say what is to be done.", errors=[{"pointer": "/act", "detail": "is not one of the acts"}])


async def _form(request: AnyRequest) -> dict[str, str]:
    raw = await request.form()
    return {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}


async def _tenants(request: AnyRequest, task_ids: list[str]) -> dict[str, str]:
    return await services_of(request).db.read(manual.tenants_of, scope_of(actor_of(request)), task_ids)


def _outcome(form: dict[str, str]) -> str:
    resolution = form.get("resolution", "")
    if resolution not in OFFERED:
        raise InvalidRequest("Say how it ended.", errors=[{"pointer": "/resolution", "detail": "must be chosen"}])
    return resolution


def _need(form: dict[str, str], name: str, sentence: str, max_length: int) -> str:
    value = form.get(name, "").strip()[:max_length]
    if not value:
        raise InvalidRequest(sentence, errors=[{"pointer": f"/{name}", "detail": "must not be empty"}])
    return value


def _rev(form: dict[str, str]) -> int | None:
    text = form.get("rev", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _back(request: AnyRequest, **params: str) -> Redirect:
    return Redirect(_address(request, **params), status_code=303)


def _address(request: AnyRequest, **params: str) -> str:
    """The page with the tab and clinic that the form was in."""
    kept = {name: request.query_params[name] for name in ("tab", "clinic") if name in request.query_params}
    return f"/manual?{urlencode(kept | params)}"


manual_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, act, close_many, reopen_many], opt={"access": "page"}, include_in_schema=False)
]
