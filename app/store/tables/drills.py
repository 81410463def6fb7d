"""Failure drills: what was asked for, how far it is, what came of it."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, partial, when


class Drill(SQLModel, table=True):
    """One run. `lease_until` says until when its process is taken to be at it; a run that outlives it has died."""

    __tablename__ = "drill"
    __table_args__ = (
        CheckConstraint("phase IN ('requested','baseline','cut','fallback','restore','verify','done')", name="phase"),
        partial("uq_drill_open", "kind", where="ended_at IS NULL", unique=True),
    )
    drill_id: str = key(40)
    kind: str = Field(default="redis", max_length=10)
    phase: str = Field(default="requested", max_length=10)
    requested_at: datetime = when(index=True)
    requested_by: str = Field(max_length=200)
    reason: str = Field(max_length=500)
    node_id: str | None = Field(default=None, max_length=100)
    lease_until: datetime | None = when(default=None)
    started_at: datetime | None = when(default=None)
    ended_at: datetime | None = when(default=None)
    result: str | None = Field(default=None, max_length=40)
    measures_json: str = doc(default="{}")
    """What was measured so far, by name; see `domain.drill.DrillMeasures`."""
    report_json: str = doc(default="{}")
    invalid_side_effects: int | None = None
    recovery_s: float | None = None
    pack_id: str | None = Field(default=None, max_length=40)
    alert_id: str | None = Field(default=None, max_length=40)
