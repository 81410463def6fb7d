"""Critical tickets: what safe mode and unanswered alerts leave to the next shift, with what holds now and where to go."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row

from app.domain.states import State
from app.store import critical_tickets as store
from app.store.accounts import names_of_users
from app.store.episodes import acks_of, causes_of
from app.store.incidents import incident_id
from app.store.views.scope import Clinic, clinics
from app.store.views.tickets import critical
from app.web.console.pages import page
from app.web.console.sentences import intent_name
from app.web.console.visit import Visit
from app.web.i18n import mark

LISTED: Final = 50

RESULTS: Final[Mapping[str, str]] = {
    "contingency_message_sent_ticket_opened": mark("told"),
    "contingency_message_failed_ticket_opened": mark("may not have heard: call"),
    "ticket_open_failed_alerted": mark("may not have heard: call"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketLine:
    """One ticket of the list; `status` is open | working | closed."""

    ticket_id: str
    url: str
    reason: str
    clinic: str
    status: str
    owner: str
    opened_at: datetime
    due_at: datetime | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class TicketRows:
    """Context of `ticket_rows`."""

    lines: tuple[TicketLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """One line of a ticket: a request on hold, or what a family was told; `late` = it came after the ticket was opened."""

    who: str
    url: str
    what: str
    said: str
    at: datetime
    late: bool
    alarm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketDetail:
    """Context of `ticket_detail`; `line` is None when there is no ticket."""

    line: TicketLine | None = None
    rev: int = 0
    correlation_id: str = ""
    causes: tuple[tuple[str, str, str], ...] = ()
    """Summary, address, and what is missing or done about it."""
    waiting: tuple[About, ...] = ()
    families: tuple[About, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    close_reason: str = ""
    by_itself: str = ""
    """When it ends without anybody's hand."""
    mine: bool = False
    csrf: str = ""


def _rows(conn: Connection, visit: Visit) -> list[Row[Any]]:
    return critical(conn, visit.scope, LISTED)


def load_ticket_rows(conn: Connection, visit: Visit) -> TicketRows:
    """Open tickets by deadline, then those that ended."""
    rows = _rows(conn, visit)
    chosen = _chosen(visit, rows)
    names = clinics(conn, [row.tenant_id for row in rows])
    owners = _owners(conn, rows)
    return TicketRows(tuple(_line(visit, row, names, owners, chosen) for row in rows))


def _owners(conn: Connection, rows: list[Row[Any]]) -> dict[str, str]:
    """Names of the people who have some tickets."""
    ids = {row.owner.removeprefix("user:") for row in rows if row.owner and row.owner.startswith("user:")}
    return {f"user:{user_id}": name for user_id, name in names_of_users(conn, ids).items()}


def _chosen(visit: Visit, rows: list[Row[Any]]) -> str:
    wanted = visit.one("ticket")
    return wanted or next((row.ticket_id for row in rows if row.closed_at is None), "")


def _line(visit: Visit, row: Row[Any], names: Mapping[str, Clinic], owners: Mapping[str, str], chosen: str) -> TicketLine:
    words = visit.words
    owner = owners.get(row.owner or "", "") or (words.text("a program with a key") if row.owner else "")
    return TicketLine(
        ticket_id=row.ticket_id,
        url=visit.urls.to("/manual/tickets", ticket=row.ticket_id),
        reason=row.reason,
        clinic=names[row.tenant_id].name if row.tenant_id in names else words.text("all clinics"),
        status="closed" if row.closed_at is not None else "working" if row.state == "in_progress" else "open",
        owner=owner,
        opened_at=row.opened_at,
        due_at=row.due_at if row.closed_at is None else None,
        chosen=row.ticket_id == chosen,
    )


def load_ticket_detail(conn: Connection, visit: Visit) -> TicketDetail:
    """The chosen ticket: why, what waits under which correlation id, who was told, and where to go."""
    rows = _rows(conn, visit)
    chosen = _chosen(visit, rows)
    row = next((row for row in rows if row.ticket_id == chosen), None)
    if row is None:
        return TicketDetail()
    words = visit.words
    of_alert = row.ticket_id == incident_id(row.cause_id or "")
    names = clinics(conn, [row.tenant_id])
    owners = _owners(conn, [row])
    waiting, told = ((), ()) if of_alert else _now(conn, visit, row)
    ended = words.text("Safe mode is over and everything parked has left.") if row.close_reason == "safe_mode_over" else ""
    if of_alert:
        by_itself = words.text("It ends with its alert.")
    else:
        by_itself = words.text("It ends with safe mode, unless families may not have heard.")
    return TicketDetail(
        line=_line(visit, row, names, owners, chosen),
        rev=row.rev,
        correlation_id=row.correlation_id,
        causes=((row.reason, _alert_url(visit, row.cause_id), ""),) if of_alert else _causes(conn, visit, row),
        waiting=waiting,
        families=told,
        links=() if of_alert else _links(visit, row),
        close_reason=ended or row.close_reason or "",
        by_itself=by_itself if row.closed_at is None else "",
        mine=visit.person.audit_name == row.owner,
        csrf=visit.csrf_token,
    )


def _alert_url(visit: Visit, alert_id: str | None) -> str:
    alerts = page("alerts")
    return visit.urls.to("/alerts", alert=alert_id) if alerts is not None and visit.role in alerts.roles else ""


def _causes(conn: Connection, visit: Visit, row: Row[Any]) -> tuple[tuple[str, str, str], ...]:
    words, acks = visit.words, acks_of(conn, row.cause_id)
    said = {True: words.text("acknowledged"), False: words.text("nobody has acknowledged it"), None: ""}
    return tuple(
        (c.summary, _alert_url(visit, c.cause_id) if c.kind == "alert" else "", said[acks.get(c.cause_id)])
        for c in causes_of(conn, row.cause_id)
    )


def _now(conn: Connection, visit: Visit, row: Row[Any]) -> tuple[tuple[About, ...], tuple[About, ...]]:
    """Requests on hold, and families."""
    words = visit.words
    requests = store.held(conn, row.tenant_id) if row.closed_at is None else []
    families = store.families(conn, row)
    known = clinics(conn, [*(x.tenant_id for x in requests), *(x.tenant_id for x in families)])

    def about(x: store.Held | store.Family, said: str, *, alarm: bool = False) -> About:
        clinic = known.get(x.tenant_id)
        url = visit.urls.lane(clinic, x.contact_id) if clinic is not None else ""
        what, late = intent_name(words, x.intent), x.at > row.opened_at
        return About(who=x.contact_name or x.contact_id, url=url, what=what, said=said, at=x.at, late=late, alarm=alarm)

    waiting = tuple(about(x, x.correlation_id) for x in requests)
    told = tuple(
        about(x, words.text(RESULTS.get(x.result or "", mark("on its way"))), alarm=x.result in store.NOT_TOLD) for x in families
    )
    return waiting, told


def _links(visit: Visit, row: Row[Any]) -> tuple[tuple[str, str], ...]:
    words, found = visit.words, []
    for page_id, label, url in (
        ("safe_mode", mark("The episode's story"), visit.urls.to("/safe-mode", episode=row.cause_id)),
        ("queue", mark("Everything on hold"), visit.urls.to("/queue", state=State.PENDING_SAFE_MODE.value)),
        ("evidence", mark("Evidence"), visit.urls.to("/evidence", kind="safe_mode", subject=row.cause_id)),
    ):
        known = page(page_id)
        if known is not None and visit.role in known.roles:
            found.append((words.text(label), url))
    return tuple(found)
