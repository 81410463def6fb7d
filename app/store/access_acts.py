"""What a superadmin does to people's accounts and machines' keys: each act audited with before and after in its own transaction.

Every act takes the state that the person saw (`seen`) and returns None, or why it was refused; then nothing was written.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from app.domain.envelopes import canonical_json
from app.store import accounts
from app.store.audit import GLOBAL_CHAIN, append
from app.store.people import By
from app.store.tables import ApiKey, Tenant, UserAccount, table

_USER, _KEY, _TENANT = table(UserAccount), table(ApiKey), table(Tenant)

ROLES: Final = ("secretary", "manager", "superadmin")
SCOPES: Final = ("intake", "read", "operate", "admin")


class Refusal(StrEnum):
    """Why an act did not happen."""

    CHANGED = "changed"
    """Somebody else changed the row since the person looked."""
    UNKNOWN = "unknown"
    TAKEN = "taken"
    """The address, or the key's id, is in use: the same form was sent twice."""
    NO_CLINIC = "no_clinic"
    """A secretary or manager needs a clinic that is open."""
    YOURSELF = "yourself"
    LAST_SUPERADMIN = "last_superadmin"
    WRONG_TIME = "wrong_time"
    """The end of a key's life lies in the past, or behind the end that it has."""


def seen_of(state: Mapping[str, Any]) -> str:
    """A short mark of a state, by which a form says what its person saw."""
    return hashlib.sha256(canonical_json(state).encode()).hexdigest()[:16]


def user_state(conn: Connection, row: Row[Any]) -> dict[str, Any]:
    """What an act may change about a person, as the audit trail writes it."""
    return {
        "name": row.name,
        "role": row.role,
        "clinics": accounts.tenants_of_user(conn, row.user_id),
        "disabled": row.disabled_at is not None,
    }


def key_state(row: Row[Any]) -> dict[str, Any]:
    """What an act may change about a key, as the audit trail writes it."""
    return {
        "name": row.name,
        "tenant_id": row.tenant_id,
        "scopes": row.scopes.split(),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "revoked": row.revoked_at is not None,
    }


# --- people -------------------------------------------------------------------------------------------------------------


def add_user(
    conn: Connection,
    *,
    user_id: str,
    email: str,
    name: str,
    role: str,
    clinics: Iterable[str],
    password_hash: str,
    who: By,
    reason: str,
) -> Refusal | None:
    """Let somebody in; a superadmin belongs to no clinic and sees all of them."""
    if accounts.find_user_by_email(conn, email) is not None:
        return Refusal.TAKEN
    wanted = _open_clinics(conn, clinics) if role != "superadmin" else []
    if role != "superadmin" and not wanted:
        return Refusal.NO_CLINIC
    accounts.create_user(
        conn, user_id=user_id, email=email, name=name, role=role, password_hash=password_hash, tenant_ids=wanted, now=who.now
    )
    _note(conn, who, "user.add", f"user/{user_id}", reason, None, {"email": accounts.normal_email(email), **_after(conn, user_id)})
    return None


def change_user(
    conn: Connection, user_id: str, *, role: str, clinics: Iterable[str], seen: str, who: By, reason: str
) -> Refusal | None:
    """Give a person another role or other clinics; their sessions end, so that none outlives what they were allowed."""
    row, refused = _person(conn, user_id, seen)
    if row is None:
        return refused
    if role != row.role and who.actor == f"user:{user_id}":
        return Refusal.YOURSELF
    if role != "superadmin" and _is_last_superadmin(conn, row):
        return Refusal.LAST_SUPERADMIN
    wanted = _open_clinics(conn, clinics) if role != "superadmin" else []
    if role != "superadmin" and not wanted:
        return Refusal.NO_CLINIC
    before = user_state(conn, row)
    accounts.set_clinics(conn, user_id, wanted)
    accounts.set_role(conn, user_id, role)
    _note(conn, who, "user.change", f"user/{user_id}", reason, before, _after(conn, user_id))
    return None


def set_user_disabled(conn: Connection, user_id: str, *, disabled: bool, seen: str, who: By, reason: str) -> Refusal | None:
    """Shut a person out and end their sessions, or let them in again."""
    row, refused = _person(conn, user_id, seen)
    if row is None:
        return refused
    if disabled and who.actor == f"user:{user_id}":
        return Refusal.YOURSELF
    if disabled and _is_last_superadmin(conn, row):
        return Refusal.LAST_SUPERADMIN
    before = user_state(conn, row)
    accounts.set_disabled(conn, user_id, who.now if disabled else None)
    action = "user.disable" if disabled else "user.enable"
    _note(conn, who, action, f"user/{user_id}", reason, before, _after(conn, user_id))
    return None


def reset_password(conn: Connection, user_id: str, password_hash: str, *, seen: str, who: By, reason: str) -> Refusal | None:
    """Replace a person's password; lockout and sessions end."""
    row, refused = _person(conn, user_id, seen)
    if row is None:
        return refused
    ended = len(accounts.sessions_of_user(conn, user_id, who.now))
    accounts.set_password(conn, user_id, password_hash)
    _note(conn, who, "user.reset_password", f"user/{user_id}", reason, {"sessions": ended}, {"sessions": 0})
    return None


