"""Which ordinary flows have just ended: read from the newest rows of the event log, so a commit pays nothing for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, and_, func, or_, select, union

from app.domain.drill import TENANT as DRILL_TENANT
from app.domain.evidence_kinds import EvidenceKind
from app.store.bulk import joined_rows
from app.store.evidence import SETTLE, ended
from app.store.tables import D1StepRow, EventLog, EvidencePack, InboxMessage, Lane, Ledger, Ticket, table
from app.store.views.scope import Scope, within

_EVENTS, _LANE, _LEDGER, _MESSAGE, _PACK = table(EventLog), table(Lane), table(Ledger), table(InboxMessage), table(EvidencePack)
_TICKET, _D1 = table(Ticket), table(D1StepRow)

ROWS_MAX: Final = 50
"""Rows of the event log that one look reads, the newest first."""

Ended = tuple[str, str]
"""(tenant, correlation id)."""


COUNTED: Final = timedelta(hours=1)
"""How far back flows are counted that have no pack."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Flows that ended within the last hour, and how many of them no pack tells; of more than `limit` only so many."""

    ended: int
    without: int
    limit: int


def coverage(conn: Connection, scope: Scope, now: datetime, limit: int) -> Coverage:
    """Count the flows of some clinics by their results and heard messages; a pack is made at a bounded rate, or asked for."""
    since, until = now - COUNTED, now - SETTLE
    parts = [
        select(of.c.tenant_id, of.c.correlation_id).where(
            within(of.c.tenant_id, scope), of.c.tenant_id != DRILL_TENANT, of.c[at] > since, of.c[at] <= until
        )
        for of, at in ((_LEDGER, "committed_at"), (_MESSAGE, "done_at"))
    ]
    flows = union(*(part.distinct().limit(limit).subquery().select() for part in parts)).limit(limit).subquery("flows")
    told = select(_PACK.c.pack_id).where(
        _PACK.c.scope == flows.c.tenant_id,
        _PACK.c.kind == EvidenceKind.FLOW,
        _PACK.c.subject == flows.c.correlation_id,
        or_(_PACK.c.due_at.is_not(None), _PACK.c.running.is_(False)),
    )
    total = conn.execute(select(func.count()).select_from(flows)).scalar_one()
    without = conn.execute(select(func.count()).select_from(flows).where(~told.exists())).scalar_one()
    return Coverage(int(total), int(without), limit)


def head(conn: Connection) -> int:
    """Position of the newest row."""
    return int(conn.execute(select(func.max(_EVENTS.c.position))).scalar() or 0)


def recent_ends(conn: Connection, after: int, limit: int) -> tuple[int, list[Ended]]:
    """The position read up to, and up to `limit` flows that ended since, the newest first, without those that have a pack."""
    newest = head(conn)
    query = (
        select(_EVENTS.c.tenant_id, _EVENTS.c.refs_json)
        .where(_EVENTS.c.position > after, _EVENTS.c.position <= newest, _EVENTS.c.topic == "lane")
        .order_by(_EVENTS.c.position.desc())
        .limit(ROWS_MAX)
    )
    lanes: dict[tuple[str, str], None] = {}
    for row in conn.execute(query):
        for contact_id in msgspec.json.decode(row.refs_json):
            lanes.setdefault((row.tenant_id, contact_id))
    wanted = [{"tenant_id": t, "contact_id": c} for t, c in list(lanes)[: 2 * limit]]
    found = [end for end in _ends(conn, wanted) if not _known(conn, *end) and _is_over(conn, *end)]
    return newest, found[:limit]


def _ends(conn: Connection, lanes: Sequence[dict[str, Any]]) -> list[Ended]:
    """The flow that ended last in each lane: of its last result, or of its last message where that came later."""
    if not lanes:
        return []
    pair = ("tenant_id", "contact_id")
    rows = joined_rows(
        conn, _LANE, lanes, keys=pair, columns=(*pair, "last_committed", "last_processed", "unheard", "waiting")
    ).all()
    at_rest = [row for row in rows if row.waiting == 0 and row.unheard == 0]  # the others have not ended
    orders = [{"tenant_id": r.tenant_id, "contact_id": r.contact_id, "commit_order": r.last_committed} for r in at_rest]
    heard = [{"tenant_id": r.tenant_id, "contact_id": r.contact_id, "sequence": r.last_processed} for r in at_rest]
    last: dict[tuple[str, str], tuple[datetime, list[str]]] = {}
    if orders:
        columns = (*pair, "correlation_id", "committed_at", "command_type", "entity_id")
        for row in joined_rows(conn, _LEDGER, orders, keys=(*pair, "commit_order"), columns=columns):
            names = [row.correlation_id]
            if row.command_type == "d1_confirmation" and row.entity_id is not None:
                names.append(f"d1-{row.entity_id}"[:220])
            last[row.tenant_id, row.contact_id] = (row.committed_at, names)
        for row in joined_rows(conn, _MESSAGE, heard, keys=(*pair, "sequence"), columns=(*pair, "correlation_id", "done_at")):
            before = last.get((row.tenant_id, row.contact_id))
            if row.done_at is not None and (before is None or before[0] < row.done_at):
                last[row.tenant_id, row.contact_id] = (row.done_at, [row.correlation_id])
    ranked = sorted(last.items(), key=lambda item: item[1][0], reverse=True)
    return [(tenant_id, name) for (tenant_id, _), (_, names) in ranked for name in names]


def _known(conn: Connection, tenant_id: str, correlation_id: str) -> bool:
    """Whether it has a pack, or one on its way; one that was made while the flow ran, and given up, says nothing about its end."""
    mine = and_(_PACK.c.scope == tenant_id, _PACK.c.kind == EvidenceKind.FLOW, _PACK.c.subject == correlation_id[:300])
    mine = and_(mine, or_(_PACK.c.due_at.is_not(None), _PACK.c.running.is_(False)))
    return conn.execute(select(_PACK.c.pack_id).where(mine).limit(1)).first() is not None


def _is_over(conn: Connection, tenant_id: str, correlation_id: str) -> bool:
    """Whether no person has it in hand; and of a day before, whether anybody was asked at all."""
    ticket = select(_TICKET.c.ticket_id).where(
        _TICKET.c.tenant_id == tenant_id, _TICKET.c.correlation_id == correlation_id, _TICKET.c.closed_at.is_(None)
    )
    if conn.execute(ticket.limit(1)).first() is not None:
        return False
    if not correlation_id.startswith("d1-"):
        return True
    step = select(_D1.c.action).where(_D1.c.tenant_id == tenant_id, _D1.c.appointment_id == correlation_id.removeprefix("d1-"))
    return conn.execute(step.limit(1)).first() is not None


def ask_for(conn: Connection, flows: Sequence[Ended], now: datetime) -> None:
    """Ask for the packs of flows that ended."""
    for tenant_id, correlation_id in flows:
        ended(conn, tenant_id, EvidenceKind.FLOW, correlation_id, now)
