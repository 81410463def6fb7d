"""What may be shown of a channel's target: its kind, and enough of the address to recognise it. Never a secret."""

import hashlib
from typing import Final
from urllib.parse import urlsplit

from app.channels.factory import PROVIDERS

_HOST_IS_PUBLIC: Final = frozenset({"webhook", "json", "jsons", "form", "forms", "xml", "xmls", "http", "https"})
"""Schemes whose host names a server and hides nothing; elsewhere the host may be a token."""


def kind_of(spec: str) -> str:
    """The kind of a channel without its address."""
    return spec.strip().partition(":")[0].lower()[:20]


def shown(spec: str) -> str:
    """`whatsapp:+55...4321`, `simulator:ops`, `json:alerts.example.com`, `tgram:#1f2e3d` (a digest, to tell two apart)."""
    scheme, _, rest = spec.strip().partition(":")
    scheme = scheme.lower()[:20]
    if scheme == "simulator":
        return f"simulator:{rest.strip('/')[:60]}"
    if scheme in PROVIDERS and not rest.startswith("//"):
        return f"{scheme}:{rest[:3]}...{rest[-4:]}" if len(rest) >= 8 else f"{scheme}:"
    if scheme in _HOST_IS_PUBLIC:
        try:
            host = urlsplit(rest if scheme == "webhook" else spec).hostname
        except ValueError:
            host = None
        if host:
            return f"{scheme}:{host[:80]}"
    return f"{scheme}:#{hashlib.sha256(spec.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
