"""What must not leave the product in a log line or an evidence pack: phones, names, texts, secrets, tokens.

Two nets, because one is never enough: fields are redacted by their name, and every remaining string by pattern. The
result keeps its shape, so that a person can still see that something was there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

REDACTED: Final = "[redacted]"
NAME: Final = "[name]"
"""What stands where a known person's name or number was typed."""
DEPTH_MAX: Final = 8
ITEMS_MAX: Final = 200
SHORT: Final = 64
"""Characters up to which a string's result is remembered."""

_KEYS: Final = frozenset(
    "phone wa_id jid remotejid remotejidalt sender sender_pn sender_lid recipient recipient_id target to from "
    "name profile_name pushname patient_name contact_name user_name full_name sendername "
    "text body caption conversation payload raw message_text note title "
    "password secret token authorization cookie apikey api_key access_token app_secret verify_token signature "
    "credentials email headers otp".split()
)
_ENDINGS: Final = ("_phone", "_text", "_token", "_secret", "_password", "_email", "_payload", "_body", "_json", "_cookie")

_PATTERNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # a database driver's words about the row that it refused
    (re.compile(r"\[parameters: .*"), "[parameters: [redacted]]"),
    (re.compile(r"\bDETAIL:.*"), "DETAIL: [redacted]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{6,}"), r"\1 [token]"),
    (re.compile(r"\bsha256=[0-9a-fA-F]{16,}"), "sha256=[signature]"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), "[token]"),
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), "://[secret]@"),
    (re.compile(r"(?i)([?&;](?:token|key|secret|apikey|access_token|password|hub\.verify_token)=)[^&;\s\"']+"), r"\1[token]"),
    (re.compile(r"(/ack/)[\w~.-]{8,}"), r"\1[token]"),
    (re.compile(r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b"), "[document]"),
    # `5511987654321@s.whatsapp.net` before the e-mail pattern, which would take it for an address
    (re.compile(r"(?<![\w.])\d{8,20}(?::\d+)?@(?:s\.whatsapp\.net|c\.us|g\.us|lid)\b"), "[phone]"),
    (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"), "[email]"),
    (re.compile(r"(?<![\w.])\+\d[\d ().-]{7,18}\d(?!\w)"), "[phone]"),
    (re.compile(r"(?<![\w.-])55\d{10,11}(?![\w-])"), "[phone]"),
    (re.compile(r"(?<![\w.-])\(?\d{2}\)?[ -]?9\d{4}[ -]?\d{4}(?![\w-])"), "[phone]"),
    (re.compile(r"\(\d{2}\) ?\d{4}-?\d{4}(?!\w)"), "[phone]"),
)

_PLAIN: Final = re.compile(
    r"(?:[A-Za-z_][A-Za-z0-9_-]*|[0-9a-f]{32}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z)\Z"
)
"""What nearly every field holds: a state, an id, a time. No pattern matches in one of these, so none is tried."""


def is_private(key: str) -> bool:
    """Whether a field of this name is redacted whole."""
    name = key.lower()
    return name in _KEYS or name.endswith(_ENDINGS)


def is_open(names: Iterable[str]) -> bool:
    """Whether none of these fields is redacted by its name, and each name is shown as it is."""
    return all(_field(name) == (name, False) for name in names)


def is_word(text: str) -> bool:
    """Whether a text is so plainly a name of ours (letters, then letters, digits, `_` and `-`) that no pattern matches in it.

    Says less than the patterns do, and takes a fraction of their time.
    """
    return text.isascii() and text.replace("-", "_").isidentifier()


def redact_text(text: str) -> str:
    """`text` with everything that looks like a phone, an address, a document or a secret replaced by its kind."""
    if _PLAIN.match(text):
        return text
    return _redact_short(text) if len(text) <= SHORT else _redact(text)


def _redact(text: str) -> str:
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


# states, event names, tenants, contacts: the same few words in line after line
_redact_short = lru_cache(maxsize=8_192)(_redact)


@lru_cache(maxsize=1_024)
def _field(key: str) -> tuple[str, bool]:
    """A field's name as it is shown, and whether what it holds is redacted whole."""
    return redact_text(key), is_private(key)


def _shown(value: Any, hidden: bool, depth: int) -> Any:
    """What stands in a field; nearly always a text, a number or nothing."""
    if hidden:
        return value if value in (None, "") else REDACTED
    if value is None or type(value) is int:
        return value
    return redact_text(value) if type(value) is str else redact(value, depth=depth)


def redact(value: Any, *, depth: int = 0) -> Any:
    """A copy of a JSON-like value without private fields; cut where it is too deep or too long to be a log field."""
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= DEPTH_MAX:
        return "[too deep]"
    if isinstance(value, Mapping):
        return {name: _shown(v, hidden, depth + 1) for k, v in value.items() for name, hidden in (_field(str(k)),)}
    if isinstance(value, list | tuple | set | frozenset):
        shown = [redact(v, depth=depth + 1) for v in list(value)[:ITEMS_MAX]]
        return shown if len(value) <= ITEMS_MAX else [*shown, f"[{len(value) - ITEMS_MAX} more]"]
    return redact_text(str(value))


def names_pattern(private: Sequence[str], *, whole: bool = False) -> re.Pattern[str] | None:
    """Matches a known name or number outside of ids, and each longer word of a name unless `whole`; None without any."""
    words = {word for name in private for word in ((name,) if whole else (name, *name.split())) if len(word) >= 3}
    if not words:
        return None
    longest = sorted(words, key=lambda w: (-len(w), w))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(re.escape(w) for w in longest)})(?![\w-])", re.IGNORECASE)


def without_names(value: Any, names: re.Pattern[str] | None) -> Any:
    """A JSON-like value with `[name]` for every name that matches, and no number, address or secret in its texts."""
    if isinstance(value, str):
        told = redact_text(value)
        return told if names is None else names.sub(NAME, told)
    if isinstance(value, Mapping):
        return {k: without_names(v, names) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_names(v, names) for v in value]
    return value
