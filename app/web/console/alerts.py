"""Alerts: what is open first, how long until safe mode, each step of the ladder, and who took it on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from app.store.accounts import find_user
from app.store.views import alerts as views
from app.store.views.scope import clinics
from app.web.console.pages import page
from app.web.console.sentences import Badge
from app.web.console.visit import Viewer, Visit
from app.web.i18n import mark
from app.web.words import Words

PAGE_SIZE: Final = 50
GROUP_SHOWN: Final = 20
NEEDS_SHOWN: Final = 4

_SEVERITIES: Final = {
    "critical": ("P1", mark("Critical"), "triangle", "crit"),
    "high": ("P2", mark("High"), "square", "high"),
    "warning": ("P3", mark("Attention"), "ring", "plain"),
}
STATUSES: Final[Mapping[str, str]] = {
    "open": mark("Nobody has taken it on"),
    "acknowledged": mark("Taken on"),
    "resolved": mark("Over"),
}
RESULTS: Final[Mapping[str, str]] = {
    "ack_received": mark("acknowledged in time"),
    "ack_timeout_escalated": mark("no acknowledgement in 15 minutes: safe mode"),
    "alert_fired_acknowledged": mark("acknowledged in time"),
    "alert_fired_no_ack_escalated": mark("not acknowledged in time: escalated"),
}
CHANNELS: Final[Mapping[str, str]] = {
    "ops": mark("Operations"),
    "superadmin_whatsapp": mark("WhatsApp of the superadmin"),
    "superadmin_sms": mark("SMS of the superadmin"),
    "ops_chat": mark("Chat of operations"),
    "secretary": mark("Desk of the clinic"),
    "manager": mark("Management of the clinic"),
    "email": mark("E-mail"),
}
LEVELS: Final[Mapping[str, str]] = {
    "raise_warning": mark("Level: warning"),
    "raise_high": mark("Level: high"),
    "enter_safe_mode": mark("Safe mode begins"),
    "escalate": mark("Escalated"),
}
OUTCOMES: Final[Mapping[str, tuple[str, str, str]]] = {
    "sent": (mark("sent"), "check", "plain"),
    "failed": (mark("failed"), "triangle", "crit"),
    "unknown": (mark("no answer, may have arrived"), "triangle", "warn"),
    "merged": (mark("covered by a later message"), "dash", "plain"),
    "grouped": (mark("covered by the message of the first alert"), "dash", "plain"),
    "stopped": (mark("not sent: acknowledged before"), "dash", "plain"),
    "done": (mark("happened"), "check", "plain"),
}
DELIVERIES: Final[Mapping[str, str]] = {
    "delivered": mark("delivered"),
    "read": mark("read"),
    "played": mark("read"),
    "failed": mark("failed"),
}
HOW: Final[Mapping[str, str]] = {
    "link": mark("by the message's link"),
    "whatsapp_button": mark("by the WhatsApp button"),
    "console": mark("in the console"),
    "api": mark("by a program"),
}


_WORKED_ON: Final[Mapping[str, str]] = {
    "day_before_unconfirmed": "/manual",
    "takeover_sla_warning": "/takeovers",
}
"""Where those who own an alert work on what it is about."""


@dataclass(frozen=True, slots=True)
class AlertCount:
    """How many alerts nobody has taken on, in the frame."""

    open: int
    critical: int
    safe_mode_at: datetime | None = None
    """When safe mode begins by itself unless somebody takes an alert on; the screens count down to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLine:
    """One row of the list."""

    alert_id: str
    url: str
    badge: Badge
    summary: str
    clinic: str
    status: str
    open: bool
    behind: bool
    chosen: bool
    raised_at: datetime
    safe_mode_at: datetime | None
    count: int
    rev: int
    may_ack: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRows:
    """Context of the fragment `alert_rows`."""

    lines: tuple[AlertLine, ...]
    open: int
    csrf: str
    next_url: str | None
    first_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of the ladder."""

    step_id: str
    due_at: datetime
    done_at: datetime | None
    what: str
    target: str
    outcome: str
    shape: str
    tone: str
    late: bool
    level: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Who did what about an alert."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertDetail:
    """Context of the fragment `alert_detail`; without an alert there is none to show."""

    alert: Mapping[str, Any] | None
    changed: bool = False
    """Refused because somebody else changed it: this is how it is now."""
    badge: Badge | None = None
    summary: str = ""
    clinic: str = ""
    status: str = ""
    result: str = ""
    rungs: tuple[Rung, ...] = ()
    records: tuple[Record, ...] = ()
    others: tuple[AlertLine, ...] = ()
    others_open: int = 0
    may_act: bool = False
    left_to_send: int = 0
    csrf: str = ""
    evidence_url: str = ""
    named: bool = False
    """Whether the address names it, so that a small screen shows it first."""


def load_alert_count(conn: Connection, viewer: Viewer) -> AlertCount:
    """Open alerts of the viewer's clinics."""
    found = views.counts(conn, viewer.scope)
    upcoming = found.next_safe_mode_at
    return AlertCount(found.open, found.critical, upcoming if upcoming is not None and upcoming > viewer.words.now else None)


