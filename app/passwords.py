"""Which passwords are refused: too short, too long, or known from leaks.

Leaks are files of SHA-1 hashes, one a line, upper case, sorted (`HASH` or `HASH:COUNT`, the form in which Have I Been Pwned
publishes its list). A short one of common passwords that pass the length rule comes with the product; a larger one is named by
KORA_BREACH_LIST. A file is searched by halving, never loaded, so its size does not matter. Call `fault` in a thread.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

from app.credentials import PASSWORD_MAX_CHARS
from app.errors import ConfigError

PASSWORD_MIN_CHARS: Final = 12

TOO_SHORT: Final = "too_short"
TOO_LONG: Final = "too_long"
BREACHED: Final = "breached"

SENTENCES: Final = {
    TOO_SHORT: f"a password needs at least {PASSWORD_MIN_CHARS} characters",
    TOO_LONG: f"a password has at most {PASSWORD_MAX_CHARS} characters",
    BREACHED: "this password is known from leaks; choose another one",
}
"""What the command line says."""

SHIPPED: Final = Path(__file__).parent / "breached.txt"
_HASH_CHARS: Final = 40


def fault(password: str, breach_list: str | None = None) -> str | None:
    """Why a password is refused (TOO_SHORT, TOO_LONG, BREACHED), or None; `breach_list` is the path of a further file.

    Raises ConfigError when that file cannot be read: a list that is not looked at protects nobody.
    """
    if len(password) < PASSWORD_MIN_CHARS:
        return TOO_SHORT
    if len(password) > PASSWORD_MAX_CHARS:
        return TOO_LONG
    # as typed, and in small letters: a capital in front makes no other password of a leaked one
    hashes = {hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().upper() for text in (password, password.lower())}
    files = [SHIPPED] if breach_list is None else [SHIPPED, Path(breach_list)]
    try:
        return BREACHED if any(_listed(file, wanted) for file in files for wanted in hashes) else None
    except OSError as error:
        raise ConfigError(f"KORA_BREACH_LIST: cannot be read ({error.strerror})") from error


def _listed(file: Path, wanted: str) -> bool:
    """Whether a sorted file has a line that begins with the hash."""
    needle = wanted.encode()
    with file.open("rb") as lines:
        low, high = 0, lines.seek(0, os.SEEK_END)
        # a line that begins with the hash starts in [low, high)
        while low < high:
            middle = (low + high) // 2
            lines.seek(middle)
            if middle:
                lines.seek(middle - 1)
                lines.readline()
            start = lines.tell()
            line = lines.readline()
            if start >= high or not line:
                high = middle
            elif line[:_HASH_CHARS].upper() < needle:
                low = lines.tell()
            elif line[:_HASH_CHARS].upper() == needle:
                return True
            else:
                high = middle
    return False
