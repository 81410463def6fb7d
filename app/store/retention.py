"""Pruning (LGPD): each function deals with at most `limit` rows in its own short transaction and says how many there were.

What is not done with stays whole: a request behind an open task, messages of a conversation that a person has, what is on
its way. The ledger, its hash chains and the audit trail are never touched; `kora verify` finds the same as before.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Table, and_, case, delete, exists, or_, select, update

from app.domain.envelopes import canonical_json
from app.domain.evidence_kinds import EvidenceKind
from app.domain.replay_batch import BatchStatus
from app.domain.retention import FULL, MINIMISED, REMOVED, Periods, minimised
from app.domain.takeover import REASONS as TAKEOVER_REASONS
from app.store.bulk import insert_rows, update_rows
from app.store.outbox import ACTIVE
from app.store.settings import GLOBAL_SCOPE
from app.store.tables import (
    AckRecord,
    AckToken,
    Alert,
    AlertStep,
    DeliveryStatus,
    EventLog,
    EvidenceFile,
    EvidencePack,
    InboxCommand,
    InboxMessage,
    Lane,
    MalformedItem,
    ManualTask,
    Outbox,
    PhoneMessage,
    ReplayBatch,
    ReplayItem,
    RetentionRound,
    SafeCause,
    SignalFiring,
    Tenant,
    Ticket,
    table,
)

_MESSAGE, _COMMAND, _OUTBOX = table(InboxMessage), table(InboxCommand), table(Outbox)
_MALFORMED, _PHONE, _EVENT = table(MalformedItem), table(PhoneMessage), table(EventLog)
_STATUS, _TASK, _LANE, _TENANT = table(DeliveryStatus), table(ManualTask), table(Lane), table(Tenant)
_ALERT, _STEP, _ACK, _TOKEN, _CAUSE = table(Alert), table(AlertStep), table(AckRecord), table(AckToken), table(SafeCause)
_BATCH, _ITEM, _FIRING, _ROUND = table(ReplayBatch), table(ReplayItem), table(SignalFiring), table(RetentionRound)
_TICKET, _PACK, _FILE = table(Ticket), table(EvidencePack), table(EvidenceFile)

ROUND: Final = "round"


def claim(conn: Connection, node_id: str, now: datetime, until: datetime) -> bool:
    """Take the round, or keep it; False while another node has it."""
    insert_rows(conn, _ROUND, [{"name": ROUND, "node_id": node_id, "until": now}], ignore_conflicts=True)
    free = or_(_ROUND.c.node_id == node_id, _ROUND.c.until <= now)
    return conn.execute(update(_ROUND).where(_ROUND.c.name == ROUND, free).values(node_id=node_id, until=until)).rowcount == 1


def tenants(conn: Connection) -> list[str]:
    """Every clinic."""
    return list(conn.execute(select(_TENANT.c.tenant_id).order_by(_TENANT.c.tenant_id)).scalars())


# --- what families wrote, asked for, and were told ----------------------------------------------------------------------


def payloads(conn: Connection, tenant_id: str, kept: Periods, now: datetime, limit: int) -> int:
    """Minimise, then remove, payloads of messages, requests and deliveries of one clinic."""
    done = 0
    for source, name, body, moment, idle in _CONTENT:
        for before, after, age in ((FULL, MINIMISED, kept.minimise), (MINIMISED, REMOVED, kept.remove)):
            rows: list[Any] = list(
                conn.execute(
                    select(source.c.tenant_id, source.c[name], source.c[body].label("body"))
                    .where(source.c.tenant_id == tenant_id, source.c.payload_level == before, moment <= now - age, idle())
                    .order_by(moment)
                    .limit(limit)
                )
            )
            _reduce(conn, source, name, body, rows, after)
            done += len(rows)
    return done


def _reduce(conn: Connection, source: Table, name: str, body: str, rows: Sequence[Row[Any]], level: int) -> None:
    changed = [
        {
            "tenant_id": row.tenant_id,
            name: getattr(row, name),
            body: canonical_json(minimised(msgspec.json.decode(row.body))) if level == MINIMISED else "{}",
            "payload_level": level,
        }
        for row in rows
    ]
    update_rows(
        conn, source, changed, keys=("tenant_id", name), assign=(body, "payload_level"), guard="t.payload_level < r.payload_level"
    )


def _no_open_task() -> ColumnElement[bool]:
    same = and_(_TASK.c.tenant_id == _COMMAND.c.tenant_id, _TASK.c.dedup_key == "command:" + _COMMAND.c.command_id)
    return and_(_COMMAND.c.done_at.is_not(None), ~exists().where(same, _TASK.c.status != "resolved"))


def _no_takeover() -> ColumnElement[bool]:
    same = and_(_LANE.c.tenant_id == _MESSAGE.c.tenant_id, _LANE.c.contact_id == _MESSAGE.c.contact_id)
    return and_(_MESSAGE.c.done_at.is_not(None), ~exists().where(same, _LANE.c.takeover_id.is_not(None)))


_CONTENT: Final[tuple[tuple[Table, str, str, Any, Callable[[], ColumnElement[bool]]], ...]] = (
    (_MESSAGE, "event_id", "payload_json", _MESSAGE.c.done_at, _no_takeover),
    (_COMMAND, "command_id", "payload_json", _COMMAND.c.done_at, _no_open_task),
    (_OUTBOX, "outbox_id", "body_json", _OUTBOX.c.created_at, lambda: _OUTBOX.c.status.not_in(ACTIVE)),
)
"""Table, its id, its content, when it was done with, and what must hold before it is touched."""


def unusable(conn: Connection, tenant_id: str, kept: Periods, now: datetime, limit: int) -> int:
    """Remove the bytes of items that nobody could use, once nobody has to look at them any more; the row stays, with its hash."""
    task = and_(_TASK.c.tenant_id == _MALFORMED.c.tenant_id, _TASK.c.item_id == _MALFORMED.c.item_id, _TASK.c.status != "resolved")
    old = (_MALFORMED.c.tenant_id == tenant_id, _MALFORMED.c.raw_json != "", _MALFORMED.c.received_at <= now - kept.remove)
    ids = list(conn.execute(select(_MALFORMED.c.item_id).where(*old, ~exists().where(task)).limit(limit)).scalars())
    mine = (_MALFORMED.c.tenant_id == tenant_id, _MALFORMED.c.item_id.in_(ids))
    conn.execute(update(_MALFORMED).where(*mine).values(raw_json="", errors_json="[]"))
    return len(ids)


def predicted(conn: Connection, tenant_id: str, kept: Periods, now: datetime, limit: int) -> int:
    """Forget what a replay's families would read: once its batch is over, or was only ever a dry run that has grown old."""
    over = and_(_BATCH.c.ended_at.is_not(None), _BATCH.c.ended_at <= now - kept.minimise)
    tried = and_(_BATCH.c.status == BatchStatus.PLANNED, _BATCH.c.planned_at <= now - kept.remove)
    query = (
        select(_ITEM.c.replay_id, _ITEM.c.n)
        .join(_BATCH, _BATCH.c.replay_id == _ITEM.c.replay_id)
        .where(_BATCH.c.tenant_id == tenant_id, _ITEM.c.message.is_not(None), or_(over, tried))
    )
    rows = [{"replay_id": row.replay_id, "n": row.n, "message": None} for row in conn.execute(query.limit(limit))]
    update_rows(conn, _ITEM, rows, keys=("replay_id", "n"), assign=("message",))
    return len(rows)


