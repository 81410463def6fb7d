"""Evidence packs as rows: asked for in the transaction of what they prove, claimed by one node, built, kept, tried again.

`request` is cheap (one insert) and may be called in any transaction that ends a flow or closes an incident. The builder
(`app.engine.evidence`) claims what is due with a lease, so any node may die while it builds. Writing a pack appends its
digest to the audit chain of its scope in the same transaction that stores it: a pack without its entry does not exist.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, case, delete, or_, select, update

from app.domain.envelopes import canonical_json
from app.domain.evidence import Completeness, retry_s
from app.domain.evidence_kinds import EvidenceKind, span_of
from app.ids import new_id
from app.store.audit import MACHINE_PREFIX, append, lock_head
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import EvidenceFile, EvidencePack, table
from app.store.views.scope import Scope, within

if TYPE_CHECKING:
    from app.store.people import By  # it stands above alerts, whose end asks for packs

_PACK, _FILE = table(EvidencePack), table(EvidenceFile)

SYSTEM: Final = "system:evidence"
TOPIC: Final = "evidence"
SETTLE: Final = timedelta(seconds=10)
"""How long after an end a pack is built: answers are delivered and receipts arrive in that time."""
LEASE: Final = timedelta(seconds=60)
KEEP_AUTOMATIC: Final = timedelta(days=3)
"""Packs of ordinary flows that nobody asked for are dropped after this; they can be built again at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A built pack: its zip, the root of its manifest, and the key that signed it."""

    content: bytes
    root: str
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a try came to, as it is written down."""

    completeness: Completeness
    flow_id: str
    correlation_id: str
    terminal_state: str | None
    facts_hash: str
    running: bool = False
    """The flow has not ended yet: not being complete is no failure, so nobody is alerted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A pack that is asked for and not stored (yet): what `EvidencePack` rows and requests have in common."""

    tenant_id: str | None
    kind: str
    subject: str
    reason: str
    requested_at: datetime
    from_at: datetime | None = None
    until_at: datetime | None = None
    pack_id: str = field(default_factory=new_id)
    flow_id: str | None = None
    correlation_id: str | None = None
    document_json: str | None = None
    tries: int = 1

    @property
    def scope(self) -> str:
        """The tenant, or `global`."""
        return self.tenant_id or GLOBAL_SCOPE

    @property
    def span(self) -> str:
        """The time range as a key."""
        return span_of(self.from_at, self.until_at)


def request(
    conn: Connection,
    *,
    tenant_id: str | None,
    kind: str,
    subject: str,
    reason: str,
    now: datetime,
    document: Mapping[str, Any] | None = None,
    requested_by: str = SYSTEM,
    from_at: datetime | None = None,
    until_at: datetime | None = None,
    flow_id: str | None = None,
    correlation_id: str | None = None,
    after: timedelta = timedelta(0),
) -> str:
    """Ask for a pack in the caller's transaction; returns its id, that of the pending one if the same is pending already.

    `kind` is one of `EvidenceKind`; `subject` names it (correlation id, contact, alert, episode, replay, ticket, drill, deferred
    item). `document` becomes part of the pack; a later one replaces it while the pack is pending. It is built `after` that long.
    """
    kind = EvidenceKind(kind)
    scope, span = tenant_id or GLOBAL_SCOPE, span_of(from_at, until_at)
    row = {
        "pack_id": new_id(),
        "scope": scope,
        "tenant_id": tenant_id,
        "kind": kind,
        "subject": subject[:300],
        "span": span,
        "from_at": from_at,
        "until_at": until_at,
        "reason": reason[:500],
        "requested_by": requested_by[:200],
        "automatic": requested_by == SYSTEM,
        "requested_at": now,
        "due_at": now + after,
        "flow_id": flow_id,
        "correlation_id": correlation_id,
        "document_json": canonical_json(document) if document is not None else None,
    }
    same = [_PACK.c[name] == row[name] for name in ("scope", "kind", "subject", "span")]
    pack_id: str | None = None
    while pack_id is None:  # one that was pending may be settled between the two statements: then ours goes in
        insert_rows(conn, _PACK, [row], ignore_conflicts=True)
        pack_id = conn.execute(select(_PACK.c.pack_id).where(*same, _PACK.c.due_at.is_not(None))).scalar()
    if pack_id != row["pack_id"]:
        newer: dict[str, Any] = {}
        if document is not None:
            newer |= {"document_json": row["document_json"], "due_at": now + after}
        if not row["automatic"]:  # somebody wants it now: it is kept like every pack that was asked for
            newer |= {"automatic": False, "requested_by": row["requested_by"], "reason": row["reason"]}
        if newer:
            conn.execute(update(_PACK).where(_PACK.c.pack_id == pack_id).values(newer))
    publish(conn, tenant_id, TOPIC, [pack_id], now)
    return pack_id


