"""Contacts of the scope, with what their lane is doing; and where a given id leads."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, and_, func, or_, select, tuple_

from app.store.tables import Contact, InboxCommand, InboxMessage, Lane, table
from app.store.views.queue import named_like
from app.store.views.scope import Clinic, Scope, clinics, within

_CONTACT, _LANE = table(Contact), table(Lane)
_COMMAND, _MESSAGE = table(InboxCommand), table(InboxMessage)

PAGE_ROWS: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class ContactCursor:
    """The last row seen: sort key of its name, clinic, id."""

    name: str
    tenant_id: str
    contact_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactRow:
    """A contact and its lane in a line."""

    clinic: Clinic
    contact_id: str
    name: str | None
    phone: str | None
    waiting: int
    blocked_by: str | None
    blocked_since: datetime | None
    paused: bool
    takeover: bool
    unheard: int
    last_committed: int
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactPage:
    """Some contacts by name."""

    rows: tuple[ContactRow, ...]
    total: int
    next_cursor: ContactCursor | None


def contact_page(
    conn: Connection, scope: Scope, query: str, *, after: ContactCursor | None = None, limit: int = PAGE_ROWS
) -> ContactPage:
    """Contacts by name from behind `after`; `query` is a part of a name, phone or id."""
    conditions = [within(_CONTACT.c.tenant_id, scope)]
    if query:
        conditions.append(named_like(query))
    name = func.lower(func.coalesce(_CONTACT.c.name, _CONTACT.c.contact_id))
    lane = and_(_LANE.c.tenant_id == _CONTACT.c.tenant_id, _LANE.c.contact_id == _CONTACT.c.contact_id)
    columns = [c for c in _LANE.c if c.name not in ("tenant_id", "contact_id")]
    page = select(_CONTACT, *columns, name.label("sort_name")).outerjoin(_LANE, lane).where(*conditions)
    key = (name, _CONTACT.c.tenant_id, _CONTACT.c.contact_id)
    if after is not None:
        page = page.where(tuple_(*key) > tuple_(after.name, after.tenant_id, after.contact_id))
    found = conn.execute(page.order_by(*key).limit(limit + 1)).all()
    rows = found[:limit]
    total = conn.execute(select(func.count()).select_from(_CONTACT).where(*conditions)).scalar_one()
    names = clinics(conn, [row.tenant_id for row in rows])
    last = rows[-1] if len(found) > limit else None
    return ContactPage(
        rows=tuple(
            ContactRow(
                clinic=names[row.tenant_id],
                contact_id=row.contact_id,
                name=row.name,
                phone=row.phone,
                waiting=row.waiting or 0,
                blocked_by=row.blocked_by,
                blocked_since=row.blocked_since,
                paused=row.paused_at is not None,
                takeover=row.takeover_id is not None,
                unheard=row.unheard or 0,
                last_committed=row.last_committed or 0,
                last_sequence=row.last_sequence or 0,
            )
            for row in rows
        ),
        total=total,
        next_cursor=ContactCursor(last.sort_name, last.tenant_id, last.contact_id) if last is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Located:
    """Where an id leads: the contact whose lane holds the item."""

    clinic: Clinic
    contact_id: str
    item_id: str


def locate(conn: Connection, scope: Scope, item_id: str) -> Located | None:
    """The contact behind a command id, message id or correlation id; None when nothing of the scope has it."""
    for model, key in ((_COMMAND, "command_id"), (_MESSAGE, "event_id")):
        query = (
            select(model.c.tenant_id, model.c.contact_id, model.c[key].label("item_id"))
            .where(within(model.c.tenant_id, scope), or_(model.c[key] == item_id, model.c.correlation_id == item_id))
            .limit(1)
        )
        row = conn.execute(query).first()
        if row is not None:
            return Located(clinics(conn, [row.tenant_id])[row.tenant_id], row.contact_id, row.item_id)
    return None
