"""Explicit confirmation: only an unambiguous CONFIRMAR / CONFIRMADO / CONFIRMA counts (contract section 6)."""

import re
import unicodedata
from typing import Final

from app.domain.envelopes import Command, sha256_hex

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


_COURTESY: Final = re.compile(
    r"(?:(?:(?:muito|mt|mto) )?(?:obrigad[oa]|obg|obgd|brigad[oa]|grat[oa]|agradecid[oa])|agradeco|valeu|vlw"
    r"|de nada|por favor|ate (?:la|logo|amanha|breve|mais)|bom dia|boa (?:tarde|noite|semana)|bom fim de semana"
    r"|oi+e?|ola|abracos?|beijos?|bjs?|perfeito|otimo|maravilha|combinado|tchau|deus abencoe)(?= |$)"
)
"""What is said beside a request and changes nothing about it. "ok" and "sim" are not here: they answer something."""
_SMILES: Final = re.compile(
    r"[\s.!,;:)(\U0001F600-\U0001F60A\U0001F60D\U0001F618\U0001F642\U0001F64C\U0001F64F\U0001F44D\U0001F44F\U0001F970\u2764\ufe0f\U0001F3FB-\U0001F3FF]+"
)
"""Punctuation, smiling faces, thumb up, hands, heart, tones of skin (not the gesture for "no")."""


def is_courtesy(text: str) -> bool:
    """Whether the whole message is thanks, a greeting or a goodbye: it neither confirms anything nor takes anything back.

    Closed lists, whole message: a word that is not known makes it a message that must be read.
    """
    if len(text) > _LONGEST:
        return False
    rest = _SMILES.sub(" ", fold(text)).strip()
    while rest:
        found = _COURTESY.match(rest)
        if found is None:
            return False
        rest = rest[found.end() :].strip()
    return bool(text.strip())


def confirming_id(tenant_id: str, proposed_id: str) -> str:
    """The id of the command that a CONFIRMAR for a proposed command makes: one for each proposal."""
    return sha256_hex(f"confirm:{tenant_id}:{proposed_id}")[:32]


def confirms(command: Command) -> bool:
    """Whether a family's CONFIRMAR made this command; `causation_id` is then the proposed one."""
    return command.causation_id is not None and command.command_id == confirming_id(command.tenant_id, command.causation_id)


def fold(text: str) -> str:
    """Lower case without accents, compatibility forms (full-width letters) resolved, runs of white space as one space."""
    folded = text.casefold()
    if folded.isascii():  # nothing to take apart
        return " ".join(folded.split())
    decomposed = unicodedata.normalize("NFKD", folded)
    return " ".join("".join(c for c in decomposed if not unicodedata.combining(c)).split())
