"""What a look through the outbox found, kept for a moment: a look costs what the backlog is long.

Rounds are served from what was found until the next look. The longer looks take the rarer they become, so that however much
waits for a provider that was away, looking through it takes no more than a share of the time. What is kept is not trusted:
each delivery is claimed by comparison before it is sent.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from app.store.outbox import Backlog, Due

SHARE: Final = 10
"""A look that took a second would be followed by the next one ten seconds later, were it not for `PAUSE_MAX_S`."""
PAUSE_MAX_S: Final = 0.5
"""What is new waits no longer than this for being seen."""


class Lookahead:
    """The deliveries found and not taken yet, in their order, and the backlog's numbers of the same look."""

    def __init__(self) -> None:
        self.backlog: Backlog | None = None
        self._found: list[Due] = []
        self._next_at = float("-inf")

    @property
    def pause_s(self) -> float:
        """Real seconds until the next look; 0 when it is due."""
        return max(0.0, self._next_at - time.monotonic())

    def looked(self, backlog: Backlog, found: Sequence[Due], took_s: float) -> None:
        """Keep what a look found that took so long; what an earlier one found is forgotten."""
        self.backlog, self._found = backlog, list(found)
        self._next_at = time.monotonic() + min(PAUSE_MAX_S, SHARE * took_s)

    def __iter__(self) -> Iterator[Due]:
        return iter(self._found)

    def drop(self, outbox_ids: set[str]) -> None:
        """These were taken up."""
        if outbox_ids:
            self._found = [delivery for delivery in self._found if delivery.outbox_id not in outbox_ids]
