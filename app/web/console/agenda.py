"""Agenda: a day or a week, per therapist, in the clinic's timezone; what is asked for and not decided stands in it as a ghost."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from babel.dates import format_date
from sqlalchemy import Connection, Row

from app.domain.d1 import D1Action
from app.domain.reasons import explain
from app.domain.states import AppointmentStatus, CommandType, State
from app.errors import NotFound
from app.store import items
from app.store.views import agenda as views
from app.store.views.agenda import Booked, Ghost
from app.web.console.sentences import Badge, command_name, state_badge
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

_STATUS: Final = {
    "scheduled": (mark("not confirmed yet"), "ring"),
    "confirmed": (mark("confirmed"), "check"),
    "cancelled": (mark("cancelled"), "dash"),
}
"""Word and shape of an appointment's status."""

_DAY_BEFORE: Final = {
    (D1Action.ASK_FAMILY, "done"): mark("Asked %(time)s, no answer yet."),
    (D1Action.ASK_FAMILY, "nobody"): mark("Nobody could be asked: no guardian may answer for this child."),
    (D1Action.ASK_FAMILY, "missed"): mark("Not asked: the time for it was over."),
    (D1Action.OPEN_TASK, "done"): mark("No answer: a task is open since %(time)s."),
    (D1Action.ALERT_STAFF, "done"): mark("No answer: secretary and manager were alerted %(time)s."),
    (D1Action.NOTIFY_OPENING, "done"): mark("No answer: noted %(time)s, before opening."),
}
"""What the last step of the day before says, by action and outcome."""

