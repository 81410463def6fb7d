"""Is it alive, may it get traffic, how is each part, and the numbers for Prometheus. Nothing here is personal."""

import asyncio
import time
from collections.abc import Awaitable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from litestar import MediaType, Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from redis.exceptions import RedisError
from sqlalchemy import Connection, text

from app.domain.states import LockResult
from app.engine.redis_locks import RedisLocks
from app.engine.supervisor import STALL_AFTER_S
from app.errors import StorageError
from app.web.api.shapes import OpenOperation

if TYPE_CHECKING:
    from app.bootstrap import Services

AnyRequest = Request[Any, Any, Any]

PROBE_WITHIN_S: Final = 2.0
_PUBLIC: Final = {"access": "public"}
_ASKED_NOW: Final = frozenset({"redis", "loops"})
"""Checks of the newest sample that this answer asks by itself."""


class HealthBoard:
    """Remembers since when each component has been in its state."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, datetime]] = {}

    def entry(
        self, name: str, *, fine: bool, now: datetime, latency_ms: float | None = None, detail: str | None = None
    ) -> dict[str, Any]:
        """One line of the answer."""
        status = "green" if fine else "red"
        known = self._since.get(name)
        if known is None or known[0] != status:
            known = self._since[name] = (status, now)
        entry: dict[str, Any] = {"name": name, "status": status, "since": _rfc3339(known[1])}
        entry["latency_ms"] = None if latency_ms is None else round(latency_ms, 2)
        if detail:
            entry["detail"] = detail
        return entry


@get("/healthz", opt=_PUBLIC, tags=["health"], summary="The process answers", operation_class=OpenOperation)
async def healthz() -> dict[str, str]:
    """Live: nothing is asked but the event loop."""
    return {"status": "ok"}


@get(
    "/readyz",
    opt=_PUBLIC,
    tags=["health"],
    summary="The process may get traffic",
    operation_class=OpenOperation,
    responses={503: ResponseSpec(dict[str, Any], description="It may not; `reasons` says why", generate_examples=False)},
)
async def readyz(request: AnyRequest) -> Response[dict[str, Any]]:
    """Ready: the database answers, no loop has failed or stalled, and the process is not stopping; 503 otherwise."""
    services = _services(request)
    reasons = []
    if services.supervisor.stop.is_set():
        reasons.append("stopping")
    if services.supervisor.defect is not None:
        reasons.append("an engine loop failed")
    reasons += [f"loop {name} is stalled" for name in services.supervisor.stalled()]
    fine, _, _ = await _timed(services.db.read(_ping))
    if not fine:
        reasons.append("the database does not answer")
    status = 503 if reasons else 200
    return Response({"status": "not_ready" if reasons else "ready", "reasons": reasons}, status_code=status)


@get("/metrics", opt=_PUBLIC, include_in_schema=False)
async def metrics(request: AnyRequest) -> Response[bytes]:
    """Prometheus text, or OpenMetrics when the scraper asks for it."""
    body, content_type = _services(request).metrics.render(request.headers.get("accept", ""))
    return Response(body, media_type=content_type, headers={"content-type": content_type})  # which names its charset itself


@get(
    "/api/v1/health",
    opt=_PUBLIC,
    media_type=MediaType.JSON,
    tags=["health"],
    summary="Each component, green or red",
    operation_class=OpenOperation,
)
async def health(request: AnyRequest) -> dict[str, Any]:
    """Database, Redis (if configured), every loop, the lock mode, and the newest sample of the other checks of safe mode's exit."""
    services = _services(request)
    board, now = cast("HealthBoard", request.app.state.health), services.clock.now()
    probes = [_timed(services.db.read(_ping))]
    if isinstance(services.locks, RedisLocks):
        probes.append(_timed(_ping_redis(services.locks)))
    results = await asyncio.gather(*probes)
    components = [
        board.entry(name, fine=fine, now=now, latency_ms=ms, detail=detail)
        for name, (fine, ms, detail) in zip(("database", "redis"), results, strict=False)
    ]
    for name, beat in sorted(services.supervisor.heartbeats.items()):
        fine = beat.last_error is None and beat.age_s() <= STALL_AFTER_S
        detail = None if fine else beat.last_error or "does not beat"
        components.append(board.entry(f"loop:{name}", fine=fine, now=now, detail=detail))
    mode, silent = services.locks.mode, services.health.stores_silent
    said = str(LockResult.LOCK_ACQUIRE_FAILED_SAFE_BLOCK) if silent else f"mode {mode}"
    components.append(board.entry("locks", fine=mode != "fallback" and not silent, now=now, detail=said))
    for name, check in sorted((services.health.latest or (now, {}))[1].items()):
        if name not in _ASKED_NOW:
            components.append(board.entry(name, fine=check.green, now=now, latency_ms=check.ms, detail=check.detail or None))
    worst = "green" if all(c["status"] == "green" for c in components) else "red"
    return {"status": worst, "node_id": services.node_id, "lock_mode": mode, "components": components}


health_routes: Final[list[Any]] = [healthz, readyz, metrics, health]


async def _timed(probe: Awaitable[object]) -> tuple[bool, float, str | None]:
    """Whether a probe came back in time, after how many milliseconds, and what was wrong."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(PROBE_WITHIN_S):
            await probe
    except (StorageError, RedisError, OSError) as error:
        return False, (time.perf_counter() - started) * 1000, type(error).__name__
    return True, (time.perf_counter() - started) * 1000, None


def _ping(conn: Connection) -> None:
    conn.execute(text("SELECT 1")).scalar_one()


async def _ping_redis(locks: RedisLocks) -> None:
    await cast("Awaitable[Any]", locks.redis.ping())


def _services(request: AnyRequest) -> "Services":
    return cast("Services", request.app.state.services)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
