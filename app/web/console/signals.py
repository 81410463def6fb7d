"""Signals and rules: what is measured against which limits, what fired and for whom, and what other limits would do.

A person sees one clinic's signals, or (who sees every clinic) those of the installation with all clinics taken together. New
limits are entered in the units of the screen (%, minutes), shown as a difference with a preview, and only then saved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from app.domain.signals import SIGNALS, Signal, Threshold, Unit, clean_limits, limit_disorder, limited
from app.store.lanes import GLOBAL_SCOPE
from app.store.views import signals as views
from app.store.views.scope import clinics
from app.web.console.pages import page
from app.web.console.sentences import Badge
from app.web.console.visit import ALL, Visit
from app.web.i18n import mark
from app.web.words import Words

NAMES: Final[Mapping[str, str]] = {
    "blocked_commit_order_violation": mark("Requests out of order"),
    "waiting_previous_commit_age": mark("Requests waiting for the one before"),
    "version_conflict_blocked": mark("Requests with an old version"),
    "expired_manual": mark("Expired requests"),
    "conflict_blocked": mark("Conflicts on replay"),
    "replay_manual_backlog": mark("Manual backlog of replays"),
    "replay_backlog": mark("Replay backlog"),
    "no_ack_critical_alert": mark("Critical alert without acknowledgement"),
    "safe_mode_duration": mark("Duration of safe mode"),
    "safe_mode_reentry": mark("Safe mode again"),
    "contingency_message_failure": mark("Failed contingency messages"),
    "ticket_open_latency": mark("Time to open tickets"),
    "correlation_id_coverage": mark("Items with a correlation id"),
    "ack_to_enqueue_gap": mark("Received messages that wait to be read"),
    "takeover_sla_breach_rate": mark("Takeovers beyond their SLA"),
    "redis_fallback_rate": mark("Locks outside Redis"),
    "fallback_db_lock_latency": mark("Latency of locks in the database"),
    "evidence_pack_completeness": mark("Complete evidence packs"),
    "evidence_pack_generation": mark("Time to build evidence packs"),
    "drill_result": mark("Redis failure drill"),
}
METRICS: Final[Mapping[str, str]] = {
    "count": mark("how many"),
    "age_p95_s": mark("age, p95"),
    "backlog": mark("waiting"),
    "rate": mark("rate"),
    "per_hour": mark("per hour"),
    "oldest_unacknowledged_s": mark("unacknowledged for"),
    "duration_s": mark("duration"),
    "contingency_queue": mark("on hold"),
    "oldest_parked_s": mark("oldest on hold"),
    "exits_without_checklist": mark("exits without checklist"),
    "p95_s": mark("p95"),
    "p95_ms": mark("p95"),
    "coverage": mark("coverage"),
    "events": mark("messages waiting"),
    "completeness": mark("complete"),
    "recovery_s": mark("recovery"),
    "invalid_side_effects": mark("invalid effects"),
}
LEVELS: Final[Mapping[str, tuple[str, str, str]]] = {
    "normal": (mark("Normal"), "check", "plain"),
    "warning": (mark("Warning"), "triangle", "warn"),
    "critical": (mark("Critical"), "triangle", "crit"),
}
OPERATORS: Final[Mapping[str, str]] = {">": mark("more than"), ">=": mark("from"), "<": mark("less than")}
FACTORS: Final[Mapping[Unit, float]] = {Unit.RATIO: 100, Unit.SECONDS: 1 / 60}
"""From the unit of the domain to that of the screen: percent, minutes."""
UNITS: Final[Mapping[Unit, str]] = {Unit.RATIO: "%", Unit.SECONDS: "min", Unit.MILLISECONDS: "ms"}
DAY: Final = timedelta(hours=24)
OFF_SHOWN: Final = 6
SPARK_WIDTH, SPARK_HEIGHT = 120, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One measured number with its limits."""

    name: str
    value: str
    worst: str
    limits: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalLine:
    """One signal in the list."""

    signal: str
    name: str
    url: str
    chosen: bool
    badge: Badge
    numbers: tuple[Number, ...]
    few: str
    """Said where there are too few samples for a rate."""
    owner: str
    since: datetime | None
    alert_url: str | None
    clinics: str
    changed: bool
    spark: str
    """Points of a polyline over the last day; '' without a history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRows:
    """Context of the fragment `signal_rows`; `offenders`: what rose most often in the last 7 days."""

    scope_name: str
    looked_at: datetime | None
    lines: tuple[SignalLine, ...]
    rises: int
    offenders: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OffLine:
    """One signal of one clinic, or of the installation, that is not normal."""

    id: str
    name: str
    url: str
    badge: Badge
    clinic: str
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalsOff:
    """Context of the fragment `signals_off`; not `shown` to roles that do not see the page."""

    shown: bool
    several: bool = False
    lines: tuple[OffLine, ...] = ()
    more: int = 0
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One limit in the form, in the unit of the screen."""

    id: str
    level: str
    metric: str
    label: str
    unit: str
    value: str
    default: str
    changed: bool
    before: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringLine:
    """One rise."""

    badge: Badge
    at: datetime
    ended_at: datetime | None
    owner: str
    values: str
    clinic: str
    alert_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalDetail:
    """Context of the fragment `signal_detail`. `fault`: why the entered limits cannot be used; `preview`: what they would do."""

    line: SignalLine | None
    window: str
    fields: tuple[Field, ...]
    may_edit: bool
    fault: str
    preview: dict[str, Any] | None
    before: dict[str, Any] | None
    firings: tuple[FiringLine, ...]
    where: tuple[tuple[str, str, Badge], ...]
    """For the installation: clinics that are not normal (name, address, level)."""
    scope: str
    scope_slug: str
    csrf: str
    here: str


