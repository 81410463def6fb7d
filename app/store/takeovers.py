"""Tickets in a person's hands (F-04): a conversation that was taken over, or an incident; and the SLA clock of the first.

A takeover is opened by a command in the effect's transaction (`store.ledger`), which also sets `lane.takeover_id`: from then
on the gate refuses what the AI asks for. Everything here is a compare-and-set on the ticket's `rev` with its audit row and
its message to the family in the same transaction. The clock is computed from `clock_from` and the clinic's hours; what it
calls for is written by `advance`, by whichever node looks first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, func, or_, select, update

from app.domain.takeover import (
    LEVEL_OF_STATE,
    SLA_NAMES,
    SlaPolicy,
    TakeoverEvent,
    TakeoverState,
    due_event,
    next_due_at,
    sla_clock,
    step,
)
from app.errors import Conflict, NotFound
from app.store import audit, evidence, settings
from app.store.alerts import raise_alert, resolve_by_key
from app.store.events import publish
from app.store.lines import Level, say
from app.store.notices import hours_of
from app.store.outbox import enqueue, outbox_row
from app.store.people import By
from app.store.tables import Contact, InboxMessage, Lane, Ticket, table
from app.store.views.scope import Scope, within

_TICKET, _LANE, _CONTACT, _MESSAGE = table(Ticket), table(Lane), table(Contact), table(InboxMessage)

TAKEOVER: Final = "takeover"
GIVEN_BACK: Final = "Sua conversa voltou ao atendimento automático. Se precisar de uma pessoa, é só pedir."
"""What the family reads when a person gives the conversation back."""
_FIELDS: Final = (
    "ticket_id tenant_id kind state rev contact_id cause_id reason level owner opened_at due_at started_at answered_at closed_at "
    "close_reason correlation_id"
).split()
_AUDITED: Final = ("state", "level", "owner", "due_at", "close_reason")


# --- reading ------------------------------------------------------------------------------------------------------------


def tickets(
    conn: Connection,
    scope: Scope,
    *,
    kind: str | None = None,
    closed: bool | None = False,
    after: tuple[datetime, str] | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Tickets by opening, the oldest first; `closed` None = open and closed ones."""
    found = [within(_TICKET.c.tenant_id, scope)]
    if kind is not None:
        found.append(_TICKET.c.kind == kind)
    if closed is not None:
        found.append(_TICKET.c.closed_at.is_not(None) if closed else _TICKET.c.closed_at.is_(None))
    if after is not None:
        opened_at, ticket_id = after
        found.append(or_(_TICKET.c.opened_at > opened_at, and_(_TICKET.c.opened_at == opened_at, _TICKET.c.ticket_id > ticket_id)))
    query = _joined().where(*found).order_by(_TICKET.c.opened_at, _TICKET.c.ticket_id).limit(limit)
    return [_document(row) for row in conn.execute(query)]


def ticket(conn: Connection, scope: Scope, ticket_id: str, *, texts: bool = False) -> dict[str, Any] | None:
    """One ticket with its context; with `texts` also the last messages of the family. None when unknown."""
    row = conn.execute(_joined().where(within(_TICKET.c.tenant_id, scope), _TICKET.c.ticket_id == ticket_id)).first()
    if row is None:
        return None
    found = _document(row) | {"context": msgspec.json.decode(row.context_json)}
    if texts and row.contact_id is not None:
        found["messages"] = last_messages(conn, row.tenant_id, row.contact_id)
    return found


def takeover_of(conn: Connection, tenant_id: str, contact_id: str) -> str | None:
    """The open takeover of a contact."""
    query = select(_LANE.c.takeover_id).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)
    found: str | None = conn.execute(query).scalar()
    return found


def last_messages(conn: Connection, tenant_id: str, contact_id: str, limit: int = 5) -> list[dict[str, Any]]:
    """The family's last messages, the oldest of them first: when, and the words."""
    query = (
        select(_MESSAGE.c.received_at, _MESSAGE.c.payload_json)
        .where(_MESSAGE.c.tenant_id == tenant_id, _MESSAGE.c.contact_id == contact_id)
        .order_by(_MESSAGE.c.sequence.desc())
        .limit(limit)
    )
    rows = conn.execute(query).all()
    return [{"at": row.received_at, "text": str(msgspec.json.decode(row.payload_json).get("text") or "")} for row in reversed(rows)]


