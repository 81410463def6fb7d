"""Contingency by a channel's own health (F-05): messages to families that have been failing for long switch it on.

Judged from what the attempts left behind (`store.failing`), so any node may do it; a message that was given up or got lost is
no recovery, only one that left is. While everything that a clinic tries has been failing for its `contingency_after_s`, the
channel that carries it is in contingency; the first message that leaves switches off what health switched on. What a person
switched on is never touched; after a person switched it off, the failing counts from there.

A quiet clinic has nothing to show that its channel is back: the latest message that was given up goes once more.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from app.domain.delivery import OutboxStatus
from app.store.contingency import CHANNELS, switch
from app.store.people import By
from app.store.settings import load
from app.store.tables import ContingencyChannel, FailingDeliveries, ManualTask, Outbox, table

_OUTBOX, _CHANNEL, _FAILING, _TASK = table(Outbox), table(ContingencyChannel), table(FailingDeliveries), table(ManualTask)
_BY: Final = "system:channel-health"

AFTER_MIN: Final = timedelta(seconds=60)
"""A clinic cannot ask for less."""
ATTEMPTS_MIN: Final = 2
"""One attempt without an answer may be anything."""
TRY_EVERY: Final = timedelta(minutes=5)
TRY_YOUNGER_THAN: Final = timedelta(hours=2)
"""What is older is no answer any more: a person tells the family."""
DOWN: Final = "messages to families have not left for too long"
WELL: Final = "messages to families leave again"


def suspects(conn: Connection, now: datetime) -> list[str]:
    """Clinics whose messages have been failing for a while, or with a channel that its health switched on."""
    failing = select(_FAILING.c.tenant_id).where(_FAILING.c.since <= now - AFTER_MIN)
    switched = select(_CHANNEL.c.tenant_id).where(_CHANNEL.c.active, _CHANNEL.c.origin == "health")
    return sorted({str(t) for query in (failing, switched) for t in conn.execute(query.distinct()).scalars()})


def follow_health(conn: Connection, tenant_id: str, now: datetime, channel: str) -> bool | None:
    """Switch the channel that carries a clinic's messages on or off as its health says; None = nothing changed."""
    failing = conn.execute(select(_FAILING).where(_FAILING.c.tenant_id == tenant_id)).first()
    known = {row.channel: row for row in conn.execute(select(_CHANNEL).where(_CHANNEL.c.tenant_id == tenant_id))}
    by = By(actor=_BY, now=now)
    if failing is None:
        mine = [name for name, row in sorted(known.items()) if row.active and row.origin == "health"]
        for name in mine:
            switch(conn, tenant_id, name, active=False, reason=WELL, by=by, origin="health")
        return False if mine else None
    after_s = float(load(conn, tenant_id)["contingency_after_s"])
    if channel not in CHANNELS or after_s <= 0 or failing.attempts < ATTEMPTS_MIN:
        return None
    row, since = known.get(channel), failing.since
    if row is not None and row.active:
        return None
    if row is not None and row.origin == "person":  # somebody saw to it: what failed before that is known
        if failing.last_at <= row.since:
            return None
        since = max(since, row.since)
    if now - since < max(AFTER_MIN, timedelta(seconds=after_s)):
        return None
    switch(conn, tenant_id, channel, active=True, reason=DOWN, by=by, origin="health")
    return True


def try_again(conn: Connection, tenant_id: str, now: datetime) -> str | None:
    """Let one given-up message ask whether the channel is back; returns its id, None when there is none or no need.

    Only one that certainly never left, that nobody took up, and after which its contact was told nothing else.
    """
    o, c = _OUTBOX.c, _CHANNEL.c
    switched = select(c.channel).where(c.tenant_id == tenant_id, c.active, c.origin == "health")
    quiet = select(_FAILING.c.tenant_id).where(_FAILING.c.tenant_id == tenant_id, _FAILING.c.last_at <= now - TRY_EVERY)
    going = select(o.outbox_id).where(o.tenant_id == tenant_id, o.kind == "family_message", o.status.in_(("pending", "sending")))
    if conn.execute(switched).first() is None or conn.execute(quiet).first() is None or conn.execute(going).first() is not None:
        return None
    later = _OUTBOX.alias("later")
    told_since = select(later.c.outbox_id).where(
        later.c.tenant_id == o.tenant_id, later.c.contact_id == o.contact_id, later.c.created_at > o.created_at
    )
    untouched = select(_TASK.c.task_id).where(
        _TASK.c.tenant_id == o.tenant_id, _TASK.c.dedup_key == "outbox:" + o.outbox_id, _TASK.c.status == "open"
    )
    query: Any = (
        select(o.outbox_id)
        .where(
            o.tenant_id == tenant_id,
            o.kind == "family_message",
            o.status == OutboxStatus.DEAD,
            o.payload_level == 0,
            o.created_at > now - TRY_YOUNGER_THAN,
            func.coalesce(o.not_after, now + TRY_EVERY) > now,
            untouched.exists(),
            ~told_since.exists(),
        )
        .order_by(o.created_at.desc(), o.outbox_id)
        .limit(1)
    )
    chosen: str | None = conn.execute(query).scalar()
    if chosen is None:
        return None
    again = update(_OUTBOX).where(o.outbox_id == chosen, o.status == OutboxStatus.DEAD)
    values = {"status": OutboxStatus.PENDING, "attempts": o.attempts - 1, "due_at": now}
    return chosen if conn.execute(again.values(values)).rowcount == 1 else None
