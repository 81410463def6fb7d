"""Why a lane waits: what stops it, since when, who frees it, and what stands behind.

Every lane with something waiting has an answer; one that nothing stops waits for its turn.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Row, select

from app.store.lanes import GLOBAL_SCOPE
from app.store.locks import locks_held
from app.store.tables import Alert, ContingencyChannel, Hold, InboxCommand, SafeEpisode, table
from app.store.views.queue import lane_places

_HOLD, _COMMAND, _CHANNEL = table(Hold), table(InboxCommand), table(ContingencyChannel)
_EPISODE, _ALERT = table(SafeEpisode), table(Alert)

Holds = Mapping[str, Row[Any]]
"""People's pauses on a clinic by command type (`*` = all of it)."""


def tenant_holds(conn: Connection, tenant_id: str) -> Holds:
    """The clinic's pauses."""
    return {row.command_type: row for row in conn.execute(select(_HOLD).where(_HOLD.c.tenant_id == tenant_id))}


def stopped_by(lane: Row[Any], holds: Holds) -> str | None:
    """What keeps dispatch from looking at a lane; None when nothing does.

    `paused` (a person paused the contact), `held` (a person paused the clinic or a command type), `gap`, `safe_mode`,
    `contingency`, `replay` (a replay batch has the lane), `fallback` (the fallback lock reached its limits).
    """
    if lane.paused_at is not None and not lane.step_credit:
        return "paused"
    if not lane.waiting:
        return None
    return "held" if "*" in holds else lane.blocked_by


def why_waiting(conn: Connection, tenant_id: str, lanes: Sequence[Row[Any]], now: datetime) -> dict[str, dict[str, Any]]:
    """Why each of these lanes of a clinic waits, by contact; a lane in which nothing waits (and nobody paused) is not in it.

    cause: what `stopped_by` says, or `locked` (a node is at it; locks on Redis are not seen here) or `dispatch` (its turn
    has not come). holder, as far as it is known: who paused; for `gap` the missing commit order, for `safe_mode` the episode
    or, before it is written, the alert, for `contingency` the channel, for `replay` the batch, for `fallback` the lock store
    that is away, for `locked` the node. since: when that began; for `locked` and `dispatch`, since when something waits.
    next_look_at: when it is looked at again by itself, if that is known. position: only for `dispatch`, 1 = next in the
    clinic. items_behind: commands that wait behind the one in front.
    """
    reader = _Reader(conn, tenant_id, [lane for lane in lanes if lane.waiting], now)
    found = {lane.contact_id: reader.why(lane) for lane in lanes if lane.waiting or lane.paused_at is not None}
    return {contact_id: why for contact_id, why in found.items() if why is not None}


class _Reader:
    """Reads what the answers of one clinic need, each once and only when it is needed."""

    def __init__(self, conn: Connection, tenant_id: str, lanes: Sequence[Row[Any]], now: datetime) -> None:
        self._conn, self._tenant_id, self._now = conn, tenant_id, now
        self._contacts = [lane.contact_id for lane in lanes]

    def why(self, lane: Row[Any]) -> dict[str, Any] | None:
        cause = stopped_by(lane, self._holds)
        waiting = lane.waiting or 0
        if cause == "paused":
            return _why(cause, lane.paused_at, None, lane.paused_by, waiting)
        if not waiting:
            return None
        if cause == "held" and "*" in self._holds:
            return _why(cause, self._holds["*"].since, None, self._holds["*"].by, waiting)
        if cause is not None:
            return _why(cause, lane.blocked_since, lane.not_before, self._holder(cause, lane), waiting - 1)
        lock: Any = self._locks.get((self._tenant_id, lane.contact_id))
        if lock is not None:
            return _why("locked", lane.ready_since, lock.expires_at, lock.node_id, waiting - 1)
        place = self._places.get(lane.contact_id)
        return _why("dispatch", lane.ready_since, lane.not_before, None, waiting - 1, place)

    def _holder(self, cause: str, lane: Row[Any]) -> str | None:
        match cause:
            case "held":
                return self._holder_of_front(lane.contact_id)
            case "gap":
                return str(lane.last_committed + 1)
            case "safe_mode":
                return self._episode
            case "contingency":
                return self._channel
            case "replay":
                return str(lane.replay_id) if lane.replay_id is not None else None
            case "fallback":
                return "redis"
        return None

    def _holder_of_front(self, contact_id: str) -> str | None:
        """Who paused the type of the command in front."""
        if not self._holds:
            return None
        kind = self._conn.execute(
            select(_COMMAND.c.command_type)
            .where(
                _COMMAND.c.tenant_id == self._tenant_id,
                _COMMAND.c.contact_id == contact_id,
                _COMMAND.c.done_at.is_(None),
                _COMMAND.c.commit_order.is_not(None),
            )
            .order_by(_COMMAND.c.commit_order)
            .limit(1)
        ).scalar()
        return str(self._holds[kind].by) if kind is not None and kind in self._holds else None

    @cached_property
    def _holds(self) -> Holds:
        return tenant_holds(self._conn, self._tenant_id)

    @cached_property
    def _locks(self) -> Mapping[tuple[str, str], Row[Any]]:
        return locks_held(self._conn, [(self._tenant_id, contact_id) for contact_id in self._contacts], self._now)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return lane_places(self._conn, self._tenant_id, self._contacts, self._now)

    @cached_property
    def _episode(self) -> str | None:
        scopes = (GLOBAL_SCOPE, self._tenant_id)
        written = select(_EPISODE.c.episode_id).where(_EPISODE.c.scope.in_(scopes), _EPISODE.c.ended_at.is_(None))
        found = self._conn.execute(written.order_by(_EPISODE.c.entered_at, _EPISODE.c.episode_id).limit(1)).scalar()
        if found is not None:
            return str(found)
        late = select(_ALERT.c.alert_id).where(
            _ALERT.c.scope.in_(scopes), _ALERT.c.acked_at.is_(None), _ALERT.c.safe_mode_at <= self._now
        )
        alert = self._conn.execute(late.order_by(_ALERT.c.safe_mode_at, _ALERT.c.alert_id).limit(1)).scalar()
        return str(alert) if alert is not None else None

    @cached_property
    def _channel(self) -> str | None:
        active = select(_CHANNEL.c.channel).where(_CHANNEL.c.tenant_id == self._tenant_id, _CHANNEL.c.active)
        found = self._conn.execute(active.order_by(_CHANNEL.c.since, _CHANNEL.c.channel).limit(1)).scalar()
        return str(found) if found is not None else None


def _why(
    cause: str,
    since: datetime | None,
    next_look_at: datetime | None,
    holder: str | None,
    behind: int,
    position: int | None = None,
) -> dict[str, Any]:
    return {
        "cause": cause,
        "since": since,
        "next_look_at": next_look_at,
        "holder": holder,
        "position": position,
        "items_behind": max(0, behind),
    }
