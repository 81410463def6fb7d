"""The deferred item over HTTP: its live trigger, what met it, and people's decision."""

from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.params import JSONBody

from app.errors import Forbidden
from app.store import deferred
from app.web.api.common import AnyRequest, Document, Texts, by, problems, require_json, services_of
from app.web.auth import actor_of

TAGS: Final = ["traceability"]


class DecisionBody(msgspec.Struct):
    """Why the item stays deferred; `rev` is that of the item that was looked at."""

    reason: str
    rev: int


@get(
    "/api/v1/deferred",
    opt={"access": "scope:read"},
    tags=TAGS,
    summary="The deferred item with its live trigger",
    responses=problems(),
)
async def get_deferred(request: AnyRequest) -> Document:
    """S-PC-P1-001 (n8n high availability): counts against the limits of its trigger, progress 0 to 1, what met it."""
    services = services_of(request)

    def load(conn: Any) -> Document:
        return _for(request, deferred.document(deferred.look(conn, services.clock.now())))

    return await services.db.read(load)


@post(
    "/api/v1/deferred/decision",
    opt={"access": "scope:admin"},
    status_code=200,
    tags=TAGS,
    summary="Defer the reopened item again",
    before_request=require_json,
    responses=problems(403, 409),
)
async def decide(request: AnyRequest, data: JSONBody[DecisionBody]) -> Document:
    """With a reason, audited; what met the trigger does not count again. Needs a global key."""
    if actor_of(request).tenant_ids is not None:
        raise Forbidden("The deferred item belongs to the installation; this needs a global key.")
    texts = Texts()
    reason = texts.need("/reason", data.reason, 500)
    texts.check()
    services = services_of(request)
    await services.db.write(deferred.decide, by(request), reason, rev=data.rev)
    services.hub.wake()
    return await services.db.read(lambda conn: deferred.document(deferred.look(conn, services.clock.now())))


def _for(request: AnyRequest, found: Document) -> Document:
    """A clinic's key sees counts and days, not the alerts of others behind them."""
    if actor_of(request).tenant_ids is None:
        return found
    return found | {
        "incidents": found["incidents"] | {"items": []},
        "met_by": None,
        "alert_id": None,
        "evidence_pack_id": None,
        "decided_by": None,
        "decision": None,
    }


deferred_routes: Final = [get_deferred, decide]
