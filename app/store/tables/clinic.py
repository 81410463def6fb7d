"""Contacts with their lanes, patients, guardians, therapists, agenda."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import key, partial, when


class Contact(SQLModel, table=True):
    """One phone number of one tenant: who it is. Counters live in `lane`."""

    __tablename__ = "contact"
    __table_args__ = (partial("uq_contact_tenant_id_phone", "tenant_id", "phone", where="phone IS NOT NULL", unique=True),)
    tenant_id: str = key(40)
    contact_id: str = key()
    phone: str | None = Field(default=None, max_length=20)
    name: str | None = Field(default=None, max_length=200)
    created_at: datetime = when()
    erased_at: datetime | None = when(default=None)
    """When everything personal about it was erased (LGPD); the id stays, because the ledger names it."""


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
        partial("ix_lane_ready", "tenant_id", "not_before", where="waiting > 0"),
        partial("ix_lane_unheard", "unheard_since", where="unheard > 0"),
        {"postgresql_with": {"fillfactor": 70}},
    )
    tenant_id: str = key(40)
    contact_id: str = key()
    conversation_id: str | None = Field(default=None, max_length=200)
    conversation_version: int = 1
    guardian_version: int = 0
    last_sequence: int = Field(default=0, sa_type=BigInteger)
    last_processed: int = Field(default=0, sa_type=BigInteger)
    unheard: int = 0
    """Messages accepted and not yet processed."""
    unheard_since: datetime | None = when(default=None)
    last_assigned: int = Field(default=0, sa_type=BigInteger)
    last_committed: int = Field(default=0, sa_type=BigInteger)
    waiting: int = 0
    wait_0: int = 0
    wait_1: int = 0
    wait_2: int = 0
    wait_3: int = 0
    ready_since: datetime | None = when(default=None)
    not_before: datetime | None = when(default=None)
    blocked_by: str | None = Field(default=None, max_length=60)
    blocked_since: datetime | None = when(default=None)
    takeover_id: str | None = Field(default=None, max_length=40)
    paused_at: datetime | None = when(default=None)
    paused_by: str | None = Field(default=None, max_length=200)
    paused_reason: str | None = Field(default=None, max_length=500)
    step_credit: int = 0
    """Commands that may still pass while the lane is paused (single-step)."""
    replay_id: str | None = Field(default=None, max_length=40)
    """The replay batch that has the lane: everything else waits for it, step by step."""
    replay_until: int = Field(default=0, sa_type=BigInteger)
    """The last place that may be decided while a replay batch has the lane."""
    chain_hash: str = Field(default="", max_length=64)


class LaneLock(SQLModel, table=True):
    """The database's per-contact lock (normal mode without Redis, fallback with it): owner token, node and expiry."""

    __tablename__ = "lane_lock"
    lock_key: str = key(300)
    token: str = Field(max_length=64)
    node_id: str | None = Field(default=None, max_length=60)
    """Which node has it, for whoever asks why a lane waits."""
    expires_at: datetime = when()


class Patient(SQLModel, table=True):
    """A child in therapy."""

    __tablename__ = "patient"
    tenant_id: str = key(40)
    patient_id: str = key()
    name: str = Field(max_length=200)
    created_at: datetime = when()


class Guardian(SQLModel, table=True):
    """An explicit permission of a contact for a patient, with its proof; all off by default."""

    __tablename__ = "guardian"
    tenant_id: str = key(40)
    patient_id: str = key()
    contact_id: str = key()
    is_primary: bool = False
    can_schedule: bool = False
    can_cancel: bool = False
    verified_by: str | None = Field(default=None, max_length=200)
    verification_method: str | None = Field(default=None, max_length=60)
    reason: str | None = Field(default=None, max_length=500)
    granted_by: str = Field(max_length=200)
    verified_at: datetime | None = when(default=None)
    revoked_at: datetime | None = when(default=None)
    updated_at: datetime = when()


class Therapist(SQLModel, table=True):
    """Who gives therapy; owner of an agenda column."""

    __tablename__ = "therapist"
    tenant_id: str = key(40)
    therapist_id: str = key()
    name: str = Field(max_length=200)
    created_at: datetime = when()


class Appointment(SQLModel, table=True):
    """The agenda as it is now. On PostgreSQL an exclusion constraint forbids overlaps of a therapist (migration 0001)."""

    __tablename__ = "appointment"
    __table_args__ = (
        CheckConstraint("start_at < end_at", name="interval"),
        CheckConstraint("status IN ('scheduled','confirmed','cancelled')", name="status"),
        partial("ix_appointment_slot", "tenant_id", "therapist_id", "start_at", where="status <> 'cancelled'"),
        Index("ix_appointment_patient", "tenant_id", "patient_id"),
    )
    tenant_id: str = key(40)
    appointment_id: str = key()
    patient_id: str = Field(max_length=200)
    therapist_id: str = Field(max_length=200)
    start_at: datetime = when()
    end_at: datetime = when()
    status: str = Field(max_length=12)
    version: int
    as_of: datetime = when()


class AppointmentVersion(SQLModel, table=True):
    """The agenda's effects: one row per version, written by exactly one command (unique), never changed."""

    __tablename__ = "appointment_version"
    __table_args__ = (UniqueConstraint("tenant_id", "command_id"),)
    tenant_id: str = key(40)
    appointment_id: str = key()
    version: int = Field(primary_key=True)
    command_id: str = Field(max_length=200)
    therapist_id: str = Field(max_length=200)
    start_at: datetime = when()
    end_at: datetime = when()
    status: str = Field(max_length=12)
    as_of: datetime = when()
    at: datetime = when()
