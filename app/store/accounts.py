"""Who may come in: clinics, people, their sessions, and the keys of machines.

Nothing here knows a secret: sessions and keys are stored as hashes, passwords as argon2id. People are disabled and keys
revoked, never deleted, so that the audit trail keeps naming them.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, update

from app.errors import InvalidRequest
from app.store.bulk import insert_rows
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import ApiKey, ModeRow, Tenant, UserAccount, UserTenant, WebSession, table

_TENANT, _USER, _MEMBER = table(Tenant), table(UserAccount), table(UserTenant)
_SESSION, _KEY, _MODE = table(WebSession), table(ApiKey), table(ModeRow)

_SLUG: Final = re.compile(r"[a-z0-9-]{1,60}")
"""What stands in the addresses of webhooks and pages as it is."""

SESSION_IDLE: Final = timedelta(minutes=30)
SESSION_LIFETIME: Final = timedelta(hours=12)
TOUCH_EVERY: Final = timedelta(minutes=1)
"""Last use of a session or key is written at most this often."""

FREE_FAILURES: Final = 5
LOCK_FIRST: Final = timedelta(seconds=30)
LOCK_MAX: Final = timedelta(minutes=15)


def lock_after(failures: int) -> timedelta | None:
    """How long sign-in is closed after so many failures in a row: from the fifth on, doubling up to a quarter of an hour."""
    if failures < FREE_FAILURES:
        return None
    doublings = min(failures - FREE_FAILURES, 10)
    return min(LOCK_FIRST * (1 << doublings), LOCK_MAX)


# --- tenants ------------------------------------------------------------------------------------------------------------


def create_tenant(conn: Connection, *, tenant_id: str, slug: str, name: str, timezone: str, now: datetime) -> None:
    """Add a clinic; raises InvalidRequest for a slug that no address can hold or an unknown timezone, IntegrityError when taken."""
    if not _SLUG.fullmatch(slug) or slug == GLOBAL_SCOPE:
        raise InvalidRequest(
            f"{slug!r} cannot be the slug of a clinic: 1 to 60 lower-case letters, digits and hyphens, such as clinica-sol; "
            f"not {GLOBAL_SCOPE!r}, which stands for all clinics.",
            errors=[{"pointer": "/slug", "detail": "is not a slug"}],
        )
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(
            f"{timezone!r} is not an IANA timezone, such as America/Sao_Paulo.",
            errors=[{"pointer": "/timezone", "detail": "is not an IANA timezone"}],
        ) from error
    row = {"tenant_id": tenant_id, "slug": slug, "name": name, "timezone": timezone, "created_at": now}
    insert_rows(conn, _TENANT, [row])
    # an effect share-locks the rows of its modes: they must be there before the first one
    insert_rows(conn, _MODE, [{"scope": "global"}, {"scope": tenant_id}], ignore_conflicts=True)


def list_tenants(conn: Connection) -> Sequence[Row[Any]]:
    """Every clinic by slug, disabled ones included."""
    return conn.execute(select(_TENANT).order_by(_TENANT.c.slug)).all()


def find_tenant(conn: Connection, id_or_slug: str, *, include_disabled: bool = False) -> Row[Any] | None:
    """A clinic by its id or its slug (an id wins)."""
    query = select(_TENANT).where(or_(_TENANT.c.tenant_id == id_or_slug, _TENANT.c.slug == id_or_slug))
    if not include_disabled:
        query = query.where(_TENANT.c.disabled_at.is_(None))
    rows = conn.execute(query).all()
    return next((row for row in rows if row.tenant_id == id_or_slug), rows[0] if rows else None)


def disable_tenant(conn: Connection, tenant_id: str, now: datetime) -> bool:
    """Close a clinic: its keys and people get no access, its data stays. Returns whether it was open."""
    query = update(_TENANT).where(_TENANT.c.tenant_id == tenant_id, _TENANT.c.disabled_at.is_(None)).values(disabled_at=now)
    return conn.execute(query).rowcount == 1


# --- people -------------------------------------------------------------------------------------------------------------


def create_user(
    conn: Connection,
    *,
    user_id: str,
    email: str,
    name: str,
    role: str,
    password_hash: str,
    tenant_ids: Iterable[str],
    now: datetime,
) -> None:
    """Add a person who may sign in; raises IntegrityError when the address is taken or a clinic is unknown."""
    row = {
        "user_id": user_id,
        "email": normal_email(email),
        "name": name,
        "role": role,
        "password_hash": password_hash,
        "language": "pt_BR",
        "theme": "auto",
        "shortcuts": True,
        "failed_logins": 0,
        "created_at": now,
    }
    insert_rows(conn, _USER, [row])
    insert_rows(conn, _MEMBER, [{"user_id": user_id, "tenant_id": t} for t in sorted(set(tenant_ids))])


def normal_email(email: str) -> str:
    """The address as it is stored and compared."""
    return email.strip().lower()


def list_users(conn: Connection) -> Sequence[Row[Any]]:
    """Every person by address, disabled ones included; never show `password_hash`."""
    return conn.execute(select(_USER).order_by(_USER.c.email)).all()


def find_user(conn: Connection, user_id: str) -> Row[Any] | None:
    """A person by id."""
    return conn.execute(select(_USER).where(_USER.c.user_id == user_id)).first()


def names_of_users(conn: Connection, user_ids: Iterable[str]) -> dict[str, str]:
    """Id -> name, of those who are known."""
    rows = conn.execute(select(_USER.c.user_id, _USER.c.name).where(_USER.c.user_id.in_(sorted(set(user_ids)))))
    return {row.user_id: row.name for row in rows}


def find_user_by_email(conn: Connection, email: str) -> Row[Any] | None:
    """A person by address, whatever its case."""
    return conn.execute(select(_USER).where(_USER.c.email == normal_email(email))).first()


def tenants_of_user(conn: Connection, user_id: str) -> list[str]:
    """Ids of the open clinics that a person works for."""
    query = (
        select(_MEMBER.c.tenant_id)
        .join(_TENANT, _TENANT.c.tenant_id == _MEMBER.c.tenant_id)
        .where(_MEMBER.c.user_id == user_id, _TENANT.c.disabled_at.is_(None))
        .order_by(_TENANT.c.slug)
    )
    return list(conn.execute(query).scalars())


def list_memberships(conn: Connection) -> dict[str, list[str]]:
    """Ids of everybody's open clinics by person, each person's by slug as in `tenants_of_user`."""
    query = (
        select(_MEMBER.c.user_id, _MEMBER.c.tenant_id)
        .join(_TENANT, _TENANT.c.tenant_id == _MEMBER.c.tenant_id)
        .where(_TENANT.c.disabled_at.is_(None))
        .order_by(_MEMBER.c.user_id, _TENANT.c.slug)
    )
    found: dict[str, list[str]] = {}
    for user_id, tenant_id in conn.execute(query):
        found.setdefault(user_id, []).append(tenant_id)
    return found


def set_clinics(conn: Connection, user_id: str, tenant_ids: Iterable[str]) -> None:
    """Replace the clinics that a person works for; the caller ends their sessions."""
    conn.execute(delete(_MEMBER).where(_MEMBER.c.user_id == user_id))
    insert_rows(conn, _MEMBER, [{"user_id": user_id, "tenant_id": t} for t in sorted(set(tenant_ids))])


def set_disabled(conn: Connection, user_id: str, now: datetime | None) -> None:
    """Shut a person out and end their sessions, or let them in again (`now` None)."""
    conn.execute(update(_USER).where(_USER.c.user_id == user_id).values(disabled_at=now))
    if now is not None:
        end_sessions_of_user(conn, user_id)


def set_role(conn: Connection, user_id: str, role: str) -> None:
    """Change what a person may do; their sessions end, so that none outlives the old role."""
    conn.execute(update(_USER).where(_USER.c.user_id == user_id).values(role=role))
    end_sessions_of_user(conn, user_id)


def set_password(conn: Connection, user_id: str, password_hash: str) -> None:
    """Replace a person's password; lockout and sessions end."""
    values = {"password_hash": password_hash, "failed_logins": 0, "locked_until": None}
    conn.execute(update(_USER).where(_USER.c.user_id == user_id).values(**values))
    end_sessions_of_user(conn, user_id)


