"""The audit trail for people: search by who, what, object and time; before against after; whether the chains are whole."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from app.store.audit import MACHINE_PREFIX
from app.store.tables import AuditEntry, AuditHead, UserAccount, table
from app.store.verify.chains import audit_chains
from app.store.views.guardians import actor_names
from app.store.views.scope import Clinic, Scope, clinics

_AUDIT, _HEAD, _USER = table(AuditEntry), table(AuditHead), table(UserAccount)

PAGE_ROWS: Final = 50
EXPORT_ROWS: Final = 10_000
"""Rows of one export, the newest; a longer span is exported in parts."""
PEOPLE_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What somebody looks for; empty = everything. Texts are parts; `from_at` <= at < `to_at`."""

    who: str = ""
    what: str = ""
    object: str = ""
    from_at: datetime | None = None
    to_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditCursor:
    """The last row seen."""

    at: datetime
    chain: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that an act changed; None = it was not there."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One entry; `clinic` None = it is about no single clinic."""

    chain: str
    number: int
    clinic: Clinic | None
    at: datetime
    actor: str
    person: str | None
    action: str
    object: str
    reason: str | None
    origin: str | None
    correlation_id: str | None
    changes: tuple[Change, ...]
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainState:
    """What a check of one chain found; `fault` None = it is whole."""

    chain: str
    clinic: Clinic | None
    entries: int
    fault: str | None


def audit_rows(
    conn: Connection, scope: Scope, wanted: AuditFilter, *, after: AuditCursor | None = None, limit: int = PAGE_ROWS
) -> tuple[list[AuditRow], AuditCursor | None]:
    """Entries, newest first, from behind `after`, and the cursor of the next page."""
    conditions = [*_scoped(scope), *_wanted(conn, wanted)]
    if after is not None:
        same = _AUDIT.c.at == after.at
        conditions.append(
            or_(
                _AUDIT.c.at < after.at,
                and_(same, _AUDIT.c.chain > after.chain),
                and_(same, _AUDIT.c.chain == after.chain, _AUDIT.c.number < after.number),
            )
        )
    order = (_AUDIT.c.at.desc(), _AUDIT.c.chain, _AUDIT.c.number.desc())
    found = conn.execute(select(_AUDIT).where(*conditions).order_by(*order).limit(limit + 1)).all()
    rows = found[:limit]
    names = clinics(conn, [row.chain for row in rows])
    people = actor_names(conn, [row.actor for row in rows])
    shown = [
        AuditRow(
            chain=row.chain,
            number=row.number,
            clinic=names.get(row.chain),
            at=row.at,
            actor=row.actor,
            person=people.get(row.actor),
            action=row.action,
            object=row.object,
            reason=row.reason,
            origin=row.origin,
            correlation_id=row.correlation_id,
            changes=changes_of(msgspec.json.decode(row.before_json), msgspec.json.decode(row.after_json)),
            hash=row.hash,
        )
        for row in rows
    ]
    last = rows[-1] if len(found) > limit else None
    return shown, AuditCursor(at=last.at, chain=last.chain, number=last.number) if last is not None else None


def chain_states(conn: Connection, scope: Scope) -> list[ChainState]:
    """Every chain of the scope, recomputed from its first entry to its head; a clinic's two chains count as one."""
    query = select(_HEAD.c.chain, _HEAD.c.number).order_by(_HEAD.c.chain)
    if scope is not None:
        query = query.where(_HEAD.c.chain.in_([*scope, *(f"{MACHINE_PREFIX}{name}"[:40] for name in scope)]))
    heads = {row.chain: int(row.number) for row in conn.execute(query)}
    faults = {v.tenant_id: f"{v.subject}: {v.sentence}" for v in audit_chains(conn, list(heads))}
    names = clinics(conn, [chain.removeprefix(MACHINE_PREFIX) for chain in heads])
    found = []
    for name in sorted({chain.removeprefix(MACHINE_PREFIX) for chain in heads}):
        both = (name, f"{MACHINE_PREFIX}{name}")
        fault = next((faults[chain] for chain in both if chain in faults), None)
        entries = sum(heads.get(chain, 0) for chain in both)
        found.append(ChainState(chain=name, clinic=names.get(name), entries=entries, fault=fault))
    return found


def changes_of(before: Any, after: Any) -> tuple[Change, ...]:
    """The fields in which two recorded values differ, by name."""
    was = before if isinstance(before, dict) else {} if before is None else {"": before}
    now = after if isinstance(after, dict) else {} if after is None else {"": after}
    return tuple(
        Change(field=name, before=_text(was, name), after=_text(now, name))
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name) or (name in was) != (name in now)
    )


def _text(values: dict[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    value = values[name]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _scoped(scope: Scope) -> list[ColumnElement[bool]]:
    """Of every clinic without a scope; what machines wrote in very great numbers has chains of its own and is not shown."""
    return [_AUDIT.c.chain.not_like(f"{MACHINE_PREFIX}%")] if scope is None else [_AUDIT.c.chain.in_(scope)]


def _wanted(conn: Connection, wanted: AuditFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.who:
        named = select(_USER.c.user_id).where(
            or_(_USER.c.name.icontains(wanted.who, autoescape=True), func.lower(_USER.c.email) == wanted.who.lower())
        )
        people = [f"user:{row.user_id}" for row in conn.execute(named.limit(PEOPLE_MAX))]
        conditions.append(or_(_AUDIT.c.actor.icontains(wanted.who, autoescape=True), _AUDIT.c.actor.in_(people)))
    if wanted.what:
        conditions.append(_AUDIT.c.action.icontains(wanted.what, autoescape=True))
    if wanted.object:
        conditions.append(_AUDIT.c.object.icontains(wanted.object, autoescape=True))
    if wanted.from_at is not None:
        conditions.append(_AUDIT.c.at >= wanted.from_at)
    if wanted.to_at is not None:
        conditions.append(_AUDIT.c.at < wanted.to_at)
    return conditions
