"""Shift handover: since the person left (or a chosen moment), what happened and what is open, on one page to print."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from app.domain.manual import tab_of
from app.store.episodes import causes_of
from app.store.views import shift as views
from app.store.views.guardians import actor_names
from app.store.views.scope import clinics
from app.store.views.shift import DayBefore
from app.web.console.alerts import STATUSES, severity_badge
from app.web.console.manual import TAB_NAMES
from app.web.console.pages import page
from app.web.console.replay import STATUS_NAMES
from app.web.console.sentences import Badge, state_badge, stopped_by, takeover_reason
from app.web.console.takeovers import STATE_NAMES
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

DEFAULT_SPAN: Final = timedelta(hours=12)
"""For somebody who has never left before."""
LONGEST: Final = timedelta(days=31)
SPANS_H: Final = (8, 12, 24)
CLINICS_MAX: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line: what, when, and what is to be known about it."""

    id: str
    badge: Badge | None
    what: str
    notes: tuple[str, ...]
    at: datetime
    until: datetime | None
    url: str | None
    open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page: its lines, and how many there are in all."""

    id: str
    title: str
    entries: tuple[Entry, ...]
    total: int
    quiet: str
    """Said when there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLine:
    """Manual tasks of one kind."""

    name: str
    opened: int
    closed: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tomorrow:
    """The day before, for one clinic."""

    clinic: str
    url: str
    day: DayBefore


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftReport:
    """Context of the fragment `shift_report`."""

    headline: str
    since: datetime
    since_field: str
    zone: str
    clinic: str
    person: str
    spans: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    tasks: tuple[TaskLine, ...]
    results: tuple[tuple[Badge, int], ...]
    done: int
    """Requests that ended as asked."""
    tomorrow: tuple[Tomorrow, ...]
    open: int
    """Lines that somebody still has to do something about."""


def load_shift_report(conn: Connection, visit: Visit) -> ShiftReport:
    """Everything since the moment in the address, else since the person's last session ended."""
    words = visit.words
    left = views.left_at(conn, visit.person.id)
    asked = _asked(words, visit.one("since", 20))
    since = asked or left or words.now - DEFAULT_SPAN
    since = max(min(since, words.now), words.now - LONGEST)
    sections = (
        _safe_mode(conn, visit, since),
        _alerts(conn, visit, since),
        _tickets(conn, visit, since, "critical", mark("Critical tickets"), mark("No critical ticket.")),
        _tickets(conn, visit, since, "takeover", mark("Taken over"), mark("Nobody was taken over.")),
        _replays(conn, visit, since),
        _waiting(conn, visit),
    )
    results = views.results(conn, visit.scope, since)
    bad = sorted(((r, n) for r, n in results.items() if r not in views.QUIET), key=lambda pair: -pair[1])
    tasks: dict[str, list[int]] = {}
    for found in views.tasks(conn, visit.scope, since):
        counted = tasks.setdefault(words.text(TAB_NAMES[tab_of(found.cause)]), [0, 0, 0])
        for place, n in enumerate((found.opened, found.closed, found.open)):
            counted[place] += n
    return ShiftReport(
        headline=_headline(words, since, left=asked is None and left is not None),
        since=since,
        since_field=f"{words.local(since):%Y-%m-%dT%H:%M}",
        zone=words.zone.key,
        clinic=visit.chosen.name if visit.chosen else words.text("All clinics"),
        person=visit.person.name,
        spans=tuple(_span(visit, hours) for hours in SPANS_H),
        sections=sections,
        tasks=tuple(TaskLine(name=name, opened=n[0], closed=n[1], open=n[2]) for name, n in tasks.items()),
        results=tuple((state_badge(words, result), n) for result, n in bad),
        done=sum(n for r, n in results.items() if r in views.QUIET),
        tomorrow=_tomorrow(conn, visit),
        open=sum(e.open for s in sections for e in s.entries) + sum(n[2] for n in tasks.values()),
    )


def _span(visit: Visit, hours: int) -> tuple[str, str]:
    """Name and address of the last so many hours."""
    since = visit.words.local(visit.words.now) - timedelta(hours=hours)
    return visit.words.text("last %(n)d h", n=hours), visit.urls.to("/shift", since=f"{since:%Y-%m-%dT%H:%M}")


