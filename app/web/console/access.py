"""Users and keys: who may sign in and what for, which machines have a key; one of them in detail with what can be done to it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row

from app.credentials import new_key_id
from app.errors import NotFound
from app.passwords import BREACHED, PASSWORD_MIN_CHARS, TOO_LONG, TOO_SHORT
from app.store import access_acts as acts
from app.store import accounts
from app.store.access_acts import Refusal
from app.web.console.pages import ROLE_NAMES
from app.web.console.visit import Visit
from app.web.i18n import mark
from app.web.words import Words

SCOPE_NAMES: Final[Mapping[str, str]] = {
    "intake": mark("send messages and requests"),
    "read": mark("look at everything"),
    "operate": mark("operate (alerts, takeovers, replays)"),
    "admin": mark("administer (settings)"),
}
REFUSED: Final[Mapping[str, str]] = {
    Refusal.CHANGED: mark("Somebody changed this since you looked. Nothing was done; below is the current state."),
    Refusal.UNKNOWN: mark("This person or key does not exist."),
    Refusal.TAKEN: mark("Nothing was created: it exists already. If you sent the form twice, the first time counted."),
    Refusal.NO_CLINIC: mark("Choose at least one open clinic. Nothing was done."),
    Refusal.YOURSELF: mark("You cannot do this to your own account; another superadmin can. Nothing was done."),
    Refusal.LAST_SUPERADMIN: mark("This is the last superadmin: nobody could undo it. Nothing was done."),
    Refusal.WRONG_TIME: mark("The end must lie in the future, and not behind the end that the key has. Nothing was done."),
    "reason": mark("Say why; it stays in the audit trail. Nothing was done."),
    "confirm": mark("Confirm the effect by its tick. Nothing was done."),
    "name": mark("A name is missing. Nothing was done."),
    "email": mark("This is no e-mail address. Nothing was done."),
    "role": mark("Choose a role. Nothing was done."),
    "scopes": mark("Choose at least one thing that the key may do. Nothing was done."),
}
PASSWORD_FAULTS: Final[Mapping[str, str]] = {
    TOO_SHORT: mark("A password needs at least %(n)d characters. Nothing was changed."),
    TOO_LONG: mark("This password is too long. Nothing was changed."),
    BREACHED: mark("This password is known from leaks: choose another one. Nothing was changed."),
}
DONE: Final[Mapping[str, str]] = {
    "change_user": mark("Saved. The sessions of this person have ended; the new rights hold from the next sign-in."),
    "disable_user": mark("Disabled. This person is signed out everywhere and cannot sign in."),
    "enable_user": mark("Enabled. This person can sign in again with their password."),
    "end_sessions": mark("This person is signed out everywhere."),
    "revoke_key": mark("Revoked. Whoever uses this key is refused from now on."),
}
"""What a finished act says; those that show a secret say it with the secret."""
OVERLAP: Final = timedelta(days=7)
"""How long an old key lives beside the new one, unless another moment is chosen."""
LIST_MAX: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLine:
    """One person in the list."""

    user_id: str
    name: str
    email: str
    role: str
    clinics: str
    signed_in_at: datetime | None
    sessions: int
    disabled_at: datetime | None
    locked: bool
    url: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLine:
    """One key in the list; `state`: '', 'revoked', 'expired' or 'ends'."""

    key_id: str
    name: str
    clinic: str
    scopes: str
    state: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    url: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRows:
    """Context of the fragment `access_rows`: the people, or the keys."""

    keys: bool
    users: tuple[UserLine, ...]
    machines: tuple[KeyLine, ...]
    urls: dict[str, str]
    off: int
    """Disabled people, or keys that are no longer good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDetail:
    """Context of the fragment `access_detail`: forms for the chosen one, or for a new one."""

    keys: bool
    user: UserLine | None
    machine: KeyLine | None
    member_of: tuple[str, ...]
    seen: str
    yourself: bool
    roles: tuple[tuple[str, str], ...]
    scopes: tuple[tuple[str, str], ...]
    clinics: tuple[tuple[str, str], ...]
    new_key_id: str
    """Of a key that this page may make: the same form sent twice makes one key."""
    overlap_until: str
    zone: str
    action: str
    close_url: str
    done: str
    csrf: str


def load_access_rows(conn: Connection, visit: Visit) -> AccessRows:
    """Everybody, or every key; those that are good first."""
    keys = visit.one("tab") == "keys"
    machines = _machines(conn, visit) if keys else ()
    users = () if keys else _users(conn, visit)
    return AccessRows(
        keys=keys,
        users=users,
        machines=machines,
        urls={"users": visit.urls.to("/access"), "keys": visit.urls.to("/access", tab="keys")},
        off=sum(u.disabled_at is not None for u in users) + sum(m.state in ("revoked", "expired") for m in machines),
    )


