"""Packing and checking an evidence pack: needs the file and a public key, no server and no database.

`pack_files` and `check` are two halves of one format: whatever `check` accepts is byte for byte what `pack_files` made.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.domain.envelopes import canonical_json
from app.domain.evidence import PackFault, check_pack, manifest
from app.domain.evidence_pack import LEDGER_FIELDS, LISTS, is_hidden
from app.domain.evidence_zip import CONTAINER, Opened, read_zip, write_zip
from app.domain.ledger_chain import entry_hash

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
HEAD: Final = "pack.json"
PAGE: Final = "index.html"
SCHEMA: Final = "schema.json"

IsSigned = Callable[[str, str, str], bool]
"""Whether (public key, signature, root) fit together."""


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return "".join(canonical_json(row) + "\n" for row in rows).encode()


def one(document: Mapping[str, Any]) -> bytes:
    """One document as a file."""
    return (canonical_json(document) + "\n").encode()


def content_files(document: Mapping[str, Any], *, page: str, schema: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a pack that the manifest lists: the page, the head, its schema, and each list as lines."""
    head = {name: value for name, value in document.items() if name not in LISTS}
    head["files"] = {name: f"{name}.jsonl" for name in LISTS if document.get(name) is not None}
    files = {PAGE: page.encode(), HEAD: one(head), SCHEMA: one(schema)}
    return files | {f"{name}.jsonl": lines(document[name]) for name in LISTS if document.get(name) is not None}


