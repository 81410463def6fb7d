"""Editable settings: one JSON document per tenant over the `global` one, over the defaults below (api.md).

`load` merges the three; `save` merges a patch into one scope, checks it, raises the version and writes the audit entry in
the same transaction. Secrets can be written and replaced but are never shown: `masked` puts `***` in their place, and a
`***` in a patch keeps what is stored.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from sqlalchemy import Connection, func, select, update

from app.domain.contingency_texts import faults as text_faults
from app.domain.envelopes import FieldError, canonical_json
from app.domain.facts import GatePolicy
from app.domain.opening_hours import faults as hour_faults
from app.domain.provider_settings import MASK
from app.domain.provider_settings import faults as provider_faults
from app.domain.retention import faults as retention_faults
from app.domain.signals import SIGNALS, clean_limits, limit_disorder, limit_faults, limited
from app.domain.states import CommandType
from app.domain.takeover import SLA_NAMES
from app.errors import Conflict, InvalidRequest
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.tables import SettingsDoc, Tenant, table

_DOC, _TENANT = table(SettingsDoc), table(Tenant)

GLOBAL_SCOPE: Final = "global"

DEFAULTS: Final[Mapping[str, Any]] = {
    "timezone": "America/Sao_Paulo",
    "whatsapp": {},
    "evolution": {},
    "uazapi": {},
    "replay_ttl_min": {"schedule": 120, "reschedule": 120, "cancel": 120, "follow_up": 1440, "takeover": 1440},
    "d1_cutoff_min": 30,
    "thresholds": {},
    "wait_limit_s": 300,
    "max_queue_size": 5000,
    "queue_alert_share": 0.8,
    "drain_per_s": 2,
    "clock_skew_s": 60,
    "hours": {},
    "holidays": [],
    "national_holidays": "BR",
    "takeover_sla_min": {},
    "frustration": {},
    "contingency_after_s": 600,
    "channels": {},
    "contacts_channel": None,
    "contacts_fallback_channel": None,
    "family_texts": {},
    "routing": {},
    "phone": None,
    "outbound_allow": [],
    "webhook_url": None,
    "webhook_secret": None,
    "retention": {},
    "drill_every_d": 0,
}
"""What holds where nothing was set."""

_SECRET_KEYS: Final = frozenset(
    {"app_secret", "verify_token", "access_token", "secret", "token", "apikey", "api_key", "webhook_secret"}
)
_SECRET_SECTIONS: Final = frozenset({"channels"})
"""Sections whose values are URLs that may carry credentials."""

_SPANS: Final = frozenset({"wait_limit_s", "d1_cutoff_min", "clock_skew_s", "contingency_after_s"})

_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "timezone": str,
    "whatsapp": dict,
    "evolution": dict,
    "uazapi": dict,
    "replay_ttl_min": dict,
    "d1_cutoff_min": (int, float),
    "thresholds": dict,
    "wait_limit_s": (int, float),
    "max_queue_size": int,
    "queue_alert_share": (int, float),
    "drain_per_s": (int, float),
    "clock_skew_s": (int, float),
    "hours": dict,
    "holidays": list,
    "national_holidays": str,
    "takeover_sla_min": dict,
    "frustration": dict,
    "contingency_after_s": (int, float),
    "channels": dict,
    "contacts_channel": str,
    "contacts_fallback_channel": str,
    "family_texts": dict,
    "routing": dict,
    "phone": str,
    "outbound_allow": list,
    "webhook_url": str,
    "webhook_secret": str,
    "retention": dict,
    "drill_every_d": (int, float),
}


def load(conn: Connection, scope: str) -> dict[str, Any]:
    """The settings that hold for a tenant id (or `global`), secrets included: never show the result as it is."""
    rows = {r.scope: r.data_json for r in conn.execute(select(_DOC).where(_DOC.c.scope.in_([GLOBAL_SCOPE, scope])))}
    merged = _over({}, DEFAULTS)
    zone = conn.execute(select(_TENANT.c.timezone).where(_TENANT.c.tenant_id == scope)).scalar()
    if zone:
        merged["timezone"] = zone
    for name in (GLOBAL_SCOPE, scope):
        if name in rows:
            merged = _over(merged, msgspec.json.decode(rows[name]))
    return merged


@dataclass(frozen=True, slots=True)
class Clinics:
    """Clinics that are not switched off: how many there are, how many have settings of their own, and some of those (ids)."""

    ids: tuple[str, ...]
    own: int
    all: int


def clinics_with_settings(conn: Connection, limit: int) -> Clinics:
    """How many clinics there are, and up to `limit` of those that have set something for themselves."""
    own = select(_DOC.c.scope).join(_TENANT, _TENANT.c.tenant_id == _DOC.c.scope).where(_TENANT.c.disabled_at.is_(None))
    everybody = select(func.count()).select_from(_TENANT).where(_TENANT.c.disabled_at.is_(None))
    return Clinics(
        ids=tuple(conn.execute(own.order_by(_DOC.c.scope).limit(limit)).scalars()),
        own=conn.execute(select(func.count()).select_from(own.subquery())).scalar_one(),
        all=conn.execute(everybody).scalar_one(),
    )


def channels_of(conn: Connection, scopes: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The section `channels` of many scopes at once, as `load` gives it; secrets included."""
    wanted = {GLOBAL_SCOPE, *scopes}
    rows = {r.scope: msgspec.json.decode(r.data_json) for r in conn.execute(select(_DOC).where(_DOC.c.scope.in_(sorted(wanted))))}
    shared = rows.get(GLOBAL_SCOPE, {}).get("channels") or {}
    return {scope: _over(_over({}, shared), rows.get(scope, {}).get("channels") or {}) for scope in wanted}


