"""The agenda as people see it: appointments of a span of days, and ghosts of requests that are not decided yet."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, select

from app.domain.agenda import slot_conflict
from app.domain.envelopes import parse_time
from app.domain.states import CommandType
from app.store.lanes import GLOBAL_SCOPE, appointment_of, merge_modes
from app.store.tables import Appointment, Contact, D1StepRow, Guardian, InboxCommand, ModeRow, Patient, Therapist, table

_APPOINTMENT, _PATIENT, _THERAPIST = table(Appointment), table(Patient), table(Therapist)
_STEP = table(D1StepRow)
_COMMAND, _CONTACT, _GUARDIAN, _MODE = table(InboxCommand), table(Contact), table(Guardian), table(ModeRow)

ROWS_MAX: Final = 1_000
"""Appointments of one view; a clinic's week has some hundreds."""
GHOSTS_MAX: Final = 500
"""Undecided requests that are looked through for ghosts, oldest first."""
THERAPISTS_MAX: Final = 60
SUGGESTIONS_MAX: Final = 300
"""Patients that the form suggests; every other id can be typed."""
AROUND: Final = timedelta(hours=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """One appointment."""

    appointment_id: str
    patient_id: str
    patient: str
    therapist_id: str
    therapist: str
    start_at: datetime
    end_at: datetime
    status: str
    version: int
    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ghost:
    """A request that would change the agenda, not decided yet; `moves` is the appointment that it would move or cancel."""

    command_id: str
    command_type: str
    status: str
    contact_id: str
    contact: str
    patient: str
    therapist_id: str
    start_at: datetime
    end_at: datetime
    moves: str | None


def therapists(conn: Connection, tenant_id: str) -> list[tuple[str, str]]:
    """Ids and names of the clinic's therapists, by name."""
    query = select(_THERAPIST).where(_THERAPIST.c.tenant_id == tenant_id).order_by(_THERAPIST.c.name, _THERAPIST.c.therapist_id)
    return [(row.therapist_id, row.name) for row in conn.execute(query.limit(THERAPISTS_MAX))]


def patients(conn: Connection, tenant_id: str) -> list[tuple[str, str]]:
    """Ids and names of patients, by name, for the form's suggestions."""
    query = select(_PATIENT).where(_PATIENT.c.tenant_id == tenant_id).order_by(_PATIENT.c.name, _PATIENT.c.patient_id)
    return [(row.patient_id, row.name) for row in conn.execute(query.limit(SUGGESTIONS_MAX))]


def visits(conn: Connection, tenant_id: str, from_at: datetime, to_at: datetime, therapist_id: str = "") -> list[Booked]:
    """Appointments that overlap the span, by start, cancelled ones too."""
    query = _visits(tenant_id).where(_APPOINTMENT.c.end_at > from_at, _APPOINTMENT.c.start_at < to_at)
    if therapist_id:
        query = query.where(_APPOINTMENT.c.therapist_id == therapist_id)
    query = query.order_by(_APPOINTMENT.c.start_at, _APPOINTMENT.c.appointment_id).limit(ROWS_MAX)
    return [_visit(row) for row in conn.execute(query)]


def visit(conn: Connection, tenant_id: str, appointment_id: str) -> Booked | None:
    """One appointment; None when the clinic has no such one."""
    row = conn.execute(_visits(tenant_id).where(_APPOINTMENT.c.appointment_id == appointment_id)).first()
    return _visit(row) if row is not None else None


def ghosts(
    conn: Connection, tenant_id: str, from_at: datetime, to_at: datetime, therapist_id: str = ""
) -> tuple[list[Ghost], bool]:
    """Undecided requests that schedule or move something into the span, or cancel something inside it.

    Also says whether there are more undecided requests than were looked through.
    """
    kinds = (CommandType.SCHEDULE, CommandType.RESCHEDULE, CommandType.CANCEL)
    contact = and_(_CONTACT.c.tenant_id == _COMMAND.c.tenant_id, _CONTACT.c.contact_id == _COMMAND.c.contact_id)
    patient = and_(_PATIENT.c.tenant_id == _COMMAND.c.tenant_id, _PATIENT.c.patient_id == _COMMAND.c.patient_id)
    query = (
        select(_COMMAND, _CONTACT.c.name.label("contact_name"), _PATIENT.c.name.label("patient_name"))
        .outerjoin(_CONTACT, contact)
        .outerjoin(_PATIENT, patient)
        .where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.done_at.is_(None), _COMMAND.c.command_type.in_(kinds))
        .order_by(_COMMAND.c.accepted_at, _COMMAND.c.command_id)
        .limit(GHOSTS_MAX + 1)
    )
    undecided = conn.execute(query).all()
    asked = [(row, msgspec.json.decode(row.payload_json)) for row in undecided[:GHOSTS_MAX]]
    named = sorted({p["appointment_id"] for _, p in asked if isinstance(p.get("appointment_id"), str)})
    known = {
        row.appointment_id: _visit(row) for row in conn.execute(_visits(tenant_id).where(_APPOINTMENT.c.appointment_id.in_(named)))
    }
    found = [ghost for row, payload in asked if (ghost := _ghost(row, payload, known)) is not None]
    inside = [
        g for g in found if g.end_at > from_at and g.start_at < to_at and (not therapist_id or g.therapist_id == therapist_id)
    ]
    return inside, len(undecided) > GHOSTS_MAX


