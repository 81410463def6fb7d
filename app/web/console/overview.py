"""Overview: is it safe, what needs me, how much waits, how fast does it move."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from app.store.views.alarm_load import LIMIT, AlarmLoad, alarm_load
from app.store.views.left import last_closed_task_at, last_closed_ticket_at
from app.store.views.overview import Flow, Need, NodeState, Numbers, flow, live_nodes, needs, numbers
from app.web.console.alerts import AlertLine, open_alerts
from app.web.console.pages import page
from app.web.console.sentences import Badge, class_badge, need_name, why_need
from app.web.console.visit import Viewer, Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedLine:
    """One line of "needs you now"."""

    need: Need
    badge: Badge
    name: str
    why: str
    url: str | None
    due: str
    late: bool


@dataclass(frozen=True, slots=True)
class Needs:
    """Context of the fragment `needs`."""

    lines: tuple[NeedLine, ...]
    several: bool
    alerts: tuple[AlertLine, ...] = ()
    """Open alerts, worst first, for the roles that take them on."""
    first_url: str | None = None
    """Where the first item is settled."""
    empty_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class NumberCards:
    """Context of the fragment `numbers`."""

    numbers: Numbers
    load: AlarmLoad
    limit: float
    queue_url: str
    manual_url: str
    takeovers_url: str
    alerts_url: str | None
    """None for roles without the page of alerts."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of the chart: points of an SVG polyline, its sum and its last full minute."""

    id: str
    name: str
    points: str
    total: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Geometry of the flow chart, in the units of its view box."""

    width: int
    height: int
    left: int
    bottom: int
    series: tuple[Series, ...]
    rows: tuple[tuple[float, int], ...]
    """Horizontal lines: y and value."""
    marks: tuple[tuple[float, datetime], ...]
    """Times on the x axis."""
    minutes: tuple[tuple[datetime, int, int, int], ...]
    """The same numbers as a table, newest first, minutes without any left out."""


@dataclass(frozen=True, slots=True)
class FlowPanel:
    """Context of the fragment `flow`."""

    flow: Flow
    chart: Chart


@dataclass(frozen=True, slots=True)
class Nodes:
    """Context of the fragment `nodes`."""

    nodes: tuple[NodeState, ...]


def load_needs(conn: Connection, visit: Visit) -> Needs:
    """What needs this person now, most urgent first."""
    words = visit.words
    lines = []
    for need in needs(conn, visit.scope, words.now, me=visit.person.audit_name):
        badge = Badge("", words.text("Taken over"), "person", "human") if need.kind == "takeover" else class_badge(words, need.rank)
        due = words.left(need.due_at) if need.due_at is not None else words.ago(need.since)
        lines.append(
            NeedLine(
                need=need,
                badge=badge,
                name=need_name(words, need),
                why=why_need(words, need),
                url=_where(visit, need),
                due=due,
                late=need.due_at is not None and need.due_at <= words.now,
            )
        )
    alerts = open_alerts(conn, visit)
    first = alerts[0].url if alerts else lines[0].url if lines else None
    ends = (last_closed_task_at(conn, visit.scope), last_closed_ticket_at(conn, visit.scope)) if first is None else ()
    return Needs(tuple(lines), visit.several, alerts, first, max((at for at in ends if at is not None), default=None))


def _where(visit: Visit, need: Need) -> str | None:
    """The page on which the item is settled."""
    if need.kind == "manual":
        return visit.urls.to("/manual", task=need.item_id)
    if need.kind == "takeover":
        return visit.urls.to("/takeovers", takeover=need.item_id)
    return visit.urls.lane(need.clinic, need.contact_id) if need.contact_id else None


def load_numbers(conn: Connection, viewer: Viewer) -> NumberCards:
    """The four numbers."""
    found = numbers(conn, viewer.scope, viewer.words.now)
    urls = viewer.urls
    alerts = page("alerts")
    return NumberCards(
        numbers=found,
        load=alarm_load(conn, viewer.scope, viewer.words.now),
        limit=LIMIT,
        queue_url=urls.to("/queue"),
        manual_url=urls.to("/manual"),
        takeovers_url=urls.to("/takeovers"),
        alerts_url=urls.to(alerts.url) if alerts is not None and viewer.role in alerts.roles else None,
    )


@dataclass(frozen=True, slots=True)
class LockMode:
    """Where the locks are, in the frame of every page; nothing is said while no process is known."""

    said: str
    fallback: bool


def load_lock_mode(conn: Connection, viewer: Viewer) -> LockMode:
    """Context of the state fragment `lock_mode`."""
    words, modes = viewer.words, {node.lock_mode for node in live_nodes(conn, viewer.words.now)}
    if "fallback" in modes:
        return LockMode(words.text("Locks: database, Redis does not answer"), fallback=True)
    if not modes:
        return LockMode("", fallback=False)
    return LockMode(words.text("Locks: Redis") if "primary" in modes else words.text("Locks: database"), fallback=False)


def load_flow(conn: Connection, visit: Visit) -> FlowPanel:
    """Commands per minute, and how long lanes wait."""
    found = flow(conn, visit.scope, visit.words.now)
    names = (visit.words.text("Accepted"), visit.words.text("Committed"), visit.words.text("Parked"))
    return FlowPanel(found, chart_of(found, names))


def load_nodes(conn: Connection, visit: Visit) -> Nodes:
    """Processes alive, and where their locks are."""
    return Nodes(live_nodes(conn, visit.words.now))


# --- the chart ----------------------------------------------------------------------------------------------------------

WIDTH: Final = 380
HEIGHT: Final = 190
LEFT: Final = 34
RIGHT: Final = 8
TOP: Final = 10
BOTTOM: Final = 22


def chart_of(found: Flow, names: tuple[str, str, str]) -> Chart:
    """Lines of the last hour; the minute that is still running is left out of them."""
    values = (found.accepted, found.committed, found.parked)
    high = nice_top(max(max(line) for line in values))
    floor = HEIGHT - BOTTOM
    step = (WIDTH - LEFT - RIGHT) / (len(found.minutes) - 1)

    def x(index: int) -> float:
        return round(LEFT + index * step, 1)

    def y(value: float) -> float:
        return round(floor - value / high * (floor - TOP), 1)

    series = tuple(
        Series(
            id=name_id,
            name=name,
            points=" ".join(f"{x(i)},{y(v)}" for i, v in enumerate(line[:-1])),
            total=sum(line),
            last=line[-2],
        )
        for name_id, name, line in zip(("accepted", "committed", "parked"), names, values, strict=True)
    )
    rows = zip(found.minutes, found.accepted, found.committed, found.parked, strict=True)
    minutes = [row for row in rows if any(row[1:])]
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        bottom=floor,
        series=series,
        rows=tuple((y(value), value) for value in (0, high // 2, high)),
        marks=tuple((x(i), minute) for i, minute in enumerate(found.minutes) if minute.minute % 15 == 0),
        minutes=tuple(reversed(minutes)),
    )


def nice_top(highest: int) -> int:
    """The end of an axis: an even number of 1, 2, 4, 6 or 10 times a power of ten, above every value."""
    size = 1
    while True:
        for factor in (2, 4, 6, 10):
            if factor * size >= highest:
                return factor * size
        size *= 10
