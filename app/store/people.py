"""Contacts, patients, therapists and the permissions between them: what the API shows and what it may change.

Every change is one transaction with its audit entry and its stream event. A change of permissions locks the contact's
lane first and raises its `guardian_version`, so a command decided on the old permissions can no longer take effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, and_, select, update

from app.domain.retention import veiled
from app.errors import Conflict, NotFound
from app.store.audit import append
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.intake_facts import ensure_lanes
from app.store.tables import Contact, Guardian, Lane, Patient, Therapist, table
from app.store.waiting import why_waiting

_CONTACT, _LANE = table(Contact), table(Lane)
_PATIENT, _THERAPIST, _GUARDIAN = table(Patient), table(Therapist), table(Guardian)

PERMISSIONS: Final = ("is_primary", "can_schedule", "can_cancel", "verified_by", "verification_method", "reason")
"""What a permission says; two links that agree on these (and on not being revoked) are the same permission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who changes something, when and from where; for the audit trail."""

    actor: str
    now: datetime
    origin: str | None = None
    correlation_id: str | None = None


# --- contacts -----------------------------------------------------------------------------------------------------------


def contact(conn: Connection, tenant_id: str, contact_id: str, now: datetime) -> dict[str, Any] | None:
    """One contact with its lane's counters and, when something waits in it, why; None when unknown."""
    row = conn.execute(_contacts(tenant_id).where(_CONTACT.c.contact_id == contact_id)).first()
    return _contact_documents(conn, tenant_id, [row], now)[0] if row else None


