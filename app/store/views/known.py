"""What was known about one contact at a moment, out of records that are never changed: messages, ledger, versions, audit trail."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, func, select

from app.store.tables import (
    Appointment,
    AppointmentVersion,
    AuditEntry,
    Guardian,
    InboxCommand,
    InboxMessage,
    Ledger,
    Patient,
    Therapist,
    table,
)

_APPOINTMENT, _VERSION, _AUDIT = table(Appointment), table(AppointmentVersion), table(AuditEntry)
_GUARDIAN, _COMMAND, _MESSAGE = table(Guardian), table(InboxCommand), table(InboxMessage)
_LEDGER, _PATIENT, _THERAPIST = table(Ledger), table(Patient), table(Therapist)

ROWS_MAX: Final = 20
"""Latest messages, requests and appointments that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPermission:
    """A permission as it had been written by the moment."""

    patient_id: str
    patient: str
    at: datetime
    after: Mapping[str, Any]
    """As the audit trail has it: `can_schedule`, `can_cancel`, `is_primary`, `revoked`, `verified_by`, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVisit:
    """An appointment in the version of the moment."""

    appointment_id: str
    patient: str
    therapist: str
    start_at: datetime
    status: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownMessage:
    """A message that had arrived; `text` is empty once retention has taken it away."""

    sequence: int
    received_at: datetime
    event_type: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything together; lists are the latest ROWS_MAX, newest first (appointments: nearest first)."""

    conversation_version: int
    guardian_version: int
    messages: int
    last_committed: int
    permissions: tuple[KnownPermission, ...]
    visits: tuple[KnownVisit, ...]
    commands: tuple[Row[Any], ...]
    """`command_id`, `command_type`, `commit_order`, `accepted_at`, `done_at`, `result`, `status`, as they are today."""
    texts: tuple[KnownMessage, ...]


def known(conn: Connection, tenant_id: str, contact_id: str, at: datetime) -> Known:
    """The contact as it was known at `at`."""
    mine = (_MESSAGE.c.tenant_id == tenant_id, _MESSAGE.c.contact_id == contact_id, _MESSAGE.c.received_at <= at)
    count, version = conn.execute(select(func.count(), func.max(_MESSAGE.c.conversation_version)).where(*mine)).one()
    latest = conn.execute(select(_MESSAGE).where(*mine).order_by(_MESSAGE.c.sequence.desc()).limit(ROWS_MAX))
    place = select(func.max(_LEDGER.c.commit_order)).where(
        _LEDGER.c.tenant_id == tenant_id, _LEDGER.c.contact_id == contact_id, _LEDGER.c.committed_at <= at
    )
    permissions = _permissions(conn, tenant_id, contact_id, at)
    return Known(
        conversation_version=int(version or 1),
        guardian_version=max((int(p.after.get("guardian_version") or 0) for p in permissions), default=0),
        messages=int(count),
        last_committed=int(conn.execute(place).scalar() or 0),
        permissions=permissions,
        visits=_visits(conn, tenant_id, contact_id, at),
        commands=_commands(conn, tenant_id, contact_id, at),
        texts=tuple(
            KnownMessage(
                sequence=row.sequence, received_at=row.received_at, event_type=row.event_type, text=_text_of(row.payload_json)
            )
            for row in latest
        ),
    )


