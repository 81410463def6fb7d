"""Evidence packs over HTTP (S-PC-04-003): by correlation id, and about contacts, alerts, episodes, batches and takeovers.

Packs are redacted; a superadmin may ask for a full one, which is audited and kept nowhere. Every download is audited.
Machines need the scope `read`; of people, managers and superadmins see packs, of their own clinics only.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from app.domain.envelopes import parse_time
from app.domain.evidence_check import document_of
from app.domain.evidence_kinds import EvidenceKind
from app.errors import Forbidden, InvalidRequest, NotFound
from app.signing import ALGORITHM
from app.store import evidence, signing_keys
from app.store.views import evidence as views
from app.store.views.scope import Scope
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
    page,
    problems,
    read_cursor,
    require_json,
    services_of,
    tenant_of,
)
from app.web.api.shapes import also_as
from app.web.auth import actor_of

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["evidence"]}
OPERATE: Final[dict[str, Any]] = {"opt": {"access": "scope:operate"}, "tags": ["evidence"]}
ASKABLE: Final = tuple(str(kind) for kind in EvidenceKind if kind not in (EvidenceKind.DRILL, EvidenceKind.DEFERRED))
"""Kinds that can be asked for; a drill and the deferred item make their own packs."""
Full = Annotated[bool, QueryParameter(description="With personal data; superadmins only, audited, not kept")]
Reason = Annotated[str | None, QueryParameter(max_length=500, description="Why, for the audit trail; needed with `full`")]


class PackBody(msgspec.Struct, rename={"from_": "from"}):
    """What a pack is about: `subject` is a correlation id, contact, alert, episode, replay or ticket."""

    kind: str
    subject: str
    reason: str = ""
    from_: str | None = None
    until: str | None = None
    tenant_id: str | None = None


@post(
    "/api/v1/evidence",
    before_request=require_json,
    status_code=201,
    summary="Build an evidence pack now",
    responses=problems(404, 409, 413),
    **OPERATE,
)
async def build_pack(request: AnyRequest, data: JSONBody[PackBody]) -> Document:
    """Answers the pack as the facts are now; one that exists and still says the same is answered again."""
    texts = Texts()
    if data.kind not in ASKABLE:
        texts.fail("/kind", f"must be one of {', '.join(ASKABLE)}")
    subject = texts.need("/subject", data.subject, 300)
    reason = texts.optional("/reason", data.reason, 500) or "asked for"
    from_at, until_at = _time(texts, "/from", data.from_), _time(texts, "/until", data.until)
    if (from_at or until_at) and data.kind != EvidenceKind.CONTACT:
        texts.fail("/kind", "only a pack about a contact has a time range")
    texts.check()
    tenant_id = await subject_tenant(request, data.kind, subject, data.tenant_id)
    wanted = wanted_of(request, tenant_id, data.kind, subject, reason, from_at=from_at, until_at=until_at)
    row = await built(request, wanted)
    return views.document(row, wanted.requested_at)


@get("/api/v1/evidence", summary="Evidence packs, latest first", responses=problems(404), **READ)
async def list_packs(
    request: AnyRequest,
    limit: Limit = 50,
    cursor: Cursor = None,
    kind: Annotated[str | None, QueryParameter(max_length=20, description="One kind only")] = None,
    tenant_id: TenantId = None,
) -> Document:
    """Those of the caller's clinics; a global key and a superadmin also see those of the whole installation."""
    may_see(request)
    given = read_cursor(cursor, str, str)
    after = (cursor_time(given[0]), given[1]) if given else None
    scope: Scope = (await tenant_of(request, tenant_id),) if tenant_id else _scope(request)
    services = services_of(request)
    rows = await services.db.read(evidence.packs, scope, kind=kind, after=after, limit=limit + 1)
    now = services.clock.now()
    return page([views.document(row, now) for row in rows], limit, "requested_at", "pack_id")


@get(
    "/api/v1/evidence/{correlation_id:str}",
    summary="The evidence of one flow",
    operation_class=also_as("application/zip"),
    responses=problems(404, 409),
    **READ,
)
async def get_flow(
    request: AnyRequest, correlation_id: FromPath[str], full: Full = False, reason: Reason = None, tenant_id: TenantId = None
) -> Response[Any]:
    """`.zip` gives the signed pack, `.json` (or nothing) the same as one document; built at once when there is none."""
    subject, form = _split(correlation_id)
    check_ids(correlation_id=subject)
    may_see(request)
    tenant = await tenant_of(request, tenant_id)
    wanted = wanted_of(request, tenant, EvidenceKind.FLOW, subject, reason or "asked for")
    if full:
        return answer(subject, form, await full_pack(request, wanted, reason))
    return await download(request, await built(request, wanted), form)


@get(
    "/api/v1/evidence-packs/{pack_id:str}",
    summary="One evidence pack",
    operation_class=also_as("application/zip"),
    responses=problems(404, 409),
    **READ,
)
async def get_pack(request: AnyRequest, pack_id: FromPath[str], full: Full = False, reason: Reason = None) -> Response[Any]:
    """With `.zip` or `.json` the pack itself; without, what is known about it."""
    name, form = _split(pack_id, none="")
    row = await visible_pack(request, name)
    if full:
        again = wanted_of(
            request, row.tenant_id, row.kind, row.subject, reason or "", from_at=row.from_at, until_at=row.until_at, like=row
        )
        return answer(row.subject, form or "json", await full_pack(request, again, reason))
    if not form:
        return Response(views.document(row, services_of(request).clock.now()))
    return await download(request, row, form)


