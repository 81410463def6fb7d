"""Evidence packs as they are shown, and to which clinic an alert or an episode belongs."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from app.domain.evidence_kinds import EvidenceKind
from app.store import evidence
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import Alert, SafeCause, SafeEpisode, table

_EPISODE, _CAUSE = table(SafeEpisode), table(SafeCause)
_SCOPE_OF = {
    EvidenceKind.ALERT: (table(Alert).c.alert_id, table(Alert).c.scope),
    EvidenceKind.SAFE_MODE: (table(SafeEpisode).c.episode_id, table(SafeEpisode).c.scope),
}


def scope_of_subject(conn: Connection, kind: str, subject: str) -> tuple[bool, str | None]:
    """Whether an alert or episode exists, and its clinic (None = the whole installation); other kinds belong to the caller's."""
    key, scope = _SCOPE_OF[EvidenceKind(kind)]
    found: str | None = conn.execute(select(scope).where(key == subject)).scalar()
    return found is not None, None if found in (None, GLOBAL_SCOPE) else found


def held_for_every_clinic(conn: Connection, kind: str, subject: str) -> bool:
    """Whether something of the installation stopped the clinics too: its safe mode, or an alert that led there.

    Of that a clinic may have its own slice; the installation's other alerts are none of its business.
    """
    stopped = select(_EPISODE.c.episode_id).where(_EPISODE.c.scope == GLOBAL_SCOPE)
    if kind == EvidenceKind.SAFE_MODE:
        query = stopped.where(_EPISODE.c.episode_id == subject)
    else:
        query = stopped.join_from(_EPISODE, _CAUSE, _CAUSE.c.episode_id == _EPISODE.c.episode_id).where(
            _CAUSE.c.cause_id == subject
        )
    return conn.execute(query.limit(1)).first() is not None


def document(row: Row[Any], now: datetime) -> dict[str, Any]:
    """A pack's row for the API and the console."""
    took = (row.finished_at - row.requested_at).total_seconds() if row.finished_at is not None else None
    return {
        "pack_id": row.pack_id,
        "tenant_id": row.tenant_id,
        "kind": row.kind,
        "subject": row.subject,
        "from": row.from_at,
        "until": row.until_at,
        "status": row.result or "pending",
        "result": row.result,
        "share": row.share,
        "missing": evidence.missing_of(row),
        "flow_id": row.flow_id,
        "correlation_id": row.correlation_id,
        "terminal_state": row.terminal_state,
        "reason": row.reason,
        "requested_by": row.requested_by,
        "automatic": row.automatic,
        "requested_at": row.requested_at,
        "finished_at": row.finished_at,
        "generation_s": took,
        "attempts": row.tries,
        "next_attempt_at": row.due_at,
        "root": row.root,
        "key_id": row.key_id,
        "audit_chain": row.audit_chain,
        "audit_number": row.audit_number,
        "size_bytes": row.size_bytes,
        "age_s": (now - row.requested_at).total_seconds(),
    }
