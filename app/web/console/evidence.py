"""Evidence: packs with their state, contents and hash; asking for one; what an uploaded one says when it is checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection

from app.domain.evidence import EvidenceResult, PackFault
from app.domain.evidence_kinds import EvidenceKind
from app.store import evidence
from app.store.evidence_feed import coverage
from app.store.views import evidence as views
from app.store.views.scope import clinics
from app.web.console.pages import SUPERADMIN
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

PAGE_SIZE: Final = 15
FLOWS_MAX: Final = 2_000
"""Flows of the last hour that the page looks at to say how many have no pack."""

KIND_NAMES: Final[Mapping[str, str]] = {
    EvidenceKind.FLOW: mark("Flow (correlation id)"),
    EvidenceKind.CONTACT: mark("Contact and time"),
    EvidenceKind.ALERT: mark("Alert"),
    EvidenceKind.SAFE_MODE: mark("Safe mode episode"),
    EvidenceKind.REPLAY: mark("Replay"),
    EvidenceKind.TAKEOVER: mark("Conversation taken over"),
    EvidenceKind.DRILL: mark("Failure drill"),
    EvidenceKind.DEFERRED: mark("Deferred risk"),
}
ASKABLE: Final = tuple(kind for kind in EvidenceKind if kind not in (EvidenceKind.DRILL, EvidenceKind.DEFERRED))

_STATES: Final[Mapping[str | None, tuple[str, str, str]]] = {
    EvidenceResult.EVIDENCE_PACK_GENERATED: (mark("Complete"), "check", "plain"),
    EvidenceResult.EVIDENCE_PACK_PARTIAL: (mark("Partial"), "diamond", "warn"),
    EvidenceResult.EVIDENCE_PACK_FAILED_ALERTED: (mark("Failed"), "square", "high"),
    None: (mark("Being built"), "ring", "plain"),
}
_PARTS: Final[Mapping[str, str]] = {
    "flow_id": mark("flow"),
    "correlation_id": mark("correlation id"),
    "logs": mark("log lines"),
    "metrics": mark("numbers"),
    "alerts": mark("alerts"),
    "terminal_state": mark("how it ended"),
    "timeline": mark("timeline"),
    "ledger": mark("ledger"),
    "attempts": mark("attempts"),
}
_FAULTS: Final[Mapping[str, str]] = {
    "changed": mark("was changed"),
    "content_changed": mark("does not fit its hash in the ledger"),
    "not_chained": mark("breaks the ledger's chain"),
    "missing": mark("is missing"),
    "unlisted": mark("was put in afterwards"),
    "manifest_changed": mark("was changed"),
    "manifest_unreadable": mark("cannot be read"),
    "header_changed": mark("has a changed header"),
    "directory_changed": mark("has a changed entry in the directory"),
    "rewritten": mark("was written by another program"),
    "not_a_pack": mark("is no evidence pack"),
    "too_large": mark("is larger than any pack"),
    "other_root": mark("belongs to another manifest"),
    "other_key": mark("was made with another installation's key"),
    "not_signed": mark("is no valid signature"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackLine:
    """One pack of the list."""

    pack_id: str
    kind: str
    subject: str
    clinic: str
    state: str
    shape: str
    tone: str
    requested_at: datetime
    next_at: datetime | None
    missing: str
    facts: tuple[tuple[str, str], ...]
    zip_url: str | None
    json_url: str | None
    may_have_full: bool
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRows:
    """Context of the fragment `evidence_rows`."""

    lines: tuple[PackLine, ...]
    csrf: str
    filtered: str
    """What the list is about when the address names one thing; '' for everything."""
    everything: bool
    """Whether packs of ordinary flows that nobody asked for are in the list."""
    all_url: str
    flows_url: str
    next_url: str | None
    untold: str
    """How many flows of the last hour have no pack; '' when each has one, or the list is about one thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceForm:
    """Context of the fragment `evidence_form`: filled in by the address that led here."""

    kinds: tuple[tuple[str, str], ...]
    kind: str
    subject: str
    from_at: str
    until_at: str
    clinics: tuple[tuple[str, str], ...]
    """(slug, name) to choose from; one when the choice is made."""
    csrf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPack:
    """What checking an uploaded pack found."""

    file: str
    valid: bool
    ours: bool
    faults: tuple[str, ...]
    about: str
    public_key: str


def load_evidence_form(_conn: Connection, visit: Visit) -> EvidenceForm:
    """The form, with what the address names."""
    kind = visit.one("kind", 20)
    chosen = (visit.chosen,) if visit.chosen is not None else visit.clinics
    return EvidenceForm(
        kinds=tuple((str(k), visit.words.text(KIND_NAMES[k])) for k in ASKABLE),
        kind=kind if kind in ASKABLE else str(EvidenceKind.FLOW),
        subject=visit.one("subject", 300),
        from_at=visit.one("from", 16),
        until_at=visit.one("until", 16),
        clinics=tuple((c.slug, c.name) for c in chosen[:200]),
        csrf=visit.csrf_token,
    )


