"""What a check finds, and how checks read: row by row, never the whole table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select

ROWS_AT_A_TIME: Final = 1_000


@dataclass(frozen=True, slots=True)
class Violation:
    """One contradiction: a stable `code`, whose data it is, what it is about, and one sentence for a person."""

    code: str
    tenant_id: str | None
    subject: str
    """Kind and id, such as `command c-17` or `lane c-maria`."""
    sentence: str


def stream(conn: Connection, query: Select[Any]) -> Iterator[Row[Any]]:
    """Rows of `query`, fetched a thousand at a time."""
    with conn.execute(query.execution_options(yield_per=ROWS_AT_A_TIME)) as result:
        yield from result
