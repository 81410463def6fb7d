"""Checks over evidence packs: what is stored is what the audit trail says was made, byte for byte."""

import zlib
from collections.abc import Iterator

from sqlalchemy import Connection, and_, select

from app.domain.evidence_check import check
from app.domain.evidence_zip import SIZE_MAX
from app.signing import is_signed, key_id_of
from app.store.tables import AuditEntry, EvidenceFile, EvidencePack, table
from app.store.verify.violation import Violation, stream

_PACK, _FILE, _ENTRY = table(EvidencePack), table(EvidenceFile), table(AuditEntry)


def packs_hang_on_the_trail(conn: Connection) -> Iterator[Violation]:
    """Every pack has its entry with its digest, and its file is whole, signed, and the one of that digest."""
    p, e = _PACK.c, _ENTRY.c
    entry = and_(e.chain == p.audit_chain, e.number == p.audit_number, e.action == "evidence.build")
    query = (
        select(p.pack_id, p.tenant_id, p.root, e.after_json, _FILE.c.content)
        .select_from(_PACK.outerjoin(_ENTRY, entry).outerjoin(_FILE, _FILE.c.pack_id == p.pack_id))
        .where(p.root.is_not(None))
    )
    for row in stream(conn, query):
        name = f"evidence {row.pack_id}"
        if row.after_json is None or f'"{row.root}"' not in row.after_json:
            yield Violation("evidence_without_entry", row.tenant_id, name, "The audit trail does not know this pack's digest.")
        fault = _fault(row.content, row.root)
        if fault is not None:
            yield Violation("evidence_changed", row.tenant_id, name, f"The stored pack is not the one that was made: {fault}.")


def _fault(content: bytes | None, root: str) -> str | None:
    if content is None:
        return "its file is gone"
    try:
        data = zlib.decompressobj().decompress(content, SIZE_MAX)
    except zlib.error:
        return "its file cannot be read"
    found = check(data, is_signed, key_id_of=key_id_of)
    if found.faults:
        return f"{found.faults[0].name} {found.faults[0].fault}"
    return None if found.root == root else "its manifest is another one"
