"""`GET /stream`: server-sent events for one signed-in browser.

The session guard runs before it, the clinics of the session decide what is queued, and the session is looked at again every
20 s beside the stream, so that it ends with the session, the role or the list of clinics. Signing out ends it at once.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

from litestar import get
from litestar.types import ASGIApp
from sqlalchemy import Connection
from sse_starlette import EventSourceResponse

from app.engine.stream import Audience, Render, StreamHub, Subscriber
from app.errors import KoraError
from app.store.tenancy import scoped
from app.store.views.scope import clinics
from app.web.auth import Actor, Authenticator, actor_of, authenticator
from app.web.connection import UNREAD_WITHIN_S
from app.web.console.visit import DEFAULT_ZONE, AnyRequest, Urls, Viewer, scope_of, services_of
from app.web.fragments import STATE, render_block
from app.web.i18n import negotiate
from app.web.words import Words

RECHECK_S: Final = 20.0
SEND_TIMEOUT_S: Final = 2 * UNREAD_WITHIN_S
"""Behind the connection's own limit, which ends it without an error."""


@get("/stream", opt={"access": "page"}, include_in_schema=False)
async def stream(request: AnyRequest) -> ASGIApp:
    """Changes since `Last-Event-ID` or `?since=`; both missing or unknown: `reset`."""
    services, actor, auth = services_of(request), actor_of(request), authenticator(request)
    hub = services.hub
    if hub.render is None:
        hub.render = renderer(services)
    audience = Audience(scope_of(actor), actor.role or "", negotiate(request))
    since = position(request.headers.get("last-event-id") or request.query_params.get("since"))
    subscriber = hub.subscribe(audience, since, session=actor.session_hash, user_id=actor.id)
    # heartbeats are ours, so the library's own pings are off
    answer = EventSourceResponse(_messages(hub, subscriber, auth, actor), ping=0, send_timeout=SEND_TIMEOUT_S)
    return cast("ASGIApp", answer)


stream_routes: Final[list[Any]] = [stream]


def position(text: str | None) -> int | None:
    """A position of the event log; None for anything that is not one."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None


async def _messages(hub: StreamHub, subscriber: Subscriber, auth: Authenticator, actor: Actor) -> AsyncIterator[bytes]:
    checking = asyncio.create_task(_recheck(subscriber, auth, actor))
    try:
        async for message in subscriber.messages():
            yield message
    finally:
        checking.cancel()
        hub.unsubscribe(subscriber)


async def _recheck(subscriber: Subscriber, auth: Authenticator, actor: Actor) -> None:
    """End the stream once its session is not what it was when the stream began."""
    while True:
        await asyncio.sleep(RECHECK_S)
        try:
            good = await auth.still_good(actor)
        except (OSError, KoraError):
            continue  # the database does not answer: there is nothing to tell either, and the next look decides
        if not good:
            subscriber.close("session")
            return


def renderer(services: Any) -> Render:
    """State fragments of an audience that depend on some topics (none given: all of them)."""

    async def render(audience: Audience, topics: frozenset[str]) -> Mapping[str, str]:
        due = [f for f in STATE if not topics or f.topics & topics]
        if not due:
            return {}

        def load(conn: Connection) -> tuple[Viewer, dict[str, Any]]:
            tenants = audience.tenants
            zone = DEFAULT_ZONE
            if tenants is not None and len(tenants) == 1:
                zone = next((c.timezone for c in clinics(conn, tenants).values()), DEFAULT_ZONE)
            words = Words(audience.language, ZoneInfo(zone), services.clock.now())
            several = tenants is None or len(tenants) != 1
            viewer = Viewer(scope=tenants, role=audience.role, words=words, urls=Urls(), several=several)
            return viewer, {f.id: f.load(conn, viewer) for f in due}

        with scoped(audience.tenants):
            viewer, contexts = await services.db.read(load)
        common = {"w": viewer.words, "urls": viewer.urls}
        return {f.id: render_block(audience.language, f, {**common, f.id: contexts[f.id]}) for f in due}

    return render
