"""Patients with what their contacts may do, each permission with its proof, and what was changed by whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, and_, func, or_, select, tuple_

from app.domain.facts import GuardianLink
from app.domain.phones import e164
from app.store.lanes import guardian_of
from app.store.tables import AuditEntry, Contact, Guardian, Lane, Patient, UserAccount, table
from app.store.views.scope import Clinic, Scope, clinics, within

_PATIENT, _GUARDIAN, _CONTACT = table(Patient), table(Guardian), table(Contact)
_LANE, _AUDIT, _USER = table(Lane), table(AuditEntry), table(UserAccount)

PAGE_ROWS: Final = 50
HISTORY_ROWS: Final = 50


@dataclass(frozen=True, slots=True, order=True)
class PatientCursor:
    """The last row seen: sort key of its name, clinic, id."""

    name: str
    tenant_id: str
    patient_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRow:
    """A patient, and how many contacts have a permission that is verified and not revoked."""

    clinic: Clinic
    patient_id: str
    name: str
    permitted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientPage:
    """Some patients by name."""

    rows: tuple[PatientRow, ...]
    total: int
    next_cursor: PatientCursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRow:
    """One contact's permission for the patient in view, revoked or not."""

    contact_id: str
    contact_name: str | None
    phone: str | None
    link: GuardianLink
    verified_by: str | None
    verification_method: str | None
    verified_at: datetime | None
    reason: str | None
    granted_by: str
    revoked_at: datetime | None
    updated_at: datetime
    guardian_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """One entry of the audit trail about a permission; `before` and `after` as they were written."""

    at: datetime
    actor: str
    action: str
    contact_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedContact:
    """A contact that somebody asks about; `link` None = it never had a permission for the patient."""

    contact_id: str
    name: str | None
    link: GuardianLink | None


def patient_page(
    conn: Connection, scope: Scope, query: str, *, after: PatientCursor | None = None, limit: int = PAGE_ROWS
) -> PatientPage:
    """Patients by name from behind `after`; `query` is a part of a name or id."""
    conditions = [within(_PATIENT.c.tenant_id, scope)]
    if query:
        found_in = (_PATIENT.c.name, _PATIENT.c.patient_id)
        conditions.append(or_(*(column.icontains(query, autoescape=True) for column in found_in)))
    permitted = (
        select(func.count())
        .where(
            _GUARDIAN.c.tenant_id == _PATIENT.c.tenant_id,
            _GUARDIAN.c.patient_id == _PATIENT.c.patient_id,
            _GUARDIAN.c.revoked_at.is_(None),
            _GUARDIAN.c.verified_at.is_not(None),
        )
        .scalar_subquery()
    )
    name = func.lower(_PATIENT.c.name)
    key = (name, _PATIENT.c.tenant_id, _PATIENT.c.patient_id)
    page = select(_PATIENT, permitted.label("permitted"), name.label("sort_name")).where(*conditions)
    if after is not None:
        page = page.where(tuple_(*key) > tuple_(after.name, after.tenant_id, after.patient_id))
    found = conn.execute(page.order_by(*key).limit(limit + 1)).all()
    rows = found[:limit]
    names = clinics(conn, [row.tenant_id for row in rows])
    last = rows[-1] if len(found) > limit else None
    return PatientPage(
        rows=tuple(
            PatientRow(clinic=names[row.tenant_id], patient_id=row.patient_id, name=row.name, permitted=row.permitted)
            for row in rows
        ),
        total=conn.execute(select(func.count()).select_from(_PATIENT).where(*conditions)).scalar_one(),
        next_cursor=PatientCursor(last.sort_name, last.tenant_id, last.patient_id) if last is not None else None,
    )


def patient_name(conn: Connection, tenant_id: str, patient_id: str) -> str | None:
    """The name of a patient of the clinic; None when unknown."""
    query = select(_PATIENT.c.name).where(_PATIENT.c.tenant_id == tenant_id, _PATIENT.c.patient_id == patient_id)
    name: str | None = conn.execute(query).scalar()
    return name