def set_preferences(conn: Connection, user_id: str, *, language: str, theme: str, shortcuts: bool) -> None:
    """How a person wants the screens."""
    values = {"language": language, "theme": theme, "shortcuts": shortcuts}
    conn.execute(update(_USER).where(_USER.c.user_id == user_id).values(**values))


def record_login_failure(conn: Connection, user_id: str, now: datetime) -> datetime | None:
    """Count a wrong password; returns until when sign-in is closed for this person, if it is now."""
    counted = update(_USER).where(_USER.c.user_id == user_id).values(failed_logins=_USER.c.failed_logins + 1)
    failures = conn.execute(counted.returning(_USER.c.failed_logins)).scalar()
    pause = lock_after(failures or 0)
    if pause is None:
        return None
    conn.execute(update(_USER).where(_USER.c.user_id == user_id).values(locked_until=now + pause))
    return now + pause


def record_login_success(conn: Connection, user_id: str, now: datetime) -> None:
    """Forget the failures of a person who signed in, and note when it was."""
    values = {"failed_logins": 0, "locked_until": None, "signed_in_at": now}
    conn.execute(update(_USER).where(_USER.c.user_id == user_id).values(**values))


# --- sessions -----------------------------------------------------------------------------------------------------------


def create_session(
    conn: Connection, *, key_hash: str, user_id: str, now: datetime, address: str = "", user_agent: str = ""
) -> None:
    """Sign a browser in; sessions that are over are swept away on the way."""
    _end(conn, or_(_SESSION.c.expires_at <= now, _SESSION.c.seen_at <= now - SESSION_IDLE))
    row = {
        "key_hash": key_hash,
        "user_id": user_id,
        "created_at": now,
        "seen_at": now,
        "expires_at": now + SESSION_LIFETIME,
        "address": address[:60],
        "user_agent": user_agent[:300],
    }
    insert_rows(conn, _SESSION, [row])