def save(
    conn: Connection,
    scope: str,
    patch: Mapping[str, Any],
    *,
    actor: str,
    now: datetime,
    reason: str | None = None,
    origin: str | None = None,
    seen: int | None = None,
) -> dict[str, Any]:
    """Merge `patch` into one scope (null removes a key); returns what now holds.

    Raises InvalidRequest, and Conflict when the scope's version is not the one that was `seen`; then nothing changed.
    """
    errors = check(patch)
    if errors:
        raise InvalidRequest(
            "The settings were not saved: some values cannot be used.",
            errors=[{"pointer": e.pointer, "detail": e.detail} for e in errors],
        )
    stored = select(_DOC).where(_DOC.c.scope == scope)
    row = conn.execute(stored.with_for_update() if conn.dialect.name == "postgresql" else stored).first()
    if seen is not None and seen != (row.version if row else 0):
        raise Conflict("Somebody saved other settings meanwhile; nothing was saved.")
    before = msgspec.json.decode(row.data_json) if row else {}
    after = _patched(before, _keep_masked(patch, before))
    if "thresholds" in patch:
        _check_order(conn, scope, after)
    if after.get("webhook_url") and not after.get("webhook_secret"):
        # the scope's own: a clinic's address never gets calls signed with what all clinics share
        fault = {"pointer": "/webhook_secret", "detail": "is needed beside webhook_url: it signs what is sent there"}
        raise InvalidRequest("The settings were not saved: the webhook has no secret.", errors=[fault])
    values = {"data_json": canonical_json(after), "updated_at": now, "updated_by": actor[:200]}
    if row is None:
        insert_rows(conn, _DOC, [{"scope": scope, "version": 1, **values}])
    else:
        conn.execute(update(_DOC).where(_DOC.c.scope == scope).values(version=row.version + 1, **values))
    if scope != GLOBAL_SCOPE and "timezone" in patch:
        zone = patch["timezone"] or load(conn, GLOBAL_SCOPE)["timezone"]
        conn.execute(update(_TENANT).where(_TENANT.c.tenant_id == scope).values(timezone=zone))
    append(
        conn,
        chain=scope,
        actor=actor,
        action="settings.save",
        object=f"settings/{scope}",
        before=masked(before),
        after=masked(after),
        reason=reason,
        origin=origin,
        now=now,
    )
    publish(conn, None if scope == GLOBAL_SCOPE else scope, "settings", [], now)
    return load(conn, scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What one scope says itself, secrets masked; `version` 0 = nothing yet."""

    version: int
    own: dict[str, Any]
    updated_at: datetime | None


def state_of(conn: Connection, scope: str) -> State:
    """The stored document of one scope."""
    row = conn.execute(select(_DOC).where(_DOC.c.scope == scope)).first()
    if row is None:
        return State(version=0, own={}, updated_at=None)
    return State(version=row.version, own=masked(msgspec.json.decode(row.data_json)), updated_at=row.updated_at)


def inherited(conn: Connection, scope: str) -> dict[str, Any]:
    """What would hold for a scope that says nothing itself, secrets masked."""
    below = load(conn, GLOBAL_SCOPE) if scope != GLOBAL_SCOPE else _over({}, DEFAULTS)
    if scope != GLOBAL_SCOPE and "timezone" not in state_of(conn, GLOBAL_SCOPE).own and "timezone" not in state_of(conn, scope).own:
        zone = conn.execute(select(_TENANT.c.timezone).where(_TENANT.c.tenant_id == scope)).scalar()
        below["timezone"] = zone or below["timezone"]
    return masked(below)


def _check_order(conn: Connection, scope: str, after: Mapping[str, Any]) -> None:
    """Warnings come before criticals in what would hold with the thresholds of `after`. Raises InvalidRequest."""
    everywhere = None
    if scope != GLOBAL_SCOPE:
        stored = conn.execute(select(_DOC.c.data_json).where(_DOC.c.scope == GLOBAL_SCOPE)).scalar()
        everywhere = msgspec.json.decode(stored).get("thresholds") if stored else None
    held = clean_limits(everywhere, after.get("thresholds"))
    wrong = [
        {"pointer": f"/thresholds/{name}/critical/{metric}", "detail": "would be reached before the warning"}
        for name in held
        for metric in limit_disorder(limited(SIGNALS[name], held))
    ]
    if wrong:
        raise InvalidRequest("The settings were not saved: a critical limit lies below its warning.", errors=wrong)


def masked(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every secret replaced by `***`."""
    shown: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            shown[key] = {k: MASK if v else v for k, v in value.items()} if key in _SECRET_SECTIONS else masked(value)
        elif key in ("contacts_channel", "contacts_fallback_channel") and isinstance(value, str) and "://" in value:
            shown[key] = MASK
        else:
            shown[key] = MASK if key in _SECRET_KEYS and value else value
    return shown


def gate_policy(document: Mapping[str, Any]) -> GatePolicy:
    """The numbers of the gate out of a loaded document."""
    minutes = document["replay_ttl_min"]
    return GatePolicy(
        replay_ttl={CommandType(name): timedelta(minutes=float(value)) for name, value in minutes.items()},
        d1_cutoff=timedelta(minutes=float(document["d1_cutoff_min"])),
        wait_limit=timedelta(seconds=float(document["wait_limit_s"])),
    )


def check(patch: Mapping[str, Any]) -> list[FieldError]:
    """What is wrong with a patch."""
    return list(_faults(patch))


def _faults(patch: Mapping[str, Any]) -> Iterator[FieldError]:
    for key, value in patch.items():
        kind = _KINDS.get(key)
        if kind is None:
            yield FieldError(f"/{key}", f"is not a setting; known are {', '.join(_KINDS)}")
        elif value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            yield FieldError(f"/{key}", "has the wrong type")
        elif key == "timezone" and isinstance(value, str):
            yield from _zone_fault(value)
        elif key == "replay_ttl_min" and isinstance(value, dict):
            names = {t.value for t in CommandType} - {CommandType.D1_CONFIRMATION}
            for name, minutes in value.items():
                if name not in names:
                    yield FieldError(f"/{key}/{name}", f"is not one of {', '.join(sorted(names))}")
                elif minutes is not None and not _number(minutes, 0, 60 * 24 * 365):
                    yield FieldError(f"/{key}/{name}", "must be minutes between 0 and a year")
        elif (
            key in ("wait_limit_s", "d1_cutoff_min", "clock_skew_s", "contingency_after_s")
            and value is not None
            and not _number(value, 0, 86_400)
        ):
            yield FieldError(f"/{key}", "must be between 0 and 86400")
        elif key == "family_texts" and value is not None:
            yield from (FieldError(f"/{key}{path}", detail) for path, detail in text_faults(value))
        elif key in ("hours", "holidays", "national_holidays") and value is not None:
            yield from (FieldError(pointer, detail) for pointer, detail in hour_faults({key: value}))
        elif key == "takeover_sla_min" and isinstance(value, dict):
            for name, minutes in value.items():
                if name not in SLA_NAMES or (minutes is not None and not _number(minutes, 1, 10_000)):
                    yield FieldError(f"/{key}/{name}", f"must be minutes between 1 and 10000, of {', '.join(SLA_NAMES)}")
        elif key == "retention" and isinstance(value, dict):
            yield from (FieldError(pointer, detail) for pointer, detail in retention_faults(value))
        elif key == "frustration" and isinstance(value, dict):
            limits = {"messages": (0, 50), "window_min": (1, 1_440)}
            for name, number in value.items():
                if name not in limits or (number is not None and not _number(number, *limits[name])):
                    yield FieldError(f"/{key}/{name}", "must be messages (0 to 50, 0 = never) or window_min (1 to 1440)")
        elif key == "channels" and isinstance(value, dict):
            yield from _channel_faults(value)
        elif key == "routing" and isinstance(value, dict):
            yield from _routing_faults(value)
        elif key == "thresholds" and isinstance(value, dict):
            yield from (FieldError(f"/{key}{path}", detail) for path, detail in limit_faults(value))
        elif key == "drill_every_d" and value is not None and not _number(value, 0, 365):
            yield FieldError(f"/{key}", "must be days between 0 (never) and 365")
        elif key == "max_queue_size" and value is not None and not _number(value, 0, 10_000_000):
            yield FieldError(f"/{key}", "must be between 0 and 10000000")
        elif key == "queue_alert_share" and value is not None and not _number(value, 0.01, 1):
            yield FieldError(f"/{key}", "must be a share of max_queue_size between 0.01 and 1")
        elif key == "drain_per_s" and value is not None and not _number(value, 0.01, 10_000):
            yield FieldError(f"/{key}", "must be commands a second, between 0.01 and 10000")
        elif value is not None:
            yield from (FieldError(pointer, detail) for pointer, detail in provider_faults(key, value))


def _channel_faults(channels: Mapping[str, Any]) -> Iterator[FieldError]:
    for name, spec in channels.items():
        if not name or len(name) > 40 or ":" in name:
            yield FieldError(f"/channels/{name[:40]}", "is not a name for a channel: 1 to 40 characters, no colon")
        specs = spec if isinstance(spec, list) else [spec]
        if not all(s is None or (isinstance(s, str) and len(s) <= 1000) for s in specs) or len(specs) > 20:
            yield FieldError(f"/channels/{name[:40]}", "must be a channel, or a list of up to 20 channels that are asked in order")


def _routing_faults(routing: Mapping[str, Any]) -> Iterator[FieldError]:
    for trigger, route in routing.items():
        pointer = f"/routing/{trigger[:60]}"
        if route is None:
            continue
        if not isinstance(route, dict) or set(route) - {"channels", "fallback", "owner", "ack_sla_min"}:
            yield FieldError(pointer, "must have channels, fallback, owner, ack_sla_min, or some of them")
            continue
        channels = route.get("channels")
        if channels is not None and not (isinstance(channels, list) and channels and all(_name(c) for c in channels)):
            yield FieldError(f"{pointer}/channels", "must be a list of names of channels, at least one")
        elif channels is not None and trigger == "critical" and len(set(channels)) < 2:
            yield FieldError(f"{pointer}/channels", "must name two channels: no critical alert hangs on one")
        for field in ("fallback", "owner"):
            if route.get(field) is not None and not _name(route[field], 200):
                yield FieldError(f"{pointer}/{field}", "must be a name")
        minutes = route.get("ack_sla_min")
        if minutes is not None and not (isinstance(minutes, int) and _number(minutes, 1, 1440)):
            yield FieldError(f"{pointer}/ack_sla_min", "must be whole minutes between 1 and 1440")


def _name(value: object, max_length: int = 40) -> bool:
    return isinstance(value, str) and 0 < len(value) <= max_length


def _zone_fault(name: str) -> Iterator[FieldError]:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield FieldError("/timezone", "is not an IANA timezone, such as America/Sao_Paulo")


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _patched(stored: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A stored document after a patch: null takes a key away, whatever was there, so none is ever stored."""
    merged = dict(stored)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            known = merged.get(key)
            merged[key] = _patched(known if isinstance(known, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _over(base: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """A stored document over what holds without it; a null in it (of an older version) says nothing."""
    merged = dict(base)
    for key, value in document.items():
        known = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = _over(known if isinstance(known, Mapping) else {}, value)
        elif value is not None or document is DEFAULTS:
            merged[key] = value
    return merged


def _keep_masked(patch: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The patch without its `***`: those keep what is stored."""
    kept: dict[str, Any] = {}
    for key, value in patch.items():
        if value == MASK:
            continue
        known = before.get(key)
        kept[key] = _keep_masked(value, known if isinstance(known, Mapping) else {}) if isinstance(value, Mapping) else value
    return kept
