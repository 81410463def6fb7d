"""The critical ticket (P0) of an episode of safe mode: one for each clinic, for the next shift; it ends with the episode.

What it was opened with stays in `context_json`; what holds now (requests that wait, families told and not told) is read when
somebody looks, for most of it arrives after the opening.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, func, select, update

from app.domain import opening_hours
from app.domain.contingency_texts import AFTER_OPENING
from app.domain.envelopes import canonical_json, sha256_hex
from app.domain.safe_mode import ContingencyResult
from app.domain.states import State
from app.errors import Conflict
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.episodes import causes_of, open_episode
from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.lines import say
from app.store.people import By
from app.store.safe_story import tell
from app.store.settings import load
from app.store.tables import Contact, ContingencyNotice, InboxCommand, Ticket, table

_TICKET, _NOTICE, _COMMAND, _CONTACT = table(Ticket), table(ContingencyNotice), table(InboxCommand), table(Contact)

CONTEXT_MAX: Final = 50
TICKET_DUE: Final = timedelta(minutes=15)
NOT_TOLD: Final = (ContingencyResult.CONTINGENCY_MESSAGE_FAILED_TICKET_OPENED, ContingencyResult.TICKET_OPEN_FAILED_ALERTED)
"""Results of families that may not have heard."""


def ticket_id_of(episode_id: str, tenant_id: str) -> str:
    """The ticket of an episode in a clinic (or of the whole installation, `global`)."""
    return sha256_hex(f"ticket:{episode_id}:{tenant_id}")[:32]


def tickets_wanted(conn: Connection, scope: str) -> dict[str, str]:
    """Tickets of the open episode that are not there yet, id -> clinic (or `global`): of the scope, and of clinics with notices."""
    episode = open_episode(conn, scope)
    if episode is None:
        return {}
    query = select(_NOTICE.c.tenant_id).where(_NOTICE.c.episode_id == episode.episode_id).distinct()
    wanted = {scope, *conn.execute(query).scalars()}
    ids = {ticket_id_of(episode.episode_id, tenant): tenant for tenant in wanted}
    have = set(conn.execute(select(_TICKET.c.ticket_id).where(_TICKET.c.ticket_id.in_(ids))).scalars())
    return {ticket_id: tenant for ticket_id, tenant in sorted(ids.items(), key=lambda t: t[1]) if ticket_id not in have}


def open_ticket(conn: Connection, scope: str, tenant_id: str, public_url: str, now: datetime) -> str | None:
    """Open the critical ticket (P0) of the open episode for the next shift, once; returns its id when this call opened it."""
    episode = open_episode(conn, scope)
    if episode is None:
        return None
    hours = opening_hours.hours(load(conn, tenant_id))
    opening = hours.next_opening(now)
    ticket_id = ticket_id_of(episode.episode_id, tenant_id)
    causes = causes_of(conn, episode.episode_id)
    row = {
        "ticket_id": ticket_id,
        "tenant_id": tenant_id,
        "kind": "critical",
        "state": "open",
        "cause_id": episode.episode_id,
        "reason": "; ".join(c.summary for c in causes)[:500] or "safe mode",
        "level": "superadmin",
        "opened_at": now,
        "due_at": now + TICKET_DUE if opening is None or opening <= now else opening + AFTER_OPENING,
        "correlation_id": episode.correlation_id,
        "context_json": canonical_json(_context(conn, episode, tenant_id, public_url)),
    }
    have = conn.execute(select(func.count()).select_from(_TICKET).where(_TICKET.c.ticket_id == ticket_id)).scalar_one()
    if have:
        return None
    insert_rows(conn, _TICKET, [row], ignore_conflicts=True)
    tell(conn, episode.episode_id, "ticket_opened", now, detail=ticket_id)
    publish(conn, None if tenant_id == GLOBAL_SCOPE else tenant_id, "tickets", [ticket_id], now)
    return ticket_id


def _context(conn: Connection, episode: Row[Any], tenant_id: str, public_url: str) -> dict[str, Any]:
    """What the next shift needs: causes, what is on hold under which correlation ids, and where to look."""
    c, parked = _COMMAND.c, parked_of(tenant_id)
    ids = conn.execute(select(c.correlation_id).where(parked).order_by(c.accepted_at, c.command_id).limit(CONTEXT_MAX)).scalars()
    counts = conn.execute(select(c.command_type, func.count()).where(parked).group_by(c.command_type)).all()
    return {
        "priority": "P0",
        "episode_id": episode.episode_id,
        "scope": episode.scope,
        "since": episode.entered_at.isoformat(),
        "causes": [{"cause_id": r.cause_id, "kind": r.kind, "summary": r.summary} for r in causes_of(conn, episode.episode_id)],
        "parked": {str(kind): int(n) for kind, n in counts},
        "correlation_ids": list(dict.fromkeys(ids)),
        "links": {"safe_mode": f"{public_url}/safe-mode", "parked": f"{public_url}/queue?state={State.PENDING_SAFE_MODE}"},
    }


def tickets_in_recovery(conn: Connection, episode_id: str, now: datetime) -> None:
    """Somebody works on the episode's tickets: those that are open say so."""
    mine = and_(_TICKET.c.kind == "critical", _TICKET.c.cause_id == episode_id, _TICKET.c.state == "open")
    changed = conn.execute(select(_TICKET.c.ticket_id, _TICKET.c.tenant_id).where(mine)).all()
    conn.execute(update(_TICKET).where(mine).values(state="in_progress", started_at=now, rev=_TICKET.c.rev + 1))
    for row in changed:
        publish(conn, None if row.tenant_id == GLOBAL_SCOPE else row.tenant_id, "tickets", [row.ticket_id], now)


