"""All tables (SQLModel), for SQLite and PostgreSQL alike.

Rows are read and written with SQLAlchemy Core statements on `Model.__table__`; no ORM objects travel on the hot path.
Documents are JSON text (`*_json`), written once and never queried inside. Ids are the caller's strings, unique per
tenant. Lanes, not commands, carry what dispatch needs, so a claim never scans the backlog.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, Table, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from app.store.columns import UTCDateTime

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = SQLModel.metadata

# BIGINT identity on PostgreSQL, rowid alias on SQLite
BigId = BigInteger().with_variant(Integer, "sqlite")


def table(model: type[SQLModel]) -> Table:
    """The Core table behind a model, typed."""
    core: Table = model.__table__  # type: ignore[attr-defined]  # SQLModel adds it at class creation
    return core


def _key(max_length: int = 200, **kwargs: Any) -> Any:
    return Field(primary_key=True, max_length=max_length, **kwargs)


def _when(**kwargs: Any) -> Any:
    return Field(sa_type=UTCDateTime, **kwargs)


def _doc(**kwargs: Any) -> Any:
    return Field(sa_type=Text, **kwargs)


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


# --- tenants and people -------------------------------------------------------------------------------------------------


class Tenant(SQLModel, table=True):
    """One clinic."""

    __tablename__ = "tenant"
    tenant_id: str = _key(40)
    slug: str = Field(max_length=60, unique=True)
    name: str = Field(max_length=200)
    timezone: str = Field(default="America/Sao_Paulo", max_length=60)
    created_at: datetime = _when()
    disabled_at: datetime | None = _when(default=None)


class SettingsDoc(SQLModel, table=True):
    """Editable settings of a tenant, or of `global`; `version` grows with every change."""

    __tablename__ = "settings_doc"
    scope: str = _key(60)
    version: int = 1
    data_json: str = _doc(default="{}")
    updated_at: datetime = _when()
    updated_by: str = Field(max_length=200)


class UserAccount(SQLModel, table=True):
    """A person who signs in to the console."""

    __tablename__ = "user_account"
    __table_args__ = (CheckConstraint("role IN ('secretary','manager','superadmin')", name="role"),)
    user_id: str = _key(40)
    email: str = Field(max_length=254, unique=True)
    name: str = Field(max_length=200)
    role: str = Field(max_length=20)
    password_hash: str = Field(max_length=300)
    language: str = Field(default="pt_BR", max_length=5)
    theme: str = Field(default="auto", max_length=5)
    shortcuts: bool = True
    failed_logins: int = 0
    locked_until: datetime | None = _when(default=None)
    created_at: datetime = _when()
    disabled_at: datetime | None = _when(default=None)


class UserTenant(SQLModel, table=True):
    """Which clinics a secretary or manager works for (a superadmin sees all)."""

    __tablename__ = "user_tenant"
    user_id: str = _key(40, foreign_key="user_account.user_id", ondelete="CASCADE")
    tenant_id: str = _key(40, foreign_key="tenant.tenant_id", ondelete="CASCADE")


class WebSession(SQLModel, table=True):
    """A signed-in browser; the key is the SHA-256 of the cookie, never the cookie."""

    __tablename__ = "web_session"
    key_hash: str = _key(64)
    user_id: str = Field(max_length=40, foreign_key="user_account.user_id", ondelete="CASCADE", index=True)
    created_at: datetime = _when()
    seen_at: datetime = _when()
    expires_at: datetime = _when(index=True)
    address: str = Field(default="", max_length=60)
    user_agent: str = Field(default="", max_length=300)


class ApiKey(SQLModel, table=True):
    """A machine's key: prefix shown, secret hashed. `tenant_id` None = global."""

    __tablename__ = "api_key"
    key_id: str = _key(40)
    secret_hash: str = Field(max_length=64, unique=True)
    name: str = Field(max_length=100)
    tenant_id: str | None = Field(default=None, max_length=40, foreign_key="tenant.tenant_id", ondelete="CASCADE")
    scopes: str = Field(max_length=100)
    """Space-separated: intake read operate admin."""
    created_at: datetime = _when()
    expires_at: datetime | None = _when(default=None)
    revoked_at: datetime | None = _when(default=None)
    last_used_at: datetime | None = _when(default=None)


# --- contacts, lanes, patients, agenda ----------------------------------------------------------------------------------


