"""Addresses of the console, for people who are signed in."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.datastructures import Cookie
from litestar.response import Redirect

from app.errors import InvalidRequest
from app.store import accounts, saved_views
from app.web.api.common import storable
from app.web.auth import actor_of
from app.web.console.find import load_found
from app.web.console.left import load_left
from app.web.console.queue import only_filter
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of, visit_of
from app.web.i18n import LANGUAGE_COOKIE, LOCALES, THEMES
from app.web.signin import safe_next

OVERVIEW: Final = view("overview", "overview.html", "numbers", "needs", "flow", "signals_off", "nodes")
QUEUE: Final = view("queue", "queue.html", "queue_filters", "queue_holds", "queue_rows")
CONTACTS: Final = view("contacts", "contacts.html", "contact_rows")
LANE: Final = view("contacts", "lane.html", "lane_summary", "lane_ask", "lane_acts", "lane_timeline", "lane_facts", "lane_known")


@get("/")
async def overview(request: AnyRequest) -> Response[str]:
    """Is it safe, what needs me, how much waits."""
    return await show(request, OVERVIEW)


@get("/queue")
async def queue(request: AnyRequest) -> Response[str]:
    """Dispatch order and commit order in one view; filters and cursor in the address."""
    return await show(request, QUEUE)


@get("/contacts")
async def contacts(request: AnyRequest) -> Response[str]:
    """Contacts by name; `q` also finds the contact of an item's id."""
    return await show(request, CONTACTS)


@get("/contacts/{clinic:str}/{contact_id:path}")
async def lane(request: AnyRequest) -> Response[str]:
    """One contact's lane; the contact's id is the caller's string and may contain slashes."""
    return await show(request, LANE, clinic_slug=request.path_params["clinic"])


@get("/find")
async def find(request: AnyRequest) -> list[dict[str, str]]:
    """Contacts for the palette."""
    return await services_of(request).db.read(load_found, await visit_of(request))


@post("/queue/views", status_code=303)
async def queue_views(request: AnyRequest) -> Redirect:
    """Keep the queue's filter under a name, or forget one. Raises InvalidRequest without a name, Conflict beyond 20."""
    form, actor, services = await request.form(), actor_of(request), services_of(request)
    name, chosen = str(form.get("name", "")).strip(), only_filter(str(form.get("filter", ""))[: saved_views.FILTER_MAX])
    if not name or len(name) > saved_views.NAME_MAX or not storable(name) or not storable(chosen):
        raise InvalidRequest("Give the view a name.", errors=[{"pointer": "/name", "detail": "must be 1 to 60 characters"}])
    if form.get("act") == "forget":
        await services.db.write(saved_views.forget_view, actor.id, "queue", name)
    else:
        await services.db.write(saved_views.keep_view, actor.id, "queue", name, chosen, services.clock.now())
    return Redirect(f"/queue?{chosen}" if chosen else "/queue", status_code=303)


@get("/left")
async def left(request: AnyRequest) -> dict[str, str]:
    """What became of the rows of `?row=`, and who settled them: the ones whose end is known."""
    return await services_of(request).db.read(load_left, await visit_of(request))


@post("/preferences", status_code=303)
async def preferences(request: AnyRequest) -> Response[Any]:
    """Language, theme and shortcuts of the person; fields left out stay as they are."""
    actor, form = actor_of(request), await request.form()
    language, theme, shortcuts = form.get("language"), form.get("theme"), form.get("shortcuts")
    await services_of(request).db.write(
        accounts.set_preferences,
        actor.id,
        language=language if language in LOCALES else actor.language,
        theme=theme if theme in THEMES else actor.theme,
        shortcuts=shortcuts == "on" if shortcuts in ("on", "off") else actor.shortcuts,
    )
    target = form.get("next")
    answer = Redirect(safe_next(target if isinstance(target, str) else None), status_code=303)
    if language in LOCALES:
        # so that the sign-in page speaks it too
        answer.set_cookie(
            Cookie(
                key=LANGUAGE_COOKIE,
                value=str(language),
                path="/",
                max_age=31_536_000,
                httponly=True,
                samesite="lax",
                secure=request.app.state.auth.secure,
            )
        )
    return answer


console_routes: Final[list[Any]] = [
    Router(
        "/",
        route_handlers=[overview, queue, contacts, lane, left, find, queue_views, preferences],
        opt={"access": "page"},
        include_in_schema=False,
    )
]
