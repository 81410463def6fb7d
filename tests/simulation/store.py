"""The one database of a world: SQLite in memory, whole transactions, and a way back to the beginning.

Everything a world writes happens inside one outer transaction that is never committed, so that the next world starts from
the same migrated schema, and from the same clinics, within microseconds. A transaction of the product is a savepoint in it:
released when it commits, rolled back when it fails. Which transaction comes next is decided by the callers' awaits, as with any
database; statements of two transactions never mix (on PostgreSQL the row locks and the compare-and-set see to that;
tests/faults show it there).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from app.store.tables import metadata

T = TypeVar("T")

_NONE = object()


class SharedStore:
    """Schema once per process; `begin` and `end` around each world."""

    def __init__(self) -> None:
        self._engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

        @event.listens_for(self._engine, "connect")
        def _connect(dbapi: Any, _record: Any) -> None:
            dbapi.isolation_level = None
            dbapi.execute("PRAGMA foreign_keys=ON")

        self._conn: Connection = self._engine.connect()
        metadata.create_all(self._conn)
        self._conn.commit()
        self.transactions = 0
        self._ground: object = _NONE

    def begin(self, ground: object = None, build: Callable[[Connection], None] | None = None) -> None:
        """A fresh world on what `build` writes; that stays for the next one if it begins on the same `ground`."""
        self.transactions = 0
        if ground != self._ground:
            if self._ground is not _NONE:
                self._conn.exec_driver_sql("ROLLBACK")
            self._conn.exec_driver_sql("BEGIN")
            if build is not None:
                build(self._conn)
            self._ground = ground
        self._conn.exec_driver_sql("SAVEPOINT world")

    def end(self) -> None:
        """Forget everything that the world wrote."""
        self._conn.exec_driver_sql("ROLLBACK TO world")
        self._conn.exec_driver_sql("RELEASE world")

    def run(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """One transaction: all of it, or nothing and the error."""
        self.transactions += 1
        self._conn.exec_driver_sql("SAVEPOINT tx")
        try:
            result = fn(self._conn, *args, **kwargs)
        except BaseException:
            self._conn.exec_driver_sql("ROLLBACK TO tx")
            self._conn.exec_driver_sql("RELEASE tx")
            raise
        self._conn.exec_driver_sql("RELEASE tx")
        return result

    def read(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """One read transaction; whole, because nothing else runs meanwhile."""
        return fn(self._conn, *args, **kwargs)

    def foresee(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What a transaction would answer; nothing stays."""
        self._conn.exec_driver_sql("SAVEPOINT tx")
        try:
            return fn(self._conn, *args, **kwargs)
        finally:
            self._conn.exec_driver_sql("ROLLBACK TO tx")
            self._conn.exec_driver_sql("RELEASE tx")

    def close(self) -> None:
        """Give the connection back."""
        self._conn.close()
        self._engine.dispose()


def start_of_world() -> datetime:
    """Virtual second 0 as a time."""
    return datetime.fromisoformat("2026-11-23T12:00:00+00:00")
