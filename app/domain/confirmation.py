"""Explicit confirmation: only an unambiguous CONFIRMAR / CONFIRMADO / CONFIRMA counts (contract section 6)."""

import unicodedata
from typing import Final

CONFIRMING_WORDS: Final = frozenset({"confirmar", "confirmado", "confirma"})
_TRAILING: Final = ".!,;:"
_LONGEST: Final = 64
"""Longer texts are not read further: no confirmation is that long."""


def is_explicit_confirmation(text: str) -> bool:
    """Whether the whole message is one of the three words.

    Case and accents are folded, white space around and punctuation behind are tolerated. A question mark is a question, not
    a confirmation; "ok", "sim", emoji and longer sentences never count.
    """
    if len(text) > _LONGEST:
        return False
    return fold(text).rstrip(_TRAILING + " ") in CONFIRMING_WORDS


def fold(text: str) -> str:
    """Lower case without accents, compatibility forms (full-width letters) resolved, runs of white space as one space."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(c for c in decomposed if not unicodedata.combining(c)).split())