class Contact(SQLModel, table=True):
    """One phone number of one tenant: who it is. Counters live in `lane`."""

    __tablename__ = "contact"
    __table_args__ = (_partial("uq_contact_tenant_id_phone", "tenant_id", "phone", where="phone IS NOT NULL", unique=True),)
    tenant_id: str = _key(40)
    contact_id: str = _key()
    phone: str | None = Field(default=None, max_length=20)
    name: str | None = Field(default=None, max_length=200)
    created_at: datetime = _when()


class Lane(SQLModel, table=True):
    """The contact's single causal sequence, and all that dispatch needs to know about it.

    `last_assigned` and `last_committed` mark the two ends; `wait_0..3` count waiting commands per priority class and
    `waiting` is their sum; `ready_since` is when the oldest of them was accepted; nothing is looked at before
    `not_before`. `chain_hash` is the tail of the lane's ledger chain.
    """

    __tablename__ = "lane"
    __table_args__ = (
        CheckConstraint("last_committed <= last_assigned", name="order"),
        CheckConstraint("waiting = wait_0 + wait_1 + wait_2 + wait_3 AND waiting >= 0", name="waiting"),
        _partial("ix_lane_ready", "tenant_id", "not_before", where="waiting > 0"),
        _partial("ix_lane_unheard", "unheard_since", where="unheard > 0"),
        {"postgresql_with": {"fillfactor": 70}},
    )
    tenant_id: str = _key(40)
    contact_id: str = _key()
    conversation_id: str | None = Field(default=None, max_length=200)
    conversation_version: int = 1
    guardian_version: int = 0
    last_sequence: int = Field(default=0, sa_type=BigInteger)
    last_processed: int = Field(default=0, sa_type=BigInteger)
    unheard: int = 0
    """Messages accepted and not yet processed."""
    unheard_since: datetime | None = _when(default=None)
    last_assigned: int = Field(default=0, sa_type=BigInteger)
    last_committed: int = Field(default=0, sa_type=BigInteger)
    waiting: int = 0
    wait_0: int = 0
    wait_1: int = 0
    wait_2: int = 0
    wait_3: int = 0
    ready_since: datetime | None = _when(default=None)
    not_before: datetime | None = _when(default=None)
    blocked_by: str | None = Field(default=None, max_length=60)
    blocked_since: datetime | None = _when(default=None)
    takeover_id: str | None = Field(default=None, max_length=40)
    paused_at: datetime | None = _when(default=None)
    paused_by: str | None = Field(default=None, max_length=200)
    paused_reason: str | None = Field(default=None, max_length=500)
    step_credit: int = 0
    """Commands that may still pass while the lane is paused (single-step)."""
    chain_hash: str = Field(default="", max_length=64)


class LaneLock(SQLModel, table=True):
    """The database's per-contact lock (normal mode without Redis, fallback with it): owner token and expiry."""

    __tablename__ = "lane_lock"
    lock_key: str = _key(300)
    token: str = Field(max_length=64)
    expires_at: datetime = _when()


class Patient(SQLModel, table=True):
    """A child in therapy."""

    __tablename__ = "patient"
    tenant_id: str = _key(40)
    patient_id: str = _key()
    name: str = Field(max_length=200)
    created_at: datetime = _when()


class Guardian(SQLModel, table=True):
    """An explicit permission of a contact for a patient, with its proof; all off by default."""

    __tablename__ = "guardian"
    tenant_id: str = _key(40)
    patient_id: str = _key()
    contact_id: str = _key()
    is_primary: bool = False
    can_schedule: bool = False
    can_cancel: bool = False
    verified_by: str | None = Field(default=None, max_length=200)
    verification_method: str | None = Field(default=None, max_length=60)
    reason: str | None = Field(default=None, max_length=500)
    granted_by: str = Field(max_length=200)
    verified_at: datetime | None = _when(default=None)
    revoked_at: datetime | None = _when(default=None)
    updated_at: datetime = _when()


class Therapist(SQLModel, table=True):
    """Who gives therapy; owner of an agenda column."""

    __tablename__ = "therapist"
    tenant_id: str = _key(40)
    therapist_id: str = _key()
    name: str = Field(max_length=200)
    created_at: datetime = _when()


