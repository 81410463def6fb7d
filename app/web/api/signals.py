"""Signals over HTTP: what is measured against which limits, what fired, and what other limits would have fired."""

from typing import Annotated, Any, Final

import msgspec
from litestar import get, post, put
from litestar.params import FromPath, JSONBody, QueryParameter

from app.domain.signals import SIGNALS, clean_limits, limit_disorder, limit_faults, limited
from app.errors import Forbidden, InvalidRequest, NotFound
from app.store import settings
from app.store.lanes import GLOBAL_SCOPE
from app.store.views import signals as views
from app.web.api.common import AnyRequest, Document, Limit, TenantId, Texts, by, problems, require_json, services_of, tenant_of
from app.web.auth import actor_of

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["signals"]}
ADMIN: Final[dict[str, Any]] = {"opt": {"access": "scope:admin"}, "tags": ["signals"], "before_request": require_json}

Level = dict[str, float | None]


class LimitsBody(msgspec.Struct):
    """Limits by metric; null, or left out, means what holds without it. A clinic's go over the installation's."""

    warning: Level | None = None
    critical: Level | None = None
    tenant_id: str | None = None
    reason: str | None = None


@get("/api/v1/signals", summary="Every signal with value, thresholds and state", responses=problems(404), **READ)
async def list_signals(request: AnyRequest, tenant_id: TenantId = None) -> Document:
    """Of a clinic; a global key that names none gets those of the installation, with all clinics taken together."""
    scope = await _scope(request, tenant_id)

    def load(conn: Any) -> Document:
        return {"looked_at": views.looked_at(conn), "items": views.listed(conn, scope), "next_cursor": None}

    return await services_of(request).db.read(load)


@get("/api/v1/signals/{signal:str}", summary="One signal with its history", responses=problems(404), **READ)
async def get_signal(request: AnyRequest, signal: FromPath[str], limit: Limit = 50, tenant_id: TenantId = None) -> Document:
    """`firings`, latest first, each with the owner it was given to and the alert it raised."""
    scope = await _scope(request, tenant_id)

    def load(conn: Any) -> Document | None:
        found = views.one(conn, scope, signal)
        if found is None:
            return None
        own = None if scope == GLOBAL_SCOPE and not SIGNALS[signal].is_global else scope
        return found | {"firings": views.firings(conn, None, name=signal, own=own, limit=limit)}

    found = await services_of(request).db.read(load)
    if found is None:
        raise NotFound("There is no such signal here.")
    return found


@post(
    "/api/v1/signals/{signal:str}/preview",
    status_code=200,
    summary="What limits would have fired",
    responses=problems(404),
    **{**READ, "before_request": require_json},
)
async def preview_signal(
    request: AnyRequest,
    signal: FromPath[str],
    data: JSONBody[LimitsBody],
    days: Annotated[int, QueryParameter(ge=1, le=7, description="How many days back")] = 7,
) -> Document:
    """Over what was measured in the last 7 days; changes nothing."""
    scope = await _scope(request, data.tenant_id)
    patch = _patch(signal, data)
    services = services_of(request)
    now = services.clock.now()

    def load(conn: Any) -> Document:
        held = views.limits_of(conn, scope)
        changed = limited(SIGNALS[signal], clean_limits(held, patch))
        _refuse_disorder(signal, limit_disorder(changed))
        return views.previewed(conn, scope, changed, now, views.PREVIEW * days / 7)

    return await services.db.read(load)


@put("/api/v1/signals/{signal:str}/thresholds", summary="Change limits", responses=problems(404), **ADMIN)
async def put_thresholds(request: AnyRequest, signal: FromPath[str], data: JSONBody[LimitsBody]) -> Document:
    """Merges into the `thresholds` of the settings; audited with before and after. Holds from the next look on."""
    scope = await _scope(request, data.tenant_id)
    texts = Texts()
    reason = texts.optional("/reason", data.reason, 500)
    texts.check()
    if scope == GLOBAL_SCOPE and actor_of(request).tenant_ids is not None:
        raise Forbidden("The limits of the installation need a global key.")
    patch = {"thresholds": _patch(signal, data)}
    if SIGNALS[signal].is_global and scope != GLOBAL_SCOPE:
        raise NotFound("This signal belongs to the whole installation; its limits are not a clinic's.")
    services, who = services_of(request), by(request)
    await services.db.write(settings.save, scope, patch, actor=who.actor, now=who.now, reason=reason, origin=who.origin)
    services.hub.wake()
    found = await services.db.read(views.one, scope, signal)
    if found is None:
        raise NotFound("There is no such signal here.")
    return found


def _patch(signal: str, data: LimitsBody) -> dict[str, Any]:
    if signal not in SIGNALS:
        raise NotFound("There is no such signal.")
    levels = {name: dict(level) for name, level in (("warning", data.warning), ("critical", data.critical)) if level is not None}
    errors = [
        {"pointer": pointer.removeprefix(f"/{signal}"), "detail": detail} for pointer, detail in limit_faults({signal: levels})
    ]
    if errors:
        raise InvalidRequest("Some of these limits cannot be used.", errors=errors)
    return {signal: levels}


def _refuse_disorder(signal: str, wrong: list[str]) -> None:
    if wrong:
        errors = [{"pointer": f"/critical/{metric}", "detail": "would be reached before the warning"} for metric in wrong]
        raise InvalidRequest(f"A critical limit of {signal} lies below its warning.", errors=errors)


async def _scope(request: AnyRequest, given: str | None) -> str:
    """The clinic that is asked about, or `global` for a caller of every clinic who names none."""
    if not given and actor_of(request).tenant_ids is None:
        return GLOBAL_SCOPE
    return await tenant_of(request, given)


signal_routes: Final = [list_signals, get_signal, preview_signal, put_thresholds]
