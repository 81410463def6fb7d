"""Safe mode: why and since when, what waits, the four gates of the way out, and the ten-minute strip."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row

from app.domain.green_window import NEW_CAUSE, NO_SAMPLE, expire, green_for
from app.domain.safe_mode import Checklist, SafeModeResult
from app.domain.states import ModeState, State
from app.store.critical_tickets import tickets_of
from app.store.episodes import acks_of, causes_of, checklist_of, gates_of, missing_of, open_episode, parked, window_of
from app.store.lanes import GLOBAL_SCOPE
from app.store.notices import counts
from app.store.views import safe_mode as view
from app.store.views.scope import Clinic, clinics
from app.web.console.pages import SUPERADMIN, page
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

MINUTES: Final = 10
REASON_MAX, ACTION_MAX, STEP_MAX = 500, 1_000, 200

CHECKS: Final[Mapping[str, str]] = {
    "database_write": mark("the database takes writes"),
    "redis": mark("Redis answers"),
    "channels": mark("channels can be reached"),
    "outbox_age": mark("messages leave on time"),
    "loops": mark("the engine's loops run"),
    "lane_wait": mark("contacts do not stand still"),
    "clock_skew": mark("clocks agree"),
    "disk_space": mark("there is disk space"),
    NO_SAMPLE: mark("health is looked at"),
}
"""What each check says when it is green."""

FAILED: Final[Mapping[str, str]] = {
    "database_write": mark("the database did not take writes"),
    "redis": mark("Redis failed"),
    "channels": mark("a channel failed"),
    "outbox_age": mark("messages left late"),
    "loops": mark("a loop of the engine stood still"),
    "lane_wait": mark("a contact stood still"),
    "clock_skew": mark("the clocks differed"),
    "disk_space": mark("disk space ran out"),
    NO_SAMPLE: mark("nobody looked at the health"),
    NEW_CAUSE: mark("there was one more reason"),
}

TICKS: Final[Mapping[str, str]] = {
    "ack_validated": mark("I checked that the alerts were acknowledged by whoever is in charge"),
    "recovery_action_logged": mark("What was done is written down completely"),
    "ops_notified": mark("Operations know that requests will leave again"),
    "ticket_in_recovery": mark("The critical ticket is being worked on"),
}

MISSING: Final[Mapping[str, str]] = {
    "recovery_action": mark("what was done"),
    "recovery_by": mark("what was done"),
    "runbook_step": mark("the step of the runbook"),
    "ack_validated": mark("tick: acknowledgement checked"),
    "recovery_action_logged": mark("tick: action written down"),
    "ops_notified": mark("tick: operations know"),
    "ticket_in_recovery": mark("tick: ticket in work"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseLine:
    """One cause; `acknowledged` None = needs no ACK."""

    summary: str
    at: datetime
    acknowledged: bool | None
    url: str | None


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of the exit."""

    name: str
    done: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeNow:
    """Context of `safe_now`."""

    state: str
    headline: str
    since: datetime | None
    scope_name: str
    unwritten: bool = False
    """It holds by its deadline, and nobody could write that down yet."""
    causes: tuple[CauseLine, ...] = ()
    parked: int = 0
    parked_url: str = ""
    gates: tuple[Gate, ...] = ()
    families: str = ""
    tickets: int = 0
    reentries: int = 0
    released: int = 0
    others: tuple[tuple[str, str], ...] = ()
    """Other scopes in safe mode: name and address."""


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One health check as last seen; `status` is green | red | missing."""

    name: str
    status: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeWindow:
    """Context of `safe_window`: how many tenths of the strip are green, and what last set it back."""

    open: bool
    minutes: tuple[float, ...]
    """Share of each minute that is green, 0 to 1."""
    said: str
    ready_at: datetime | None
    reset: str
    checks: tuple[CheckLine, ...]


@dataclass(frozen=True, slots=True)
class Typed:
    """What somebody wrote into the recovery form while a colleague saved theirs."""

    action: str
    runbook_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeForms:
    """Context of `safe_forms`: what this person may do now."""

    state: str
    may_act: bool
    scope: str
    scope_name: str
    csrf: str
    action: str
    runbook_step: str
    ticks: tuple[tuple[str, str, bool], ...]
    answer: str
    tone: str
    missing: tuple[str, ...]
    clinic: str | None
    rev: int = 0
    """The episode's as shown: a form that comes back with an older one saves nothing."""


# --- loading ------------------------------------------------------------------------------------------------------------


def scopes_of(visit: Visit) -> list[str] | None:
    """The scopes that a visit looks at; None = all."""
    return None if visit.scope is None else [GLOBAL_SCOPE, *visit.scope]


