"""Evidence packs (S-PC-04-003): what was asked for and what came of it, the packs themselves, and the keys that signed them."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, LargeBinary
from sqlmodel import Field, SQLModel

from app.store.tables.base import BigId, doc, key, partial, when


class EvidencePack(SQLModel, table=True):
    """One pack, from its request to its last try. `due_at` None = settled.

    At most one that is not settled per (scope, kind, subject, span).

    Generation time is `finished_at - requested_at`; `result` and `share` are those of the newest try, None before the first.
    """

    __tablename__ = "evidence_pack"
    __table_args__ = (
        CheckConstraint(
            "kind IN ('flow','contact','alert','safe_mode','replay','takeover','drill','deferred')",
            name="kind",
        ),
        partial("uq_evidence_pack_pending", "scope", "kind", "subject", "span", where="due_at IS NOT NULL", unique=True),
        partial("ix_evidence_pack_due", "due_at", where="due_at IS NOT NULL"),
        Index("ix_evidence_pack_subject", "scope", "kind", "subject", "requested_at"),
        Index("ix_evidence_pack_scope", "scope", "requested_at"),
        Index("ix_evidence_pack_finished", "finished_at"),
        Index("ix_evidence_pack_requested", "requested_at"),
    )
    pack_id: str = key(40)
    scope: str = Field(max_length=40)
    """The tenant's id, or `global`."""
    tenant_id: str | None = Field(default=None, max_length=40)
    kind: str = Field(max_length=12)
    subject: str = Field(max_length=300)
    """Correlation id, contact, alert, episode, replay, ticket, drill or deferred item."""
    span: str = Field(default="", max_length=80)
    """`from/until` of a pack about a contact and time; '' for everything."""
    from_at: datetime | None = when(default=None)
    until_at: datetime | None = when(default=None)
    reason: str = Field(max_length=500)
    requested_by: str = Field(max_length=200)
    automatic: bool = False
    """Made because a flow ended or an incident closed, not because somebody asked."""
    requested_at: datetime = when()
    due_at: datetime | None = when(default=None)
    lease_token: str | None = Field(default=None, max_length=64)
    lease_until: datetime | None = when(default=None)
    tries: int = 0
    result: str | None = Field(default=None, max_length=40)
    share: float | None = None
    missing_json: str = doc(default="[]")
    finished_at: datetime | None = when(default=None)
    running: bool = False
    """What it is about had not ended at the newest try: that it is partial says nothing about the making of packs."""
    flow_id: str | None = Field(default=None, max_length=4)
    correlation_id: str | None = Field(default=None, max_length=220)
    terminal_state: str | None = Field(default=None, max_length=60)
    document_json: str | None = doc(default=None)
    """What the caller handed over to be part of the pack (a drill's report, a deferred item's evaluation)."""
    facts_hash: str | None = Field(default=None, max_length=64)
    """SHA-256 of what the pack says; equal facts give an equal hash, whenever and wherever it is built."""
    root: str | None = Field(default=None, max_length=64)
    key_id: str | None = Field(default=None, max_length=32)
    audit_chain: str | None = Field(default=None, max_length=40)
    audit_number: int | None = None
    """The entry of the audit chain that holds `root`."""
    size_bytes: int | None = None


class EvidenceFile(SQLModel, table=True):
    """The zip of a pack, compressed as a whole (zlib); only redacted packs are kept."""

    __tablename__ = "evidence_file"
    pack_id: str = key(40)
    content: bytes = Field(sa_type=LargeBinary)


class LogLine(SQLModel, table=True):
    """A log line of a flow, as it was written (redacted): a bounded copy beside the log itself, so that packs can hold it."""

    __tablename__ = "log_line"
    __table_args__ = (Index("ix_log_line_correlation", "correlation_id", "position"), {"sqlite_autoincrement": True})
    position: int | None = Field(default=None, sa_type=BigId, primary_key=True)
    tenant_id: str | None = Field(default=None, max_length=40)
    correlation_id: str = Field(max_length=220)
    at: datetime = when()
    line_json: str = doc()


class SigningKey(SQLModel, table=True):
    """A public key that signs packs. The private half is derived from KORA_SECRET_KEY and `salt` and is stored nowhere."""

    __tablename__ = "signing_key"
    key_id: str = key(32)
    """First 32 hex digits of the SHA-256 of the public key."""
    public_key: str = Field(max_length=64)
    """32 bytes as hex."""
    salt: str = Field(max_length=64)
    created_at: datetime = when()
    retired_at: datetime | None = when(default=None)
