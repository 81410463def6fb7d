"""The page behind the link of an alert's message: one big button, no login, no JavaScript needed, no personal data.

Looking (GET, HEAD) never acknowledges: messengers fetch links to preview them. Only the POST of the page's form does, and
again and again with one effect. Whoever guesses tokens is slowed down per address; a token that we never signed costs no
database query. The page is not indexed and not cached.
"""

from dataclasses import dataclass
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import msgspec
import structlog
from litestar import Request, Response, get, head, post
from litestar.params import FromPath
from litestar.response import Redirect, Template
from sqlalchemy import Connection

from app.credentials import is_ack_token, sha256
from app.domain.redaction import redact_text
from app.store import ack_tokens
from app.store.ack_tokens import Opened
from app.web.i18n import mark, negotiate
from app.web.security import TokenBuckets, check_origin, client_address
from app.web.words import Words

log = structlog.get_logger("web.ack")

AnyRequest = Request[Any, Any, Any]

GUESSES_BURST, GUESSES_PER_MIN = 10, 5
"""Unknown tokens of one address: so many at once, so many a minute afterwards. Good tokens are never slowed down."""
HEADERS: Final = {"X-Robots-Tag": "noindex, nofollow, noarchive", "Cache-Control": "no-store"}
_OPTIONS: Final[dict[str, Any]] = {"opt": {"access": "public"}, "include_in_schema": False}
_SEVERITIES: Final = {
    "critical": ("crit", "triangle", "P1", mark("Critical")),
    "high": ("high", "square", "P2", mark("High")),
    "warning": ("plain", "ring", "P3", mark("Attention")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AckPage:
    """What the page shows. `state`: open | mine | theirs | resolved | expired | unknown | slow."""

    state: str
    words: Words
    opened: Opened | None = None
    scale: float = 1.0

    @property
    def summary(self) -> str:
        """What happened, without anything that looks like a person."""
        return redact_text(self.opened.alert.summary) if self.opened else ""

    @property
    def badge(self) -> tuple[str, str, str, str]:
        """Tone, shape, code and word of the severity."""
        severity = self.opened.alert.severity if self.opened else "warning"
        tone, shape, code, word = _SEVERITIES[severity]
        return tone, shape, code, self.words.text(word)

    @property
    def resends(self) -> bool:
        """Whether further messages would come."""
        return self.opened is not None and self.opened.alert.severity == "critical"


@get("/ack/{token:str}", **_OPTIONS)
async def show_ack(request: AnyRequest, token: FromPath[str]) -> Response[Any]:
    """What the alert says and the two buttons; changes nothing, however often it is fetched."""
    opened = await _opened(request, token)
    return _page(request, opened, _state(opened))


@head("/ack/{token:str}", **_OPTIONS)
async def peek_ack() -> Response[None]:
    """What a preview sees: that there is a page. Nothing is looked up."""
    return Response(None, status_code=200, headers=HEADERS)


@post("/ack/{token:str}", status_code=303, **_OPTIONS)
async def act_on_ack(request: AnyRequest, token: FromPath[str]) -> Response[Any]:
    """`act=ack` (or nothing): taken on. `act=pass`: the next recipient is told. Then back to the page, which says so."""
    check_origin(request)
    opened = await _opened(request, token)
    state = _state(opened)
    if opened is None or state == "expired":
        return _page(request, opened, state)
    services = request.app.state.services
    form = await request.form()
    clock, origin = services.clock.now, client_address(request.scope)[:100]
    if form.get("act") == "pass":
        await services.db.write(_pass_on, opened, clock(), origin)
    elif state != "resolved":
        await services.db.write(_acknowledge, opened, clock, origin)
    services.alerts.wake.set()
    services.hub.wake()
    return Redirect(f"/ack/{token}", status_code=303, headers=HEADERS)


def _acknowledge(conn: Connection, opened: Opened, now: Any, origin: str) -> Any:
    return ack_tokens.acknowledge(conn, opened, how="link", now=now, origin=origin)


def _pass_on(conn: Connection, opened: Opened, now: Any, origin: str) -> Any:
    return ack_tokens.pass_on(conn, opened, how="link", now=now, origin=origin)


class Guesses:
    """How many unknown tokens an address may try."""

    def __init__(self) -> None:
        self.buckets = TokenBuckets(GUESSES_PER_MIN / 60, GUESSES_BURST)


async def _opened(request: AnyRequest, token: str) -> Opened | None:
    """The link behind a token; None for one that is not ours. Raises TooManyRequests for whoever goes on guessing."""
    services = request.app.state.services
    opened = None
    if is_ack_token(services.settings.secret_key, token):
        opened = cast("Opened | None", await services.db.read(ack_tokens.find, sha256(token), services.clock.now()))
    if opened is None:
        address = client_address(request.scope)
        log.warning("ack_token_refused", flow_id="F-06", address=address, status="unknown")
        cast("Guesses", request.app.state.guesses).buckets.require(address)
    return opened


def _state(opened: Opened | None) -> str:
    """What the page is about."""
    if opened is None:
        return "unknown"
    alert = opened.alert
    if alert.acked_at is not None:
        return "mine" if alert.acked_by == ack_tokens.by_name(opened.token.recipient) else "theirs"
    if opened.expired:
        return "expired"
    # an alert that ended only after safe mode began is still a gate of its exit, and wants its ACK
    ended_in_time = alert.status == "resolved" and (alert.safe_mode_at is None or alert.resolved_at < alert.safe_mode_at)
    return "resolved" if ended_in_time else "open"


def _page(request: AnyRequest, opened: Opened | None, state: str) -> Template:
    services = request.app.state.services
    zone = msgspec.json.decode(opened.alert.policy_json)["timezone"] if opened else "America/Sao_Paulo"
    words = Words(negotiate(request), ZoneInfo(zone), services.clock.now())
    page = AckPage(state=state, words=words, opened=opened, scale=services.clock.scale)
    status = {"unknown": 404, "expired": 410}.get(state, 200)
    return Template("ack.html", context={"page": page, "w": words}, status_code=status, headers=HEADERS)


ack_routes: Final[list[Any]] = [show_ack, peek_ack, act_on_ack]