def notes(conn: Connection, tenant_id: str, kept: Periods, now: datetime, limit: int) -> int:
    """Forget what staff typed about families: notes of tasks, why a person had a conversation and how it ended."""
    old = (_TASK.c.tenant_id == tenant_id, _TASK.c.note.is_not(None), _TASK.c.resolved_at <= now - kept.notes)
    tasks = list(conn.execute(select(_TASK.c.task_id).where(*old).limit(limit)).scalars())
    conn.execute(update(_TASK).where(_TASK.c.task_id.in_(tasks)).values(note=None))
    typed = or_(_TICKET.c.close_reason.is_not(None), _TICKET.c.reason.not_in(_OWN_WORDS))
    gone = (_TICKET.c.tenant_id == tenant_id, _TICKET.c.kind == "takeover", _TICKET.c.closed_at <= now - kept.notes, typed)
    tickets = list(conn.execute(select(_TICKET.c.ticket_id).where(*gone).limit(limit)).scalars())
    own = case((_TICKET.c.reason.in_(_OWN_WORDS), _TICKET.c.reason), else_=FORGOTTEN)
    conn.execute(update(_TICKET).where(_TICKET.c.ticket_id.in_(tickets)).values(close_reason=None, reason=own))
    return max(len(tasks), len(tickets))


