"""Addresses behind the forms of the contact's page and the queue; the same store functions as the API."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import msgspec
from litestar import Response, Router, post
from litestar.response import Redirect

from app.errors import Conflict, Forbidden, InvalidRequest
from app.store import holds, lane_acts, subjects
from app.store.lane_acts import Act
from app.web.api.common import by, storable
from app.web.api.lane_acts import REASON_MAX, lanes_changed
from app.web.auth import actor_of, authenticator
from app.web.console.lane_acts import STEERS
from app.web.console.render import refuse
from app.web.console.routes import LANE
from app.web.console.visit import AnyRequest, services_of

_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page", "roles": list(STEERS)}}
_ACTS: Final[dict[str, Callable[..., Any]]] = {
    Act.PAUSE: lane_acts.pause,
    Act.RELEASE: lane_acts.release,
    Act.STEP: lane_acts.single_step,
    Act.RETRY: lane_acts.retry,
    Act.SKIP: lane_acts.skip,
}


@post("/lane-acts", **_ACT)
async def act_on_lane(request: AnyRequest) -> Response[Any]:
    """One act on one contact; 409 with how it is now, and nothing happened, when it has moved on since the person looked."""
    form, tenant_id, slug = await _form(request)
    contact_id, act = form.get("contact_id", ""), _ACTS.get(form.get("act", ""))
    if act is None:
        raise InvalidRequest("Say what is to be done.", errors=[{"pointer": "/act", "detail": "is not one of the acts"}])
    reason, number = _reason(form), form.get("number", "")
    details: dict[str, Any] = {}
    place = int(number) if number.isascii() and number.isdigit() and len(number) < 16 else None
    if act is lane_acts.skip:
        if place is None:
            raise InvalidRequest("Say which place is passed over.", errors=[{"pointer": "/number", "detail": "must be a number"}])
        details = {"number": place, "node_id": services_of(request).node_id}
    elif act in (lane_acts.single_step, lane_acts.retry):
        details = {"front": place}
    here = f"/contacts/{quote(slug, safe='')}/{quote(contact_id, safe='')}"
    try:
        await services_of(request).db.write(act, tenant_id, contact_id, by(request), reason, **details)
    except Conflict:
        return await refuse(request, LANE, at=here, form=form, clinic_slug=slug)
    lanes_changed(request)
    return Redirect(here, status_code=303)


@post("/queue/holds", **_ACT)
async def change_hold(request: AnyRequest) -> Redirect:
    """Pause or resume a type of request in the clinic. Raises Conflict when somebody else did meanwhile."""
    form, tenant_id, slug = await _form(request)
    command_type = form.get("command_type", "")
    if command_type not in holds.HOLDABLE:
        raise InvalidRequest("Say what is paused.", errors=[{"pointer": "/command_type", "detail": "is not a type of request"}])
    act = holds.resume if form.get("act") == "resume" else holds.hold
    await services_of(request).db.write(act, tenant_id, command_type, by(request), _reason(form))
    lanes_changed(request)
    return Redirect(f"/queue?clinic={quote(slug, safe='')}", status_code=303)


@post("/contacts/export", status_code=200, opt={"access": "page", "roles": list(STEERS)})
async def export(request: AnyRequest) -> Response[bytes]:
    """Everything that is kept about a contact, as a file; audited."""
    form, tenant_id, slug = await _form(request)
    contact_id = form.get("contact_id", "")
    found = await services_of(request).db.write(subjects.export, tenant_id, contact_id, by(request))
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in f"{slug}-{contact_id}")[:120]
    headers = {"Content-Disposition": f'attachment; filename="{name}.json"'}
    return Response(msgspec.json.format(msgspec.json.encode(found), indent=2), media_type="application/json", headers=headers)


@post("/contacts/erase", **_ACT)
async def erase(request: AnyRequest) -> Redirect:
    """Erase a contact's personal data for good. Raises Conflict while something of it is still going on (nothing happened)."""
    form, tenant_id, slug = await _form(request)
    contact_id, reason = form.get("contact_id", ""), _reason(form)
    if form.get("confirm", "").strip() != contact_id:
        raise InvalidRequest(
            "Nothing was erased: type the contact's id to confirm.",
            errors=[{"pointer": "/confirm", "detail": "is not the contact's id"}],
        )
    await services_of(request).db.write(subjects.erase, tenant_id, contact_id, by(request), reason)
    lanes_changed(request)
    return Redirect(f"/contacts/{quote(slug, safe='')}/{quote(contact_id, safe='')}", status_code=303)


async def _form(request: AnyRequest) -> tuple[dict[str, str], str, str]:
    """The form's texts and the clinic that it is about: id and slug. Raises Forbidden for a clinic of others."""
    raw = await request.form()
    form = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    row = await authenticator(request).tenant(form.get("clinic", ""))
    if row is None or not actor_of(request).sees(row.tenant_id):
        raise Forbidden("This clinic is not yours.")
    return form, str(row.tenant_id), str(row.slug)


def _reason(form: dict[str, str]) -> str:
    reason = form.get("reason", "").strip()[:REASON_MAX]
    if not reason:
        raise InvalidRequest(
            "Say why; it stays in the audit trail.", errors=[{"pointer": "/reason", "detail": "must not be empty"}]
        )
    return reason


lane_act_pages: Final[list[Any]] = [
    Router("/", route_handlers=[act_on_lane, change_hold, export, erase], opt={"access": "page"}, include_in_schema=False)
]