def scope_of_page(visit: Visit) -> str | None:
    """The clinic that is looked at; who sees every clinic and chose none looks at the installation; None: nothing to see."""
    if visit.chosen is not None:
        return visit.chosen.tenant_id
    if visit.scope is None:
        return GLOBAL_SCOPE
    return visit.clinics[0].tenant_id if visit.clinics else None


def load_signal_rows(conn: Connection, visit: Visit) -> SignalRows:
    """Every signal of the scope, what is not normal first."""
    scope = scope_of_page(visit)
    if scope is None:
        return SignalRows(scope_name=visit.words.text("No clinic"), looked_at=None, lines=(), rises=0, offenders=())
    lines = [_line(conn, visit, scope, found) for found in views.listed(conn, scope)]
    lines.sort(key=lambda line: ("crit", "warn", "plain").index(line.badge.tone))
    since = visit.words.now - views.PREVIEW
    counts = views.rises(conn, None if scope == GLOBAL_SCOPE else (scope,), since)
    worst = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    return SignalRows(
        scope_name=_scope_name(visit, scope),
        looked_at=views.looked_at(conn),
        lines=tuple(lines),
        rises=sum(counts.values()),
        offenders=tuple((visit.words.text(NAMES[name]), n) for name, n in worst if name in NAMES),
    )


def load_signals_off(conn: Connection, visit: Visit) -> SignalsOff:
    """What is not normal in what the person looks at, worst first."""
    own = page("signals")
    if own is None or visit.role not in own.roles:
        return SignalsOff(shown=False)
    rows, found = views.off_normal(conn, visit.scope, OFF_SHOWN)
    names = clinics(conn, [row.scope for row in rows])
    lines = []
    for row in rows:
        clinic = names.get(row.scope)
        lines.append(
            OffLine(
                id=f"{row.scope}_{row.signal}",
                name=visit.words.text(NAMES.get(row.signal, row.signal)),
                url=visit.urls.to("/signals", clinic=clinic.slug if clinic else ALL, signal=row.signal),
                badge=_badge(visit.words, row.level),
                clinic=clinic.name if clinic else visit.words.text("All clinics"),
                since=row.since,
            )
        )
    more = found - len(rows)
    return SignalsOff(shown=True, several=visit.several, lines=tuple(lines), more=more, url=visit.urls.to("/signals"))


def load_signal_detail(conn: Connection, visit: Visit) -> SignalDetail:
    """The signal that the address names, with the form and, once limits were entered, their preview."""
    scope, name = scope_of_page(visit), visit.one("signal", 60)
    found = views.one(conn, scope, name) if scope is not None and name in SIGNALS else None
    if scope is None or found is None:
        return _nothing(visit)
    held = views.limits_of(conn, scope)
    signal = limited(SIGNALS[name], held)
    entered, fault = entered_limits(visit, signal)
    wanted = limited(SIGNALS[name], clean_limits(held, {name: entered})) if entered else signal
    if entered and not fault and limit_disorder(wanted):
        fault = visit.words.text("A critical limit lies before its warning.")
    asked = bool(entered) and not fault
    whole = scope == GLOBAL_SCOPE and not signal.is_global
    rises = views.firings(conn, None, name=name, own=None if whole else scope, limit=20)
    names = clinics(conn, [r["scope"] for r in rises] + [where for where, _ in views.not_normal(conn, name)])
    words = visit.words
    return SignalDetail(
        line=_line(conn, visit, scope, found),
        window=words.span(signal.window) if signal.window else words.text("now"),
        fields=_fields(words, name, signal, wanted),
        may_edit=may_edit(visit, scope),
        fault=fault,
        preview=views.previewed(conn, scope, wanted, words.now) if asked else None,
        before=views.previewed(conn, scope, signal, words.now) if asked else None,
        firings=tuple(_firing(visit, signal, r, names, several=whole) for r in rises),
        where=tuple(
            (names[where].name, visit.urls.to("/signals", clinic=names[where].slug, signal=name), _badge(words, level))
            for where, level in (views.not_normal(conn, name) if whole else ())
            if where in names
        ),
        scope=scope,
        scope_slug=visit.chosen.slug if visit.chosen is not None else "",
        csrf=visit.csrf_token,
        here=visit.urls.to("/signals", signal=name),
    )


