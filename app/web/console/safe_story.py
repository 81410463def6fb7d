"""Episodes of safe mode as stories: what happened, when, by whom, and what families were told meanwhile."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from app.errors import NotFound
from app.store.critical_tickets import tickets_of
from app.store.episodes import causes_of, checklist_of, steps_of
from app.store.notices import Told, counts, told
from app.store.tables import UserAccount, table
from app.store.views import safe_mode as view
from app.web.console.safe_mode import FAILED, lacks_in, names_of, scopes_of
from app.web.console.sentences import intent_name
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

_USER = table(UserAccount)

PAST_MAX: Final = 10

STORY: Final[Mapping[str, str]] = {
    "entered": mark("Safe mode on: %(detail)s."),
    "cause_added": mark("One more reason: %(detail)s."),
    "acknowledged": mark("Acknowledged after %(n)s min: %(detail)s."),
    "gates_closed": mark("Recovery, checklist and the ten minutes begin anew for it."),
    "reentered": mark("Back to safe mode while requests were leaving: %(detail)s."),
    "recovery_recorded": mark("Recovery: %(detail)s."),
    "checklist_ticked": mark("Checklist changed."),
    "exit_denied": mark("Leaving was refused; missing: %(detail)s."),
    "exit_aborted": mark("Leaving was aborted: %(detail)s."),
    "exit_started": mark("Leaving began: ten green minutes are awaited."),
    "exit_completed": mark("Ten green minutes: what was parked begins to leave (%(detail)s)."),
    "window_reset": mark("The ten minutes went back to zero: %(detail)s."),
    "ticket_opened": mark("Critical ticket opened."),
    "drained": mark("Normal again. Contacts whose requests were released: %(detail)s."),
}


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One sentence of an episode."""

    at: datetime
    text: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A past episode, or the one that is open."""

    episode_id: str
    scope_name: str
    entered_at: datetime
    ended_at: datetime | None
    lasted: str
    reason: str
    reentries: int
    lines: tuple[StoryLine, ...]
    url: str
    facts: tuple[tuple[str, str], ...] = ()
    """Only where one episode is shown alone, to be read or printed."""


@dataclass(frozen=True, slots=True)
class SafePast:
    """Context of `safe_past`; `alone` = the one episode that the address names."""

    stories: tuple[Story, ...]
    alone: bool = False
    all_url: str = ""


def load_safe_past(conn: Connection, visit: Visit) -> SafePast:
    """Episodes as stories, newest first; with `?episode=` that one alone. Raises NotFound for one that is not there to be seen."""
    wanted = visit.one("episode")
    rows = view.episodes(conn, scopes_of(visit), PAST_MAX) if not wanted else _one(conn, visit, wanted)
    names = names_of(conn, visit, [row.scope for row in rows])
    steps = {row.episode_id: steps_of(conn, row.episode_id) for row in rows}
    people = _people(conn, {step.actor for found in steps.values() for step in found})
    stories = tuple(_story(conn, visit, row, names[row.scope], steps[row.episode_id], people, bool(wanted)) for row in rows)
    return SafePast(stories, bool(wanted), visit.urls.to("/safe-mode"))


def _one(conn: Connection, visit: Visit, episode_id: str) -> list[Row[Any]]:
    row = view.episode(conn, episode_id)
    scopes = scopes_of(visit)
    if row is None or (scopes is not None and row.scope not in scopes):
        raise NotFound("There is no such episode.")
    return [row]


def _story(
    conn: Connection, visit: Visit, row: Row[Any], name: str, steps: Sequence[Row[Any]], people: Mapping[str, str], whole: bool
) -> Story:
    words = visit.words
    return Story(
        episode_id=row.episode_id,
        scope_name=name,
        entered_at=row.entered_at,
        ended_at=row.ended_at,
        lasted=words.span((row.ended_at or words.now) - row.entered_at),
        reason=next((s.detail or "" for s in steps if s.kind == "entered"), ""),
        reentries=row.reentries,
        lines=_lines(words, steps, told(conn, row.episode_id), people),
        url=visit.urls.to("/safe-mode", episode=row.episode_id),
        facts=_facts(conn, words, row, people) if whole else (),
    )


def _lines(words: Words, steps: Sequence[Row[Any]], families: Sequence[Told], people: Mapping[str, str]) -> tuple[StoryLine, ...]:
    """The story's sentences; between two of them, in one, what families were told meanwhile."""
    times = list(accumulate((step.at for step in steps), max))
    after: dict[int, list[Told]] = {}
    for each in families:
        after.setdefault(bisect_right(times, each.at), []).append(each)
    lines = [_told_line(words, after[0])] if 0 in after else []
    for n, step in enumerate(steps, 1):
        lines.append(_story_line(words, step, people))
        if n in after:
            lines.append(_told_line(words, after[n]))
    return tuple(lines)


