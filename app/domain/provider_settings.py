"""Settings of providers and addresses that could never work: said when they are saved, not when a family waits for words.

`faults` gives (JSON pointer, sentence) pairs like its siblings (`app.domain.opening_hours`, `app.domain.retention`). Whether a
channel can be built out of its words is asked where channels are (`app.engine.channel_book`).
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

PROVIDERS: Final = ("whatsapp", "evolution", "uazapi")
TEXT_MAX: Final = 2_000
SECRET_MIN: Final = 16
MASK: Final = "***"
"""Stands for a secret that is shown, and in a patch for the one that is stored."""
ENTRIES_MAX: Final = 200
WORDS: Final = frozenset(
    {
        "app_secret",
        "verify_token",
        "phone_number_id",
        "access_token",
        "base_url",
        "secret",
        "instance",
        "api_key",
        "token",
        "alert_template",
        "message_template",
        "template_language",
    }
)
"""Names in a provider's section that are read as texts; a number there would count as not set."""

_PHONE = re.compile(r"\+?[0-9 ()./-]{3,40}")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,62}[a-z0-9_])?)*\.?", re.IGNORECASE)


def faults(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with one setting of this kind; nothing for every other setting. `value` has the setting's own type."""
    if key in PROVIDERS:
        yield from _section_faults(key, value)
    elif key == "phone" and not (_PHONE.fullmatch(value) and sum(c.isdigit() for c in value) >= 3):
        yield "/phone", "must be a phone number as families dial it, such as +55 11 3000-0000"
    elif key == "webhook_url" and value and not (len(value) <= TEXT_MAX and _is_plain_url(value)):
        yield "/webhook_url", "must be an address that begins with https:// or http://, without a password in it"
    elif key == "webhook_secret" and not (SECRET_MIN <= len(value) <= TEXT_MAX or value == MASK):
        yield "/webhook_secret", f"must be a text of at least {SECRET_MIN} characters"
    elif key == "outbound_allow":
        yield from _list_faults("/outbound_allow", value, _is_host_or_network, "must be a host name, an address or a network")


def _section_faults(key: str, section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        pointer = f"/{key}/{name[:60]}"
        if value is None:
            continue
        if name in WORDS and not (isinstance(value, str) and len(value) <= TEXT_MAX):
            yield pointer, f"must be a text of up to {TEXT_MAX} characters"
        elif name == "base_url" and value and not _is_http_url(value):
            yield pointer, "must be an address that begins with https:// or http://"
        elif name == "allowed_addresses":
            yield from _list_faults(pointer, value, _is_network, "must be an address or a network, such as 203.0.113.0/24")


def _list_faults(pointer: str, value: object, good: Callable[[str], bool], sentence: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, list) or len(value) > ENTRIES_MAX:
        yield pointer, f"must be a list of up to {ENTRIES_MAX} entries"
        return
    for index, entry in enumerate(value):
        if not (isinstance(entry, str) and good(entry)):
            yield f"{pointer}/{index}", sentence


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_host_or_network(text: str) -> bool:
    return _is_network(text) or (len(text) <= 253 and _HOST.fullmatch(text) is not None)


def _is_plain_url(text: str) -> bool:
    return _is_http_url(text) and "@" not in urlsplit(text).netloc


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
