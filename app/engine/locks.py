"""Per-contact locks for a whole batch (S-PC-05-001).

`DatabaseLocks` is the normal mode without Redis; with Redis it is the fallback. A lock only saves work: two nodes that both
believe to own a lane still meet in the compare-and-set of `store.ledger.apply`.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

from app.clock import Clock
from app.domain.states import LockResult
from app.ids import new_id
from app.store.database import Database
from app.store.locks import acquire_locks, release_locks

LOCK_TTL_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Locks that one attempt owns: `keys` of those asked for, by which backend, in how many milliseconds."""

    token: str
    keys: frozenset[str]
    backend: LockResult
    mode: str
    """primary | fallback | database."""
    ms: float

    @property
    def in_rows(self) -> bool:
        """Whether the locks are rows of the database, which a commit there can give back."""
        return self.mode != "primary"

    def only(self, keys: Collection[str]) -> "Grant":
        """The same with only those of the locks."""
        return replace(self, keys=self.keys.intersection(keys))


class LaneLocks(Protocol):
    """What the committer needs."""

    @property
    def mode(self) -> str:
        """Which backend grants now: primary | fallback | database."""
        ...

    async def acquire(self, keys: Sequence[str]) -> Grant:
        """Take as many of `keys` as are free; never waits for another owner."""
        ...

    async def release(self, grant: Grant) -> None:
        """Give them back (only while still owned)."""
        ...


class DatabaseLocks:
    """Locks as rows: the same semantics as on Redis (owner token, TTL, compare-and-delete)."""

    def __init__(self, database: Database, clock: Clock, *, mode: str = "database", node_id: str | None = None) -> None:
        self._mode, self._node_id = mode, node_id
        self._database, self._clock = database, clock

    @property
    def mode(self) -> str:
        """The mode that these locks were made for."""
        return self._mode

    async def acquire(self, keys: Sequence[str]) -> Grant:
        """Take the free ones."""
        token, started = new_id(), time.perf_counter()
        now = self._clock.now()
        expires_at = now + timedelta(seconds=LOCK_TTL_S * self._clock.scale)
        taken = await self._database.jot(acquire_locks, list(keys), token, now, expires_at, self._node_id)
        backend = LockResult.LOCK_ACQUIRED_FALLBACK if self.mode == "fallback" else LockResult.LOCK_ACQUIRED_PRIMARY
        ms = (time.perf_counter() - started) * 1000
        return Grant(token=token, keys=frozenset(taken), backend=backend, mode=self.mode, ms=ms)

    async def release(self, grant: Grant) -> None:
        """Give them back."""
        if grant.keys:
            await self._database.jot(release_locks, list(grant.keys), grant.token)