def load_evidence_rows(conn: Connection, visit: Visit) -> EvidenceRows:
    """The newest packs, or those about one thing; a superadmin who looks at every clinic also sees the installation's."""
    text = visit.one("page", 6)
    number = int(text) if text.isascii() and text.isdigit() else 0
    kind, subject = visit.one("kind", 20), visit.one("subject", 300)
    everything = bool(subject) or visit.one("all") == "yes"
    rows = evidence.packs(
        conn,
        visit.scope,
        kind=kind if kind in KIND_NAMES else None,
        subject=subject or None,
        ordinary=everything,
        offset=number * PAGE_SIZE,
        limit=PAGE_SIZE + 1,
    )
    shown = rows[:PAGE_SIZE]
    named = evidence.pack(conn, visit.one("pack", 40)) if visit.one("pack", 40) else None
    visible = named is not None and (visit.scope is None or named.scope in visit.scope)
    if named is not None and visible and named.pack_id not in {row.pack_id for row in shown}:
        shown = [named, *shown]
    known = clinics(conn, [row.tenant_id for row in shown if row.tenant_id is not None])
    return EvidenceRows(
        lines=tuple(_line(row, visit, known) for row in shown),
        csrf=visit.csrf_token,
        filtered=subject,
        everything=everything,
        all_url=visit.urls.to("/evidence"),
        flows_url=visit.urls.to("/evidence", all="yes"),
        next_url=visit.urls.to("/evidence", kind=kind, subject=subject, all=visit.one("all", 3), page=number + 1)
        if len(rows) > PAGE_SIZE
        else None,
        untold="" if subject else _untold(conn, visit),
    )


def _untold(conn: Connection, visit: Visit) -> str:
    found = coverage(conn, visit.scope, visit.words.now, FLOWS_MAX)
    if not found.without:
        return ""
    if found.ended >= found.limit:
        return visit.words.text(
            "Of the last hour's flows at least %(n)s have no pack; it is made when somebody asks.",
            n=visit.words.number(found.without),
        )
    return visit.words.count(
        "Of %(all)s flows that ended within the last hour %(n)s has no pack; it is made when somebody asks.",
        "Of %(all)s flows that ended within the last hour %(n)s have no pack; they are made when somebody asks.",
        found.without,
        all=visit.words.number(found.ended),
    )


def _line(row: Any, visit: Visit, known: Mapping[str, Any]) -> PackLine:
    words = visit.words
    state, shape, tone = _STATES[row.result]
    said = views.document(row, words.now)
    clinic = known[row.tenant_id].name if row.tenant_id in known else words.text("all clinics")
    facts = [
        (words.text("Flow"), row.flow_id),
        (words.text("Correlation id"), row.correlation_id),
        (words.text("Ended as"), row.terminal_state),
        (words.text("Time"), _span(words, row)),
        (words.text("Why"), row.reason if not row.automatic else words.text("it ended, so this pack was made")),
        (words.text("Asked by"), row.requested_by),
        (words.text("Made in"), words.seconds(said["generation_s"]) if said["generation_s"] is not None else None),
        (words.text("SHA-256 of the manifest"), row.root),
        (words.text("Signed with the key"), row.key_id),
        (words.text("Entry in the audit trail"), row.audit_number),
        (words.text("Size"), f"{max(1, round(row.size_bytes / 1024))} KB" if row.size_bytes else None),
    ]
    return PackLine(
        pack_id=row.pack_id,
        kind=words.text(KIND_NAMES[row.kind]),
        subject=row.subject,
        clinic=clinic,
        state=words.text(state),
        shape=shape,
        tone=tone,
        requested_at=row.requested_at,
        next_at=row.due_at if row.result is not None else None,
        missing=", ".join(words.text(_PARTS[name]) for name in said["missing"]),
        facts=tuple((name, str(value)) for name, value in facts if value not in (None, "")),
        zip_url=f"/evidence/download/{row.pack_id}.zip" if row.root else None,
        json_url=f"/evidence/download/{row.pack_id}.json" if row.root else None,
        may_have_full=visit.role == SUPERADMIN and row.root is not None,
        chosen=row.pack_id == visit.one("pack", 40),
    )


def _span(words: Words, row: Any) -> str | None:
    if row.from_at is None and row.until_at is None:
        return None
    return " - ".join(words.exact(at) if at is not None else "…" for at in (row.from_at, row.until_at))


def fault_text(words: Words, fault: PackFault) -> str:
    """A fault for people: the file, its row, and what is wrong."""
    where = words.text("%(file)s, row %(row)d", file=fault.name, row=fault.row) if fault.row is not None else fault.name
    return f"{where}: {words.text(_FAULTS[fault.fault])}"


def local_moment(text: str, words: Words) -> datetime | None:
    """A time as the browser's field gives it, in the clinic's timezone; None for an empty one. Raises ValueError."""
    if not text:
        return None
    return datetime.fromisoformat(text).replace(tzinfo=words.zone).astimezone(UTC)
