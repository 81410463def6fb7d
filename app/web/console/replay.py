"""Replay: contingency per channel, what waits or ended badly by intent, the dry run, its run and its report (F-05)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, case, func, select

from app.domain.reasons import explain
from app.domain.replay_batch import REPLAYABLE, BatchStatus
from app.domain.states import PARKED, CommandType, PriorityClass, State
from app.store import clocks, contingency, drain
from app.store.tables import InboxCommand, table
from app.store.views import replays
from app.store.views.scope import Clinic
from app.web.console.sentences import CLASS_NAMES, COMMAND_NAMES, STATE_NAMES, Badge, command_name, state_badge
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

_COMMAND = table(InboxCommand)

ROWS: Final = 100
CLINICS_MAX: Final = 50
GROUPS_MAX: Final = 12
REASON_MAX: Final = 500
RATES_PER_MIN: Final = (10, 30, 60, 300)

CHANNEL_NAMES: Final[Mapping[str, str]] = {
    "whatsapp": mark("WhatsApp"),
    "evolution": mark("Evolution"),
    "uazapi": mark("uazapi"),
    "simulator": mark("Simulated phone"),
    "api": mark("Orchestrator"),
}
STATUS_NAMES: Final[Mapping[str, str]] = {
    BatchStatus.PLANNED: mark("Dry run"),
    BatchStatus.RUNNING: mark("Running"),
    BatchStatus.PAUSED: mark("Paused"),
    BatchStatus.CANCELLED: mark("Cancelled"),
    BatchStatus.FINISHED: mark("Finished"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLine:
    """One channel's switch; `by_health` = its own state switched it on."""

    channel: str
    name: str
    active: bool
    since: datetime | None
    reason: str
    by_health: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayChannels:
    """Context of `replay_channels`; without a clinic, `others` says which are in contingency."""

    clinic: Clinic | None
    lines: tuple[ChannelLine, ...] = ()
    active: bool = False
    since: datetime | None = None
    csrf: str = ""
    clocks: tuple[str, ...] = ()
    """Sources whose clock is off, in a sentence each."""
    choose: tuple[tuple[str, str, bool], ...] = ()
    """Clinics to choose from: name, address, whether contingency is on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogLine:
    """Requests of one intent: parked, ended badly, and since when the oldest of them waits."""

    name: str
    parked: int
    ended: int
    oldest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayBacklog:
    """Context of `replay_backlog`, with the drain while one runs."""

    lines: tuple[BacklogLine, ...]
    parked: int
    draining: bool = False
    drain_said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLine:
    """One row of the dry run or of the run."""

    n: int
    who: str
    url: str
    name: str
    starts_at: datetime | None
    badge: Badge
    why: str
    versions: str
    age: str
    message: str
    pulled_in: bool
    done: bool
    drift: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """Context of `replay_plan`: the batch that is looked at; `head` is None when there is none."""

    head: dict[str, Any] | None = None
    status: str = ""
    said: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    families: tuple[tuple[str, str, int], ...] = ()
    soon: tuple[tuple[str, str, datetime], ...] = ()
    lines: tuple[ItemLine, ...] = ()
    place: str = ""
    """Which rows of the plan these are, when there are more."""
    next_url: str = ""
    first_url: str = ""
    would: int = 0
    fresh: bool = False
    waits: bool = False
    csrf: str = ""
    tenant: str = ""
    report_url: str = ""
    rate_said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayForm:
    """Context of `replay_form`: what a dry run may ask for."""

    tenant: str | None
    csrf: str
    intents: tuple[tuple[str, str], ...]
    states: tuple[tuple[str, str], ...]
    priorities: tuple[tuple[str, str], ...]
    rates: tuple[int, ...] = RATES_PER_MIN


def load_replay_channels(conn: Connection, visit: Visit) -> ReplayChannels:
    """The chosen clinic's channels, or the clinics to choose from."""
    if visit.chosen is None:
        found = tuple(
            (c.name, f"/replay?clinic={quote(c.slug, safe='')}", bool(contingency.status(conn, c.tenant_id)["active"]))
            for c in visit.clinics[:CLINICS_MAX]
        )
        return ReplayChannels(clinic=None, choose=found)
    now = contingency.status(conn, visit.chosen.tenant_id)
    known = {c["channel"]: c for c in now["channels"]}
    lines = []
    for channel in contingency.CHANNELS:
        state = known.get(channel, {})
        active = bool(state.get("active"))
        lines.append(
            ChannelLine(
                channel=channel,
                name=visit.words.text(CHANNEL_NAMES[channel]),
                active=active,
                since=state.get("since") if active else None,
                reason=state.get("reason", "") if active else "",
                by_health=state.get("origin") == "health",
            )
        )
    off = tuple(_clock_said(visit.words, c) for c in clocks.clocks(conn, visit.chosen.tenant_id) if c["state"] != "fine")
    return ReplayChannels(
        clinic=visit.chosen, lines=tuple(lines), active=now["active"], since=now["since"], csrf=visit.csrf_token, clocks=off
    )


