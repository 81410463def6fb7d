"""A person's wish for the agenda as a command on the versions of now; the gate decides it like every other one."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from app.domain.envelopes import Command, canonical_json, sha256_hex
from app.domain.states import CommandType, RequestedBy, Source
from app.errors import Conflict, NotFound
from app.store.audit import append
from app.store.intake_facts import ensure_lanes
from app.store.people import By
from app.store.tables import Appointment, InboxCommand, Lane, table
from app.store.views.guardians import contact_named

_LANE, _APPOINTMENT, _COMMAND = table(Lane), table(Appointment), table(InboxCommand)


def human_command(
    conn: Connection,
    tenant_id: str,
    command_type: CommandType,
    by: By,
    *,
    new_id: str,
    key: str,
    contact: str,
    patient_id: str,
    payload: Mapping[str, Any],
    confirmed: bool,
    seen_version: int | None,
    reason: str,
) -> Command:
    """The command, audited; the caller submits it through the intake.

    `key` is the form's own: the same wish pressed twice in it is one command, audited once. It is another one after what refused it
    changed: the family confirmed, or a permission was registered. `seen_version` is the appointment's version on the person's
    screen. Raises NotFound for an unknown contact or appointment, Conflict when the appointment changed since.
    """
    contact_id = contact_named(conn, tenant_id, contact)
    if contact_id is None:
        raise NotFound("No contact of this clinic has this id or phone number.")
    ensure_lanes(conn, [(tenant_id, contact_id)], by.now)
    lane = conn.execute(select(_LANE).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)).one()
    if command_type is not CommandType.SCHEDULE:
        query = select(_APPOINTMENT).where(
            _APPOINTMENT.c.tenant_id == tenant_id, _APPOINTMENT.c.appointment_id == payload["appointment_id"]
        )
        target = conn.execute(query).first()
        if target is None:
            raise NotFound("There is no such appointment.")
        if target.version != seen_version:
            raise Conflict("Somebody changed this appointment since you looked; nothing was done. Look again.")
        patient_id = target.patient_id
    asked: dict[str, Any] = {"command_type": command_type.value, "contact_id": contact_id, "patient_id": patient_id, **payload}
    fingerprint = sha256_hex(canonical_json(asked))
    wish = asked | {"confirmed": confirmed, "guardian_version": lane.guardian_version, "seen_version": seen_version}
    idempotency_key = f"console:{key}:{sha256_hex(canonical_json(wish))[:32]}"
    held = select(_COMMAND.c.command_id).where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.idempotency_key == idempotency_key)
    if conn.execute(held.limit(1)).first() is None:
        append(
            conn,
            chain=tenant_id,
            actor=by.actor,
            action="agenda.ask",
            object=f"commands/{new_id}",
            after=asked | {"confirmed_by_contact": confirmed},
            reason=reason,
            origin=by.origin,
            correlation_id=by.correlation_id,
            now=by.now,
        )
    return Command(
        command_id=new_id,
        tenant_id=tenant_id,
        contact_id=contact_id,
        command_type=command_type,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
        requested_by=RequestedBy.HUMAN,
        requested_by_id=by.actor[:200],
        confirmed_by_contact=confirmed,
        correlation_id=by.correlation_id or f"corr-{new_id}",
        payload=payload,
        patient_id=patient_id,
        guardian_version=lane.guardian_version,
        conversation_version=lane.conversation_version,
        entity_version=seen_version,
        as_of=by.now,
        occurred_at=by.now,
        source=Source.SYSTEM,
    )
