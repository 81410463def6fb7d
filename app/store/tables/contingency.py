"""Contingency per channel, and the drains that let parked lanes go again (F-05)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index
from sqlmodel import Field, SQLModel

from app.store.tables.base import key, partial, when


class ContingencyChannel(SQLModel, table=True):
    """Contingency of one channel of a clinic; while any of its channels has it, `mode.contingency` is true."""

    __tablename__ = "contingency_channel"
    __table_args__ = (CheckConstraint("origin IN ('person','health')", name="origin"),)
    tenant_id: str = key(40)
    channel: str = key(20)
    active: bool = False
    since: datetime = when()
    """When it was last switched on or off."""
    reason: str = Field(max_length=500)
    by: str = Field(max_length=200)
    origin: str = Field(default="person", max_length=10)
    """person | health (the channel's own state switched it on)."""


class FailingDeliveries(SQLModel, table=True):
    """A clinic whose messages to families have been failing since the last one that left; no row: nothing fails."""

    __tablename__ = "failing_deliveries"
    tenant_id: str = key(40)
    since: datetime = when()
    """When the first attempt after the last success failed, or may have."""
    last_at: datetime = when()
    """The latest such attempt."""
    attempts: int


class DrainRow(SQLModel, table=True):
    """One stretch of letting a clinic's parked lanes go, at most one open per clinic; the pace lives here."""

    __tablename__ = "drain"
    __table_args__ = (
        partial("uq_drain_open", "tenant_id", where="ended_at IS NULL", unique=True),
        Index("ix_drain_tenant", "tenant_id", "started_at"),
    )
    drain_id: str = key(40)
    tenant_id: str = Field(max_length=40)
    started_at: datetime = when()
    ended_at: datetime | None = when(default=None)
    outcome: str | None = Field(default=None, max_length=12)
    """completed | interrupted (its mode blocked again)."""
    parked_at_start: int = 0
    """Parked commands when it began."""
    lanes_released: int = 0
    items_released: int = 0
    rate_per_s: float
    """Commands a second that may leave now; between the floor and the clinic's `drain_per_s`."""
    tokens: float
    filled_at: datetime = when()
    backlog: int = 0
    """Parked commands without a result at the last look."""
    looked_at: datetime = when()
    released_since: int = 0
    """Commands released since the last look."""
    growing: int = 0
    """Looks in a row at which the backlog had grown."""
    slowed: int = 0
    incident_at: datetime | None = when(default=None)