def session_by_hash(conn: Connection, key_hash: str, now: datetime) -> Row[Any] | None:
    """The live session with the columns of its person; None when it is over, idle too long, or the person is disabled."""
    people = [c for c in _USER.c if c.name not in ("created_at", "user_id", "password_hash")]
    query = (
        select(_SESSION, *people)
        .join(_USER, _USER.c.user_id == _SESSION.c.user_id)
        .where(
            _SESSION.c.key_hash == key_hash,
            _SESSION.c.expires_at > now,
            _SESSION.c.seen_at > now - SESSION_IDLE,
            _USER.c.disabled_at.is_(None),
        )
    )
    return conn.execute(query).first()


def touch_session(conn: Connection, key_hash: str, now: datetime) -> bool:
    """Note that a session is in use, at most once a minute; returns whether it was noted now."""
    query = update(_SESSION).where(_SESSION.c.key_hash == key_hash, _SESSION.c.seen_at <= now - TOUCH_EVERY).values(seen_at=now)
    return conn.execute(query).rowcount == 1


def end_session(conn: Connection, key_hash: str) -> bool:
    """Sign a browser out; returns whether it was signed in."""
    return _end(conn, _SESSION.c.key_hash == key_hash) == 1


def end_sessions_of_user(conn: Connection, user_id: str, *, but: str | None = None) -> int:
    """Sign a person out everywhere (`but` one session, if named); returns how many sessions ended."""
    which = _SESSION.c.user_id == user_id
    return _end(conn, which if but is None else and_(which, _SESSION.c.key_hash != but))


