"""What must hold at the end of every world: the product's own checker, and the clients' journal as a second witness."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from app.store.tables import InboxCommand, InboxMessage, Ledger, MalformedItem, Outbox, table
from app.store.verify import findings as verify_findings

_COMMAND, _MESSAGE, _MALFORMED = table(InboxCommand), table(InboxMessage), table(MalformedItem)
_LEDGER, _OUTBOX = table(Ledger), table(Outbox)


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise."""

    what: str


def findings(conn: Connection, world: Any) -> list[Finding]:
    """Everything that contradicts what we promise; empty in a good world."""
    found = [Finding(f"{v.code}: {v.subject}: {v.sentence}") for v in verify_findings(conn, 100)]
    found += [Finding(text) for text in world.broken_promises]
    found += _accepted_is_kept(conn, world)
    found += _everything_ended(conn)
    found += [Finding(f"message {key} reached the family {n} times") for key, n in _repeated(conn, world)]
    return found


def _accepted_is_kept(conn: Connection, world: Any) -> list[Finding]:
    """I1: every answered item is stored under the id of its answer."""
    stored = {*conn.execute(select(_COMMAND.c.command_id)).scalars(), *conn.execute(select(_MESSAGE.c.event_id)).scalars()}
    stored |= set(conn.execute(select(_MALFORMED.c.item_id)).scalars())
    return [Finding(f"answered {answer} is not stored") for answer in world.journal.values() if answer[0] not in stored]


def _everything_ended(conn: Connection) -> list[Finding]:
    """Nothing holds anything back any more, so every command has its result."""
    query = select(_COMMAND.c.command_id, _COMMAND.c.status, _COMMAND.c.reason).where(_COMMAND.c.result.is_(None))
    return [Finding(f"command {row.command_id} is still {row.status} ({row.reason})") for row in conn.execute(query)]


def _repeated(conn: Connection, world: Any) -> list[tuple[str, int]]:
    """Messages to families are sent at most once."""
    family = set(conn.execute(select(_OUTBOX.c.outbox_id).where(_OUTBOX.c.contact_id.is_not(None))).scalars())
    return [(key, n) for key, n in world.delivered.items() if n > 1 and key in family]