def end_sessions(conn: Connection, user_id: str, *, who: By, reason: str) -> Refusal | None:
    """Sign a person out everywhere; it does no harm when they are signed out already."""
    if accounts.find_user(conn, user_id) is None:
        return Refusal.UNKNOWN
    ended = len(accounts.sessions_of_user(conn, user_id, who.now))
    accounts.end_sessions_of_user(conn, user_id)
    _note(conn, who, "user.end_sessions", f"user/{user_id}", reason, {"sessions": ended}, {"sessions": 0})
    return None


# --- keys ---------------------------------------------------------------------------------------------------------------


def add_key(
    conn: Connection,
    *,
    key_id: str,
    secret_hash: str,
    name: str,
    tenant_id: str | None,
    scopes: Iterable[str],
    expires_at: datetime | None,
    who: By,
    reason: str,
) -> Refusal | None:
    """Add a machine's key; `tenant_id` None = every clinic."""
    if accounts.find_key(conn, key_id) is not None:
        return Refusal.TAKEN
    if tenant_id is not None and not _open_clinics(conn, [tenant_id]):
        return Refusal.NO_CLINIC
    if expires_at is not None and expires_at <= who.now:
        return Refusal.WRONG_TIME
    wanted = [s for s in SCOPES if s in set(scopes)]
    accounts.create_key(
        conn,
        key_id=key_id,
        secret_hash=secret_hash,
        name=name,
        tenant_id=tenant_id,
        scopes=" ".join(wanted),
        now=who.now,
        expires_at=expires_at,
    )
    _note(conn, who, "key.add", f"key/{key_id}", reason, None, _key_after(conn, key_id))
    return None


def rotate_key(
    conn: Connection, key_id: str, *, new_id: str, secret_hash: str, old_until: datetime, seen: str, who: By, reason: str
) -> Refusal | None:
    """A new key with the same name, clinic and scopes; the old one stays good until `old_until`, so that nothing stops between."""
    row, refused = _machine(conn, key_id, seen)
    if row is None:
        return refused
    if accounts.find_key(conn, new_id) is not None:
        return Refusal.TAKEN
    if old_until < who.now or (row.expires_at is not None and old_until > row.expires_at):
        return Refusal.WRONG_TIME
    before = key_state(row)
    accounts.create_key(
        conn, key_id=new_id, secret_hash=secret_hash, name=row.name, tenant_id=row.tenant_id, scopes=row.scopes, now=who.now
    )
    accounts.expire_key(conn, key_id, old_until)
    after = _key_after(conn, key_id) | {"replaced_by": new_id}
    _note(conn, who, "key.rotate", f"key/{key_id}", reason, before, after)
    _note(conn, who, "key.add", f"key/{new_id}", reason, None, _key_after(conn, new_id) | {"replaces": key_id})
    return None


def revoke_key(conn: Connection, key_id: str, *, seen: str, who: By, reason: str) -> Refusal | None:
    """Make a key useless from now on."""
    row, refused = _machine(conn, key_id, seen)
    if row is None:
        return refused
    before = key_state(row)
    accounts.revoke_key(conn, key_id, who.now)
    _note(conn, who, "key.revoke", f"key/{key_id}", reason, before, _key_after(conn, key_id))
    return None


# --- parts --------------------------------------------------------------------------------------------------------------


def _person(conn: Connection, user_id: str, seen: str) -> tuple[Row[Any] | None, Refusal | None]:
    """The person, held until the commit, if they still are as they were seen."""
    query = select(_USER).where(_USER.c.user_id == user_id)
    row = conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).first()
    if row is None:
        return None, Refusal.UNKNOWN
    return (row, None) if seen_of(user_state(conn, row)) == seen else (None, Refusal.CHANGED)


def _machine(conn: Connection, key_id: str, seen: str) -> tuple[Row[Any] | None, Refusal | None]:
    query = select(_KEY).where(_KEY.c.key_id == key_id)
    row = conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).first()
    if row is None:
        return None, Refusal.UNKNOWN
    fresh = row.revoked_at is None and seen_of(key_state(row)) == seen
    return (row, None) if fresh else (None, Refusal.CHANGED)


def _is_last_superadmin(conn: Connection, row: Row[Any]) -> bool:
    """Whether nobody could undo the act: there is no other superadmin who may sign in."""
    if row.role != "superadmin" or row.disabled_at is not None:
        return False
    # the rows are held, so that two superadmins cannot disable each other at the same moment
    query = select(_USER.c.user_id).where(_USER.c.role == "superadmin", _USER.c.disabled_at.is_(None)).order_by(_USER.c.user_id)
    return len(conn.execute(query.with_for_update() if conn.dialect.name == "postgresql" else query).all()) == 1


def _open_clinics(conn: Connection, ids: Iterable[str]) -> list[str]:
    wanted = sorted(set(ids))
    query = select(_TENANT.c.tenant_id).where(_TENANT.c.tenant_id.in_(wanted), _TENANT.c.disabled_at.is_(None))
    return sorted(conn.execute(query).scalars()) if wanted else []


def _after(conn: Connection, user_id: str) -> dict[str, Any]:
    row = accounts.find_user(conn, user_id)
    assert row is not None
    return user_state(conn, row)


def _key_after(conn: Connection, key_id: str) -> dict[str, Any]:
    row = accounts.find_key(conn, key_id)
    assert row is not None
    return key_state(row)


def _note(
    conn: Connection,
    who: By,
    action: str,
    thing: str,
    reason: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    append(
        conn,
        chain=GLOBAL_CHAIN,
        actor=who.actor,
        action=action,
        object=thing,
        before=before,
        after=after,
        reason=reason,
        origin=who.origin,
        correlation_id=who.correlation_id,
        now=who.now,
    )
