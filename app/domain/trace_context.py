"""W3C Trace Context on top of correlation ids: one correlation id is one trace, in every process, without anything stored.

A correlation id that is a trace id (32 hex digits) is that trace; any other one is named by its SHA-256. So what happened to a
request hours ago and what happens to it now stand in the same trace, and a caller's own trace goes on through us.
"""

import re
from hashlib import sha256
from typing import Final

_PARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_TRACE: Final = re.compile(r"[0-9a-f]{32}")
_NONE: Final = "0" * 32


def trace_id_of(correlation_id: str) -> str:
    """The trace of a correlation id, as 32 hex digits."""
    if _TRACE.fullmatch(correlation_id) and correlation_id != _NONE:
        return correlation_id
    return sha256(correlation_id.encode()).hexdigest()[:32]


def span_id_of(*parts: str) -> str:
    """A span's id, as 16 hex digits: the same for the same parts, so that a repeated attempt names the same span."""
    return sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def traceparent(correlation_id: str, span_id: str) -> str:
    """The header that hands a trace over: version 00, sampled."""
    return f"00-{trace_id_of(correlation_id)}-{span_id}-01"


def trace_in(header: str) -> str | None:
    """The trace id that a caller's `traceparent` names; None for one that cannot be used."""
    found = _PARENT.fullmatch(header.strip().lower())
    if found is None or header.strip().lower().startswith("ff-") or found[1] == _NONE or found[2] == "0" * 16:
        return None
    return found[1]
