"""What signals are measured from and what came of it: minute buckets, states, points of history, firings."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, when


class SignalRound(SQLModel, table=True):
    """The one row that says who measures now, and what the last look came to."""

    __tablename__ = "signal_round"
    name: str = key(10)
    token: str = Field(default="", max_length=64)
    """Of the node that has this round."""
    claimed_at: datetime | None = when(default=None)
    looked_at: datetime | None = when(default=None)
    """When the newest look was written down."""
    folded_minute: int = Field(default=0, sa_type=BigInteger)
    """The newest minute that has buckets."""
    took_ms: float = 0.0
    summary_json: str = doc(default="{}")
    """What every node shows on /metrics: per signal its values over all clinics, in the worst one, and scopes by level."""


class SignalMinute(SQLModel, table=True):
    """How often something happened in one minute of one clinic; `bucket` is a whole second or millisecond of a histogram, or 0."""

    __tablename__ = "signal_minute"
    minute: int = Field(primary_key=True, sa_type=BigInteger)
    """Minutes since 1970."""
    tenant_id: str = key(40)
    measure: str = key(30)
    bucket: int = Field(primary_key=True, sa_type=BigInteger, default=0)
    n: int = Field(sa_type=BigInteger)


class SignalStateRow(SQLModel, table=True):
    """Where a signal stands in one scope (a tenant, or `global`); no row = normal, nothing measured yet."""

    __tablename__ = "signal_state"
    __table_args__ = (CheckConstraint("level IN ('normal','warning','critical')", name="level"),)
    scope: str = key(40)
    signal: str = key(60)
    level: str = Field(default="normal", max_length=10)
    since: datetime | None = when(default=None)
    calm_since: datetime | None = when(default=None)
    values_json: str = doc(default="{}")
    samples: int | None = Field(default=None, sa_type=BigInteger)
    """Out of how many a rate or percentile was taken."""
    hits: int | None = Field(default=None, sa_type=BigInteger)
    measured_at: datetime = when()
    """When it last changed; a value that stays the same is not written again."""
    point_at: datetime | None = when(default=None)
    """When its values were last kept for the preview."""
    alert_id: str | None = Field(default=None, max_length=40)
    rev: int = 1


class SignalPoint(SQLModel, table=True):
    """Values of a signal from `at` on, until the next point; kept for previews, a little over a week."""

    __tablename__ = "signal_point"
    __table_args__ = (Index("ix_signal_point_at", "at"),)
    scope: str = key(40)
    signal: str = key(60)
    at: datetime = when(primary_key=True)
    values_json: str = doc()


class SignalCritical(SQLModel, table=True):
    """A quarter of an hour (from `at` on) in which a signal that `counts_days` was measured critical, whatever its level says."""

    __tablename__ = "signal_critical"
    __table_args__ = (Index("ix_signal_critical_at", "signal", "at"),)
    scope: str = key(40)
    signal: str = key(60)
    at: datetime = when(primary_key=True)


class SignalFiring(SQLModel, table=True):
    """One rise of a signal's level: whom it was given to, what was measured, and when all was normal again."""

    __tablename__ = "signal_firing"
    __table_args__ = (Index("ix_signal_firing_signal", "scope", "signal", "at"),)
    firing_id: str = key(40)
    scope: str = Field(max_length=40)
    signal: str = Field(max_length=60)
    level: str = Field(max_length=10)
    at: datetime = when()
    owner: str = Field(max_length=200)
    values_json: str = doc()
    alert_id: str | None = Field(default=None, max_length=40)
    ended_at: datetime | None = when(default=None)
