"""What people and operators do to lanes: pause, release, single-step, look again, skip; and holds of a clinic."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from litestar import get, post, put
from litestar.params import FromPath, JSONBody

from app.errors import Conflict
from app.store import holds, lane_acts, people
from app.web.api.common import (
    AnyRequest,
    Document,
    TenantId,
    Texts,
    by,
    check_ids,
    locale_of,
    problems,
    require_json,
    services_of,
    tenant_of,
)
from app.web.api.waiting import with_sentence

REASON_MAX: Final = 500
_ACT: Final[dict[str, Any]] = {
    "before_request": require_json,
    "status_code": 200,
    "responses": problems(404, 409),
    "opt": {"access": "scope:operate"},
    "tags": ["lanes"],
}


class ActBody(msgspec.Struct):
    """Why it is done; it stays in the audit trail."""

    reason: str
    tenant_id: str | None = None


class SkipBody(msgspec.Struct):
    """Which place is passed over (the lane's next one, as the caller saw it) and why."""

    number: int
    reason: str
    tenant_id: str | None = None


class HoldBody(msgspec.Struct):
    """A command type, or `*` for all of the clinic; on or off, and why."""

    active: bool
    reason: str
    command_type: str = holds.EVERYTHING
    tenant_id: str | None = None


@post("/api/v1/contacts/{contact_id:str}/lane/pause", summary="Pause a contact's requests", **_ACT)
async def pause(request: AnyRequest, contact_id: FromPath[str], data: JSONBody[ActBody]) -> Document:
    """Messages are still heard; requests wait in their order. 409 when it is paused already."""
    return await _do(request, contact_id, data, lane_acts.pause)


@post("/api/v1/contacts/{contact_id:str}/lane/release", summary="End the pause", **_ACT)
async def release(request: AnyRequest, contact_id: FromPath[str], data: JSONBody[ActBody]) -> Document:
    """What waits goes on in its order. 409 when it is not paused."""
    return await _do(request, contact_id, data, lane_acts.release)


@post("/api/v1/contacts/{contact_id:str}/lane/step", summary="Let one request through", **_ACT)
async def step(request: AnyRequest, contact_id: FromPath[str], data: JSONBody[ActBody]) -> Document:
    """The next request of a paused contact comes to its turn, with every check. 409 when it is not paused or nothing waits."""
    return await _do(request, contact_id, data, lane_acts.single_step)


@post("/api/v1/contacts/{contact_id:str}/lane/retry", summary="Look at the front request now", **_ACT)
async def retry(request: AnyRequest, contact_id: FromPath[str], data: JSONBody[ActBody]) -> Document:
    """Instead of at its time; whatever holds it is checked again. 409 when nothing waits."""
    return await _do(request, contact_id, data, lane_acts.retry)


@post("/api/v1/contacts/{contact_id:str}/lane/skip", summary="Pass over the next place", **_ACT)
async def skip(request: AnyRequest, contact_id: FromPath[str], data: JSONBody[SkipBody]) -> Document:
    """It ends as `manual_review_required` with a task: an obligation. 409 when `number` is not the next place any more."""
    return await _do(request, contact_id, data, lane_acts.skip, number=data.number, node_id=services_of(request).node_id)


async def _do(request: AnyRequest, contact_id: str, data: ActBody | SkipBody, act: Callable[..., Any], **details: Any) -> Document:
    """Do it and answer with the contact as it is now; a 409 carries it too, so that the caller sees what changed."""
    check_ids(contact_id=contact_id)
    texts = Texts()
    reason = texts.need("/reason", data.reason, REASON_MAX)
    texts.check()
    tenant_id = await tenant_of(request, data.tenant_id)
    services = services_of(request)
    try:
        await services.db.write(act, tenant_id, contact_id, by(request), reason, **details)
    except Conflict as conflict:
        conflict.extra = {"contact": await _contact(request, tenant_id, contact_id)}
        raise
    lanes_changed(request)
    return await _contact(request, tenant_id, contact_id)


def lanes_changed(request: AnyRequest) -> None:
    """Wake what looks at lanes."""
    services = services_of(request)
    services.dispatch.wake.set()
    services.hub.wake()


async def _contact(request: AnyRequest, tenant_id: str, contact_id: str) -> Document:
    services = services_of(request)
    found = await services.db.read(people.contact, tenant_id, contact_id, services.clock.now())
    return with_sentence(found, locale_of(request)) if found is not None else {}


# --- holds --------------------------------------------------------------------------------------------------------------


@get(
    "/api/v1/holds",
    summary="What is paused in a clinic",
    responses=problems(404),
    opt={"access": "scope:read"},
    tags=["lanes"],
)
async def get_holds(request: AnyRequest, tenant_id: TenantId = None) -> Document:
    """Command types (`*` = all of them) with since when, by whom and why."""
    return {"items": await services_of(request).db.read(holds.holds, await tenant_of(request, tenant_id))}


@put("/api/v1/holds", summary="Pause or resume a type of command, or a whole clinic", **_ACT)
async def put_hold(request: AnyRequest, data: JSONBody[HoldBody]) -> Document:
    """Waiting requests keep their places. 409 when it is so already."""
    texts = Texts()
    reason = texts.need("/reason", data.reason, REASON_MAX)
    if data.command_type not in holds.HOLDABLE:
        texts.fail("/command_type", "must be * or one of " + ", ".join(sorted(holds.HOLDABLE - {holds.EVERYTHING})))
    texts.check()
    tenant_id = await tenant_of(request, data.tenant_id)
    act = holds.hold if data.active else holds.resume
    await services_of(request).db.write(act, tenant_id, data.command_type, by(request), reason)
    lanes_changed(request)
    return {"items": await services_of(request).db.read(holds.holds, tenant_id)}


lane_act_routes: Final[list[Any]] = [pause, release, step, retry, skip, get_holds, put_hold]
