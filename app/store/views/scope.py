"""Which clinics a reader looks at, as a condition that keeps the tenant-first indexes in use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select

from app.store.tables import Tenant, table

_TENANT = table(Tenant)

Scope = tuple[str, ...] | None
"""Tenant ids, sorted; None = every clinic."""


@dataclass(frozen=True, slots=True)
class Clinic:
    """A clinic as screens name it."""

    tenant_id: str
    slug: str
    name: str
    timezone: str


def within(column: ColumnElement[Any], scope: Scope) -> ColumnElement[bool]:
    """Rows of the scope. Every clinic is a subquery and not "no condition": indexes begin with the tenant."""
    if scope is None:
        return column.in_(select(_TENANT.c.tenant_id))
    return column == scope[0] if len(scope) == 1 else column.in_(scope)


def clinics(conn: Connection, tenant_ids: Sequence[str]) -> Mapping[str, Clinic]:
    """The clinics of some rows, by id."""
    wanted = sorted(set(tenant_ids))
    if not wanted:
        return {}
    rows = conn.execute(select(_TENANT).where(_TENANT.c.tenant_id.in_(wanted)))
    return {row.tenant_id: clinic_of(row) for row in rows}


def clinic_of(row: Row[Any]) -> Clinic:
    """The dataclass of a `tenant` row."""
    return Clinic(row.tenant_id, row.slug, row.name, row.timezone)
