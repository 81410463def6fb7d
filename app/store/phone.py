"""The simulated phone: what the system said (`phone_message`) beside what the families wrote (`message`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, func, or_, select

from app.store.bulk import insert_rows
from app.store.tables import Contact, InboxMessage, PhoneMessage, table

_PHONE, _CONTACT, _MESSAGE = table(PhoneMessage), table(Contact), table(InboxMessage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One phone and the last thing that was said to it."""

    target: str
    contact_id: str | None
    name: str | None
    last_body: str
    last_at: datetime
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubble:
    """One message of a chat; `outgoing` = said by the system."""

    outgoing: bool
    kind: str
    body: str
    at: datetime


def show(conn: Connection, rows: Sequence[dict[str, Any]], now: datetime) -> None:
    """Put messages on phones; one that is shown already (same idempotency key) stays as it is.

    Each row: `tenant_id, target, kind, body, idempotency_key`.
    """
    insert_rows(conn, _PHONE, [{**row, "direction": "out", "at": now} for row in rows], ignore_conflicts=True)


def chats(conn: Connection, tenant_id: str | None, limit: int = 50) -> list[Chat]:
    """Phones of a tenant (None: of the installation's own people) that were written to, latest first."""
    mine = _PHONE.c.tenant_id.is_(None) if tenant_id is None else _PHONE.c.tenant_id == tenant_id
    last = select(func.max(_PHONE.c.position).label("position"), func.count().label("count")).where(mine).group_by(_PHONE.c.target)
    latest = last.subquery("l")
    rows = conn.execute(
        select(_PHONE, latest.c.count)
        .join(latest, latest.c.position == _PHONE.c.position)
        .order_by(_PHONE.c.position.desc())
        .limit(limit)
    ).all()
    known = _contacts(conn, tenant_id, [row.target for row in rows])
    return [
        Chat(
            target=row.target,
            contact_id=known[row.target].contact_id if row.target in known else None,
            name=known[row.target].name if row.target in known else None,
            last_body=row.body,
            last_at=row.at,
            count=row._mapping["count"],
        )
        for row in rows
    ]


def chat(conn: Connection, tenant_id: str | None, target: str, limit: int = 60) -> list[Bubble]:
    """The last messages of one phone, both directions, oldest first."""
    mine = _PHONE.c.tenant_id.is_(None) if tenant_id is None else _PHONE.c.tenant_id == tenant_id
    said = conn.execute(select(_PHONE).where(mine, _PHONE.c.target == target).order_by(_PHONE.c.position.desc()).limit(limit))
    bubbles = [Bubble(outgoing=True, kind=row.kind, body=row.body, at=row.at) for row in said]
    contact = _contacts(conn, tenant_id, [target]).get(target)
    if contact is not None:
        heard = conn.execute(
            select(_MESSAGE)
            .where(_MESSAGE.c.tenant_id == tenant_id, _MESSAGE.c.contact_id == contact.contact_id)
            .order_by(_MESSAGE.c.sequence.desc())
            .limit(limit)
        )
        bubbles += [_heard(row) for row in heard]
    return sorted(bubbles, key=lambda b: b.at)[-limit:]


def _heard(row: Any) -> Bubble:
    payload = msgspec.json.decode(row.payload_json)
    text, kind = payload.get("text"), payload.get("kind")
    return Bubble(
        outgoing=False,
        kind=kind if isinstance(kind, str) else "text",
        body=text if isinstance(text, str) else "",
        at=row.received_at,
    )


def _contacts(conn: Connection, tenant_id: str | None, targets: Sequence[str]) -> dict[str, Any]:
    """Contacts behind targets, which are phone numbers or (for contacts without one) contact ids."""
    if tenant_id is None or not targets:
        return {}
    rows = conn.execute(
        select(_CONTACT).where(
            _CONTACT.c.tenant_id == tenant_id, or_(_CONTACT.c.phone.in_(targets), _CONTACT.c.contact_id.in_(targets))
        )
    ).all()
    return {row.contact_id: row for row in rows} | {row.phone: row for row in rows if row.phone}
