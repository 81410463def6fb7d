"""Which lane is served next, and which place in a lane a new item gets (S-PC-01-001).

Only lanes are ranked, never the commands inside one: whatever the priorities are, `commit_order` stays the only order in
which side effects happen.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from app.domain.reasons import Reason
from app.domain.states import State

GAP_MAX: Final = 1_000
"""How far beyond the last number a source may count ahead; more is a broken counter, not a late arrival."""


class LaneCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A contact's lane that could be served now.

    `best_rank` is the highest class waiting anywhere in the lane (0 = urgent .. 3), so an urgent message pulls its whole
    lane forward, past nothing of its own. `ready_since` is when its front command began to wait.
    """

    tenant_id: str
    contact_id: str
    best_rank: int
    ready_since: datetime
    waiting: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePolicy:
    """Numbers of the ranking.

    `age_step`: every full step of waiting lifts a lane by one class, up to the highest. `burst`: how many lanes of one
    tenant compete at their own class; what goes beyond competes one class lower per further burst, so a flood of one
    tenant, whatever its classes, never holds up the others for longer than a few bursts.
    """

    age_step: timedelta = timedelta(minutes=2)
    burst: int = 32


DEFAULT_POLICY: Final = LanePolicy()


def effective_rank(candidate: LaneCandidate, now: datetime, policy: LanePolicy = DEFAULT_POLICY) -> int:
    """Class of the lane with ageing, 0 (highest) to 3."""
    waited = max(now - candidate.ready_since, timedelta(0))
    return max(0, candidate.best_rank - waited // policy.age_step)


def rank(
    candidates: Iterable[LaneCandidate],
    now: datetime,
    *,
    limit: int | None = None,
    per_tenant: int | None = None,
    policy: LanePolicy = DEFAULT_POLICY,
) -> list[LaneCandidate]:
    """The lanes in the order in which they are served, at most `limit`, and of one tenant at most `per_tenant`.

    Highest effective class first; inside a class the tenants take turns, each with its oldest lane, and the tenant whose
    lane waits longest begins. Equal input gives equal output: ties are broken by ids.
    """
    tenants: dict[str, list[tuple[int, datetime, str, LaneCandidate]]] = defaultdict(list)
    for lane in candidates:
        tenants[lane.tenant_id].append((effective_rank(lane, now, policy), lane.ready_since, lane.contact_id, lane))
    order: list[tuple[int, int, datetime, str, str, LaneCandidate]] = []
    for tenant_id, lanes in tenants.items():
        turns: Counter[int] = Counter()
        for position, (effective, ready_since, contact_id, lane) in enumerate(
            sorted(lanes, key=lambda item: item[:3])[:per_tenant]
        ):
            served_as = effective + position // policy.burst
            order.append((served_as, turns[served_as], ready_since, tenant_id, contact_id, lane))
            turns[served_as] += 1
    return [item[-1] for item in sorted(order, key=lambda item: item[:-1])[:limit]]


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a new command gets a place in its lane.

    `number` is its commit_order when `state` is `queued_for_dispatch`; else it is None and `state` is terminal.
    """

    state: State
    number: int | None
    reason: str | None = None


def accept_order(*, given: int | None, last_assigned: int, last_committed: int, taken: Collection[int]) -> Acceptance:
    """The place for a command whose source gave `given` (None: the next one).

    A number at or below `last_committed` is a violation of the order, whoever had it: its turn is over. `taken` holds the
    numbers above it that other commands of the lane have: such a number is a conflict between the two. `last_assigned` is
    the highest number in use; one at or below it may still be free: a source may deliver out of order.
    """
    if given is None:
        return Acceptance(state=State.QUEUED_FOR_DISPATCH, number=max(last_assigned, last_committed) + 1)
    if given <= last_committed:
        return Acceptance(state=State.BLOCKED_COMMIT_ORDER_VIOLATION, number=None, reason=Reason.COMMIT_ORDER_PASSED)
    if given in taken:
        return Acceptance(state=State.BLOCKED_CONFLICT, number=None, reason=Reason.COMMIT_ORDER_TAKEN)
    if given - max(last_assigned, last_committed) > GAP_MAX:
        return Acceptance(state=State.INVALID_PAYLOAD_MANUAL, number=None, reason=Reason.COMMIT_ORDER_TOO_FAR)
    return Acceptance(state=State.QUEUED_FOR_DISPATCH, number=given)