FORGOTTEN: Final = "forgotten"
"""What stands for the reason of a conversation that somebody typed, once its time is over."""
_OWN_WORDS: Final = (*TAKEOVER_REASONS, FORGOTTEN)


# --- what the installation remembers ------------------------------------------------------------------------------------


def events(conn: Connection, kept: Periods, now: datetime, limit: int) -> int:
    """Drop old rows of the stream's log; a browser that was away for longer starts anew."""
    return _drop(conn, _EVENT, _EVENT.c.position, _EVENT.c.at <= now - kept.events, limit)


def phone(conn: Connection, kept: Periods, now: datetime, limit: int) -> int:
    """Drop what the simulated phone shows."""
    return _drop(conn, _PHONE, _PHONE.c.position, _PHONE.c.at <= now - kept.remove, limit)


def deliveries(conn: Connection, kept: Periods, now: datetime, limit: int) -> int:
    """Drop providers' receipts; the summary stays on what was sent."""
    key = (_STATUS.c.tenant_id, _STATUS.c.provider_message_id, _STATUS.c.status)
    rows = conn.execute(select(*key).where(_STATUS.c.received_at <= now - kept.deliveries).limit(limit)).all()
    for row in rows:
        conn.execute(delete(_STATUS).where(*(column == row[i] for i, column in enumerate(key))))
    return len(rows)


def alerts(conn: Connection, kept: Periods, now: datetime, limit: int) -> int:
    """Drop alerts that are over, whole: with attempts, links and records. What caused a safe-mode episode stays with it."""
    cause = exists().where(_CAUSE.c.cause_id == _ALERT.c.alert_id)
    old = (_ALERT.c.resolved_at.is_not(None), _ALERT.c.resolved_at <= now - kept.alerts)
    ids = list(conn.execute(select(_ALERT.c.alert_id).where(*old, ~cause).limit(limit)).scalars())
    for part in (_TOKEN, _ACK, _STEP, _ALERT):
        conn.execute(delete(part).where(part.c.alert_id.in_(ids)))
    return len(ids)


def replays(conn: Connection, kept: Periods, now: datetime, limit: int) -> int:
    """Drop replay batches that are over, with their items."""
    old = (_BATCH.c.ended_at.is_not(None), _BATCH.c.ended_at <= now - kept.replays)
    ids = list(conn.execute(select(_BATCH.c.replay_id).where(*old).limit(max(1, limit // 50))).scalars())
    for part in (_ITEM, _BATCH):
        conn.execute(delete(part).where(part.c.replay_id.in_(ids)))
    return len(ids)


def evidence(conn: Connection, kept: Periods, now: datetime, limit: int) -> int:
    """Drop packs of incidents and those that somebody asked for; what a drill or the deferred item rests on is about nobody."""
    done = (_PACK.c.due_at.is_(None), _PACK.c.finished_at <= now - kept.evidence)
    about = _PACK.c.kind.not_in([EvidenceKind.DRILL, EvidenceKind.DEFERRED])
    ids = list(conn.execute(select(_PACK.c.pack_id).where(*done, about).limit(limit)).scalars())
    for part in (_FILE, _PACK):
        conn.execute(delete(part).where(part.c.pack_id.in_(ids)))
    return len(ids)


def signals(conn: Connection, kept: Periods, now: datetime, limit: int) -> int:
    """Drop what fired, once it is long over."""
    old = and_(_FIRING.c.ended_at.is_not(None), _FIRING.c.ended_at <= now - kept.signals)
    return _drop(conn, _FIRING, _FIRING.c.firing_id, old, limit)


def _drop(conn: Connection, source: Table, key: Any, old: ColumnElement[bool], limit: int) -> int:
    ids = list(conn.execute(select(key).where(old).limit(limit)).scalars())
    conn.execute(delete(source).where(key.in_(ids)))
    return len(ids)


OF_A_CLINIC: Final[Mapping[str, Callable[[Connection, str, Periods, datetime, int], int]]] = {
    "payloads": payloads,
    "unusable": unusable,
    "predicted": predicted,
    "notes": notes,
}
OF_ALL: Final[Mapping[str, Callable[[Connection, Periods, datetime, int], int]]] = {
    "events": events,
    "phone": phone,
    "deliveries": deliveries,
    "alerts": alerts,
    "replays": replays,
    "signals": signals,
    "evidence": evidence,
}
"""By name: with a clinic's own periods, and with the installation's."""

SCOPE_OF_ALL: Final = GLOBAL_SCOPE