def contacts(conn: Connection, tenant_id: str, now: datetime, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Contacts by id, from behind `after`."""
    query = _contacts(tenant_id).order_by(_CONTACT.c.contact_id).limit(limit)
    if after is not None:
        query = query.where(_CONTACT.c.contact_id > after)
    return _contact_documents(conn, tenant_id, conn.execute(query).all(), now)


def put_contact(
    conn: Connection, tenant_id: str, contact_id: str, *, phone: str | None, name: str | None, by: By
) -> dict[str, Any]:
    """Create or replace a contact; raises Conflict when another contact of the clinic has the number."""
    if phone is not None:
        holder = conn.execute(
            select(_CONTACT.c.contact_id).where(
                _CONTACT.c.tenant_id == tenant_id, _CONTACT.c.phone == phone, _CONTACT.c.contact_id != contact_id
            )
        ).scalar()
        if holder is not None:
            fault = {"pointer": "/phone", "detail": "belongs to another contact"}
            raise Conflict("Another contact of this clinic has this number.", errors=[fault])
    before = _one(conn, _CONTACT, tenant_id=tenant_id, contact_id=contact_id)
    ensure_lanes(conn, [(tenant_id, contact_id)], by.now)
    if before is None or (before.phone, before.name) != (phone, name):
        conn.execute(
            update(_CONTACT)
            .where(_CONTACT.c.tenant_id == tenant_id, _CONTACT.c.contact_id == contact_id)
            .values(phone=phone, name=name, erased_at=None)
        )
        said = {"phone": veiled(before.phone), "name": veiled(before.name)} if before else None
        told = {"phone": veiled(phone), "name": veiled(name)}  # the trail is for ever: it tells a change, not a person
        _note(conn, tenant_id, by, "contact.put", f"contacts/{contact_id}", said, told)
        publish(conn, tenant_id, "lane", [contact_id], by.now)
    found = contact(conn, tenant_id, contact_id, by.now)
    assert found is not None
    return found


def _contacts(tenant_id: str) -> Any:
    same = and_(_LANE.c.tenant_id == _CONTACT.c.tenant_id, _LANE.c.contact_id == _CONTACT.c.contact_id)
    lane = [c for c in _LANE.c if c.name not in ("tenant_id", "contact_id")]
    return select(_CONTACT, *lane).outerjoin(_LANE, same).where(_CONTACT.c.tenant_id == tenant_id)


def _contact_documents(conn: Connection, tenant_id: str, rows: Sequence[Row[Any]], now: datetime) -> list[dict[str, Any]]:
    waits = why_waiting(conn, tenant_id, rows, now)
    return [_contact_document(row, waits.get(row.contact_id)) for row in rows]


def _contact_document(row: Row[Any], why: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "contact_id": row.contact_id,
        "name": row.name,
        "phone": row.phone,
        "conversation_id": row.conversation_id,
        "conversation_version": row.conversation_version if row.conversation_version is not None else 1,
        "guardian_version": row.guardian_version or 0,
        "takeover_active": row.takeover_id is not None,
        "takeover_id": row.takeover_id,
        "created_at": row.created_at,
        "lane": {
            "last_assigned": row.last_assigned or 0,
            "last_committed": row.last_committed or 0,
            "waiting": row.waiting or 0,
            # names only what stops the lane; one that waits its turn says so in `why`
            "blocked_by": why["cause"] if why and why["cause"] not in ("dispatch", "locked") else None,
            "why": why,
        },
    }


# --- patients and therapists --------------------------------------------------------------------------------------------


def patient(conn: Connection, tenant_id: str, patient_id: str) -> dict[str, Any] | None:
    """A patient with its permissions; None when unknown."""
    row = _one(conn, _PATIENT, tenant_id=tenant_id, patient_id=patient_id)
    return _patient_document(row) | {"guardians": guardians(conn, tenant_id, patient_id)} if row else None


def patients(conn: Connection, tenant_id: str, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Patients by id, from behind `after`."""
    return [_patient_document(row) for row in _page(conn, _PATIENT, "patient_id", tenant_id, after, limit)]


def put_patient(conn: Connection, tenant_id: str, patient_id: str, *, name: str, by: By) -> dict[str, Any]:
    """Create or replace a patient."""
    _put_named(conn, _PATIENT, "patient", tenant_id, patient_id, name, by)
    publish(conn, tenant_id, "guardians", [patient_id], by.now)
    found = patient(conn, tenant_id, patient_id)
    assert found is not None
    return found


def therapist(conn: Connection, tenant_id: str, therapist_id: str) -> dict[str, Any] | None:
    """A therapist; None when unknown."""
    row = _one(conn, _THERAPIST, tenant_id=tenant_id, therapist_id=therapist_id)
    return _therapist_document(row) if row else None


def therapists(conn: Connection, tenant_id: str, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Therapists by id, from behind `after`."""
    return [_therapist_document(row) for row in _page(conn, _THERAPIST, "therapist_id", tenant_id, after, limit)]


def put_therapist(conn: Connection, tenant_id: str, therapist_id: str, *, name: str, by: By) -> dict[str, Any]:
    """Create or replace a therapist."""
    _put_named(conn, _THERAPIST, "therapist", tenant_id, therapist_id, name, by)
    publish(conn, tenant_id, "agenda", [therapist_id], by.now)
    found = therapist(conn, tenant_id, therapist_id)
    assert found is not None
    return found


def _put_named(conn: Connection, core: Table, kind: str, tenant_id: str, given_id: str, name: str, by: By) -> None:
    key = {"tenant_id": tenant_id, f"{kind}_id": given_id}
    before = _one(conn, core, **key)
    if before is not None and before.name == name:
        return
    insert_rows(conn, core, [{**key, "name": name, "created_at": by.now}], ignore_conflicts=True)
    conn.execute(update(core).where(*(core.c[k] == v for k, v in key.items())).values(name=name))
    said = {"name": veiled(before.name)} if before else None
    _note(conn, tenant_id, by, f"{kind}.put", f"{kind}s/{given_id}", said, {"name": veiled(name)})


def _patient_document(row: Row[Any]) -> dict[str, Any]:
    return {"patient_id": row.patient_id, "name": row.name, "created_at": row.created_at}


def _therapist_document(row: Row[Any]) -> dict[str, Any]:
    return {"therapist_id": row.therapist_id, "name": row.name, "created_at": row.created_at}


# --- guardians ----------------------------------------------------------------------------------------------------------


def guardians(conn: Connection, tenant_id: str, patient_id: str) -> list[dict[str, Any]]:
    """Every permission for a patient, revoked ones included, by contact."""
    query = select(_GUARDIAN).where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.patient_id == patient_id)
    return [_guardian_document(row) for row in conn.execute(query.order_by(_GUARDIAN.c.contact_id))]


def guardian(conn: Connection, tenant_id: str, patient_id: str, contact_id: str) -> dict[str, Any] | None:
    """One permission, revoked or not; None when there never was one."""
    row = _one(conn, _GUARDIAN, tenant_id=tenant_id, patient_id=patient_id, contact_id=contact_id)
    return _guardian_document(row) if row else None


def put_guardian(
    conn: Connection, tenant_id: str, patient_id: str, contact_id: str, permission: Mapping[str, Any], *, by: By
) -> dict[str, Any]:
    """Create or replace a contact's permission for a patient (`permission` has the PERMISSIONS).

    The contact is created when it is new. The same permission again changes nothing. Without both `verified_by` and
    `verification_method` the link stays unverified, and grants nothing. Raises NotFound for an unknown patient.
    """
    if _one(conn, _PATIENT, tenant_id=tenant_id, patient_id=patient_id) is None:
        raise NotFound("There is no such patient.")
    ensure_lanes(conn, [(tenant_id, contact_id)], by.now)
    version = lock_guardian_version(conn, tenant_id, contact_id)
    key = {"tenant_id": tenant_id, "patient_id": patient_id, "contact_id": contact_id}
    before = _one(conn, _GUARDIAN, **key)
    wanted = {name: permission.get(name) for name in PERMISSIONS}
    if before is None or before.revoked_at is not None or _permission(before) != wanted:
        proven = bool(wanted["verified_by"] and wanted["verification_method"])
        row = {
            **key,
            **wanted,
            "granted_by": by.actor[:200],
            "verified_at": by.now if proven else None,
            "revoked_at": None,
            "updated_at": by.now,
        }
        _write_guardian(conn, key, row, exists=before is not None)
        version += 1
        _permissions_changed(conn, tenant_id, patient_id, contact_id, version, by)
        _note(
            conn,
            tenant_id,
            by,
            "guardian.put",
            f"patients/{patient_id}/guardians/{contact_id}",
            _permission(before) | {"revoked": before.revoked_at is not None} if before else None,
            wanted | {"revoked": False, "guardian_version": version},
            reason=wanted["reason"],
            about=contact_id,
        )
    found = guardian(conn, tenant_id, patient_id, contact_id)
    assert found is not None
    return found | {"guardian_version": version}


def revoke_guardian(
    conn: Connection, tenant_id: str, patient_id: str, contact_id: str, *, reason: str | None, by: By
) -> dict[str, Any]:
    """Take a permission away; its row stays. Again changes nothing. Raises NotFound when there never was one."""
    key = {"tenant_id": tenant_id, "patient_id": patient_id, "contact_id": contact_id}
    if _one(conn, _GUARDIAN, **key) is None:
        raise NotFound("This contact has no permission for this patient.")
    version = lock_guardian_version(conn, tenant_id, contact_id)
    before = _one(conn, _GUARDIAN, **key)
    if before is not None and before.revoked_at is None:
        conn.execute(
            update(_GUARDIAN)
            .where(*(_GUARDIAN.c[k] == v for k, v in key.items()))
            .values(revoked_at=by.now, updated_at=by.now, reason=reason or before.reason)
        )
        version += 1
        _permissions_changed(conn, tenant_id, patient_id, contact_id, version, by)
        _note(
            conn,
            tenant_id,
            by,
            "guardian.revoke",
            f"patients/{patient_id}/guardians/{contact_id}",
            _permission(before) | {"revoked": False},
            {"revoked": True, "guardian_version": version},
            reason=reason,
            about=contact_id,
        )
    found = guardian(conn, tenant_id, patient_id, contact_id)
    assert found is not None
    return found | {"guardian_version": version}


def _write_guardian(conn: Connection, key: Mapping[str, str], row: dict[str, Any], *, exists: bool) -> None:
    if not exists:
        insert_rows(conn, _GUARDIAN, [row])
        return
    values = {k: v for k, v in row.items() if k not in key}
    conn.execute(update(_GUARDIAN).where(*(_GUARDIAN.c[k] == v for k, v in key.items())).values(**values))


def lock_guardian_version(conn: Connection, tenant_id: str, contact_id: str) -> int:
    """The contact's guardian_version, held until the end of the transaction. Raises NotFound for an unknown contact."""
    query = select(_LANE.c.guardian_version).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id)
    if conn.dialect.name == "postgresql":
        query = query.with_for_update()
    version = conn.execute(query).scalar()
    if version is None:
        raise NotFound("There is no such contact.")
    return int(version)


def _permissions_changed(conn: Connection, tenant_id: str, patient_id: str, contact_id: str, version: int, by: By) -> None:
    conn.execute(
        update(_LANE).where(_LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id).values(guardian_version=version)
    )
    publish(conn, tenant_id, "guardians", [patient_id], by.now)
    publish(conn, tenant_id, "lane", [contact_id], by.now)


def _permission(row: Row[Any]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in PERMISSIONS}


def _guardian_document(row: Row[Any]) -> dict[str, Any]:
    return {
        "patient_id": row.patient_id,
        "contact_id": row.contact_id,
        **_permission(row),
        "verified": bool(row.verified_by and row.verification_method and row.verified_at),
        "verified_at": row.verified_at,
        "granted_by": row.granted_by,
        "revoked_at": row.revoked_at,
        "updated_at": row.updated_at,
    }


# --- shared -------------------------------------------------------------------------------------------------------------


def _one(conn: Connection, core: Table, **key: str) -> Row[Any] | None:
    return conn.execute(select(core).where(*(core.c[k] == v for k, v in key.items()))).first()


def _page(conn: Connection, core: Table, column: str, tenant_id: str, after: str | None, limit: int) -> Sequence[Row[Any]]:
    query = select(core).where(core.c.tenant_id == tenant_id).order_by(core.c[column]).limit(limit)
    return conn.execute(query if after is None else query.where(core.c[column] > after)).all()


def _note(
    conn: Connection,
    tenant_id: str,
    by: By,
    action: str,
    object: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    *,
    reason: str | None = None,
    about: str | None = None,
) -> None:
    append(
        conn,
        chain=tenant_id,
        actor=by.actor,
        action=action,
        object=object,
        before=before,
        after=after,
        reason=reason,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
        about=about,
    )
