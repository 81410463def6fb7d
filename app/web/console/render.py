"""A page, or one of its fragments alone: both come from the same loaders, template and permissions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from litestar import Response
from litestar.datastructures import Cookie

from app.engine.stream import Audience
from app.errors import Forbidden
from app.store.views.scope import Clinic
from app.web.auth import TENANT_COOKIE
from app.web.console.pages import GROUPS, PAGES, ROLE_NAMES, TABS_MAX, Page, pages_of
from app.web.console.visit import ALL, AnyRequest, Visit, services_of, visit_of
from app.web.fragments import FRAGMENTS, FRAME, load_all, render_block
from app.web.i18n import environment

CLINICS_LISTED: Final = 30
"""More clinics than this are found by name."""

HTMX_CONFIG: Final = msgspec.json.encode(
    {
        "allowEval": False,
        "allowScriptTags": False,
        "historyCacheSize": 0,
        "refreshOnHistoryMiss": True,
        "includeIndicatorStyles": False,
        "selfRequestsOnly": True,
        "scrollIntoViewOnBoost": False,
        "timeout": 15_000,
    }
).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a route shows: template, the page it belongs to, and its own fragments."""

    page: Page
    template: str
    fragments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What surrounds every page."""

    page: Page
    title: str
    visit: Visit
    groups: tuple[tuple[str, tuple[Page, ...]], ...]
    tabs: tuple[Page, ...]
    pages: dict[str, Page]
    scope: str
    """Name of the audience's clinics: fragments of another scope are fetched, not applied."""
    clinic_label: str
    role_label: str
    clinics: tuple[Clinic, ...]
    clinics_hidden: int
    keys: str
    words: str
    """The scripts' words, as JSON."""
    htmx_config: str = HTMX_CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a form was not carried out: somebody changed what it was about. What was typed is kept."""

    said: str
    kept: Mapping[str, str]
    """Fields of the form; the page's own forms are filled with them again."""
    wrote: tuple[str, ...]
    """Free texts among them, shown in case their form is not offered any more."""


FREE_TEXTS: Final = ("reason", "note", "text")


async def show(
    request: AnyRequest,
    view: View,
    *,
    clinic_slug: str | None = None,
    extra: Mapping[str, Any] | None = None,
    at: str | None = None,
    refusal: Refusal | None = None,
) -> Response[str]:
    """The page, or for htmx the fragment that `HX-Target` names; `extra` is for its template alone. Raises NotFound, Forbidden.

    `at` is the page's own address where the request went to another one, such as that of a form.
    """
    visit = await visit_of(request, clinic_slug=clinic_slug)
    if at is not None:
        parts = urlsplit(at)
        query: dict[str, tuple[str, ...]] = {}
        for name, value in parse_qsl(parts.query):
            query[name] = (*query.get(name, ()), value)
        visit = replace(visit, query=query, path=unquote(parts.path), here=at)
    if visit.role not in view.page.roles:
        raise Forbidden("Your role does not include this page.")
    target = request.headers.get("HX-Target")
    database = services_of(request).db
    if "HX-Request" in request.headers and target in (*FRAME, *view.fragments):
        assert target is not None
        loaded = await database.read(load_all, visit, [target])
        html = render_block(visit.words.locale, FRAGMENTS[target], {**loaded, "w": visit.words, "urls": visit.urls, "kept": {}})
        return Response(html, media_type="text/html", headers={"Vary": "HX-Request, HX-Target", "X-Kora-Rev": str(visit.rev)})
    loaded = await database.read(load_all, visit, (*FRAME, *view.fragments))
    frame = frame_of(visit, view.page)
    common = {"frame": frame, "w": visit.words, "urls": visit.urls, "fragments": FRAGMENTS, "theme": visit.theme}
    common |= {"refusal": refusal, "kept": refusal.kept if refusal is not None else {}}
    context = {**(extra or {}), **loaded, **common}
    html = environment(visit.words.locale).get_template(view.template).render(context)
    answer = Response(html, media_type="text/html", headers={"Vary": "HX-Request, HX-Target"})
    if "clinic" in request.query_params:
        secure = request.app.state.auth.secure
        chosen = visit.chosen.slug if visit.chosen else ALL
        answer.set_cookie(Cookie(key=TENANT_COOKIE, value=chosen, path="/", httponly=True, samesite="lax", secure=secure))
    return answer


async def refuse(
    request: AnyRequest, view: View, *, at: str, form: Mapping[str, str], clinic_slug: str | None = None, said: str = ""
) -> Response[str]:
    """409 with the page as it is now, at its own address `at`: nothing was done, and what was typed is still there."""
    kept = {name: value for name, value in form.items() if name not in ("_csrf", "rev") and value.strip()}
    wrote = tuple(kept[name] for name in FREE_TEXTS if name in kept)
    answer = await show(request, view, clinic_slug=clinic_slug, at=at, refusal=Refusal(said=said, kept=kept, wrote=wrote))
    answer.status_code = 409
    return answer


def frame_of(visit: Visit, page: Page) -> Frame:
    """Everything around a page's content."""
    words = visit.words
    pages = pages_of(visit.role)
    groups = tuple((words.text(label), tuple(p for p in pages if p.group == group)) for group, label in GROUPS.items())
    keys = {p.key: visit.urls.to(p.url) for p in pages if p.key is not None}
    if visit.chosen is not None:
        label = visit.chosen.name
    else:
        label = words.text("All clinics") if visit.clinics else words.text("No clinic")
    return Frame(
        page=page,
        title=words.text(page.label),
        visit=visit,
        groups=tuple((label, members) for label, members in groups if members),
        tabs=_tabs(pages),
        pages={p.id: p for p in PAGES if visit.role in p.roles},
        scope=Audience(visit.scope, "", "").scope,
        clinic_label=label,
        role_label=words.text(ROLE_NAMES.get(visit.role, visit.role)),
        clinics=visit.clinics[:CLINICS_LISTED] if len(visit.clinics) > 1 else (),
        clinics_hidden=max(0, len(visit.clinics) - CLINICS_LISTED),
        keys=msgspec.json.encode(keys).decode(),
        words=msgspec.json.encode(words.script_words()).decode(),
    )


def _tabs(pages: tuple[Page, ...]) -> tuple[Page, ...]:
    """The phone's tabs; where there are too many, alerts are worth more than the list of contacts."""
    short = [p for p in pages if p.short is not None]
    kept = [p for p in short if p.id != "contacts"][:TABS_MAX] if len(short) > TABS_MAX else short
    return tuple(kept)


VIEWS: Final[list[View]] = []
"""Every view that was declared; a fragment belongs to one of them, or to the frame."""


def view(page_id: str, template: str, *fragments: str) -> View:
    """Declare a view of a page of the registry."""
    made = View(page=next(p for p in PAGES if p.id == page_id), template=template, fragments=fragments)
    VIEWS.append(made)
    return made
