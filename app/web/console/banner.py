"""The one banner: the most important thing that is not normal, on every page and for every role."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from app.domain.states import State
from app.store.views.overview import Mode, situation
from app.store.views.queue import waiting_total
from app.web.console.pages import page
from app.web.console.visit import Viewer
from app.web.i18n import mark
from app.web.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """What the banner says; `kind` is none | safe_mode | draining | contingency | locks."""

    kind: str = "none"
    tone: str = "plain"
    headline: str = ""
    since: datetime | None = None
    lines: tuple[str, ...] = ()
    action: str = ""
    url: str = ""
    said: str = ""
    """What a screen reader is told when it appears."""


@dataclass(frozen=True, slots=True)
class QueueCount:
    """How much waits, next to "Queue" in the navigation."""

    waiting: int


_NAMES: Final = {
    "safe_mode": mark("Safe mode is on"),
    "draining": mark("Safe mode is over"),
    "contingency": mark("Contingency is on"),
}


def load_banner(conn: Connection, viewer: Viewer) -> Banner:
    """Safe mode before contingency before a degraded lock store."""
    words = viewer.words
    now = situation(conn, viewer.scope, words.now)
    if now.modes:
        mode = now.modes[0]
        also = sum(m.kind == mode.kind for m in now.modes) - 1
        return _mode_banner(viewer, mode, now.parked, also)
    if now.fallback_nodes:
        return Banner(
            kind="locks",
            tone="warn",
            headline=words.text("Redis does not answer; the database keeps the locks."),
            lines=(
                words.count(
                    "%(n)s of %(all)s node works this way.",
                    "%(n)s of %(all)s nodes work this way.",
                    now.fallback_nodes,
                    all=now.nodes,
                ),
                words.text("Requests go on, in order and once; they may be slower."),
            ),
            said=words.text("Redis does not answer; the database keeps the locks."),
        )
    return Banner()


def _mode_banner(viewer: Viewer, mode: Mode, parked: int, also: int) -> Banner:
    words = viewer.words
    safe = mode.kind != "contingency"
    name = words.text(_NAMES[mode.kind])
    if mode.clinic is not None and viewer.several:
        name = words.text("%(what)s at %(clinic)s", what=name, clinic=mode.clinic.name)
    if also > 0:
        name += " " + words.count("and at %(n)s more clinic", "and at %(n)s more clinics", also)
    lines = []
    if mode.recovering:
        lines.append(words.text("It is being left: ten green minutes are awaited."))
    elif mode.kind == "draining":
        lines.append(words.text("What was parked leaves little by little."))
    if mode.reason:
        lines.append(words.text("Reason: %(reason)s.", reason=mode.reason.rstrip(". ")))
    lines.append(words.count("%(n)s request is on hold.", "%(n)s requests are on hold.", parked))
    lines.append(words.text("Incoming messages are still stored."))
    recovery = page("safe_mode") if safe else page("replay")
    if recovery is not None and viewer.role in recovery.roles:
        action, url = words.text("See what is missing to recover"), viewer.urls.to(recovery.url)
    else:
        status = State.PENDING_SAFE_MODE if safe else State.PENDING_CONTINGENCY
        action, url = words.text("See what is on hold"), viewer.urls.to("/queue", state=status.value)
    return Banner(
        kind=mode.kind,
        tone="crit" if mode.kind == "safe_mode" else "high",
        headline=name,
        since=mode.since,
        lines=tuple(lines),
        action=action,
        url=url,
        said=_said(words, name, parked),
    )


def _said(words: Words, name: str, parked: int) -> str:
    return f"{name}. {words.count('%(n)s request is on hold.', '%(n)s requests are on hold.', parked)}"


def load_queue_count(conn: Connection, viewer: Viewer) -> QueueCount:
    """Waiting commands, parked ones included."""
    return QueueCount(waiting_total(conn, viewer.scope))
