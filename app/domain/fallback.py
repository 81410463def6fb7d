"""Limits of the fallback lock (contract section 10): what a node still lets through while it runs without its primary locks.

Without Redis every lock is a row in the database that also writes the effects. So that an outage of the one does not become an
overload of the other, a node in the fallback applies a bounded number of side effects a second, and none on the agenda while
its locks are slow. What goes beyond is parked, in its place, and looked at again soon; it never fails.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.signals import percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackPolicy:
    """Numbers of one node. 100 effects a second are the peak of 330 clinics (18 messages a minute each)."""

    effects_per_second: int = 100
    lock_p95_max_ms: float = 1_200.0
    lock_window: timedelta = timedelta(seconds=30)
    least_locks: int = 5
    """Below so many samples there is no p95."""


class FallbackLimits:
    """Sliding windows over what one node did in the fallback; times are the clock's."""

    def __init__(self, policy: FallbackPolicy | None = None) -> None:
        self._policy = policy or FallbackPolicy()
        self._locks: deque[tuple[datetime, float]] = deque()
        self._effects: deque[tuple[datetime, int]] = deque()

    def locked(self, ms: float, now: datetime) -> None:
        """A batch of locks was asked for in the database and took `ms`."""
        self._locks.append((now, ms))

    def applied(self, effects: int, now: datetime) -> None:
        """So many side effects were written under a fallback lock."""
        if effects:
            self._effects.append((now, effects))

    def lock_p95_ms(self, now: datetime) -> float | None:
        """p95 of the window's locks in milliseconds; None with too few of them."""
        while self._locks and now - self._locks[0][0] > self._policy.lock_window:
            self._locks.popleft()
        if len(self._locks) < self._policy.least_locks:
            return None
        return percentile([ms for _, ms in self._locks], 0.95)

    def effects_left(self, now: datetime) -> int:
        """How many side effects may be written now; 0 while the locks are too slow."""
        while self._effects and now - self._effects[0][0] >= timedelta(seconds=1):
            self._effects.popleft()
        p95_ms = self.lock_p95_ms(now)
        if p95_ms is not None and p95_ms > self._policy.lock_p95_max_ms:
            return 0
        return max(0, self._policy.effects_per_second - sum(n for _, n in self._effects))
