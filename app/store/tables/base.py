"""What every table module shares: the metadata, naming rules and column shorthands."""

from typing import Any

from sqlalchemy import BigInteger, Index, Integer, Table, Text, text
from sqlmodel import Field, SQLModel

from app.store.columns import UTCDateTime

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = SQLModel.metadata

# BIGINT identity on PostgreSQL, rowid alias on SQLite
BigId = BigInteger().with_variant(Integer, "sqlite")


def table(model: type[SQLModel]) -> Table:
    """The Core table behind a model, typed."""
    core: Table = model.__table__  # type: ignore[attr-defined]  # SQLModel adds it at class creation
    return core


def key(max_length: int = 200, **kwargs: Any) -> Any:
    """A (part of a) primary key: text of at most `max_length` characters."""
    return Field(primary_key=True, max_length=max_length, **kwargs)


def when(**kwargs: Any) -> Any:
    """A UTC time."""
    return Field(sa_type=UTCDateTime, **kwargs)


def doc(**kwargs: Any) -> Any:
    """A JSON document as text, never queried inside."""
    return Field(sa_type=Text, **kwargs)


def partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the rows that satisfy `where`, on both databases."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))
