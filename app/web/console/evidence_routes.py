"""Addresses of the evidence page; packs are built, given and checked by the same functions as for machines."""

import asyncio
from datetime import datetime
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.datastructures import UploadFile
from litestar.params import FromPath
from litestar.response import Redirect

from app.domain.evidence_check import check
from app.domain.evidence_kinds import EvidenceKind
from app.errors import InvalidRequest
from app.signing import is_signed, key_id_of
from app.store import signing_keys
from app.web.api.common import storable
from app.web.api.evidence import answer, built, download, full_pack, subject_tenant, visible_pack, wanted_of
from app.web.console.evidence import ASKABLE, CheckedPack, fault_text, local_moment
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, Visit, services_of, visit_of

EVIDENCE: Final = view("evidence", "evidence.html", "evidence_form", "evidence_rows")
UPLOAD_MAX: Final = 16 * 2**20
"""Bytes of a pack that the page checks; a larger one is for the command line."""
_OPT: Final[dict[str, Any]] = {"access": "page", "roles": [MANAGER, SUPERADMIN]}


@get("/evidence")
async def page(request: AnyRequest) -> Response[str]:
    """Packs, the newest first; `?kind=&subject=` names one thing, `?pack=` one pack."""
    return await show(request, EVIDENCE)


@get(["/evidence/build", "/evidence/verify", "/evidence/full"])
async def back() -> Redirect:
    """Where an answer to a form was shown, loaded again: the page itself."""
    return Redirect("/evidence", status_code=303)


@post("/evidence/build", status_code=303, opt=_OPT)
async def build(request: AnyRequest) -> Redirect:
    """Build a pack now; the page shows it. Raises InvalidRequest, NotFound."""
    form = await _form(request)
    kind, subject = form.get("kind", ""), form.get("subject", "").strip()[:300]
    if kind not in ASKABLE or not subject:
        raise InvalidRequest("Say what the pack is about.", errors=[{"pointer": "/subject", "detail": "must not be empty"}])
    visit = await visit_of(request, clinic_slug=form.get("clinic") or None)
    from_at, until_at = _moment(visit, form, "from"), _moment(visit, form, "until")
    if kind != EvidenceKind.CONTACT:
        from_at = until_at = None
    tenant_id = await subject_tenant(request, kind, subject, form.get("clinic") or None)
    reason = form.get("reason", "").strip()[:500] or "asked for"
    row = await built(request, wanted_of(request, tenant_id, kind, subject, reason, from_at=from_at, until_at=until_at))
    return Redirect("/evidence", status_code=303, query_params={"pack": row.pack_id})


@get("/evidence/download/{name:str}", opt=_OPT)
async def give(request: AnyRequest, name: FromPath[str]) -> Response[Any]:
    """A redacted pack as `.zip` or `.json`; who took it stands in the audit trail."""
    pack_id, _, form = name.rpartition(".")
    return await download(request, await visible_pack(request, pack_id), "zip" if form == "zip" else "json")


@post("/evidence/full", status_code=200, opt={"access": "page", "roles": [SUPERADMIN]})
async def give_full(request: AnyRequest) -> Response[Any]:
    """The same pack with names, numbers and texts, for a superadmin who says why."""
    form = await _form(request)
    row = await visible_pack(request, form.get("pack_id", "")[:40])
    reason = form.get("reason", "")[:500]
    span = {"from_at": row.from_at, "until_at": row.until_at}
    wanted = wanted_of(request, row.tenant_id, row.kind, row.subject, reason, like=row, **span)
    return answer(row.subject, "zip", await full_pack(request, wanted, reason))


@post("/evidence/verify", status_code=200, opt=_OPT, request_max_body_size=UPLOAD_MAX)
async def verify(request: AnyRequest) -> Response[str]:
    """Check an uploaded pack as `kora evidence verify` does, against the keys of this installation."""
    given = (await request.form()).get("file")
    content = await given.read() if isinstance(given, UploadFile) else b""
    visit = await visit_of(request)
    found = await asyncio.to_thread(check, content, is_signed, key_id_of=key_id_of)
    ours = {row.public_key for row in await services_of(request).db.read(signing_keys.every)}
    about = found.about
    told = CheckedPack(
        file=(given.filename if isinstance(given, UploadFile) else "")[:120],
        valid=found.valid,
        ours=found.public_key in ours,
        faults=tuple(fault_text(visit.words, fault) for fault in found.faults[:50]),
        about=" · ".join(str(about[name]) for name in ("kind", "subject", "result", "built_at") if about.get(name)),
        public_key=found.public_key or "",
    )
    return await show(request, EVIDENCE, extra={"checked": told})


async def _form(request: AnyRequest) -> dict[str, str]:
    raw = await request.form()
    return {name: value for name, value in raw.items() if isinstance(value, str) and storable(value)}


def _moment(visit: Visit, form: dict[str, str], name: str) -> datetime | None:
    try:
        return local_moment(form.get(name, ""), visit.words)
    except ValueError as error:
        raise InvalidRequest("This is no date and time.", errors=[{"pointer": f"/{name}", "detail": str(error)}]) from error


evidence_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, back, build, give, give_full, verify], opt={"access": "page"}, include_in_schema=False)
]
