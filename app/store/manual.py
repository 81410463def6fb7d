"""The manual queue: tasks as people see, claim, give back and close them.

Every change is a compare-and-set on the task's status, owner and `rev`, with its audit row in the same transaction: of two
people who claim one task, one gets it and the other a Conflict, and nothing happened to it. How tasks are opened stands in
`store.tasks`: in the transaction of their cause.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, update

from app.domain.envelopes import Command, sha256_hex
from app.domain.manual import NAMED_CAUSES, UNDO_WITHIN, Outcome, Tab, TaskAct, TaskStatus, causes_of, step
from app.domain.states import EFFECT_RESULTS, RequestedBy
from app.errors import Conflict, InvalidRequest, NotFound
from app.store import audit
from app.store.carried_out import APPLY_KEY
from app.store.d1 import UNCONFIRMED
from app.store.events import publish
from app.store.inbox import accept
from app.store.intake_facts import Submission
from app.store.lanes import command_of
from app.store.lines import say
from app.store.people import By
from app.store.tables import (
    Appointment,
    Contact,
    InboxCommand,
    InboxMessage,
    Lane,
    Ledger,
    MalformedItem,
    ManualTask,
    Outbox,
    table,
)
from app.store.views.scope import Scope, within

_TASK, _COMMAND, _CONTACT, _LANE, _LEDGER = table(ManualTask), table(InboxCommand), table(Contact), table(Lane), table(Ledger)
_APPOINTMENT, _MALFORMED, _MESSAGE, _OUTBOX = table(Appointment), table(MalformedItem), table(InboxMessage), table(Outbox)

_FIELDS = (
    "task_id tenant_id cause reason priority status rev contact_id command_id item_id correlation_id created_at due_at owner "
    "claimed_at resolved_at resolution note apply_command_id"
).split()
_AT_STAKE = ("appointment_id", "therapist_id", "start_at", "end_at", "status", "version")


# --- reading ------------------------------------------------------------------------------------------------------------


def tasks(
    conn: Connection,
    scope: Scope,
    *,
    statuses: Collection[str] = (TaskStatus.OPEN, TaskStatus.CLAIMED),
    tab: Tab | None = None,
    cause: str | None = None,
    owner: str | None = None,
    after: tuple[datetime, str] | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Tasks by deadline, the oldest first, each with its contact's name and what was asked for."""
    found: list[ColumnElement[bool]] = [within(_TASK.c.tenant_id, scope), _TASK.c.status.in_(sorted(statuses))]
    if tab is not None:
        found.append(_TASK.c.cause.not_in(NAMED_CAUSES) if tab is Tab.OTHER else _TASK.c.cause.in_(causes_of(tab)))
    if cause is not None:
        found.append(_TASK.c.cause == cause)
    if owner is not None:
        found.append(_TASK.c.owner == owner)
    if after is not None:
        due_at, task_id = after
        found.append(or_(_TASK.c.due_at > due_at, and_(_TASK.c.due_at == due_at, _TASK.c.task_id > task_id)))
    query = _joined().where(*found).order_by(_TASK.c.due_at, _TASK.c.task_id).limit(limit)
    return [_document(row) for row in conn.execute(query)]


def closed(conn: Connection, scope: Scope, since: datetime, *, limit: int = 100) -> list[dict[str, Any]]:
    """Tasks that were closed since then, the latest first."""
    query = _joined().where(within(_TASK.c.tenant_id, scope), _TASK.c.status == TaskStatus.RESOLVED, _TASK.c.resolved_at >= since)
    return [_document(row) for row in conn.execute(query.order_by(_TASK.c.resolved_at.desc(), _TASK.c.task_id).limit(limit))]


def closed_count(conn: Connection, scope: Scope, since: datetime) -> int:
    """How many were."""
    query = select(func.count()).where(
        within(_TASK.c.tenant_id, scope), _TASK.c.status == TaskStatus.RESOLVED, _TASK.c.resolved_at >= since
    )
    return int(conn.execute(query).scalar_one())


def some(conn: Connection, scope: Scope, task_ids: Sequence[str]) -> list[dict[str, Any]]:
    """These tasks, as far as the caller sees them."""
    found = conn.execute(_joined().where(within(_TASK.c.tenant_id, scope), _TASK.c.task_id.in_(list(task_ids))))
    return [_document(row) for row in found]


def can_reopen(task: Mapping[str, Any], now: datetime) -> bool:
    """Whether a closing can still be undone."""
    done_by_command = task["resolution"] == Outcome.APPLIED_BY_COMMAND
    return task["resolved_at"] is not None and not done_by_command and now - task["resolved_at"] <= UNDO_WITHIN