def seal(
    files: Mapping[str, bytes],
    *,
    about: Mapping[str, Any],
    audit: Mapping[str, Any],
    key_id: str,
    public_key: str,
    algorithm: str,
    sign: Callable[[str], str],
) -> tuple[bytes, str]:
    """The signed zip of some files and the root of its manifest; `audit` is the head of the chain that it hangs on."""
    listed = manifest(files, about=dict(about) | {"audit": dict(audit)}, audit_head=str(audit["hash"]))
    root = str(listed["root"])
    signature = {"algorithm": algorithm, "key_id": key_id, "public_key": public_key, "root": root, "signature": sign(root)}
    return write_zip({**files, MANIFEST: one(listed), SIGNATURE: one(signature)}), root


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What checking a pack found; whole and signed when there are no faults."""

    faults: tuple[PackFault, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    root: str | None = None
    key_id: str | None = None
    public_key: str | None = None
    entries: int = 0
    """Ledger entries whose hash was computed again."""

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def check(
    data: bytes, is_signed: IsSigned, *, public_keys: Iterable[str] | None = None, key_id_of: Callable[[str], str]
) -> Checked:
    """Check a pack. Without `public_keys` the key inside the pack is used: that shows that nothing changed, not who made it."""
    opened = read_zip(data)
    try:
        return _checked(opened, is_signed, public_keys, key_id_of)
    except RecursionError:  # lists in lists without end: no pack of ours
        return Checked(faults=(PackFault(MANIFEST, "manifest_unreadable"),))


def _checked(opened: Opened, is_signed: IsSigned, public_keys: Iterable[str] | None, key_id_of: Callable[[str], str]) -> Checked:
    listed = {name: content for name, content in opened.files.items() if name not in (MANIFEST, SIGNATURE)}
    faults = list(opened.faults)
    document = _document(opened.files, MANIFEST, faults)
    signature = _document(opened.files, SIGNATURE, faults)
    if document is not None:
        faults += check_pack(document, listed)
    faults += _signature_faults(document, signature, is_signed, public_keys, key_id_of)
    entries = _ledger_faults(listed, faults)
    said = signature or {}
    about = (document or {}).get("about")
    return Checked(
        faults=_each_once(faults),
        about=about if isinstance(about, dict) else {},
        root=_text((document or {}).get("root")),
        key_id=_text(said.get("key_id")),
        public_key=_text(said.get("public_key")),
        entries=entries,
    )


def _each_once(faults: Iterable[PackFault]) -> tuple[PackFault, ...]:
    """Each fault once; of a file whose content changed, that its header (a checksum) differs says nothing more."""
    found = dict.fromkeys(faults)
    changed = {fault.name for fault in found if fault.fault == "changed"}
    return tuple(f for f in found if f.name not in changed or f.fault not in ("header_changed", "directory_changed"))


def document_of(data: bytes) -> dict[str, Any]:
    """The whole pack of a zip as one document (`PACK_SCHEMA`), with its manifest and signature."""
    files = read_zip(data).files
    head = _json(files.get(HEAD, b"null")) or {}
    listed = {name: _rows(files, file) for name, file in head.pop("files", {}).items()}
    head |= dict.fromkeys(LISTS) | listed
    return head | {"manifest": _json(files.get(MANIFEST, b"null")), "signature": _json(files.get(SIGNATURE, b"null"))}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _document(files: Mapping[str, bytes], name: str, faults: list[PackFault]) -> dict[str, Any] | None:
    """One of the two files that nothing else lists: it must be there, readable, and written as we write."""
    if name not in files:
        faults.append(PackFault(name, "missing"))
        return None
    found = _json(files[name])
    if not isinstance(found, dict) or one(found) != files[name]:
        faults.append(PackFault(name, "changed"))
    return found if isinstance(found, dict) else None


def _json(content: bytes) -> Any:
    try:
        found = json.loads(content)
        if b"\\u" in content:
            json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        return None
    return found


def _signature_faults(
    document: Mapping[str, Any] | None,
    signature: Mapping[str, Any] | None,
    is_signed: IsSigned,
    public_keys: Iterable[str] | None,
    key_id_of: Callable[[str], str],
) -> list[PackFault]:
    if document is None or signature is None:
        return []
    names = {"algorithm", "key_id", "public_key", "root", "signature"}
    said = {name: value for name, value in signature.items() if name in names and isinstance(value, str)}
    if set(signature) != names or set(said) != names:
        return [PackFault(SIGNATURE, "changed")]
    if said["root"] != document.get("root"):
        return [PackFault(SIGNATURE, "other_root")]
    if said["algorithm"] != "Ed25519" or not is_signed(said["public_key"], said["signature"], said["root"]):
        return [PackFault(SIGNATURE, "not_signed")]
    if key_id_of(said["public_key"]) != said["key_id"]:
        return [PackFault(SIGNATURE, "changed")]
    if public_keys is not None and said["public_key"] not in set(public_keys):
        return [PackFault(SIGNATURE, "other_key")]
    return []


def _ledger_faults(files: Mapping[str, bytes], faults: list[PackFault]) -> int:
    """Compute every entry's hash again, and walk each lane's links to its head; returns how many entries were computed."""
    seen = 0
    hashes: dict[tuple[str, str, str], tuple[Any, Any]] = {}
    for number, row in enumerate(_rows(files, "ledger.jsonl"), 1):
        fields = {name: row.get(name) for name in LEDGER_FIELDS}
        hashes[_place(row, row)] = hashes[_place({**row, "tenant_id": None}, row)] = (row.get("prev_hash"), row.get("hash"))
        if any(is_hidden(value) for value in fields.values()):
            continue  # an id that looks like a number of a phone is hidden: its entry is proven by its links alone
        seen += 1
        try:
            again = entry_hash(str(row.get("prev_hash")), fields)
        except TypeError:
            again = None
        if again != row.get("hash"):
            faults.append(PackFault("ledger.jsonl", "content_changed", number))
    for number, chain in enumerate(_rows(files, "chains.jsonl"), 1):
        if not _linked(chain, hashes):
            faults.append(PackFault("chains.jsonl", "not_chained", number))
    return seen


def _rows(files: Mapping[str, bytes], name: str) -> list[dict[str, Any]]:
    found = [_json(line) for line in files.get(name, b"").split(b"\n")[:-1]]
    return [row for row in found if isinstance(row, dict)]


def _place(lane: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """Lane and number of an entry, of any type that a file may hold; chains of older packs name no clinic: they had one only."""
    return str(lane.get("tenant_id")), str(lane.get("contact_id")), str(entry.get("commit_order"))


def _follows(link: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    number, last = link.get("commit_order"), before.get("commit_order")
    return isinstance(number, int) and isinstance(last, int) and number == last + 1 and link.get("prev_hash") == before.get("hash")


def _linked(chain: Mapping[str, Any], hashes: Mapping[tuple[str, str, str], tuple[Any, Any]]) -> bool:
    """Whether a lane's links are dense, each over the one before, those of the pack's entries, and end at the lane's head."""
    links, head = chain.get("links"), chain.get("head")
    if not isinstance(links, list) or not isinstance(head, dict) or not all(isinstance(link, dict) for link in links):
        return False
    for before, link in zip([None, *links], links, strict=False):
        if before is not None and not _follows(link, before):
            return False
        entry = hashes.get(_place(chain, link))
        if entry is not None and entry != (link.get("prev_hash"), link.get("hash")):
            return False
    ends = bool(links) and links[-1].get("commit_order") == head.get("last_committed")
    return not ends or links[-1].get("hash") == head.get("chain_hash")


__all__ = [
    "CONTAINER",
    "HEAD",
    "MANIFEST",
    "PAGE",
    "SCHEMA",
    "SIGNATURE",
    "Checked",
    "check",
    "content_files",
    "lines",
    "one",
    "seal",
]
