"""Alerts, the rungs of their ladders, the links of their messages, and who took them on."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, partial, when


class Alert(SQLModel, table=True):
    """Something that a person must take care of; at most one that is not resolved per (scope, dedup_key).

    `scope` is the tenant, or `global`; `policy_json` is what held when it was raised: route, ladder, recipients.
    """

    __tablename__ = "alert"
    __table_args__ = (
        CheckConstraint("severity IN ('critical','high','warning')", name="severity"),
        CheckConstraint("status IN ('open','acknowledged','resolved')", name="status"),
        partial("uq_alert_open", "scope", "dedup_key", where="status <> 'resolved'", unique=True),
        partial("ix_alert_unacknowledged", "scope", "safe_mode_at", where="acked_at IS NULL AND safe_mode_at IS NOT NULL"),
        partial("ix_alert_flapping", "ended_at", where="ended_at IS NOT NULL"),
        Index("ix_alert_raised", "scope", "raised_at"),
        Index("ix_alert_group", "group_id"),
        Index("ix_alert_minute", "raised_at"),
        Index("ix_alert_dedup", "scope", "dedup_key", "raised_at"),
        Index("ix_alert_correlation", "correlation_id"),
    )
    alert_id: str = key(40)
    scope: str = Field(max_length=40)
    tenant_id: str | None = Field(default=None, max_length=40)
    trigger: str = Field(max_length=60)
    severity: str = Field(max_length=10)
    summary: str = Field(max_length=500)
    dedup_key: str = Field(max_length=200)
    status: str = Field(default="open", max_length=12)
    level: str = Field(default="raised", max_length=12)
    """raised | warning | high | safe_mode, for alerts that are not critical: raised | escalated."""
    result: str | None = Field(default=None, max_length=40)
    rev: int = 1
    owner: str = Field(max_length=200)
    correlation_id: str = Field(max_length=220)
    raised_by: str = Field(max_length=200)
    raised_at: datetime = when()
    """t0 of the ladder."""
    last_seen_at: datetime = when()
    seen_count: int = 1
    """How often it was raised while it was not resolved."""
    group_id: str = Field(max_length=40)
    """Alerts of one kind in one scope, less than a minute apart, share the id of the first."""
    group_started_at: datetime = when()
    policy_json: str = doc()
    safe_mode_at: datetime | None = when(default=None)
    """When safe mode begins without an ACK; only of critical alerts."""
    acked_at: datetime | None = when(default=None)
    acked_by: str | None = Field(default=None, max_length=200)
    ack_how: str | None = Field(default=None, max_length=20)
    """link | whatsapp_button | console | api."""
    ack_delay_s: float | None = None
    resolved_at: datetime | None = when(default=None)
    resolved_by: str | None = Field(default=None, max_length=200)
    ended_at: datetime | None = when(default=None)
    """Its source said that it is over, but it flaps: it stays open, quietly, until it rests."""
    changes_json: str = doc(default="[]")
    """When it went on and off lately (flap damping)."""


class AlertStep(SQLModel, table=True):
    """One rung of an alert's ladder: a message to one recipient, or a change of state; claimed with a lease, done once."""

    __tablename__ = "alert_step"
    __table_args__ = (
        UniqueConstraint("alert_id", "step_key", "channel", "recipient"),
        partial("ix_alert_step_due", "due_at", where="done_at IS NULL"),
        Index("ix_alert_step_group", "group_id", "channel", "recipient"),
        partial("ix_alert_step_merged", "merged_into", where="merged_into IS NOT NULL"),
        Index("ix_alert_step_provider", "provider_message_id"),
    )
    step_id: str = key(40)
    alert_id: str = Field(max_length=40)
    tenant_id: str | None = Field(default=None, max_length=40)
    group_id: str = Field(max_length=40)
    """Whose voice speaks for it at this recipient: its alert's group, or that of another clinic with the same target."""
    step_key: str = Field(max_length=80)
    action: str = Field(max_length=20)
    """send, or a change of state (`app.domain.alerts.Action`)."""
    channel: str = Field(default="", max_length=40)
    """Channel kind of the routing matrix; '' for a change of state."""
    recipient: str = Field(default="", max_length=60)
    n: int = 0
    """Number of the attempt on this channel, as its text says it."""
    due_at: datetime = when()
    lease_token: str | None = Field(default=None, max_length=64)
    lease_until: datetime | None = when(default=None)
    tries: int = 0
    """How often it was claimed: more than once after a sender vanished."""
    begun_at: datetime | None = when(default=None)
    done_at: datetime | None = when(default=None)
    outcome: str | None = Field(default=None, max_length=10)
    """sent | failed | unknown | merged | grouped | stopped | done."""
    late: bool = False
    target: str | None = Field(default=None, max_length=120)
    """Where it went, without secrets and with all but the end of a number hidden."""
    answer: str | None = Field(default=None, max_length=300)
    """The provider's answer as a short code."""
    provider_message_id: str | None = Field(default=None, max_length=200)
    delivery: str | None = Field(default=None, max_length=12)
    """Highest provider status so far: sent < delivered < read."""
    fallback_of: str | None = Field(default=None, max_length=40)
    merged_into: str | None = Field(default=None, max_length=40)


class AckToken(SQLModel, table=True):
    """The link of one message to one recipient; the key is the SHA-256 of the token, never the token."""

    __tablename__ = "ack_token"
    token_hash: str = key(64)
    alert_id: str = Field(max_length=40, index=True)
    step_id: str = Field(max_length=40)
    recipient: str = Field(max_length=60)
    created_at: datetime = when()
    expires_at: datetime = when()
    used_at: datetime | None = when(default=None)


class AckRecord(SQLModel, table=True):
    """Who took an alert on, or passed it on: one record per person and alert; `effective` is the one that counted."""

    __tablename__ = "ack_record"
    __table_args__ = (UniqueConstraint("alert_id", "kind", "by"),)
    record_id: str = key(40)
    alert_id: str = Field(max_length=40)
    tenant_id: str | None = Field(default=None, max_length=40)
    kind: str = Field(max_length=10)
    """ack | pass_on."""
    by: str = Field(max_length=200)
    how: str = Field(max_length=20)
    step_id: str | None = Field(default=None, max_length=40)
    """The message whose link or button was used."""
    recipient: str | None = Field(default=None, max_length=60)
    """For pass_on: who was told instead; None when nobody was left."""
    at: datetime = when()
    delay_s: float
    effective: bool
