"""Queues that are longer than they should be (S-PC-01-001)."""

from datetime import datetime

from sqlmodel import SQLModel

from app.store.tables.base import key, when


class QueueAlarm(SQLModel, table=True):
    """A clinic whose queue alarms; the row is there from the threshold until the queue is well again."""

    __tablename__ = "queue_alarm"
    tenant_id: str = key(40)
    since: datetime = when()
    length: int
    """Items that waited when it began."""
    alert_at: int
    """The threshold as it was then."""
