"""Day-before confirmations (F-03): which appointments want a step now, and each step written once with its effect.

A step is a row of `d1_step` under (tenant, appointment, start, action); who inserts it does its effect in the same
transaction, so two nodes, a restart or a repeated round never do it twice. A moved appointment has another start, and so
steps of its own.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Connection, and_, select

from app.domain import opening_hours
from app.domain.business_hours import Hours
from app.domain.d1 import D1Action, D1Step
from app.domain.d1_texts import buttons, question, question_cause, question_token
from app.domain.family_texts import when
from app.ids import new_id
from app.store import evidence, settings
from app.store.alerts import raise_alert
from app.store.bulk import insert_rows, joined_rows
from app.store.events import publish
from app.store.outbox import enqueue, outbox_row
from app.store.tables import Appointment, AppointmentVersion, D1StepRow, Guardian, InboxCommand, Tenant, table
from app.store.tasks import open_tasks, task_row

_APPOINTMENT, _VERSION, _STEP = table(Appointment), table(AppointmentVersion), table(D1StepRow)
_GUARDIAN, _TENANT, _COMMAND = table(Guardian), table(Tenant), table(InboxCommand)

HORIZON: Final = timedelta(days=3)
"""How far ahead an appointment can want a step: the whole day before, in any timezone."""
LOOK_BACK: Final = timedelta(days=3)
"""How long ago an appointment may have begun whose steps are still written down as missed."""
UNCONFIRMED: Final = "day_before_unconfirmed"
"""Cause of the task and trigger of the alerts."""
MISSED, DONE, NOBODY = "missed", "done", "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """An appointment that nobody has confirmed, with what was done about it."""

    tenant_id: str
    appointment_id: str
    patient_id: str
    start_at: datetime
    booked_at: datetime | None
    """When it got this start."""
    done: frozenset[D1Action]


def clinics(conn: Connection) -> dict[str, Hours]:
    """Opening hours of every open clinic."""
    ids = conn.execute(select(_TENANT.c.tenant_id).where(_TENANT.c.disabled_at.is_(None))).scalars()
    return {tenant_id: opening_hours.hours(settings.load(conn, tenant_id)) for tenant_id in ids}


def unanswered(conn: Connection, now: datetime) -> list[Unanswered]:
    """Appointments of the next days that are neither confirmed nor cancelled, and those that began while nobody looked."""
    query = select(_APPOINTMENT).where(
        _APPOINTMENT.c.status == "scheduled",
        _APPOINTMENT.c.start_at > now - LOOK_BACK,
        _APPOINTMENT.c.start_at <= now + HORIZON,
    )
    rows = conn.execute(query).all()
    if not rows:
        return []
    keys = [{"tenant_id": r.tenant_id, "appointment_id": r.appointment_id, "was_start_at": r.start_at} for r in rows]
    pair = ("tenant_id", "appointment_id")
    done: dict[tuple[str, str], set[D1Action]] = {}
    for step in joined_rows(conn, _STEP, keys, keys=pair, columns=_STEP.c.keys(), where="t.start_at = r.was_start_at"):
        done.setdefault((step.tenant_id, step.appointment_id), set()).add(D1Action(step.action))
    booked: dict[tuple[str, str], datetime] = {}
    for version in joined_rows(
        conn, _VERSION, keys, keys=pair, columns=("tenant_id", "appointment_id", "at"), where="t.start_at = r.was_start_at"
    ):
        key = (version.tenant_id, version.appointment_id)
        booked[key] = min(booked.get(key, version.at), version.at)
    return [
        Unanswered(
            tenant_id=row.tenant_id,
            appointment_id=row.appointment_id,
            patient_id=row.patient_id,
            start_at=row.start_at,
            booked_at=booked.get((row.tenant_id, row.appointment_id)),
            done=frozenset(done.get((row.tenant_id, row.appointment_id), ())),
        )
        for row in rows
    ]


def run(
    conn: Connection, of: Unanswered, step: D1Step, now: datetime, *, late: bool, timezone: str, missed: bool = False
) -> str | None:
    """Do one step, or write down that its window has passed; its outcome, None when somebody else did it or nothing is left.

    What it does depends on how the appointment stands in this transaction: a confirmed, moved or cancelled one is left alone.
    """
    if not _still_stands(conn, of):
        return None
    asked = _whom(conn, of) if step.action is D1Action.ASK_FAMILY and not missed else None
    outcome = MISSED if missed else NOBODY if step.action is D1Action.ASK_FAMILY and asked is None else DONE
    row = {
        "tenant_id": of.tenant_id,
        "appointment_id": of.appointment_id,
        "start_at": of.start_at,
        "action": str(step.action),
        "done_at": now,
        "late": late,
        "outcome": outcome,
        "contact_id": asked,
    }
    own = [getattr(_STEP.c, name) == row[name] for name in ("tenant_id", "appointment_id", "start_at", "action")]
    if conn.execute(select(_STEP.c.action).where(*own)).first() is not None:
        return None
    insert_rows(conn, _STEP, [row])
    if not missed:
        _effect(conn, of, step, asked, now, timezone)
    publish(conn, of.tenant_id, "agenda", [of.appointment_id], now)
    return outcome


def _still_stands(conn: Connection, of: Unanswered) -> bool:
    query = select(_APPOINTMENT.c.status, _APPOINTMENT.c.start_at).where(
        _APPOINTMENT.c.tenant_id == of.tenant_id, _APPOINTMENT.c.appointment_id == of.appointment_id
    )
    # the row lock makes nodes take turns, and holds off a change until the step is written
    row = conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).first()
    return row is not None and row.status == "scheduled" and row.start_at == of.start_at


def _whom(conn: Connection, of: Unanswered) -> str | None:
    """The guardian who is asked: verified and not revoked, the primary one first; None when there is none."""
    return _guardian(conn, of, _GUARDIAN.c.verified_at.is_not(None))


def _guardian(conn: Connection, of: Unanswered, *where: ColumnElement[bool]) -> str | None:
    mine = (_GUARDIAN.c.tenant_id == of.tenant_id, _GUARDIAN.c.patient_id == of.patient_id, _GUARDIAN.c.revoked_at.is_(None))
    order = (_GUARDIAN.c.verified_at.is_(None), _GUARDIAN.c.is_primary.desc(), _GUARDIAN.c.contact_id)
    found: str | None = conn.execute(select(_GUARDIAN.c.contact_id).where(*mine, *where).order_by(*order).limit(1)).scalar()
    return found


def _to_call(conn: Connection, of: Unanswered) -> str | None:
    """Whom a person calls: a guardian (a verified one first), else whoever booked or moved the appointment last."""
    guardian = _guardian(conn, of)
    if guardian is not None:
        return guardian
    same = and_(_COMMAND.c.tenant_id == _VERSION.c.tenant_id, _COMMAND.c.command_id == _VERSION.c.command_id)
    query = (
        select(_COMMAND.c.contact_id)
        .join(_VERSION, same)
        .where(_VERSION.c.tenant_id == of.tenant_id, _VERSION.c.appointment_id == of.appointment_id)
        .order_by(_VERSION.c.version.desc())
        .limit(1)
    )
    found: str | None = conn.execute(query).scalar()
    return found


def _effect(conn: Connection, of: Unanswered, step: D1Step, contact_id: str | None, now: datetime, timezone: str) -> None:
    cause = question_cause(of.appointment_id, of.start_at)
    correlation_id = correlation_of(of.appointment_id)
    if step.action is D1Action.ASK_FAMILY:
        if contact_id is not None:
            token = question_token(of.tenant_id, of.appointment_id, of.start_at)
            ask = outbox_row(
                tenant_id=of.tenant_id,
                cause_id=cause,
                step="ask",
                kind="family_message",
                body={"text": question(of.start_at, timezone), "buttons": buttons(token)},
                correlation_id=correlation_id,
                now=now,
                contact_id=contact_id,
                not_after=step.until,
            )
            enqueue(conn, [ask])
    elif step.action is D1Action.OPEN_TASK:
        task_id = new_id()
        task = task_row(
            tenant_id=of.tenant_id,
            task_id=task_id,
            dedup_key=cause,
            cause=UNCONFIRMED,
            reason=UNCONFIRMED,
            priority=1,
            correlation_id=correlation_id,
            now=now,
            due_at=now + timedelta(hours=1),
            contact_id=_to_call(conn, of),
            item_id=of.appointment_id,
        )
        open_tasks(conn, [task])
        evidence.ended(conn, of.tenant_id, "flow", correlation_id, now)
        publish(conn, of.tenant_id, "manual", [task_id], now)
    else:
        opening = step.action is D1Action.NOTIFY_OPENING
        visit = when(of.start_at, timezone)
        raise_alert(
            conn,
            tenant_id=of.tenant_id,
            trigger=UNCONFIRMED,
            severity="warning",
            summary=f"Consulta de {visit} ainda sem confirmação; a clínica abre logo: decidir com a família."
            if opening
            else f"Consulta de {visit} sem confirmação: ligar para a família.",
            dedup_key=opening_key(cause) if opening else cause,
            correlation_id=correlation_id,
            now=now,
        )


def correlation_of(appointment_id: str) -> str:
    """What everything of one appointment's day before is found under."""
    return f"d1-{appointment_id}"[:220]


def opening_key(cause: str) -> str:
    """The key of the notice before opening; the alert of the afternoon has the cause itself."""
    return f"{cause}:opening"
