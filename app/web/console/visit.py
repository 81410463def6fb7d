"""Who looks at a screen, at which clinics, in which words; and addresses that keep the chosen clinic.

A `Viewer` is all that a state fragment may know, so nothing personal can get into one: it is shared by everybody with the
same clinics, role and language. A `Visit` is one request of one person.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from litestar import Request

from app.domain.green_window import WindowPolicy
from app.engine.stream import Audience
from app.errors import NotFound
from app.store.views.scope import Clinic, Scope, clinic_of
from app.web.auth import TENANT_COOKIE, Actor, actor_of, authenticator
from app.web.i18n import negotiate, theme_of
from app.web.security import masked
from app.web.words import Words

if TYPE_CHECKING:
    from app.bootstrap import Services

AnyRequest = Request[Any, Any, Any]

DEFAULT_ZONE: Final = "America/Sao_Paulo"
ALL: Final = "all"
"""Value of `?clinic=` for every clinic that a person sees."""


@dataclass(frozen=True, slots=True)
class Urls:
    """Addresses of the console; those of lists keep the clinic that was chosen in the address."""

    clinic: str | None = None

    def to(self, path: str, **params: object) -> str:
        """A path with the clinic and further parameters (None and empty ones are left out)."""
        given = {"clinic": self.clinic, **params}
        pairs = [
            (k, v) for k, value in given.items() for v in (value if isinstance(value, tuple) else (value,)) if v not in (None, "")
        ]
        return f"{path}?{urlencode(pairs)}" if pairs else path

    def lane(self, clinic: Clinic, contact_id: str, **params: object) -> str:
        """The page of one contact."""
        path = f"/contacts/{quote(clinic.slug, safe='')}/{quote(contact_id, safe='')}"
        pairs = [(k, v) for k, v in params.items() if v not in (None, "")]
        return f"{path}?{urlencode(pairs)}" if pairs else path


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Everybody who sees the same."""

    scope: Scope
    role: str
    words: Words
    urls: Urls
    several: bool
    """Whether rows need to name their clinic."""

    @property
    def audience(self) -> Audience:
        """Whose state fragments fit this viewer."""
        return Audience(self.scope, self.role, self.words.locale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit(Viewer):
    """One request of one person."""

    person: Actor
    clinics: tuple[Clinic, ...]
    """All that the person sees."""
    chosen: Clinic | None
    """The one that is looked at; None = all of them."""
    theme: str
    csrf_token: str
    rev: int
    """Position of the event log before anything was read: the stream resumes behind it."""
    scale: float
    window: WindowPolicy
    """What the green window of safe mode's exit asks for here."""
    query: Mapping[str, tuple[str, ...]]
    path: str
    here: str
    """Path and query of this request."""

    def one(self, name: str, max_length: int = 200) -> str:
        """A parameter of the address, trimmed; empty when it is missing."""
        values = self.query.get(name, ())
        return values[0].strip()[:max_length] if values else ""

    def many(self, name: str) -> tuple[str, ...]:
        """A parameter that may be repeated."""
        return tuple(v.strip() for v in self.query.get(name, ())[:20] if v.strip())


def services_of(request: AnyRequest) -> "Services":
    """What the process shares."""
    return cast("Services", request.app.state.services)


async def visit_of(request: AnyRequest, *, clinic_slug: str | None = None) -> Visit:
    """The visit behind a request; `clinic_slug` from the path decides over `?clinic=` and the cookie. Raises NotFound."""
    services, actor, auth = services_of(request), actor_of(request), authenticator(request)
    rev = services.hub.position
    seen = tuple(clinic_of(row) for row in await auth.tenants_of(actor))
    wanted = clinic_slug or request.query_params.get("clinic")
    asked = wanted is not None
    wanted = wanted or request.cookies.get(TENANT_COOKIE)
    chosen = _find(seen, wanted) if wanted and wanted != ALL else None
    if asked and wanted not in ("", ALL) and chosen is None:
        raise NotFound("There is no such clinic, or it is not yours.")
    if chosen is None and len(seen) == 1:
        chosen = seen[0]
    scope: Scope = (chosen.tenant_id,) if chosen is not None else scope_of(actor)
    zone = ZoneInfo(chosen.timezone if chosen is not None else seen[0].timezone if len(seen) == 1 else DEFAULT_ZONE)
    several = chosen is None and len(seen) != 1
    raw = request.scope.get("query_string", b"").decode("latin-1")
    query: dict[str, tuple[str, ...]] = {}
    for name, value in request.query_params.multi_items():
        query[name] = (*query.get(name, ()), value)
    return Visit(
        scope=scope,
        role=actor.role or "",
        words=Words(negotiate(request), zone, services.clock.now()),
        urls=Urls(chosen.slug if chosen is not None and len(seen) > 1 else ALL if several and wanted == ALL else None),
        several=several,
        person=actor,
        clinics=seen,
        chosen=chosen,
        theme=theme_of(request),
        csrf_token=masked(auth.csrf_token(actor)),
        rev=rev,
        scale=services.clock.scale,
        window=services.safe_mode.policy.window,
        query=query,
        path=request.scope["path"],
        here=request.scope["path"] + (f"?{raw}" if raw else ""),
    )


def scope_of(actor: Actor) -> Scope:
    """Every clinic that a person sees."""
    return None if actor.tenant_ids is None else tuple(sorted(actor.tenant_ids))


def _find(seen: tuple[Clinic, ...], wanted: str) -> Clinic | None:
    """A clinic by slug or id, else the only one whose name begins so."""
    exact = next((c for c in seen if wanted in (c.slug, c.tenant_id)), None)
    if exact is not None:
        return exact
    begins = [c for c in seen if c.name.casefold().startswith(wanted.casefold())]
    return begins[0] if len(begins) == 1 else None