class Appointment(SQLModel, table=True):
    """The agenda as it is now. On PostgreSQL an exclusion constraint forbids overlaps of a therapist (migration 0001)."""

    __tablename__ = "appointment"
    __table_args__ = (
        CheckConstraint("start_at < end_at", name="interval"),
        CheckConstraint("status IN ('scheduled','confirmed','cancelled')", name="status"),
        _partial("ix_appointment_slot", "tenant_id", "therapist_id", "start_at", where="status <> 'cancelled'"),
        Index("ix_appointment_patient", "tenant_id", "patient_id"),
    )
    tenant_id: str = _key(40)
    appointment_id: str = _key(300)
    patient_id: str = Field(max_length=200)
    therapist_id: str = Field(max_length=200)
    start_at: datetime = _when()
    end_at: datetime = _when()
    status: str = Field(max_length=12)
    version: int
    as_of: datetime = _when()


class AppointmentVersion(SQLModel, table=True):
    """The agenda's effects: one row per version, written by exactly one command (unique), never changed."""

    __tablename__ = "appointment_version"
    __table_args__ = (UniqueConstraint("tenant_id", "command_id"),)
    tenant_id: str = _key(40)
    appointment_id: str = _key(300)
    version: int = Field(primary_key=True)
    command_id: str = Field(max_length=200)
    therapist_id: str = Field(max_length=200)
    start_at: datetime = _when()
    end_at: datetime = _when()
    status: str = Field(max_length=12)
    as_of: datetime = _when()
    at: datetime = _when()


# --- inbox: what was accepted -------------------------------------------------------------------------------------------


class InboxMessage(SQLModel, table=True):
    """An inbound message. `external_id` is unique per tenant and channel: the provider may send it again."""

    __tablename__ = "message"
    __table_args__ = (
        UniqueConstraint("tenant_id", "channel", "external_id"),
        UniqueConstraint("tenant_id", "contact_id", "sequence"),
        _partial("ix_message_pending", "tenant_id", "contact_id", "sequence", where="done_at IS NULL"),
        Index("ix_message_correlation", "tenant_id", "correlation_id"),
    )
    tenant_id: str = _key(40)
    event_id: str = _key()
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
    occurred_at: datetime = _when()
    received_at: datetime = _when()
    done_at: datetime | None = _when(default=None)
    correlation_id: str = Field(max_length=220)
    correlation_generated: bool = False
    causation_id: str | None = Field(default=None, max_length=200)
    payload_version: int = 1
    payload_json: str = _doc(default="{}")


class InboxCommand(SQLModel, table=True):
    """An accepted command, from acceptance to its terminal result.

    `commit_order` is None only for a command that never got a place in the lane (order violation, number taken).
    """

    __tablename__ = "command"
    __table_args__ = (
        UniqueConstraint("tenant_id", "contact_id", "commit_order"),
        _partial("ix_command_pending", "tenant_id", "contact_id", "commit_order", where="done_at IS NULL"),
        Index("ix_command_key", "tenant_id", "idempotency_key"),
        Index("ix_command_correlation", "tenant_id", "correlation_id"),
    )
    tenant_id: str = _key(40)
    command_id: str = _key()
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
    as_of: datetime | None = _when(default=None)
    occurred_at: datetime | None = _when(default=None)
    accepted_at: datetime = _when()
    waiting_since: datetime | None = _when(default=None)
    done_at: datetime | None = _when(default=None)
    attempts: int = 0
    was_parked: bool = False
    replayed: bool = False
    correlation_id: str = Field(max_length=220)
    correlation_generated: bool = False
    causation_id: str | None = Field(default=None, max_length=200)
    payload_json: str = _doc(default="{}")


class MalformedItem(SQLModel, table=True):
    """An unusable item, kept whole (`raw_json`); the same bytes again only raise `times`."""

    __tablename__ = "malformed_item"
    __table_args__ = (UniqueConstraint("tenant_id", "raw_hash"),)
    tenant_id: str = _key(40)
    item_id: str = _key()
    given_id: str | None = Field(default=None, max_length=200, index=True)
    """The id that the sender gave it, if it gave one that can be read."""
    kind: str = Field(max_length=10)
    status: str = Field(default="invalid_payload_manual", max_length=40)
    """invalid_payload_manual | dead_letter."""
    contact_id: str | None = Field(default=None, max_length=200)
    correlation_id: str = Field(max_length=220)
    reason: str = Field(max_length=60)
    errors_json: str = _doc(default="[]")
    raw_hash: str = Field(max_length=64)
    raw_json: str = _doc()
    received_at: datetime = _when()
    times: int = 1