def may_edit(visit: Visit, scope: str) -> bool:
    """The installation's limits are a superadmin's; a clinic's also those of whoever runs it."""
    return scope != GLOBAL_SCOPE or visit.scope is None


def entered_limits(visit: Visit, signal: Signal) -> tuple[dict[str, dict[str, float]], str]:
    """The limits in the address that differ from what holds, in the domain's units, and what is wrong with them."""
    found, fault = limits_in_form({name: visit.one(name, 20) for name in form_names(signal)}, signal)
    return found, visit.words.text(fault) if fault else ""


def form_names(signal: Signal) -> list[str]:
    """Names of the form's fields: level and metric."""
    return [f"{level}.{t.metric}" for level, t in _thresholds(signal)]


def limits_in_form(form: Mapping[str, str], signal: Signal) -> tuple[dict[str, dict[str, float]], str]:
    """Limits that a form changes, in the domain's units; the second part says (a message id) what cannot be used."""
    changed: dict[str, dict[str, float]] = {}
    for level, threshold in _thresholds(signal):
        text = form.get(f"{level}.{threshold.metric}", "").strip().replace(",", ".")
        if not text:
            continue
        try:
            value = float(text) / FACTORS.get(threshold.unit, 1)
        except ValueError:
            return {}, mark("A limit is not a number.")
        if not 0 <= value <= (1 if threshold.unit is Unit.RATIO else 10_000_000):
            return {}, mark("A limit is out of range.")
        if abs(value - threshold.value) > 1e-9:
            changed.setdefault(level, {})[threshold.metric] = round(value, 8)
    return changed, ""


# --- parts --------------------------------------------------------------------------------------------------------------


def _thresholds(signal: Signal) -> list[tuple[str, Threshold]]:
    return [("warning", t) for t in signal.warning] + [("critical", t) for t in signal.critical]


def _scope_name(visit: Visit, scope: str) -> str:
    if scope == GLOBAL_SCOPE:
        return visit.words.text("All clinics")
    return next((c.name for c in visit.clinics if c.tenant_id == scope), scope)


def _nothing(visit: Visit) -> SignalDetail:
    return SignalDetail(
        line=None,
        window="",
        fields=(),
        may_edit=False,
        fault="",
        preview=None,
        before=None,
        firings=(),
        where=(),
        scope="",
        scope_slug="",
        csrf=visit.csrf_token,
        here="/signals",
    )


def _badge(words: Words, level: str) -> Badge:
    word, shape, tone = LEVELS[level]
    return Badge("", words.text(word), shape, tone)


def _line(conn: Connection, visit: Visit, scope: str, found: Mapping[str, Any]) -> SignalLine:
    words, name = visit.words, str(found["signal"])
    signal = limited(SIGNALS[name], views.limits_of(conn, scope))
    units = {t.metric: t.unit for _, t in _thresholds(signal)}
    worst = found.get("worst", {})
    numbers = tuple(
        Number(
            name=words.text(METRICS[metric]),
            value=_quantity(words, found["values"].get(metric), unit),
            worst=_quantity(words, worst.get(metric), unit) if worst.get(metric) is not None else "",
            limits=_limits(words, signal, metric),
        )
        for metric, unit in units.items()
    )
    few = ""
    if found["samples"] and not any(metric in found["values"] for metric in ("rate", "coverage", "completeness", "p95_ms")):
        rated = {"rate", "coverage", "completeness", "p95_ms"} & units.keys()
        few = words.count("only %(n)s sample", "only %(n)s samples", found["samples"]) if rated else ""
    levels = found.get("clinics", {})
    several = scope == GLOBAL_SCOPE and not signal.is_global
    many = [words.count("%(n)s critical", "%(n)s critical", levels["critical"])] if several and levels.get("critical") else []
    many += [words.count("%(n)s warning", "%(n)s warnings", levels["warning"])] if several and levels.get("warning") else []
    return SignalLine(
        signal=name,
        name=words.text(NAMES[name]),
        url=visit.urls.to("/signals", signal=name),
        chosen=visit.one("signal", 60) == name,
        badge=_badge(words, found["level"]),
        numbers=numbers,
        few=few,
        owner=str(found["owner"]).replace(",", ", "),
        since=found["since"] if found["level"] != "normal" else None,
        alert_url=visit.urls.to("/alerts", alert=found["alert_id"]) if found["alert_id"] else None,
        clinics=", ".join(many),
        changed=found["limits_changed"],
        spark="" if several else spark(views.points(conn, scope, name, words.now - DAY), _first_metric(signal), words.now),
    )


