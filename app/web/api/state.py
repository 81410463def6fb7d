"""Lanes, queue, agenda and settings over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import get, put
from litestar.params import FromPath, JSONBody, QueryParameter

from app.domain.envelopes import parse_time
from app.errors import Forbidden, InvalidRequest, NotFound
from app.store import agenda_reads, items, settings
from app.web.api.channels import refuse_unusable
from app.web.api.common import (
    AnyRequest,
    Cursor,
    Document,
    Limit,
    TenantId,
    Texts,
    by,
    check_ids,
    cursor_time,
    explained,
    locale_of,
    next_cursor,
    page,
    problems,
    read_cursor,
    require_json,
    services_of,
    storable,
    tenant_of,
)
from app.web.auth import actor_of

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["state"]}
ADMIN: Final[dict[str, Any]] = {"opt": {"access": "scope:admin"}, "tags": ["settings"]}
Wanted = Annotated[str | None, QueryParameter(max_length=200)]


@get("/api/v1/contacts/{contact_id:str}/lane", summary="A contact's messages and commands", responses=problems(404), **READ)
async def get_lane(
    request: AnyRequest,
    contact_id: FromPath[str],
    limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 500,
    cursor: Cursor = None,
    tenant_id: TenantId = None,
) -> Document:
    """Done and waiting, in causal order."""
    check_ids(contact_id=contact_id)
    found = await services_of(request).db.read(
        items.lane, await tenant_of(request, tenant_id), contact_id, after=_lane_position(cursor), limit=limit
    )
    if found is None:
        raise NotFound("There is no such contact.")
    shown, position = found
    further = None
    if position is not None:
        at = position.placeless_at
        further = next_cursor(position.sequence, position.commit_order, at.isoformat() if at else "", position.placeless_id)
    return {"items": shown, "next_cursor": further}


def _lane_position(cursor: str | None) -> items.LanePosition:
    given = read_cursor(cursor, int, int, str, str)
    if given is None:
        return items.LanePosition()
    return items.LanePosition(given[0], given[1], cursor_time(given[2]) if given[2] else None, given[3])


@get("/api/v1/queue", summary="What waits, in the order in which it will be served", responses=problems(404), **READ)
async def get_queue(request: AnyRequest, limit: Limit = 50, cursor: Cursor = None, tenant_id: TenantId = None) -> Document:
    """Waiting and parked commands with priority, age and reason; the order moves on while it is read."""
    given = read_cursor(cursor, int)
    offset = given[0] if given else 0
    services, locale = services_of(request), locale_of(request)
    found = await services.db.read(
        items.queue, await tenant_of(request, tenant_id), services.clock.now(), offset=offset, limit=limit
    )
    more = bool(found.items) and offset + len(found.items) < found.total
    return {
        "items": [explained(item, locale) for item in found.items],
        "next_cursor": next_cursor(offset + len(found.items)) if more else None,
        "total": found.total,
        "unheard": found.unheard,
    }


# --- agenda -------------------------------------------------------------------------------------------------------------


@get("/api/v1/appointments", summary="The agenda", responses=problems(404), **READ)
async def list_appointments(
    request: AnyRequest,
    limit: Limit = 50,
    cursor: Cursor = None,
    from_: Annotated[str | None, QueryParameter(name="from", max_length=40, description="RFC 3339 time")] = None,
    to: Annotated[str | None, QueryParameter(max_length=40, description="RFC 3339 time")] = None,
    therapist_id: Wanted = None,
    patient_id: Wanted = None,
    tenant_id: TenantId = None,
) -> Document:
    """By start; `from` and `to` keep what overlaps them."""
    texts = Texts()
    wanted = {
        "from_at": _time(texts, "/from", from_),
        "to_at": _time(texts, "/to", to),
        "therapist_id": texts.optional("/therapist_id", therapist_id),
        "patient_id": texts.optional("/patient_id", patient_id),
    }
    texts.check()
    given = read_cursor(cursor, str, str)
    after = (cursor_time(given[0]), given[1]) if given else None
    tenant = await tenant_of(request, tenant_id)
    found = await services_of(request).db.read(agenda_reads.appointments, tenant, limit=limit + 1, after=after, **wanted)  # type: ignore[arg-type]  # each name has its type
    return page(found, limit, "start", "appointment_id")


@get("/api/v1/appointments/{appointment_id:str}", summary="One appointment", responses=problems(404), **READ)
async def get_appointment(request: AnyRequest, appointment_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """As it is now."""
    check_ids(appointment_id=appointment_id)
    found = await services_of(request).db.read(agenda_reads.appointment, await tenant_of(request, tenant_id), appointment_id)
    if found is None:
        raise NotFound("There is no such appointment.")
    return found


@get(
    "/api/v1/appointments/{appointment_id:str}/versions",
    summary="What an appointment was, and which command made it so",
    responses=problems(404),
    **READ,
)
async def get_appointment_versions(
    request: AnyRequest,
    appointment_id: FromPath[str],
    at: Annotated[str | None, QueryParameter(max_length=40, description="RFC 3339 time: only the version that held then")] = None,
    tenant_id: TenantId = None,
) -> Document:
    """Oldest first."""
    check_ids(appointment_id=appointment_id)
    texts = Texts()
    moment = _time(texts, "/at", at)
    texts.check()
    tenant = await tenant_of(request, tenant_id)
    found = await services_of(request).db.read(agenda_reads.versions, tenant, appointment_id, at=moment)
    if found is None:
        raise NotFound("There is no such appointment.")
    return {"items": found, "next_cursor": None}


def _time(texts: Texts, pointer: str, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return parse_time(value)
    except ValueError as error:
        texts.fail(pointer, str(error))
        return None


# --- settings -----------------------------------------------------------------------------------------------------------


@get("/api/v1/settings/{tenant:str}", summary="What holds for a clinic, or `global`", responses=problems(404), **ADMIN)
async def get_settings(request: AnyRequest, tenant: FromPath[str]) -> Document:
    """Secrets are shown as `***`."""
    return settings.masked(await services_of(request).db.read(settings.load, await _scope(request, tenant)))


@put(
    "/api/v1/settings/{tenant:str}",
    before_request=require_json,
    summary="Merge a change into the settings",
    responses=problems(404, 413),
    **ADMIN,
)
async def put_settings(
    request: AnyRequest,
    tenant: FromPath[str],
    data: JSONBody[dict[str, Any]],
    reason: Annotated[str | None, QueryParameter(max_length=1_000)] = None,
) -> Document:
    """A `null` removes a key, `***` keeps the stored secret; the change is audited with before and after."""
    name = await _scope(request, tenant)
    if not storable(data) or not storable(reason):
        raise InvalidRequest(
            "Some values of this request cannot be used.",
            errors=[{"pointer": "", "detail": "contains a null byte, an unpaired surrogate or too many levels"}],
        )
    services, who = services_of(request), by(request)
    await refuse_unusable(request, data)
    saved = await services.db.write(settings.save, name, data, actor=who.actor, now=who.now, reason=reason, origin=who.origin)
    services.policies.forget()
    services.channels.forget()
    services.hub.wake()
    return settings.masked(saved)


async def _scope(request: AnyRequest, given: str) -> str:
    """A tenant's id, or `global` for those who see every clinic."""
    if given != settings.GLOBAL_SCOPE:
        return await tenant_of(request, given)
    if actor_of(request).tenant_ids is not None:
        raise Forbidden("The global settings need a global key.")
    return settings.GLOBAL_SCOPE


state_routes: Final = [
    get_lane,
    get_queue,
    list_appointments,
    get_appointment,
    get_appointment_versions,
    get_settings,
    put_settings,
]