def _ghost(row: Row[Any], payload: dict[str, Any], known: dict[str, Booked]) -> Ghost | None:
    target = known.get(str(payload.get("appointment_id")))
    if row.command_type == CommandType.CANCEL:
        slot = (target.start_at, target.end_at) if target is not None else None
    else:
        try:
            slot = (parse_time(payload.get("start")), parse_time(payload.get("end")))
        except ValueError:
            slot = None  # the gate will say so at its turn
    therapist = target.therapist_id if target is not None else payload.get("therapist_id")
    if slot is None or not isinstance(therapist, str):
        return None
    return Ghost(
        command_id=row.command_id,
        command_type=row.command_type,
        status=row.status,
        contact_id=row.contact_id,
        contact=row.contact_name or row.contact_id,
        patient=target.patient if target is not None else row.patient_name or row.patient_id or "",
        therapist_id=therapist,
        start_at=slot[0],
        end_at=slot[1],
        moves=target.appointment_id if target is not None else None,
    )


def day_before(conn: Connection, tenant_id: str, from_at: datetime, to_at: datetime) -> dict[tuple[str, datetime], Any]:
    """The last step of the day before (action, outcome, done_at) by appointment and start, for starts in the span."""
    query = (
        select(_STEP.c.appointment_id, _STEP.c.start_at, _STEP.c.action, _STEP.c.outcome, _STEP.c.done_at)
        .where(_STEP.c.tenant_id == tenant_id, _STEP.c.start_at >= from_at, _STEP.c.start_at < to_at)
        .order_by(_STEP.c.done_at, _STEP.c.action)
    )
    rows: list[Any] = list(conn.execute(query))
    return {(row.appointment_id, row.start_at): row for row in rows}


def free_instead(conn: Connection, tenant_id: str, payload: dict[str, Any], now: datetime) -> tuple[datetime, ...]:
    """Free starts near a wanted slot that is taken, as the agenda is now; empty when the slot is free or unreadable."""
    try:
        start_at, end_at = parse_time(payload.get("start")), parse_time(payload.get("end"))
    except ValueError:
        return ()
    moved = payload.get("appointment_id")
    target = visit(conn, tenant_id, moved) if isinstance(moved, str) else None
    therapist_id = target.therapist_id if target is not None else payload.get("therapist_id")
    if not isinstance(therapist_id, str) or end_at <= start_at:
        return ()
    query = select(_APPOINTMENT).where(
        _APPOINTMENT.c.tenant_id == tenant_id,
        _APPOINTMENT.c.therapist_id == therapist_id,
        _APPOINTMENT.c.status != "cancelled",
        _APPOINTMENT.c.start_at < end_at + AROUND,
        _APPOINTMENT.c.end_at > start_at - AROUND,
    )
    booked = [appointment_of(row) for row in conn.execute(query)]
    conflict = slot_conflict(booked, start_at, end_at, ignore=target.appointment_id if target else None, now=now)
    return conflict.alternatives if conflict is not None else ()


def who_may_ask(conn: Connection, tenant_id: str, patient_id: str) -> list[tuple[str, str]]:
    """Ids and names of contacts with a permission for the patient that is not revoked."""
    contact = and_(_CONTACT.c.tenant_id == _GUARDIAN.c.tenant_id, _CONTACT.c.contact_id == _GUARDIAN.c.contact_id)
    query = (
        select(_GUARDIAN.c.contact_id, _CONTACT.c.name)
        .outerjoin(_CONTACT, contact)
        .where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.patient_id == patient_id, _GUARDIAN.c.revoked_at.is_(None))
        .order_by(_GUARDIAN.c.is_primary.desc(), _GUARDIAN.c.contact_id)
    )
    return [(row.contact_id, row.name or row.contact_id) for row in conn.execute(query)]


def safe_mode_since(conn: Connection, tenant_id: str, now: datetime) -> datetime | None:
    """Since when safe mode blocks changes of this clinic's agenda; None while it does not."""
    rows = conn.execute(select(_MODE).where(_MODE.c.scope.in_((GLOBAL_SCOPE, tenant_id)))).all()
    since = [row.since or row.safe_deadline or now for row in rows if merge_modes(row, None).safe_mode_blocks(now)]
    return min(since) if since else None


def contingency_since(conn: Connection, tenant_id: str) -> datetime | None:
    """Since when contingency parks changes of this clinic's agenda; None while it does not."""
    query = select(_MODE.c.contingency_since).where(_MODE.c.scope == tenant_id, _MODE.c.contingency)
    found: datetime | None = conn.execute(query).scalar()
    return found


def _visits(tenant_id: str) -> Any:
    patient = and_(_PATIENT.c.tenant_id == _APPOINTMENT.c.tenant_id, _PATIENT.c.patient_id == _APPOINTMENT.c.patient_id)
    therapist = and_(_THERAPIST.c.tenant_id == _APPOINTMENT.c.tenant_id, _THERAPIST.c.therapist_id == _APPOINTMENT.c.therapist_id)
    return (
        select(_APPOINTMENT, _PATIENT.c.name.label("patient"), _THERAPIST.c.name.label("therapist"))
        .outerjoin(_PATIENT, patient)
        .outerjoin(_THERAPIST, therapist)
        .where(_APPOINTMENT.c.tenant_id == tenant_id)
    )


def _visit(row: Row[Any]) -> Booked:
    return Booked(
        appointment_id=row.appointment_id,
        patient_id=row.patient_id,
        patient=row.patient or row.patient_id,
        therapist_id=row.therapist_id,
        therapist=row.therapist or row.therapist_id,
        start_at=row.start_at,
        end_at=row.end_at,
        status=row.status,
        version=row.version,
        as_of=row.as_of,
    )
