"""Channels and routing as the settings hold them: which targets a channel has, by which route a trigger's alerts go."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, select

from app.domain.alerts import ROUTING
from app.store.alert_ladder import CRITICAL, recipients_of, route_of
from app.store.settings import load
from app.store.tables import AuditEntry, AuditHead, SettingsDoc, table

_AUDIT, _HEAD, _DOC = table(AuditEntry), table(AuditHead), table(SettingsDoc)

TESTED: Final = "channel.test"
_LOOKED_AT: Final = 2_000
"""Latest audit entries of a chain among which tests are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The last test of a recipient."""

    at: datetime
    outcome: str
    detail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One recipient of a channel; `spec` holds secrets and must be masked before it is shown. None = the simulated phone."""

    recipient: str
    spec: str | None
    tested: Tested | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelView:
    """One channel kind; `own` = set in this scope and not only for all clinics."""

    name: str
    own: bool
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteView:
    """One row of the routing matrix; `own` = changed in this scope."""

    trigger: str
    channels: tuple[str, ...]
    fallback: str
    owner: str
    ack_sla_min: int
    own: bool


def channels(conn: Connection, scope: str) -> list[ChannelView]:
    """Every channel that a route names or that has a target, by name."""
    settings, own = load(conn, scope), _own(conn, scope)
    names = set(settings["channels"]) | {n for r in routes(conn, scope) for n in (*r.channels, r.fallback)}
    names |= {n for r in ROUTING.values() for n in (*r.channels, r.fallback)}
    tests = _tests(conn, scope)
    found = []
    for name in sorted(names):
        given = settings["channels"].get(name)
        specs = given if isinstance(given, list) else [given]
        targets = tuple(
            Target(recipient=recipient, spec=spec if isinstance(spec, str) and spec else None, tested=tests.get(recipient))
            for recipient, spec in zip(recipients_of(settings, name), specs or [None], strict=True)
        )
        found.append(ChannelView(name=name, own=name in (own.get("channels") or {}), targets=targets))
    return found


def without_template(settings: Mapping[str, Any]) -> list[str]:
    """Channels with a target on WhatsApp's Cloud API though no approved template carries alerts.

    Without one a message reaches nobody who has not written within a day: the provider accepts it and gives up later.
    """
    whatsapp = settings.get("whatsapp")
    if isinstance(whatsapp, Mapping) and whatsapp.get("alert_template"):
        return []
    found = []
    for name, given in (settings.get("channels") or {}).items():
        specs = given if isinstance(given, list) else [given]
        if any(isinstance(s, str) and s.strip().lower().startswith("whatsapp:") for s in specs):
            found.append(name)
    return sorted(found)


def routes(conn: Connection, scope: str) -> list[RouteView]:
    """The matrix that holds: the defaults and every trigger that was given a route of its own."""
    settings, own = load(conn, scope), _own(conn, scope)
    triggers = [*ROUTING, *sorted(set(settings["routing"]) - set(ROUTING))]
    found = []
    for trigger in triggers:
        route = route_of(settings, trigger, CRITICAL if trigger == CRITICAL else "high")
        found.append(
            RouteView(
                trigger=trigger,
                channels=route.channels,
                fallback=route.fallback,
                owner=route.owner,
                ack_sla_min=route.ack_sla_min,
                own=trigger in (own.get("routing") or {}),
            )
        )
    return found


def _own(conn: Connection, scope: str) -> dict[str, Any]:
    """What was set in this scope itself."""
    text = conn.execute(select(_DOC.c.data_json).where(_DOC.c.scope == scope)).scalar()
    return dict(msgspec.json.decode(text)) if text else {}


def _tests(conn: Connection, scope: str) -> dict[str, Tested]:
    """The last test of each recipient, from the audit trail."""
    head = conn.execute(select(_HEAD.c.number).where(_HEAD.c.chain == scope)).scalar() or 0
    query = (
        select(_AUDIT)
        .where(_AUDIT.c.chain == scope, _AUDIT.c.number > head - _LOOKED_AT, _AUDIT.c.action == TESTED)
        .order_by(_AUDIT.c.number)
    )
    found = {}
    for row in conn.execute(query):
        after = msgspec.json.decode(row.after_json)
        found[row.object.removeprefix("channel/")] = Tested(at=row.at, outcome=after["outcome"], detail=after["detail"])
    return found