class Proposal(SQLModel, table=True):
    """A sensitive command that waits for the family's explicit CONFIRMAR; at most one open per contact."""

    __tablename__ = "proposal"
    __table_args__ = (_partial("uq_proposal_open", "tenant_id", "contact_id", where="closed_at IS NULL", unique=True),)
    tenant_id: str = _key(40)
    command_id: str = _key()
    contact_id: str = Field(max_length=200)
    opened_at: datetime = _when()
    expires_at: datetime = _when()
    closed_at: datetime | None = _when(default=None)
    outcome: str | None = Field(default=None, max_length=20)
    """confirmed | superseded | expired."""


# --- ledger and effects -------------------------------------------------------------------------------------------------


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
    )
    tenant_id: str = _key(40)
    contact_id: str = _key()
    commit_order: int = Field(primary_key=True, sa_type=BigInteger)
    command_id: str | None = Field(default=None, max_length=200)
    """None for a tombstone: a place that never was filled."""
    command_type: str | None = Field(default=None, max_length=20)
    result: str = Field(max_length=40)
    reason: str = Field(max_length=60)
    effect_key: str | None = Field(default=None, max_length=200)
    entity_id: str | None = Field(default=None, max_length=300)
    entity_version: int | None = None
    conversation_version: int
    guardian_version: int
    takeover_active: bool
    mode_epoch: int
    safe_deadline: datetime | None = _when(default=None)
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
    accepted_at: datetime = _when()
    committed_at: datetime = _when()
    prev_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class Outbox(SQLModel, table=True):
    """A message or call to the outside, written in the effect's transaction; (cause, step) is unique."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("tenant_id", "cause_id", "step"),
        CheckConstraint("status IN ('pending','sending','sent','failed','unknown','dead')", name="status"),
        _partial("ix_outbox_due", "due_at", where="status IN ('pending','sending')"),
        Index("ix_outbox_provider", "tenant_id", "provider_message_id"),
    )
    outbox_id: str = _key(40)
    tenant_id: str = Field(max_length=40)
    cause_id: str = Field(max_length=200)
    step: str = Field(max_length=40)
    contact_id: str | None = Field(default=None, max_length=200)
    kind: str = Field(max_length=30)
    target: str = Field(default="", max_length=64)
    """SHA-256 of the channel it names itself ('' = the tenant's own for its kind); targets take turns, none waits for another."""
    status: str = Field(default="pending", max_length=10)
    attempts: int = 0
    created_at: datetime = _when()
    due_at: datetime = _when()
    lease_token: str | None = Field(default=None, max_length=64)
    lease_until: datetime | None = _when(default=None)
    sent_at: datetime | None = _when(default=None)
    provider_message_id: str | None = Field(default=None, max_length=200)
    delivery: str | None = Field(default=None, max_length=12)
    """Highest provider status so far: sent < delivered < read < played; failed."""
    last_error: str | None = Field(default=None, max_length=500)
    correlation_id: str = Field(max_length=220)
    body_json: str = _doc()


class DeliveryStatus(SQLModel, table=True):
    """Provider's status history of a message: append-only, out of order and repeated ones included once."""

    __tablename__ = "delivery_status"
    tenant_id: str = _key(40)
    provider_message_id: str = _key()
    status: str = _key(20)
    at: datetime = _when()
    received_at: datetime = _when()
    detail: str | None = Field(default=None, max_length=300)


class ManualTask(SQLModel, table=True):
    """Work that a machine must not do. Closed only with a structured outcome."""

    __tablename__ = "manual_task"
    __table_args__ = (
        UniqueConstraint("tenant_id", "dedup_key"),
        CheckConstraint("status IN ('open','claimed','resolved')", name="status"),
        _partial("ix_manual_task_open", "tenant_id", "due_at", where="status <> 'resolved'"),
    )
    task_id: str = _key(40)
    tenant_id: str = Field(max_length=40)
    dedup_key: str = Field(max_length=300)
    cause: str = Field(max_length=40)
    reason: str = Field(max_length=60)
    priority: int
    status: str = Field(default="open", max_length=10)
    rev: int = 1
    contact_id: str | None = Field(default=None, max_length=200)
    command_id: str | None = Field(default=None, max_length=200)
    item_id: str | None = Field(default=None, max_length=200)
    correlation_id: str = Field(max_length=220)
    created_at: datetime = _when()
    due_at: datetime = _when()
    owner: str | None = Field(default=None, max_length=200)
    claimed_at: datetime | None = _when(default=None)
    resolved_at: datetime | None = _when(default=None)
    resolution: str | None = Field(default=None, max_length=40)
    note: str | None = Field(default=None, max_length=1000)


class Ticket(SQLModel, table=True):
    """A takeover or a critical ticket: a conversation or an incident in a person's hands."""

    __tablename__ = "ticket"
    __table_args__ = (
        _partial(
            "uq_ticket_takeover_open", "tenant_id", "contact_id", where="kind = 'takeover' AND closed_at IS NULL", unique=True
        ),
    )
    ticket_id: str = _key(40)
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
    opened_at: datetime = _when()
    due_at: datetime | None = _when(default=None)
    started_at: datetime | None = _when(default=None)
    closed_at: datetime | None = _when(default=None)
    close_reason: str | None = Field(default=None, max_length=500)
    correlation_id: str = Field(max_length=220)
    context_json: str = _doc(default="{}")


# --- steering -----------------------------------------------------------------------------------------------------------


class ModeRow(SQLModel, table=True):
    """Safe mode of one scope (a tenant, or `global`); read with a share lock in every effect's transaction."""

    __tablename__ = "mode"
    __table_args__ = (CheckConstraint("state IN ('normal','safe_mode_active','recovering','draining')", name="state"),)
    scope: str = _key(40)
    state: str = Field(default="normal", max_length=20)
    epoch: int = 0
    safe_deadline: datetime | None = _when(default=None)
    since: datetime | None = _when(default=None)
    reason: str | None = Field(default=None, max_length=500)
    contingency: bool = False
    contingency_since: datetime | None = _when(default=None)
    contingency_reason: str | None = Field(default=None, max_length=500)


class Hold(SQLModel, table=True):
    """A person's pause on a whole tenant or on one command type of it (`*` = every type)."""

    __tablename__ = "hold"
    tenant_id: str = _key(40)
    command_type: str = _key(20)
    since: datetime = _when()
    by: str = Field(max_length=200)
    reason: str = Field(max_length=500)


class EventLog(SQLModel, table=True):
    """What changed, for streams: one row per transaction, tenant and topic. `position` is the SSE id."""

    __tablename__ = "event_log"
    __table_args__ = ({"sqlite_autoincrement": True},)
    position: int | None = Field(default=None, sa_type=BigId, primary_key=True)
    tenant_id: str | None = Field(default=None, max_length=40)
    topic: str = Field(max_length=30)
    refs_json: str = _doc(default="[]")
    at: datetime = _when(index=True)
    xid: int | None = Field(default=None, sa_type=BigInteger)
    """PostgreSQL transaction id: rows of transactions that may still be open are not read yet."""


class AuditEntry(SQLModel, table=True):
    """Who did what, when, why, before and after; hash-chained per chain (a tenant, or `global`)."""

    __tablename__ = "audit_entry"
    chain: str = _key(40)
    number: int = Field(primary_key=True)
    at: datetime = _when()
    actor: str = Field(max_length=200)
    """`user:<id>`, `key:<id>` or `system:<part>`."""
    action: str = Field(max_length=60)
    object: str = Field(max_length=300)
    before_json: str = _doc(default="null")
    after_json: str = _doc(default="null")
    reason: str | None = Field(default=None, max_length=1000)
    origin: str | None = Field(default=None, max_length=100)
    correlation_id: str | None = Field(default=None, max_length=220)
    prev_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class AuditHead(SQLModel, table=True):
    """The tail of one audit chain; its row lock makes appends of the chain take turns."""

    __tablename__ = "audit_head"
    chain: str = _key(40)
    number: int = 0
    hash: str = Field(default="", max_length=64)


class Node(SQLModel, table=True):
    """A running process and when it was last seen."""

    __tablename__ = "node"
    node_id: str = _key(60)
    started_at: datetime = _when()
    seen_at: datetime = _when()
    lock_mode: str = Field(default="database", max_length=10)
    loops_json: str = _doc(default="{}")


class PhoneMessage(SQLModel, table=True):
    """What the simulated phone shows (channel `simulator:`), demo and tests only."""

    __tablename__ = "phone_message"
    __table_args__ = (Index("ix_phone_message_target", "tenant_id", "target", "position"), {"sqlite_autoincrement": True})
    position: int | None = Field(default=None, sa_type=BigId, primary_key=True)
    tenant_id: str | None = Field(default=None, max_length=40)
    target: str = Field(max_length=60)
    direction: str = Field(max_length=3)
    """in (from the family) | out (from the system)."""
    kind: str = Field(max_length=30)
    body: str = _doc()
    at: datetime = _when()
    idempotency_key: str | None = Field(default=None, max_length=200, unique=True)