def _permissions(conn: Connection, tenant_id: str, contact_id: str, at: datetime) -> tuple[KnownPermission, ...]:
    """The last word of the audit trail on each of the contact's permissions (their rows stay for good, revoked ones too)."""
    link = and_(_PATIENT.c.tenant_id == _GUARDIAN.c.tenant_id, _PATIENT.c.patient_id == _GUARDIAN.c.patient_id)
    query = select(_GUARDIAN.c.patient_id, _PATIENT.c.name).outerjoin(_PATIENT, link)
    rows = conn.execute(query.where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.contact_id == contact_id)).all()
    names = {f"patients/{row.patient_id}/guardians/{contact_id}"[:300]: row for row in rows}
    if not names:
        return ()
    told = (
        select(_AUDIT)
        .where(_AUDIT.c.chain == tenant_id, _AUDIT.c.object.in_(sorted(names)), _AUDIT.c.at <= at)
        .order_by(_AUDIT.c.number)
    )
    found: dict[str, KnownPermission] = {}
    for row in conn.execute(told):
        before = found.get(row.object)
        after = msgspec.json.decode(row.after_json) or {}
        person = names[row.object]
        found[row.object] = KnownPermission(
            patient_id=person.patient_id,
            patient=person.name or person.patient_id,
            at=row.at,
            after={**(before.after if before else {}), **after},
        )
    return tuple(sorted(found.values(), key=lambda p: p.patient.casefold()))


def _visits(conn: Connection, tenant_id: str, contact_id: str, at: datetime) -> tuple[KnownVisit, ...]:
    """Appointments of the contact's patients that lay ahead at the moment, each in its version of then."""
    own = select(_GUARDIAN.c.patient_id).where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.contact_id == contact_id)
    newest = (
        select(_VERSION.c.appointment_id, func.max(_VERSION.c.version).label("version"))
        .join(
            _APPOINTMENT,
            and_(_APPOINTMENT.c.tenant_id == _VERSION.c.tenant_id, _APPOINTMENT.c.appointment_id == _VERSION.c.appointment_id),
        )
        .where(_VERSION.c.tenant_id == tenant_id, _VERSION.c.at <= at, _APPOINTMENT.c.patient_id.in_(own))
        .group_by(_VERSION.c.appointment_id)
        .subquery("newest")
    )
    query = (
        select(_VERSION, _PATIENT.c.name.label("patient"), _APPOINTMENT.c.patient_id, _THERAPIST.c.name.label("therapist"))
        .join(newest, and_(newest.c.appointment_id == _VERSION.c.appointment_id, newest.c.version == _VERSION.c.version))
        .join(
            _APPOINTMENT,
            and_(_APPOINTMENT.c.tenant_id == _VERSION.c.tenant_id, _APPOINTMENT.c.appointment_id == _VERSION.c.appointment_id),
        )
        .outerjoin(_PATIENT, and_(_PATIENT.c.tenant_id == _VERSION.c.tenant_id, _PATIENT.c.patient_id == _APPOINTMENT.c.patient_id))
        .outerjoin(
            _THERAPIST, and_(_THERAPIST.c.tenant_id == _VERSION.c.tenant_id, _THERAPIST.c.therapist_id == _VERSION.c.therapist_id)
        )
        .where(_VERSION.c.tenant_id == tenant_id, _VERSION.c.end_at > at)
        .order_by(_VERSION.c.start_at, _VERSION.c.appointment_id)
        .limit(ROWS_MAX)
    )
    return tuple(
        KnownVisit(
            appointment_id=row.appointment_id,
            patient=row.patient or row.patient_id,
            therapist=row.therapist or row.therapist_id,
            start_at=row.start_at,
            status=row.status,
            version=row.version,
        )
        for row in conn.execute(query)
    )


def _commands(conn: Connection, tenant_id: str, contact_id: str, at: datetime) -> tuple[Row[Any], ...]:
    columns = [_COMMAND.c[n] for n in ("command_id", "command_type", "commit_order", "accepted_at", "done_at", "result", "status")]
    query = (
        select(*columns)
        .where(_COMMAND.c.tenant_id == tenant_id, _COMMAND.c.contact_id == contact_id, _COMMAND.c.accepted_at <= at)
        .order_by(_COMMAND.c.accepted_at.desc(), _COMMAND.c.commit_order.desc())
        .limit(ROWS_MAX)
    )
    return tuple(conn.execute(query))


def _text_of(payload_json: str) -> str:
    value = msgspec.json.decode(payload_json).get("text")
    return value if isinstance(value, str) else ""
