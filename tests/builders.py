"""Rows that tests need before the story begins, written with plain Core inserts.

Each builder is a store function (`await db.write(tenant, slug="sol")`); `clinic` makes a whole small clinic at once.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert

from app.store.tables import Appointment, AppointmentVersion, Contact, Guardian, Lane, Patient, Tenant, Therapist, table

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Clinic:
    """Ids of a small clinic: one family with every permission, one therapist."""

    tenant_id: str
    slug: str
    contact_id: str = "c-maria"
    patient_id: str = "p-pedro"
    therapist_id: str = "t-ana"


def tenant(conn: Connection, /, *, tenant_id: str = "ten-sol", slug: str | None = None, now: datetime = NOON, **values: Any) -> str:
    """A clinic; returns its id."""
    row = {
        "tenant_id": tenant_id,
        "slug": slug or tenant_id.removeprefix("ten-"),
        "name": f"Clínica {tenant_id}",
        "created_at": now,
    }
    conn.execute(insert(table(Tenant)).values({**row, **values}))
    return tenant_id


def contact(
    conn: Connection,
    /,
    *,
    tenant_id: str = "ten-sol",
    contact_id: str = "c-maria",
    phone: str | None = None,
    name: str | None = "Maria",
    now: datetime = NOON,
    **lane: Any,
) -> str:
    """A contact with its lane (`lane` overrides columns of the lane row); returns its id."""
    conn.execute(insert(table(Contact)).values(tenant_id=tenant_id, contact_id=contact_id, phone=phone, name=name, created_at=now))
    conn.execute(insert(table(Lane)).values({"tenant_id": tenant_id, "contact_id": contact_id, **lane}))
    return contact_id


def patient(
    conn: Connection, /, *, tenant_id: str = "ten-sol", patient_id: str = "p-pedro", name: str = "Pedro", now: datetime = NOON
) -> str:
    """A child in therapy; returns its id."""
    conn.execute(insert(table(Patient)).values(tenant_id=tenant_id, patient_id=patient_id, name=name, created_at=now))
    return patient_id


def therapist(
    conn: Connection, /, *, tenant_id: str = "ten-sol", therapist_id: str = "t-ana", name: str = "Ana", now: datetime = NOON
) -> str:
    """A therapist; returns its id."""
    conn.execute(insert(table(Therapist)).values(tenant_id=tenant_id, therapist_id=therapist_id, name=name, created_at=now))
    return therapist_id


def guardian(
    conn: Connection,
    /,
    *,
    tenant_id: str = "ten-sol",
    patient_id: str = "p-pedro",
    contact_id: str = "c-maria",
    can_schedule: bool = True,
    can_cancel: bool = True,
    is_primary: bool = True,
    now: datetime = NOON,
    **values: Any,
) -> None:
    """A verified permission; bumps the contact's guardian_version as every change of permissions does."""
    row = {
        "tenant_id": tenant_id,
        "patient_id": patient_id,
        "contact_id": contact_id,
        "can_schedule": can_schedule,
        "can_cancel": can_cancel,
        "is_primary": is_primary,
        "verified_by": "recepcao",
        "verification_method": "in_person",
        "reason": "cadastro",
        "granted_by": "system:test",
        "verified_at": now,
        "updated_at": now,
    }
    conn.execute(insert(table(Guardian)).values({**row, **values}))
    lane = table(Lane)
    conn.execute(
        lane.update()
        .where(lane.c.tenant_id == tenant_id, lane.c.contact_id == contact_id)
        .values(guardian_version=lane.c.guardian_version + 1)
    )


def appointment(
    conn: Connection,
    /,
    *,
    start_at: datetime,
    end_at: datetime,
    tenant_id: str = "ten-sol",
    appointment_id: str = "a-1",
    patient_id: str = "p-pedro",
    therapist_id: str = "t-ana",
    status: str = "scheduled",
    command_id: str | None = None,
    now: datetime = NOON,
) -> str:
    """An appointment at version 1; with `command_id`, also its version row. Returns its id."""
    slot = {"therapist_id": therapist_id, "start_at": start_at, "end_at": end_at, "status": status, "as_of": now}
    key = {"tenant_id": tenant_id, "appointment_id": appointment_id, "version": 1}
    conn.execute(insert(table(Appointment)).values({**key, **slot, "patient_id": patient_id}))
    if command_id is not None:
        conn.execute(insert(table(AppointmentVersion)).values({**key, **slot, "command_id": command_id, "at": now}))
    return appointment_id


def clinic(conn: Connection, /, *, tenant_id: str = "ten-sol", now: datetime = NOON) -> Clinic:
    """A clinic with Maria, who may do everything for Pedro (guardian_version 1), and the therapist Ana."""
    made = Clinic(tenant_id=tenant_id, slug=tenant_id.removeprefix("ten-"))
    tenant(conn, tenant_id=tenant_id, now=now)
    contact(conn, tenant_id=tenant_id, contact_id=made.contact_id, phone="+5511987654321", now=now)
    patient(conn, tenant_id=tenant_id, patient_id=made.patient_id, now=now)
    therapist(conn, tenant_id=tenant_id, therapist_id=made.therapist_id, now=now)
    guardian(conn, tenant_id=tenant_id, patient_id=made.patient_id, contact_id=made.contact_id, now=now)
    return made
