"""A contact's personal data over HTTP (LGPD): export and erasure."""

from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody

from app.store import subjects
from app.web.api.common import AnyRequest, Document, TenantId, Texts, by, check_ids, problems, require_json, services_of, tenant_of

_ADMIN: Final[dict[str, Any]] = {"opt": {"access": "scope:admin"}, "tags": ["personal data"]}


class EraseBody(msgspec.Struct):
    """Why, and the contact's id again: there is no way back."""

    reason: str
    confirm: str
    tenant_id: str | None = None


@get("/api/v1/contacts/{contact_id:str}/export", summary="All data about a contact", responses=problems(404), **_ADMIN)
async def export_contact(request: AnyRequest, contact_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """Everything that is kept about a contact, whole; the export is audited."""
    check_ids(contact_id=contact_id)
    tenant = await tenant_of(request, tenant_id)
    return await services_of(request).db.write(subjects.export, tenant, contact_id, by(request))


@post(
    "/api/v1/contacts/{contact_id:str}/erase",
    status_code=200,
    before_request=require_json,
    summary="Erase a contact's personal data",
    responses=problems(404, 409),
    **_ADMIN,
)
async def erase_contact(request: AnyRequest, contact_id: FromPath[str], data: JSONBody[EraseBody]) -> Document:
    """Name, number, words, permissions; ids, times and results stay, so the ledger can still be proven. 409 while busy."""
    check_ids(contact_id=contact_id)
    texts = Texts()
    reason = texts.need("/reason", data.reason, 500)
    if data.confirm != contact_id:
        texts.fail("/confirm", "must be the contact's id")
    texts.check()
    tenant = await tenant_of(request, data.tenant_id)
    gone = await services_of(request).db.write(subjects.erase, tenant, contact_id, by(request), reason)
    services_of(request).hub.wake()
    return {"contact_id": contact_id, "erased": gone}


subject_routes: Final = [export_contact, erase_contact]
