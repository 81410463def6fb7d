"""What the dispatch loops of one process have in common, and what wakes them.

A clinic is with one loop at a time. Lanes that have just got commands are told apart from everything else that wakes a loop:
where they are all there is to do, nobody has to look for them.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Final

from app.store.lanes import LaneKey

HEARD_MAX: Final = 8
"""With more lanes than this at once a loop looks which of them come first."""


class Reason(IntEnum):
    """Why a loop is woken; a wider one covers a narrower."""

    NONE = 0
    HEARD = 1
    LANES = 2
    ANYTHING = 3


class Wake(asyncio.Event):
    """Set for anything, of any clinic (`set`), for more lanes than can be named (`look`), or for lanes that are known (`hear`)."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = Reason.ANYTHING

    def set(self) -> None:
        """Wake, to look."""
        self._wake(Reason.ANYTHING)

    def look(self) -> None:
        """Wake, to look for lanes of clinics that no loop is at."""
        self._wake(Reason.LANES)

    def hear(self) -> None:
        """Wake, for what was heard."""
        self._wake(Reason.HEARD)

    def _wake(self, reason: Reason) -> None:
        self.reason = max(self.reason, reason)
        super().set()

    def why(self) -> Reason:
        """The reason of the round that begins: the widest of all since the last one."""
        reason, self.reason = self.reason, Reason.NONE
        return reason


@dataclass(slots=True)
class SideBySide:
    """Moments are monotonic, but for `due`."""

    in_hand: set[str] = field(default_factory=set)
    """Clinics that a loop is at."""
    served_until: dict[str, float] = field(default_factory=dict)
    """Clinics that were served a moment ago, and until when they count as at work."""
    flooding_until: dict[str, float] = field(default_factory=dict)
    """Clinics that flooded a moment ago, and until when they count as flooding."""
    refused: dict[LaneKey, int] = field(default_factory=dict)
    """Lanes whose plan the database refused, and how often."""
    elsewhere: dict[LaneKey, float] = field(default_factory=dict)
    """Lanes that another node was at, and until when they are left to it."""
    alone: dict[LaneKey, float] = field(default_factory=dict)
    """Lanes that cannot be served as they are, and until when nobody tries again."""
    due: datetime | None = None
    """When the earliest lane that waits for its time wants to be looked at, as far as is known."""
    heard: set[LaneKey] = field(default_factory=set)
    """Lanes that got commands and that no look has covered since."""
    overlooked: set[str] = field(default_factory=set)
    """Clinics that a loop is at and that have to be looked at afterwards: another one's look left them out."""
    others: int = 0
    """Rounds under way that are no flood's."""
    calm: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while there is none of them, and none to come for what has arrived."""
    fallback: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Rounds under the fallback lock take turns: what its limits leave is known after each."""

    def __post_init__(self) -> None:
        self.calm.set()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A round that is no flood's."""
        self.others += 1
        self.calm.clear()
        try:
            yield
        finally:
            self.others -= 1

    def expire(self, now: float) -> None:
        """Forget what is over."""
        self.served_until = {tenant: until for tenant, until in self.served_until.items() if until > now}
        self.flooding_until = {tenant: until for tenant, until in self.flooding_until.items() if until > now}
        self.elsewhere = {key: until for key, until in self.elsewhere.items() if until > now}
        self.alone = {key: until for key, until in self.alone.items() if until > now}

    def hear(self, lanes: Collection[LaneKey]) -> bool:
        """Note lanes that got commands; False when they are too many, and have to be looked for."""
        self.heard |= set(lanes)
        if len(self.heard) <= HEARD_MAX:
            return True
        self.overlooked |= self.in_hand.intersection(tenant_id for tenant_id, _ in self.heard)
        self.heard.clear()
        return False

    def waiting(self) -> bool:
        """Whether a lane was heard of whose clinic no loop is at."""
        return any(tenant_id not in self.in_hand for tenant_id, _ in self.heard)

    def free(self) -> list[LaneKey]:
        """Lanes that were heard of and that a loop may serve at once: none of a flood, and none that is not to be tried now."""
        not_now = self.elsewhere.keys() | self.alone.keys()
        busy = self.in_hand | self.flooding_until.keys()
        return sorted(key for key in self.heard if key[0] not in busy and key not in not_now)

    def take(self, keys: Collection[LaneKey], until: float) -> set[str]:
        """A loop begins to serve these lanes; returns their clinics, which count as at work `until` then."""
        tenants = {tenant_id for tenant_id, _ in keys}
        self.heard.difference_update(keys)  # what has come so far will be read
        self.served_until |= dict.fromkeys(tenants, until)
        self.in_hand |= tenants
        return tenants

    def looking(self, *, asked: bool) -> None:
        """A look begins, which covers the clinics that no loop is at; `asked`: there may be something of the others too."""
        self.heard = {key for key in self.heard if key[0] in self.in_hand}
        if asked:
            self.overlooked |= self.in_hand

    def leave(self, tenants: Collection[str]) -> bool:
        """A loop is done with these clinics; whether a look left them out meanwhile."""
        self.in_hand.difference_update(tenants)
        left_out = not self.overlooked.isdisjoint(tenants)
        self.overlooked.difference_update(tenants)
        return left_out
