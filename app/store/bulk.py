"""Many rows in one statement, on both databases.

Rows travel as one JSON parameter (`json_to_recordset` on PostgreSQL, as `jsonb` would sort the keys of every row first;
`json_each` on SQLite), so a batch costs one round trip and one plan however many rows it has. Every function keeps the order
of the rows given.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Boolean, Connection, CursorResult, Float, Integer, Table, TextClause, TextualSelect, column, text
from sqlalchemy.types import TypeEngine

from app.store.columns import UTCDateTime, json_time

Row = Mapping[str, Any]


def encode(rows: Sequence[Row], dialect: str) -> str:
    """JSON text of the rows; times as a bound parameter would store them. Raises TypeError for what has no JSON form."""
    if dialect == "sqlite":
        rows = [{k: json_time(v, dialect) if isinstance(v, datetime) else v for k, v in row.items()} for row in rows]
    return msgspec.json.encode(rows, enc_hook=_refuse).decode()


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} has no JSON form")


@lru_cache(maxsize=256)
def _record_set(table: Table, columns: tuple[str, ...], dialect: str, tag: str = "") -> str:
    """A FROM item `r` with the given columns of `table`, read from the parameter :rows (and the tag)."""
    if dialect == "postgresql":
        fields = ", ".join(f"{c} {_pg_type(_column_type(table, c))}" for c in columns)
        return f"json_to_recordset(CAST(:rows{tag} AS json)) AS r({fields})"
    fields = ", ".join(f"json_extract(value, '$.{c}') AS {c}" for c in columns)
    return f"(SELECT {fields}, key AS ordinal FROM json_each(:rows{tag})) AS r"


def _column_type(table: Table, column: str) -> TypeEngine[Any]:
    """Type of a column, or of the column behind a `was_` prefix (expected value of a compare-and-set)."""
    name = column.removeprefix("was_") if column not in table.c else column
    return table.c[name].type


def _pg_type(kind: TypeEngine[Any]) -> str:
    if isinstance(kind, UTCDateTime):
        return "timestamptz"
    if isinstance(kind, Boolean):
        return "boolean"
    if isinstance(kind, Integer):
        return "bigint"
    if isinstance(kind, Float):
        return "double precision"
    return "text"


def insert_rows(
    conn: Connection,
    table: Table,
    rows: Sequence[Row],
    *,
    columns: Iterable[str] | None = None,
    common: Row | None = None,
    ignore_conflicts: bool = False,
) -> int:
    """Insert rows that all have the same keys; returns how many were inserted.

    With `columns` a row may leave out what is NULL. `common` holds what is the same in all of them and travels once. Columns in
    none of these get the table's plain defaults.
    """
    if not rows:
        return 0
    statement, given = _insertion(table, rows, conn.dialect.name, columns, common, ignore_conflicts)
    return int(conn.execute(_text(statement), given).rowcount)


_text = lru_cache(maxsize=512)(text)


def _insertion(
    table: Table,
    rows: Sequence[Row],
    dialect: str,
    columns: Iterable[str] | None,
    common: Row | None,
    ignore_conflicts: bool,
    tag: str = "",
    expressions: Mapping[str, str] | None = None,
) -> tuple[str, dict[str, Any]]:
    """The statement of an insert and its parameters, whose names end with the tag."""
    columns, made = tuple(columns if columns is not None else rows[0]), tuple((expressions or {}).items())
    shared = {**_defaults(table, columns), **(common or {})}
    statement = _insert(table, columns, tuple(shared), dialect, ignore_conflicts, tag, made)
    return statement, _given(rows, shared, dialect, tag)


def _change(
    table: Table,
    rows: Sequence[Row],
    dialect: str,
    keys: Iterable[str],
    assign: Iterable[str],
    expressions: Mapping[str, str] | None,
    common: Row | None,
    guard: str,
    tag: str = "",
    *,
    in_order: bool = False,
) -> tuple[str, dict[str, Any]]:
    """The same of an update."""
    changes, shared = (*((c, f"r.{c}") for c in assign), *(expressions or {}).items()), common or {}
    in_order = in_order and dialect == "postgresql" and len(rows) > 1
    statement = _update(table, tuple(rows[0]), tuple(keys), changes, tuple(shared), guard, dialect, tag, in_order)
    return statement, _given(rows, shared, dialect, tag)


def _given(rows: Sequence[Row], common: Row, dialect: str, tag: str = "") -> dict[str, Any]:
    """The parameters: the rows, and what all of them have in common."""
    as_text = dialect == "sqlite"
    shared = {f"c{tag}_{n}": json_time(v, dialect) if as_text and isinstance(v, datetime) else v for n, v in common.items()}
    return {f"rows{tag}": encode(rows, dialect), **shared}


def _common(table: Table, column: str, dialect: str, tag: str) -> str:
    """The SQL of what all rows have in common, as a value of its column."""
    return f"CAST(:c{tag}_{column} AS {_pg_type(table.c[column].type)})" if dialect == "postgresql" else f":c{tag}_{column}"


@lru_cache(maxsize=256)
def _defaults(table: Table, given: tuple[str, ...]) -> Row:
    """Plain defaults of the columns that are not given."""
    return {c.name: c.default.arg for c in table.c if c.default is not None and c.default.is_scalar and c.name not in given}  # type: ignore[attr-defined]


@lru_cache(maxsize=256)
def _insert(
    table: Table,
    columns: tuple[str, ...],
    shared: tuple[str, ...],
    dialect: str,
    ignore_conflicts: bool,
    tag: str = "",
    expressions: tuple[tuple[str, str], ...] = (),
) -> str:
    names = ", ".join((*columns, *shared, *(name for name, _ in expressions)))
    values = ", ".join((*columns, *(_common(table, c, dialect, tag) for c in shared), *(sql for _, sql in expressions)))
    source = _record_set(table, columns, dialect, tag)
    where = "" if dialect == "postgresql" else " WHERE true"  # SQLite's parser needs it before ON CONFLICT
    conflict = " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    return f"INSERT INTO {table.name} ({names}) SELECT {values} FROM {source}{where}{conflict}"


def update_rows(
    conn: Connection,
    table: Table,
    rows: Sequence[Row],
    *,
    keys: Iterable[str],
    assign: Iterable[str] = (),
    expressions: Mapping[str, str] | None = None,
    common: Row | None = None,
    guard: str = "",
    in_order: bool = False,
) -> set[tuple[Any, ...]]:
    """Compare-and-set many rows; returns the keys of those that matched.

    `keys` identify a row; `assign` are set from the row; `expressions` maps a column to SQL over `t` (the table) and
    `r` (the row given); `common` holds columns that get the same value in all of them; `guard` is further SQL for the WHERE,
    over the same two names. A row whose key is missing from the result lost the race: nothing happened to it. `in_order` is
    for rows that several transactions take many at a time (lanes): they are locked in the order of their keys first, because
    an UPDATE takes them in any order and two would wait for each other until PostgreSQL breaks the deadlock, a second later.
    """
    if not rows:
        return set()
    statement, given = _change(table, rows, conn.dialect.name, keys, assign, expressions, common, guard, in_order=in_order)
    return {tuple(row) for row in conn.execute(_text(statement), given)}


@lru_cache(maxsize=256)
def _update(
    table: Table,
    columns: tuple[str, ...],
    keys: tuple[str, ...],
    changes: tuple[tuple[str, str], ...],
    shared: tuple[str, ...],
    guard: str,
    dialect: str,
    tag: str = "",
    in_order: bool = False,
) -> str:
    all_changes = (*changes, *((c, _common(table, c, dialect, tag)) for c in shared))
    sets = ", ".join(f"{name} = {value}" for name, value in all_changes)
    match = " AND ".join(f"t.{k} = r.{k}" for k in keys)
    extra = f" AND ({guard})" if guard else ""
    returning = ", ".join(f"t.{k}" for k in keys) if dialect == "postgresql" else ", ".join(keys)
    source = _record_set(table, columns, dialect, tag)
    if in_order:  # PostgreSQL keeps such a subquery whole: its rows come one by one, each locked before the next
        order = ", ".join(f"t.{k}" for k in keys)
        source = f"(SELECT r.* FROM {table.name} AS t JOIN {source} ON {match} ORDER BY {order} FOR NO KEY UPDATE OF t) AS r"
    return f"UPDATE {table.name} AS t SET {sets} FROM {source} WHERE {match}{extra} RETURNING {returning}"


class Bundle:
    """Changes that know nothing of each other, at most one an `update`: on PostgreSQL one message, on SQLite one after another.

    None of them sees what another one writes. Nothing happens before `run`.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn, self.dialect = conn, conn.dialect.name
        self._parts: list[tuple[str, dict[str, Any]]] = []
        """Statements and their parameters."""
        self._update: int | None = None
        """Which of them is the update."""

    def insert(
        self,
        table: Table,
        rows: Sequence[Row],
        *,
        columns: Iterable[str] | None = None,
        common: Row | None = None,
        expressions: Mapping[str, str] | None = None,
        ignore_conflicts: bool = False,
    ) -> None:
        """`insert_rows`, later; `expressions` maps a column to SQL that is the same for all rows."""
        if not rows:
            return
        part = _insertion(table, rows, self.dialect, columns, common, ignore_conflicts, self._tag(), expressions)
        self._parts.append(part)

    def update(
        self,
        table: Table,
        rows: Sequence[Row],
        *,
        keys: Iterable[str],
        assign: Iterable[str] = (),
        expressions: Mapping[str, str] | None = None,
        common: Row | None = None,
        guard: str = "",
        in_order: bool = False,
    ) -> None:
        """`update_rows`, later; raises ValueError for a second one, as `run` tells the matches of one."""
        if not rows:
            return
        if self._update is not None:
            raise ValueError("a bundle has one update")
        self._update = len(self._parts)
        self._parts.append(
            _change(table, rows, self.dialect, keys, assign, expressions, common, guard, self._tag(), in_order=in_order)
        )

    def add(self, statement: str, **given: Any) -> None:
        """Any other change, later; the statement names its parameters as `{name}`."""
        tag = self._tag()
        placed = statement.format_map({name: f":{name}{tag}" for name in given})
        self._parts.append((placed, {f"{name}{tag}": value for name, value in given.items()}))

    def run(self) -> set[tuple[Any, ...]]:
        """Do all of it; returns the keys of the rows that the update matched."""
        matched: set[tuple[Any, ...]] = set()
        if self.dialect == "postgresql" and len(self._parts) > 1:
            parameters = {name: value for _, given in self._parts for name, value in given.items()}
            done = self._conn.execute(_together(tuple(statement for statement, _ in self._parts), self._update), parameters)
            return {tuple(row) for row in done} if self._update is not None else matched
        for number, (statement, given) in enumerate(self._parts):
            done = self._conn.execute(_text(statement), given)
            if number == self._update:
                matched = {tuple(row) for row in done}
        return matched

    def _tag(self) -> str:
        return f"_{len(self._parts)}"


