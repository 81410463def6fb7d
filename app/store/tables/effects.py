"""The ledger and what follows from it: outbox, delivery, manual tasks, tickets."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, partial, when


class Ledger(SQLModel, table=True):
    """Append-only: one entry per (contact, commit_order) with exactly one terminal result, hash-chained per lane.

    `effect_key` is the idempotency key when, and only when, an effect happened: unique, so an effect happens once.
    """

    __tablename__ = "ledger"
    __table_args__ = (
        UniqueConstraint("tenant_id", "command_id"),
        UniqueConstraint("tenant_id", "effect_key"),
        Index("ix_ledger_committed_at", "tenant_id", "committed_at"),
        Index("ix_ledger_correlation", "tenant_id", "correlation_id"),
        Index("ix_ledger_minute", "committed_at"),
    )
    tenant_id: str = key(40)
    contact_id: str = key()
    commit_order: int = Field(primary_key=True, sa_type=BigInteger)
    command_id: str | None = Field(default=None, max_length=200)
    """None for a tombstone: a place that never was filled."""
    command_type: str | None = Field(default=None, max_length=20)
    result: str = Field(max_length=40)
    reason: str = Field(max_length=60)
    effect_key: str | None = Field(default=None, max_length=200)
    entity_id: str | None = Field(default=None, max_length=200)
    entity_version: int | None = None
    conversation_version: int
    guardian_version: int
    takeover_active: bool
    mode_epoch: int
    safe_deadline: datetime | None = when(default=None)
    lock_backend: str = Field(max_length=30)
    """lock_acquired_primary | lock_acquired_fallback."""
    lock_mode: str = Field(max_length=10)
    """primary | fallback | database (no Redis configured)."""
    lock_ms: float = 0.0
    node_id: str = Field(max_length=60)
    attempt: str = Field(max_length=64)
    late: bool = False
    event_age_s: float | None = None
    ttl_limit_s: float | None = None
    correlation_id: str = Field(max_length=220)
    accepted_at: datetime = when()
    committed_at: datetime = when()
    prev_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class Outbox(SQLModel, table=True):
    """A message or call to the outside, written in the effect's transaction; (cause, step) is unique."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("tenant_id", "cause_id", "step"),
        CheckConstraint("status IN ('pending','sending','sent','failed','unknown','dead')", name="status"),
        partial("ix_outbox_due", "due_at", where="status IN ('pending','sending')"),
        partial("ix_outbox_provider", "tenant_id", "provider_message_id", where="provider_message_id IS NOT NULL"),
        partial(
            "ix_outbox_payload", "payload_level", "created_at", where="status NOT IN ('pending','sending') AND payload_level < 2"
        ),
    )
    outbox_id: str = key(40)
    tenant_id: str = Field(max_length=40)
    cause_id: str = Field(max_length=200)
    step: str = Field(max_length=40)
    contact_id: str | None = Field(default=None, max_length=200)
    kind: str = Field(max_length=30)
    target: str = Field(default="", max_length=64)
    """SHA-256 of the channel it names itself ('' = the tenant's own for its kind); targets take turns, none waits for another."""
    status: str = Field(default="pending", max_length=10)
    attempts: int = 0
    created_at: datetime = when()
    due_at: datetime = when()
    not_after: datetime | None = when(default=None)
    """From here on it makes no sense any more, and is not sent; None = it always does."""
    lease_token: str | None = Field(default=None, max_length=64)
    lease_until: datetime | None = when(default=None)
    sent_at: datetime | None = when(default=None)
    provider_message_id: str | None = Field(default=None, max_length=200)
    delivery: str | None = Field(default=None, max_length=12)
    """Highest provider status so far: sent < delivered < read < played; failed."""
    last_error: str | None = Field(default=None, max_length=500)
    correlation_id: str = Field(max_length=220)
    body_json: str = doc()
    payload_level: int = 0
    """How much of the body is left: 0 all, 1 without words, 2 nothing (domain.retention)."""


class DeliveryStatus(SQLModel, table=True):
    """Provider's status history of a message: append-only, out of order and repeated ones included once."""

    __tablename__ = "delivery_status"
    tenant_id: str = key(40)
    provider_message_id: str = key()
    status: str = key(20)
    at: datetime = when()
    received_at: datetime = when()
    detail: str | None = Field(default=None, max_length=300)


class ManualTask(SQLModel, table=True):
    """Work that a machine must not do. Closed only with a structured outcome."""

    __tablename__ = "manual_task"
    __table_args__ = (
        UniqueConstraint("tenant_id", "dedup_key"),
        CheckConstraint("status IN ('open','claimed','resolved')", name="status"),
        partial("ix_manual_task_open", "tenant_id", "due_at", where="status <> 'resolved'"),
    )
    task_id: str = key(40)
    tenant_id: str = Field(max_length=40)
    dedup_key: str = Field(max_length=300)
    cause: str = Field(max_length=40)
    reason: str = Field(max_length=60)
    priority: int
    status: str = Field(default="open", max_length=10)
    rev: int = 1
    contact_id: str | None = Field(default=None, max_length=200)
    command_id: str | None = Field(default=None, max_length=200)
    item_id: str | None = Field(default=None, max_length=300)
    """What it is about where no command is behind it: the unusable item, message, delivery or appointment."""
    correlation_id: str = Field(max_length=220)
    created_at: datetime = when()
    due_at: datetime = when()
    owner: str | None = Field(default=None, max_length=200)
    claimed_at: datetime | None = when(default=None)
    resolved_at: datetime | None = when(default=None)
    resolution: str | None = Field(default=None, max_length=40)
    note: str | None = Field(default=None, max_length=1000)
    apply_command_id: str | None = Field(default=None, max_length=200)
    """The last command that a person sent for it; while it is undecided there is no other, and its effect closes the task."""


class Ticket(SQLModel, table=True):
    """A takeover or a critical ticket: a conversation or an incident in a person's hands."""

    __tablename__ = "ticket"
    __table_args__ = (
        partial("uq_ticket_takeover_open", "tenant_id", "contact_id", where="kind = 'takeover' AND closed_at IS NULL", unique=True),
        Index("ix_ticket_correlation", "tenant_id", "correlation_id"),
        Index("ix_ticket_opened", "opened_at"),
        partial("ix_ticket_answered", "answered_at", where="answered_at IS NOT NULL"),
        partial("ix_ticket_closed", "closed_at", where="closed_at IS NOT NULL"),
    )
    ticket_id: str = key(40)
    tenant_id: str = Field(max_length=40)
    kind: str = Field(max_length=12)
    """takeover | critical."""
    state: str = Field(max_length=12)
    """open | in_progress | sla_warning | sla_breached | escalated | resolved."""
    rev: int = 1
    contact_id: str | None = Field(default=None, max_length=200)
    cause_id: str | None = Field(default=None, max_length=200)
    reason: str = Field(max_length=500)
    level: str = Field(default="secretary", max_length=12)
    owner: str | None = Field(default=None, max_length=200)
    opened_at: datetime = when()
    due_at: datetime | None = when(default=None)
    started_at: datetime | None = when(default=None)
    clock_from: datetime | None = when(default=None)
    """When the family began to wait: the opening, or the first message since the last answer; None = not looked at yet."""
    next_at: datetime | None = when(default=None)
    """When the SLA clock calls next; None while nobody waits."""
    answered_at: datetime | None = when(default=None)
    closed_at: datetime | None = when(default=None)
    close_reason: str | None = Field(default=None, max_length=500)
    correlation_id: str = Field(max_length=220)
    context_json: str = doc(default="{}")