def _clock_said(words: Words, clock: Mapping[str, Any]) -> str:
    """Which clock is off, and what that does."""
    label = CHANNEL_NAMES["api"] if clock["source"] == "orchestrator" else CHANNEL_NAMES.get(clock["source"], clock["source"])
    name, span = words.text(label), words.span(abs(clock["skew_s"]))
    if clock["state"] == "ahead":
        return words.text(
            "The clock of %(source)s is ahead by about %(span)s: its late requests look younger than they are.",
            source=name,
            span=span,
        )
    return words.text(
        "The clock of %(source)s seems behind by about %(span)s: its requests look older than they are.", source=name, span=span
    )


def load_replay_backlog(conn: Connection, visit: Visit) -> ReplayBacklog:
    """What is parked and what ended badly in the last day, by intent."""
    if visit.chosen is None:
        return ReplayBacklog(lines=(), parked=0)
    c, tenant_id, words = _COMMAND.c, visit.chosen.tenant_id, visit.words
    parked = func.sum(case((c.status.in_(PARKED), 1), else_=0))
    query = (
        select(c.command_type, parked.label("parked"), func.count().label("number"), func.min(c.accepted_at).label("oldest"))
        .where(
            c.tenant_id == tenant_id,
            c.status.in_([*PARKED, *REPLAYABLE]),
            (c.done_at.is_(None)) | (c.accepted_at >= words.now - replays.SOON),
        )
        .group_by(c.command_type)
        .order_by(parked.desc(), c.command_type)
    )
    lines = tuple(
        BacklogLine(
            name=command_name(words, row.command_type),
            parked=int(row.parked),
            ended=row.number - int(row.parked),
            oldest=row.oldest,
        )
        for row in conn.execute(query)
    )
    last = drain.latest(conn, tenant_id)
    running = last is not None and last["state"] == "running"
    said = ""
    if last is not None and running:
        said = words.text(
            "Leaving now: %(done)s of %(all)s, at %(rate)s a minute.",
            done=words.number(last["released"]),
            all=words.number(last["parked_at_start"]),
            rate=words.number(round(last["rate_per_s"] * 60, 1)),
        )
        if last["slowed"]:
            said += " " + words.text("Slower than set, because what waits did not get less.")
    return ReplayBacklog(lines=lines, parked=sum(line.parked for line in lines), draining=running, drain_said=said)


def load_replay_form(_conn: Connection, visit: Visit) -> ReplayForm:
    """What can be asked for."""
    words = visit.words
    # two states have one word for people; choosing it asks for both
    ended = sorted(REPLAYABLE - {State.VERSION_CONFLICT_BLOCKED})
    states = (State.PENDING_CONTINGENCY, State.PENDING_SAFE_MODE, *ended)
    return ReplayForm(
        tenant=visit.chosen.tenant_id if visit.chosen is not None else None,
        csrf=visit.csrf_token,
        intents=tuple((t.value, words.text(COMMAND_NAMES[t])) for t in CommandType),
        states=tuple((s.value, words.text(STATE_NAMES[s][0])) for s in states),
        priorities=tuple((p.value, words.text(CLASS_NAMES[p.rank])) for p in PriorityClass),
    )


def load_replay_plan(conn: Connection, visit: Visit) -> ReplayPlan:
    """The batch of the address, else the one that runs, else the newest."""
    if visit.chosen is None:
        return ReplayPlan()
    tenant_id, words = visit.chosen.tenant_id, visit.words
    replay_id = visit.one("batch", 40) or _current(conn, tenant_id)
    head = replays.batch(conn, tenant_id, replay_id, words.now) if replay_id else None
    if head is None:
        return ReplayPlan()
    given = visit.one("after", 9)
    after = int(given) if given.isascii() and given.isdigit() else 0
    items = replays.items(conn, head["replay_id"], after=after, limit=ROWS)
    names = replays.names(conn, tenant_id, [i["contact_id"] for i in items] + [s["contact_id"] for s in head["within_24h"]])
    started = head["started_at"] is not None
    blocked = contingency.status(conn, tenant_id)["active"]
    status = STATUS_NAMES[head["status"]]
    return ReplayPlan(
        head=head,
        status=words.text(status),
        said=_said(words, head),
        groups=tuple((_badge(words, g["status"], started).word, g["count"]) for g in _merged(head["outcomes"])),
        families=tuple(
            (f["name"] or f["contact_id"], visit.urls.lane(visit.chosen, f["contact_id"]), f["count"])
            for f in head["families"][:12]
        ),
        soon=tuple(
            (names.get(s["contact_id"]) or s["contact_id"], visit.urls.lane(visit.chosen, s["contact_id"]), s["starts_at"])
            for s in head["within_24h"][:GROUPS_MAX]
        ),
        lines=tuple(_line(visit, visit.chosen, item, names) for item in items),
        place=words.text(
            "Rows %(first)s to %(last)s of %(all)s",
            first=words.number(items[0]["n"]),
            last=words.number(items[-1]["n"]),
            all=words.number(head["total"]),
        )
        if 0 < len(items) < head["total"]
        else "",
        next_url=_rows_url(visit, head, items[-1]["n"]) if items and items[-1]["n"] < head["total"] else "",
        first_url=_rows_url(visit, head, 0) if after else "",
        would=head["would_replay"],
        fresh=head["fresh"],
        waits=blocked and head["status"] == BatchStatus.RUNNING,
        csrf=visit.csrf_token,
        tenant=tenant_id,
        report_url=f"/api/v1/replays/{head['replay_id']}/report?format=csv&tenant_id={tenant_id}" if started else "",
        rate_said=words.text("%(rate)s a minute", rate=words.number(round(head["rate"] * 60, 1))),
    )


