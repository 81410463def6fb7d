"""Addresses of what proves: audit page, its export (an act too: it stands in the trail that it exports), and the stories."""

from typing import Any, Final

from litestar import Response, Router, get
from sqlalchemy import Connection

from app.store.audit import GLOBAL_CHAIN, append
from app.store.people import By
from app.store.views import audit as views
from app.store.views.audit import EXPORT_ROWS, AuditFilter, AuditRow
from app.store.views.scope import Scope
from app.web.api.common import by
from app.web.console.audit import csv_text, filter_of
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of, visit_of

AUDIT: Final = view("audit", "audit.html", "audit_rows")
STORIES: Final = view("stories", "stories.html", "story_rows")


@get("/audit")
async def page(request: AnyRequest) -> Response[str]:
    """Entries of the clinics that the person runs; `check=yes` recomputes their chains."""
    return await show(request, AUDIT)


@get("/audit/export.csv", opt={"access": "page", "roles": [MANAGER, SUPERADMIN]})
async def export(request: AnyRequest) -> Response[str]:
    """What the page's filter finds, as CSV: the newest 10,000 entries."""
    visit = await visit_of(request)
    rows = await services_of(request).db.write(_export, visit.scope, filter_of(visit), by(request))
    headers = {"Content-Disposition": 'attachment; filename="audit.csv"'}
    return Response(csv_text(rows), media_type="text/csv", headers=headers)


def _export(conn: Connection, scope: Scope, wanted: AuditFilter, who: By) -> list[AuditRow]:
    rows, _ = views.audit_rows(conn, scope, wanted, limit=EXPORT_ROWS)
    for chain in (GLOBAL_CHAIN,) if scope is None else scope:
        append(
            conn,
            chain=chain,
            actor=who.actor,
            action="audit.export",
            object="audit",
            after={"rows": len(rows), "who": wanted.who, "what": wanted.what, "object": wanted.object},
            origin=who.origin,
            correlation_id=who.correlation_id,
            now=who.now,
        )
    return rows


@get("/stories")
async def stories(request: AnyRequest) -> Response[str]:
    """The plan's items."""
    return await show(request, STORIES)


audit_pages: Final[list[Any]] = [
    Router("/", route_handlers=[page, export, stories], opt={"access": "page"}, include_in_schema=False)
]
