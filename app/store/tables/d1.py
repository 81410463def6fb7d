"""Day-before confirmations: what was done for which appointment, once."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from app.store.tables.base import key, partial, when


class D1StepRow(SQLModel, table=True):
    """One step of one appointment at one start: its primary key is what makes a step happen once, on however many nodes."""

    __tablename__ = "d1_step"
    __table_args__ = (
        partial("ix_d1_step_asked", "tenant_id", "contact_id", where="action = 'ask_family' AND contact_id IS NOT NULL"),
    )
    tenant_id: str = key(40)
    appointment_id: str = key(300)
    start_at: datetime = when(primary_key=True)
    action: str = key(20)
    done_at: datetime = when()
    late: bool = False
    outcome: str = Field(max_length=20)
    """done | missed (its time was over) | nobody (no guardian may be asked)."""
    contact_id: str | None = Field(default=None, max_length=200)
    """Who was asked."""
