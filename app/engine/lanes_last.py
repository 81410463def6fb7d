"""When a transaction may lock its lanes last.

Commits and acceptances need the same lane rows. Locked first, a row is held for the whole transaction; locked last, for a
moment, but a transaction that finds a lane changed by then is lost. So after a loss lanes are locked first for a while.
"""

import time
from dataclasses import dataclass, field
from typing import Final

FIRST_FOR_S: Final = 1.0


@dataclass(slots=True)
class LanesLast:
    """Of the loops of one kind in a process."""

    wanted: bool
    """False where only one transaction writes at a time anyway."""
    _not_before: float = field(default=float("-inf"), init=False)
    """Monotonic."""

    @property
    def may(self) -> bool:
        """Whether to try."""
        return self.wanted and not self.careful

    @property
    def careful(self) -> bool:
        """Whether a race was lost a moment ago."""
        return time.monotonic() < self._not_before

    def lost(self) -> None:
        """Somebody else was at one of the lanes."""
        self._not_before = time.monotonic() + FIRST_FOR_S
