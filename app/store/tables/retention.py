"""Retention: who prunes now."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from app.store.tables.base import key, when


class RetentionRound(SQLModel, table=True):
    """One row: the node that has the round, and until when it is taken to be at it."""

    __tablename__ = "retention_round"
    name: str = key(10)
    node_id: str = Field(max_length=100)
    until: datetime = when()
