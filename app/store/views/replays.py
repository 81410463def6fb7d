"""Replay batches as the API, the console and the report show them."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, func, select

from app.domain.replay_batch import RESULTS, BatchStatus, is_fresh
from app.domain.states import State
from app.store.tables import Contact, ReplayBatch, ReplayItem, table

_BATCH, _ITEM, _CONTACT = table(ReplayBatch), table(ReplayItem), table(Contact)

SOON: Final = timedelta(hours=24)
GROUPS_MAX: Final = 100


def batch(conn: Connection, tenant_id: str, replay_id: str, now: datetime) -> dict[str, Any] | None:
    """A batch with its counts and groups, without its items; None when the clinic has no such batch."""
    row = conn.execute(select(_BATCH).where(_BATCH.c.tenant_id == tenant_id, _BATCH.c.replay_id == replay_id)).first()
    if row is None:
        return None
    predicted = _counts(conn, row.replay_id, _ITEM.c.predicted_result)
    actual = _counts(conn, row.replay_id, _ITEM.c.result)
    started = row.started_at is not None
    sent = select(func.count()).where(
        _ITEM.c.replay_id == replay_id, _ITEM.c.predicted_result == State.REPLAYED, _ITEM.c.sent.is_(True)
    )
    return _head(row) | {
        "fresh": row.status == BatchStatus.PLANNED and is_fresh(row.planned_at, now),
        "would_replay": int(conn.execute(sent).scalar_one()),
        "counts": {str(state): (actual if started else predicted).get(state, 0) for state in RESULTS},
        "predicted": {str(state): predicted.get(state, 0) for state in RESULTS},
        "outcomes": _outcomes(conn, replay_id, started),
        "families": _families(conn, tenant_id, replay_id),
        "within_24h": _soon(conn, replay_id, now),
    }


def tenant_of_batch(conn: Connection, replay_id: str) -> str | None:
    """The clinic of a batch; None when there is no such batch."""
    found = conn.execute(select(_BATCH.c.tenant_id).where(_BATCH.c.replay_id == replay_id)).scalar()
    return str(found) if found is not None else None


def names(conn: Connection, tenant_id: str, contact_ids: Sequence[str]) -> dict[str, str]:
    """Names of contacts by id; those without one are left out."""
    wanted = sorted(set(contact_ids))
    if not wanted:
        return {}
    query = select(_CONTACT.c.contact_id, _CONTACT.c.name).where(
        _CONTACT.c.tenant_id == tenant_id, _CONTACT.c.contact_id.in_(wanted), _CONTACT.c.name.is_not(None)
    )
    return {row.contact_id: row.name for row in conn.execute(query)}


def batches(conn: Connection, tenant_id: str, *, after: tuple[datetime, str] | None, limit: int) -> list[dict[str, Any]]:
    """A clinic's batches, the newest first."""
    query = select(_BATCH).where(_BATCH.c.tenant_id == tenant_id)
    if after is not None:
        at, replay_id = after
        earlier = (_BATCH.c.planned_at < at) | and_(_BATCH.c.planned_at == at, _BATCH.c.replay_id < replay_id)
        query = query.where(earlier)
    rows = conn.execute(query.order_by(_BATCH.c.planned_at.desc(), _BATCH.c.replay_id.desc()).limit(limit))
    return [_head(row) for row in rows]


def items(conn: Connection, replay_id: str, *, after: int = 0, limit: int = 200) -> list[dict[str, Any]]:
    """Items in the order of the plan, from behind place `after`."""
    query = select(_ITEM).where(_ITEM.c.replay_id == replay_id, _ITEM.c.n > after).order_by(_ITEM.c.n).limit(limit)
    return [item_document(row) for row in conn.execute(query)]


def all_items(conn: Connection, replay_id: str) -> Iterator[dict[str, Any]]:
    """Every item, for a report."""
    for row in conn.execute(select(_ITEM).where(_ITEM.c.replay_id == replay_id).order_by(_ITEM.c.n)):
        yield item_document(row)


