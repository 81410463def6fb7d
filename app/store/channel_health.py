"""Contingency by a channel's own health (F-05): messages to families that have been failing for long switch it on.

Judged from the outbox alone, so any node may do it: while messages of a clinic that were tried are older than its
`contingency_after_s`, the channel that carries them is in contingency; once none older than a minute is left, what health
switched on is switched off again. What a person switched is never touched.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, select

from app.store.contingency import CHANNELS, switch
from app.store.people import By
from app.store.settings import load
from app.store.tables import ContingencyChannel, Outbox, table

_OUTBOX, _CHANNEL = table(Outbox), table(ContingencyChannel)
_BY: Final = "system:channel-health"

AFTER_MIN: Final = timedelta(seconds=60)
"""A clinic cannot ask for less; and with nothing older than this, a channel is well again."""
DOWN: Final = "messages to families have not left for too long"
WELL: Final = "messages to families leave again"


def suspects(conn: Connection, now: datetime) -> list[str]:
    """Clinics with a message that was tried and is old, or with a channel that its health switched on."""
    o, c = _OUTBOX.c, _CHANNEL.c
    late = select(o.tenant_id).where(
        o.status.in_(("pending", "sending")), o.kind == "family_message", o.attempts > 0, o.created_at <= now - AFTER_MIN
    )
    switched = select(c.tenant_id).where(c.active, c.origin == "health")
    return sorted({str(t) for query in (late, switched) for t in conn.execute(query.distinct()).scalars()})


def follow_health(conn: Connection, tenant_id: str, now: datetime, channel: str) -> bool | None:
    """Switch the channel that carries a clinic's messages on or off as its health says; None = nothing changed."""
    oldest = _oldest(conn, tenant_id)
    after_s = float(load(conn, tenant_id)["contingency_after_s"])
    mine = (_CHANNEL.c.tenant_id == tenant_id) & (_CHANNEL.c.active)
    active = {row.channel: row.origin for row in conn.execute(select(_CHANNEL).where(mine))}
    by = By(actor=_BY, now=now)
    well = oldest is None or oldest > now - AFTER_MIN
    for name, origin in active.items():
        if origin == "health" and well:
            switch(conn, tenant_id, name, active=False, reason=WELL, by=by, origin="health")
            return False
    down = after_s > 0 and oldest is not None and oldest <= now - max(AFTER_MIN, timedelta(seconds=after_s))
    if down and channel in CHANNELS and channel not in active:
        switch(conn, tenant_id, channel, active=True, reason=DOWN, by=by, origin="health")
        return True
    return None


def _oldest(conn: Connection, tenant_id: str) -> datetime | None:
    """When the oldest message that was tried and has not left was written."""
    o = _OUTBOX.c
    query: Any = select(func.min(o.created_at)).where(
        o.tenant_id == tenant_id, o.status.in_(("pending", "sending")), o.kind == "family_message", o.attempts > 0
    )
    found: datetime | None = conn.execute(query).scalar()
    return found