def scope_of(conn: Connection, visit: Visit) -> str:
    """The scope that the page is about: the strictest of those that the visit looks at."""
    first = visit.chosen.tenant_id if visit.chosen is not None else GLOBAL_SCOPE
    return view.strictest_of(conn, scopes_of(visit), first, visit.words.now)


def load_safe_now(conn: Connection, visit: Visit) -> SafeNow:
    """What holds now."""
    words, scope = visit.words, scope_of(conn, visit)
    mode = view.modes(conn, [scope]).get(scope)
    state, episode = view.state_of(mode, words.now), open_episode(conn, scope)
    names = names_of(conn, visit, [scope])
    since = None
    if mode is not None and state is not ModeState.NORMAL:
        since = mode.since or mode.safe_deadline
    return SafeNow(
        state=state,
        headline=words.text(_HEADLINES[state]),
        since=since,
        scope_name=names[scope],
        unwritten=episode is None and state is ModeState.SAFE_MODE_ACTIVE,
        causes=_causes(conn, visit, episode),
        parked=parked(conn, scope),
        parked_url=visit.urls.to("/queue", state=State.PENDING_SAFE_MODE.value),
        gates=_gates(conn, visit, episode),
        families=_families(conn, words, episode),
        tickets=len(tickets_of(conn, episode.episode_id)) if episode is not None else 0,
        reentries=episode.reentries if episode is not None else 0,
        released=episode.released if episode is not None else 0,
        others=_others(conn, visit, scope),
    )


_HEADLINES: Final = {
    ModeState.NORMAL: mark("Safe mode is off"),
    ModeState.SAFE_MODE_ACTIVE: mark("Safe mode is on"),
    ModeState.RECOVERING: mark("Leaving safe mode: ten green minutes are awaited"),
    ModeState.DRAINING: mark("Safe mode is over: what was parked leaves little by little"),
}


def _causes(conn: Connection, visit: Visit, episode: Row[Any] | None) -> tuple[CauseLine, ...]:
    if episode is None:
        return ()
    acks = acks_of(conn, episode.episode_id)
    return tuple(
        CauseLine(
            summary=row.summary,
            at=row.at,
            acknowledged=acks.get(row.cause_id),
            url=visit.urls.to("/alerts", alert=row.cause_id) if row.kind == "alert" and page("alerts") is not None else None,
        )
        for row in causes_of(conn, episode.episode_id)
    )


def _gates(conn: Connection, visit: Visit, episode: Row[Any] | None) -> tuple[Gate, ...]:
    if episode is None:
        return ()
    words, gates = visit.words, gates_of(conn, episode)
    taken, ticks = sum(gates.acks.values()), asdict(gates.checklist)
    green = green_for(window_of(episode), words.now, visit.window)
    recovered = bool(gates.recovery_action and gates.runbook_step)
    return (
        Gate(
            words.text("Every alert that caused it is acknowledged"),
            all(gates.acks.values()),
            words.text("%(n)d of %(all)d", n=taken, all=len(gates.acks)) if gates.acks else words.text("no alert is behind it"),
        ),
        Gate(
            words.text("What was done is recorded, with the step of the runbook"),
            recovered,
            " · ".join(part for part in (gates.recovery_action, gates.runbook_step) if part) or words.text("nothing yet"),
        ),
        Gate(
            words.text("The checklist is complete"),
            all(ticks.values()),
            words.text("%(n)d of %(all)d", n=sum(ticks.values()), all=len(ticks)),
        ),
        Gate(
            words.text("Ten minutes of green health without a gap"),
            episode.draining_since is not None or green >= visit.window.needed,
            words.text("%(span)s of %(needed)s", span=words.span(green), needed=words.span(visit.window.needed)),
        ),
    )


def _families(conn: Connection, words: Words, episode: Row[Any] | None) -> str:
    """How many families were told."""
    if episode is None:
        return ""
    found = counts(conn, episode.episode_id)
    total = sum(found.values())
    if not total:
        return ""
    failed = found.get("contingency_message_failed_ticket_opened", 0)
    said = words.count("%(n)s message to families", "%(n)s messages to families", total)
    parts = [words.count("%(n)s on its way", "%(n)s on their way", found.get("sending", 0))] if found.get("sending") else []
    parts += [words.count("%(n)s failed", "%(n)s failed", failed)] if failed else []
    return f"{said} ({', '.join(parts)})" if parts else said


def _others(conn: Connection, visit: Visit, scope: str) -> tuple[tuple[str, str], ...]:
    """Further scopes that are not normal, by name."""
    rows = view.modes(conn, scopes_of(visit))
    found = [s for s, row in rows.items() if s != scope and view.state_of(row, visit.words.now) is not ModeState.NORMAL]
    known = clinics(conn, [s for s in found if s != GLOBAL_SCOPE])
    names = names_of(conn, visit, found)
    return tuple(sorted((names[s], f"/safe-mode?clinic={known[s].slug}" if s in known else "/safe-mode?clinic=all") for s in found))


