"""Builds evidence packs (S-PC-04-003): gathers what is stored, tells it, redacts it, seals it; tries again what is not complete.

What is asked for lies in the database (`app.store.evidence.request`); any node takes it under a lease. Each part is read in a
transaction of its own: one that cannot be read now is missing, the pack is then partial or failed, somebody is alerted, and
the pack is tried again after 60, 300 and 900 s. A pack never costs the flow that it proves anything: it is built afterwards.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, Row

from app.clock import Clock
from app.domain.drill import TENANT as DRILL_TENANT
from app.domain.evidence import Completeness, EvidenceResult, completeness
from app.domain.evidence_check import content_files, seal
from app.domain.evidence_html import page
from app.domain.evidence_kinds import FLOW_OF_KIND, EvidenceKind, stamp
from app.domain.evidence_pack import assemble, facts_hash, redacted
from app.domain.evidence_schema import PACK_SCHEMA
from app.errors import Conflict, StorageUnavailable
from app.metrics import Metrics
from app.signing import ALGORITHM, Signer, new_salt, signer
from app.store import evidence, evidence_feed, log_lines, signing_keys
from app.store.alerts import raise_alert
from app.store.database import Database
from app.store.evidence_facts import Gathered, gather
from app.store.evidence_metrics import surroundings
from app.store.people import By

log = structlog.get_logger("engine.evidence")

T = TypeVar("T")

POLL_S: Final = 2.0
BATCH: Final = 8
FLOWS_PER_S: Final = 0.25
"""Packs of ordinary flows that a node starts by itself, on average; the bound that the decision about packs states."""
FLOWS_BURST: Final = 30.0
PATIENCE, LOOK_AGAIN_S = 30, 0.1
"""How often, and how far apart, somebody who waits for a pack looks whether another node has built it."""
PRUNE_EVERY_S: Final = 300.0
COUNT_EVERY_S, COUNT_MAX = 60.0, 10_000
"""How often flows without a pack are counted, and how many flows are looked at."""


class SigningKeys:
    """The key that signs packs, made when there is none or when the secret has changed."""

    def __init__(self, database: Database, clock: Clock, secret_key: str) -> None:
        self._database, self._clock, self._secret = database, clock, secret_key
        self._signer: Signer | None = None

    async def signer(self) -> Signer:
        """The key pair that signs now."""
        if self._signer is None:
            self._signer = await self._load()
        return self._signer

    async def _load(self) -> Signer:
        row = await self._database.read(signing_keys.current)
        if row is not None and (known := signer(self._secret, row.salt)).key_id == row.key_id:
            return known
        salt = new_salt()
        made = signer(self._secret, salt)
        row = await self._database.write(
            signing_keys.adopt,
            key_id=made.key_id,
            public_key=made.public_key,
            salt=salt,
            replaces=row.key_id if row is not None else None,
            now=self._clock.now(),
            actor=evidence.SYSTEM,
        )
        return signer(self._secret, row.salt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A gathered pack: the document as it is kept (redacted) or given (full), and how complete it is."""

    document: dict[str, Any]
    completeness: Completeness
    facts_hash: str
    found: bool

    @property
    def running(self) -> bool:
        """Whether nothing is missing but the end: the flow has not ended yet."""
        return self.completeness.missing == ("terminal_state",)


