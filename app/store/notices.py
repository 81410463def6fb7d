"""What safe mode tells families, and the ticket that carries it all to the next shift (S-PC-03-003).

A family hears once per episode and intent: the row in `contingency_notice` and the outbox row are written together, under
names that the episode, the contact and the intent give, so any number of nodes write one. The message is sent at most once;
when it failed for certain, the clinic's second channel carries it, and the ticket names every family that was not reached.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, func, or_, select, update

from app.domain import opening_hours
from app.domain.business_hours import Hours
from app.domain.contingency_texts import GENERAL, notice
from app.domain.delivery import OutboxStatus
from app.domain.envelopes import sha256_hex
from app.domain.safe_mode import ContingencyResult, contingency_result
from app.domain.states import SENSITIVE, State
from app.store.bulk import insert_rows
from app.store.critical_tickets import ticket_id_of
from app.store.episodes import open_episode
from app.store.events import publish_many
from app.store.lanes import GLOBAL_SCOPE
from app.store.outbox import enqueue, outbox_row
from app.store.settings import load
from app.store.tables import ContingencyNotice, InboxCommand, InboxMessage, Lane, Outbox, Tenant, Ticket, table

_NOTICE, _COMMAND, _MESSAGE = table(ContingencyNotice), table(InboxCommand), table(InboxMessage)
_LANE, _OUTBOX, _TICKET, _TENANT = table(Lane), table(Outbox), table(Ticket), table(Tenant)

KIND: Final = "contingency_message"
GENERAL_AFTER: Final = timedelta(seconds=60)
"""A message waits this long for the request that it may become; then its family hears the general text."""
TICKET_PATIENCE: Final = timedelta(minutes=5)
"""So long a notice waits for its ticket before it ends without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """A family that has not heard yet."""

    tenant_id: str
    contact_id: str
    intent: str
    correlation_id: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A notice that reached its terminal state."""

    tenant_id: str
    contact_id: str
    intent: str
    correlation_id: str
    result: ContingencyResult


# --- who must hear ------------------------------------------------------------------------------------------------------


def affected(conn: Connection, scope: str, now: datetime, limit: int) -> list[Affected]:
    """Families with a parked request, or with a message that led to none, that the open episode has not told yet."""
    episode = open_episode(conn, scope)
    if episode is None:
        return []
    found = _with_requests(conn, episode, limit)
    return found + _with_messages(conn, episode, now, limit - len(found))


def _tenants(scope: str) -> Any:
    return select(_TENANT.c.tenant_id).where(
        _TENANT.c.tenant_id == scope if scope != GLOBAL_SCOPE else _TENANT.c.disabled_at.is_(None)
    )


def _with_requests(conn: Connection, episode: Row[Any], limit: int) -> list[Affected]:
    c, n = _COMMAND.c, _NOTICE.c
    told = and_(
        n.tenant_id == c.tenant_id,
        n.episode_id == episode.episode_id,
        n.contact_id == c.contact_id,
        n.intent == c.command_type,
    )
    query = (
        select(c.tenant_id, c.contact_id, c.command_type, c.correlation_id, c.accepted_at)
        .where(
            c.tenant_id.in_(_tenants(episode.scope)),
            c.done_at.is_(None),
            c.commit_order.is_not(None),
            c.status == State.PENDING_SAFE_MODE,
            c.command_type.in_(sorted(SENSITIVE)),
            ~select(n.contact_id).where(told).exists(),
        )
        .order_by(c.accepted_at, c.command_id)
        .limit(limit)
    )
    return _distinct(
        Affected(
            tenant_id=row.tenant_id,
            contact_id=row.contact_id,
            intent=row.command_type,
            correlation_id=row.correlation_id,
            received_at=row.accepted_at,
        )
        for row in conn.execute(query)
    )


def _with_messages(conn: Connection, episode: Row[Any], now: datetime, limit: int) -> list[Affected]:
    if limit <= 0:
        return []
    m, n, lane = _MESSAGE.c, _NOTICE.c, _LANE.c
    served = and_(lane.tenant_id == m.tenant_id, lane.contact_id == m.contact_id, lane.takeover_id.is_not(None))
    told = and_(n.tenant_id == m.tenant_id, n.episode_id == episode.episode_id, n.contact_id == m.contact_id)
    query = (
        select(m.tenant_id, m.contact_id, m.correlation_id, m.received_at)
        .where(
            m.tenant_id.in_(_tenants(episode.scope)),
            m.received_at >= episode.entered_at,
            m.received_at <= now - GENERAL_AFTER,
            m.event_type == "message",
            ~select(lane.contact_id).where(served).exists(),  # a person has the conversation
            ~select(n.contact_id).where(told).exists(),
        )
        .order_by(m.received_at, m.event_id)
        .limit(limit)
    )
    return _distinct(
        Affected(
            tenant_id=row.tenant_id,
            contact_id=row.contact_id,
            intent=GENERAL,
            correlation_id=row.correlation_id,
            received_at=row.received_at,
        )
        for row in conn.execute(query)
    )


def _distinct(found: Any) -> list[Affected]:
    """The oldest of each family and intent."""
    first: dict[tuple[str, str, str], Affected] = {}
    for each in found:
        first.setdefault((each.tenant_id, each.contact_id, each.intent), each)
    return list(first.values())


# --- telling ------------------------------------------------------------------------------------------------------------


def hours_of(document: Mapping[str, Any]) -> Hours:
    """Opening hours of a clinic out of its settings."""
    return opening_hours.hours(document)


def tell_families(conn: Connection, scope: str, families: Sequence[Affected], now: datetime) -> list[Affected]:
    """Write what each family hears; returns those that had not heard before. Nothing once the episode has ended."""
    episode = open_episode(conn, scope)
    if episode is None:
        return []
    rows, messages = [], []
    documents: dict[str, Mapping[str, Any]] = {}
    for family in families:
        document = documents.setdefault(family.tenant_id, load(conn, family.tenant_id))
        words = notice(
            family.intent,
            hours=hours_of(document),
            now=now,
            received_at=family.received_at,
            phone=document.get("phone"),
            edited=document.get("family_texts") or {},
        )
        message = _message(episode, family, words.text, now, step=f"contingency_{family.intent}")
        rows.append(
            {
                "tenant_id": family.tenant_id,
                "episode_id": episode.episode_id,
                "contact_id": family.contact_id,
                "intent": family.intent,
                "at": now,
                "outbox_id": message["outbox_id"],
                "ticket_id": ticket_id_of(episode.episode_id, family.tenant_id),
                "template": words.template,
                "correlation_id": family.correlation_id,
            }
        )
        messages.append(message)
    insert_rows(conn, _NOTICE, rows, ignore_conflicts=True)
    won = set(
        conn.execute(select(_NOTICE.c.outbox_id).where(_NOTICE.c.outbox_id.in_([row["outbox_id"] for row in rows]))).scalars()
    )
    enqueue(conn, [message for message in messages if message["outbox_id"] in won])
    told = [family for family, row in zip(families, rows, strict=True) if row["outbox_id"] in won]
    if told:
        _announce(conn, episode, {family.tenant_id for family in told}, now)
    return told


def _message(
    episode: Row[Any], family: Affected, text: str, now: datetime, *, step: str, channel: str | None = None
) -> dict[str, Any]:
    cause = sha256_hex(f"notice:{episode.episode_id}:{family.contact_id}")[:40]
    return outbox_row(
        tenant_id=family.tenant_id,
        cause_id=cause,
        step=step,
        kind=KIND,
        contact_id=family.contact_id,
        body={"text": text} | ({"channel": channel} if channel else {}),
        correlation_id=family.correlation_id,
        now=now,
    )


def _announce(conn: Connection, episode: Row[Any], tenants: set[str], now: datetime) -> None:
    changes: dict[tuple[str | None, str], Sequence[str]] = {(tenant, "safe_mode"): [episode.scope] for tenant in tenants}
    publish_many(conn, changes, now)


# --- what came of it ----------------------------------------------------------------------------------------------------


def unsettled(conn: Connection) -> bool:
    """Whether a notice has no terminal state although its message has ended."""
    o, n = _OUTBOX.c, _NOTICE.c
    query = (
        select(n.outbox_id)
        .join(_OUTBOX, o.outbox_id == n.outbox_id)
        .where(n.result.is_(None), o.status.not_in([OutboxStatus.PENDING, OutboxStatus.SENDING]))
        .limit(1)
    )
    return conn.execute(query).first() is not None


def settle(conn: Connection, now: datetime, failed: Collection[str] = (), limit: int = 200) -> list[Outcome]:
    """Give notices whose message has ended their terminal state; one that failed for certain tries the second channel first.

    A notice whose ticket is not there yet waits for it: the message may be faster, and another node may be about to open it.
    Without one it ends when the attempt to open it has failed (`failed`: ids), or `TICKET_PATIENCE` after the family was told.
    """
    o, n = _OUTBOX.c, _NOTICE.c
    query = (
        select(
            _NOTICE,
            o.status.label("status"),
            o.body_json.label("body_json"),
            o.step.label("step"),
            _TICKET.c.ticket_id.label("ticket"),
        )
        .join(_OUTBOX, o.outbox_id == n.outbox_id)
        .outerjoin(_TICKET, _TICKET.c.ticket_id == n.ticket_id)
        .where(
            n.result.is_(None),
            o.status.not_in([OutboxStatus.PENDING, OutboxStatus.SENDING]),
            or_(_TICKET.c.ticket_id.is_not(None), n.ticket_id.in_(failed), n.at <= now - TICKET_PATIENCE),
        )
        .limit(limit)
    )
    done = []
    for row in conn.execute(query).all():
        if row.status in (OutboxStatus.FAILED, OutboxStatus.DEAD) and _second_channel(conn, row, now):
            continue
        result = contingency_result(message_sent=row.status == OutboxStatus.SENT, ticket_opened=row.ticket is not None)
        changed = conn.execute(_of(update(_NOTICE), row).where(n.result.is_(None)).values(result=result, done_at=now))
        if changed.rowcount:
            done.append(
                Outcome(
                    tenant_id=row.tenant_id,
                    contact_id=row.contact_id,
                    intent=row.intent,
                    correlation_id=row.correlation_id,
                    result=result,
                )
            )
    if done:
        publish_many(conn, {(tenant, "safe_mode"): [] for tenant in {o.tenant_id for o in done}}, now)
    return done


def _of(statement: Any, row: Row[Any]) -> Any:
    """A statement narrowed to one notice."""
    n = _NOTICE.c
    return statement.where(
        n.tenant_id == row.tenant_id,
        n.episode_id == row.episode_id,
        n.contact_id == row.contact_id,
        n.intent == row.intent,
    )


def _second_channel(conn: Connection, row: Row[Any], now: datetime) -> bool:
    """Hand the text to the clinic's second channel; False when there is none, or when it has been tried."""
    channel = load(conn, row.tenant_id).get("contacts_fallback_channel")
    if not channel or row.step.startswith("fallback_"):
        return False
    family = Affected(
        tenant_id=row.tenant_id,
        contact_id=row.contact_id,
        intent=row.intent,
        correlation_id=row.correlation_id,
        received_at=row.at,
    )
    text = msgspec.json.decode(row.body_json)["text"]
    message = _message(row, family, text, now, step=f"fallback_{row.intent}", channel=channel)
    moved = conn.execute(
        _of(update(_NOTICE), row)
        .where(_NOTICE.c.outbox_id == row.outbox_id, _NOTICE.c.result.is_(None))
        .values(outbox_id=message["outbox_id"])
    )
    if moved.rowcount:
        enqueue(conn, [message])
    return True


@dataclass(frozen=True, slots=True)
class Told:
    """Families that were told at one moment, by intent."""

    at: datetime
    intent: str
    count: int


def told(conn: Connection, episode_id: str, limit: int = 1_000) -> list[Told]:
    """When families of an episode were told what, oldest first."""
    n = _NOTICE.c
    query = select(n.at, n.intent, func.count()).where(n.episode_id == episode_id).group_by(n.at, n.intent)
    return [Told(*row) for row in conn.execute(query.order_by(n.at, n.intent).limit(limit))]


def counts(conn: Connection, episode_id: str) -> dict[str, int]:
    """Notices of an episode by result; `sending` for those on their way."""
    n = _NOTICE.c
    query = select(func.coalesce(n.result, "sending"), func.count()).where(n.episode_id == episode_id).group_by(n.result)
    return {str(result): int(number) for result, number in conn.execute(query)}
