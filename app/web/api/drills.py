"""Failure drills over HTTP: ask for one, follow it, read its report."""

from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody

from app.engine.redis_locks import RedisLocks
from app.errors import Conflict, Forbidden, NotFound
from app.store import drills
from app.web.api.common import AnyRequest, Document, Limit, Texts, by, check_ids, problems, require_json, services_of
from app.web.auth import actor_of

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["drills"]}


class DrillBody(msgspec.Struct):
    """Why it is run; it stays in the audit trail."""

    reason: str


@post(
    "/api/v1/drills/redis",
    status_code=202,
    opt={"access": "scope:admin"},
    tags=["drills"],
    before_request=require_json,
    summary="Run a Redis failure drill",
    responses=problems(403, 409),
)
async def start_drill(request: AnyRequest, data: JSONBody[DrillBody]) -> Document:
    """On the drill's own clinic, inside the live system. 409 without Redis, while one runs, and outside normal mode."""
    _everybodys(request)
    texts = Texts()
    reason = texts.need("/reason", data.reason, 500)
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
