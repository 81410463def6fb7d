"""Contingency mode (F-05): a channel of a clinic is down; capture goes on, sensitive commands are parked in their lanes.

`switch` is the only writer. While any channel of a clinic is in contingency, `mode.contingency` is true and the gate parks
(and the effect's transaction compares it again). Switching off opens nothing by itself: `store.drain` lets the lanes go.
"""

from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select, update

from app.domain.states import State
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.lines import say
from app.store.people import By
from app.store.tables import ContingencyChannel, InboxCommand, ModeRow, table

_CHANNEL, _MODE, _COMMAND = table(ContingencyChannel), table(ModeRow), table(InboxCommand)

CHANNELS: Final = ("whatsapp", "evolution", "uazapi", "simulator", "api")
"""Where a clinic's messages and commands come from."""


def switch(
    conn: Connection, tenant_id: str, channel: str, *, active: bool, reason: str, by: By, origin: str = "person"
) -> dict[str, Any]:
    """Switch a channel's contingency on or off; returns what now holds for the clinic (`status`).

    The same state again changes nothing, except a new reason. Audited, published, epoch raised, in this transaction.
    """
    # the mode row is locked first, by everyone: two switches of one clinic take turns
    insert_rows(conn, _MODE, [{"scope": tenant_id, "state": "normal", "epoch": 0, "contingency": False}], ignore_conflicts=True)
    mode = conn.execute(select(_MODE).where(_MODE.c.scope == tenant_id).with_for_update()).one()
    mine = (_CHANNEL.c.tenant_id == tenant_id) & (_CHANNEL.c.channel == channel)
    row = conn.execute(select(_CHANNEL).where(mine)).first()
    before = _channel(row) if row is not None else None
    if (row is None and not active) or (row is not None and row.active == active and row.reason == reason):
        return status(conn, tenant_id)
    changed = row is None or row.active != active
    values = {"active": active, "reason": reason, "by": by.actor[:200], "origin": origin}
    if row is None:
        conn.execute(insert(_CHANNEL).values(tenant_id=tenant_id, channel=channel, since=by.now, **values))
    else:
        conn.execute(update(_CHANNEL).where(mine).values(since=by.now if changed else row.since, **values))
    _follow(conn, mode)
    after = conn.execute(select(_CHANNEL).where(mine)).one()
    append(
        conn,
        chain=tenant_id,
        actor=by.actor,
        action="contingency.on" if active else "contingency.off",
        object=f"contingency/{channel}",
        before=before,
        after=_channel(after),
        reason=reason,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    say(
        conn,
        "contingency",
        flow_id="F-05",
        correlation_id=by.correlation_id or f"contingency-{channel}-{int(by.now.timestamp())}",
        tenant_id=tenant_id,
        status="on" if active else "off",
        level="warning" if active else "info",
        channel=channel,
        origin=origin,
    )
    for topic in ("safe_mode", "replay", "queue"):
        publish(conn, tenant_id, topic, [channel], by.now)
    return status(conn, tenant_id)


def _follow(conn: Connection, mode: Row[Any]) -> None:
    """Make the clinic's mode row say what its channels say."""
    on = conn.execute(
        select(_CHANNEL).where(_CHANNEL.c.tenant_id == mode.scope, _CHANNEL.c.active).order_by(_CHANNEL.c.since, _CHANNEL.c.channel)
    ).all()
    values: dict[str, Any] = {
        "contingency": bool(on),
        "contingency_since": on[0].since if on else None,
        "contingency_reason": "; ".join(dict.fromkeys(row.reason for row in on))[:500] if on else None,
    }
    if bool(on) != bool(mode.contingency):
        values["epoch"] = mode.epoch + 1
    conn.execute(update(_MODE).where(_MODE.c.scope == mode.scope).values(values))


def status(conn: Connection, tenant_id: str) -> dict[str, Any]:
    """Whether the clinic is in contingency, since when and why, each channel, and how much is parked by it."""
    channels = conn.execute(select(_CHANNEL).where(_CHANNEL.c.tenant_id == tenant_id).order_by(_CHANNEL.c.channel)).all()
    mode = conn.execute(select(_MODE).where(_MODE.c.scope == tenant_id)).first()
    parked = select(func.count()).where(
        _COMMAND.c.tenant_id == tenant_id, _COMMAND.c.done_at.is_(None), _COMMAND.c.status == State.PENDING_CONTINGENCY
    )
    return {
        "tenant_id": tenant_id,
        "active": bool(mode.contingency) if mode is not None else False,
        "since": mode.contingency_since if mode is not None else None,
        "reason": mode.contingency_reason if mode is not None else None,
        "channels": [_channel(row) for row in channels],
        "parked": int(conn.execute(parked).scalar_one()),
    }


def _channel(row: Row[Any]) -> dict[str, Any]:
    return {
        "channel": row.channel,
        "active": bool(row.active),
        "since": row.since,
        "reason": row.reason,
        "by": row.by,
        "origin": row.origin,
    }