def load_alert_rows(conn: Connection, visit: Visit) -> AlertRows:
    """One page of alerts: open ones first, those of one storm together behind the first of them."""
    text = visit.one("page", 6)
    number = int(text) if text.isascii() and text.isdigit() else 0
    rows = views.board(conn, visit.scope, offset=number * PAGE_SIZE, limit=PAGE_SIZE + 1)
    return AlertRows(
        lines=_lines(conn, visit, rows[:PAGE_SIZE]),
        open=views.counts(conn, visit.scope).open,
        csrf=visit.csrf_token,
        next_url=visit.urls.to("/alerts", page=number + 1) if len(rows) > PAGE_SIZE else None,
        first_url=visit.urls.to("/alerts") if number else None,
    )


def open_alerts(conn: Connection, visit: Visit) -> tuple[AlertLine, ...]:
    """The worst alerts that nobody has taken on, one line for each storm.

    A role that does not see the page has those that it owns, and is led to where it works on them.
    """
    alerts_page = page("alerts")
    rows = views.board(conn, visit.scope, offset=0, limit=PAGE_SIZE)
    if alerts_page is None or visit.role not in alerts_page.roles:
        rows = [row for row in rows if visit.role in row["owner"].split(",") and row["trigger"] in _WORKED_ON]
    leaders: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["status"] == "open":
            leaders.setdefault(row["group_id"], row)
    lines = _lines(conn, visit, list(leaders.values())[:NEEDS_SHOWN])
    if alerts_page is not None and visit.role in alerts_page.roles:
        return lines
    triggers = {row["alert_id"]: row["trigger"] for row in rows}
    return tuple(replace(line, url=visit.urls.to(_WORKED_ON[triggers[line.alert_id]])) for line in lines)


def load_alert_detail(conn: Connection, visit: Visit) -> AlertDetail:
    """The alert that the address names, else the first of the list."""
    wanted = visit.one("alert", 40)
    if not wanted:
        first = views.board(conn, visit.scope, offset=0, limit=1)
        wanted = first[0]["alert_id"] if first else ""
    found = views.one(conn, wanted, visit.scope) if wanted else None
    if found is None:
        return AlertDetail(alert=None)
    words = visit.words
    (line,) = _lines(conn, visit, [found])
    members = views.members(conn, found["group_id"], visit.scope, limit=GROUP_SHOWN + 1)
    others = [m for m in members if m["alert_id"] != wanted]
    return AlertDetail(
        alert=found,
        changed=visit.path != "/alerts",
        badge=line.badge,
        summary=line.summary,
        clinic=line.clinic,
        status=line.status,
        result=_named(words, RESULTS, found["result"]),
        rungs=_rungs(words, found),
        records=_records(conn, words, found),
        others=_lines(conn, visit, others[:GROUP_SHOWN]),
        others_open=views.group_size(conn, found["group_id"], open_only=True) - (found["status"] == "open"),
        may_act=visit.role != "secretary",
        left_to_send=len(found["upcoming"]),
        csrf=visit.csrf_token,
        evidence_url=visit.urls.to("/evidence", kind="alert", subject=wanted) if visit.role != "secretary" else "",
        named=bool(visit.one("alert", 40)),
    )


