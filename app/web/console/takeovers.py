"""Taken over: conversations that people have, with the SLA clock, the family's last words, answering and giving back."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from app.domain.takeover import TakeoverState
from app.store import takeovers
from app.store.accounts import find_user
from app.store.views.left import last_closed_ticket_at
from app.store.views.scope import clinics
from app.web.console.pages import ROLE_NAMES
from app.web.console.sentences import takeover_reason
from app.web.console.visit import Viewer, Visit
from app.web.i18n import mark

PAGE_SIZE: Final = 50

STATE_NAMES: Final = {
    TakeoverState.OPEN: (mark("Nobody has it"), "ring", "high"),
    TakeoverState.IN_PROGRESS: (mark("In conversation"), "person", "human"),
    TakeoverState.SLA_WARNING: (mark("Deadline is near"), "diamond", "warn"),
    TakeoverState.SLA_BREACHED: (mark("Late"), "square", "high"),
    TakeoverState.ESCALATED: (mark("Late, escalated"), "triangle", "crit"),
    TakeoverState.RESOLVED: (mark("Given back"), "check", "plain"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverCount:
    """Context of the state fragment `takeover_count`."""

    open: int


def load_takeover_count(conn: Connection, viewer: Viewer) -> TakeoverCount:
    """Conversations that people have now."""
    return TakeoverCount(open=takeovers.open_count(conn, viewer.scope))


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverLine:
    """One row of the list."""

    ticket_id: str
    rev: int
    url: str
    who: str
    clinic: str
    state: str
    shape: str
    tone: str
    level: str
    owner: str
    mine: bool
    reason: str
    opened_at: datetime
    due_at: datetime | None
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverRows:
    """Context of the fragment `takeover_rows`."""

    lines: tuple[TakeoverLine, ...]
    empty_since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverDetail:
    """Context of the fragment `takeover_detail`; `ticket` is None when there is none."""

    ticket: dict[str, Any] | None
    line: TakeoverLine | None
    lane_url: str | None
    csrf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """What a person had typed when an act of theirs was refused, or before they took the conversation."""

    refused: bool = True
    text: str = ""
    reason: str = ""


def load_takeover_rows(conn: Connection, visit: Visit) -> TakeoverRows:
    """Open conversations, those whose deadline is nearest first."""
    found = takeovers.tickets(conn, visit.scope, kind=takeovers.TAKEOVER, limit=PAGE_SIZE)
    found.sort(key=lambda t: (t["due_at"] is None, t["due_at"] or t["opened_at"]))
    empty_since = None if found else last_closed_ticket_at(conn, visit.scope)
    return TakeoverRows(lines=tuple(_line(conn, visit, ticket) for ticket in found), empty_since=empty_since)


def load_takeover_detail(conn: Connection, visit: Visit) -> TakeoverDetail:
    """The ticket of `?takeover=`, else the first of the list."""
    wanted = visit.one("takeover")
    if not wanted:
        lines = load_takeover_rows(conn, visit).lines
        wanted = lines[0].ticket_id if lines else ""
    ticket = takeovers.ticket(conn, visit.scope, wanted, texts=True) if wanted else None
    if ticket is not None and ticket["kind"] != takeovers.TAKEOVER:
        ticket = None
    clinic = clinics(conn, [ticket["tenant_id"]])[ticket["tenant_id"]] if ticket is not None else None
    return TakeoverDetail(
        ticket=ticket,
        line=_line(conn, visit, ticket) if ticket is not None else None,
        lane_url=visit.urls.lane(clinic, ticket["contact_id"]) if ticket is not None and clinic is not None else None,
        csrf=visit.csrf_token,
    )


def _line(conn: Connection, visit: Visit, ticket: dict[str, Any]) -> TakeoverLine:
    words, owner, level, reason = visit.words, ticket["owner"], ticket["level"], ticket["reason"]
    word, shape, tone = STATE_NAMES[TakeoverState(ticket["state"])]
    names = clinics(conn, [ticket["tenant_id"]])
    return TakeoverLine(
        ticket_id=ticket["ticket_id"],
        rev=ticket["rev"],
        url=visit.urls.to("/takeovers", takeover=ticket["ticket_id"]),
        who=ticket["contact_name"] or ticket["contact_id"] or "",
        clinic=names[ticket["tenant_id"]].name if visit.several else "",
        state=words.text(word),
        shape=shape,
        tone=tone,
        level=words.text(ROLE_NAMES.get(level, level)),
        owner=_person(conn, visit, owner) if owner else "",
        mine=owner == visit.person.audit_name,
        reason=takeover_reason(words, reason),
        opened_at=ticket["opened_at"],
        due_at=ticket["due_at"] if ticket["closed_at"] is None else None,
        chosen=visit.one("takeover") == ticket["ticket_id"],
    )


def _person(conn: Connection, visit: Visit, owner: str) -> str:
    kind, _, ident = owner.partition(":")
    row = find_user(conn, ident) if kind == "user" else None
    return str(row.name) if row is not None else visit.words.text("a program")
