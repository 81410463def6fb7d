"""What people do to permissions in the console: the same writes as the API's, only on what the person saw."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from app.errors import Conflict, NotFound
from app.store.intake_facts import ensure_lanes
from app.store.people import By, lock_guardian_version, put_guardian, revoke_guardian
from app.store.tables import Guardian, table
from app.store.views.guardians import contact_named

_GUARDIAN = table(Guardian)


def grant_new(
    conn: Connection, tenant_id: str, patient_id: str, contact: str, permission: Mapping[str, Any], *, by: By
) -> dict[str, Any]:
    """Give a known contact (id or phone number) its first permission for the patient, or one again after it was revoked.

    Raises NotFound for a contact or patient that the clinic does not know, Conflict when a permission is already there.
    """
    contact_id = contact_named(conn, tenant_id, contact)
    if contact_id is None:
        raise NotFound("No contact of this clinic has this id or phone number.")
    ensure_lanes(conn, [(tenant_id, contact_id)], by.now)
    lock_guardian_version(conn, tenant_id, contact_id)
    held = conn.execute(
        select(_GUARDIAN.c.contact_id).where(
            _GUARDIAN.c.tenant_id == tenant_id,
            _GUARDIAN.c.patient_id == patient_id,
            _GUARDIAN.c.contact_id == contact_id,
            _GUARDIAN.c.revoked_at.is_(None),
        )
    ).first()
    if held is not None:
        raise Conflict("This contact already has a permission for this patient; change that one. Nothing was done.")
    return put_guardian(conn, tenant_id, patient_id, contact_id, permission, by=by)


def change(
    conn: Connection, tenant_id: str, patient_id: str, contact_id: str, permission: Mapping[str, Any], *, seen: int, by: By
) -> dict[str, Any]:
    """Replace a permission that was seen at the contact's guardian_version `seen`. Raises Conflict when it moved on."""
    _still(conn, tenant_id, contact_id, seen)
    return put_guardian(conn, tenant_id, patient_id, contact_id, permission, by=by)


def revoke(conn: Connection, tenant_id: str, patient_id: str, contact_id: str, *, reason: str, seen: int, by: By) -> dict[str, Any]:
    """Take away a permission that was seen at the contact's guardian_version `seen`. Raises Conflict when it moved on."""
    _still(conn, tenant_id, contact_id, seen)
    return revoke_guardian(conn, tenant_id, patient_id, contact_id, reason=reason, by=by)


def _still(conn: Connection, tenant_id: str, contact_id: str, seen: int) -> None:
    if lock_guardian_version(conn, tenant_id, contact_id) != seen:
        raise Conflict("Somebody changed this contact's permissions since you looked; nothing was done. Look again.")
