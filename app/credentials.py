"""Secrets that people and machines show to get in: how they are made, hashed and compared; no storage, no framework.

Passwords are hashed with argon2id (slow on purpose: call `hash_password` and `verify_password` in a thread). API keys and
session cookies are random and long, so a plain SHA-256 of them is enough to keep the database useless to a thief.
"""

import hashlib
import hmac
import secrets
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

PASSWORD_MAX_CHARS: Final = 1024
"""Longer ones are refused before they are hashed."""

_HASHER: Final = PasswordHasher()
_KEY_PREFIX: Final = "kora"


def new_key_id() -> str:
    """A fresh id for a machine's key; it is no secret."""
    return secrets.token_hex(6)


def is_key_id(text: str) -> bool:
    """Whether a text has the form of `new_key_id`."""
    return len(text) == 12 and all(c in "0123456789abcdef" for c in text)


def new_api_key(key_id: str | None = None) -> tuple[str, str, str]:
    """A fresh machine key: `(key_id, token, secret_hash)`; only the token is secret, and it is shown once."""
    key_id, secret = key_id or new_key_id(), secrets.token_hex(24)
    return key_id, f"{_KEY_PREFIX}_{key_id}_{secret}", sha256(secret)


def parse_api_key(token: str) -> tuple[str, str] | None:
    """`(key_id, secret_hash)` of a token as it came in a header; None when it does not have the form of one."""
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != _KEY_PREFIX or not key_id or not secret or len(token) > 200:
        return None
    return key_id, sha256(secret)


def new_cookie_token() -> tuple[str, str]:
    """A fresh random cookie value and its hash, under which it is stored."""
    token = secrets.token_urlsafe(32)
    return token, sha256(token)


def new_ack_token(secret_key: str) -> tuple[str, str]:
    """A fresh token for a link that acknowledges an alert, signed by this installation, and its hash."""
    secret = secrets.token_urlsafe(24)
    token = f"{secret}.{bound_token(secret_key, 'ack', secret)[:16]}"
    return token, sha256(token)


def is_ack_token(secret_key: str, token: str) -> bool:
    """Whether a token was made by `new_ack_token` of this installation; says nothing about what it is good for."""
    secret, _, signature = token.partition(".")
    return len(token) <= 100 and token.isascii() and same(signature, bound_token(secret_key, "ack", secret)[:16])


def sha256(text: str) -> str:
    """SHA-256 of a text, as 64 hex characters."""
    return hashlib.sha256(text.encode()).hexdigest()


def bound_token(secret_key: str, purpose: str, value: str) -> str:
    """A token that only we can make and that is good for one purpose and one value (CSRF)."""
    return hmac.new(secret_key.encode(), f"{purpose}:{value}".encode(), hashlib.sha256).hexdigest()


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def hash_password(password: str) -> str:
    """The argon2id hash of a password; takes tens of milliseconds."""
    return _HASHER.hash(password)


def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether the password fits; with no hash (nobody of that name) it takes the same time and says no."""
    try:
        _HASHER.verify(password_hash or _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return False
    return password_hash is not None


_NOBODY: Final = _HASHER.hash(secrets.token_hex(16))
"""Hash of a password that nobody knows: checking a stranger costs what checking a person costs."""
