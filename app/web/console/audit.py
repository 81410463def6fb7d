"""Audit: who did what, when and why, before against after; search in the address, export, and a check of the chains."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import msgspec
from sqlalchemy import Connection

from app.errors import InvalidRequest
from app.store.views import audit as views
from app.store.views.audit import AuditCursor, AuditFilter, AuditRow, ChainState
from app.web.console.visit import Visit

_RISKY: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a cell that begins so for a formula."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRows:
    """Context of the fragment `audit_rows`; `chains` None = nobody asked for a check."""

    rows: tuple[AuditRow, ...]
    who: str
    what: str
    object: str
    from_day: str
    to_day: str
    filtered: bool
    several: bool
    first_page: bool
    next_url: str | None
    first_url: str
    export_url: str
    check_url: str
    chains: tuple[ChainState, ...] | None


def filter_of(visit: Visit) -> AuditFilter:
    """The filter in the address; days are the clinic's, `to` included."""
    from_day, to_day = _day(visit.one("from", 10)), _day(visit.one("to", 10))
    return AuditFilter(
        who=visit.one("who"),
        what=visit.one("what"),
        object=visit.one("object"),
        from_at=_midnight(visit, from_day) if from_day else None,
        to_at=_midnight(visit, to_day + timedelta(days=1)) if to_day else None,
    )


def load_audit_rows(conn: Connection, visit: Visit) -> AuditRows:
    """One page of the entries, newest first."""
    wanted, after = filter_of(visit), _cursor_from(visit.one("cursor", 2_000))
    rows, cursor = views.audit_rows(conn, visit.scope, wanted, after=after)
    here = {name: visit.one(name) for name in ("who", "what", "object", "from", "to")}
    return AuditRows(
        rows=tuple(rows),
        who=wanted.who,
        what=wanted.what,
        object=wanted.object,
        from_day=str(_day(here["from"]) or ""),
        to_day=str(_day(here["to"]) or ""),
        filtered=wanted != AuditFilter(),
        several=visit.several,
        first_page=after is None,
        next_url=visit.urls.to("/audit", **here, cursor=_cursor_text(cursor)) if cursor else None,
        first_url=visit.urls.to("/audit", **here),
        export_url=visit.urls.to("/audit/export.csv", **here),
        check_url=visit.urls.to("/audit", **here, check="yes"),
        chains=tuple(views.chain_states(conn, visit.scope)) if visit.one("check") == "yes" else None,
    )


def csv_cell(value: object) -> str:
    """One quoted cell of a CSV file that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    if text.lstrip(" ").startswith(_RISKY):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"'


def csv_text(rows: list[AuditRow]) -> str:
    """The entries as CSV with a header, times in UTC."""
    head = ("at", "chain", "number", "who", "person", "action", "object", "reason", "origin", "correlation_id", "changes", "hash")
    lines = [",".join(head)]
    for r in rows:
        changes = "; ".join(f"{c.field}: {c.before} -> {c.after}" for c in r.changes)
        cells = (r.at.isoformat(), r.chain, r.number, r.actor, r.person, r.action, r.object, r.reason, r.origin, r.correlation_id)
        lines.append(",".join(csv_cell(cell) for cell in (*cells, changes, r.hash)))
    return "\r\n".join(lines) + "\r\n"


def _day(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if 2000 <= found.year < 2100 else None


def _midnight(visit: Visit, day: date) -> datetime:
    return datetime.combine(day, time.min, visit.words.zone).astimezone(UTC)


def _cursor_text(cursor: AuditCursor) -> str:
    raw = msgspec.json.encode([cursor.at, cursor.chain, cursor.number])
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _cursor_from(text: str) -> AuditCursor | None:
    if not text:
        return None
    try:
        parts = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=tuple[datetime, str, int])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest("The cursor of this address cannot be read; start again from the first page.") from error
    if parts[0].tzinfo is None:
        raise InvalidRequest("The cursor of this address cannot be read; start again from the first page.")
    return AuditCursor(at=parts[0], chain=parts[1], number=parts[2])
