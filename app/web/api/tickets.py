"""Tickets over HTTP."""

from typing import Annotated, Any, Final

from litestar import get
from litestar.params import QueryParameter

from app.store.views.tickets import tickets
from app.web.api.common import (
    AnyRequest,
    Cursor,
    Document,
    Limit,
    TenantId,
    Texts,
    cursor_time,
    page,
    problems,
    read_cursor,
    services_of,
    tenant_of,
)
from app.web.auth import actor_of

Wanted = Annotated[str | None, QueryParameter(max_length=20)]
InState = Annotated[str | None, QueryParameter(name="state", max_length=20)]


@get(
    "/api/v1/tickets",
    summary="Conversations in people's hands, and critical tickets",
    responses=problems(404),
    opt={"access": "scope:read"},
    tags=["tickets"],
)
async def list_tickets(
    request: AnyRequest,
    limit: Limit = 50,
    cursor: Cursor = None,
    kind: Wanted = None,
    in_state: InState = None,
    tenant_id: TenantId = None,
) -> Document:
    """Newest first; `kind` is takeover or critical. A global key without a clinic sees all, also those of the installation."""
    texts = Texts()
    wanted = {"kind": texts.optional("/kind", kind), "state": texts.optional("/state", in_state)}
    texts.check()
    given = read_cursor(cursor, str, str)
    after = (cursor_time(given[0]), given[1]) if given else None
    everybody = tenant_id is None and actor_of(request).tenant_ids is None
    tenant = None if everybody else await tenant_of(request, tenant_id)
    found = await services_of(request).db.read(tickets, tenant, limit=limit + 1, after=after, **wanted)
    return page(found, limit, "opened_at", "ticket_id")


ticket_routes: Final[list[Any]] = [list_tickets]
