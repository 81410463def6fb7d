"""Addresses of the replay page; what a manager does there goes through the same store functions as the API."""

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.domain.replay_batch import BatchAct
from app.domain.replay_filter import read_filter
from app.domain.states import State
from app.errors import Conflict, Forbidden, InvalidRequest, NotFound
from app.store import contingency
from app.web.api.common import by, storable
from app.web.auth import actor_of, authenticator
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.render import show, view
from app.web.console.replay import RATES_PER_MIN, REASON_MAX
from app.web.console.visit import AnyRequest, services_of

REPLAY: Final = view("replay", "replay.html", "replay_channels", "replay_backlog", "replay_form", "replay_plan")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page", "roles": [MANAGER, SUPERADMIN]}}
_ACTS: Final[Mapping[str, BatchAct]] = {
    "run": BatchAct.RUN,
    "pause": BatchAct.PAUSE,
    "resume": BatchAct.RESUME,
    "cancel": BatchAct.CANCEL,
}


@get("/replay")
async def page(request: AnyRequest) -> Response[str]:
    """Channels, what waits, the dry run and its run."""
    return await show(request, REPLAY)


@post("/replay/contingency", **_ACT)
async def switch(request: AnyRequest) -> Redirect:
    """Switch a channel's contingency. Raises InvalidRequest without a channel and a reason."""
    form, tenant_id, slug = await _form(request)
    channel, reason = _one(form, "channel"), _one(form, "reason")[:REASON_MAX]
    active = _one(form, "active") == "on"
    if channel not in contingency.CHANNELS or not reason:
        raise InvalidRequest("Say which channel and why.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    services = services_of(request)
    await services.db.write(contingency.switch, tenant_id, channel, active=active, reason=reason, by=by(request))
    services.dispatch.wake.set()
    services.drain.wake.set()
    services.hub.wake()
    return _back(slug)


@post("/replay/plan", **_ACT)
async def plan(request: AnyRequest) -> Redirect:
    """Make a dry run. Raises InvalidRequest for an empty filter."""
    form, tenant_id, slug = await _form(request)
    who = by(request)
    chosen = {name: [v for v in form.get(name, []) if v] for name in ("intent", "state", "priority")}
    if State.CONFLICT_BLOCKED in chosen["state"]:
        chosen["state"].append(State.VERSION_CONFLICT_BLOCKED)  # the same word for people
    row = await authenticator(request).tenant(tenant_id)
    zone = ZoneInfo(row.timezone) if row is not None else UTC
    times = {name: _moment(_one(form, name), zone) for name in ("from", "to")}
    wanted, errors = read_filter({**chosen, **times, "contact_id": _one(form, "contact")}, who.now)
    if wanted is None:
        faults = [{"pointer": e.pointer, "detail": e.detail} for e in errors]
        said = "Choose at least one kind of request." if faults[0]["pointer"] == "/filter" else "This time range cannot be used."
        raise InvalidRequest(said, errors=faults)
    given = _one(form, "rate")
    rate = int(given) if given.isascii() and given.isdigit() and int(given) in RATES_PER_MIN else RATES_PER_MIN[0]
    replay_id = await services_of(request).replay.plan(tenant_id, wanted, rate_per_s=rate / 60, by=who)
    services_of(request).hub.wake()
    return _back(slug, replay_id)


@post("/replay/{replay_id:str}/{act:str}", **_ACT)
async def act_on(request: AnyRequest) -> Redirect:
    """Run, pause, resume or cancel; what is not possible any more changes nothing, and the page says what holds."""
    form, tenant_id, slug = await _form(request)
    replay_id, what = request.path_params["replay_id"], _ACTS.get(request.path_params["act"])
    if what is None or not storable(replay_id):
        raise NotFound("A replay can be run, paused, resumed or cancelled.")
    rev = _one(form, "rev")
    seen = int(rev) if rev.isascii() and rev.isdigit() and len(rev) < 10 else None
    try:
        await services_of(request).replay.act(tenant_id, replay_id, what, by(request), rev=seen)
    except Conflict:
        return _back(slug, replay_id)  # too old, or somebody was faster: the page shows how it is now
    services_of(request).hub.wake()
    return _back(slug, replay_id)


async def _form(request: AnyRequest) -> tuple[dict[str, list[str]], str, str]:
    """The form's texts, and id and slug of the clinic it is about. Raises Forbidden for one that the person does not see."""
    raw = await request.form()
    form: dict[str, list[str]] = {}
    for name, value in raw.multi_items():
        if isinstance(value, str) and storable(value):
            form.setdefault(name, []).append(value.strip())
    given = _one(form, "tenant")
    row = await authenticator(request).tenant(given) if given else None
    if row is None or not actor_of(request).sees(row.tenant_id):
        raise Forbidden("This clinic is not yours.")
    return form, str(row.tenant_id), str(row.slug)


def _one(form: Mapping[str, list[str]], name: str) -> str:
    values = form.get(name, [])
    return values[0] if values else ""


def _moment(text: str, zone: tzinfo) -> str:
    """A date and time of the form, which is the clinic's; what cannot be read is left for the filter to refuse."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        return text
    return (given if given.tzinfo is not None else given.replace(tzinfo=zone)).isoformat()


def _back(slug: str, replay_id: str | None = None) -> Redirect:
    batch = f"&batch={quote(replay_id, safe='')}" if replay_id else ""
    return Redirect(f"/replay?clinic={quote(slug, safe='')}{batch}", status_code=303)


replay_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, switch, plan, act_on], opt={"access": "page"}, include_in_schema=False)
]
