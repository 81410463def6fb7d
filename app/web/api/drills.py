"""Failure drills over HTTP: ask for one, follow it, read its report."""

from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody

from app.engine.redis_locks import RedisLocks
from app.errors import Conflict, Forbidden, NotFound
from app.store import drills
from app.web.api.common import AnyRequest, Document, Limit, Texts, by, check_ids, json_or_nothing, problems, services_of
from app.web.auth import actor_of

REASON: Final = "asked for over the API"
"""What the audit trail says of a drill for which no reason was given."""
READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["drills"]}


class DrillBody(msgspec.Struct):
    """Why it is run; it stays in the audit trail."""

    reason: str | None = None


@post(
    "/api/v1/drills/redis",
    status_code=202,
    opt={"access": "scope:admin"},
    tags=["drills"],
    before_request=json_or_nothing,
    summary="Run a Redis failure drill",
    responses=problems(403, 409),
)
async def start_drill(request: AnyRequest, data: JSONBody[DrillBody | None] = None) -> Document:
    """On the drill's own clinic, inside the live system. 409 without Redis, while one runs, and outside normal mode.

    Without a body, or without a reason in it, the audit trail says that it was asked for over the API.
    """
    _everybodys(request)
    texts = Texts()
    given = data.reason if data is not None else None
    reason = REASON if given is None else texts.need("/reason", given, 500)
    texts.check()
    return await started(request, reason)


async def started(request: AnyRequest, reason: str) -> Document:
    """Ask for a run on behalf of the request's caller; the engine of a node with Redis takes it."""
    services = services_of(request)
    if not isinstance(services.locks, RedisLocks):
        raise Conflict("This installation runs without Redis: there is nothing whose failure could be rehearsed.")
    drill_id = await services.db.write(drills.ask, by(request), reason)
    services.drills.wake.set()
    services.hub.wake()
    row = await services.db.read(drills.drill, drill_id)
    assert row is not None
    return drills.document(row)


@get("/api/v1/drills", summary="Failure drills", responses=problems(403), **READ)
async def list_drills(request: AnyRequest, limit: Limit = 50) -> Document:
    """The newest first; `normal` once the last two were clean."""
    _everybodys(request)

    def load(conn: Any) -> Document:
        return {
            "normal": drills.normal(conn),
            "items": [drills.document(r) for r in drills.drills(conn, limit)],
            "next_cursor": None,
        }

    return await services_of(request).db.read(load)


@get("/api/v1/drills/{drill_id:str}", summary="One failure drill with its report", responses=problems(403, 404), **READ)
async def get_drill(request: AnyRequest, drill_id: FromPath[str]) -> Document:
    """Phase, what was measured, the verdict with its risks and warnings, the evidence pack."""
    _everybodys(request)
    check_ids(drill_id=drill_id)
    row = await services_of(request).db.read(drills.drill, drill_id)
    if row is None:
        raise NotFound("There is no such drill.")
    return drills.document(row)


def _everybodys(request: AnyRequest) -> None:
    if actor_of(request).tenant_ids is not None:
        raise Forbidden("Drills belong to the installation; this needs a global key.")


drill_routes: Final = [start_drill, list_drills, get_drill]
