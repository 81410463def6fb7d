"""The ASGI application: every route, and around every route what protects it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from litestar import Litestar, Request, Router
from litestar.config.compression import CompressionConfig
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware, DefineMiddleware
from litestar.middleware.compression import CompressionMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins.htmx import HTMXPlugin
from litestar.response import Redirect, Response
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from app.clock import SystemClock
from app.errors import Unauthenticated
from app.store.tenancy import scoped
from app.web.ack import Guesses, ack_routes
from app.web.api import api_routes
from app.web.api.webhooks import webhook_routes
from app.web.auth import Actor, Authenticator, enforce_access
from app.web.console.access_routes import access_pages
from app.web.console.account_routes import account_pages
from app.web.console.agenda_routes import agenda_pages
from app.web.console.alert_routes import alert_pages
from app.web.console.audit_routes import audit_pages
from app.web.console.channel_routes import channel_pages
from app.web.console.deferred_routes import deferred_pages
from app.web.console.drill_routes import drill_pages
from app.web.console.evidence_routes import evidence_pages
from app.web.console.guardian_routes import guardian_pages
from app.web.console.lane_routes import lane_act_pages
from app.web.console.manual_routes import manual_pages
from app.web.console.replay_routes import replay_pages
from app.web.console.routes import console_routes
from app.web.console.safe_mode_routes import safe_mode_pages
from app.web.console.settings_routes import settings_pages
from app.web.console.shift_routes import shift_pages
from app.web.console.signal_routes import signal_pages
from app.web.console.takeover_routes import takeover_pages
from app.web.console.ticket_routes import ticket_pages
from app.web.health import HealthBoard, health_routes
from app.web.i18n import template_config
from app.web.phone import phone_routes
from app.web.problems import EXCEPTION_HANDLERS, correlation_id, problem
from app.web.security import BODY_MAX, TokenBuckets, client_address, hurried, refuse_null_bytes, set_headers
from app.web.signin import Doorkeeper, signin_routes
from app.web.stream import stream_routes

if TYPE_CHECKING:
    from app.bootstrap import Services

log = structlog.get_logger("web")

ROOT: Final = Path(__file__).parent.parent.parent
STATIC: Final = ROOT / "static"

REQUESTS_PER_S, REQUESTS_BURST = 2_000, 4_000
"""Of one key or one address: far above a clinic's traffic, below what hurts."""
STRANGERS_PER_S, STRANGERS_BURST = 20, 100
"""Of one address without a good key or session where one is needed."""

_COMPRESSED: Final = DefineMiddleware(CompressionMiddleware, config=CompressionConfig(backend="gzip", gzip_compress_level=6))
"""Files and pages (a page shows its CSRF token masked, each time in other bytes: BREACH). Never a stream: it would be held back."""
PAGES: Final[list[Any]] = [
    *console_routes,
    *lane_act_pages,
    *manual_pages,
    *signal_pages,
    *takeover_pages,
    *ticket_pages,
    *guardian_pages,
    *audit_pages,
    *deferred_pages,
    *drill_pages,
    *agenda_pages,
    *safe_mode_pages,
    *alert_pages,
    *channel_pages,
    *access_pages,
    *account_pages,
    *settings_pages,
    *shift_pages,
    *replay_pages,
    *evidence_pages,
]
"""The console, for people who are signed in."""
_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STARTED: Final = "kora_started"


class Rates:
    """How often anybody may ask."""

    def __init__(self) -> None:
        self.requests = TokenBuckets(REQUESTS_PER_S, REQUESTS_BURST)
        self.strangers = TokenBuckets(STRANGERS_PER_S, STRANGERS_BURST)