def _rows_url(visit: Visit, head: Mapping[str, Any], after: int) -> str:
    """The rows of the plan from behind this one."""
    return visit.urls.to("/replay", batch=head["replay_id"], after=str(after) if after else None)


def _current(conn: Connection, tenant_id: str) -> str | None:
    found = replays.batches(conn, tenant_id, after=None, limit=20)
    going = (b for b in found if b["status"] in (BatchStatus.RUNNING, BatchStatus.PAUSED))
    chosen = next(going, found[0] if found else None)
    return str(chosen["replay_id"]) if chosen else None


def _merged(outcomes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Outcomes by state alone, the most first."""
    totals: dict[str, int] = {}
    for outcome in outcomes:
        totals[outcome["status"]] = totals.get(outcome["status"], 0) + outcome["count"]
    return [{"status": state, "count": number} for state, number in sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))]


def _said(words: Words, head: Mapping[str, Any]) -> str:
    """The batch in a sentence or two."""
    if head["started_at"] is None:
        counts = head["predicted"]
        by_status = {o["status"]: o["count"] for o in _merged(head["outcomes"])}
        denied, taken = by_status.get(State.BLOCKED_GUARDIAN_DENIED, 0), by_status.get(State.BLOCKED_TAKEOVER_ACTIVE, 0)
        counts = {**counts, "denied": denied, "taken": taken}
        counts["manual_review_required"] -= denied + taken
        parts = [words.count("%(n)s leaves", "%(n)s leave", counts["replayed"])]
        others = {
            "expired_manual": words.count("%(n)s has expired", "%(n)s have expired", counts["expired_manual"]),
            "conflict_blocked": words.count("%(n)s is out of date", "%(n)s are out of date", counts["conflict_blocked"]),
            "denied": words.count("%(n)s is without permission", "%(n)s are without permission", denied),
            "taken": words.count("%(n)s is with a person", "%(n)s are with a person", taken),
            "manual_review_required": words.count("%(n)s needs a person", "%(n)s need a person", counts["manual_review_required"]),
        }
        parts += [text for name, text in others.items() if counts[name]]
        return words.text(
            "Dry run of %(time)s: of %(all)s, %(parts)s. Nothing was sent yet.",
            time=words.clock(head["planned_at"]),
            all=words.count("%(n)s request", "%(n)s requests", head["total"]),
            parts=", ".join(parts),
        )
    counts = head["counts"]
    said = words.text(
        "%(done)s of %(all)s done: %(sent)s left, %(people)s went to a person.",
        done=words.number(head["done"]),
        all=words.number(head["total"]),
        sent=words.number(counts["replayed"]),
        people=words.number(head["done"] - counts["replayed"]),
    )
    if head["drift"]:
        said += " " + words.count("%(n)s ended differently than foreseen.", "%(n)s ended differently than foreseen.", head["drift"])
    return said


def _badge(words: Words, state: str, done: bool) -> Badge:
    """Badge of a result; what was only foreseen is not said to be done."""
    badge = state_badge(words, state)
    return Badge("", words.text("Would leave"), badge.shape, badge.tone) if state == State.REPLAYED and not done else badge


def _line(visit: Visit, clinic: Clinic, item: Mapping[str, Any], names: Mapping[str, str]) -> ItemLine:
    words = visit.words
    state = item["status"] or item["predicted"]["status"]
    reason = item["reason"] or item["predicted"]["reason"]
    leaves = state == State.REPLAYED and item["state"] != "done"
    versions = age = ""
    if item["expected_version"] is not None or item["event_version"] is not None:
        expected, given = item["expected_version"], item["event_version"]
        versions = words.text(
            "request: %(given)s, now: %(expected)s",
            given=given if given is not None else "-",
            expected=expected if expected is not None else "-",
        )
    if item["event_age_s"] is not None:
        age = words.span(item["event_age_s"])
        if item["ttl_limit_s"] is not None:
            age = words.text("%(age)s of %(limit)s", age=age, limit=words.span(item["ttl_limit_s"]))
    return ItemLine(
        n=item["n"],
        who=names.get(item["contact_id"]) or item["contact_id"],
        url=visit.urls.lane(clinic, item["contact_id"]),
        name=command_name(words, item["command_type"]),
        starts_at=item["starts_at"],
        badge=_badge(words, state, item["state"] == "done"),
        why=words.text("Within its time limit and on the right versions.") if leaves else explain(state, reason, words.locale).why,
        versions=versions,
        age=age,
        message=item["message"] or "",
        pulled_in=item["pulled_in"],
        done=item["state"] == "done",
        drift=item["drift"],
    )