def counts(conn: Connection, scope: Scope) -> dict[str, int]:
    """Tasks that are not closed, by cause."""
    query = (
        select(_TASK.c.cause, func.count())
        .where(within(_TASK.c.tenant_id, scope), _TASK.c.status != TaskStatus.RESOLVED)
        .group_by(_TASK.c.cause)
    )
    return {cause: int(count) for cause, count in conn.execute(query)}


def task(conn: Connection, scope: Scope, task_id: str) -> dict[str, Any] | None:
    """One task with what is behind it: the request or the raw item, and the appointment at stake; None when unknown."""
    row = conn.execute(_joined().where(within(_TASK.c.tenant_id, scope), _TASK.c.task_id == task_id)).first()
    return _document(row) | _behind(conn, row) if row is not None else None


def _joined() -> Any:
    contact = and_(_CONTACT.c.tenant_id == _TASK.c.tenant_id, _CONTACT.c.contact_id == _TASK.c.contact_id)
    command = and_(_COMMAND.c.tenant_id == _TASK.c.tenant_id, _COMMAND.c.command_id == _TASK.c.command_id)
    place = and_(
        _LEDGER.c.tenant_id == _COMMAND.c.tenant_id,
        _LEDGER.c.contact_id == _COMMAND.c.contact_id,
        _LEDGER.c.commit_order == _COMMAND.c.commit_order,
        _LEDGER.c.command_id == _COMMAND.c.command_id,
    )
    return (
        select(
            _TASK,
            _CONTACT.c.name.label("contact_name"),
            _CONTACT.c.phone.label("contact_phone"),
            _COMMAND.c.command_type,
            _COMMAND.c.occurred_at,
            _LEDGER.c.ttl_limit_s,
        )
        .outerjoin(_CONTACT, contact)
        .outerjoin(_COMMAND, command)
        .outerjoin(_LEDGER, place)
    )


def _document(row: Row[Any]) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in _FIELDS}
    return found | {
        "contact_name": row.contact_name,
        "contact_phone": row.contact_phone,
        "command_type": row.command_type,
        "occurred_at": row.occurred_at,
        "ttl_limit_s": row.ttl_limit_s,
    }


def _behind(conn: Connection, row: Row[Any]) -> dict[str, Any]:
    command = appointment = None
    if row.command_id is not None:
        command = conn.execute(
            select(_COMMAND).where(_COMMAND.c.tenant_id == row.tenant_id, _COMMAND.c.command_id == row.command_id)
        ).first()
    payload = msgspec.json.decode(command.payload_json) if command is not None else _raw(conn, row)
    appointment_id = payload.get("appointment_id") if isinstance(payload, dict) else None
    if row.cause == UNCONFIRMED:
        appointment_id = row.item_id
    if isinstance(appointment_id, str):
        appointment = conn.execute(
            select(_APPOINTMENT).where(_APPOINTMENT.c.tenant_id == row.tenant_id, _APPOINTMENT.c.appointment_id == appointment_id)
        ).first()
    applying = row.apply_command_id is not None and _undecided(conn, row.tenant_id, row.apply_command_id)
    shown = None
    if appointment is not None:
        shown = {
            name: getattr(appointment, name)
            for name in ("appointment_id", "therapist_id", "start_at", "end_at", "status", "version")
        }
    return {
        "payload": payload,
        "patient_id": command.patient_id if command is not None else appointment.patient_id if appointment is not None else None,
        "appointment": shown,
        "can_apply": command is not None and row.status != TaskStatus.RESOLVED and not applying,
        "applying": applying,
    }


def _raw(conn: Connection, row: Row[Any]) -> Any:
    """What is kept of an item that was no command: the unusable item, the message, or the delivery."""
    if row.item_id is None:
        return None
    for kept, name, column in (
        (_MALFORMED, "item_id", "raw_json"),
        (_MESSAGE, "event_id", "payload_json"),
        (_OUTBOX, "outbox_id", "body_json"),
    ):
        found = conn.execute(select(kept.c[column]).where(kept.c.tenant_id == row.tenant_id, kept.c[name] == row.item_id)).scalar()
        if found is not None:
            return msgspec.json.decode(found)
    return None


# --- acts ---------------------------------------------------------------------------------------------------------------


def claim(conn: Connection, tenant_id: str, task_id: str, by: By, *, rev: int | None = None) -> None:
    """Take a task. Taking one's own again changes nothing. Raises NotFound, Conflict when somebody else has it."""
    before = _locked(conn, tenant_id, task_id)
    if before.status == TaskStatus.CLAIMED and before.owner == by.actor:
        return
    _move(conn, before, TaskAct.CLAIM, by, rev=rev, owner=by.actor[:200], claimed_at=by.now)