@lru_cache(maxsize=256)
def _together(statements: tuple[str, ...], told: int | None) -> TextClause:
    """All statements as parts of one, which answers what the part `told` returns."""
    parts = ", ".join(f"part_{n} AS ({statement})" for n, statement in enumerate(statements))
    return text(f"WITH {parts} SELECT " + (f"* FROM part_{told}" if told is not None else "1"))


def joined_rows(
    conn: Connection,
    table: Table,
    rows: Sequence[Row],
    *,
    keys: Iterable[str],
    columns: Iterable[str],
    where: str = "",
    tail: str = "",
    flags: Mapping[str, str] | None = None,
) -> CursorResult[Any]:
    """Select typed `columns` of `table` (alias `t`) joined with the given key rows (alias `r`); `flags`: name to a condition."""
    dialect = conn.dialect.name
    statement = _select(table, tuple(rows[0]), tuple(keys), tuple(columns), where, tail, tuple((flags or {}).items()), dialect)
    return conn.execute(statement, {"rows": encode(rows, dialect)})


@lru_cache(maxsize=256)
def _select(
    table: Table,
    given: tuple[str, ...],
    keys: tuple[str, ...],
    columns: tuple[str, ...],
    where: str,
    tail: str,
    flags: tuple[tuple[str, str], ...],
    dialect: str,
) -> TextualSelect:
    match = " AND ".join(f"t.{k} = r.{k}" for k in keys)
    extra = f" AND ({where})" if where else ""
    listed = ", ".join((*(f"t.{c}" for c in columns), *(f"{condition} AS {name}" for name, condition in flags)))
    source = _record_set(table, given, dialect)
    statement = text(f"SELECT {listed} FROM {table.name} AS t JOIN {source} ON {match}{extra} {tail}")
    typed = [(c, table.c[c].type) for c in columns]
    return statement.columns(*(column(name, kind) for name, kind in (*typed, *((name, Boolean()) for name, _ in flags))))
