"""Day-before confirmations (F-03): which appointments want a step now, and each step written once with its effect.

A step is a row of `d1_step` under (tenant, appointment, start, action); who inserts it does its effect in the same
transaction, so two nodes, a restart or a repeated round never do it twice. A moved appointment has another start, and so
steps of its own.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, select

from app.domain import opening_hours
from app.domain.business_hours import Hours
from app.domain.d1 import D1Action, D1Step
from app.domain.d1_texts import BUTTONS, question
from app.ids import new_id
from app.store import evidence, settings
from app.store.alerts import raise_alert
from app.store.bulk import insert_rows, joined_rows
from app.store.events import publish
from app.store.outbox import enqueue, outbox_row
from app.store.tables import Appointment, AppointmentVersion, D1StepRow, Guardian, Tenant, table
from app.store.tasks import open_tasks, task_row

_APPOINTMENT, _VERSION, _STEP = table(Appointment), table(AppointmentVersion), table(D1StepRow)
_GUARDIAN, _TENANT = table(Guardian), table(Tenant)

HORIZON: Final = timedelta(days=3)
"""How far ahead an appointment can want a step: the whole day before, in any timezone."""
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
    """Appointments of the next days that are neither confirmed nor cancelled."""
    query = select(_APPOINTMENT).where(
        _APPOINTMENT.c.status == "scheduled", _APPOINTMENT.c.start_at > now, _APPOINTMENT.c.start_at <= now + HORIZON
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
        _effect(conn, of, step.action, asked, now, timezone)
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
    query = (
        select(_GUARDIAN.c.contact_id)
        .where(
            _GUARDIAN.c.tenant_id == of.tenant_id,
            _GUARDIAN.c.patient_id == of.patient_id,
            _GUARDIAN.c.revoked_at.is_(None),
            _GUARDIAN.c.verified_at.is_not(None),
        )
        .order_by(_GUARDIAN.c.is_primary.desc(), _GUARDIAN.c.contact_id)
        .limit(1)
    )
    found: str | None = conn.execute(query).scalar()
    return found


def _effect(conn: Connection, of: Unanswered, action: D1Action, contact_id: str | None, now: datetime, timezone: str) -> None:
    correlation_id = f"d1-{of.appointment_id}"[:220]
    if action is D1Action.ASK_FAMILY:
        if contact_id is not None:
            body = {"text": question(of.start_at, timezone), "buttons": list(BUTTONS)}
            cause = f"d1:{of.appointment_id}:{of.start_at.isoformat()}"[:200]
            enqueue(
                conn,
                [
                    outbox_row(
                        tenant_id=of.tenant_id,
                        cause_id=cause,
                        step="ask",
                        kind="family_message",
                        body=body,
                        correlation_id=correlation_id,
                        now=now,
                        contact_id=contact_id,
                    )
                ],
            )
    elif action is D1Action.OPEN_TASK:
        task_id = new_id()
        task = task_row(
            tenant_id=of.tenant_id,
            task_id=task_id,
            dedup_key=f"d1:{of.appointment_id}:{of.start_at.isoformat()}"[:300],
            cause="day_before_unconfirmed",
            reason="day_before_unconfirmed",
            priority=1,
            correlation_id=correlation_id,
            now=now,
            due_at=now + timedelta(hours=1),
            contact_id=_whom(conn, of),
        )
        open_tasks(conn, [task])
        evidence.ended(conn, of.tenant_id, "flow", correlation_id, now)
        publish(conn, of.tenant_id, "manual", [task_id], now)
    else:
        opening = action is D1Action.NOTIFY_OPENING
        day = of.start_at.date().isoformat()
        raise_alert(
            conn,
            tenant_id=of.tenant_id,
            trigger="day_before_unconfirmed",
            severity="warning",
            summary="Consultas de hoje sem confirmação; a clínica abre em 30 min."
            if opening
            else "Consultas de amanhã sem confirmação: ligar para as famílias.",
            dedup_key=f"{'d1-opening' if opening else 'd1'}:{day}",
            correlation_id=correlation_id,
            now=now,
        )