def release(conn: Connection, tenant_id: str, task_id: str, by: By, *, rev: int | None = None, anyones: bool = False) -> None:
    """Give a task back; `anyones` for those who may give back what others hold. Raises NotFound, Conflict."""
    before = _locked(conn, tenant_id, task_id)
    _own(before, by, anyones=anyones)
    _move(conn, before, TaskAct.RELEASE, by, rev=rev, owner=None, claimed_at=None)


def resolve(
    conn: Connection,
    tenant_id: str,
    task_id: str,
    by: By,
    *,
    resolution: str,
    note: str | None = None,
    rev: int | None = None,
    anyones: bool = False,
) -> None:
    """Close a task with its outcome; nobody closes what somebody else holds. Raises NotFound, Conflict."""
    before = _locked(conn, tenant_id, task_id)
    _own(before, by, anyones=anyones)
    changed = {"resolution": resolution[:40], "note": note[:1000] if note else None, "resolved_at": by.now}
    _move(conn, before, TaskAct.RESOLVE, by, rev=rev, reason=note, owner=before.owner or by.actor[:200], **changed)


def reopen(conn: Connection, tenant_id: str, task_id: str, by: By, *, rev: int | None = None) -> None:
    """Undo a closing, for a short while; what a command did is not undone. Raises NotFound, Conflict."""
    before = _locked(conn, tenant_id, task_id)
    if before.status == TaskStatus.RESOLVED:
        if before.resolution == Outcome.APPLIED_BY_COMMAND:
            raise Conflict("The request was carried out; a new request is needed to change it. Nothing was changed.")
        if by.now - before.resolved_at > UNDO_WITHIN:
            minutes = int(UNDO_WITHIN.total_seconds() // 60)
            raise Conflict(f"A closed task can be opened again for {minutes} minutes; this was longer ago. Nothing was changed.")
    _move(conn, before, TaskAct.REOPEN, by, rev=rev, owner=None, claimed_at=None, resolution=None, note=None, resolved_at=None)


def human_command(
    conn: Connection, tenant_id: str, task_id: str, by: By, *, new_id: str, reason: str, confirmed: bool, rev: int | None = None
) -> str:
    """Put what was asked for into its lane again, as a command of a person on the versions of now; returns the command's id.

    The task becomes the caller's; it is closed by the command's effect, in that transaction (`store.carried_out`). While an
    earlier press is undecided nothing new happens: the answer is that press's command. Raises NotFound, Conflict,
    InvalidRequest for a task without a request behind it.
    """
    before = _locked(conn, tenant_id, task_id)
    _own(before, by)
    if before.apply_command_id is not None and _undecided(conn, tenant_id, before.apply_command_id):
        return str(before.apply_command_id)
    if before.status == TaskStatus.RESOLVED or (rev is not None and rev != before.rev):
        raise Conflict("Somebody changed this task meanwhile. Nothing was done; look at it again.")
    command = _as_human(conn, before, by, new_id=new_id, confirmed=confirmed)
    changed = {"status": TaskStatus.CLAIMED, "owner": by.actor[:200], "claimed_at": before.claimed_at or by.now}
    changed |= {"apply_command_id": new_id, "note": reason[:1000]}
    _write(conn, before, "manual_task_apply", by, reason=reason, after={"command_id": new_id, "confirmed": confirmed}, **changed)
    accept(conn, [Submission(tenant_id=tenant_id, item=command, spare_id=new_id, priority=command.priority.rank)], by.now)
    return new_id


def _undecided(conn: Connection, tenant_id: str, command_id: str) -> bool:
    query = select(_COMMAND.c.done_at).where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.command_id == command_id)
    row = conn.execute(query).first()
    return row is not None and row.done_at is None


