"""Whose rows a transaction may touch: one clinic's, a few clinics', everybody's, or nobody's.

The engine serves all clinics at once and runs under `everyone` (the default of a task that no request began). Every web
request begins under `nobody`; the guard of its route opens what the caller may see. `Database` puts the scope into each
PostgreSQL transaction, where row-level security holds it (see `walls.py`); SQLite has no such wall, and there the tenant
filters of the queries stand alone.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Final

SETTING: Final = "kora.tenants"
"""Name of the PostgreSQL setting that the policies read."""

EVERYONE: Final = "*"
NOBODY: Final = ""

_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,40}")
_scope: ContextVar[str] = ContextVar("kora_tenants", default=EVERYONE)


def current_scope() -> str:
    """The value of the setting for a transaction that begins now."""
    return _scope.get()


def scope_value(tenant_ids: Iterable[str] | None) -> str:
    """What the setting says for these clinics; None = everybody, none at all = nobody. Raises ValueError for a strange id."""
    if tenant_ids is None:
        return EVERYONE
    return _listed(frozenset(tenant_ids))


@lru_cache(4_096)
def _listed(tenant_ids: frozenset[str]) -> str:
    ids = sorted(tenant_ids)
    for tenant_id in ids:
        if not _ID.fullmatch(tenant_id):
            raise ValueError(f"not a tenant's id: {tenant_id[:60]!r}")
    return ",".join(ids)


def narrow(tenant_ids: Iterable[str] | None) -> None:
    """From here to the end of the enclosing `scoped` block, only these clinics (None = everybody)."""
    _scope.set(scope_value(tenant_ids))


@contextmanager
def scoped(tenant_ids: Iterable[str] | None) -> Iterator[None]:
    """Transactions begun inside see only these clinics (None = everybody, an empty list = nobody); afterwards as before."""
    token = _scope.set(scope_value(tenant_ids))
    try:
        yield
    finally:
        _scope.reset(token)