def open_count(conn: Connection, scope: Scope) -> int:
    """Conversations that people have now."""
    query = (
        select(func.count())
        .select_from(_TICKET)
        .where(within(_TICKET.c.tenant_id, scope), _TICKET.c.kind == TAKEOVER, _TICKET.c.closed_at.is_(None))
    )
    return int(conn.execute(query).scalar_one())


def _joined() -> Any:
    contact = and_(_CONTACT.c.tenant_id == _TICKET.c.tenant_id, _CONTACT.c.contact_id == _TICKET.c.contact_id)
    return select(_TICKET, _CONTACT.c.name.label("contact_name"), _CONTACT.c.phone.label("contact_phone")).outerjoin(
        _CONTACT, contact
    )


def _document(row: Row[Any]) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in _FIELDS}
    own = {"takeover_id": row.ticket_id} if row.kind == TAKEOVER else {}
    return own | found | {"contact_name": row.contact_name, "contact_phone": row.contact_phone}


# --- acts ---------------------------------------------------------------------------------------------------------------


def start(conn: Connection, tenant_id: str, ticket_id: str, by: By, *, rev: int | None = None, reason: str | None = None) -> None:
    """Take a ticket; the clock goes on until the family has an answer. One's own again changes nothing.

    A ticket that somebody else has is only taken with a `reason`, which stays in the audit trail. Raises NotFound, Conflict.
    """
    before = _locked(conn, tenant_id, ticket_id)
    if before.owner == by.actor and before.closed_at is None:
        return
    if before.closed_at is not None or (before.owner is not None and not reason):
        raise Conflict("Somebody else has this conversation, or it is closed. Nothing was changed.")
    state = TakeoverState(before.state)
    after = step(state, TakeoverEvent.START) or state  # a warned or late ticket is taken too, and stays late
    changed = {"state": after, "owner": by.actor[:200], "started_at": before.started_at or by.now}
    _write(conn, before, "ticket_start", by, changed, rev=rev, reason=reason)


def reply(conn: Connection, tenant_id: str, ticket_id: str, by: By, text: str, *, rev: int | None = None) -> None:
    """Answer the family; it stops the clock until they write again. Raises NotFound, Conflict."""
    before = _locked(conn, tenant_id, ticket_id)
    after = step(TakeoverState(before.state), TakeoverEvent.ANSWER)
    if after is None or before.kind != TAKEOVER:
        raise Conflict("This conversation is closed. Nothing was sent.")
    _own(before, by)
    changed = {
        "state": after,
        "level": LEVEL_OF_STATE[after],
        "owner": before.owner or by.actor[:200],
        "started_at": before.started_at or by.now,
        "answered_at": by.now,
        "next_at": None,
        "due_at": None,
    }
    _write(conn, before, "takeover_reply", by, changed, rev=rev)
    enqueue(conn, [_message(before, f"reply-{before.rev + 1}", text, by.now)])
    _alerts_are_over(conn, before, by)


def close(conn: Connection, tenant_id: str, ticket_id: str, by: By, reason: str, *, rev: int | None = None) -> None:
    """Close a ticket; a conversation goes back to the robot, and the family is told. Raises NotFound, Conflict."""
    before = _locked(conn, tenant_id, ticket_id)
    after = step(TakeoverState(before.state), TakeoverEvent.CLOSE)
    if after is None:
        raise Conflict("This is closed already. Nothing was changed.")
    if before.kind == TAKEOVER:
        _own(before, by)
    owner = before.owner or by.actor[:200]
    changed = {"state": after, "closed_at": by.now, "close_reason": reason[:500], "next_at": None, "owner": owner}
    _write(conn, before, "ticket_close", by, changed, rev=rev, reason=reason)
    if before.kind != TAKEOVER:
        return
    own = (_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == before.contact_id, _LANE.c.takeover_id == ticket_id)
    conn.execute(update(_LANE).where(*own).values(takeover_id=None, not_before=None))
    enqueue(conn, [_message(before, "given-back", GIVEN_BACK, by.now)])
    for topic in ("lane", "queue"):
        publish(conn, tenant_id, topic, [before.contact_id], by.now)
    _alerts_are_over(conn, before, by)
    evidence.ended(conn, tenant_id, "takeover", ticket_id, by.now)
    evidence.ended(conn, tenant_id, "flow", before.correlation_id, by.now)


def _own(before: Row[Any], by: By) -> None:
    """Two people must not speak to one family: who has the conversation answers it, or somebody takes it first."""
    if before.owner is not None and before.owner != by.actor:
        raise Conflict("Somebody else has this conversation. Nothing was sent or changed; take it first.")


