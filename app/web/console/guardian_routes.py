"""Addresses of the guardians page: look and ask, grant with proof, revoke; every change with a reason, audited."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import Forbidden
from app.store import guardian_acts
from app.web.api.common import Texts, by, storable
from app.web.auth import actor_of, authenticator
from app.web.console.guardians import GRANTERS, METHODS
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of

GUARDIANS: Final = view("guardians", "guardians.html", "guardian_patients", "guardian_links", "guardian_answer", "guardian_history")
_ACT: Final[dict[str, Any]] = {"status_code": 303, "opt": {"access": "page", "roles": list(GRANTERS)}}


@get("/guardians")
async def page(request: AnyRequest) -> Response[str]:
    """Patients; with `patient` their permissions, with `who` and `act` the policy's answer."""
    return await show(request, GUARDIANS)


@post("/guardians/grant", **_ACT)
async def grant(request: AnyRequest) -> Redirect:
    """Give or replace a permission, with its proof. Raises Conflict when it changed since the person looked."""
    form, tenant_id, slug = await _form(request)
    texts = Texts()
    patient_id, contact = form["patient_id"], texts.need("/contact", form["contact"])
    permission: dict[str, Any] = {name: form.get(name) == "on" for name in ("is_primary", "can_schedule", "can_cancel")}
    permission["verified_by"] = texts.need("/verified_by", form["verified_by"])
    permission["verification_method"] = form["verification_method"]
    permission["reason"] = texts.need("/reason", form["reason"], 500)
    if form["verification_method"] not in METHODS:
        texts.fail("/verification_method", "is not one of the ways to verify")
    if not (permission["can_schedule"] or permission["can_cancel"]):
        texts.fail("/can_schedule", "tick what the contact may do; to take everything away, revoke")
    seen = _seen(form, texts)
    texts.check()
    db, who = services_of(request).db, by(request)
    if seen is None:
        await db.write(guardian_acts.grant_new, tenant_id, patient_id, contact, permission, by=who)
    else:
        await db.write(guardian_acts.change, tenant_id, patient_id, contact, permission, seen=seen, by=who)
    return _back(request, slug, patient_id)


@post("/guardians/revoke", **_ACT)
async def revoke(request: AnyRequest) -> Redirect:
    """Take a permission away; it stays in the history. Raises Conflict when it changed since the person looked."""
    form, tenant_id, slug = await _form(request)
    texts = Texts()
    patient_id, contact = form["patient_id"], texts.need("/contact", form["contact"])
    reason, seen = texts.need("/reason", form["reason"], 500), _seen(form, texts)
    if seen is None:
        texts.fail("/seen", "must be the version that you saw")
    texts.check()
    assert seen is not None
    await services_of(request).db.write(
        guardian_acts.revoke, tenant_id, patient_id, contact, reason=reason, seen=seen, by=by(request)
    )
    return _back(request, slug, patient_id)


_FIELDS: Final = ("patient_id", "contact", "verified_by", "verification_method", "reason", "seen")


async def _form(request: AnyRequest) -> tuple[dict[str, str], str, str]:
    """The form's texts, trimmed (missing ones empty), and its clinic: id and slug. Raises Forbidden for a clinic of others."""
    raw = await request.form()
    form = dict.fromkeys(_FIELDS, "")
    form |= {name: value.strip() for name, value in raw.items() if isinstance(value, str) and storable(value)}
    row = await authenticator(request).tenant(form.get("clinic", ""))
    if row is None or not actor_of(request).sees(row.tenant_id):
        raise Forbidden("This clinic is not yours.")
    return form, str(row.tenant_id), str(row.slug)


def _seen(form: dict[str, str], texts: Texts) -> int | None:
    """The guardian_version that the person saw; None = a permission that was not there."""
    text = form["seen"]
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        texts.fail("/seen", "must be the version that you saw")
        return None
    return int(text)


def _back(request: AnyRequest, slug: str, patient_id: str) -> Redirect:
    services_of(request).hub.wake()
    return Redirect("/guardians", status_code=303, query_params={"clinic": slug, "patient": patient_id})


guardian_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, grant, revoke], opt={"access": "page"}, include_in_schema=False)
]
