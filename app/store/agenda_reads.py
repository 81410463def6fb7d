"""The agenda as the API shows it: one appointment, and lists by time, therapist and patient."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select

from app.store.tables import Appointment, AppointmentVersion, table

_APPOINTMENT, _VERSION = table(Appointment), table(AppointmentVersion)


def appointment(conn: Connection, tenant_id: str, appointment_id: str) -> dict[str, Any] | None:
    """One appointment as it is now; None when unknown."""
    row = conn.execute(
        select(_APPOINTMENT).where(_APPOINTMENT.c.tenant_id == tenant_id, _APPOINTMENT.c.appointment_id == appointment_id)
    ).first()
    return _document(row) if row else None


def appointments(
    conn: Connection,
    tenant_id: str,
    *,
    limit: int,
    after: tuple[datetime, str] | None = None,
    from_at: datetime | None = None,
    to_at: datetime | None = None,
    therapist_id: str | None = None,
    patient_id: str | None = None,
) -> list[dict[str, Any]]:
    """Appointments by start, from behind `after` (start, id): those that overlap `from_at` <= t < `to_at`, cancelled ones too."""
    start, key = _APPOINTMENT.c.start_at, _APPOINTMENT.c.appointment_id
    query = select(_APPOINTMENT).where(_APPOINTMENT.c.tenant_id == tenant_id).order_by(start, key).limit(limit)
    if from_at is not None:
        query = query.where(_APPOINTMENT.c.end_at > from_at)
    if to_at is not None:
        query = query.where(start < to_at)
    if therapist_id is not None:
        query = query.where(_APPOINTMENT.c.therapist_id == therapist_id)
    if patient_id is not None:
        query = query.where(_APPOINTMENT.c.patient_id == patient_id)
    if after is not None:
        query = query.where(or_(start > after[0], and_(start == after[0], key > after[1])))
    return [_document(row) for row in conn.execute(query)]


def versions(conn: Connection, tenant_id: str, appointment_id: str, *, at: datetime | None = None) -> list[dict[str, Any]] | None:
    """Every version of an appointment, oldest first; with `at` only the one that held at that moment. None when unknown."""
    if appointment(conn, tenant_id, appointment_id) is None:
        return None
    query = select(_VERSION).where(_VERSION.c.tenant_id == tenant_id, _VERSION.c.appointment_id == appointment_id)
    if at is None:
        rows = conn.execute(query.order_by(_VERSION.c.version)).all()
    else:
        rows = conn.execute(query.where(_VERSION.c.at <= at).order_by(_VERSION.c.version.desc()).limit(1)).all()
    return [
        {
            "version": row.version,
            "command_id": row.command_id,
            "therapist_id": row.therapist_id,
            "start": row.start_at,
            "end": row.end_at,
            "status": row.status,
            "as_of": row.as_of,
            "at": row.at,
        }
        for row in rows
    ]


def _document(row: Row[Any]) -> dict[str, Any]:
    return {
        "appointment_id": row.appointment_id,
        "patient_id": row.patient_id,
        "therapist_id": row.therapist_id,
        "start": row.start_at,
        "end": row.end_at,
        "status": row.status,
        "version": row.version,
        "as_of": row.as_of,
    }