def names_of(conn: Connection, visit: Visit, scopes: Sequence[str]) -> dict[str, str]:
    """What scopes are called on a screen."""
    known: Mapping[str, Clinic] = clinics(conn, [s for s in scopes if s != GLOBAL_SCOPE])
    return {s: known[s].name if s in known else visit.words.text("all clinics") for s in scopes}


def load_safe_window(conn: Connection, visit: Visit) -> SafeWindow:
    """The strip, minute by minute, and the checks."""
    words, policy = visit.words, visit.window
    episode = open_episode(conn, scope_of(conn, visit))
    lines = tuple(
        CheckLine(words.text(CHECKS.get(c["name"], c["name"])), c["status"], c["detail"] or "")
        for c in view.checks(conn, policy, words.now, episode.scope if episode is not None else None)
    )
    if episode is None:
        return SafeWindow(open=False, minutes=(), said="", ready_at=None, reset="", checks=lines)
    current = expire(window_of(episode), words.now, policy)
    green = policy.needed if episode.draining_since is not None else green_for(current, words.now, policy)
    share = green / policy.needed * MINUTES
    return SafeWindow(
        open=True,
        minutes=tuple(round(min(1.0, max(0.0, share - n)), 3) for n in range(MINUTES)),
        said=words.text("%(span)s of %(needed)s green", span=words.span(green), needed=words.span(policy.needed)),
        ready_at=current.green_since + policy.needed if current.green_since is not None and green < policy.needed else None,
        reset=_reset(words, current.reset_at, current.reset_by, current.reset_after_s),
        checks=lines,
    )


def _reset(words: Words, at: datetime | None, by: str | None, after_s: float | None) -> str:
    if at is None or by is None:
        return ""
    return words.text(
        "Went back to zero at %(time)s: %(check)s in minute %(n)d.",
        time=words.clock(at),
        check=words.text(FAILED.get(by, by)),
        n=int((after_s or 0) // 60) + 1,
    )


def load_safe_forms(conn: Connection, visit: Visit) -> SafeForms:
    """What may be done, with what was typed before and what the last attempt to leave came to."""
    words, scope = visit.words, scope_of(conn, visit)
    state, episode = view.state_of(view.modes(conn, [scope]).get(scope), words.now), open_episode(conn, scope)
    ticks = asdict(checklist_of(episode)) if episode is not None else asdict(Checklist())
    if state is ModeState.NORMAL:
        scope = visit.chosen.tenant_id if visit.chosen is not None else GLOBAL_SCOPE
    lacks = missing_of(conn, episode) if episode is not None else ()
    answer, tone = _answer(words, episode, state, lacks)
    return SafeForms(
        state=state,
        may_act=visit.role == SUPERADMIN,
        scope=scope,
        scope_name=names_of(conn, visit, [scope])[scope],
        csrf=visit.csrf_token,
        action=(episode.recovery_action or "") if episode is not None else "",
        runbook_step=(episode.runbook_step or "") if episode is not None else "",
        ticks=tuple((name, words.text(label), ticks[name]) for name, label in TICKS.items()),
        answer=answer,
        tone=tone,
        missing=tuple(dict.fromkeys(_lack(words, code) for code in lacks)),
        clinic=visit.urls.clinic,
        rev=episode.rev if episode is not None else 0,
    )


def _answer(words: Words, episode: Row[Any] | None, state: ModeState, lacks: Sequence[str]) -> tuple[str, str]:
    """What the last attempt to leave came to."""
    if episode is None:
        return "", "plain"
    if state is ModeState.RECOVERING:
        return words.text("The exit goes on by itself once the ten minutes are green."), "plain"
    if episode.exit_result == SafeModeResult.SAFE_MODE_EXIT_DENIED_MISSING_CHECKLIST and lacks:
        return words.text("Leaving was refused. Missing: %(what)s.", what=lacks_in(words, ", ".join(lacks))), "crit"
    if episode.exit_result == SafeModeResult.SAFE_MODE_EXIT_ABORTED_HEALTH_UNSTABLE:
        failed = ", ".join(words.text(FAILED.get(name, name)) for name in (episode.exit_reason or "").split(", "))
        return words.text("Leaving was aborted: %(what)s. Try again once it is green.", what=failed), "crit"
    return "", "plain"


def lacks_in(words: Words, codes: str | None) -> str:
    """What an attempt to leave lacked, out of the codes that were stored."""
    return ", ".join(dict.fromkeys(_lack(words, code) for code in (codes or "").split(", ") if code))


def _lack(words: Words, code: str) -> str:
    return words.text("acknowledgement of an alert") if code.startswith("ack:") else words.text(MISSING.get(code, code))
