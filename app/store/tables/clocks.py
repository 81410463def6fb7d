"""Clocks of the sources that send items (S-PC-02-001)."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import key, when


class SourceClock(SQLModel, table=True):
    """A source's clock as last measured: a message channel, or `orchestrator` for commands."""

    __tablename__ = "source_clock"
    __table_args__ = (CheckConstraint("state IN ('fine','ahead','behind')", name="state"),)
    tenant_id: str = key(40)
    source: str = key(20)
    state: str = Field(max_length=8)
    since: datetime = when()
    """Since when it is in this state."""
    measured_at: datetime = when()
    samples: int
    least_lag_s: float
    most_lag_s: float
