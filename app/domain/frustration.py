"""Frustration (F-04): a family that writes again and again and is not understood gets a person.

Our own triage does not see everything that the orchestrator understands, so a message counts only while nothing came of
it: a command, an intent that triage knows, or a closed takeover starts the count anew. Small talk neither counts nor resets.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.confirmation import fold
from app.domain.triage import Intent

COMPLAINT_WEIGHT: Final = 2
"""A complaint says it in so many words: it counts as two messages."""

_SMALL_TALK: Final = re.compile(
    r"(?:ok(?:ay)?|o?brigad[oa]s?|obg|vlw|valeu|sim|nao|isso|certo|ta(?: bom| certo)?|tudo bem|combinado|beleza|blz"
    r"|perfeito|otimo|legal|por nada|de nada|ate (?:logo|mais|amanha)|tchau|um momento|so um minuto|ja volto|kk+|rs+)"
    r"(?:[ ,.!?]+(?:ok|obrigad[oa]|muito obrigad[oa]|valeu|sim|ta bom|tchau|ate logo|ate mais))*[ ,.!?]*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrustrationPolicy:
    """`messages` in a row without being understood, within `window`, open a takeover; 0 = never."""

    messages: int = 3
    window: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message of the family, in sequence."""

    at: datetime
    intent: str | None
    text: str


def weight(said: Said) -> int | None:
    """How much a message counts; None for one that was understood, which starts the count anew."""
    if said.intent == Intent.COMPLAINT:
        return COMPLAINT_WEIGHT
    if said.intent == Intent.GREETING:
        return 0
    if said.intent not in (Intent.OTHER, None):
        return None
    folded = fold(said.text)
    return 0 if not folded or _SMALL_TALK.fullmatch(folded) else 1


def is_frustrated(said: Iterable[Said], now: datetime, policy: FrustrationPolicy) -> bool:
    """Whether these messages, oldest first, are enough that a person must take over. The last of them must count itself."""
    count, last = 0, 0
    for message in said:
        if now - message.at > policy.window:
            continue
        found = weight(message)
        count = 0 if found is None else count + found
        last = found or 0
    return policy.messages > 0 and last > 0 and count >= policy.messages


def frustration_policy(document: Mapping[str, Any]) -> FrustrationPolicy:
    """The policy out of the settings' `frustration` (`messages`, `window_min`)."""
    given = document.get("frustration") or {}
    plain = FrustrationPolicy()
    minutes = given.get("window_min")
    return FrustrationPolicy(
        messages=int(given.get("messages", plain.messages)),
        window=plain.window if minutes is None else timedelta(minutes=float(minutes)),
    )