def _alerts_are_over(conn: Connection, row: Row[Any], by: By) -> None:
    """The alerts about a late answer end with the answer."""
    for event in _ALERTS:
        resolve_by_key(conn, tenant_id=row.tenant_id, dedup_key=alert_key(row.ticket_id, event), by=by.actor, now=by.now)


def _message(row: Row[Any], name: str, text: str, now: datetime) -> dict[str, Any]:
    return outbox_row(
        tenant_id=row.tenant_id,
        cause_id=f"takeover:{row.ticket_id}",
        step=name,
        kind="family_message",
        body={"text": text},
        correlation_id=row.correlation_id,
        now=now,
        contact_id=row.contact_id,
    )


# --- the SLA clock ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """The alert of one step: who is told is its trigger's route."""

    trigger: str
    severity: str
    suffix: str
    summary: str


_ALERTS: Final[Mapping[TakeoverEvent, _Told]] = {
    TakeoverEvent.WARN: _Told(
        "takeover_sla_warning", "warning", ":warning", "Uma família espera por uma pessoa; o prazo da resposta está perto."
    ),
    TakeoverEvent.BREACH: _Told("takeover_sla", "high", "", "Uma família espera por uma pessoa além do prazo."),
    TakeoverEvent.ESCALATE: _Told(
        "takeover_sla_escalated", "high", ":escalated", "Uma família espera por uma pessoa além do prazo, e ninguém respondeu."
    ),
}
"""Each step has an alert of its own, so that taking on one does not keep the next level from being told."""


def alert_key(ticket_id: str, event: TakeoverEvent = TakeoverEvent.BREACH) -> str:
    """The key of the alert about a takeover's step."""
    return f"takeover:{ticket_id}{_ALERTS[event].suffix}"


def policy_in(document: Mapping[str, Any]) -> SlaPolicy:
    """The clinic's numbers; what it does not say is as the plan has it."""
    given = document.get("takeover_sla_min") or {}
    return SlaPolicy(**{name: timedelta(minutes=given[name]) for name in SLA_NAMES if given.get(name) is not None})


def due(conn: Connection, now: datetime, limit: int = 200) -> list[tuple[str, str]]:
    """(tenant, ticket) of takeovers whose clock wants to be looked at: new ones, due ones, and families that wrote again."""
    again = (
        select(_MESSAGE.c.event_id)
        .where(
            _MESSAGE.c.tenant_id == _TICKET.c.tenant_id,
            _MESSAGE.c.contact_id == _TICKET.c.contact_id,
            _MESSAGE.c.received_at > _TICKET.c.answered_at,
        )
        .exists()
    )
    fresh = and_(_TICKET.c.clock_from.is_(None), _TICKET.c.answered_at.is_(None))
    waits = and_(_TICKET.c.next_at.is_(None), _TICKET.c.answered_at.is_not(None), again)
    query = (
        select(_TICKET.c.tenant_id, _TICKET.c.ticket_id)
        .where(_TICKET.c.kind == TAKEOVER, _TICKET.c.closed_at.is_(None), or_(fresh, _TICKET.c.next_at <= now, waits))
        .order_by(_TICKET.c.opened_at)
        .limit(limit)
    )
    return [(row.tenant_id, row.ticket_id) for row in conn.execute(query)]


def next_call(conn: Connection) -> datetime | None:
    """When the next clock calls."""
    query = select(func.min(_TICKET.c.next_at)).where(_TICKET.c.kind == TAKEOVER, _TICKET.c.closed_at.is_(None))
    found: datetime | None = conn.execute(query).scalar()
    return found


