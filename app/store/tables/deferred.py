"""Deferred items of the plan: where their reopening trigger stands, and what people decided."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, when


class DeferredItem(SQLModel, table=True):
    """One deferred item; no row = deferred, never triggered, nobody has decided anything."""

    __tablename__ = "deferred_item"
    __table_args__ = (CheckConstraint("state IN ('deferred_with_trigger','reopen_triggered')", name="state"),)
    item_id: str = key(40)
    state: str = Field(max_length=30)
    since: datetime = when()
    facts_json: str = doc()
    """What met the trigger, as it was then."""
    alert_id: str | None = Field(default=None, max_length=40)
    pack_id: str | None = Field(default=None, max_length=40)
    decided_at: datetime | None = when(default=None)
    """Facts from before do not count again."""
    decided_by: str | None = Field(default=None, max_length=200)
    decision: str | None = Field(default=None, max_length=500)
    rev: int = 1
