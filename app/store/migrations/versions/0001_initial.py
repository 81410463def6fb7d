"""Every table, and what only PostgreSQL can guarantee.

Revision 0001. The tables between the two pairs of marks are written by `scripts/regenerate_migration.py` from
`app/store/tables.py` until the first release; from then on this file is history and never changes.

PostgreSQL additionally forbids by an exclusion constraint that two active appointments of one therapist overlap (SQLite
has one writer: there the same check inside the effect's transaction is enough), and it holds the tenants apart by
row-level security (`app/store/walls.py`).
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

from app.errors import ConfigError
from app.store.columns import UTCDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    # <tables>
    op.create_table(
        "ack_record",
        sa.Column("record_id", sa.String(length=40), nullable=False),
        sa.Column("alert_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("how", sa.String(length=20), nullable=False),
        sa.Column("step_id", sa.String(length=40), nullable=True),
        sa.Column("recipient", sa.String(length=60), nullable=True),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("delay_s", sa.Float(), nullable=False),
        sa.Column("effective", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_ack_record")),
        sa.UniqueConstraint("alert_id", "kind", "by", name=op.f("uq_ack_record_alert_id_kind_by")),
    )
    op.create_table(
        "ack_token",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("alert_id", sa.String(length=40), nullable=False),
        sa.Column("step_id", sa.String(length=40), nullable=False),
        sa.Column("recipient", sa.String(length=60), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("used_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_ack_token")),
    )
    op.create_index(op.f("ix_ack_token_alert_id"), "ack_token", ["alert_id"], unique=False)
    op.create_table(
        "alert",
        sa.Column("alert_id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("trigger", sa.String(length=60), nullable=False),
        sa.Column("severity", sa.String(length=10), nullable=False),
        sa.Column("summary", sa.String(length=500), nullable=False),
        sa.Column("dedup_key", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("level", sa.String(length=12), nullable=False),
        sa.Column("result", sa.String(length=40), nullable=True),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("raised_by", sa.String(length=200), nullable=False),
        sa.Column("raised_at", UTCDateTime(), nullable=False),
        sa.Column("last_seen_at", UTCDateTime(), nullable=False),
        sa.Column("seen_count", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.String(length=40), nullable=False),
        sa.Column("group_started_at", UTCDateTime(), nullable=False),
        sa.Column("policy_json", sa.Text(), nullable=False),
        sa.Column("safe_mode_at", UTCDateTime(), nullable=True),
        sa.Column("acked_at", UTCDateTime(), nullable=True),
        sa.Column("acked_by", sa.String(length=200), nullable=True),
        sa.Column("ack_how", sa.String(length=20), nullable=True),
        sa.Column("ack_delay_s", sa.Float(), nullable=True),
        sa.Column("resolved_at", UTCDateTime(), nullable=True),
        sa.Column("resolved_by", sa.String(length=200), nullable=True),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.Column("changes_json", sa.Text(), nullable=False),
        sa.CheckConstraint("severity IN ('critical','high','warning')", name=op.f("ck_alert_severity")),
        sa.CheckConstraint("status IN ('open','acknowledged','resolved')", name=op.f("ck_alert_status")),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_alert")),
    )
    op.create_index("ix_alert_correlation", "alert", ["correlation_id"], unique=False)
    op.create_index("ix_alert_dedup", "alert", ["scope", "dedup_key", "raised_at"], unique=False)
    op.create_index(
        "ix_alert_flapping",
        "alert",
        ["ended_at"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index("ix_alert_group", "alert", ["group_id"], unique=False)
    op.create_index("ix_alert_minute", "alert", ["raised_at"], unique=False)
    op.create_index("ix_alert_raised", "alert", ["scope", "raised_at"], unique=False)
    op.create_index(
        "ix_alert_unacknowledged",
        "alert",
        ["scope", "safe_mode_at"],
        unique=False,
        sqlite_where=sa.text("acked_at IS NULL AND safe_mode_at IS NOT NULL"),
        postgresql_where=sa.text("acked_at IS NULL AND safe_mode_at IS NOT NULL"),
    )
    op.create_index(
        "uq_alert_open",
        "alert",
        ["scope", "dedup_key"],
        unique=True,
        sqlite_where=sa.text("status <> 'resolved'"),
        postgresql_where=sa.text("status <> 'resolved'"),
    )
    op.create_table(
        "alert_step",
        sa.Column("step_id", sa.String(length=40), nullable=False),
        sa.Column("alert_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("group_id", sa.String(length=40), nullable=False),
        sa.Column("step_key", sa.String(length=80), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("channel", sa.String(length=40), nullable=False),
        sa.Column("recipient", sa.String(length=60), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=False),
        sa.Column("lease_token", sa.String(length=64), nullable=True),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("begun_at", UTCDateTime(), nullable=True),
        sa.Column("done_at", UTCDateTime(), nullable=True),
        sa.Column("outcome", sa.String(length=10), nullable=True),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("target", sa.String(length=120), nullable=True),
        sa.Column("answer", sa.String(length=300), nullable=True),
        sa.Column("provider_message_id", sa.String(length=200), nullable=True),
        sa.Column("delivery", sa.String(length=12), nullable=True),
        sa.Column("fallback_of", sa.String(length=40), nullable=True),
        sa.Column("merged_into", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("step_id", name=op.f("pk_alert_step")),
        sa.UniqueConstraint(
            "alert_id", "step_key", "channel", "recipient", name=op.f("uq_alert_step_alert_id_step_key_channel_recipient")
        ),
    )
    op.create_index(
        "ix_alert_step_due",
        "alert_step",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_index("ix_alert_step_group", "alert_step", ["group_id", "channel", "recipient"], unique=False)
    op.create_index(
        "ix_alert_step_merged",
        "alert_step",
        ["merged_into"],
        unique=False,
        sqlite_where=sa.text("merged_into IS NOT NULL"),
        postgresql_where=sa.text("merged_into IS NOT NULL"),
    )
    op.create_index("ix_alert_step_provider", "alert_step", ["provider_message_id"], unique=False)
    op.create_table(
        "appointment",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("appointment_id", sa.String(length=200), nullable=False),
        sa.Column("patient_id", sa.String(length=200), nullable=False),
        sa.Column("therapist_id", sa.String(length=200), nullable=False),
        sa.Column("start_at", UTCDateTime(), nullable=False),
        sa.Column("end_at", UTCDateTime(), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("as_of", UTCDateTime(), nullable=False),
        sa.CheckConstraint("status IN ('scheduled','confirmed','cancelled')", name=op.f("ck_appointment_status")),
        sa.CheckConstraint("start_at < end_at", name=op.f("ck_appointment_interval")),
        sa.PrimaryKeyConstraint("tenant_id", "appointment_id", name=op.f("pk_appointment")),
    )
    op.create_index("ix_appointment_patient", "appointment", ["tenant_id", "patient_id"], unique=False)
    op.create_index(
        "ix_appointment_slot",
        "appointment",
        ["tenant_id", "therapist_id", "start_at"],
        unique=False,
        sqlite_where=sa.text("status <> 'cancelled'"),
        postgresql_where=sa.text("status <> 'cancelled'"),
    )
    op.create_table(
        "appointment_version",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("appointment_id", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("command_id", sa.String(length=200), nullable=False),
        sa.Column("therapist_id", sa.String(length=200), nullable=False),
        sa.Column("start_at", UTCDateTime(), nullable=False),
        sa.Column("end_at", UTCDateTime(), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("as_of", UTCDateTime(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "appointment_id", "version", name=op.f("pk_appointment_version")),
        sa.UniqueConstraint("tenant_id", "command_id", name=op.f("uq_appointment_version_tenant_id_command_id")),
    )
    op.create_table(
        "audit_entry",
        sa.Column("chain", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("object", sa.String(length=300), nullable=False),
        sa.Column("before_json", sa.Text(), nullable=False),
        sa.Column("after_json", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=True),
        sa.Column("origin", sa.String(length=100), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=True),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("chain", "number", name=op.f("pk_audit_entry")),
    )
    op.create_index("ix_audit_entry_at", "audit_entry", ["at"], unique=False)
    op.create_index("ix_audit_entry_object", "audit_entry", ["chain", "object"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("chain", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("chain", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "command",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("command_id", sa.String(length=200), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("conversation_id", sa.String(length=200), nullable=True),
        sa.Column("commit_order", sa.BigInteger(), nullable=True),
        sa.Column("command_type", sa.String(length=20), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=40), nullable=False),
        sa.Column("result", sa.String(length=40), nullable=True),
        sa.Column("reason", sa.String(length=60), nullable=True),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("requested_by", sa.String(length=10), nullable=False),
        sa.Column("requested_by_id", sa.String(length=200), nullable=True),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("patient_id", sa.String(length=200), nullable=True),
        sa.Column("confirmed_by_contact", sa.Boolean(), nullable=False),
        sa.Column("guardian_version", sa.BigInteger(), nullable=True),
        sa.Column("conversation_version", sa.BigInteger(), nullable=True),
        sa.Column("entity_version", sa.BigInteger(), nullable=True),
        sa.Column("as_of", UTCDateTime(), nullable=True),
        sa.Column("occurred_at", UTCDateTime(), nullable=True),
        sa.Column("accepted_at", UTCDateTime(), nullable=False),
        sa.Column("waiting_since", UTCDateTime(), nullable=True),
        sa.Column("done_at", UTCDateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("was_parked", sa.Boolean(), nullable=False),
        sa.Column("replayed", sa.Boolean(), nullable=False),
        sa.Column("withdrawn", sa.String(length=60), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("correlation_generated", sa.Boolean(), nullable=False),
        sa.Column("causation_id", sa.String(length=200), nullable=True),
        sa.Column("payload_json", sa.Text(), nullable=False),
        sa.Column("payload_level", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "command_id", name=op.f("pk_command")),
        sa.UniqueConstraint("tenant_id", "contact_id", "commit_order", name=op.f("uq_command_tenant_id_contact_id_commit_order")),
    )
    op.create_index("ix_command_correlation", "command", ["tenant_id", "correlation_id"], unique=False)
    op.create_index(
        "ix_command_generated",
        "command",
        ["done_at"],
        unique=False,
        sqlite_where=sa.text("correlation_generated"),
        postgresql_where=sa.text("correlation_generated"),
    )
    op.create_index(
        "ix_command_held",
        "command",
        ["tenant_id", "waiting_since"],
        unique=False,
        sqlite_where=sa.text("status IN ('waiting_previous_commit','pending_safe_mode','pending_contingency')"),
        postgresql_where=sa.text("status IN ('waiting_previous_commit','pending_safe_mode','pending_contingency')"),
    )
    op.create_index("ix_command_key", "command", ["tenant_id", "idempotency_key"], unique=False)
    op.create_index(
        "ix_command_payload",
        "command",
        ["payload_level", "done_at"],
        unique=False,
        sqlite_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
        postgresql_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
    )
    op.create_index(
        "ix_command_pending",
        "command",
        ["tenant_id", "contact_id", "commit_order"],
        unique=False,
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_index(
        "ix_command_unplaced",
        "command",
        ["done_at"],
        unique=False,
        sqlite_where=sa.text("commit_order IS NULL"),
        postgresql_where=sa.text("commit_order IS NULL"),
    )
    op.create_table(
        "contact",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("phone", sa.String(length=20), nullable=True),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("erased_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "contact_id", name=op.f("pk_contact")),
    )
    op.create_index(
        "uq_contact_tenant_id_phone",
        "contact",
        ["tenant_id", "phone"],
        unique=True,
        sqlite_where=sa.text("phone IS NOT NULL"),
        postgresql_where=sa.text("phone IS NOT NULL"),
    )
    op.create_table(
        "contingency_channel",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("channel", sa.String(length=20), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("origin", sa.String(length=10), nullable=False),
        sa.CheckConstraint("origin IN ('person','health')", name=op.f("ck_contingency_channel_origin")),
        sa.PrimaryKeyConstraint("tenant_id", "channel", name=op.f("pk_contingency_channel")),
    )
    op.create_table(
        "contingency_notice",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("episode_id", sa.String(length=40), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("intent", sa.String(length=20), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("outbox_id", sa.String(length=40), nullable=False),
        sa.Column("ticket_id", sa.String(length=40), nullable=True),
        sa.Column("template", sa.String(length=60), nullable=False),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("result", sa.String(length=60), nullable=True),
        sa.Column("done_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "episode_id", "contact_id", "intent", name=op.f("pk_contingency_notice")),
    )
    op.create_index(op.f("ix_contingency_notice_done_at"), "contingency_notice", ["done_at"], unique=False)
    op.create_index(
        "ix_contingency_notice_open",
        "contingency_notice",
        ["tenant_id"],
        unique=False,
        sqlite_where=sa.text("result IS NULL"),
        postgresql_where=sa.text("result IS NULL"),
    )
    op.create_table(
        "d1_step",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("appointment_id", sa.String(length=300), nullable=False),
        sa.Column("start_at", UTCDateTime(), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("done_at", UTCDateTime(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "appointment_id", "start_at", "action", name=op.f("pk_d1_step")),
    )
    op.create_index(
        "ix_d1_step_asked",
        "d1_step",
        ["tenant_id", "contact_id"],
        unique=False,
        sqlite_where=sa.text("action = 'ask_family' AND contact_id IS NOT NULL"),
        postgresql_where=sa.text("action = 'ask_family' AND contact_id IS NOT NULL"),
    )
    op.create_table(
        "deferred_item",
        sa.Column("item_id", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=30), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("facts_json", sa.Text(), nullable=False),
        sa.Column("alert_id", sa.String(length=40), nullable=True),
        sa.Column("pack_id", sa.String(length=40), nullable=True),
        sa.Column("decided_at", UTCDateTime(), nullable=True),
        sa.Column("decided_by", sa.String(length=200), nullable=True),
        sa.Column("decision", sa.String(length=500), nullable=True),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.CheckConstraint("state IN ('deferred_with_trigger','reopen_triggered')", name=op.f("ck_deferred_item_state")),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_deferred_item")),
    )
    op.create_table(
        "delivery_status",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("provider_message_id", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("received_at", UTCDateTime(), nullable=False),
        sa.Column("detail", sa.String(length=300), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "provider_message_id", "status", name=op.f("pk_delivery_status")),
    )
    op.create_table(
        "drain",
        sa.Column("drain_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.Column("outcome", sa.String(length=12), nullable=True),
        sa.Column("parked_at_start", sa.Integer(), nullable=False),
        sa.Column("lanes_released", sa.Integer(), nullable=False),
        sa.Column("items_released", sa.Integer(), nullable=False),
        sa.Column("rate_per_s", sa.Float(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("filled_at", UTCDateTime(), nullable=False),
        sa.Column("backlog", sa.Integer(), nullable=False),
        sa.Column("looked_at", UTCDateTime(), nullable=False),
        sa.Column("released_since", sa.Integer(), nullable=False),
        sa.Column("growing", sa.Integer(), nullable=False),
        sa.Column("slowed", sa.Integer(), nullable=False),
        sa.Column("incident_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("drain_id", name=op.f("pk_drain")),
    )
    op.create_index("ix_drain_tenant", "drain", ["tenant_id", "started_at"], unique=False)
    op.create_index(
        "uq_drain_open",
        "drain",
        ["tenant_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "drill",
        sa.Column("drill_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("phase", sa.String(length=10), nullable=False),
        sa.Column("requested_at", UTCDateTime(), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("node_id", sa.String(length=100), nullable=True),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.Column("result", sa.String(length=40), nullable=True),
        sa.Column("measures_json", sa.Text(), nullable=False),
        sa.Column("report_json", sa.Text(), nullable=False),
        sa.Column("invalid_side_effects", sa.Integer(), nullable=True),
        sa.Column("recovery_s", sa.Float(), nullable=True),
        sa.Column("pack_id", sa.String(length=40), nullable=True),
        sa.Column("alert_id", sa.String(length=40), nullable=True),
        sa.CheckConstraint(
            "phase IN ('requested','baseline','cut','fallback','restore','verify','done')", name=op.f("ck_drill_phase")
        ),
        sa.PrimaryKeyConstraint("drill_id", name=op.f("pk_drill")),
    )
    op.create_index(op.f("ix_drill_requested_at"), "drill", ["requested_at"], unique=False)
    op.create_index(
        "uq_drill_open",
        "drill",
        ["kind"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "event_log",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("topic", sa.String(length=30), nullable=False),
        sa.Column("refs_json", sa.Text(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_event_log")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_event_log_at"), "event_log", ["at"], unique=False)
    op.create_table(
        "evidence_file",
        sa.Column("pack_id", sa.String(length=40), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("pack_id", name=op.f("pk_evidence_file")),
    )
    op.create_table(
        "evidence_pack",
        sa.Column("pack_id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("span", sa.String(length=80), nullable=False),
        sa.Column("from_at", UTCDateTime(), nullable=True),
        sa.Column("until_at", UTCDateTime(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("automatic", sa.Boolean(), nullable=False),
        sa.Column("requested_at", UTCDateTime(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=True),
        sa.Column("lease_token", sa.String(length=64), nullable=True),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("result", sa.String(length=40), nullable=True),
        sa.Column("share", sa.Float(), nullable=True),
        sa.Column("missing_json", sa.Text(), nullable=False),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("flow_id", sa.String(length=4), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=True),
        sa.Column("terminal_state", sa.String(length=60), nullable=True),
        sa.Column("document_json", sa.Text(), nullable=True),
        sa.Column("facts_hash", sa.String(length=64), nullable=True),
        sa.Column("root", sa.String(length=64), nullable=True),
        sa.Column("key_id", sa.String(length=32), nullable=True),
        sa.Column("audit_chain", sa.String(length=40), nullable=True),
        sa.Column("audit_number", sa.Integer(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('flow','contact','alert','safe_mode','replay','takeover','drill','deferred')",
            name=op.f("ck_evidence_pack_kind"),
        ),
        sa.PrimaryKeyConstraint("pack_id", name=op.f("pk_evidence_pack")),
    )
    op.create_index(
        "ix_evidence_pack_due",
        "evidence_pack",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("ix_evidence_pack_finished", "evidence_pack", ["finished_at"], unique=False)
    op.create_index("ix_evidence_pack_requested", "evidence_pack", ["requested_at"], unique=False)
    op.create_index("ix_evidence_pack_scope", "evidence_pack", ["scope", "requested_at"], unique=False)
    op.create_index("ix_evidence_pack_subject", "evidence_pack", ["scope", "kind", "subject", "requested_at"], unique=False)
    op.create_index(
        "uq_evidence_pack_pending",
        "evidence_pack",
        ["scope", "kind", "subject", "span"],
        unique=True,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "failing_deliveries",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("last_at", UTCDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_failing_deliveries")),
    )
    op.create_table(
        "guardian",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("patient_id", sa.String(length=200), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("is_primary", sa.Boolean(), nullable=False),
        sa.Column("can_schedule", sa.Boolean(), nullable=False),
        sa.Column("can_cancel", sa.Boolean(), nullable=False),
        sa.Column("verified_by", sa.String(length=200), nullable=True),
        sa.Column("verification_method", sa.String(length=60), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("granted_by", sa.String(length=200), nullable=False),
        sa.Column("verified_at", UTCDateTime(), nullable=True),
        sa.Column("revoked_at", UTCDateTime(), nullable=True),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "patient_id", "contact_id", name=op.f("pk_guardian")),
    )
    op.create_table(
        "health_probe",
        sa.Column("node_id", sa.String(length=60), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_health_probe")),
    )
    op.create_table(
        "health_sample",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("node_id", sa.String(length=60), nullable=False),
        sa.Column("green", sa.Boolean(), nullable=False),
        sa.Column("checks_json", sa.Text(), nullable=False),
        sa.Column("scopes_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_health_sample")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_health_sample_at"), "health_sample", ["at"], unique=False)
    op.create_table(
        "hold",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("command_type", sa.String(length=20), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "command_type", name=op.f("pk_hold")),
    )
    op.create_table(
        "lane",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("conversation_id", sa.String(length=200), nullable=True),
        sa.Column("conversation_version", sa.Integer(), nullable=False),
        sa.Column("guardian_version", sa.Integer(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_processed", sa.BigInteger(), nullable=False),
        sa.Column("unheard", sa.Integer(), nullable=False),
        sa.Column("unheard_since", UTCDateTime(), nullable=True),
        sa.Column("last_assigned", sa.BigInteger(), nullable=False),
        sa.Column("last_committed", sa.BigInteger(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("wait_0", sa.Integer(), nullable=False),
        sa.Column("wait_1", sa.Integer(), nullable=False),
        sa.Column("wait_2", sa.Integer(), nullable=False),
        sa.Column("wait_3", sa.Integer(), nullable=False),
        sa.Column("ready_since", UTCDateTime(), nullable=True),
        sa.Column("not_before", UTCDateTime(), nullable=True),
        sa.Column("blocked_by", sa.String(length=60), nullable=True),
        sa.Column("blocked_since", UTCDateTime(), nullable=True),
        sa.Column("takeover_id", sa.String(length=40), nullable=True),
        sa.Column("paused_at", UTCDateTime(), nullable=True),
        sa.Column("paused_by", sa.String(length=200), nullable=True),
        sa.Column("paused_reason", sa.String(length=500), nullable=True),
        sa.Column("step_credit", sa.Integer(), nullable=False),
        sa.Column("replay_id", sa.String(length=40), nullable=True),
        sa.Column("replay_until", sa.BigInteger(), nullable=False),
        sa.Column("chain_hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint("last_committed <= last_assigned", name=op.f("ck_lane_order")),
        sa.CheckConstraint("waiting = wait_0 + wait_1 + wait_2 + wait_3 AND waiting >= 0", name=op.f("ck_lane_waiting")),
        sa.PrimaryKeyConstraint("tenant_id", "contact_id", name=op.f("pk_lane")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_lane_ready",
        "lane",
        ["tenant_id", "not_before"],
        unique=False,
        sqlite_where=sa.text("waiting > 0"),
        postgresql_where=sa.text("waiting > 0"),
    )
    op.create_index(
        "ix_lane_unheard",
        "lane",
        ["unheard_since"],
        unique=False,
        sqlite_where=sa.text("unheard > 0"),
        postgresql_where=sa.text("unheard > 0"),
    )
    op.create_table(
        "lane_lock",
        sa.Column("lock_key", sa.String(length=300), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("node_id", sa.String(length=60), nullable=True),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("lock_key", name=op.f("pk_lane_lock")),
    )
    op.create_table(
        "ledger",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("commit_order", sa.BigInteger(), nullable=False),
        sa.Column("command_id", sa.String(length=200), nullable=True),
        sa.Column("command_type", sa.String(length=20), nullable=True),
        sa.Column("result", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.String(length=60), nullable=False),
        sa.Column("effect_key", sa.String(length=200), nullable=True),
        sa.Column("entity_id", sa.String(length=200), nullable=True),
        sa.Column("entity_version", sa.Integer(), nullable=True),
        sa.Column("conversation_version", sa.Integer(), nullable=False),
        sa.Column("guardian_version", sa.Integer(), nullable=False),
        sa.Column("takeover_active", sa.Boolean(), nullable=False),
        sa.Column("mode_epoch", sa.Integer(), nullable=False),
        sa.Column("safe_deadline", UTCDateTime(), nullable=True),
        sa.Column("lock_backend", sa.String(length=30), nullable=False),
        sa.Column("lock_mode", sa.String(length=10), nullable=False),
        sa.Column("lock_ms", sa.Float(), nullable=False),
        sa.Column("node_id", sa.String(length=60), nullable=False),
        sa.Column("attempt", sa.String(length=64), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("event_age_s", sa.Float(), nullable=True),
        sa.Column("ttl_limit_s", sa.Float(), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("accepted_at", UTCDateTime(), nullable=False),
        sa.Column("committed_at", UTCDateTime(), nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "contact_id", "commit_order", name=op.f("pk_ledger")),
        sa.UniqueConstraint("tenant_id", "command_id", name=op.f("uq_ledger_tenant_id_command_id")),
        sa.UniqueConstraint("tenant_id", "effect_key", name=op.f("uq_ledger_tenant_id_effect_key")),
    )
    op.create_index("ix_ledger_committed_at", "ledger", ["tenant_id", "committed_at"], unique=False)
    op.create_index("ix_ledger_correlation", "ledger", ["tenant_id", "correlation_id"], unique=False)
    op.create_index("ix_ledger_minute", "ledger", ["committed_at"], unique=False)
    op.create_table(
        "log_line",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("line_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_log_line")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_log_line_correlation", "log_line", ["correlation_id", "position"], unique=False)
    op.create_table(
        "malformed_item",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("item_id", sa.String(length=200), nullable=False),
        sa.Column("given_id", sa.String(length=200), nullable=True),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("status", sa.String(length=40), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("reason", sa.String(length=60), nullable=False),
        sa.Column("errors_json", sa.Text(), nullable=False),
        sa.Column("raw_hash", sa.String(length=64), nullable=False),
        sa.Column("raw_json", sa.Text(), nullable=False),
        sa.Column("received_at", UTCDateTime(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "item_id", name=op.f("pk_malformed_item")),
        sa.UniqueConstraint("tenant_id", "raw_hash", name=op.f("uq_malformed_item_tenant_id_raw_hash")),
    )
    op.create_index("ix_malformed_item_correlation", "malformed_item", ["tenant_id", "correlation_id"], unique=False)
    op.create_index(op.f("ix_malformed_item_given_id"), "malformed_item", ["given_id"], unique=False)
    op.create_index(
        "ix_malformed_item_raw",
        "malformed_item",
        ["received_at"],
        unique=False,
        sqlite_where=sa.text("raw_json <> ''"),
        postgresql_where=sa.text("raw_json <> ''"),
    )
    op.create_table(
        "manual_task",
        sa.Column("task_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("dedup_key", sa.String(length=300), nullable=False),
        sa.Column("cause", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.String(length=60), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=True),
        sa.Column("command_id", sa.String(length=200), nullable=True),
        sa.Column("item_id", sa.String(length=300), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=True),
        sa.Column("claimed_at", UTCDateTime(), nullable=True),
        sa.Column("resolved_at", UTCDateTime(), nullable=True),
        sa.Column("resolution", sa.String(length=40), nullable=True),
        sa.Column("note", sa.String(length=1000), nullable=True),
        sa.Column("apply_command_id", sa.String(length=200), nullable=True),
        sa.CheckConstraint("status IN ('open','claimed','resolved')", name=op.f("ck_manual_task_status")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_manual_task")),
        sa.UniqueConstraint("tenant_id", "dedup_key", name=op.f("uq_manual_task_tenant_id_dedup_key")),
    )
    op.create_index(
        "ix_manual_task_open",
        "manual_task",
        ["tenant_id", "due_at"],
        unique=False,
        sqlite_where=sa.text("status <> 'resolved'"),
        postgresql_where=sa.text("status <> 'resolved'"),
    )
    op.create_table(
        "message",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("channel", sa.String(length=20), nullable=False),
        sa.Column("external_id", sa.String(length=300), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("conversation_id", sa.String(length=200), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("conversation_version", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("event_type", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.String(length=60), nullable=True),
        sa.Column("intent", sa.String(length=30), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("made_command_id", sa.String(length=200), nullable=True),
        sa.Column("occurred_at", UTCDateTime(), nullable=False),
        sa.Column("received_at", UTCDateTime(), nullable=False),
        sa.Column("done_at", UTCDateTime(), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("correlation_generated", sa.Boolean(), nullable=False),
        sa.Column("causation_id", sa.String(length=200), nullable=True),
        sa.Column("payload_version", sa.Integer(), nullable=False),
        sa.Column("payload_json", sa.Text(), nullable=False),
        sa.Column("payload_level", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "event_id", name=op.f("pk_message")),
        sa.UniqueConstraint("tenant_id", "channel", "external_id", name=op.f("uq_message_tenant_id_channel_external_id")),
        sa.UniqueConstraint("tenant_id", "contact_id", "sequence", name=op.f("uq_message_tenant_id_contact_id_sequence")),
    )
    op.create_index("ix_message_correlation", "message", ["tenant_id", "correlation_id"], unique=False)
    op.create_index(
        "ix_message_done",
        "message",
        ["done_at"],
        unique=False,
        sqlite_where=sa.text("done_at IS NOT NULL"),
        postgresql_where=sa.text("done_at IS NOT NULL"),
    )
    op.create_index(
        "ix_message_payload",
        "message",
        ["payload_level", "done_at"],
        unique=False,
        sqlite_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
        postgresql_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
    )
    op.create_index(
        "ix_message_pending",
        "message",
        ["tenant_id", "contact_id", "sequence"],
        unique=False,
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_index("ix_message_received", "message", ["tenant_id", "received_at"], unique=False)
    op.create_table(
        "mode",
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("safe_deadline", UTCDateTime(), nullable=True),
        sa.Column("since", UTCDateTime(), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("contingency", sa.Boolean(), nullable=False),
        sa.Column("contingency_since", UTCDateTime(), nullable=True),
        sa.Column("contingency_reason", sa.String(length=500), nullable=True),
        sa.CheckConstraint("state IN ('normal','safe_mode_active','recovering','draining')", name=op.f("ck_mode_state")),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_mode")),
    )
    op.create_table(
        "node",
        sa.Column("node_id", sa.String(length=60), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.Column("lock_mode", sa.String(length=10), nullable=False),
        sa.Column("loops_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_node")),
    )
    op.create_table(
        "outbox",
        sa.Column("outbox_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("cause_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.String(length=40), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=True),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("target", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=False),
        sa.Column("not_after", UTCDateTime(), nullable=True),
        sa.Column("lease_token", sa.String(length=64), nullable=True),
        sa.Column("lease_until", UTCDateTime(), nullable=True),
        sa.Column("sent_at", UTCDateTime(), nullable=True),
        sa.Column("provider_message_id", sa.String(length=200), nullable=True),
        sa.Column("delivery", sa.String(length=12), nullable=True),
        sa.Column("last_error", sa.String(length=500), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("body_json", sa.Text(), nullable=False),
        sa.Column("payload_level", sa.Integer(), nullable=False),
        sa.CheckConstraint("status IN ('pending','sending','sent','failed','unknown','dead')", name=op.f("ck_outbox_status")),
        sa.PrimaryKeyConstraint("outbox_id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("tenant_id", "cause_id", "step", name=op.f("uq_outbox_tenant_id_cause_id_step")),
    )
    op.create_index(
        "ix_outbox_due",
        "outbox",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("status IN ('pending','sending')"),
        postgresql_where=sa.text("status IN ('pending','sending')"),
    )
    op.create_index(
        "ix_outbox_payload",
        "outbox",
        ["payload_level", "created_at"],
        unique=False,
        sqlite_where=sa.text("status NOT IN ('pending','sending') AND payload_level < 2"),
        postgresql_where=sa.text("status NOT IN ('pending','sending') AND payload_level < 2"),
    )
    op.create_index(
        "ix_outbox_provider",
        "outbox",
        ["tenant_id", "provider_message_id"],
        unique=False,
        sqlite_where=sa.text("provider_message_id IS NOT NULL"),
        postgresql_where=sa.text("provider_message_id IS NOT NULL"),
    )
    op.create_table(
        "patient",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("patient_id", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "patient_id", name=op.f("pk_patient")),
    )
    op.create_table(
        "phone_message",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("target", sa.String(length=60), nullable=False),
        sa.Column("direction", sa.String(length=3), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_phone_message")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_phone_message_idempotency_key")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_phone_message_target", "phone_message", ["tenant_id", "target", "position"], unique=False)
    op.create_table(
        "proposal",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("command_id", sa.String(length=200), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("opened_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("closed_at", UTCDateTime(), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "command_id", name=op.f("pk_proposal")),
    )
    op.create_index(
        "uq_proposal_open",
        "proposal",
        ["tenant_id", "contact_id"],
        unique=True,
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.create_table(
        "queue_alarm",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("alert_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_queue_alarm")),
    )
    op.create_table(
        "replay_batch",
        sa.Column("replay_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("filter_json", sa.Text(), nullable=False),
        sa.Column("rate_per_s", sa.Float(), nullable=False),
        sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("filled_at", UTCDateTime(), nullable=False),
        sa.Column("planned_at", UTCDateTime(), nullable=False),
        sa.Column("planned_by", sa.String(length=200), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("started_by", sa.String(length=200), nullable=True),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("drifted", sa.Integer(), nullable=False),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.CheckConstraint("status IN ('planned','running','paused','cancelled','finished')", name=op.f("ck_replay_batch_status")),
        sa.PrimaryKeyConstraint("replay_id", name=op.f("pk_replay_batch")),
    )
    op.create_index(
        "ix_replay_batch_open",
        "replay_batch",
        ["status"],
        unique=False,
        sqlite_where=sa.text("status IN ('running','paused') OR (status = 'cancelled' AND ended_at IS NULL)"),
        postgresql_where=sa.text("status IN ('running','paused') OR (status = 'cancelled' AND ended_at IS NULL)"),
    )
    op.create_index("ix_replay_batch_tenant", "replay_batch", ["tenant_id", "planned_at"], unique=False)
    op.create_table(
        "replay_item",
        sa.Column("replay_id", sa.String(length=40), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("command_id", sa.String(length=200), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("pulled_in", sa.Boolean(), nullable=False),
        sa.Column("sent", sa.Boolean(), nullable=False),
        sa.Column("run_command_id", sa.String(length=200), nullable=False),
        sa.Column("commit_order", sa.BigInteger(), nullable=True),
        sa.Column("command_type", sa.String(length=20), nullable=False),
        sa.Column("was_status", sa.String(length=40), nullable=False),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("occurred_at", UTCDateTime(), nullable=True),
        sa.Column("appointment_id", sa.String(length=200), nullable=True),
        sa.Column("starts_at", UTCDateTime(), nullable=True),
        sa.Column("agenda_json", sa.Text(), nullable=False),
        sa.Column("predicted_state", sa.String(length=40), nullable=False),
        sa.Column("predicted_result", sa.String(length=40), nullable=False),
        sa.Column("predicted_reason", sa.String(length=60), nullable=False),
        sa.Column("expected_version", sa.BigInteger(), nullable=True),
        sa.Column("event_version", sa.BigInteger(), nullable=True),
        sa.Column("event_age_s", sa.Float(), nullable=True),
        sa.Column("ttl_limit_s", sa.Float(), nullable=True),
        sa.Column("message", sa.String(length=1000), nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("actual_state", sa.String(length=40), nullable=True),
        sa.Column("result", sa.String(length=40), nullable=True),
        sa.Column("reason", sa.String(length=60), nullable=True),
        sa.Column("drift", sa.Boolean(), nullable=False),
        sa.Column("done_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint("state IN ('planned','placed','released','done','cancelled')", name=op.f("ck_replay_item_state")),
        sa.PrimaryKeyConstraint("replay_id", "n", name=op.f("pk_replay_item")),
    )
    op.create_index("ix_replay_item_command", "replay_item", ["tenant_id", "command_id"], unique=False)
    op.create_index(
        "ix_replay_item_open",
        "replay_item",
        ["replay_id", "n"],
        unique=False,
        sqlite_where=sa.text("state IN ('planned','placed','released')"),
        postgresql_where=sa.text("state IN ('planned','placed','released')"),
    )
    op.create_table(
        "retention_round",
        sa.Column("name", sa.String(length=10), nullable=False),
        sa.Column("node_id", sa.String(length=100), nullable=False),
        sa.Column("until", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_retention_round")),
    )
    op.create_table(
        "safe_cause",
        sa.Column("episode_id", sa.String(length=40), nullable=False),
        sa.Column("cause_id", sa.String(length=60), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("summary", sa.String(length=500), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("episode_id", "cause_id", name=op.f("pk_safe_cause")),
    )
    op.create_table(
        "safe_episode",
        sa.Column("episode_id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("entered_at", UTCDateTime(), nullable=False),
        sa.Column("written_at", UTCDateTime(), nullable=False),
        sa.Column("entered_by", sa.String(length=200), nullable=False),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("reentries", sa.Integer(), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("recovery_action", sa.String(length=1000), nullable=True),
        sa.Column("runbook_step", sa.String(length=200), nullable=True),
        sa.Column("recovery_by", sa.String(length=200), nullable=True),
        sa.Column("recovery_at", UTCDateTime(), nullable=True),
        sa.Column("checklist_json", sa.Text(), nullable=False),
        sa.Column("green_since", UTCDateTime(), nullable=True),
        sa.Column("last_at", UTCDateTime(), nullable=True),
        sa.Column("reset_at", UTCDateTime(), nullable=True),
        sa.Column("reset_by", sa.String(length=200), nullable=True),
        sa.Column("reset_after_s", sa.Float(), nullable=True),
        sa.Column("exit_asked_at", UTCDateTime(), nullable=True),
        sa.Column("exit_asked_by", sa.String(length=200), nullable=True),
        sa.Column("exit_result", sa.String(length=60), nullable=True),
        sa.Column("exit_reason", sa.String(length=500), nullable=True),
        sa.Column("draining_since", UTCDateTime(), nullable=True),
        sa.Column("released_at", UTCDateTime(), nullable=True),
        sa.Column("released", sa.Integer(), nullable=False),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("episode_id", name=op.f("pk_safe_episode")),
    )
    op.create_index(op.f("ix_safe_episode_scope"), "safe_episode", ["scope"], unique=False)
    op.create_index(
        "uq_safe_episode_open",
        "safe_episode",
        ["scope"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "safe_step",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("episode_id", sa.String(length=40), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("detail", sa.String(length=1000), nullable=True),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_safe_step")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_safe_step_at"), "safe_step", ["at"], unique=False)
    op.create_index(op.f("ix_safe_step_episode_id"), "safe_step", ["episode_id"], unique=False)
    op.create_table(
        "scaled_time",
        sa.Column("name", sa.String(length=10), nullable=False),
        sa.Column("scale", sa.Float(), nullable=False),
        sa.Column("real_at", UTCDateTime(), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_scaled_time")),
    )
    op.create_table(
        "settings_doc",
        sa.Column("scope", sa.String(length=60), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("data_json", sa.Text(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.Column("updated_by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_settings_doc")),
    )
    op.create_table(
        "signal_critical",
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("signal", sa.String(length=60), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "signal", "at", name=op.f("pk_signal_critical")),
    )
    op.create_index("ix_signal_critical_at", "signal_critical", ["signal", "at"], unique=False)
    op.create_table(
        "signal_firing",
        sa.Column("firing_id", sa.String(length=40), nullable=False),
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("signal", sa.String(length=60), nullable=False),
        sa.Column("level", sa.String(length=10), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("values_json", sa.Text(), nullable=False),
        sa.Column("alert_id", sa.String(length=40), nullable=True),
        sa.Column("ended_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("firing_id", name=op.f("pk_signal_firing")),
    )
    op.create_index("ix_signal_firing_signal", "signal_firing", ["scope", "signal", "at"], unique=False)
    op.create_table(
        "signal_minute",
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("measure", sa.String(length=30), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "tenant_id", "measure", "bucket", name=op.f("pk_signal_minute")),
    )
    op.create_table(
        "signal_point",
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("signal", sa.String(length=60), nullable=False),
        sa.Column("at", UTCDateTime(), nullable=False),
        sa.Column("values_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "signal", "at", name=op.f("pk_signal_point")),
    )
    op.create_index("ix_signal_point_at", "signal_point", ["at"], unique=False)
    op.create_table(
        "signal_round",
        sa.Column("name", sa.String(length=10), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("claimed_at", UTCDateTime(), nullable=True),
        sa.Column("looked_at", UTCDateTime(), nullable=True),
        sa.Column("folded_minute", sa.BigInteger(), nullable=False),
        sa.Column("took_ms", sa.Float(), nullable=False),
        sa.Column("summary_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_signal_round")),
    )
    op.create_table(
        "signal_state",
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("signal", sa.String(length=60), nullable=False),
        sa.Column("level", sa.String(length=10), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=True),
        sa.Column("calm_since", UTCDateTime(), nullable=True),
        sa.Column("values_json", sa.Text(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=True),
        sa.Column("hits", sa.BigInteger(), nullable=True),
        sa.Column("measured_at", UTCDateTime(), nullable=False),
        sa.Column("point_at", UTCDateTime(), nullable=True),
        sa.Column("alert_id", sa.String(length=40), nullable=True),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.CheckConstraint("level IN ('normal','warning','critical')", name=op.f("ck_signal_state_level")),
        sa.PrimaryKeyConstraint("scope", "signal", name=op.f("pk_signal_state")),
    )
    op.create_table(
        "signing_key",
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("salt", sa.String(length=64), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("retired_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_signing_key")),
    )
    op.create_table(
        "source_clock",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("since", UTCDateTime(), nullable=False),
        sa.Column("measured_at", UTCDateTime(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("least_lag_s", sa.Float(), nullable=False),
        sa.Column("most_lag_s", sa.Float(), nullable=False),
        sa.CheckConstraint("state IN ('fine','ahead','behind')", name=op.f("ck_source_clock_state")),
        sa.PrimaryKeyConstraint("tenant_id", "source", name=op.f("pk_source_clock")),
    )
    op.create_table(
        "tenant",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("slug", sa.String(length=60), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("timezone", sa.String(length=60), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("disabled_at", UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenant")),
        sa.UniqueConstraint("slug", name=op.f("uq_tenant_slug")),
    )
    op.create_table(
        "therapist",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("therapist_id", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "therapist_id", name=op.f("pk_therapist")),
    )
    op.create_table(
        "ticket",
        sa.Column("ticket_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("rev", sa.Integer(), nullable=False),
        sa.Column("contact_id", sa.String(length=200), nullable=True),
        sa.Column("cause_id", sa.String(length=200), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("level", sa.String(length=12), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=True),
        sa.Column("opened_at", UTCDateTime(), nullable=False),
        sa.Column("due_at", UTCDateTime(), nullable=True),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("clock_from", UTCDateTime(), nullable=True),
        sa.Column("next_at", UTCDateTime(), nullable=True),
        sa.Column("answered_at", UTCDateTime(), nullable=True),
        sa.Column("closed_at", UTCDateTime(), nullable=True),
        sa.Column("close_reason", sa.String(length=500), nullable=True),
        sa.Column("correlation_id", sa.String(length=220), nullable=False),
        sa.Column("context_json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("ticket_id", name=op.f("pk_ticket")),
    )
    op.create_index(
        "ix_ticket_answered",
        "ticket",
        ["answered_at"],
        unique=False,
        sqlite_where=sa.text("answered_at IS NOT NULL"),
        postgresql_where=sa.text("answered_at IS NOT NULL"),
    )
    op.create_index(
        "ix_ticket_closed",
        "ticket",
        ["closed_at"],
        unique=False,
        sqlite_where=sa.text("closed_at IS NOT NULL"),
        postgresql_where=sa.text("closed_at IS NOT NULL"),
    )
    op.create_index("ix_ticket_correlation", "ticket", ["tenant_id", "correlation_id"], unique=False)
    op.create_index("ix_ticket_opened", "ticket", ["opened_at"], unique=False)
    op.create_index(
        "uq_ticket_takeover_open",
        "ticket",
        ["tenant_id", "contact_id"],
        unique=True,
        sqlite_where=sa.text("kind = 'takeover' AND closed_at IS NULL"),
        postgresql_where=sa.text("kind = 'takeover' AND closed_at IS NULL"),
    )
    op.create_table(
        "user_account",
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("password_hash", sa.String(length=300), nullable=False),
        sa.Column("language", sa.String(length=5), nullable=False),
        sa.Column("theme", sa.String(length=5), nullable=False),
        sa.Column("shortcuts", sa.Boolean(), nullable=False),
        sa.Column("failed_logins", sa.Integer(), nullable=False),
        sa.Column("locked_until", UTCDateTime(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("disabled_at", UTCDateTime(), nullable=True),
        sa.Column("signed_in_at", UTCDateTime(), nullable=True),
        sa.Column("left_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint("role IN ('secretary','manager','superadmin')", name=op.f("ck_user_account_role")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_user_account")),
        sa.UniqueConstraint("email", name=op.f("uq_user_account_email")),
    )
    op.create_table(
        "api_key",
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("scopes", sa.String(length=100), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=True),
        sa.Column("revoked_at", UTCDateTime(), nullable=True),
        sa.Column("last_used_at", UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.tenant_id"], name=op.f("fk_api_key_tenant_id_tenant"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_api_key_secret_hash")),
    )
    op.create_table(
        "saved_view",
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("page", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("filter", sa.String(length=1000), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user_account.user_id"], name=op.f("fk_saved_view_user_id_user_account"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "page", "name", name=op.f("pk_saved_view")),
    )
    op.create_table(
        "user_tenant",
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenant.tenant_id"], name=op.f("fk_user_tenant_tenant_id_tenant"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user_account.user_id"], name=op.f("fk_user_tenant_user_id_user_account"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "tenant_id", name=op.f("pk_user_tenant")),
    )
    op.create_table(
        "web_session",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("seen_at", UTCDateTime(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("address", sa.String(length=60), nullable=False),
        sa.Column("user_agent", sa.String(length=300), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user_account.user_id"], name=op.f("fk_web_session_user_id_user_account"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_web_session")),
    )
    op.create_index(op.f("ix_web_session_expires_at"), "web_session", ["expires_at"], unique=False)
    op.create_index(op.f("ix_web_session_user_id"), "web_session", ["user_id"], unique=False)
    # </tables>
    if op.get_bind().dialect.name == "postgresql":
        _forbid_overlapping_appointments()
        _raise_walls()


def downgrade() -> None:
    """Remove everything; the `btree_gist` extension stays, other schemas may use it."""
    if op.get_bind().dialect.name == "postgresql":
        _take_down_walls()
    # <drop tables>
    op.drop_index(op.f("ix_web_session_user_id"), table_name="web_session")
    op.drop_index(op.f("ix_web_session_expires_at"), table_name="web_session")
    op.drop_table("web_session")
    op.drop_table("user_tenant")
    op.drop_table("saved_view")
    op.drop_table("api_key")
    op.drop_table("user_account")
    op.drop_index(
        "uq_ticket_takeover_open",
        table_name="ticket",
        sqlite_where=sa.text("kind = 'takeover' AND closed_at IS NULL"),
        postgresql_where=sa.text("kind = 'takeover' AND closed_at IS NULL"),
    )
    op.drop_index("ix_ticket_opened", table_name="ticket")
    op.drop_index("ix_ticket_correlation", table_name="ticket")
    op.drop_index(
        "ix_ticket_closed",
        table_name="ticket",
        sqlite_where=sa.text("closed_at IS NOT NULL"),
        postgresql_where=sa.text("closed_at IS NOT NULL"),
    )
    op.drop_index(
        "ix_ticket_answered",
        table_name="ticket",
        sqlite_where=sa.text("answered_at IS NOT NULL"),
        postgresql_where=sa.text("answered_at IS NOT NULL"),
    )
    op.drop_table("ticket")
    op.drop_table("therapist")
    op.drop_table("tenant")
    op.drop_table("source_clock")
    op.drop_table("signing_key")
    op.drop_table("signal_state")
    op.drop_table("signal_round")
    op.drop_index("ix_signal_point_at", table_name="signal_point")
    op.drop_table("signal_point")
    op.drop_table("signal_minute")
    op.drop_index("ix_signal_firing_signal", table_name="signal_firing")
    op.drop_table("signal_firing")
    op.drop_index("ix_signal_critical_at", table_name="signal_critical")
    op.drop_table("signal_critical")
    op.drop_table("settings_doc")
    op.drop_table("scaled_time")
    op.drop_index(op.f("ix_safe_step_episode_id"), table_name="safe_step")
    op.drop_index(op.f("ix_safe_step_at"), table_name="safe_step")
    op.drop_table("safe_step")
    op.drop_index(
        "uq_safe_episode_open",
        table_name="safe_episode",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.drop_index(op.f("ix_safe_episode_scope"), table_name="safe_episode")
    op.drop_table("safe_episode")
    op.drop_table("safe_cause")
    op.drop_table("retention_round")
    op.drop_index(
        "ix_replay_item_open",
        table_name="replay_item",
        sqlite_where=sa.text("state IN ('planned','placed','released')"),
        postgresql_where=sa.text("state IN ('planned','placed','released')"),
    )
    op.drop_index("ix_replay_item_command", table_name="replay_item")
    op.drop_table("replay_item")
    op.drop_index("ix_replay_batch_tenant", table_name="replay_batch")
    op.drop_index(
        "ix_replay_batch_open",
        table_name="replay_batch",
        sqlite_where=sa.text("status IN ('running','paused') OR (status = 'cancelled' AND ended_at IS NULL)"),
        postgresql_where=sa.text("status IN ('running','paused') OR (status = 'cancelled' AND ended_at IS NULL)"),
    )
    op.drop_table("replay_batch")
    op.drop_table("queue_alarm")
    op.drop_index(
        "uq_proposal_open",
        table_name="proposal",
        sqlite_where=sa.text("closed_at IS NULL"),
        postgresql_where=sa.text("closed_at IS NULL"),
    )
    op.drop_table("proposal")
    op.drop_index("ix_phone_message_target", table_name="phone_message")
    op.drop_table("phone_message")
    op.drop_table("patient")
    op.drop_index(
        "ix_outbox_provider",
        table_name="outbox",
        sqlite_where=sa.text("provider_message_id IS NOT NULL"),
        postgresql_where=sa.text("provider_message_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_outbox_payload",
        table_name="outbox",
        sqlite_where=sa.text("status NOT IN ('pending','sending') AND payload_level < 2"),
        postgresql_where=sa.text("status NOT IN ('pending','sending') AND payload_level < 2"),
    )
    op.drop_index(
        "ix_outbox_due",
        table_name="outbox",
        sqlite_where=sa.text("status IN ('pending','sending')"),
        postgresql_where=sa.text("status IN ('pending','sending')"),
    )
    op.drop_table("outbox")
    op.drop_table("node")
    op.drop_table("mode")
    op.drop_index("ix_message_received", table_name="message")
    op.drop_index(
        "ix_message_pending",
        table_name="message",
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.drop_index(
        "ix_message_payload",
        table_name="message",
        sqlite_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
        postgresql_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
    )
    op.drop_index(
        "ix_message_done",
        table_name="message",
        sqlite_where=sa.text("done_at IS NOT NULL"),
        postgresql_where=sa.text("done_at IS NOT NULL"),
    )
    op.drop_index("ix_message_correlation", table_name="message")
    op.drop_table("message")
    op.drop_index(
        "ix_manual_task_open",
        table_name="manual_task",
        sqlite_where=sa.text("status <> 'resolved'"),
        postgresql_where=sa.text("status <> 'resolved'"),
    )
    op.drop_table("manual_task")
    op.drop_index(
        "ix_malformed_item_raw",
        table_name="malformed_item",
        sqlite_where=sa.text("raw_json <> ''"),
        postgresql_where=sa.text("raw_json <> ''"),
    )
    op.drop_index(op.f("ix_malformed_item_given_id"), table_name="malformed_item")
    op.drop_index("ix_malformed_item_correlation", table_name="malformed_item")
    op.drop_table("malformed_item")
    op.drop_index("ix_log_line_correlation", table_name="log_line")
    op.drop_table("log_line")
    op.drop_index("ix_ledger_minute", table_name="ledger")
    op.drop_index("ix_ledger_correlation", table_name="ledger")
    op.drop_index("ix_ledger_committed_at", table_name="ledger")
    op.drop_table("ledger")
    op.drop_table("lane_lock")
    op.drop_index(
        "ix_lane_unheard", table_name="lane", sqlite_where=sa.text("unheard > 0"), postgresql_where=sa.text("unheard > 0")
    )
    op.drop_index("ix_lane_ready", table_name="lane", sqlite_where=sa.text("waiting > 0"), postgresql_where=sa.text("waiting > 0"))
    op.drop_table("lane")
    op.drop_table("hold")
    op.drop_index(op.f("ix_health_sample_at"), table_name="health_sample")
    op.drop_table("health_sample")
    op.drop_table("health_probe")
    op.drop_table("guardian")
    op.drop_table("failing_deliveries")
    op.drop_index(
        "uq_evidence_pack_pending",
        table_name="evidence_pack",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.drop_index("ix_evidence_pack_subject", table_name="evidence_pack")
    op.drop_index("ix_evidence_pack_scope", table_name="evidence_pack")
    op.drop_index("ix_evidence_pack_requested", table_name="evidence_pack")
    op.drop_index("ix_evidence_pack_finished", table_name="evidence_pack")
    op.drop_index(
        "ix_evidence_pack_due",
        table_name="evidence_pack",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.drop_table("evidence_pack")
    op.drop_table("evidence_file")
    op.drop_index(op.f("ix_event_log_at"), table_name="event_log")
    op.drop_table("event_log")
    op.drop_index(
        "uq_drill_open", table_name="drill", sqlite_where=sa.text("ended_at IS NULL"), postgresql_where=sa.text("ended_at IS NULL")
    )
    op.drop_index(op.f("ix_drill_requested_at"), table_name="drill")
    op.drop_table("drill")
    op.drop_index(
        "uq_drain_open", table_name="drain", sqlite_where=sa.text("ended_at IS NULL"), postgresql_where=sa.text("ended_at IS NULL")
    )
    op.drop_index("ix_drain_tenant", table_name="drain")
    op.drop_table("drain")
    op.drop_table("delivery_status")
    op.drop_table("deferred_item")
    op.drop_index(
        "ix_d1_step_asked",
        table_name="d1_step",
        sqlite_where=sa.text("action = 'ask_family' AND contact_id IS NOT NULL"),
        postgresql_where=sa.text("action = 'ask_family' AND contact_id IS NOT NULL"),
    )
    op.drop_table("d1_step")
    op.drop_index(
        "ix_contingency_notice_open",
        table_name="contingency_notice",
        sqlite_where=sa.text("result IS NULL"),
        postgresql_where=sa.text("result IS NULL"),
    )
    op.drop_index(op.f("ix_contingency_notice_done_at"), table_name="contingency_notice")
    op.drop_table("contingency_notice")
    op.drop_table("contingency_channel")
    op.drop_index(
        "uq_contact_tenant_id_phone",
        table_name="contact",
        sqlite_where=sa.text("phone IS NOT NULL"),
        postgresql_where=sa.text("phone IS NOT NULL"),
    )
    op.drop_table("contact")
    op.drop_index(
        "ix_command_unplaced",
        table_name="command",
        sqlite_where=sa.text("commit_order IS NULL"),
        postgresql_where=sa.text("commit_order IS NULL"),
    )
    op.drop_index(
        "ix_command_pending",
        table_name="command",
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.drop_index(
        "ix_command_payload",
        table_name="command",
        sqlite_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
        postgresql_where=sa.text("done_at IS NOT NULL AND payload_level < 2"),
    )
    op.drop_index("ix_command_key", table_name="command")
    op.drop_index(
        "ix_command_held",
        table_name="command",
        sqlite_where=sa.text("status IN ('waiting_previous_commit','pending_safe_mode','pending_contingency')"),
        postgresql_where=sa.text("status IN ('waiting_previous_commit','pending_safe_mode','pending_contingency')"),
    )
    op.drop_index(
        "ix_command_generated",
        table_name="command",
        sqlite_where=sa.text("correlation_generated"),
        postgresql_where=sa.text("correlation_generated"),
    )
    op.drop_index("ix_command_correlation", table_name="command")
    op.drop_table("command")
    op.drop_table("audit_head")
    op.drop_index("ix_audit_entry_object", table_name="audit_entry")
    op.drop_index("ix_audit_entry_at", table_name="audit_entry")
    op.drop_table("audit_entry")
    op.drop_table("appointment_version")
    op.drop_index(
        "ix_appointment_slot",
        table_name="appointment",
        sqlite_where=sa.text("status <> 'cancelled'"),
        postgresql_where=sa.text("status <> 'cancelled'"),
    )
    op.drop_index("ix_appointment_patient", table_name="appointment")
    op.drop_table("appointment")
    op.drop_index("ix_alert_step_provider", table_name="alert_step")
    op.drop_index(
        "ix_alert_step_merged",
        table_name="alert_step",
        sqlite_where=sa.text("merged_into IS NOT NULL"),
        postgresql_where=sa.text("merged_into IS NOT NULL"),
    )
    op.drop_index("ix_alert_step_group", table_name="alert_step")
    op.drop_index(
        "ix_alert_step_due",
        table_name="alert_step",
        sqlite_where=sa.text("done_at IS NULL"),
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.drop_table("alert_step")
    op.drop_index(
        "uq_alert_open",
        table_name="alert",
        sqlite_where=sa.text("status <> 'resolved'"),
        postgresql_where=sa.text("status <> 'resolved'"),
    )
    op.drop_index(
        "ix_alert_unacknowledged",
        table_name="alert",
        sqlite_where=sa.text("acked_at IS NULL AND safe_mode_at IS NOT NULL"),
        postgresql_where=sa.text("acked_at IS NULL AND safe_mode_at IS NOT NULL"),
    )
    op.drop_index("ix_alert_raised", table_name="alert")
    op.drop_index("ix_alert_minute", table_name="alert")
    op.drop_index("ix_alert_group", table_name="alert")
    op.drop_index(
        "ix_alert_flapping",
        table_name="alert",
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.drop_index("ix_alert_dedup", table_name="alert")
    op.drop_index("ix_alert_correlation", table_name="alert")
    op.drop_table("alert")
    op.drop_index(op.f("ix_ack_token_alert_id"), table_name="ack_token")
    op.drop_table("ack_token")
    op.drop_table("ack_record")
    # </drop tables>


def _raise_walls() -> None:
    # <walls>
    op.execute("ALTER TABLE ack_record ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_1ec5f37d ON ack_record USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]) OR (tenant_id IS NULL AND NULLIF((SELECT current_setting('kora.tenants', "
        "true)), '') IS NOT NULL))"
    )
    op.execute("ALTER TABLE ack_token ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_d8201b59 ON ack_token USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR EXISTS (SELECT 1 FROM alert AS p WHERE p.alert_id = ack_token.alert_id))"
    )
    op.execute("ALTER TABLE alert ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_1ec5f37d ON alert USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]) OR (tenant_id IS NULL AND NULLIF((SELECT current_setting('kora.tenants', true)), '') "
        "IS NOT NULL))"
    )
    op.execute("ALTER TABLE alert_step ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_1ec5f37d ON alert_step USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]) OR (tenant_id IS NULL AND NULLIF((SELECT current_setting('kora.tenants', "
        "true)), '') IS NOT NULL))"
    )
    op.execute("ALTER TABLE api_key ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON api_key USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE appointment ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON appointment USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE appointment_version ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON appointment_version USING ((SELECT "
        "current_setting('kora.tenants', true)) = '*' OR tenant_id = ANY ((SELECT "
        "string_to_array(NULLIF(current_setting('kora.tenants', true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE audit_entry ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_a668688b ON audit_entry USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR regexp_replace(chain, '^ev:', '') = ANY ((SELECT "
        "string_to_array(NULLIF(current_setting('kora.tenants', true), ''), ','))::text[]) OR "
        "(regexp_replace(chain, '^ev:', '') = 'global' AND NULLIF((SELECT current_setting('kora.tenants', "
        "true)), '') IS NOT NULL))"
    )
    op.execute("ALTER TABLE audit_head ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_a668688b ON audit_head USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR regexp_replace(chain, '^ev:', '') = ANY ((SELECT "
        "string_to_array(NULLIF(current_setting('kora.tenants', true), ''), ','))::text[]) OR "
        "(regexp_replace(chain, '^ev:', '') = 'global' AND NULLIF((SELECT current_setting('kora.tenants', "
        "true)), '') IS NOT NULL))"
    )
    op.execute("ALTER TABLE command ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON command USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE contact ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON contact USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE contingency_channel ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON contingency_channel USING ((SELECT "
        "current_setting('kora.tenants', true)) = '*' OR tenant_id = ANY ((SELECT "
        "string_to_array(NULLIF(current_setting('kora.tenants', true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE contingency_notice ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON contingency_notice USING ((SELECT "
        "current_setting('kora.tenants', true)) = '*' OR tenant_id = ANY ((SELECT "
        "string_to_array(NULLIF(current_setting('kora.tenants', true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE d1_step ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON d1_step USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE delivery_status ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON delivery_status USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE drain ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON drain USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE event_log ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_1ec5f37d ON event_log USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]) OR (tenant_id IS NULL AND NULLIF((SELECT current_setting('kora.tenants', "
        "true)), '') IS NOT NULL))"
    )
    op.execute("ALTER TABLE evidence_file ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_c33e6a38 ON evidence_file USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR EXISTS (SELECT 1 FROM evidence_pack AS p WHERE p.pack_id = evidence_file.pack_id))"
    )
    op.execute("ALTER TABLE evidence_pack ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_1ec5f37d ON evidence_pack USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]) OR (tenant_id IS NULL AND NULLIF((SELECT current_setting('kora.tenants', "
        "true)), '') IS NOT NULL))"
    )
    op.execute("ALTER TABLE failing_deliveries ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON failing_deliveries USING ((SELECT "
        "current_setting('kora.tenants', true)) = '*' OR tenant_id = ANY ((SELECT "
        "string_to_array(NULLIF(current_setting('kora.tenants', true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE guardian ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON guardian USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE hold ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON hold USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE lane ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON lane USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE ledger ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON ledger USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE log_line ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_1ec5f37d ON log_line USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]) OR (tenant_id IS NULL AND NULLIF((SELECT current_setting('kora.tenants', true)), '') "
        "IS NOT NULL))"
    )
    op.execute("ALTER TABLE malformed_item ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON malformed_item USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE manual_task ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON manual_task USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE message ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON message USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE mode ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_ed06e76d ON mode USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR scope = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]) OR (scope = 'global' AND NULLIF((SELECT current_setting('kora.tenants', true)), '') "
        "IS NOT NULL))"
    )
    op.execute("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON outbox USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE patient ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON patient USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE phone_message ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_1ec5f37d ON phone_message USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]) OR (tenant_id IS NULL AND NULLIF((SELECT current_setting('kora.tenants', "
        "true)), '') IS NOT NULL))"
    )
    op.execute("ALTER TABLE proposal ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON proposal USING ((SELECT current_setting('kora.tenants', true)) "
        "= '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE queue_alarm ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON queue_alarm USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE replay_batch ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON replay_batch USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE replay_item ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON replay_item USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE safe_cause ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_59660d35 ON safe_cause USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR EXISTS (SELECT 1 FROM safe_episode AS p WHERE p.episode_id = safe_cause.episode_id))"
    )
    op.execute("ALTER TABLE safe_episode ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_ed06e76d ON safe_episode USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR scope = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), "
        "''), ','))::text[]) OR (scope = 'global' AND NULLIF((SELECT current_setting('kora.tenants', true)), "
        "'') IS NOT NULL))"
    )
    op.execute("ALTER TABLE safe_step ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_96bf01eb ON safe_step USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR EXISTS (SELECT 1 FROM safe_episode AS p WHERE p.episode_id = safe_step.episode_id))"
    )
    op.execute("ALTER TABLE settings_doc ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_ed06e76d ON settings_doc USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR scope = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), "
        "''), ','))::text[]) OR (scope = 'global' AND NULLIF((SELECT current_setting('kora.tenants', true)), "
        "'') IS NOT NULL))"
    )
    op.execute("ALTER TABLE signal_critical ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_ed06e76d ON signal_critical USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR scope = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), "
        "''), ','))::text[]) OR (scope = 'global' AND NULLIF((SELECT current_setting('kora.tenants', true)), "
        "'') IS NOT NULL))"
    )
    op.execute("ALTER TABLE signal_firing ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_ed06e76d ON signal_firing USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR scope = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), "
        "''), ','))::text[]) OR (scope = 'global' AND NULLIF((SELECT current_setting('kora.tenants', true)), "
        "'') IS NOT NULL))"
    )
    op.execute("ALTER TABLE signal_minute ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON signal_minute USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE signal_point ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_ed06e76d ON signal_point USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR scope = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), "
        "''), ','))::text[]) OR (scope = 'global' AND NULLIF((SELECT current_setting('kora.tenants', true)), "
        "'') IS NOT NULL))"
    )
    op.execute("ALTER TABLE signal_state ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_ed06e76d ON signal_state USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR scope = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), "
        "''), ','))::text[]) OR (scope = 'global' AND NULLIF((SELECT current_setting('kora.tenants', true)), "
        "'') IS NOT NULL))"
    )
    op.execute("ALTER TABLE source_clock ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON source_clock USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE tenant ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON tenant USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE therapist ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON therapist USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    op.execute("ALTER TABLE ticket ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON ticket USING ((SELECT current_setting('kora.tenants', true)) = "
        "'*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', true), ''), "
        "','))::text[]))"
    )
    op.execute("ALTER TABLE user_tenant ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY tenant_wall_7f36ba66 ON user_tenant USING ((SELECT current_setting('kora.tenants', "
        "true)) = '*' OR tenant_id = ANY ((SELECT string_to_array(NULLIF(current_setting('kora.tenants', "
        "true), ''), ','))::text[]))"
    )
    # </walls>


def _take_down_walls() -> None:
    """Some policies look at another table, which could not be dropped before them."""
    conn = op.get_bind()
    names = conn.execute(sa.text("SELECT tablename, policyname FROM pg_policies WHERE schemaname = current_schema()")).all()
    for table_name, policy_name in names:
        conn.execute(sa.text(f'DROP POLICY "{policy_name}" ON "{table_name}"'))


def _forbid_overlapping_appointments() -> None:
    conn = op.get_bind()
    installed = conn.scalar(sa.text("SELECT count(*) FROM pg_extension WHERE extname = 'btree_gist'"))
    if not installed:
        try:
            conn.execute(sa.text("CREATE EXTENSION IF NOT EXISTS btree_gist"))
        except DBAPIError as error:
            raise ConfigError(
                "PostgreSQL's btree_gist extension is missing and could not be created; install the contrib package and "
                "run CREATE EXTENSION btree_gist as a superuser in this database"
            ) from error
    op.execute(
        "ALTER TABLE appointment ADD CONSTRAINT ex_appointment_therapist_slot "
        "EXCLUDE USING gist (tenant_id WITH =, therapist_id WITH =, tstzrange(start_at, end_at) WITH &&) "
        "WHERE (status <> 'cancelled')"
    )