def item_document(row: Row[Any]) -> dict[str, Any]:
    """One item: what it is, what was predicted and why, and what came of it."""
    return {
        "n": row.n,
        "command_id": row.command_id,
        "run_command_id": row.run_command_id,
        "contact_id": row.contact_id,
        "kind": row.kind,
        "pulled_in": bool(row.pulled_in),
        "sent": bool(row.sent),
        "command_type": row.command_type,
        "commit_order": row.commit_order,
        "was_status": row.was_status,
        "correlation_id": row.correlation_id,
        "occurred_at": row.occurred_at,
        "appointment_id": row.appointment_id,
        "starts_at": row.starts_at,
        "predicted": {"result": row.predicted_result, "status": row.predicted_state, "reason": row.predicted_reason},
        "expected_version": row.expected_version,
        "event_version": row.event_version,
        "event_age_s": row.event_age_s,
        "ttl_limit_s": row.ttl_limit_s,
        "message": row.message,
        "state": row.state,
        "result": row.result,
        "status": row.actual_state,
        "reason": row.reason,
        "drift": bool(row.drift),
        "done_at": row.done_at,
    }


def _head(row: Row[Any]) -> dict[str, Any]:
    return {
        "replay_id": row.replay_id,
        "tenant_id": row.tenant_id,
        "status": row.status,
        "dry_run": row.started_at is None,
        "rev": row.rev,
        "filter": msgspec.json.decode(row.filter_json),
        "rate": row.rate_per_s,
        "planned_at": row.planned_at,
        "planned_by": row.planned_by,
        "started_at": row.started_at,
        "started_by": row.started_by,
        "ended_at": row.ended_at,
        "total": row.total,
        "done": row.done,
        "drift": row.drifted,
        "correlation_id": row.correlation_id,
    }


def _counts(conn: Connection, replay_id: str, column: Any) -> dict[str, int]:
    query = select(column, func.count()).where(_ITEM.c.replay_id == replay_id, column.is_not(None)).group_by(column)
    return {str(name): int(number) for name, number in conn.execute(query)}


def _outcomes(conn: Connection, replay_id: str, started: bool) -> list[dict[str, Any]]:
    """Items by what the gate says about them, the most frequent first."""
    state = func.coalesce(_ITEM.c.actual_state, _ITEM.c.predicted_state) if started else _ITEM.c.predicted_state
    reason = func.coalesce(_ITEM.c.reason, _ITEM.c.predicted_reason) if started else _ITEM.c.predicted_reason
    query = (
        select(state.label("state"), reason.label("reason"), func.count().label("number"))
        .where(_ITEM.c.replay_id == replay_id)
        .group_by(state, reason)
        .order_by(func.count().desc(), state, reason)
    )
    return [{"status": row.state, "reason": row.reason, "count": int(row.number)} for row in conn.execute(query)]


def _families(conn: Connection, tenant_id: str, replay_id: str) -> list[dict[str, Any]]:
    """Contacts with more than one item, the most first."""
    name = func.max(_CONTACT.c.name)
    query = (
        select(_ITEM.c.contact_id, name.label("name"), func.count().label("number"), func.min(_ITEM.c.n).label("first"))
        .outerjoin(_CONTACT, and_(_CONTACT.c.tenant_id == tenant_id, _CONTACT.c.contact_id == _ITEM.c.contact_id))
        .where(_ITEM.c.replay_id == replay_id)
        .group_by(_ITEM.c.contact_id)
        .order_by(func.count().desc(), func.min(_ITEM.c.n))
        .limit(GROUPS_MAX)
    )
    return [{"contact_id": row.contact_id, "name": row.name, "count": int(row.number)} for row in conn.execute(query)]


def _soon(conn: Connection, replay_id: str, now: datetime) -> list[dict[str, Any]]:
    """Items about an appointment that starts within a day."""
    query = (
        select(_ITEM.c.n, _ITEM.c.command_id, _ITEM.c.contact_id, _ITEM.c.appointment_id, _ITEM.c.starts_at)
        .where(_ITEM.c.replay_id == replay_id, _ITEM.c.starts_at >= now, _ITEM.c.starts_at <= now + SOON)
        .order_by(_ITEM.c.starts_at, _ITEM.c.n)
        .limit(GROUPS_MAX)
    )
    return [dict(row._mapping) for row in conn.execute(query)]