def load_access_detail(conn: Connection, visit: Visit) -> AccessDetail:
    """The person or key that the address names, with what can be done; without one, the form for a new one. Raises NotFound."""
    words, keys = visit.words, visit.one("tab") == "keys"
    user_id, key_id = ("" if keys else visit.one("user", 40)), (visit.one("key", 40) if keys else "")
    user = machine = None
    seen = ""
    member_of: tuple[str, ...] = ()
    if user_id:
        row = accounts.find_user(conn, user_id)
        if row is None:
            raise NotFound("There is no such person.")
        user = _user(visit, row, accounts.tenants_of_user(conn, user_id), len(accounts.sessions_of_user(conn, user_id, words.now)))
        seen, member_of = acts.seen_of(acts.user_state(conn, row)), tuple(accounts.tenants_of_user(conn, user_id))
    if key_id:
        found = accounts.find_key(conn, key_id)
        if found is None:
            raise NotFound("There is no such key.")
        machine, seen = _machine(visit, found), acts.seen_of(acts.key_state(found))
    until = words.now + OVERLAP
    if machine is not None and machine.expires_at is not None:
        until = min(until, machine.expires_at)
    done = visit.one("done", 40)
    tab = "keys" if keys else ""
    return AccessDetail(
        keys=keys,
        user=user,
        machine=machine,
        member_of=member_of,
        seen=seen,
        yourself=user is not None and user.user_id == visit.person.id,
        roles=tuple((role, words.text(name)) for role, name in ROLE_NAMES.items()),
        scopes=tuple((scope, words.text(name)) for scope, name in SCOPE_NAMES.items()),
        clinics=tuple((c.tenant_id, c.name) for c in visit.clinics),
        new_key_id=new_key_id(),
        overlap_until=f"{words.local(until):%Y-%m-%dT%H:%M}",
        zone=words.zone.key,
        action=visit.urls.to("/access", tab=tab, user=user_id, key=key_id),
        close_url=visit.urls.to("/access", tab=tab),
        done=words.text(DONE[done]) if done in DONE else "",
        csrf=visit.csrf_token,
    )


def new_password() -> str:
    """A random password that can be read out: four groups of four."""
    letters = "abcdefghijkmnpqrstuvwxyz23456789"  # nothing that looks like something else
    return "-".join("".join(secrets.choice(letters) for _ in range(4)) for _ in range(4))


def password_said(words: Words, fault: str) -> str:
    """Why a password was refused."""
    text = PASSWORD_FAULTS[fault]
    return words.text(text, n=PASSWORD_MIN_CHARS) if fault == TOO_SHORT else words.text(text)


def _users(conn: Connection, visit: Visit) -> tuple[UserLine, ...]:
    sessions, member_of = accounts.count_sessions(conn, visit.words.now), accounts.list_memberships(conn)
    rows = sorted(accounts.list_users(conn), key=lambda r: (r.disabled_at is not None, r.name.casefold(), r.email))
    return tuple(_user(visit, r, member_of.get(r.user_id, []), sessions.get(r.user_id, 0)) for r in rows[:LIST_MAX])


def _user(visit: Visit, row: Row[Any], clinic_ids: list[str], sessions: int) -> UserLine:
    names = {c.tenant_id: c.name for c in visit.clinics}
    own = ", ".join(names.get(t, t) for t in clinic_ids)
    return UserLine(
        user_id=row.user_id,
        name=row.name,
        email=row.email,
        role=visit.words.text(ROLE_NAMES.get(row.role, row.role)),
        clinics=visit.words.text("All clinics") if row.role == "superadmin" else own or visit.words.text("No clinic"),
        signed_in_at=row.signed_in_at,
        sessions=sessions,
        disabled_at=row.disabled_at,
        locked=row.locked_until is not None and row.locked_until > visit.words.now,
        url=visit.urls.to("/access", user=row.user_id),
        chosen=visit.one("user", 40) == row.user_id,
    )


def _machines(conn: Connection, visit: Visit) -> tuple[KeyLine, ...]:
    lines = [_machine(visit, row) for row in accounts.list_keys(conn)]
    lines.sort(key=lambda k: (k.state in ("revoked", "expired"), k.name.casefold(), k.created_at))
    return tuple(lines[:LIST_MAX])


def _machine(visit: Visit, row: Row[Any]) -> KeyLine:
    words, names = visit.words, {c.tenant_id: c.name for c in visit.clinics}
    if row.revoked_at is not None:
        state = "revoked"
    elif row.expires_at is None:
        state = ""
    else:
        state = "ends" if row.expires_at > words.now else "expired"
    return KeyLine(
        key_id=row.key_id,
        name=row.name,
        clinic=words.text("All clinics") if row.tenant_id is None else names.get(row.tenant_id, row.tenant_id),
        scopes=row.scopes.replace(" ", ", "),
        state=state,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        url=visit.urls.to("/access", tab="keys", key=row.key_id),
        chosen=visit.one("key", 40) == row.key_id,
    )
