"""The palette's answer: contacts whose name, phone or id has what was typed; pages are in the page already."""

from typing import Final

from sqlalchemy import Connection

from app.store.views.contacts import contact_page
from app.web.console.visit import Visit

FOUND_MAX: Final = 8


def load_found(conn: Connection, visit: Visit) -> list[dict[str, str]]:
    """Name, clinic (when there are several) and address of the first contacts; none for an empty query."""
    query = visit.one("q")
    rows = contact_page(conn, visit.scope, query, limit=FOUND_MAX).rows if query else ()
    return [
        {
            "name": row.name or row.contact_id,
            "clinic": row.clinic.name if visit.several else "",
            "url": visit.urls.lane(row.clinic, row.contact_id),
        }
        for row in rows
    ]