def tickets_of(conn: Connection, episode_id: str) -> list[Row[Any]]:
    """The critical tickets of an episode."""
    query = select(_TICKET).where(_TICKET.c.kind == "critical", _TICKET.c.cause_id == episode_id).order_by(_TICKET.c.tenant_id)
    return list(conn.execute(query))


# --- working on it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A request that waits because of the episode."""

    tenant_id: str
    contact_id: str
    contact_name: str | None
    intent: str
    correlation_id: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a family was told; `result` None = on its way."""

    tenant_id: str
    contact_id: str
    contact_name: str | None
    intent: str
    at: datetime
    result: str | None


def parked_of(tenant_id: str) -> Any:
    """Commands that safe mode holds in a clinic (or, `global`, in all of them)."""
    c = _COMMAND.c
    parked = and_(c.done_at.is_(None), c.commit_order.is_not(None), c.status == State.PENDING_SAFE_MODE)
    return parked if tenant_id == GLOBAL_SCOPE else and_(parked, c.tenant_id == tenant_id)


def held(conn: Connection, tenant_id: str, limit: int = CONTEXT_MAX) -> list[Held]:
    """Requests on hold now, oldest first."""
    c = _COMMAND.c
    query = (
        select(c.tenant_id, c.contact_id, _CONTACT.c.name, c.command_type, c.correlation_id, c.accepted_at)
        .outerjoin(_CONTACT, and_(_CONTACT.c.tenant_id == c.tenant_id, _CONTACT.c.contact_id == c.contact_id))
        .where(parked_of(tenant_id))
        .order_by(c.accepted_at, c.command_id)
        .limit(limit)
    )
    return [
        Held(
            tenant_id=row.tenant_id,
            contact_id=row.contact_id,
            contact_name=row.name,
            intent=row.command_type,
            correlation_id=row.correlation_id,
            at=row.accepted_at,
        )
        for row in conn.execute(query)
    ]


def families(conn: Connection, ticket: Row[Any], limit: int = CONTEXT_MAX) -> list[Family]:
    """What families of the ticket's clinic were told in its episode: those that may not have heard first, then the newest."""
    n = _NOTICE.c
    query = (
        select(n.tenant_id, n.contact_id, _CONTACT.c.name, n.intent, n.at, n.result)
        .outerjoin(_CONTACT, and_(_CONTACT.c.tenant_id == n.tenant_id, _CONTACT.c.contact_id == n.contact_id))
        .where(_mine(ticket))
        .order_by(func.coalesce(n.result, "").not_in(NOT_TOLD), n.at.desc(), n.contact_id, n.intent)
        .limit(limit)
    )
    return [
        Family(
            tenant_id=row.tenant_id,
            contact_id=row.contact_id,
            contact_name=row.name,
            intent=row.intent,
            at=row.at,
            result=row.result,
        )
        for row in conn.execute(query)
    ]


def _mine(ticket: Row[Any]) -> Any:
    mine = _NOTICE.c.episode_id == ticket.cause_id
    return mine if ticket.tenant_id == GLOBAL_SCOPE else and_(mine, _NOTICE.c.tenant_id == ticket.tenant_id)


def take(conn: Connection, ticket_id: str, rev: int, by: By) -> None:
    """Somebody works on it. Raises Conflict when it is closed or has changed since."""
    _change(conn, ticket_id, rev, by, "ticket.take", {"state": "in_progress", "owner": by.actor[:200], "started_at": by.now})


def close(conn: Connection, ticket_id: str, rev: int, reason: str, by: By) -> None:
    """Close it with what was done about it. Raises Conflict when it is closed already or has changed since."""
    _change(conn, ticket_id, rev, by, "ticket.close", {"state": "resolved", "closed_at": by.now, "close_reason": reason[:500]})


def _change(conn: Connection, ticket_id: str, rev: int, by: By, action: str, values: Mapping[str, Any]) -> None:
    t = _TICKET.c
    found = update(_TICKET).where(t.ticket_id == ticket_id, t.kind == "critical", t.rev == rev, t.closed_at.is_(None))
    changed = conn.execute(found.values(rev=rev + 1, **values).returning(t.tenant_id, t.correlation_id)).first()
    if changed is None:
        raise Conflict("This ticket has changed since you looked at it; nothing was done.")
    append(
        conn,
        chain=changed.tenant_id,
        actor=by.actor,
        action=action,
        object=f"ticket/{ticket_id}",
        after={"state": values["state"]},
        reason=values.get("close_reason"),
        origin=by.origin,
        correlation_id=changed.correlation_id,
        now=by.now,
    )
    mine = None if changed.tenant_id == GLOBAL_SCOPE else changed.tenant_id
    told = {"correlation_id": changed.correlation_id, "tenant_id": mine, "status": values["state"], "ticket_id": ticket_id}
    say(conn, action.replace(".", "_"), flow_id="F-06", **told)
    publish(conn, mine, "tickets", [ticket_id], by.now)


def close_tickets(conn: Connection, episode_id: str, now: datetime) -> None:
    """The episode is over: its tickets are too, but those with families that may not have heard wait for a person."""
    for ticket in tickets_of(conn, episode_id):
        if ticket.closed_at is not None:
            continue
        untold = select(_NOTICE.c.contact_id).where(_mine(ticket), _NOTICE.c.result.in_(NOT_TOLD)).limit(1)
        if conn.execute(untold).first() is not None:
            continue
        ended = {"state": "resolved", "closed_at": now, "close_reason": "safe_mode_over", "rev": ticket.rev + 1}
        conn.execute(update(_TICKET).where(_TICKET.c.ticket_id == ticket.ticket_id).values(**ended))
        publish(conn, None if ticket.tenant_id == GLOBAL_SCOPE else ticket.tenant_id, "tickets", [ticket.ticket_id], now)
