"""New identifiers: UUID version 7 (RFC 9562), time-ordered, as 32 hex characters."""

import random
import secrets
import time

_dice = random.Random(secrets.randbits(256))  # unique, not secret: tokens come from app.credentials


def new_id() -> str:
    """A fresh id; ids made later on one machine sort later (millisecond steps). The time in it decides nothing."""
    ms = time.time_ns() // 1_000_000
    dice = _dice.getrandbits(74)
    value = (ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (dice >> 62) << 64 | 0b10 << 62 | dice & (1 << 62) - 1
    return f"{value:032x}"
