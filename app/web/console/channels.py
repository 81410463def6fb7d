"""Channels: where alerts go, by which route, and a test button for each target. Secrets are written, never shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from app.channels.targets import shown
from app.store.lanes import GLOBAL_SCOPE
from app.store.settings import load
from app.store.views import channels as views
from app.store.views.channels import RouteView, Tested
from app.web.console.alerts import CHANNELS
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

OUTCOMES: Final[Mapping[str, tuple[str, str, str]]] = {
    "sent": (mark("arrived"), "check", "plain"),
    "failed": (mark("failed"), "triangle", "crit"),
    "rejected": (mark("refused"), "triangle", "crit"),
    "unknown": (mark("no answer, may have arrived"), "triangle", "warn"),
}
TRIGGERS: Final[Mapping[str, str]] = {
    "critical": mark("Every critical alert"),
    "gap": mark("Gap in a lane"),
    "takeover": mark("Takeover"),
    "replay_backlog": mark("Replay backlog"),
    "default": mark("Everything else"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLine:
    """One target with its test."""

    recipient: str
    shown: str
    tested: Tested | None
    outcome: str
    shape: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLine:
    """One channel kind."""

    name: str
    label: str
    own: bool
    targets: tuple[TargetLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRows:
    """Context of the fragment `channel_rows`."""

    scope: str
    scope_name: str
    lines: tuple[ChannelLine, ...]
    csrf: str
    without_template: tuple[str, ...] = ()
    """Names of channels on WhatsApp for which no approved template is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLine:
    """One row of the matrix with the name of its trigger."""

    route: RouteView
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRows:
    """Context of the fragment `routing_rows`."""

    scope: str
    lines: tuple[RouteLine, ...]
    csrf: str


def scope_of_page(visit: Visit) -> str:
    """The clinic that is looked at, else what holds for all of them."""
    return visit.chosen.tenant_id if visit.chosen is not None and visit.one("clinic") else GLOBAL_SCOPE


def load_channel_rows(conn: Connection, visit: Visit) -> ChannelRows:
    """Channels of the scope with their targets, masked."""
    words, scope = visit.words, scope_of_page(visit)
    lines = []
    for channel in views.channels(conn, scope):
        targets = tuple(
            _target(words, t.recipient, shown(t.spec) if t.spec else f"simulator:{t.recipient}", t.tested) for t in channel.targets
        )
        label = words.text(CHANNELS[channel.name]) if channel.name in CHANNELS else channel.name
        lines.append(ChannelLine(name=channel.name, label=label, own=channel.own, targets=targets))
    name = visit.chosen.name if scope != GLOBAL_SCOPE and visit.chosen else words.text("All clinics")
    untold = tuple(words.text(CHANNELS[n]) if n in CHANNELS else n for n in views.without_template(load(conn, scope)))
    return ChannelRows(scope=scope, scope_name=name, lines=tuple(lines), csrf=visit.csrf_token, without_template=untold)


def _target(words: Words, recipient: str, target: str, tested: Tested | None) -> TargetLine:
    word, shape, tone = OUTCOMES[tested.outcome] if tested else ("", "ring", "plain")
    outcome = words.text(word) if word else ""
    if tested is not None and tested.detail and tested.outcome != "sent":
        outcome = f"{outcome} ({tested.detail})"
    return TargetLine(recipient=recipient, shown=target, tested=tested, outcome=outcome, shape=shape, tone=tone)


def load_routing_rows(conn: Connection, visit: Visit) -> RoutingRows:
    """The routing matrix of the scope."""
    scope = scope_of_page(visit)
    lines = tuple(
        RouteLine(route=route, label=visit.words.text(TRIGGERS[route.trigger]) if route.trigger in TRIGGERS else route.trigger)
        for route in views.routes(conn, scope)
    )
    return RoutingRows(scope=scope, lines=lines, csrf=visit.csrf_token)