class Evidence:
    """The loop that builds packs."""

    name = "evidence"

    def __init__(self, database: Database, clock: Clock, metrics: Metrics, *, secret_key: str) -> None:
        self.wake = asyncio.Event()
        self.keys = SigningKeys(database, clock, secret_key)
        self.on_change: list[Callable[[], None]] = []
        self._database, self._clock, self._metrics = database, clock, metrics
        self._pruned_at = self._fed_at = time.monotonic()
        self._counted_at: float | None = None
        self._tokens = FLOWS_BURST
        self._seen: int | None = None

    async def tick(self) -> float:
        """Build what is due; soon again when there was more than one round takes."""
        due = await self._database.read(evidence.due, self._clock.now(), BATCH)
        for pack_id in due:
            row = await self._database.write(evidence.take, pack_id, self._clock.now())
            if row is not None:
                await self.build(row)
        await self._feed()
        await self._count()
        await self._prune()
        return 0.0 if len(due) == BATCH else POLL_S

    async def _feed(self) -> None:
        """Ask for the packs of ordinary flows that have just ended, the newest first, at a bounded rate.

        A pack for every flow would cost more than the flows: the rest is built when somebody asks. Read from the event log's
        newest rows, so a commit pays nothing for it.
        """
        now = time.monotonic()
        self._tokens = min(FLOWS_BURST, self._tokens + (now - self._fed_at) * FLOWS_PER_S)
        self._fed_at = now
        if self._seen is None:
            self._seen = await self._database.read(evidence_feed.head)
            return
        room = int(self._tokens)
        if room < 1:
            return
        head, ended = await self._database.read(evidence_feed.recent_ends, self._seen, room)
        self._seen = head
        if ended:
            self._tokens -= len(ended)
            await self._database.write(evidence_feed.ask_for, ended, self._clock.now())

    async def build(self, row: Row[Any]) -> None:
        """One try at a claimed pack."""
        started = time.perf_counter()
        told = await self.tell(row)
        now = self._clock.now()
        sealed: Callable[[Mapping[str, Any]], evidence.Sealed] | None = None
        if told.completeness.result is not EvidenceResult.EVIDENCE_PACK_FAILED_ALERTED:
            key = await self.keys.signer()
            pack = await asyncio.to_thread(prepared, row, told, now, is_redacted=True)
            sealed = partial(sealed_pack, pack, key)

        said = told.document
        built = evidence.Built(
            completeness=told.completeness,
            flow_id=said["flow_id"],
            correlation_id=said["correlation_id"],
            terminal_state=said["terminal_state"],
            facts_hash=told.facts_hash,
            running=told.running,
        )
        try:
            await self._database.write(self._write, row, built, sealed, now)
        except evidence.LeaseLost:
            log.info("evidence_lease_lost", flow_id=built.flow_id, correlation_id=built.correlation_id, pack_id=row.pack_id)
            return
        took_s = time.perf_counter() - started
        self._metrics.evidence_packs.labels(result=str(built.completeness.result)).inc()
        self._metrics.evidence_seconds.observe(took_s)
        log.info(
            "evidence_pack",
            flow_id=built.flow_id,
            correlation_id=built.correlation_id,
            tenant_id=row.tenant_id,
            status=built.completeness.result,
            pack_id=row.pack_id,
            kind=row.kind,
            attempt=row.tries,
            missing=list(built.completeness.missing),
            took_ms=round(took_s * 1000),
        )
        for call in self.on_change:
            call()

    async def on_demand(self, wanted: evidence.Wanted, by: By) -> Row[Any] | None:
        """The pack as the facts are now: the stored one when nothing has changed since, else a new one, built at once.

        None when there is nothing of that name. Raises Conflict while another node builds it, StorageUnavailable when too
        little of it can be read now.
        """
        told = await self.tell(wanted)
        if not told.found:
            return None
        for _ in range(PATIENCE):
            known = await self._database.read(evidence.newest, wanted.scope, wanted.kind, wanted.subject, wanted.span)
            if known is not None and known.facts_hash == told.facts_hash and known.result == str(told.completeness.result):
                return known
            row = await self._database.write(_ask, wanted, by)
            if row is not None:
                await self.build(row)
                built = await self._database.read(evidence.pack, row.pack_id)
                if built is None or built.root is None:
                    raise StorageUnavailable("Too little of this pack can be read now; it is tried again by itself.")
                return built
            await asyncio.sleep(LOOK_AGAIN_S)  # another node has it in hand
        raise Conflict("This pack is being built right now; ask again in a moment.")

    async def full(self, wanted: evidence.Wanted, by: By) -> bytes | None:
        """The zip with names, numbers and texts, for a superadmin; audited, and kept nowhere. None when there is nothing."""
        told = await self.tell(wanted, full=True)
        if not told.found:
            return None
        key = await self.keys.signer()
        pack = await asyncio.to_thread(prepared, wanted, told, by.now, is_redacted=False)
        sealed = await self._database.write(evidence.note_full, wanted, partial(sealed_pack, pack, key), by, told.facts_hash)
        return sealed.content

    def _write(
        self,
        conn: Connection,
        row: Row[Any],
        built: evidence.Built,
        sealed: Callable[[Mapping[str, Any]], evidence.Sealed] | None,
        now: datetime,
    ) -> None:
        if built.completeness.needs_retry and not built.running:
            raise_alert(
                conn,
                tenant_id=row.tenant_id,
                trigger=str(built.completeness.result),
                severity="warning",
                summary=f"Evidence pack {row.pack_id} ({row.kind}) lacks: {', '.join(built.completeness.missing)}",
                dedup_key=str(built.completeness.result),
                correlation_id=built.correlation_id,
                now=now,
                raised_by=evidence.SYSTEM,
            )
        evidence.finish(conn, row, built, sealed, now)

    async def tell(self, row: Any, *, full: bool = False) -> Told:
        """Everything about a pack's subject as a document; redacted unless `full`."""
        gathered = await self._part("facts", gather, row)
        found = gathered if gathered is not None else Gathered()
        first, last = _span(found, row)
        around = await self._part("metrics", surroundings, row.tenant_id, first, last)
        whose = DRILL_TENANT if row.kind == EvidenceKind.DRILL else row.tenant_id
        lines = await self._part("logs", log_lines.of, whose, _correlations(row, found))
        # telling a long story takes a while: nobody else waits for it
        return await asyncio.to_thread(_told, row, gathered, around, lines, full=full)

    async def _part(self, name: str, read: Callable[..., T], *args: Any) -> T | None:
        """One part, read alone; None when it cannot be read now."""
        try:
            return await self._database.read(read, *args)
        except StorageUnavailable as error:
            log.warning("evidence_part_missing", status="missing", part=name, reason=str(error)[:200])
            return None

    async def _count(self) -> None:
        """Say how many flows of the last hour have a pack: those beyond the bounded rate have none until somebody asks."""
        if self._counted_at is not None and time.monotonic() - self._counted_at < COUNT_EVERY_S:
            return
        self._counted_at = time.monotonic()
        found = await self._database.read(evidence_feed.coverage, None, self._clock.now(), COUNT_MAX)
        self._metrics.evidence_flows.labels(pack="none").set(found.without)
        self._metrics.evidence_flows.labels(pack="made").set(found.ended - found.without)

    async def _prune(self) -> None:
        if time.monotonic() - self._pruned_at < PRUNE_EVERY_S:
            return
        self._pruned_at = time.monotonic()
        dropped = await self._database.write(evidence.prune, self._clock.now())
        if dropped:
            log.info("evidence_pruned", packs=dropped)


