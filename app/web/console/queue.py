"""Queue: two orders in one view, where each lane stands in dispatch and what each command waits for inside its lane."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, urlencode

from sqlalchemy import Connection

from app.domain.states import CommandType, PriorityClass, State
from app.errors import InvalidRequest
from app.store.saved_views import views_of
from app.store.views.left import last_commit_at
from app.store.views.queue import QueueCursor, QueueFilter, QueuePage, QueueRow, queue_page
from app.web.console.owners import owner_names
from app.web.console.sentences import (
    COMMAND_NAMES,
    REQUESTERS,
    STATE_NAMES,
    WAITING_STATES,
    Badge,
    class_badge,
    command_name,
    state_badge,
    why_row_waits,
)
from app.web.console.visit import Visit
from app.web.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLine:
    """One row of the table."""

    row: QueueRow
    badge: Badge
    state: Badge
    name: str
    why: str
    url: str
    requester: str
    owner: str
    """Who has the conversation or has paused the contact; empty = the robot's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRows:
    """Context of the fragment `queue_rows`."""

    page: QueuePage
    lines: tuple[QueueLine, ...]
    several: bool
    filtered: bool
    first_page: bool
    next_url: str | None
    first_url: str
    clear_url: str
    empty_since: datetime | None
    """When the last request left, where none waits."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a filter."""

    value: str
    label: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class SavedLink:
    """One kept view; `chosen` = its filter is on."""

    name: str
    url: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFilters:
    """Context of the filter form."""

    clinic: str | None
    states: tuple[Choice, ...]
    classes: tuple[Choice, ...]
    types: tuple[Choice, ...]
    contact: str
    active: bool
    clear_url: str
    views: tuple[SavedLink, ...]
    """What the person keeps."""
    here: str
    """The filter that is on, as a view would store it."""
    csrf: str


def filter_of(visit: Visit) -> QueueFilter:
    """The filter in the address; unknown values are ignored."""
    ranks = {c.value: c.rank for c in PriorityClass}
    return QueueFilter(
        statuses=tuple(s for s in visit.many("state") if s in WAITING_STATES),
        ranks=tuple(ranks[c] for c in visit.many("class") if c in ranks),
        types=tuple(t for t in visit.many("type") if t in COMMAND_NAMES),
        contact=visit.one("contact"),
    )


def cursor_of(text: str) -> QueueCursor | None:
    """The cursor of an address, such as `50.7`. Raises InvalidRequest."""
    if not text:
        return None
    place, _, order = text.partition(".")
    if not (place.isascii() and place.isdigit() and order.isascii() and order.isdigit() and len(text) <= 40):
        raise InvalidRequest("The cursor of this address cannot be read; start again from the first page.")
    return QueueCursor(int(place), int(order))


def load_queue_rows(conn: Connection, visit: Visit) -> QueueRows:
    """One page of waiting commands."""
    wanted, after = filter_of(visit), cursor_of(visit.one("cursor"))
    page = queue_page(conn, visit.scope, wanted, visit.words.now, after=after)
    here = _params(wanted)
    cursor = page.next_cursor
    names = owner_names(conn, visit.words, (row.owner for row in page.rows))
    return QueueRows(
        page=page,
        lines=tuple(_line(visit, row, names.get(row.owner or "", "")) for row in page.rows),
        several=visit.several,
        filtered=wanted.active,
        first_page=after is None,
        next_url=visit.urls.to("/queue", **here, cursor=f"{cursor.place}.{cursor.commit_order}") if cursor else None,
        first_url=visit.urls.to("/queue", **here),
        clear_url=visit.urls.to("/queue"),
        empty_since=None if page.total or wanted.active else last_commit_at(conn, visit.scope),
    )


def _line(visit: Visit, row: QueueRow, owner: str) -> QueueLine:
    words = visit.words
    return QueueLine(
        row=row,
        badge=class_badge(words, row.rank),
        state=state_badge(words, row.status),
        name=command_name(words, row.command_type),
        why=why_row_waits(words, row),
        url=visit.urls.lane(row.clinic, row.contact_id),
        requester=words.text(REQUESTERS.get(row.requested_by, row.requested_by)),
        owner=owner,
    )


def _params(wanted: QueueFilter) -> dict[str, object]:
    classes = tuple(PriorityClass)
    return {
        "state": tuple(wanted.statuses),
        "class": tuple(classes[r].value for r in wanted.ranks),
        "type": tuple(wanted.types),
        "contact": wanted.contact,
    }


FILTERS: Final = ("state", "class", "type", "contact")
"""Parameters of the address that are a filter."""


def only_filter(text: str) -> str:
    """What is a filter in an address's query, in one order; the rest, such as a cursor, is left out."""
    given = parse_qsl(text)
    return urlencode([(name, value) for name in FILTERS for given_name, value in given if given_name == name])


def load_queue_filters(conn: Connection, visit: Visit) -> QueueFilters:
    """What can be chosen, what is, and which views the person keeps."""
    words, wanted = visit.words, filter_of(visit)
    here = only_filter(urlencode([(name, value) for name in FILTERS for value in visit.query.get(name, ()) if value]))
    kept = views_of(conn, visit.person.id, "queue")
    return QueueFilters(
        clinic=visit.urls.clinic,
        states=_choices(words, {s: STATE_NAMES[s][0] for s in WAITING_STATES}, wanted.statuses),
        classes=tuple(
            Choice(c.value, f"{badge.code} {badge.word}", c.rank in wanted.ranks)
            for c in PriorityClass
            for badge in (class_badge(words, c.rank),)
        ),
        types=_choices(words, {t: COMMAND_NAMES[t] for t in CommandType}, wanted.types),
        contact=wanted.contact,
        active=wanted.active,
        clear_url=visit.urls.to("/queue"),
        views=tuple(SavedLink(name, f"/queue?{chosen}" if chosen else "/queue", chosen == here) for name, chosen in kept),
        here=here,
        csrf=visit.csrf_token,
    )


def _choices(words: Words, names: Mapping[State, str] | Mapping[CommandType, str], chosen: tuple[str, ...]) -> tuple[Choice, ...]:
    return tuple(Choice(str(value), words.text(name), value in chosen) for value, name in names.items())
