"""Contacts, patients, therapists and permissions over HTTP; shapes in the interface document."""

from typing import Annotated, Any, Final

import msgspec
from litestar import delete, get, put
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.exc import IntegrityError

from app.domain.phones import e164
from app.errors import Conflict, NotFound
from app.store import people
from app.web.api.common import (
    AnyRequest,
    Cursor,
    Document,
    Limit,
    TenantId,
    Texts,
    by,
    check_ids,
    locale_of,
    page,
    problems,
    read_cursor,
    require_json,
    services_of,
    tenant_of,
)
from app.web.api.waiting import with_sentence

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["people"]}
WRITE: Final[dict[str, Any]] = {"opt": {"access": "scope:operate"}, "tags": ["people"]}


class ContactBody(msgspec.Struct):
    """A contact as a whole: what is left out is emptied."""

    phone: str | None = None
    name: str | None = None
    tenant_id: str | None = None


class NamedBody(msgspec.Struct):
    """A patient or a therapist."""

    name: str
    tenant_id: str | None = None


class GuardianBody(msgspec.Struct):
    """A permission as a whole; without `verified_by` and `verification_method` it grants nothing."""

    is_primary: bool = False
    can_schedule: bool = False
    can_cancel: bool = False
    verified_by: str | None = None
    verification_method: str | None = None
    reason: str | None = None
    tenant_id: str | None = None


# --- contacts -----------------------------------------------------------------------------------------------------------


@get("/api/v1/contacts", summary="The clinic's contacts", responses=problems(404), **READ)
async def list_contacts(request: AnyRequest, limit: Limit = 50, cursor: Cursor = None, tenant_id: TenantId = None) -> Document:
    """By contact id."""
    after = read_cursor(cursor, str)
    tenant, services = await tenant_of(request, tenant_id), services_of(request)
    start = after[0] if after else None
    found = await services.db.read(people.contacts, tenant, services.clock.now(), after=start, limit=limit + 1)
    return page([with_sentence(item, locale_of(request)) for item in found], limit, "contact_id")


