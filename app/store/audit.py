"""The audit trail: who did what, when, why, before and after; append-only and hash-chained per chain.

A chain is a tenant, or `global`. Appends of one chain take turns on its `audit_head` row, in the transaction of the act.
Nothing can be taken out of it again, so what people of a clinic typed is told without the names and numbers of its families.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, select, update

from app.domain.envelopes import canonical_json
from app.domain.ledger_chain import GENESIS, entry_hash
from app.domain.redaction import without_names
from app.store.bulk import insert_rows
from app.store.private import names_in, told_without
from app.store.tables import AuditEntry, AuditHead, table

__all__ = ["GLOBAL_CHAIN", "HASHED_FIELDS", "MACHINE_PREFIX", "append", "entry_hash", "lock_head"]

_ENTRY, _HEAD = table(AuditEntry), table(AuditHead)

GLOBAL_CHAIN: Final = "global"

MACHINE_PREFIX: Final = "ev:"
"""Chains of what no person did or asked for (packs of ordinary flows): checked like the others, not shown among people's acts."""

FREE_TEXT: Final = ("reason", "close_reason", "recovery_action", "runbook_step", "summary", "note", "detail", "action")
"""Fields of `before` and `after` that people typed."""

HASHED_FIELDS: Final = (
    "chain",
    "number",
    "at",
    "actor",
    "action",
    "object",
    "before_json",
    "after_json",
    "reason",
    "origin",
    "correlation_id",
)
"""Fields of an entry that its hash covers."""


def append(
    conn: Connection,
    *,
    chain: str,
    actor: str,
    action: str,
    object: str,
    now: datetime,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
    origin: str | None = None,
    correlation_id: str | None = None,
    about: str | None = None,
) -> int:
    """Append one entry in the caller's transaction; returns its number in the chain (1, 2, 3, ...).

    `about` is the contact that its texts are about, if they are about one.
    """
    typed = [said for said in (reason, *_typed(before), *_typed(after)) if said]
    if typed and chain != GLOBAL_CHAIN:
        names = names_in(conn, chain, about, typed)
        reason = without_names(reason, names)
        before, after = told_without(names, before, *FREE_TEXT), told_without(names, after, *FREE_TEXT)
    head = lock_head(conn, chain)
    fields: dict[str, Any] = {
        "chain": chain,
        "number": head.number + 1,
        "at": now,
        "actor": actor[:200],
        "action": action,
        "object": object[:300],
        "before_json": canonical_json(before),
        "after_json": canonical_json(after),
        "reason": reason[:1000] if reason else None,
        "origin": origin[:100] if origin else None,
        "correlation_id": correlation_id,
    }
    digest = entry_hash(head.hash, {name: fields[name] for name in HASHED_FIELDS})
    insert_rows(conn, _ENTRY, [fields | {"prev_hash": head.hash, "hash": digest}])
    conn.execute(update(_HEAD).where(_HEAD.c.chain == chain).values(number=fields["number"], hash=digest))
    return int(fields["number"])


def _typed(said: Mapping[str, Any] | None) -> list[str]:
    return [value for name, value in (said or {}).items() if name in FREE_TEXT and isinstance(value, str)]


def lock_head(conn: Connection, chain: str) -> Row[int, str]:
    """The tail of a chain (`number`, `hash`), locked until the commit: nothing is appended meanwhile but by the caller."""
    insert_rows(conn, _HEAD, [{"chain": chain, "number": 0, "hash": GENESIS}], ignore_conflicts=True)
    query = select(_HEAD.c.number, _HEAD.c.hash).where(_HEAD.c.chain == chain)
    return conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).one()
