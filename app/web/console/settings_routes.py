"""Addresses of the settings page: look, see what a change would change (nothing is written), save a version with a reason."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.errors import Conflict, InvalidRequest, NotFound
from app.store import settings
from app.store.lanes import GLOBAL_SCOPE
from app.web.api.channels import refuse_unusable
from app.web.api.common import by, storable
from app.web.auth import authenticator
from app.web.console.pages import SUPERADMIN
from app.web.console.render import show, view
from app.web.console.settings import Draft, draft_of
from app.web.console.visit import AnyRequest, services_of, visit_of

SETTINGS: Final = view("settings", "settings.html", "settings_form", "settings_history")


@get("/settings", opt={"access": "page", "roles": [SUPERADMIN]})
async def page(request: AnyRequest) -> Response[str]:
    """Of the clinic that the address names, else what holds for all."""
    return await show(request, SETTINGS)


@post("/settings", status_code=200, opt={"access": "page", "roles": [SUPERADMIN]})
async def change(request: AnyRequest) -> Response[Any]:
    """`act=preview` shows the difference; `act=save` writes it, if the version is still the one that the person saw (else 409)."""
    raw = await request.form()
    typed = {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}
    scope, slug = typed.get("scope", ""), ""
    if scope != GLOBAL_SCOPE:
        row = await authenticator(request).tenant(scope) if scope else None
        if row is None:
            raise NotFound("There is no such clinic.")
        scope, slug = str(row.tenant_id), str(row.slug)
    services, words = services_of(request), (await visit_of(request)).words
    draft = await services.db.read(draft_of, words, scope, typed)
    said = ""
    if draft.faults:
        said = words.text("Some values cannot be used. Nothing was saved.")
    elif not draft.changes:
        said = words.text("Nothing differs from what is stored. Nothing was saved.")
    if typed.get("act") != "save" or said:
        return await _shown(request, draft, said, 400 if said else 200)
    if not draft.reason:
        return await _shown(request, draft, words.text("Say why; it stays in the audit trail. Nothing was done."), 400)
    seen, who = typed.get("version", ""), by(request)
    try:
        await refuse_unusable(request, draft.patch)
        await services.db.write(
            settings.save,
            scope,
            draft.patch,
            actor=who.actor,
            now=who.now,
            reason=draft.reason,
            origin=who.origin,
            seen=int(seen) if seen.isascii() and seen.isdigit() and len(seen) < 10 else -1,
        )
    except Conflict:
        draft = await services.db.read(draft_of, words, scope, typed)
        said = words.text("Somebody saved other settings meanwhile. Nothing was saved; compare with what holds now.")
        return await _shown(request, draft, said, 409)
    except InvalidRequest:
        return await _shown(request, draft, words.text("Some values cannot be used. Nothing was saved."), 400)
    services.channels.forget()
    services.hub.wake()
    return Redirect("/settings", status_code=303, query_params={**({"clinic": slug} if slug else {}), "saved": "yes"})


async def _shown(request: AnyRequest, draft: Draft, said: str, status: int) -> Response[str]:
    answer = await show(request, SETTINGS, extra={"draft": draft, "said": said})
    answer.status_code = status
    return answer


settings_pages: Final[list[Any]] = [Router("/", route_handlers=[page, change], opt={"access": "page"}, include_in_schema=False)]
