"""Evidence packs (S-PC-04-003): which parts they need, when they are complete, and digests anybody can check."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from app.domain.envelopes import canonical_json, sha256_hex

SCHEMA_VERSION: Final = 1
PARTIAL_FROM: Final = 0.7
"""Share of the required parts from which a pack is partial and not failed."""


class EvidenceResult(StrEnum):
    """Terminal states of a pack."""

    EVIDENCE_PACK_GENERATED = "evidence_pack_generated"
    EVIDENCE_PACK_PARTIAL = "evidence_pack_partial"
    EVIDENCE_PACK_FAILED_ALERTED = "evidence_pack_failed_alerted"


REQUIRED_PARTS: Final = (
    "flow_id",
    "correlation_id",
    "logs",
    "metrics",
    "alerts",
    "terminal_state",
    "timeline",
    "ledger",
    "attempts",
)

MAY_BE_EMPTY: Final = frozenset({"alerts", "ledger", "attempts"})
"""Parts for which "there was none" is an answer; None still means that they could not be gathered."""


CUT_OF: Final[Mapping[str, str]] = {
    "ledger": "ledger",
    "alerts": "alerts",
    "commands": "attempts",
    "outbox": "attempts",
    "alert_steps": "attempts",
    "replay_items": "attempts",
}
"""Kinds of rows of which a pack may hold only some -> the required part that is then not whole; of any other the timeline."""
BESIDE: Final = "chains"
"""Proof of the ledger beyond what the contract asks for: a pack that holds the chains of some lanes only is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """How much of a pack is there. `share` (0 to 1) is of parts; `missing` also names those that are there and not whole."""

    result: EvidenceResult
    share: float
    missing: tuple[str, ...]

    @property
    def needs_retry(self) -> bool:
        """Whether an alert is raised and the pack is tried again."""
        return self.result is not EvidenceResult.EVIDENCE_PACK_GENERATED


def completeness(parts: Mapping[str, Any]) -> Completeness:
    """Judge gathered parts: None, absent, or empty where that is no answer, is missing; one that was cut is not whole."""
    gone = {name for name in REQUIRED_PARTS if _is_missing(name, parts.get(name))}
    cut = {CUT_OF.get(kind, "timeline") for kind in parts.get("cut") or () if kind != BESIDE}
    missing = tuple(name for name in REQUIRED_PARTS if name in gone | cut)
    share = (len(REQUIRED_PARTS) - len(gone)) / len(REQUIRED_PARTS)
    if not missing:
        result = EvidenceResult.EVIDENCE_PACK_GENERATED
    elif share >= PARTIAL_FROM:
        result = EvidenceResult.EVIDENCE_PACK_PARTIAL
    else:
        result = EvidenceResult.EVIDENCE_PACK_FAILED_ALERTED
    return Completeness(result=result, share=share, missing=missing)


def _is_missing(name: str, value: Any) -> bool:
    if value is None:
        return True
    return name not in MAY_BE_EMPTY and value in ("", [], {}, ())


RETRY_S: Final = (60, 300, 900)


def retry_s(failures: int) -> int | None:
    """Seconds until a pack that was not complete is tried again, after `failures` (1, 2, ...) tries; None: no more."""
    return RETRY_S[failures - 1] if 1 <= failures <= len(RETRY_S) else None


# --- digests ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """One file of a pack."""

    sha256: str
    size_bytes: int


def digest(content: bytes) -> FileDigest:
    """Digest of a file's bytes."""
    return FileDigest(sha256=sha256(content).hexdigest(), size_bytes=len(content))


def row_digests(content: bytes) -> list[str]:
    """Short digests of a file's lines, so that a changed file can say which row changed."""
    return [sha256(line).hexdigest()[:16] for line in content.split(b"\n")[:-1]]


def manifest(files: Mapping[str, bytes], *, about: Mapping[str, Any], audit_head: str) -> dict[str, Any]:
    """The manifest of a pack: every file with its digest, what it is about, and the head of the audit chain it hangs on.

    `root` covers all of it, so one signature over `root` covers the pack. `about` and the result are JSON documents.
    """
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "about": dict(about),
        "audit_head": audit_head,
        "files": {name: _listing(name, files[name]) for name in sorted(files)},
    }
    return document | {"root": root_of(document)}


def _listing(name: str, content: bytes) -> dict[str, Any]:
    """What the manifest says about one file; of lines, about each."""
    found = digest(content)
    rows = {"rows": row_digests(content)} if name.endswith(".jsonl") else {}
    return {"sha256": found.sha256, "size_bytes": found.size_bytes} | rows


def root_of(document: Mapping[str, Any]) -> str:
    """Hex SHA-256 over a manifest without its own `root`."""
    return sha256_hex(canonical_json({k: v for k, v in document.items() if k != "root"}))


@dataclass(frozen=True, slots=True)
class PackFault:
    """What is wrong with one file: `changed`, `missing` or `unlisted`; for the manifest itself `manifest_changed`."""

    name: str
    fault: str
    row: int | None = None
    """Line of the file that changed, from 1; None where the file has no rows or the manifest none of them."""


def check_pack(document: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[PackFault, ...]:
    """Everything wrong with a pack against its manifest, by name; empty when it is whole. Total over any JSON."""
    listed = document.get("files")
    faults = [] if document.get("root") == root_of(document) else [PackFault("manifest.json", "manifest_changed")]
    if not isinstance(listed, dict):
        return (*faults, PackFault("manifest.json", "manifest_unreadable"))
    for name in sorted(listed.keys() | files.keys()):
        if name not in files:
            faults.append(PackFault(name, "missing"))
        elif name not in listed:
            faults.append(PackFault(name, "unlisted"))
        elif listed[name] != _listing(name, files[name]):
            faults.append(PackFault(name, "changed", _changed_row(listed[name], files[name])))
    return tuple(faults)


def _changed_row(listing: Any, content: bytes) -> int | None:
    """The first line that is not what the manifest lists."""
    rows = listing.get("rows") if isinstance(listing, dict) else None
    if not isinstance(rows, list):
        return None
    found = row_digests(content)
    for number, (listed, seen) in enumerate(zip(rows, found, strict=False), 1):
        if listed != seen:
            return number
    return min(len(rows), len(found)) + 1
