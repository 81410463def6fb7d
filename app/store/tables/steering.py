"""Modes, holds, the event log, the audit trail, nodes, the simulated phone."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlmodel import Field, SQLModel

from app.store.tables.base import BigId, doc, key, when


class ModeRow(SQLModel, table=True):
    """Safe mode of one scope (a tenant, or `global`); read with a share lock in every effect's transaction."""

    __tablename__ = "mode"
    __table_args__ = (CheckConstraint("state IN ('normal','safe_mode_active','recovering','draining')", name="state"),)
    scope: str = key(40)
    state: str = Field(default="normal", max_length=20)
    epoch: int = 0
    safe_deadline: datetime | None = when(default=None)
    since: datetime | None = when(default=None)
    reason: str | None = Field(default=None, max_length=500)
    contingency: bool = False
    contingency_since: datetime | None = when(default=None)
    contingency_reason: str | None = Field(default=None, max_length=500)


class Hold(SQLModel, table=True):
    """A person's pause on a whole tenant or on one command type of it (`*` = every type)."""

    __tablename__ = "hold"
    tenant_id: str = key(40)
    command_type: str = key(20)
    since: datetime = when()
    by: str = Field(max_length=200)
    reason: str = Field(max_length=500)


class EventLog(SQLModel, table=True):
    """What changed, for streams: one row per transaction, tenant and topic. `position` is the SSE id."""

    __tablename__ = "event_log"
    __table_args__ = ({"sqlite_autoincrement": True},)
    position: int | None = Field(default=None, sa_type=BigId, primary_key=True)
    tenant_id: str | None = Field(default=None, max_length=40)
    topic: str = Field(max_length=30)
    refs_json: str = doc(default="[]")
    at: datetime = when(index=True)
    xid: int | None = Field(default=None, sa_type=BigInteger)
    """PostgreSQL transaction id: rows of transactions that may still be open are not read yet."""


class AuditEntry(SQLModel, table=True):
    """Who did what, when, why, before and after; hash-chained per chain (a tenant, or `global`)."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index("ix_audit_entry_object", "chain", "object"), Index("ix_audit_entry_at", "at"))
    chain: str = key(40)
    number: int = Field(primary_key=True)
    at: datetime = when()
    actor: str = Field(max_length=200)
    """`user:<id>`, `key:<id>` or `system:<part>`."""
    action: str = Field(max_length=60)
    object: str = Field(max_length=300)
    before_json: str = doc(default="null")
    after_json: str = doc(default="null")
    reason: str | None = Field(default=None, max_length=1000)
    origin: str | None = Field(default=None, max_length=100)
    correlation_id: str | None = Field(default=None, max_length=220)
    prev_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class AuditHead(SQLModel, table=True):
    """The tail of one audit chain; its row lock makes appends of the chain take turns."""

    __tablename__ = "audit_head"
    chain: str = key(40)
    number: int = 0
    hash: str = Field(default="", max_length=64)


class Node(SQLModel, table=True):
    """A running process and when it was last seen."""

    __tablename__ = "node"
    node_id: str = key(60)
    started_at: datetime = when()
    seen_at: datetime = when()
    lock_mode: str = Field(default="database", max_length=10)
    loops_json: str = doc(default="{}")


class ScaledTime(SQLModel, table=True):
    """Where a fast clock (training, demo) stands: one moment as real time and as the clock's, the same for every process."""

    __tablename__ = "scaled_time"
    name: str = key(10)
    scale: float
    real_at: datetime = when()
    at: datetime = when()


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
    body: str = doc()
    at: datetime = when()
    idempotency_key: str | None = Field(default=None, max_length=200, unique=True)
