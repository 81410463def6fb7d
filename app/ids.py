"""New identifiers: UUID version 7 (RFC 9562), time-ordered, as 32 hex characters."""

import secrets
import time


def new_id() -> str:
    """A fresh id; ids made later on one machine sort later (millisecond steps). The time in it decides nothing."""
    ms = time.time_ns() // 1_000_000
    value = (ms & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"
