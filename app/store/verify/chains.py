"""Checks over the two hash chains: a lane's ledger (order proof) and the audit trail."""

from collections.abc import Collection, Iterator
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, select

from app.domain.ledger_chain import ChainLink, order_proof
from app.store.audit import HASHED_FIELDS as AUDIT_FIELDS
from app.store.audit import entry_hash as audit_hash
from app.store.effects import HASHED_FIELDS
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import AuditEntry, AuditHead, Lane, Ledger, ModeRow, table
from app.store.verify.violation import Violation, stream

_LEDGER, _LANE, _AUDIT, _HEAD, _MODE = (table(t) for t in (Ledger, Lane, AuditEntry, AuditHead, ModeRow))

CLOCK_TOLERANCE: Final = timedelta(seconds=2)
"""Nodes anchor their clocks to the database; this much may remain. The exact order is proven by the chain, not by times."""

_SENTENCES: Final = {
    "not_dense": "a place is missing or doubled",
    "not_chained": "it does not follow the entry before it",
    "content_changed": "its content is not what was hashed when it was written",
}


def lane_chains(conn: Connection) -> Iterator[Violation]:
    """Per lane: places 1, 2, 3, ... up to `last_committed`, each chained to the one before, the last one at the lane's head.

    Along a lane no entry is older than the one before it, and the epoch of its mode never falls, nor beyond what it is now.
    """
    e, lane = _LEDGER.c, _LANE.c
    query = (
        select(_LEDGER, lane.last_committed, lane.chain_hash)
        .outerjoin(_LANE, and_(lane.tenant_id == e.tenant_id, lane.contact_id == e.contact_id))
        .order_by(e.tenant_id, e.contact_id, e.commit_order)
    )
    epochs: dict[str, int] = {row.scope: row.epoch for row in conn.execute(select(_MODE.c.scope, _MODE.c.epoch))}
    for (tenant_id, contact_id), rows in groupby(stream(conn, query), key=lambda r: (r.tenant_id, r.contact_id)):
        yield from _lane(tenant_id, contact_id, rows, epochs.get(GLOBAL_SCOPE, 0) + epochs.get(tenant_id, 0))
    empty = (
        select(lane.tenant_id, lane.contact_id, lane.last_committed)
        .outerjoin(_LEDGER, and_(e.tenant_id == lane.tenant_id, e.contact_id == lane.contact_id))
        .where(lane.last_committed > 0, e.contact_id.is_(None))
    )
    for row in stream(conn, empty):
        sentence = f"It is committed up to {row.last_committed}, but has no ledger entry."
        yield Violation("ledger_end", row.tenant_id, f"lane {row.contact_id}", sentence)


def _lane(tenant_id: str, contact_id: str, rows: Iterator[Row[Any]], epoch_now: int) -> Iterator[Violation]:
    lane = f"lane {contact_id}"
    seen: list[Row[Any]] = []
    backwards: list[Row[Any]] = []
    epochs: list[tuple[Row[Any], int]] = []
    """Entries whose epoch is not between that before them and today's; with the one that it should at least be."""

    def links() -> Iterator[ChainLink]:
        for row in rows:
            if seen and row.committed_at < seen[0].committed_at - CLOCK_TOLERANCE:
                backwards.append(row)
            least = seen[0].mode_epoch if seen else 0
            if not least <= row.mode_epoch <= epoch_now:
                epochs.append((row, least))
            seen[:] = [row]
            fields = {name: getattr(row, name) for name in HASHED_FIELDS}
            yield ChainLink(commit_order=row.commit_order, prev_hash=row.prev_hash, hash=row.hash, fields=fields)

    proof = order_proof(links())
    last = seen[0]
    for row in backwards:
        yield Violation(
            "ledger_time", tenant_id, f"entry {contact_id}/{row.commit_order}", "It was committed before the place before it."
        )
    for row, least in epochs:
        sentence = f"It was decided in epoch {row.mode_epoch} of its mode, which is between {least} and {epoch_now}."
        yield Violation("ledger_epoch", tenant_id, f"entry {contact_id}/{row.commit_order}", sentence)
    if not proof.valid:
        fault = proof.fault or ""
        sentence = f"The order proof breaks at place {last.commit_order}: {_SENTENCES[fault]}."
        yield Violation(f"ledger_{fault}", tenant_id, f"entry {contact_id}/{last.commit_order}", sentence)
    elif proof.length != last.last_committed:
        sentence = f"It is committed up to {last.last_committed}, the ledger has {proof.length} entries."
        yield Violation("ledger_end", tenant_id, lane, sentence)
    elif proof.head != last.chain_hash:
        yield Violation("ledger_end", tenant_id, lane, "The hash that the lane remembers is not that of its last entry.")


def audit_chains(conn: Connection, only: Collection[str] | None = None) -> Iterator[Violation]:
    """Per chain (all, or some): entries 1, 2, 3, ..., each hashed over the one before, the last one at the chain's head."""
    a, head = _AUDIT.c, _HEAD.c
    query = (
        select(_AUDIT, head.number.label("head_number"), head.hash.label("head_hash"))
        .outerjoin(_HEAD, head.chain == a.chain)
        .order_by(a.chain, a.number)
    )
    if only is not None:
        query = query.where(a.chain.in_(only))
    for chain, rows in groupby(stream(conn, query), key=lambda r: r.chain):
        yield from _audit(chain, rows)
    empty = select(head.chain, head.number).outerjoin(_AUDIT, a.chain == head.chain).where(head.number > 0, a.chain.is_(None))
    if only is not None:
        empty = empty.where(head.chain.in_(only))
    for row in stream(conn, empty):
        yield Violation("audit_end", row.chain, f"audit {row.chain}", f"The chain says {row.number} entries, but there are none.")


def _audit(chain: str, rows: Iterator[Row[Any]]) -> Iterator[Violation]:
    previous, expected = "", 1
    last = None
    for row in rows:
        subject = f"audit {chain}/{row.number}"
        if row.number != expected:
            yield Violation("audit_gap", chain, subject, f"Entry {row.number} follows entry {expected - 1}.")
            return
        if row.prev_hash != previous:
            yield Violation("audit_not_chained", chain, subject, "It does not follow the entry before it.")
            return
        if row.hash != audit_hash(row.prev_hash, {name: getattr(row, name) for name in AUDIT_FIELDS}):
            yield Violation("audit_changed", chain, subject, "Its content is not what was hashed when it was written.")
            return
        previous, expected, last = row.hash, expected + 1, row
    if last is not None and (last.head_number, last.head_hash) != (expected - 1, previous):
        yield Violation(
            "audit_end", chain, f"audit {chain}", f"The chain's head says {last.head_number}, the last entry is {expected - 1}."
        )
