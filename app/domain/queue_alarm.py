"""When a clinic's queue is longer than it should be, and when it is well again. Pure."""

from dataclasses import dataclass
from typing import Final

CALM_SHARE: Final = 0.5
"""An alarm ends below this share of the length that began it, so that a queue at the edge does not ring again and again."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`size`: items that a clinic's queue takes; `alert_share`: share of them (0 to 1) from which somebody is told."""

    size: int
    alert_share: float

    @property
    def alert_at(self) -> int:
        """Items from which the queue alarms; one item at least."""
        return max(1, round(self.size * self.alert_share))


def alarmed(length: int, limits: QueueLimits, *, before: bool) -> bool:
    """Whether the queue alarms now, given whether it did; exactly at the threshold it does."""
    if before:
        return length >= max(1, limits.alert_at * CALM_SHARE)
    return length >= limits.alert_at
