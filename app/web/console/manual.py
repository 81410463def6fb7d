"""Manual review: tasks by deadline under tabs by cause, and the chosen one with what is behind it and what may be done."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from app.domain.manual import OFFERED, Outcome, Tab, TaskStatus, tab_of
from app.domain.reasons import explain
from app.errors import InvalidRequest
from app.store import manual, takeovers
from app.store.views.left import last_closed_task_at
from app.store.views.scope import clinics
from app.web.console.owners import owner_names
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.sentences import Badge, class_badge, command_name, task_reason
from app.web.console.visit import Viewer, Visit
from app.web.i18n import mark

PAGE_SIZE: Final = 50
PAYLOAD_MAX: Final = 4_000
CLOSED: Final = "closed"
"""The tab of what was closed lately, where a closing can be undone."""
CLOSED_FOR: Final = timedelta(hours=24)
LEFT_NAMED: Final = 20
"""How many of those that a bulk act left as they were are named."""

TAB_NAMES: Final = {
    Tab.EXPIRED: mark("Expired"),
    Tab.CONFLICT: mark("Conflicts"),
    Tab.INVALID: mark("Unusable"),
    Tab.REVIEW: mark("To review"),
    Tab.DELIVERY: mark("Messages not sent"),
    Tab.CONFIRMATION: mark("Not confirmed"),
    Tab.OTHER: mark("Others"),
}
OUTCOME_NAMES: Final = {
    Outcome.DONE_WITH_FAMILY: mark("Settled with the family"),
    Outcome.APPLIED_BY_COMMAND: mark("Carried out"),
    Outcome.NOT_NEEDED: mark("Not needed any more"),
    Outcome.DUPLICATE: mark("Repeated"),
    Outcome.FAMILY_NOT_REACHED: mark("Family not reached"),
    Outcome.PERMISSION_MISSING: mark("Permission missing"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualCount:
    """Context of the state fragment `manual_count`."""

    open: int


def load_manual_count(conn: Connection, viewer: Viewer) -> ManualCount:
    """How many tasks are not closed."""
    return ManualCount(open=sum(manual.counts(conn, viewer.scope).values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class TabLink:
    """One tab with how many tasks it has."""

    name: str
    count: int
    url: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLine:
    """One row of the list."""

    task_id: str
    rev: int
    url: str
    badge: Badge
    title: str
    who: str
    clinic: str
    why: str
    owner: str
    mine: bool
    due_at: datetime
    created_at: datetime
    chosen: bool
    outcome: str
    resolved_at: datetime | None
    can_reopen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualRows:
    """Context of the fragment `manual_rows`."""

    tabs: tuple[TabLink, ...]
    lines: tuple[TaskLine, ...]
    total: int
    csrf: str
    outcomes: tuple[tuple[str, str], ...]
    next_url: str | None
    here: str
    empty_since: datetime | None
    closed: bool
    """The list shows what was closed."""
    said: str
    """What came of closing or reopening several."""
    left: tuple[str, ...]
    """Those that stayed as they were, and why."""
    closed_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualDetail:
    """Context of the fragment `manual_detail`; `task` is None when none is chosen."""

    task: dict[str, Any] | None
    line: TaskLine | None
    next_action: str
    payload: str
    lane_url: str | None
    outcome: str
    can_reopen: bool
    can_release: bool
    csrf: str
    outcomes: tuple[tuple[str, str], ...]
    changed: bool
    answer: str


def load_manual_rows(conn: Connection, visit: Visit) -> ManualRows:
    """Tasks of the chosen tab, or what was closed lately."""
    words, chosen, closed = visit.words, _tab(visit.one("tab")), visit.one("tab") == CLOSED
    since = words.now - CLOSED_FOR
    counted = manual.counts(conn, visit.scope)
    totals = {tab: sum(n for cause, n in counted.items() if tab_of(cause) is tab) for tab in Tab}
    if closed:
        found = manual.closed(conn, visit.scope, since)
    else:
        found = manual.tasks(conn, visit.scope, tab=chosen, after=_after(visit.one("cursor")), limit=PAGE_SIZE + 1)
    more, found = not closed and len(found) > PAGE_SIZE, found if closed else found[:PAGE_SIZE]
    tabs = [
        TabLink(
            name=words.text("All"), count=sum(totals.values()), url=visit.urls.to("/manual"), chosen=chosen is None and not closed
        )
    ]
    tabs += [
        TabLink(name=words.text(TAB_NAMES[tab]), count=count, url=visit.urls.to("/manual", tab=tab.value), chosen=tab is chosen)
        for tab, count in totals.items()
        if count or tab is chosen
    ]
    talks = takeovers.open_count(conn, visit.scope)
    if talks:  # a conversation is worked on where it is answered; whoever looks for work finds it from here
        tabs.append(TabLink(name=words.text("Taken over"), count=talks, url=visit.urls.to("/takeovers"), chosen=False))
    ended, closed_url = manual.closed_count(conn, visit.scope, since), visit.urls.to("/manual", tab=CLOSED)
    if ended or closed:
        tabs.append(TabLink(name=words.text("Closed in 24 h"), count=ended, url=closed_url, chosen=closed))
    here = CLOSED if closed else chosen.value if chosen else None
    cursor = f"{found[-1]['due_at'].isoformat()}~{found[-1]['task_id']}" if more else None
    return ManualRows(
        tabs=tuple(tabs),
        lines=tuple(_lines(conn, visit, found)),
        total=totals[chosen] if chosen else sum(totals.values()),
        csrf=visit.csrf_token,
        outcomes=_outcomes(visit),
        next_url=visit.urls.to("/manual", tab=here, cursor=cursor) if cursor else None,
        here=visit.urls.to("/manual", tab=here),
        closed=closed,
        said=_bulk_said(visit),
        left=tuple(_left(conn, visit)),
        closed_url=closed_url,
        empty_since=None if sum(totals.values()) else last_closed_task_at(conn, visit.scope),
    )


def load_manual_detail(conn: Connection, visit: Visit) -> ManualDetail:
    """The task of `?task=`, else the first of the list."""
    words, wanted = visit.words, visit.one("task")
    if not wanted and visit.one("tab") == CLOSED:
        latest = manual.closed(conn, visit.scope, words.now - CLOSED_FOR, limit=1)
        wanted = latest[0]["task_id"] if latest else ""
    elif not wanted:
        first = manual.tasks(conn, visit.scope, tab=_tab(visit.one("tab")), after=_after(visit.one("cursor")), limit=1)
        wanted = first[0]["task_id"] if first else ""
    task = manual.task(conn, visit.scope, wanted) if wanted else None
    line = next(_lines(conn, visit, [task])) if task is not None else None
    told = explain(task["cause"], task["reason"], words.locale) if task is not None else None
    clinic = clinics(conn, [task["tenant_id"]]).get(task["tenant_id"]) if task is not None else None
    resolution = task["resolution"] if task is not None else None
    return ManualDetail(
        task=task,
        line=line,
        next_action=told.next_action if told is not None else "",
        payload=_pretty(task["payload"]) if task is not None else "",
        lane_url=visit.urls.lane(clinic, task["contact_id"], item=task["command_id"] or task["item_id"])
        if task is not None and clinic is not None and task["contact_id"]
        else None,
        outcome=words.text(OUTCOME_NAMES.get(resolution, resolution)) if resolution else "",
        can_reopen=task is not None and manual.can_reopen(task, words.now),
        can_release=line is not None and task is not None and task["owner"] is not None and (line.mine or leads(visit.role)),
        csrf=visit.csrf_token,
        outcomes=_outcomes(visit),
        changed=visit.one("changed") == "1",
        answer=_answer(visit, visit.one("result")),
    )


def leads(role: str) -> bool:
    """Whether a person may give back what others hold."""
    return role in (MANAGER, SUPERADMIN)


def _lines(conn: Connection, visit: Visit, found: list[dict[str, Any]]) -> Any:
    words, names = visit.words, clinics(conn, [t["tenant_id"] for t in found])
    people = owner_names(conn, words, (task["owner"] for task in found))
    for task in found:
        owner = task["owner"]
        yield TaskLine(
            task_id=task["task_id"],
            rev=task["rev"],
            url=visit.urls.to("/manual", tab=visit.one("tab") or None, task=task["task_id"]),
            badge=class_badge(words, task["priority"]),
            title=command_name(words, task["command_type"])
            if task["command_type"]
            else words.text(TAB_NAMES[tab_of(task["cause"])]),
            who=task["contact_name"] or task["contact_id"] or words.text("unknown contact"),
            clinic=names[task["tenant_id"]].name if visit.several else "",
            why=task_reason(words, task["cause"], task["reason"], occurred_at=task["occurred_at"], ttl_limit_s=task["ttl_limit_s"]),
            owner=people.get(owner, "") if owner else "",
            mine=owner == visit.person.audit_name,
            due_at=task["due_at"],
            created_at=task["created_at"],
            chosen=visit.one("task") == task["task_id"],
            outcome=words.text(OUTCOME_NAMES.get(task["resolution"], task["resolution"])) if task["resolution"] else "",
            resolved_at=task["resolved_at"],
            can_reopen=manual.can_reopen(task, words.now),
        )


def _bulk_said(visit: Visit) -> str:
    """What a bulk act did, from the address that it led to."""
    words, said = visit.words, []
    closed, reopened, left = (_number(visit.one(name, 4)) for name in ("closed", "reopened", "left_n"))
    if closed is not None:
        said.append(words.count("%(n)s task was closed.", "%(n)s tasks were closed.", closed))
    if reopened is not None:
        said.append(words.count("%(n)s task is open again.", "%(n)s tasks are open again.", reopened))
    if left and said:
        said.append(words.count("%(n)s stayed as it was:", "%(n)s stayed as they were:", left))
    return " ".join(said)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _left(conn: Connection, visit: Visit) -> Iterator[str]:
    """Each task that a bulk act left as it was: whose it is, and what stood against it."""
    words, ids = visit.words, [i[:40] for i in visit.one("left", 900).split("~") if i][:LEFT_NAMED]
    found = manual.some(conn, visit.scope, ids) if ids else []
    people = owner_names(conn, words, (task["owner"] for task in found))
    for task in found:
        who = task["contact_name"] or task["contact_id"] or words.text("unknown contact")
        if task["status"] == TaskStatus.CLAIMED:
            yield words.text("%(who)s: %(owner)s has it", who=who, owner=people.get(task["owner"], ""))
        elif task["status"] == TaskStatus.OPEN:
            yield words.text("%(who)s: open already", who=who)
        elif task["resolution"] == Outcome.APPLIED_BY_COMMAND:
            yield words.text("%(who)s: was carried out", who=who)
        else:
            yield words.text("%(who)s: closed already, at %(time)s", who=who, time=words.clock(task["resolved_at"]))


def _outcomes(visit: Visit) -> tuple[tuple[str, str], ...]:
    return tuple((o.value, visit.words.text(OUTCOME_NAMES[o])) for o in OFFERED)


def _tab(text: str) -> Tab | None:
    return Tab(text) if text in set(Tab) else None


def _after(text: str) -> tuple[datetime, str] | None:
    if not text:
        return None
    moment, _, task_id = text.partition("~")
    try:
        at = datetime.fromisoformat(moment)
    except ValueError as error:
        raise InvalidRequest("The cursor of this address cannot be read; start again from the first page.") from error
    if at.tzinfo is None:
        raise InvalidRequest("The cursor of this address cannot be read; start again from the first page.")
    return at, task_id[:40]


def _pretty(payload: Any) -> str:
    return json.dumps(msgspec.to_builtins(payload), ensure_ascii=False, indent=2)[:PAYLOAD_MAX] if payload is not None else ""


def _answer(visit: Visit, result: str) -> str:
    """What became of a command that was just carried out."""
    if not result:
        return ""
    state, _, reason = result.partition(".")
    told = explain(state, reason or None, visit.words.locale)
    return f"{told.why} {told.next_action}".strip()
