"""Replay batches and their items (S-PC-02-003, F-05)."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, partial, when


class ReplayBatch(SQLModel, table=True):
    """A frozen plan of what to replay, and how its run goes. `planned` = a dry run; it changed nothing."""

    __tablename__ = "replay_batch"
    __table_args__ = (
        CheckConstraint("status IN ('planned','running','paused','cancelled','finished')", name="status"),
        partial(
            "ix_replay_batch_open", "status", where="status IN ('running','paused') OR (status = 'cancelled' AND ended_at IS NULL)"
        ),
        Index("ix_replay_batch_tenant", "tenant_id", "planned_at"),
    )
    replay_id: str = key(40)
    tenant_id: str = Field(max_length=40)
    status: str = Field(max_length=10)
    rev: int = 1
    filter_json: str = doc()
    """With its time range frozen."""
    rate_per_s: float
    tokens: float
    filled_at: datetime = when()
    planned_at: datetime = when()
    """The moment of the facts that the prediction rests on."""
    planned_by: str = Field(max_length=200)
    started_at: datetime | None = when(default=None)
    started_by: str | None = Field(default=None, max_length=200)
    ended_at: datetime | None = when(default=None)
    total: int
    done: int = 0
    drifted: int = 0
    correlation_id: str = Field(max_length=220)


class ReplayItem(SQLModel, table=True):
    """One item of a batch: the command, what the gate predicted, and what came of it."""

    __tablename__ = "replay_item"
    __table_args__ = (
        CheckConstraint("state IN ('planned','placed','released','done','cancelled')", name="state"),
        Index("ix_replay_item_command", "tenant_id", "command_id"),
        partial("ix_replay_item_open", "replay_id", "n", where="state IN ('planned','placed','released')"),
    )
    replay_id: str = key(40)
    n: int = Field(primary_key=True)
    """Place in the plan: 1, 2, 3, ..."""
    tenant_id: str = Field(max_length=40)
    command_id: str = Field(max_length=200)
    """The command that is replayed."""
    contact_id: str = Field(max_length=200)
    kind: str = Field(max_length=8)
    """parked | again."""
    pulled_in: bool = False
    """Not asked for by the filter: it stands before one that was, in the same lane."""
    sent: bool = True
    """False = nothing is sent again, because the dry run said that it would be stopped."""
    run_command_id: str = Field(max_length=200)
    """The command whose result counts: itself when parked, else the new one."""
    commit_order: int | None = Field(default=None, sa_type=BigInteger)
    """Place in the lane of the command whose result counts; None until it has one."""
    command_type: str = Field(max_length=20)
    was_status: str = Field(max_length=40)
    correlation_id: str = Field(max_length=220)
    occurred_at: datetime | None = when(default=None)
    appointment_id: str | None = Field(default=None, max_length=200)
    starts_at: datetime | None = when(default=None)
    """Start of the appointment it is about, now or as wanted."""
    agenda_json: str = doc(default="[]")
    predicted_state: str = Field(max_length=40)
    predicted_result: str = Field(max_length=40)
    predicted_reason: str = Field(max_length=60)
    expected_version: int | None = Field(default=None, sa_type=BigInteger)
    event_version: int | None = Field(default=None, sa_type=BigInteger)
    event_age_s: float | None = None
    ttl_limit_s: float | None = None
    message: str | None = Field(default=None, max_length=1000)
    """What the family will read if it goes as predicted."""
    state: str = Field(default="planned", max_length=10)
    actual_state: str | None = Field(default=None, max_length=40)
    result: str | None = Field(default=None, max_length=40)
    reason: str | None = Field(default=None, max_length=60)
    drift: bool = False
    done_at: datetime | None = when(default=None)
