"""Views of a list that a person keeps: a name and the filter of the address. They belong to the person alone."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select

from app.errors import Conflict
from app.store.tables import SavedView, table

_VIEW = table(SavedView)

VIEWS_MAX: Final = 20
NAME_MAX: Final = 60
FILTER_MAX: Final = 1_000


def views_of(conn: Connection, user_id: str, page: str) -> list[tuple[str, str]]:
    """Name and filter (`state=...&class=...`) of a person's views of one page, by name."""
    query = select(_VIEW.c.name, _VIEW.c.filter).where(_VIEW.c.user_id == user_id, _VIEW.c.page == page).order_by(_VIEW.c.name)
    return [(row.name, row.filter) for row in conn.execute(query)]


def keep_view(conn: Connection, user_id: str, page: str, name: str, filter: str, now: datetime) -> None:
    """Store a view; one of the same name is replaced. Raises Conflict when a person keeps too many."""
    forget_view(conn, user_id, page, name)
    own = (_VIEW.c.user_id == user_id, _VIEW.c.page == page)
    if conn.execute(select(func.count()).select_from(_VIEW).where(*own)).scalar_one() >= VIEWS_MAX:
        raise Conflict(f"A person keeps at most {VIEWS_MAX} views of a page. Nothing was stored; remove one first.")
    values = {"user_id": user_id, "page": page, "name": name[:NAME_MAX], "filter": filter[:FILTER_MAX], "created_at": now}
    conn.execute(insert(_VIEW).values(values))


def forget_view(conn: Connection, user_id: str, page: str, name: str) -> None:
    """Remove a view; one that is not there is no failure."""
    conn.execute(delete(_VIEW).where(_VIEW.c.user_id == user_id, _VIEW.c.page == page, _VIEW.c.name == name[:NAME_MAX]))
