"""Contingency over HTTP: switching a clinic's channel on and off by hand (F-05)."""

from typing import Any, Final

import msgspec
from litestar import get, put
from litestar.params import JSONBody
from sqlalchemy import Connection

from app.store import clocks, contingency, drain
from app.web.api.common import (
    AnyRequest,
    Document,
    TenantId,
    Texts,
    by,
    problems,
    require_json,
    services_of,
    tenant_of,
)

_OPT: Final[dict[str, Any]] = {"tags": ["contingency"]}


class ContingencyBody(msgspec.Struct):
    """One channel's switch. A reason is needed to switch it on, and welcome to switch it off."""

    channel: str
    active: bool
    reason: str | None = None
    tenant_id: str | None = None


@get(
    "/api/v1/contingency",
    opt={"access": "scope:read"},
    summary="Contingency of a clinic, its channels and its drain",
    responses=problems(404),
    **_OPT,
)
async def get_contingency(request: AnyRequest, tenant_id: TenantId = None) -> Document:
    """Whether it is on, since when and why, what is parked, and how the last drain goes."""
    return await services_of(request).db.read(_shown, await tenant_of(request, tenant_id))


@put(
    "/api/v1/contingency",
    opt={"access": "scope:operate"},
    before_request=require_json,
    summary="Switch a channel's contingency on or off",
    responses=problems(404, 413),
    **_OPT,
)
async def put_contingency(request: AnyRequest, data: JSONBody[ContingencyBody], tenant_id: TenantId = None) -> Document:
    """On: sensitive commands are parked, messages are still stored. Off: what is parked leaves at the drain's pace."""
    texts = Texts()
    if data.channel not in contingency.CHANNELS:
        texts.fail("/channel", f"must be one of {', '.join(contingency.CHANNELS)}")
    reason = texts.need("/reason", data.reason or "", 500) if data.active else texts.optional("/reason", data.reason, 500)
    texts.check()
    services, tenant = services_of(request), await tenant_of(request, tenant_id or data.tenant_id)
    await services.db.write(
        contingency.switch, tenant, data.channel, active=data.active, reason=reason or "recovered", by=by(request)
    )
    services.dispatch.wake.set()
    services.drain.wake.set()
    services.hub.wake()
    now = await services.db.read(_shown, tenant)
    mine = next((c for c in now["channels"] if c["channel"] == data.channel), None)
    own = {"channel": data.channel, "active": data.active, "reason": reason, "since": mine["since"] if mine else None}
    return {"contingency_active": now["active"], **now, **own}


@get(
    "/api/v1/clock-skew",
    opt={"access": "scope:read"},
    summary="How far the clocks of a clinic's sources seem off",
    responses=problems(404),
    **_OPT,
)
async def get_clock_skew(request: AnyRequest, tenant_id: TenantId = None) -> Document:
    """Each source as last measured: `ahead` or `behind` by more than the clinic's `clock_skew_s`, or `fine`."""
    found = await services_of(request).db.read(clocks.clocks, await tenant_of(request, tenant_id))
    return {"items": found, "next_cursor": None}


def _shown(conn: Connection, tenant_id: str) -> Document:
    return contingency.status(conn, tenant_id) | {"drain": drain.latest(conn, tenant_id)}


contingency_routes: Final = [get_contingency, put_contingency, get_clock_skew]