@get("/api/v1/evidence-key", summary="The public keys that packs are signed with", responses=problems(), **READ)
async def get_keys(request: AnyRequest) -> Document:
    """The first one signs now; the others signed before. Give one to whoever must check a pack without trusting it."""
    await services_of(request).evidence.keys.signer()
    rows = await services_of(request).db.read(signing_keys.every)
    shown = [{name: getattr(row, name) for name in ("key_id", "public_key", "created_at", "retired_at")} for row in rows]
    return {"algorithm": ALGORITHM, "items": sorted(shown, key=lambda k: k["retired_at"] is not None)}


# --- shared with the console --------------------------------------------------------------------------------------------


def may_see(request: AnyRequest) -> None:
    """Packs are for managers and superadmins; machines have their scope. Raises Forbidden."""
    if actor_of(request).role == "secretary":
        raise Forbidden("Your role does not include evidence.")


async def subject_tenant(request: AnyRequest, kind: str, subject: str, given: str | None) -> str | None:
    """The clinic of what a pack is asked about; None for the whole installation. Raises NotFound, Forbidden.

    Of a safe mode of the whole installation, and of the alerts that led there, a clinic gets its slice: `given`, or its only one.
    """
    may_see(request)
    if kind not in (EvidenceKind.ALERT, EvidenceKind.SAFE_MODE):
        return await tenant_of(request, given)
    database = services_of(request).db
    exists, tenant_id = await database.read(views.scope_of_subject, kind, subject)
    actor = actor_of(request)
    if exists and tenant_id is None and actor.tenant_ids is not None:
        if await database.read(views.held_for_every_clinic, kind, subject):
            return await tenant_of(request, given)
        exists = False
    if not exists or (tenant_id is not None and not actor.sees(tenant_id)):
        raise NotFound("There is nothing of that name.")
    return tenant_id


def wanted_of(
    request: AnyRequest,
    tenant_id: str | None,
    kind: str,
    subject: str,
    reason: str,
    *,
    from_at: datetime | None = None,
    until_at: datetime | None = None,
    like: Any = None,
) -> evidence.Wanted:
    """A pack as somebody asks for it now."""
    handed = {} if like is None else {n: getattr(like, n) for n in ("document_json", "flow_id", "correlation_id")}
    return evidence.Wanted(
        tenant_id=tenant_id,
        kind=kind,
        subject=subject,
        reason=reason,
        requested_at=services_of(request).clock.now(),
        from_at=from_at,
        until_at=until_at,
        **handed,
    )


async def built(request: AnyRequest, wanted: evidence.Wanted) -> Any:
    """The pack's row, built now if need be. Raises NotFound, Conflict, StorageUnavailable."""
    services = services_of(request)
    row = await services.evidence.on_demand(wanted, by(request))
    if row is None:
        raise NotFound("There is nothing of that name to prove.")
    services.hub.wake()
    return row


async def visible_pack(request: AnyRequest, pack_id: str) -> Any:
    """A stored pack that the caller may see. Raises NotFound, Forbidden."""
    may_see(request)
    check_ids(pack_id=pack_id)
    row = await services_of(request).db.read(evidence.pack, pack_id)
    actor = actor_of(request)
    if row is None or (actor.tenant_ids is not None and (row.tenant_id is None or not actor.sees(row.tenant_id))):
        raise NotFound("There is no such pack.")
    return row


async def full_pack(request: AnyRequest, wanted: evidence.Wanted, reason: str | None) -> bytes:
    """The zip with personal data. Raises Forbidden for everybody but a superadmin, InvalidRequest without a reason."""
    actor = actor_of(request)
    if actor.kind != "user" or actor.role != "superadmin":
        raise Forbidden("A full pack is for a superadmin who is signed in.")
    if not reason or not reason.strip():
        raise InvalidRequest("A full pack needs a reason.", errors=[{"pointer": "/reason", "detail": "must not be empty"}])
    content = await services_of(request).evidence.full(wanted, by(request))
    if content is None:
        raise NotFound("There is nothing of that name to prove.")
    return content


async def download(request: AnyRequest, row: Any, form: str) -> Response[Any]:
    """A stored pack as a file, audited. Raises NotFound while nothing is built."""
    services = services_of(request)
    content = await services.db.read(evidence.content, row.pack_id)
    if content is None:
        raise NotFound("This pack has not been built yet.")
    await services.db.write(evidence.note_download, row, form, by(request))
    return answer(row.subject, form, content)


def answer(subject: str, form: str, content: bytes) -> Response[Any]:
    """A pack as zip or as one document."""
    if form == "json":
        return Response(document_of(content))
    name = re.sub(r"[^A-Za-z0-9._-]", "_", subject)[:80]
    headers = {"Content-Disposition": f'attachment; filename="evidence-{name}.zip"', "Cache-Control": "no-store"}
    return Response(content, media_type="application/zip", headers=headers)


def _split(name: str, none: str = "json") -> tuple[str, str]:
    """A name and the form that its ending asks for."""
    for form in ("zip", "json"):
        if name.endswith(f".{form}"):
            return name.removesuffix(f".{form}"), form
    return name, none


def _scope(request: AnyRequest) -> Scope:
    ids = actor_of(request).tenant_ids
    return None if ids is None else tuple(sorted(ids))


def _time(texts: Texts, pointer: str, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return parse_time(value)
    except ValueError as error:
        texts.fail(pointer, str(error))
        return None


evidence_routes: Final = [build_pack, list_packs, get_flow, get_pack, get_keys]