def permissions(conn: Connection, tenant_id: str, patient_id: str) -> list[PermissionRow]:
    """Every permission for a patient: those that hold first, by the contact's name."""
    contact = and_(_CONTACT.c.tenant_id == _GUARDIAN.c.tenant_id, _CONTACT.c.contact_id == _GUARDIAN.c.contact_id)
    lane = and_(_LANE.c.tenant_id == _GUARDIAN.c.tenant_id, _LANE.c.contact_id == _GUARDIAN.c.contact_id)
    query = (
        select(_GUARDIAN, _CONTACT.c.name.label("contact_name"), _CONTACT.c.phone, _LANE.c.guardian_version)
        .outerjoin(_CONTACT, contact)
        .outerjoin(_LANE, lane)
        .where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.patient_id == patient_id)
    )
    rows = [
        PermissionRow(
            contact_id=row.contact_id,
            contact_name=row.contact_name,
            phone=row.phone,
            link=guardian_of(row),
            verified_by=row.verified_by,
            verification_method=row.verification_method,
            verified_at=row.verified_at,
            reason=row.reason,
            granted_by=row.granted_by,
            revoked_at=row.revoked_at,
            updated_at=row.updated_at,
            guardian_version=row.guardian_version or 0,
        )
        for row in conn.execute(query)
    ]
    return sorted(rows, key=lambda r: (r.revoked_at is not None, (r.contact_name or r.contact_id).casefold(), r.contact_id))


def changes(conn: Connection, tenant_id: str, patient_id: str, contact_ids: Sequence[str]) -> list[ChangeRow]:
    """The newest entries of the audit trail about the permissions of these contacts for a patient."""
    objects = {f"patients/{patient_id}/guardians/{contact_id}"[:300]: contact_id for contact_id in contact_ids}
    query = (
        select(_AUDIT)
        .where(_AUDIT.c.chain == tenant_id, _AUDIT.c.object.in_(sorted(objects)))
        .order_by(_AUDIT.c.number.desc())
        .limit(HISTORY_ROWS)
    )
    return [
        ChangeRow(
            at=row.at,
            actor=row.actor,
            action=row.action,
            contact_id=objects[row.object],
            before=msgspec.json.decode(row.before_json),
            after=msgspec.json.decode(row.after_json),
            reason=row.reason,
        )
        for row in conn.execute(query)
    ]


def contact_named(conn: Connection, tenant_id: str, text: str) -> str | None:
    """The id of the one contact that has exactly this id or phone number, as people write it; None when nobody has."""
    held = _CONTACT.c.contact_id == text
    phone = e164(text)
    if phone is not None:
        held = or_(held, _CONTACT.c.phone == phone)
    # an id wins over another contact's number
    query = select(_CONTACT.c.contact_id).where(_CONTACT.c.tenant_id == tenant_id, held)
    found = [row.contact_id for row in conn.execute(query)]
    return text if text in found else found[0] if found else None


def asked_contact(conn: Connection, tenant_id: str, patient_id: str, text: str) -> AskedContact | None:
    """The contact with this id or number and its permission for the patient; None when the clinic does not know it."""
    contact_id = contact_named(conn, tenant_id, text)
    if contact_id is None:
        return None
    name = conn.execute(
        select(_CONTACT.c.name).where(_CONTACT.c.tenant_id == tenant_id, _CONTACT.c.contact_id == contact_id)
    ).scalar()
    row = conn.execute(
        select(_GUARDIAN).where(
            _GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.patient_id == patient_id, _GUARDIAN.c.contact_id == contact_id
        )
    ).first()
    return AskedContact(contact_id=contact_id, name=name, link=guardian_of(row) if row is not None else None)


def actor_names(conn: Connection, actors: Sequence[str]) -> dict[str, str]:
    """Names of the people among the actors (`user:<id>`) of an audit trail."""
    ids = sorted({a.removeprefix("user:") for a in actors if a.startswith("user:")})
    if not ids:
        return {}
    rows = conn.execute(select(_USER.c.user_id, _USER.c.name).where(_USER.c.user_id.in_(ids)))
    return {f"user:{row.user_id}": row.name for row in rows}