def _lines(conn: Connection, visit: Visit, rows: list[dict[str, Any]]) -> tuple[AlertLine, ...]:
    words = visit.words
    names = clinics(conn, [r["tenant_id"] for r in rows if r["tenant_id"]])
    chosen = visit.one("alert", 40)
    return tuple(
        AlertLine(
            alert_id=r["alert_id"],
            url=visit.urls.to("/alerts", alert=r["alert_id"]),
            badge=severity_badge(words, r["severity"]),
            summary=r["summary"],
            clinic=names[r["tenant_id"]].name if r["tenant_id"] in names else words.text("All clinics"),
            status=_named(words, STATUSES, r["status"]),
            open=r["acked_at"] is None and r["status"] == "open",
            behind=r["group_id"] != r["alert_id"],
            chosen=r["alert_id"] == chosen,
            raised_at=r["raised_at"],
            safe_mode_at=r["safe_mode_at"],
            count=r["count"],
            rev=r["rev"],
            may_ack=r["acked_at"] is None and r["status"] == "open" and visit.role != "secretary",
        )
        for r in rows
    )


def severity_badge(words: Words, severity: str) -> Badge:
    """Badge of an alert's severity."""
    code, word, shape, tone = _SEVERITIES[severity]
    return Badge(code, words.text(word), shape, tone)


def _rungs(words: Words, alert: Mapping[str, Any]) -> tuple[Rung, ...]:
    """Messages and changes of level, in the order in which they were due."""
    stopped = alert["stopped"]
    rungs = [_message(words, step) for step in (*alert["attempts"], *alert["upcoming"], *stopped)]
    for level in alert["levels"]:
        word, shape, tone = _outcome(words, level["outcome"])
        rungs.append(
            Rung(
                step_id=level["action"],
                due_at=level["due_at"],
                done_at=level["done_at"] if level["outcome"] == "done" else None,
                what=_named(words, LEVELS, level["action"]),
                target="",
                outcome=word if level["outcome"] != "stopped" else words.text("did not happen"),
                shape=shape,
                tone=tone,
                late=level["late"],
                level=True,
            )
        )
    return tuple(sorted(rungs, key=lambda r: (r.due_at, not r.level, r.step_id)))


def _message(words: Words, step: Mapping[str, Any]) -> Rung:
    name = _named(words, CHANNELS, step["channel"])
    what = words.text("%(channel)s, attempt %(n)s", channel=name, n=step["n"])
    if step["fallback_of"]:
        what = words.text("%(what)s (fallback)", what=what)
    word, shape, tone = _outcome(words, step["outcome"])
    if step["outcome"] == "sent" and step["delivery"] in DELIVERIES:
        word = _named(words, DELIVERIES, step["delivery"])
    if step["answer"] and step["outcome"] in ("failed", "unknown"):
        word = f"{word} ({step['answer']})"
    return Rung(
        step_id=step["step_id"],
        due_at=step["due_at"],
        done_at=step["done_at"] if step["outcome"] != "stopped" else None,
        what=what,
        target=step["target"] or "",
        outcome=word,
        shape=shape,
        tone=tone,
        late=step["late"],
        level=False,
    )


def _outcome(words: Words, outcome: str | None) -> tuple[str, str, str]:
    if outcome is None:
        return words.text("to come"), "ring", "plain"
    word, shape, tone = OUTCOMES[outcome]
    return words.text(word), shape, tone


def _records(conn: Connection, words: Words, alert: Mapping[str, Any]) -> tuple[Record, ...]:
    found = []
    for r in alert["records"]:
        values = {"who": _who(conn, words, r["by"]), "how": _named(words, HOW, r["how"])}
        if r["kind"] == "pass_on":
            text = words.text("%(who)s passed it on %(how)s.", **values)
        elif r["effective"]:
            text = words.text("%(who)s took it on %(how)s, %(delay)s after it began.", delay=words.span(r["delay_s"]), **values)
        else:
            text = words.text("%(who)s also confirmed %(how)s.", **values)
        found.append(Record(at=r["at"], text=text))
    if alert["resolved_at"] is not None:
        who = _who(conn, words, alert["resolved_by"])
        found.append(Record(at=alert["resolved_at"], text=words.text("%(who)s resolved it.", who=who)))
    return tuple(found)


def _named(words: Words, names: Mapping[str, str], value: str | None) -> str:
    """The word for a value; the value itself where there is none (channels may have any name), and nothing for nothing."""
    if value is None:
        return ""
    return words.text(names[value]) if value in names else value


def _who(conn: Connection, words: Words, by: str) -> str:
    kind, _, name = by.partition(":")
    if kind == "user":
        user = find_user(conn, name)
        return user.name if user is not None else words.text("A person")
    if kind == "recipient":
        channel, _, number = name.partition(":")
        shown = _named(words, CHANNELS, channel)
        return f"{shown} {number}".strip()
    return words.text("A program") if kind == "key" else words.text("The system")
