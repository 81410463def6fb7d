"""Contacts: find a family, see at a glance whose lane stands still."""

import base64
import binascii
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection

from app.errors import InvalidRequest
from app.store.views.contacts import ContactCursor, ContactPage, ContactRow, Located, contact_page, locate
from app.web.console.sentences import stopped_by
from app.web.console.visit import Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactLine:
    """One row of the list."""

    row: ContactRow
    url: str
    phone: str
    state: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactRows:
    """Context of the fragment `contact_rows`."""

    page: ContactPage
    lines: tuple[ContactLine, ...]
    query: str
    several: bool
    first_page: bool
    next_url: str | None
    first_url: str
    clear_url: str
    located: Located | None
    located_url: str | None


def load_contact_rows(conn: Connection, visit: Visit) -> ContactRows:
    """Contacts by name; what looks like the id of an item also leads to its contact."""
    query = visit.one("q")
    after = cursor_from(visit.one("cursor", 2_000))
    page = contact_page(conn, visit.scope, query, after=after)
    located = locate(conn, visit.scope, query) if len(query) >= 4 else None
    cursor = page.next_cursor
    return ContactRows(
        page=page,
        lines=tuple(_line(visit, row) for row in page.rows),
        query=query,
        several=visit.several,
        first_page=after is None,
        next_url=visit.urls.to("/contacts", q=query, cursor=cursor_text(cursor)) if cursor else None,
        first_url=visit.urls.to("/contacts", q=query),
        clear_url=visit.urls.to("/contacts"),
        located=located,
        located_url=visit.urls.lane(located.clinic, located.contact_id, item=located.item_id) if located else None,
    )


def _line(visit: Visit, row: ContactRow) -> ContactLine:
    words = visit.words
    if row.takeover:
        tone, state = "human", words.text("With a person; the AI is silent.")
    elif row.paused:
        tone, state = "warn", words.text("Paused by a person.")
    elif row.blocked_by:
        tone, state = "warn", stopped_by(words, row.blocked_by)
    elif row.waiting:
        tone, state = "plain", words.text("Ready; waits for its turn.")
    else:
        tone, state = "plain", words.text("Nothing waits.")
    return ContactLine(
        row=row, url=visit.urls.lane(row.clinic, row.contact_id), phone=phone_text(row.phone), state=state, tone=tone
    )


def phone_text(phone: str | None) -> str:
    """`+55 11 98765-4321` of a Brazilian number; others as they are."""
    if phone is None:
        return ""
    digits = phone.removeprefix("+55")
    if digits != phone and digits.isdigit() and len(digits) in (10, 11):
        return f"+55 {digits[:2]} {digits[2:-4]}-{digits[-4:]}"
    return phone


def cursor_text(cursor: ContactCursor) -> str:
    """A cursor as it stands in an address."""
    raw = msgspec.json.encode([cursor.name, cursor.tenant_id, cursor.contact_id])
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def cursor_from(text: str) -> ContactCursor | None:
    """The cursor of an address. Raises InvalidRequest."""
    if not text:
        return None
    try:
        parts = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=tuple[str, str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest("The cursor of this address cannot be read; start again from the first page.") from error
    return ContactCursor(*parts)