def ended(conn: Connection, tenant_id: str | None, kind: str, subject: str, now: datetime) -> str:
    """Ask for the pack of what has just ended, in the transaction that ends it; built once its last rows have settled."""
    return request(conn, tenant_id=tenant_id, kind=kind, subject=subject, reason="ended", now=now, after=SETTLE)


# --- building -----------------------------------------------------------------------------------------------------------


def due(conn: Connection, now: datetime, limit: int) -> list[str]:
    """Ids of what is due and free: incidents and what people asked for before ordinary flows, then the newest request first."""
    free = or_(_PACK.c.lease_until.is_(None), _PACK.c.lease_until <= now)
    query = select(_PACK.c.pack_id).where(_PACK.c.due_at.is_not(None), _PACK.c.due_at <= now, free)
    ordinary = case((and_(_PACK.c.automatic, _PACK.c.kind == EvidenceKind.FLOW), 1), else_=0)
    return list(conn.execute(query.order_by(ordinary, _PACK.c.requested_at.desc(), _PACK.c.pack_id.desc()).limit(limit)).scalars())


def take(conn: Connection, pack_id: str, now: datetime) -> Row[Any] | None:
    """Take one pack that is not settled, due or not, under a lease; None when another node has it."""
    free = or_(_PACK.c.lease_until.is_(None), _PACK.c.lease_until <= now)
    done = conn.execute(
        update(_PACK)
        .where(_PACK.c.pack_id == pack_id, _PACK.c.due_at.is_not(None), free)
        .values(lease_token=new_id(), lease_until=now + LEASE, tries=_PACK.c.tries + 1)
    )
    if done.rowcount != 1:
        return None
    return conn.execute(select(_PACK).where(_PACK.c.pack_id == pack_id)).one()


def finish(
    conn: Connection, row: Row[Any], built: Built, seal: Callable[[Mapping[str, Any]], Sealed] | None, now: datetime
) -> bool:
    """Write what a try came to; False when the lease was lost meanwhile (then nothing was written).

    `seal` makes the zip for the head of the audit chain, which stays locked until the commit; None where too little was
    gathered for a pack to say anything. The next try is written down too, if there is one.
    """
    chain = chain_of(row)
    head = lock_head(conn, chain)
    sealed = seal({"chain": chain, "number": head.number, "hash": head.hash}) if seal is not None else None
    wait_s = retry_s(row.tries) if built.completeness.needs_retry else None
    number = _audit(conn, row, built, sealed, now) if sealed is not None else None
    values: dict[str, Any] = {
        "due_at": now + timedelta(seconds=wait_s) if wait_s is not None else None,
        "lease_token": None,
        "lease_until": None,
        "result": built.completeness.result,
        "share": built.completeness.share,
        "missing_json": canonical_json(built.completeness.missing),
        "finished_at": now,
        "running": built.running,
        "flow_id": built.flow_id,
        "correlation_id": built.correlation_id[:220],
        "terminal_state": built.terminal_state,
        "facts_hash": built.facts_hash,
    }
    if sealed is not None:
        values |= {"root": sealed.root, "key_id": sealed.key_id, "audit_chain": chain, "audit_number": number}
        values["size_bytes"] = len(sealed.content)
    done = conn.execute(
        update(_PACK).where(_PACK.c.pack_id == row.pack_id, _PACK.c.lease_token == row.lease_token).values(**values)
    )
    if done.rowcount != 1:
        raise LeaseLost(row.pack_id)
    if sealed is not None:
        conn.execute(delete(_FILE).where(_FILE.c.pack_id == row.pack_id))
        conn.execute(_FILE.insert().values(pack_id=row.pack_id, content=zlib.compress(sealed.content)))
    publish(conn, row.tenant_id, TOPIC, [row.pack_id], now)
    return True


def chain_of(row: Any) -> str:
    """The audit chain that a pack hangs on: its clinic's, but not among people's acts when it is one of very many."""
    ordinary = row.automatic and row.kind == EvidenceKind.FLOW
    return f"{MACHINE_PREFIX}{row.scope}"[:40] if ordinary else str(row.scope)


class LeaseLost(Exception):
    """Another node took the pack over; the transaction is rolled back."""


