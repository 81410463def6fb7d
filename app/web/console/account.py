"""My account: where I am signed in, and my password."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from app.credentials import sha256
from app.passwords import PASSWORD_MIN_CHARS
from app.store import accounts
from app.web.console.visit import Visit
from app.web.i18n import mark

DONE: Final[Mapping[str, str]] = {
    "end_session": mark("This session has ended."),
    "end_others": mark("All your other sessions have ended."),
    "change_password": mark("Your password is changed. All your other sessions have ended."),
}
REFUSED: Final[Mapping[str, str]] = {
    "wrong": mark("The current password is wrong. Nothing was changed."),
    "locked": mark("Too many wrong passwords: wait a few minutes. Nothing was changed."),
    "twice": mark("The two new passwords differ. Nothing was changed."),
    "same": mark("The new password is the old one. Nothing was changed."),
    "gone": mark("This session was over already."),
}

_BROWSERS: Final = (("Edg", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrom", "Chrome"), ("Safari/", "Safari"))
"""Parts of what a browser says about itself; the first that fits, since each pretends to be the next."""
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLine:
    """One signed-in browser; `ref` names it in a form."""

    ref: str
    browser: str
    address: str
    since: datetime
    seen_at: datetime
    expires_at: datetime
    this: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Context of the fragment `account`."""

    name: str
    email: str
    sessions: tuple[SessionLine, ...]
    others: int
    min_chars: int
    done: str
    csrf: str


def load_account(conn: Connection, visit: Visit) -> Account:
    """The person's own sessions, this one first."""
    rows = accounts.sessions_of_user(conn, visit.person.id, visit.words.now)
    lines = [
        SessionLine(
            ref=session_ref(row.key_hash),
            browser=browser_name(row.user_agent) or visit.words.text("an unknown browser"),
            address=row.address or "-",
            since=row.created_at,
            seen_at=row.seen_at,
            expires_at=row.expires_at,
            this=row.key_hash == visit.person.session_hash,
        )
        for row in rows
    ]
    lines.sort(key=lambda line: not line.this)
    done = visit.one("done", 40)
    return Account(
        name=visit.person.name,
        email=visit.person.email,
        sessions=tuple(lines),
        others=sum(not line.this for line in lines),
        min_chars=PASSWORD_MIN_CHARS,
        done=visit.words.text(DONE[done]) if done in DONE else "",
        csrf=visit.csrf_token,
    )


def session_ref(key_hash: str) -> str:
    """A name for a session that gives nothing of it away."""
    return sha256(f"session:{key_hash}")[:16]


def browser_name(user_agent: str) -> str:
    """`Firefox, Windows`; empty when it cannot be told."""
    parts = [next((name for part, name in known if part in user_agent), "") for known in (_BROWSERS, _SYSTEMS)]
    return ", ".join(part for part in parts if part)
