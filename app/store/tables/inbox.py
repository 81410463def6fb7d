"""The inbox: what was accepted, from acceptance to its end."""

from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, partial, when

HELD: Final = "status IN ('waiting_previous_commit','pending_safe_mode','pending_contingency')"
"""Commands that stand still; a query says it in the same words, so that it reads the index and no history."""


class InboxMessage(SQLModel, table=True):
    """An inbound message. `external_id` is unique per tenant and channel: the provider may send it again."""

    __tablename__ = "message"
    __table_args__ = (
        UniqueConstraint("tenant_id", "channel", "external_id"),
        UniqueConstraint("tenant_id", "contact_id", "sequence"),
        partial("ix_message_pending", "tenant_id", "contact_id", "sequence", where="done_at IS NULL"),
        Index("ix_message_correlation", "tenant_id", "correlation_id"),
        Index("ix_message_received", "tenant_id", "received_at"),
        partial("ix_message_done", "done_at", where="done_at IS NOT NULL"),
        partial("ix_message_payload", "payload_level", "done_at", where="done_at IS NOT NULL AND payload_level < 2"),
    )
    tenant_id: str = key(40)
    event_id: str = key()
    channel: str = Field(max_length=20)
    external_id: str = Field(max_length=300)
    contact_id: str = Field(max_length=200)
    conversation_id: str | None = Field(default=None, max_length=200)
    sequence: int = Field(sa_type=BigInteger)
    conversation_version: int
    """The conversation's version once this message was accepted."""
    source: str = Field(max_length=10)
    event_type: str = Field(max_length=200)
    status: str = Field(max_length=40)
    reason: str | None = Field(default=None, max_length=60)
    intent: str | None = Field(default=None, max_length=30)
    priority: int
    made_command_id: str | None = Field(default=None, max_length=200)
    occurred_at: datetime = when()
    received_at: datetime = when()
    done_at: datetime | None = when(default=None)
    correlation_id: str = Field(max_length=220)
    correlation_generated: bool = False
    causation_id: str | None = Field(default=None, max_length=200)
    payload_version: int = 1
    payload_json: str = doc(default="{}")
    payload_level: int = 0
    """How much of the payload is left: 0 all, 1 without words, 2 nothing (domain.retention)."""


class InboxCommand(SQLModel, table=True):
    """An accepted command, from acceptance to its terminal result.

    `commit_order` is None only for a command that never got a place in the lane (order violation, number taken).
    """

    __tablename__ = "command"
    __table_args__ = (
        UniqueConstraint("tenant_id", "contact_id", "commit_order"),
        partial("ix_command_pending", "tenant_id", "contact_id", "commit_order", where="done_at IS NULL"),
        Index("ix_command_key", "tenant_id", "idempotency_key"),
        Index("ix_command_correlation", "tenant_id", "correlation_id"),
        partial("ix_command_held", "tenant_id", "waiting_since", where=HELD),
        partial("ix_command_unplaced", "done_at", where="commit_order IS NULL"),
        partial("ix_command_generated", "done_at", where="correlation_generated"),
        partial("ix_command_payload", "payload_level", "done_at", where="done_at IS NOT NULL AND payload_level < 2"),
    )
    tenant_id: str = key(40)
    command_id: str = key()
    contact_id: str = Field(max_length=200)
    conversation_id: str | None = Field(default=None, max_length=200)
    commit_order: int | None = Field(default=None, sa_type=BigInteger)
    command_type: str = Field(max_length=20)
    priority: int
    status: str = Field(max_length=40)
    result: str | None = Field(default=None, max_length=40)
    reason: str | None = Field(default=None, max_length=60)
    idempotency_key: str = Field(max_length=200)
    fingerprint: str = Field(max_length=64)
    requested_by: str = Field(max_length=10)
    requested_by_id: str | None = Field(default=None, max_length=200)
    source: str = Field(max_length=10)
    patient_id: str | None = Field(default=None, max_length=200)
    confirmed_by_contact: bool = False
    guardian_version: int | None = Field(default=None, sa_type=BigInteger)
    conversation_version: int | None = Field(default=None, sa_type=BigInteger)
    entity_version: int | None = Field(default=None, sa_type=BigInteger)
    as_of: datetime | None = when(default=None)
    occurred_at: datetime | None = when(default=None)
    accepted_at: datetime = when()
    waiting_since: datetime | None = when(default=None)
    done_at: datetime | None = when(default=None)
    attempts: int = 0
    was_parked: bool = False
    replayed: bool = False
    withdrawn: str | None = Field(default=None, max_length=60)
    """Reason why a person gets it at its turn instead of the gate (a replay batch was stopped)."""
    correlation_id: str = Field(max_length=220)
    correlation_generated: bool = False
    causation_id: str | None = Field(default=None, max_length=200)
    payload_json: str = doc(default="{}")
    payload_level: int = 0
    """How much of the payload is left: 0 all, 1 without words, 2 nothing (domain.retention)."""


class MalformedItem(SQLModel, table=True):
    """An unusable item, kept whole (`raw_json`); the same bytes again only raise `times`."""

    __tablename__ = "malformed_item"
    __table_args__ = (
        UniqueConstraint("tenant_id", "raw_hash"),
        Index("ix_malformed_item_correlation", "tenant_id", "correlation_id"),
        partial("ix_malformed_item_raw", "received_at", where="raw_json <> ''"),
    )
    tenant_id: str = key(40)
    item_id: str = key()
    given_id: str | None = Field(default=None, max_length=200, index=True)
    """The id that the sender gave it, if it gave one that can be read."""
    kind: str = Field(max_length=10)
    status: str = Field(default="invalid_payload_manual", max_length=40)
    """invalid_payload_manual | dead_letter."""
    contact_id: str | None = Field(default=None, max_length=200)
    correlation_id: str = Field(max_length=220)
    reason: str = Field(max_length=60)
    errors_json: str = doc(default="[]")
    raw_hash: str = Field(max_length=64)
    raw_json: str = doc()
    received_at: datetime = when()
    times: int = 1


class Proposal(SQLModel, table=True):
    """A sensitive command that waits for the family's explicit CONFIRMAR; at most one open per contact."""

    __tablename__ = "proposal"
    __table_args__ = (partial("uq_proposal_open", "tenant_id", "contact_id", where="closed_at IS NULL", unique=True),)
    tenant_id: str = key(40)
    command_id: str = key()
    contact_id: str = Field(max_length=200)
    opened_at: datetime = when()
    expires_at: datetime = when()
    closed_at: datetime | None = when(default=None)
    outcome: str | None = Field(default=None, max_length=20)
    """confirmed | superseded | expired."""