def _ask(conn: Connection, wanted: evidence.Wanted, by: By) -> Row[Any] | None:
    pack_id = evidence.request(
        conn,
        tenant_id=wanted.tenant_id,
        kind=wanted.kind,
        subject=wanted.subject,
        reason=wanted.reason,
        now=by.now,
        requested_by=by.actor,
        from_at=wanted.from_at,
        until_at=wanted.until_at,
    )
    return evidence.take(conn, pack_id, by.now)


def _told(
    row: Any,
    gathered: Gathered | None,
    around: list[dict[str, Any]] | None,
    lines: list[dict[str, Any]] | None,
    *,
    full: bool,
) -> Told:
    """The parts as a document; those that could not be read are None."""
    kind, found = EvidenceKind(row.kind), gathered if gathered is not None else Gathered()
    given = msgspec.json.decode(row.document_json) if row.document_json is not None else None
    document = assemble(
        kind=kind,
        subject=row.subject,
        tenant_id=row.tenant_id,
        correlation_id=_correlation(row, found),
        facts=found.facts,
        timezone=found.timezone,
        around=found.around,
        chains=found.chains,
        surroundings=around,
        lines=lines,
        document=given,
        cut=found.cut,
    )
    if row.flow_id and kind in (EvidenceKind.DRILL, EvidenceKind.DEFERRED):
        document["flow_id"], document["flows"] = row.flow_id, [row.flow_id]
    if gathered is None:
        document |= dict.fromkeys(("timeline", "logs", "alerts", "ledger", "attempts", "chains", "terminal_state"))
    elif not found.found and (given is None or kind is EvidenceKind.DRILL):
        document["ledger"] = document["attempts"] = None  # nothing of that name: there is nothing to prove
    if not full:
        document = redacted(document, found.private)
    return Told(
        document=document,
        completeness=completeness(document),
        facts_hash=facts_hash(document),
        found=found.found or given is not None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A told pack as files, ready to be sealed: all that is left needs the head of the audit chain."""

    about: dict[str, Any]
    files: dict[str, bytes]


def prepared(row: Any, told: Told, now: datetime, *, is_redacted: bool) -> Prepared:
    """The files of a told pack."""
    about = {
        "pack_id": row.pack_id,
        "kind": row.kind,
        "subject": told.document["subject"],
        "scope": row.scope,
        "requested_at": stamp(row.requested_at),
        "built_at": stamp(now),
        "attempt": row.tries,
        "redacted": is_redacted,
        "result": str(told.completeness.result),
        "share": round(told.completeness.share, 4),
        "missing": list(told.completeness.missing),
        "facts_hash": told.facts_hash,
    }
    document = told.document | {"pack": about}
    shown = page(document, result=str(about["result"]), missing=told.completeness.missing, is_redacted=is_redacted)
    return Prepared(about=about, files=content_files(document, page=shown, schema=PACK_SCHEMA))


def sealed_pack(pack: Prepared, key: Signer, head: Mapping[str, Any]) -> evidence.Sealed:
    """The zip of a pack, signed, hanging on the head of its audit chain."""
    content, root = seal(
        pack.files, about=pack.about, audit=head, key_id=key.key_id, public_key=key.public_key, algorithm=ALGORITHM, sign=key.sign
    )
    return evidence.Sealed(content=content, root=root, key_id=key.key_id)


def _correlation(row: Any, found: Gathered) -> str:
    """The correlation id of a pack: its subject, or that of the row that it is about."""
    if row.kind == EvidenceKind.FLOW:
        return str(row.subject)
    part = {"alert": "alerts", "safe_mode": "episodes", "replay": "replays", "takeover": "tickets"}.get(row.kind)
    rows = found.rows(part) if part is not None else []
    return str(rows[0]["correlation_id"]) if rows else row.correlation_id or f"{row.kind}-{row.subject}"[:220]


def _correlations(row: Any, found: Gathered) -> list[str]:
    """Every correlation id under which lines of a pack may have been written."""
    parts = ("commands", "messages", "unusable", "tickets", "alerts", "episodes", "replays", "d1_steps")
    names = {r["correlation_id"] for part in parts for r in found.rows(part) if r.get("correlation_id")}
    return sorted({_correlation(row, found), *names})


def _span(found: Gathered, row: Any) -> tuple[datetime, datetime]:
    """From the first to the last moment of the rows; the request's own without any."""
    names = ("accepted_at", "received_at", "opened_at", "entered_at", "raised_at", "planned_at", "done_at", "closed_at", "ended_at")
    parts = ("commands", "messages", "tickets", "episodes", "alerts", "replays", "d1_steps")
    moments = [r[n] for p in parts for r in found.rows(p) for n in names if isinstance(r.get(n), datetime)]
    return (min(moments), max(moments)) if moments else (row.requested_at, row.requested_at)


__all__ = ["FLOW_OF_KIND", "Evidence", "SigningKeys", "Told", "sealed_pack"]