def _told_line(words: Words, families: Sequence[Told]) -> StoryLine:
    by_intent: Counter[str] = Counter()
    for each in families:
        by_intent[each.intent] += each.count
    detail = ", ".join(f"{intent_name(words, intent)} {words.number(n)}" for intent, n in sorted(by_intent.items()))
    said = words.count(
        "%(n)s message to families: %(what)s.", "%(n)s messages to families: %(what)s.", by_intent.total(), what=detail
    )
    return StoryLine(families[0].at, said, "KoraOS")


def _facts(conn: Connection, words: Words, row: Row[Any], people: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What there is to know about an episode besides its story."""
    ticks, found = asdict(checklist_of(row)), counts(conn, row.episode_id)
    facts = [
        (words.text("On since"), words.exact(row.entered_at)),
        (words.text("Normal since"), words.exact(row.ended_at) if row.ended_at else words.text("still open")),
        (words.text("Reasons"), "; ".join(dict.fromkeys(c.summary for c in causes_of(conn, row.episode_id)))),
        (words.text("What was done"), row.recovery_action or words.text("nothing yet")),
        (words.text("Step of the runbook"), row.runbook_step or "-"),
        (words.text("Checklist"), words.text("%(n)d of %(all)d", n=sum(ticks.values()), all=len(ticks))),
        (words.text("Messages to families"), words.number(sum(found.values()))),
        (words.text("Messages that failed"), words.number(found.get("contingency_message_failed_ticket_opened", 0))),
        (words.text("Critical tickets"), words.number(len(tickets_of(conn, row.episode_id)))),
        (words.text("Contacts released"), words.number(row.released)),
        (words.text("Episode"), row.episode_id),
        (words.text("Correlation id"), row.correlation_id),
    ]
    if row.recovery_by:
        facts.insert(5, (words.text("Recorded by"), _actor(words, row.recovery_by, people)))
    return tuple(facts)


def _actor(words: Words, actor: str, people: Mapping[str, str]) -> str:
    return people.get(actor) or ("KoraOS" if actor.startswith("system:") else words.text("a program with a key"))


def _story_line(words: Words, step: Row[Any], people: Mapping[str, str]) -> StoryLine:
    detail = (step.detail or "").rstrip(". ")
    if step.kind == "exit_denied":
        detail = lacks_in(words, detail)
    elif step.kind == "window_reset":
        detail = words.text(FAILED.get(detail.partition(" · ")[0], detail))
    elif step.kind == "acknowledged":
        minutes, _, summary = detail.partition(" · ")
        text = words.text(STORY[step.kind], n=minutes, detail=summary)
        return StoryLine(step.at, text, _actor(words, step.actor, people))
    elif step.kind == "exit_completed":
        detail = words.count("%(n)s request on hold", "%(n)s requests on hold", int(detail or 0))
    elif step.kind in ("exit_aborted", "reentered"):
        detail = ", ".join(words.text(FAILED.get(name, name)) for name in detail.split(", "))
    text = words.text(STORY[step.kind], detail=detail) if step.kind in STORY else detail
    actor = _actor(words, step.actor, people)
    return StoryLine(step.at, text, actor)


def _people(conn: Connection, actors: set[str]) -> dict[str, str]:
    """Names of the people among some actors."""
    ids = sorted(a.removeprefix("user:") for a in actors if a.startswith("user:"))
    if not ids:
        return {}
    rows = conn.execute(select(_USER.c.user_id, _USER.c.name).where(_USER.c.user_id.in_(ids)))
    return {f"user:{row.user_id}": row.name for row in rows}
