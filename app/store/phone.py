"""The simulated phone: what the system said (`phone_message`) beside what the families wrote (`message`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, func, or_, select

from app.store.bulk import insert_rows
from app.store.tables import Contact, InboxMessage, PhoneMessage, table
from app.store.views.scope import Scope, within

_PHONE, _CONTACT, _MESSAGE = table(PhoneMessage), table(Contact), table(InboxMessage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One phone and the last thing that was said to it; `tenant_id` None = one of the installation's own people."""

    tenant_id: str | None
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


def chats(conn: Connection, scope: Scope, limit: int = 50) -> list[Chat]:
    """Phones that were written to, latest first; the whole installation (None) includes its own people's phones."""
    mine = _within(scope)
    last = select(func.max(_PHONE.c.position).label("position"), func.count().label("messages")).where(mine)
    latest = last.group_by(_PHONE.c.tenant_id, _PHONE.c.target).subquery("l")
    rows = conn.execute(
        select(_PHONE, latest.c.messages)
        .join(latest, latest.c.position == _PHONE.c.position)
        .order_by(_PHONE.c.position.desc())
        .limit(limit)
    ).all()
    known = _contacts(conn, [(row.tenant_id, row.target) for row in rows])
    found = []
    for row in rows:
        contact = known.get((row.tenant_id, row.target))
        found.append(
            Chat(
                tenant_id=row.tenant_id,
                target=row.target,
                contact_id=contact.contact_id if contact else None,
                name=contact.name if contact else None,
                last_body=row.body,
                last_at=row.at,
                count=row.messages,
            )
        )
    return found


def chat(conn: Connection, tenant_id: str | None, target: str, limit: int = 60) -> list[Bubble]:
    """The last messages of one phone, both directions, oldest first."""
    mine = _PHONE.c.tenant_id.is_(None) if tenant_id is None else _PHONE.c.tenant_id == tenant_id
    said = conn.execute(select(_PHONE).where(mine, _PHONE.c.target == target).order_by(_PHONE.c.position.desc()).limit(limit))
    bubbles = [Bubble(outgoing=True, kind=row.kind, body=row.body, at=row.at) for row in said]
    contact = _contacts(conn, [(tenant_id, target)]).get((tenant_id, target))
    if contact is not None:
        heard = conn.execute(
            select(_MESSAGE)
            .where(_MESSAGE.c.tenant_id == tenant_id, _MESSAGE.c.contact_id == contact.contact_id)
            .order_by(_MESSAGE.c.sequence.desc())
            .limit(limit)
        )
        bubbles += [_heard(row) for row in heard]
    return sorted(bubbles, key=lambda b: b.at)[-limit:]


def _within(scope: Scope) -> ColumnElement[bool]:
    condition = within(_PHONE.c.tenant_id, scope)
    return or_(condition, _PHONE.c.tenant_id.is_(None)) if scope is None else condition


def _heard(row: Any) -> Bubble:
    payload = msgspec.json.decode(row.payload_json)
    text, kind = payload.get("text"), payload.get("kind")
    return Bubble(
        outgoing=False,
        kind=kind if isinstance(kind, str) else "text",
        body=text if isinstance(text, str) else "",
        at=row.received_at,
    )


def _contacts(conn: Connection, phones: Sequence[tuple[str | None, str]]) -> dict[tuple[str | None, str], Any]:
    """Contacts behind targets, which are phone numbers or (for contacts without one) contact ids."""
    tenants = {tenant_id for tenant_id, _ in phones if tenant_id is not None}
    targets = {target for _, target in phones}
    if not tenants:
        return {}
    rows = conn.execute(
        select(_CONTACT).where(
            _CONTACT.c.tenant_id.in_(tenants), or_(_CONTACT.c.phone.in_(targets), _CONTACT.c.contact_id.in_(targets))
        )
    ).all()
    by_id: dict[tuple[str | None, str], Any] = {(row.tenant_id, row.contact_id): row for row in rows}
    return by_id | {(row.tenant_id, row.phone): row for row in rows if row.phone}