class Gate(ASGIMiddleware):
    """Around every route: correlation id, a deadline for the body, who is calling, and how often."""

    scopes = (ScopeType.HTTP, ScopeType.ASGI)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Let the request through, with `scope["user"]` set to an Actor or None."""
        scope["state"][_STARTED] = time.perf_counter()
        shared = scope["litestar_app"].state
        open_to_all = scope["route_handler"].opt.get("access") == "public"
        tokens = structlog.contextvars.bind_contextvars(correlation_id=correlation_id(scope))
        try:
            # the database shows nothing to this request until the guard of its route has opened something
            with scoped(()):
                refuse_null_bytes(scope)
                actor: Actor | None = None if open_to_all else await cast("Authenticator", shared.auth).authenticate(scope)
                scope["user"] = actor
                address, rates = client_address(scope), cast("Rates", shared.rates)
                if actor is None and not open_to_all:
                    rates.strangers.require(address)
                rates.requests.require(actor.audit_name if actor is not None else address)
                await next_app(scope, hurried(receive), send)
        finally:
            structlog.contextvars.reset_contextvars(**tokens)


def create_app(services: "Services") -> Litestar:
    """The application over running services; it has no lifespan of its own."""
    app = create_routes()
    serve(app, services)
    return app


def serve(app: Litestar, services: "Services") -> None:
    """Put the services of one process behind the routes, in the place of any before them: all that requests share is here."""
    settings = services.settings
    # people's sessions last as long as the screen says, also where the engine's time is scaled for training
    clock = services.clock if services.clock.scale == 1.0 else SystemClock()
    shared = {
        "services": services,
        "auth": Authenticator(services.db, clock, secret_key=settings.secret_key, secure=settings.secure_cookies),
        "rates": Rates(),
        "door": Doorkeeper(),
        "health": HealthBoard(),
        "guesses": Guesses(),
    }
    app.state.update(shared)


async def _answering(message: Message, scope: Scope) -> None:
    """Before an answer starts: its security headers, and the numbers about it."""
    if message["type"] != "http.response.start":
        return
    state = scope["litestar_app"].state
    set_headers(message, scope, secure=state.auth.secure)
    metrics = state.services.metrics
    method = str(scope.get("method", ""))
    # by position: names of labels are sorted and compared at every call
    metrics.http_requests.labels(method if method in _KNOWN_METHODS else "other", f"{message['status'] // 100}xx").inc()
    started = scope["state"].get(_STARTED)
    if started is not None:
        metrics.http_seconds.labels(str(scope.get("path_template") or "other")).observe(time.perf_counter() - started)


def create_routes() -> Litestar:
    """Every route of the product, with nothing behind them yet (`serve`)."""
    return Litestar(
        route_handlers=[
            *health_routes,
            *signin_routes,
            *api_routes,
            *webhook_routes,
            Router("/", route_handlers=PAGES, middleware=[_COMPRESSED]),
            *stream_routes,
            *phone_routes,
            *ack_routes,
            create_static_files_router(
                "/static", [STATIC], opt={"access": "public"}, include_in_schema=False, middleware=[_COMPRESSED]
            ),
        ],
        plugins=[HTMXPlugin()],
        middleware=[Gate()],
        guards=[enforce_access],
        exception_handlers={**EXCEPTION_HANDLERS, Unauthenticated: _unauthenticated},
        before_send=[_answering],
        request_max_body_size=BODY_MAX,
        template_config=template_config(),
        openapi_config=OpenAPIConfig(
            title="KoraOS Console",
            version="1",
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            openapi_router=Router("/schema", route_handlers=[], opt={"access": "public"}, include_in_schema=False),
            components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
            security=[{"key": []}],
        ),
        logging_config=None,
        debug=False,
    )


def _unauthenticated(request: Request[Any, Any, Any], error: Unauthenticated) -> Response[Any]:
    """Programs get 401; people who opened a page go to the login form and come back afterwards."""
    path = request.scope["path"]
    accept = request.headers.get("accept", "*/*")
    if "HX-Request" in request.headers:
        answer = problem(request, 401, error.title, error.detail)
        answer.headers["HX-Redirect"] = "/login"
        return answer
    wants_page = "text/html" in accept or "*/*" in accept
    if request.method == "GET" and wants_page and not path.startswith("/api/") and "authorization" not in request.headers:
        query = request.scope.get("query_string", b"").decode("latin-1")
        target = path + (f"?{query}" if query else "")
        return Redirect("/login", status_code=303, query_params={"next": target})
    return problem(request, 401, error.title, error.detail, headers={"WWW-Authenticate": 'Bearer realm="kora"'})