def advance(conn: Connection, tenant_id: str, ticket_id: str, now: datetime) -> list[TakeoverEvent]:
    """Write what the clock calls for at `now`; a missed warning is covered by the breach, no change of state is skipped."""
    row = _locked(conn, tenant_id, ticket_id)
    if row.closed_at is not None:
        return []
    since = _waits_since(conn, row)
    if since is None:
        return []
    document = settings.load(conn, tenant_id)
    clock = sla_clock(since, hours_of(document), policy_in(document))
    state, happened = TakeoverState(row.state), []
    while (event := due_event(state, clock, now)) is not None:
        state = step(state, event) or state
        happened.append(event)
    level = LEVEL_OF_STATE[state]
    changed = {"state": state, "level": level, "clock_from": since, "due_at": clock.due_at, "next_at": next_due_at(state, clock)}
    by = By(actor="system:takeover", now=now)
    # the clock is nobody's act: it leaves `rev` alone, so that no answer is refused because a deadline passed while it was typed
    own = (_TICKET.c.ticket_id == ticket_id, _TICKET.c.rev == row.rev, _TICKET.c.state == row.state)
    if conn.execute(update(_TICKET).where(*own).values(**changed)).rowcount != 1:
        return []
    if happened:
        _audit(conn, row, "takeover_sla", by, changed, after={"events": [str(e) for e in happened]})
    for event in happened:
        _say(conn, row, "takeover_sla", str(event), level="warning")
    publish(conn, tenant_id, "tickets", [ticket_id], now)
    if TakeoverEvent.BREACH in happened:
        resolve_by_key(conn, tenant_id=tenant_id, dedup_key=alert_key(ticket_id, TakeoverEvent.WARN), by=by.actor, now=now)
    for event in happened:
        _tell(conn, row, event, now)
    return happened


def _tell(conn: Connection, row: Row[Any], event: TakeoverEvent, now: datetime) -> None:
    told = _ALERTS[event]
    raise_alert(
        conn,
        tenant_id=row.tenant_id,
        trigger=told.trigger,
        severity=told.severity,
        summary=told.summary,
        dedup_key=alert_key(row.ticket_id, event),
        correlation_id=row.correlation_id,
        now=now,
    )


def _waits_since(conn: Connection, row: Row[Any]) -> datetime | None:
    """Since when the family waits for an answer; None while it has one."""
    if row.answered_at is None:
        since: datetime = row.clock_from or row.opened_at
        return since
    if row.clock_from is not None and row.clock_from > row.answered_at:
        return row.clock_from  # type: ignore[no-any-return]  # a column of the row
    query = select(func.min(_MESSAGE.c.received_at)).where(
        _MESSAGE.c.tenant_id == row.tenant_id, _MESSAGE.c.contact_id == row.contact_id, _MESSAGE.c.received_at > row.answered_at
    )
    found: datetime | None = conn.execute(query).scalar()
    return found


# --- the one way to change a ticket -------------------------------------------------------------------------------------


def _locked(conn: Connection, tenant_id: str, ticket_id: str) -> Row[Any]:
    query = select(_TICKET).where(_TICKET.c.tenant_id == tenant_id, _TICKET.c.ticket_id == ticket_id)
    row = conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).first()
    if row is None:
        raise NotFound("There is no such ticket.")
    return row


def _write(
    conn: Connection,
    before: Row[Any],
    action: str,
    by: By,
    changed: Mapping[str, Any],
    *,
    rev: int | None = None,
    reason: str | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    if rev is not None and rev != before.rev:
        raise Conflict("Somebody changed this ticket meanwhile. Nothing was done; look at it again.")
    own = (_TICKET.c.ticket_id == before.ticket_id, _TICKET.c.rev == before.rev)
    if conn.execute(update(_TICKET).where(*own).values(rev=before.rev + 1, **changed)).rowcount != 1:
        raise Conflict("Somebody changed this ticket meanwhile. Nothing was done; look at it again.")
    _audit(conn, before, action, by, changed, reason=reason, after=after)
    _say(conn, before, action, str(changed.get("state", before.state)))
    publish(conn, before.tenant_id, "tickets", [before.ticket_id], by.now)


def _say(conn: Connection, row: Row[Any], event: str, status: str, *, level: Level = "info") -> None:
    say(
        conn,
        event,
        flow_id="F-04" if row.kind == TAKEOVER else "F-06",
        correlation_id=row.correlation_id,
        tenant_id=row.tenant_id,
        status=status,
        level=level,
        contact_id=row.contact_id,
        ticket_id=row.ticket_id,
    )


def _audit(
    conn: Connection,
    before: Row[Any],
    action: str,
    by: By,
    changed: Mapping[str, Any],
    *,
    reason: str | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    seen = {name: getattr(before, name) for name in _AUDITED}
    audit.append(
        conn,
        chain=before.tenant_id,
        actor=by.actor,
        action=action,
        object=f"ticket:{before.ticket_id}",
        before=seen,
        after=seen | {name: value for name, value in changed.items() if name in _AUDITED} | dict(after or {}),
        reason=reason,
        origin=by.origin,
        correlation_id=before.correlation_id,
        now=by.now,
        about=before.contact_id,
    )
