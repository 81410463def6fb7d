"""Log lines about what a transaction did, written once it is committed: what was rolled back is never told.

Whoever takes part in a flow inside a transaction says so here, whichever way the act came (API, console, link, loop); the lines
carry the correlation id of the flow and not that of the request, so that they are kept for its evidence.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import structlog
from sqlalchemy import Connection

T = TypeVar("T")

log = structlog.get_logger("store.lines")

Level = Literal["info", "warning"]
Said = list[tuple[Level, str, dict[str, Any]]]
_SAID: Final = "kora_said"


def say(
    conn: Connection,
    event: str,
    *,
    flow_id: str,
    correlation_id: str | None,
    tenant_id: str | None,
    status: str,
    level: Level = "info",
    **fields: Any,
) -> None:
    """A line of a flow, written when the transaction is committed."""
    told = {"flow_id": flow_id, "correlation_id": correlation_id, "tenant_id": tenant_id, "status": status, **fields}
    said: Said | None = conn.info.get(_SAID)
    if said is None:  # a transaction that the caller manages alone
        getattr(log, level)(event, **told)
    else:
        said.append((level, event, told))


def heard(conn: Connection, fn: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T, Said]:
    """Run `fn`; its result, and what was said meanwhile, to be written with `write` after the commit."""
    said: Said = []
    info = conn.info  # the connection itself may be gone afterwards, and must then fail with its own reason
    info[_SAID] = said
    try:
        return fn(conn, *args, **kwargs), said
    finally:
        info.pop(_SAID, None)


def write(said: Said) -> None:
    """Write what a committed transaction said."""
    for level, event, told in said:
        getattr(log, level)(event, **told)