def _end(conn: Connection, which: ColumnElement[bool]) -> int:
    """End sessions; their people were last seen when the latest of them was used. Returns how many ended."""
    gone = conn.execute(delete(_SESSION).where(which).returning(_SESSION.c.user_id, _SESSION.c.seen_at)).all()
    left: dict[str, datetime] = {}
    for row in gone:
        left[row.user_id] = max(row.seen_at, left.get(row.user_id, row.seen_at))
    for user_id, seen_at in sorted(left.items()):  # in one order, so that two sweeps do not wait for each other
        older = or_(_USER.c.left_at.is_(None), _USER.c.left_at < seen_at)
        conn.execute(update(_USER).where(_USER.c.user_id == user_id, older).values(left_at=seen_at))
    return len(gone)


def live_at(now: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The conditions of a session that is not over."""
    return _SESSION.c.expires_at > now, _SESSION.c.seen_at > now - SESSION_IDLE


def count_sessions(conn: Connection, now: datetime) -> dict[str, int]:
    """How many live sessions each person has, by id."""
    query = select(_SESSION.c.user_id, func.count()).where(*live_at(now)).group_by(_SESSION.c.user_id)
    return {row[0]: int(row[1]) for row in conn.execute(query)}


def sessions_of_user(conn: Connection, user_id: str, now: datetime) -> Sequence[Row[Any]]:
    """A person's live sessions, the one used last first."""
    live = (_SESSION.c.user_id == user_id, *live_at(now))
    return conn.execute(select(_SESSION).where(*live).order_by(_SESSION.c.seen_at.desc(), _SESSION.c.key_hash)).all()


# --- keys ---------------------------------------------------------------------------------------------------------------


def create_key(
    conn: Connection,
    *,
    key_id: str,
    secret_hash: str,
    name: str,
    tenant_id: str | None,
    scopes: str,
    now: datetime,
    expires_at: datetime | None = None,
) -> None:
    """Add a machine's key; `tenant_id` None makes it global, `scopes` are separated by spaces."""
    row = {
        "key_id": key_id,
        "secret_hash": secret_hash,
        "name": name,
        "tenant_id": tenant_id,
        "scopes": scopes,
        "created_at": now,
        "expires_at": expires_at,
    }
    insert_rows(conn, _KEY, [row])


def find_key(conn: Connection, key_id: str) -> Row[Any] | None:
    """A key by id, also a revoked one; `tenant_disabled_at` says whether its clinic is closed."""
    query = (
        select(_KEY, _TENANT.c.disabled_at.label("tenant_disabled_at"))
        .outerjoin(_TENANT, _TENANT.c.tenant_id == _KEY.c.tenant_id)
        .where(_KEY.c.key_id == key_id)
    )
    return conn.execute(query).first()


def list_keys(conn: Connection, tenant_id: str | None = None) -> Sequence[Row[Any]]:
    """Every key (of one clinic, if named), oldest first; hashes only."""
    query = select(_KEY).order_by(_KEY.c.created_at, _KEY.c.key_id)
    return conn.execute(query if tenant_id is None else query.where(_KEY.c.tenant_id == tenant_id)).all()


def revoke_key(conn: Connection, key_id: str, now: datetime) -> bool:
    """Make a key useless from now on; returns whether it was good until now."""
    query = update(_KEY).where(_KEY.c.key_id == key_id, _KEY.c.revoked_at.is_(None)).values(revoked_at=now)
    return conn.execute(query).rowcount == 1


def expire_key(conn: Connection, key_id: str, at: datetime) -> None:
    """Let a key end at a moment."""
    conn.execute(update(_KEY).where(_KEY.c.key_id == key_id).values(expires_at=at))


def touch_keys(conn: Connection, key_ids: Iterable[str], now: datetime) -> None:
    """Note that keys are in use; the newest note wins."""
    ids = sorted(set(key_ids))
    if ids:
        used = func.coalesce(_KEY.c.last_used_at, _KEY.c.created_at)
        conn.execute(update(_KEY).where(_KEY.c.key_id.in_(ids), used <= now).values(last_used_at=now))