def _first_metric(signal: Signal) -> str:
    return signal.warning[0].metric


def _quantity(words: Words, value: float | None, unit: Unit) -> str:
    if value is None:
        return "-"
    if unit is Unit.SECONDS:
        return words.span(value) if value >= 1 or not value else words.seconds(value)
    shown = words.number(round(value * FACTORS.get(unit, 1), 1))
    return f"{shown} {UNITS[unit]}" if unit in UNITS else shown


def _limits(words: Words, signal: Signal, metric: str) -> str:
    parts = []
    for level, threshold in _thresholds(signal):
        if threshold.metric == metric:
            limit = _quantity(words, threshold.value, threshold.unit)
            parts.append(f"{words.text(LEVELS[level][0])}: {words.text(OPERATORS[str(threshold.operator)])} {limit}")
    return " · ".join(parts)


def _entry(value: float, unit: Unit) -> str:
    return f"{round(value * FACTORS.get(unit, 1), 4):g}"


def _fields(words: Words, name: str, held: Signal, wanted: Signal) -> tuple[Field, ...]:
    defaults = {(level, t.metric): t for level, t in _thresholds(SIGNALS[name])}
    before = {(level, t.metric): t for level, t in _thresholds(held)}
    made = []
    for level, threshold in _thresholds(wanted):
        key = (level, threshold.metric)
        parts = (LEVELS[level][0], METRICS[threshold.metric], OPERATORS[str(threshold.operator)])
        words_of = "{}: {} {}".format(*(words.text(part) for part in parts))
        made.append(
            Field(
                id=f"{level}.{threshold.metric}",
                level=level,
                metric=threshold.metric,
                label=words_of,
                unit=UNITS.get(threshold.unit, ""),
                value=_entry(threshold.value, threshold.unit),
                default=_entry(defaults[key].value, threshold.unit),
                changed=threshold.value != before[key].value,
                before=_entry(before[key].value, threshold.unit),
            )
        )
    return tuple(made)


def _firing(visit: Visit, signal: Signal, row: Mapping[str, Any], names: Mapping[str, Any], *, several: bool) -> FiringLine:
    words = visit.words
    units = {t.metric: t.unit for _, t in _thresholds(signal)}
    values = [f"{words.text(METRICS[m])} {_quantity(words, v, units[m])}" for m, v in row["values"].items() if m in units]
    return FiringLine(
        badge=_badge(words, row["level"]),
        at=row["at"],
        ended_at=row["ended_at"],
        owner=str(row["owner"]).replace(",", ", "),
        values=", ".join(values),
        clinic=names[row["scope"]].name if several and row["scope"] in names else "",
        alert_url=visit.urls.to("/alerts", alert=row["alert_id"]) if row["alert_id"] else None,
    )


def spark(points: list[tuple[datetime, dict[str, float]]], metric: str, now: datetime) -> str:
    """Points of a polyline over the last day (or since the first value), as steps: a value holds until the next one."""
    found = [(at, values[metric]) for at, values in points if metric in values]
    if not found:
        return ""
    high = max(1e-9, *(value for _, value in found))
    begin = max(now - DAY, found[0][0])
    whole = max(now - begin, timedelta(minutes=10))

    def x(at: datetime) -> float:
        return round(max(0.0, min(1.0, (at - begin) / whole)) * SPARK_WIDTH, 1)

    def y(value: float) -> float:
        return round(SPARK_HEIGHT - 2 - (SPARK_HEIGHT - 4) * value / high, 1)

    parts: list[str] = []
    for i, (at, value) in enumerate(found):
        until = found[i + 1][0] if i + 1 < len(found) else now
        parts += [f"{x(at)},{y(value)}", f"{x(until)},{y(value)}"]
    return " ".join(parts[:2_000])