def _audit(conn: Connection, row: Row[Any], built: Built, sealed: Sealed, now: datetime) -> int:
    return append(
        conn,
        chain=chain_of(row),
        actor=SYSTEM,
        action="evidence.build",
        object=f"evidence/{row.pack_id}",
        after={
            "root": sealed.root,
            "key_id": sealed.key_id,
            "kind": row.kind,
            "subject": row.subject,
            "result": built.completeness.result,
            "facts_hash": built.facts_hash,
        },
        correlation_id=built.correlation_id[:220],
        now=now,
    )


def prune(conn: Connection, now: datetime, limit: int = 200) -> int:
    """Drop packs of ordinary flows that nobody asked for and whose time is over; returns how many."""
    old = (
        select(_PACK.c.pack_id)
        .where(_PACK.c.finished_at < now - KEEP_AUTOMATIC, _PACK.c.automatic, _PACK.c.kind == EvidenceKind.FLOW)
        .where(_PACK.c.due_at.is_(None))
        .order_by(_PACK.c.finished_at)
        .limit(limit)
    )
    ids = list(conn.execute(old).scalars())
    if ids:
        conn.execute(delete(_FILE).where(_FILE.c.pack_id.in_(ids)))
        conn.execute(delete(_PACK).where(_PACK.c.pack_id.in_(ids)))
    return len(ids)


def note_full(conn: Connection, about: Any, seal: Callable[[Mapping[str, Any]], Sealed], by: "By", facts_hash: str) -> Sealed:
    """Seal a pack with personal data for one person, and write down who got it and why; the pack itself is not kept."""
    head = lock_head(conn, about.scope)
    sealed = seal({"chain": about.scope, "number": head.number, "hash": head.hash})
    append(
        conn,
        chain=about.scope,
        actor=by.actor,
        action="evidence.full",
        object=f"evidence/{about.pack_id}",
        after={
            "root": sealed.root,
            "key_id": sealed.key_id,
            "kind": about.kind,
            "subject": about.subject,
            "facts_hash": facts_hash,
        },
        reason=about.reason,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    return sealed


def note_download(conn: Connection, row: Any, form: str, by: "By") -> None:
    """Write down who took a pack, and in which form (`zip` or `json`)."""
    append(
        conn,
        chain=row.scope,
        actor=by.actor,
        action="evidence.download",
        object=f"evidence/{row.pack_id}",
        after={"kind": row.kind, "subject": row.subject, "form": form, "root": row.root},
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )


# --- reading ------------------------------------------------------------------------------------------------------------


def pack(conn: Connection, pack_id: str) -> Row[Any] | None:
    """One pack's row."""
    return conn.execute(select(_PACK).where(_PACK.c.pack_id == pack_id)).first()


def newest(conn: Connection, scope: str, kind: str, subject: str, span: str = "") -> Row[Any] | None:
    """The newest pack about something that has a file."""
    query = select(_PACK).where(_PACK.c.scope == scope, _PACK.c.kind == kind, _PACK.c.subject == subject, _PACK.c.span == span)
    query = query.where(_PACK.c.root.is_not(None)).order_by(_PACK.c.requested_at.desc(), _PACK.c.pack_id.desc())
    return conn.execute(query.limit(1)).first()


def content(conn: Connection, pack_id: str) -> bytes | None:
    """The zip of a pack; None when there is none."""
    stored = conn.execute(select(_FILE.c.content).where(_FILE.c.pack_id == pack_id)).scalar()
    return zlib.decompress(stored) if stored is not None else None


def packs(
    conn: Connection,
    scope: Scope,
    *,
    kind: str | None = None,
    subject: str | None = None,
    ordinary: bool = True,
    offset: int = 0,
    after: tuple[datetime, str] | None = None,
    limit: int = 50,
) -> list[Row[Any]]:
    """Packs of some clinics, the newest request first; without a scope all of them, and those of the whole installation.

    `ordinary` False leaves out those of ordinary flows that nobody asked for: they are very many.
    """
    query = select(_PACK) if scope is None else select(_PACK).where(within(_PACK.c.scope, scope))
    if kind is not None:
        query = query.where(_PACK.c.kind == kind)
    if not ordinary:
        query = query.where(~and_(_PACK.c.automatic, _PACK.c.kind == EvidenceKind.FLOW))
    if subject is not None:
        query = query.where(_PACK.c.subject == subject)
    if after is not None:
        at, pack_id = after
        query = query.where(or_(_PACK.c.requested_at < at, and_(_PACK.c.requested_at == at, _PACK.c.pack_id < pack_id)))
    return list(conn.execute(query.order_by(_PACK.c.requested_at.desc(), _PACK.c.pack_id.desc()).offset(offset).limit(limit)))


def missing_of(row: Row[Any]) -> list[str]:
    """Required parts that the newest try did not find."""
    return list(msgspec.json.decode(row.missing_json))