@get("/api/v1/contacts/{contact_id:str}", summary="A contact: versions, takeover, lane", responses=problems(404), **READ)
async def get_contact(request: AnyRequest, contact_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """What a program needs to know before it decides a command, and what the lane waits for if something waits in it."""
    check_ids(contact_id=contact_id)
    services = services_of(request)
    found = await services.db.read(people.contact, await tenant_of(request, tenant_id), contact_id, services.clock.now())
    if found is None:
        raise NotFound("There is no such contact.")
    return with_sentence(found, locale_of(request))


@put(
    "/api/v1/contacts/{contact_id:str}",
    before_request=require_json,
    summary="Create or replace a contact",
    responses=problems(404, 409, 413),
    **WRITE,
)
async def put_contact(
    request: AnyRequest, contact_id: FromPath[str], data: JSONBody[ContactBody], tenant_id: TenantId = None
) -> Document:
    """The number is stored as E.164; another contact's number is a conflict."""
    texts = Texts()
    texts.need("/contact_id", contact_id)
    name, given = texts.optional("/name", data.name), texts.optional("/phone", data.phone, 40)
    phone = e164(given)
    if given is not None and phone is None:
        texts.fail("/phone", "is not a phone number, such as +5511987654321")
    texts.check()
    tenant = await tenant_of(request, tenant_id or data.tenant_id)
    services = services_of(request)
    try:
        saved = await services.db.write(people.put_contact, tenant, contact_id, phone=phone, name=name, by=by(request))
    except IntegrityError as error:
        raise Conflict("Another contact got this number at the same moment; nothing was changed.") from error
    services.hub.wake()
    return with_sentence(saved, locale_of(request))


# --- patients and therapists --------------------------------------------------------------------------------------------


@get("/api/v1/patients", summary="The clinic's patients", responses=problems(404), **READ)
async def list_patients(request: AnyRequest, limit: Limit = 50, cursor: Cursor = None, tenant_id: TenantId = None) -> Document:
    """By patient id."""
    after = read_cursor(cursor, str)
    tenant = await tenant_of(request, tenant_id)
    found = await services_of(request).db.read(people.patients, tenant, after=after[0] if after else None, limit=limit + 1)
    return page(found, limit, "patient_id")


@get("/api/v1/patients/{patient_id:str}", summary="A patient with its permissions", responses=problems(404), **READ)
async def get_patient(request: AnyRequest, patient_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """Name and every permission, revoked ones included."""
    check_ids(patient_id=patient_id)
    found = await services_of(request).db.read(people.patient, await tenant_of(request, tenant_id), patient_id)
    if found is None:
        raise NotFound("There is no such patient.")
    return found


@put(
    "/api/v1/patients/{patient_id:str}",
    before_request=require_json,
    summary="Create or replace a patient",
    responses=problems(404, 413),
    **WRITE,
)
async def put_patient(
    request: AnyRequest, patient_id: FromPath[str], data: JSONBody[NamedBody], tenant_id: TenantId = None
) -> Document:
    """Permissions stay as they are."""
    name = _named("patient_id", patient_id, data)
    services, tenant = services_of(request), await tenant_of(request, tenant_id or data.tenant_id)
    saved = await services.db.write(people.put_patient, tenant, patient_id, name=name, by=by(request))
    services.hub.wake()
    return saved


@get("/api/v1/therapists", summary="The clinic's therapists", responses=problems(404), **READ)
async def list_therapists(request: AnyRequest, limit: Limit = 50, cursor: Cursor = None, tenant_id: TenantId = None) -> Document:
    """By therapist id."""
    after = read_cursor(cursor, str)
    tenant = await tenant_of(request, tenant_id)
    found = await services_of(request).db.read(people.therapists, tenant, after=after[0] if after else None, limit=limit + 1)
    return page(found, limit, "therapist_id")


@get("/api/v1/therapists/{therapist_id:str}", summary="A therapist", responses=problems(404), **READ)
async def get_therapist(request: AnyRequest, therapist_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """Name of the owner of an agenda column."""
    check_ids(therapist_id=therapist_id)
    found = await services_of(request).db.read(people.therapist, await tenant_of(request, tenant_id), therapist_id)
    if found is None:
        raise NotFound("There is no such therapist.")
    return found


@put(
    "/api/v1/therapists/{therapist_id:str}",
    before_request=require_json,
    summary="Create or replace a therapist",
    responses=problems(404, 413),
    **WRITE,
)
async def put_therapist(
    request: AnyRequest, therapist_id: FromPath[str], data: JSONBody[NamedBody], tenant_id: TenantId = None
) -> Document:
    """An agenda column with a name."""
    name = _named("therapist_id", therapist_id, data)
    services, tenant = services_of(request), await tenant_of(request, tenant_id or data.tenant_id)
    saved = await services.db.write(people.put_therapist, tenant, therapist_id, name=name, by=by(request))
    services.hub.wake()
    return saved


def _named(id_name: str, given_id: str, data: NamedBody) -> str:
    texts = Texts()
    texts.need(f"/{id_name}", given_id)
    name = texts.need("/name", data.name)
    texts.check()
    return name


# --- permissions --------------------------------------------------------------------------------------------------------

_GUARDIAN: Final = "/api/v1/patients/{patient_id:str}/guardians/{contact_id:str}"


@get("/api/v1/patients/{patient_id:str}/guardians", summary="A patient's permissions", responses=problems(404), **READ)
async def list_guardians(request: AnyRequest, patient_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """Every one, revoked ones included."""
    check_ids(patient_id=patient_id)
    found = await services_of(request).db.read(people.patient, await tenant_of(request, tenant_id), patient_id)
    if found is None:
        raise NotFound("There is no such patient.")
    return {"items": found["guardians"], "next_cursor": None}


@get(_GUARDIAN, summary="One permission", responses=problems(404), **READ)
async def get_guardian(
    request: AnyRequest, patient_id: FromPath[str], contact_id: FromPath[str], tenant_id: TenantId = None
) -> Document:
    """Revoked or not."""
    check_ids(patient_id=patient_id, contact_id=contact_id)
    tenant = await tenant_of(request, tenant_id)
    found = await services_of(request).db.read(people.guardian, tenant, patient_id, contact_id)
    if found is None:
        raise NotFound("This contact has no permission for this patient.")
    return found


@put(_GUARDIAN, before_request=require_json, summary="Create or replace a permission", responses=problems(404, 413), **WRITE)
async def put_guardian(
    request: AnyRequest,
    patient_id: FromPath[str],
    contact_id: FromPath[str],
    data: JSONBody[GuardianBody],
    tenant_id: TenantId = None,
) -> Document:
    """Raises the contact's `guardian_version` by one when it changes anything; the answer carries the new version."""
    texts = Texts()
    texts.need("/patient_id", patient_id)
    texts.need("/contact_id", contact_id)
    permission = {
        "is_primary": data.is_primary,
        "can_schedule": data.can_schedule,
        "can_cancel": data.can_cancel,
        "verified_by": texts.optional("/verified_by", data.verified_by),
        "verification_method": texts.optional("/verification_method", data.verification_method, 60),
        "reason": texts.optional("/reason", data.reason, 500),
    }
    texts.check()
    services, tenant = services_of(request), await tenant_of(request, tenant_id or data.tenant_id)
    saved = await services.db.write(people.put_guardian, tenant, patient_id, contact_id, permission, by=by(request))
    services.hub.wake()
    return saved


@delete(_GUARDIAN, status_code=200, summary="Revoke a permission", responses=problems(404), **WRITE)
async def revoke_guardian(
    request: AnyRequest,
    patient_id: FromPath[str],
    contact_id: FromPath[str],
    tenant_id: TenantId = None,
    reason: Annotated[str | None, QueryParameter(max_length=500)] = None,
) -> Document:
    """The row stays, with `revoked_at`; the contact's `guardian_version` grows by one."""
    check_ids(patient_id=patient_id, contact_id=contact_id)
    texts = Texts()
    why = texts.optional("/reason", reason, 500)
    texts.check()
    services, tenant = services_of(request), await tenant_of(request, tenant_id)
    saved = await services.db.write(people.revoke_guardian, tenant, patient_id, contact_id, reason=why, by=by(request))
    services.hub.wake()
    return saved


people_routes: Final = [
    list_contacts,
    get_contact,
    put_contact,
    list_patients,
    get_patient,
    put_patient,
    list_therapists,
    get_therapist,
    put_therapist,
    list_guardians,
    get_guardian,
    put_guardian,
    revoke_guardian,
]
