"""Column types shared by all tables: UTC-only times, the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.types import TypeDecorator


class UTCDateTime(TypeDecorator[datetime]):
    """timestamptz on PostgreSQL, fixed-width UTC text on SQLite; refuses naive values, always returns aware UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware value to what the driver stores."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("naive datetime refused; pass an aware UTC value")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """None on PostgreSQL: its driver hands out aware UTC times, and asking each of them costs more than reading it."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Stored value to aware UTC."""
        if value is None:
            return None
        moment: datetime = value
        if moment.tzinfo is UTC:
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def json_time(value: datetime, dialect_name: str) -> str:
    """The text of `value` inside a JSON row set: equal to what a bound parameter would store."""
    value = value if value.tzinfo is UTC else value.astimezone(UTC)
    return value.isoformat(" ", "microseconds")[:-6] if dialect_name == "sqlite" else value.isoformat()