def _as_human(conn: Connection, before: Row[Any], by: By, *, new_id: str, confirmed: bool) -> Command:
    tenant_id, row = before.tenant_id, None
    if before.command_id is not None:
        query = select(_COMMAND).where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.command_id == before.command_id)
        row = conn.execute(query).first()
    if row is None:
        raise InvalidRequest("There is no request behind this task that could be carried out; settle it with the family.")
    asked = command_of(row)
    lane = conn.execute(select(_LANE).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == asked.contact_id)).one()
    version = conn.execute(
        select(_APPOINTMENT.c.version).where(
            _APPOINTMENT.c.tenant_id == tenant_id, _APPOINTMENT.c.appointment_id == (asked.appointment_id or "")
        )
    ).scalar()
    key = f"{APPLY_KEY}{before.task_id}:{before.rev + 1}"
    return Command(
        command_id=new_id,
        tenant_id=tenant_id,
        contact_id=asked.contact_id,
        command_type=asked.command_type,
        idempotency_key=key,
        fingerprint=sha256_hex(f"{asked.fingerprint}:{key}"),
        requested_by=RequestedBy.HUMAN,
        requested_by_id=by.actor[:200],
        confirmed_by_contact=confirmed,
        correlation_id=asked.correlation_id,
        payload={**asked.payload, **({"appointment_id": asked.appointment_id} if asked.appointment_id else {})},
        conversation_id=asked.conversation_id,
        patient_id=asked.patient_id,
        guardian_version=lane.guardian_version,
        conversation_version=lane.conversation_version,
        entity_version=version if asked.entity_version is not None or version is not None else None,
        as_of=by.now,
        occurred_at=by.now,
        causation_id=asked.command_id,
    )


def applied(conn: Connection, tenant_id: str, task_id: str, command_id: str, by: By, *, reason: str) -> bool:
    """Close the task when its command had its effect; whether it was closed. Raises NotFound."""
    before = _locked(conn, tenant_id, task_id)
    query = select(_COMMAND.c.result).where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.command_id == command_id)
    if conn.execute(query).scalar() not in EFFECT_RESULTS or before.status == TaskStatus.RESOLVED:
        return False
    changed = {"resolution": Outcome.APPLIED_BY_COMMAND, "note": reason[:1000], "resolved_at": by.now}
    _move(conn, before, TaskAct.RESOLVE, by, rev=None, reason=reason, owner=before.owner or by.actor[:200], **changed)
    return True


# --- the one way to change a task ---------------------------------------------------------------------------------------


def _locked(conn: Connection, tenant_id: str, task_id: str) -> Row[Any]:
    query = select(_TASK).where(_TASK.c.tenant_id == tenant_id, _TASK.c.task_id == task_id)
    row = conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).first()
    if row is None:
        raise NotFound("There is no such task.")
    return row


def _own(before: Row[Any], by: By, *, anyones: bool = False) -> None:
    if before.status == TaskStatus.CLAIMED and before.owner != by.actor and not anyones:
        raise Conflict("Somebody else has this task. Nothing was changed.")


def _move(
    conn: Connection, before: Row[Any], act: TaskAct, by: By, *, rev: int | None, reason: str | None = None, **changed: Any
) -> None:
    after = step(TaskStatus(before.status), act)
    if after is None or (rev is not None and rev != before.rev):
        raise Conflict("Somebody changed this task meanwhile. Nothing was done; look at it again.")
    _write(conn, before, f"manual_task_{act}", by, reason=reason, after={}, status=after, **changed)


def _write(
    conn: Connection, before: Row[Any], action: str, by: By, *, reason: str | None, after: dict[str, Any], **changed: Any
) -> None:
    own = (_TASK.c.tenant_id == before.tenant_id, _TASK.c.task_id == before.task_id, _TASK.c.rev == before.rev)
    if conn.execute(update(_TASK).where(*own).values(rev=before.rev + 1, **changed)).rowcount != 1:
        raise Conflict("Somebody changed this task meanwhile. Nothing was done; look at it again.")
    seen = ("status", "owner", "resolution")
    audit.append(
        conn,
        chain=before.tenant_id,
        actor=by.actor,
        action=action,
        object=f"manual_task:{before.task_id}",
        before={name: getattr(before, name) for name in seen},
        after={name: changed.get(name, getattr(before, name)) for name in seen} | after,
        reason=reason,
        origin=by.origin,
        correlation_id=before.correlation_id,
        now=by.now,
        about=before.contact_id,
    )
    say(
        conn,
        action,
        flow_id="F-02",
        correlation_id=before.correlation_id,
        tenant_id=before.tenant_id,
        status=str(changed.get("status", before.status)),
        contact_id=before.contact_id,
        task_id=before.task_id,
        cause=before.cause,
    )
    publish(conn, before.tenant_id, "manual", [before.task_id], by.now)


def tenants_of(conn: Connection, scope: Scope, task_ids: Sequence[str]) -> dict[str, str]:
    """The clinic behind each task that the caller sees."""
    query = select(_TASK.c.task_id, _TASK.c.tenant_id).where(within(_TASK.c.tenant_id, scope), _TASK.c.task_id.in_(list(task_ids)))
    return {row.task_id: row.tenant_id for row in conn.execute(query)}