def _headline(words: Words, since: datetime, *, left: bool) -> str:
    text = mark("since you left at %(time)s") if left else mark("since %(time)s")
    return words.text(text, time=words.clock(since))


def _asked(words: Words, text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is not None or not 2000 <= found.year < 2100:
        return None
    return found.replace(tzinfo=words.zone).astimezone(UTC)


def _link(visit: Visit, page_id: str, path: str, **params: str) -> str | None:
    """An address for those whose role has the page."""
    found = page(page_id)
    return visit.urls.to(path, **params) if found is not None and visit.role in found.roles else None


def _clinic(visit: Visit, names: Any, tenant_id: str | None) -> tuple[str, ...]:
    """The clinic of a line, where several are looked at."""
    if not visit.several:
        return ()
    return (names[tenant_id].name if tenant_id in names else visit.words.text("All clinics"),)


def _who(visit: Visit, people: dict[str, str], actor: str) -> str:
    return people.get(actor) or (visit.words.text("the system") if actor.startswith("system:") else actor)


def _safe_mode(conn: Connection, visit: Visit, since: datetime) -> Section:
    words, found = visit.words, views.episodes(conn, visit.scope, since)
    names = clinics(conn, [row.scope for row in found.rows])
    entries = []
    for row in found.rows:
        causes = [c.summary for c in causes_of(conn, row.episode_id)]
        lasted = words.span((row.ended_at or words.now) - row.entered_at)
        ended = (
            words.text("over after %(span)s", span=lasted) if row.ended_at else words.text("still on, for %(span)s", span=lasted)
        )
        entries.append(
            Entry(
                id=row.episode_id,
                badge=None if row.ended_at else Badge("", words.text("on"), "shield", "crit"),
                what="; ".join(causes) or words.text("Safe mode"),
                notes=(ended, *_clinic(visit, names, row.scope)),
                at=row.entered_at,
                until=row.ended_at,
                url=_link(visit, "safe_mode", "/safe-mode", episode=row.episode_id),
                open=row.ended_at is None,
            )
        )
    return _section(words, "safe_mode", mark("Safe mode"), entries, found.total, mark("Safe mode was never on."))


def _alerts(conn: Connection, visit: Visit, since: datetime) -> Section:
    words, found = visit.words, views.alerts(conn, visit.scope, since)
    names = clinics(conn, [row.tenant_id for row in found.rows if row.tenant_id])
    people = actor_names(conn, [row.acked_by for row in found.rows if row.acked_by])
    entries = []
    for row in found.rows:
        notes = [words.text(STATUSES[row.status])]
        if row.acked_by:
            notes.append(words.text("taken on by %(who)s", who=_who(visit, people, row.acked_by)))
        entries.append(
            Entry(
                id=row.alert_id,
                badge=severity_badge(words, row.severity),
                what=row.summary,
                notes=(*notes, *_clinic(visit, names, row.tenant_id)),
                at=row.raised_at,
                until=row.resolved_at,
                url=_link(visit, "alerts", "/alerts", alert=row.alert_id),
                open=row.status != "resolved",
            )
        )
    return _section(words, "alerts", mark("Alerts"), entries, found.total, mark("No alert."))


def _tickets(conn: Connection, visit: Visit, since: datetime, kind: str, title: str, quiet: str) -> Section:
    words, found = visit.words, views.tickets(conn, visit.scope, kind, since)
    names, contacts = clinics(conn, [row.tenant_id for row in found.rows]), views.names(conn, found.rows)
    people = actor_names(conn, [row.owner for row in found.rows if row.owner])
    entries = []
    for row in found.rows:
        word, shape, tone = STATE_NAMES[row.state]
        name = contacts.get((row.tenant_id, row.contact_id)) or row.contact_id or ""
        what, note = (name, takeover_reason(words, row.reason)) if kind == "takeover" else (row.reason, name)
        notes = [note] if note else []
        if row.owner:
            notes.append(words.text("with %(who)s", who=_who(visit, people, row.owner)))
        if row.closed_at is None and row.due_at is not None:
            notes.append(words.text("answer by %(time)s", time=words.clock(row.due_at)))
        if row.closed_at is not None and row.close_reason:
            notes.append(row.close_reason)
        own = names.get(row.tenant_id)
        url = visit.urls.lane(own, row.contact_id) if own is not None and row.contact_id else None
        entries.append(
            Entry(
                id=row.ticket_id,
                badge=Badge("", words.text(word), shape, tone),
                what=what,
                notes=(*notes, *_clinic(visit, names, row.tenant_id)),
                at=row.opened_at,
                until=row.closed_at,
                url=visit.urls.to("/takeovers", ticket=row.ticket_id) if kind == "takeover" and row.closed_at is None else url,
                open=row.closed_at is None,
            )
        )
    return _section(words, kind, title, entries, found.total, quiet)


def _replays(conn: Connection, visit: Visit, since: datetime) -> Section:
    words, found = visit.words, views.replays(conn, visit.scope, since)
    names = clinics(conn, [row.tenant_id for row in found.rows])
    people = actor_names(conn, [row.started_by or row.planned_by for row in found.rows])
    entries = []
    for row in found.rows:
        runs = row.status in ("running", "paused")
        notes = [words.text("%(done)d of %(all)d requests", done=row.done, all=row.total)]
        if row.drifted:
            notes.append(words.text("%(n)d otherwise than predicted", n=row.drifted))
        clinic = names.get(row.tenant_id)
        entries.append(
            Entry(
                id=row.replay_id,
                badge=Badge("", words.text(STATUS_NAMES[row.status]), "replay", "high" if runs else "plain"),
                what=_who(visit, people, row.started_by or row.planned_by),
                notes=(*notes, *_clinic(visit, names, row.tenant_id)),
                at=row.started_at or row.planned_at,
                until=row.ended_at,
                url=_link(visit, "replay", "/replay", clinic=clinic.slug, replay=row.replay_id) if clinic else None,
                open=runs,
            )
        )
    return _section(words, "replays", mark("Replays"), entries, found.total, mark("Nothing was replayed."))


def _waiting(conn: Connection, visit: Visit) -> Section:
    words, found = visit.words, views.waiting_lanes(conn, visit.scope)
    names = clinics(conn, [row.tenant_id for row in found.rows])
    entries = [
        Entry(
            id=f"{row.tenant_id}_{row.contact_id}",
            badge=None,
            what=row.contact_name or row.contact_id,
            notes=(
                words.count("%(n)s request waits", "%(n)s requests wait", row.waiting),
                *((stopped_by(words, row.blocked_by),) if row.blocked_by else ()),
                *((words.text("Paused: %(reason)s", reason=row.paused_reason or "-"),) if row.paused_at else ()),
                *_clinic(visit, names, row.tenant_id),
            ),
            at=row.ready_since or words.now,
            until=None,
            url=visit.urls.lane(names[row.tenant_id], row.contact_id),
            open=False,
        )
        for row in found.rows
    ]
    return _section(words, "waiting", mark("Waiting longest now"), entries, found.total, mark("Nobody waits."))


def _section(words: Words, id: str, title: str, entries: Iterable[Entry], total: int, quiet: str) -> Section:
    return Section(id=id, title=words.text(title), entries=tuple(entries), total=total, quiet=words.text(quiet))


def _tomorrow(conn: Connection, visit: Visit) -> tuple[Tomorrow, ...]:
    """The confirmations of tomorrow, each clinic's in its own timezone."""
    wanted = (visit.chosen,) if visit.chosen is not None else visit.clinics[:CLINICS_MAX]
    found = []
    for clinic in wanted:
        words = Words(visit.words.locale, ZoneInfo(clinic.timezone), visit.words.now)
        day = words.local(words.now).date() + timedelta(days=1)
        from_at = datetime.combine(day, time.min, words.zone).astimezone(UTC)
        to_at = datetime.combine(day + timedelta(days=1), time.min, words.zone).astimezone(UTC)
        state = views.day_before(conn, clinic.tenant_id, from_at, to_at)
        if state.booked or len(wanted) == 1:
            found.append(Tomorrow(clinic=clinic.name, url=visit.urls.to("/agenda", clinic=clinic.slug, day=str(day)), day=state))
    return tuple(found)