_BLOCKED: Final = {
    CommandType.SCHEDULE: mark("Scheduling is not possible now: safe mode is on since %(time)s."),
    CommandType.RESCHEDULE: mark("Rescheduling is not possible now: safe mode is on since %(time)s."),
    CommandType.CANCEL: mark("Cancelling is not possible now: safe mode is on since %(time)s."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One entry of a column: an appointment or a ghost."""

    id: str
    ghost: bool
    start_at: datetime
    end_at: datetime
    hours: str
    title: str
    sub: str
    word: str
    shape: str
    notes: tuple[str, ...]
    clash: bool
    url: str
    chosen: bool
    cancelled: bool
    unanswered: bool = False
    """The day before has begun to ask about it, and nobody has answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A therapist of the day, or a day of the week."""

    title: str
    today: bool
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgendaRows:
    """Context of the fragment `agenda_rows`; without a chosen clinic nothing can be shown."""

    clinic: bool
    title: str
    zone: str
    week: bool
    columns: tuple[Column, ...]
    day: str
    therapist: str
    therapists: tuple[tuple[str, str], ...]
    urls: dict[str, str]
    booked: int
    ghosts: int
    more_ghosts: int
    """How many undecided requests were looked through when there are more; 0 = all of them."""
    clashes: int
    unanswered: int
    clinics: tuple[tuple[str, str], ...]
    """Address and name of each clinic's agenda while none is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgendaAct:
    """Context of the fragment `agenda_act`: the form, or what came of the last one."""

    clinic: str
    csrf: str
    key: str
    """The same press twice on one view is one request."""
    day: str
    back: str
    pick: Booked | None
    pick_day: str
    pick_time: str
    pick_minutes: int
    contacts: tuple[tuple[str, str], ...]
    patients: tuple[tuple[str, str], ...]
    """Suggestions for a new appointment."""
    therapists: tuple[tuple[str, str], ...]
    therapist: str
    blocked: dict[str, str]
    parked_since: datetime | None
    """Contingency: what is asked now waits in its place."""
    """Why an act is not possible now, by command type; empty while all are."""
    done_id: str
    done_name: str
    done: Badge | None
    done_why: str
    done_next: str
    done_free: tuple[str, ...]


def load_agenda_rows(conn: Connection, visit: Visit) -> AgendaRows:
    """The columns of the day or week in the address."""
    words, day = visit.words, _day(visit)
    week, therapist = visit.one("span") == "week", visit.one("therapist")
    first = day - timedelta(days=day.weekday()) if week else day
    days = [first + timedelta(days=n) for n in range(7 if week else 1)]
    step = timedelta(days=7 if week else 1)
    span = "week" if week else ""
    urls = {
        "before": visit.urls.to("/agenda", day=str(day - step), span=span, therapist=therapist),
        "after": visit.urls.to("/agenda", day=str(day + step), span=span, therapist=therapist),
        "today": visit.urls.to("/agenda", span=span, therapist=therapist),
        "day": visit.urls.to("/agenda", day=str(day), therapist=therapist),
        "week": visit.urls.to("/agenda", day=str(day), span="week", therapist=therapist),
    }
    slots: list[tuple[str, Slot]] = []
    names: list[tuple[str, str]] = []
    more = False
    if visit.chosen is not None:
        tenant_id = visit.chosen.tenant_id
        span_of = (_midnight(words, days[0]), _midnight(words, days[-1] + timedelta(days=1)))
        names = views.therapists(conn, tenant_id)
        booked = views.visits(conn, tenant_id, *span_of, therapist)
        asked, more = views.ghosts(conn, tenant_id, *span_of, therapist)
        before = views.day_before(conn, tenant_id, *span_of)
        slots = [(b.therapist_id, _booked(visit, b, booked, asked, before.get((b.appointment_id, b.start_at)))) for b in booked]
        slots += [(g.therapist_id, _ghost(visit, g, booked, dict(names))) for g in asked if g.command_type != CommandType.CANCEL]
        slots.sort(key=lambda s: (s[1].start_at, s[1].ghost, s[1].id))
    if week:
        columns = [
            Column(
                title=words.day(_midnight(words, d) + timedelta(hours=12)),
                today=d == words.local(words.now).date(),
                slots=tuple(s for _, s in slots if words.local(s.start_at).date() == d),
            )
            for d in days
        ]
    else:
        known = dict(names) | {t: t for t, _ in slots if t not in dict(names)}
        columns = [
            Column(title=name, today=False, slots=tuple(s for t, s in slots if t == therapist_id))
            for therapist_id, name in known.items()
            if not therapist or therapist_id == therapist
        ]
    return AgendaRows(
        clinic=visit.chosen is not None,
        title=_title(words, days),
        zone=words.zone.key,
        week=week,
        columns=tuple(columns),
        day=str(day),
        therapist=therapist,
        therapists=tuple(names),
        urls=urls,
        booked=sum(not s.ghost and not s.cancelled for _, s in slots),
        ghosts=sum(s.ghost for _, s in slots),
        more_ghosts=views.GHOSTS_MAX if more else 0,
        clashes=sum(s.clash for _, s in slots),
        unanswered=sum(s.unanswered for _, s in slots),
        clinics=()
        if visit.chosen is not None
        else tuple((visit.urls.to("/agenda", clinic=c.slug, day=str(day), span=span), c.name) for c in visit.clinics),
    )


def load_agenda_act(conn: Connection, visit: Visit) -> AgendaAct:
    """The form for a new appointment or for the one in `pick`, and the result of the request in `done`."""
    words = visit.words
    tenant_id = visit.chosen.tenant_id if visit.chosen is not None else ""
    pick_id, done_id = visit.one("pick", 300), visit.one("done")
    pick = views.visit(conn, tenant_id, pick_id) if tenant_id and pick_id else None
    if tenant_id and pick_id and pick is None:
        raise NotFound("There is no such appointment.")
    since = views.safe_mode_since(conn, tenant_id, words.now) if tenant_id else None
    found = items.command(conn, tenant_id, done_id) if tenant_id and done_id else None
    text = explain(found["status"], found["reason"], words.locale) if found else None
    free = views.free_instead(conn, tenant_id, found["payload"], words.now) if found and _taken(found["status"]) else ()
    local = words.local(pick.start_at) if pick is not None else None
    return AgendaAct(
        clinic=visit.chosen.slug if visit.chosen is not None else "",
        csrf=visit.csrf_token,
        key=f"{visit.rev}.{visit.person.id}.",
        day=str(_day(visit)),
        back=visit.urls.to("/agenda", day=str(_day(visit)), span=visit.one("span"), therapist=visit.one("therapist")),
        pick=pick,
        pick_day=str(local.date()) if local else "",
        pick_time=f"{local:%H:%M}" if local else "",
        pick_minutes=int((pick.end_at - pick.start_at).total_seconds() // 60) if pick is not None else 50,
        contacts=tuple(views.who_may_ask(conn, tenant_id, pick.patient_id)) if pick is not None else (),
        patients=tuple(views.patients(conn, tenant_id)) if tenant_id and pick is None else (),
        therapists=tuple(views.therapists(conn, tenant_id)) if tenant_id else (),
        therapist=visit.one("therapist"),
        parked_since=views.contingency_since(conn, tenant_id) if tenant_id and since is None else None,
        blocked={t.value: blocked_text(words, t, since) for t in _BLOCKED} if since is not None else {},
        done_id=done_id if found else "",
        done_name=command_name(words, found["command_type"]) if found else "",
        done=state_badge(words, found["result"] or found["status"]) if found else None,
        done_why=text.why if text else "",
        done_next=text.next_action if text else "",
        done_free=tuple(words.visit(moment) for moment in free),
    )


def blocked_text(words: Words, command_type: CommandType, since: datetime) -> str:
    """Why a change is not possible in safe mode, what the person can do, and who releases it."""
    reason = words.text(_BLOCKED[command_type], time=words.clock(since))
    return reason + " " + words.text("What you can do: take over the conversation or call the family. Who releases it: superadmin.")


def _taken(status: str) -> bool:
    return status == State.BLOCKED_AGENDA_CONFLICT


def _booked(visit: Visit, row: Booked, rows: list[Booked], asked: list[Ghost], step: Row[Any] | None) -> Slot:
    words = visit.words
    word, shape = _STATUS.get(row.status, (row.status, "ring"))
    active = row.status != "cancelled"
    clash = active and any(
        other.appointment_id != row.appointment_id
        and other.therapist_id == row.therapist_id
        and other.status != "cancelled"
        and other.start_at < row.end_at
        and other.end_at > row.start_at
        for other in rows
    )
    notes = [
        words.text(
            "%(what)s asked for: %(state)s", what=command_name(words, g.command_type), state=state_badge(words, g.status).word
        )
        for g in asked
        if g.moves == row.appointment_id
    ]
    unanswered = step is not None and row.status == AppointmentStatus.SCHEDULED
    if step is not None and unanswered and (told := _DAY_BEFORE.get((step.action, step.outcome))) is not None:
        notes.append(words.text(told, time=words.clock(step.done_at)))
    return Slot(
        id=row.appointment_id,
        ghost=False,
        start_at=row.start_at,
        end_at=row.end_at,
        hours=_hours(words, row.start_at, row.end_at),
        title=row.patient,
        sub=row.therapist,
        word=words.text(word),
        shape=shape,
        notes=tuple(notes),
        clash=clash,
        url=_here(visit, row.appointment_id),
        chosen=visit.one("pick", 300) == row.appointment_id,
        cancelled=not active,
        unanswered=unanswered,
    )


def _ghost(visit: Visit, row: Ghost, booked: list[Booked], names: dict[str, str]) -> Slot:
    words = visit.words
    clash = any(
        b.therapist_id == row.therapist_id
        and b.status != "cancelled"
        and b.appointment_id != row.moves
        and b.start_at < row.end_at
        and b.end_at > row.start_at
        for b in booked
    )
    badge = state_badge(words, row.status)
    assert visit.chosen is not None
    return Slot(
        id=row.command_id,
        ghost=True,
        start_at=row.start_at,
        end_at=row.end_at,
        hours=_hours(words, row.start_at, row.end_at),
        title=row.patient,
        sub=names.get(row.therapist_id, row.therapist_id),
        word=f"{command_name(words, row.command_type)}: {badge.word}",
        shape=badge.shape,
        notes=(words.text("asked by: %(who)s", who=row.contact),),
        clash=clash,
        url=visit.urls.lane(visit.chosen, row.contact_id, item=row.command_id),
        chosen=False,
        cancelled=False,
    )


def _here(visit: Visit, pick: str) -> str:
    span, therapist = visit.one("span"), visit.one("therapist")
    return visit.urls.to("/agenda", day=str(_day(visit)), span=span, therapist=therapist, pick=pick) + "#agenda_act"


def _hours(words: Words, start_at: datetime, end_at: datetime) -> str:
    return f"{words.local(start_at):%H:%M}-{words.local(end_at):%H:%M}"


def _day(visit: Visit) -> date:
    """The day in the address; today in the clinic's timezone when it names none."""
    try:
        found = date.fromisoformat(visit.one("day", 10))
    except ValueError:
        found = visit.words.local(visit.words.now).date()
    return found if 2000 <= found.year < 2100 else visit.words.local(visit.words.now).date()


def _midnight(words: Words, day: date) -> datetime:
    return datetime.combine(day, time.min, words.zone).astimezone(UTC)


def _title(words: Words, days: list[date]) -> str:
    """`23/11/2026` or `23/11 - 29/11/2026` (`23 Nov 2026` in English)."""
    pattern = "EEEE, dd/MM/yyyy" if words.locale == "pt_BR" else "EEEE d MMM yyyy"
    first = format_date(days[0], pattern, locale=words.locale)
    return first if len(days) == 1 else f"{first} - {format_date(days[-1], pattern, locale=words.locale)}"
