"""Health as the exit of safe mode needs it: real checks every few seconds, each look stored as a sample.

Every node looks for itself (its own loops, its own way to database and Redis) and writes what it saw; the green window is
folded from the samples of all nodes, so a node that sees red resets it for all. A look that cannot be stored is a missing
sample, which resets the window too.
"""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

import structlog
from redis.exceptions import RedisError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from app.channels.targets import kind_of
from app.clock import Clock
from app.domain.green_window import WindowPolicy
from app.domain.states import LockResult
from app.engine.channel_book import ChannelBook
from app.engine.circuits import Circuits
from app.engine.locks import LaneLocks
from app.engine.reachability import Reachability
from app.engine.redis_locks import RedisLocks
from app.engine.stores_down import Marker
from app.engine.supervisor import Supervisor
from app.errors import StorageError
from app.ids import new_id
from app.metrics import Metrics
from app.store.database import Database
from app.store.episodes import open_flows, open_scopes, tenant_of
from app.store.health import SCOPED, Backlogs, Check, backlogs, keep, probe_write
from app.store.lanes import GLOBAL_SCOPE
from app.store.ledger import database_now

log = structlog.get_logger("engine.health")

RETRY_S: Final = 1.0
DISK_FREE_MIN: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """Limits of the checks. Times are the clock's, except where they say real; `probe_s` bounds one probe (real)."""

    every: timedelta = timedelta(seconds=5)
    idle_every: timedelta = timedelta(seconds=15)
    """Between looks while no scope is in safe mode."""
    gap_max: timedelta = timedelta(seconds=30)
    outbox_late_max: timedelta = timedelta(minutes=2)
    lane_wait_max: timedelta = timedelta(minutes=5)
    reach_every: timedelta = timedelta(seconds=30)
    """Between connections to one server that answered; one that did not is tried at every look."""
    clock_skew_max_s: float = 2.0
    probe_s: float = 2.0
    every_min_s: float = 0.25
    """Real seconds below which a scaled clock does not push the looks."""

    def scaled(self, scale: float) -> "HealthPolicy":
        """The same under a clock that runs `scale` times as fast: a machine does not get faster with it."""
        if scale <= 1:
            return self
        return replace(
            self,
            every=max(self.every, timedelta(seconds=self.every_min_s * scale)),
            idle_every=max(self.idle_every, timedelta(seconds=scale)),
            gap_max=max(self.gap_max, timedelta(seconds=2.5 * scale)),
            outbox_late_max=max(self.outbox_late_max, timedelta(seconds=5 * scale)),
            lane_wait_max=max(self.lane_wait_max, timedelta(seconds=5 * scale)),
            reach_every=max(self.reach_every, timedelta(seconds=scale)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: every check about everybody, and for each scope with an open episode what is red there alone, and why."""

    checks: Mapping[str, Check]
    scopes: Mapping[str, Mapping[str, str]]


class Health:
    """The loop that looks. `on_sample` is called after each stored look."""

    name = "health"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        supervisor: Supervisor,
        locks: LaneLocks,
        circuits: Circuits,
        metrics: Metrics,
        channels: ChannelBook,
        *,
        node_id: str,
        marker: Marker,
        policy: HealthPolicy | None = None,
    ) -> None:
        self.wake = asyncio.Event()
        self.on_sample: list[Callable[[], None]] = []
        self.policy = (policy or HealthPolicy()).scaled(clock.scale)
        self._database, self._clock, self._supervisor, self._locks = database, clock, supervisor, locks
        self._circuits, self._metrics, self._node_id, self._marker = circuits, metrics, node_id, marker
        self._reach = Reachability(database, channels, circuits, every=self.policy.reach_every, timeout_s=self.policy.probe_s)
        self.latest: tuple[datetime, Mapping[str, Check]] | None = None
        self.stores_silent = False
        """Whether both were silent at the newest look: no lane can be locked, nothing is applied."""
        self.stores_down_at: datetime | None = marker.read()
        """Set when Redis and the database were both silent at one look; safe mode is entered once one can be written to.

        It is kept beside the process as well: the usual end of such a minute is a restart.
        """

    def window(self, needed: timedelta) -> WindowPolicy:
        """The green window over exactly the checks that this installation has."""
        names = {"database_write", "channels", "outbox_age", "loops", "lane_wait"}
        if isinstance(self._locks, RedisLocks):
            names.add("redis")
        if not self._database.is_sqlite:
            names.add("clock_skew")
        if self._folder() is not None:
            names.add("disk_space")
        return WindowPolicy(needed=needed, gap_max=self.policy.gap_max, checks=frozenset(names))

    async def tick(self) -> float:
        """One look, stored; returns the real seconds until the next."""
        found = await self.look()
        checks, now = found.checks, self._clock.now()
        self.latest = (now, checks)
        for name, check in checks.items():
            self._metrics.health_check.labels(check=name).set(check.green)
        try:
            await self._database.write(keep, self._node_id, checks, found.scopes, now)
        except DBAPIError as error:  # a full disk, for example: no sample is as good as a red one
            log.critical("sample_not_stored", flow_id="F-06", status="missing", reason=type(error).__name__)
            return RETRY_S
        busy = await self._database.read(open_flows)
        self._say(found, busy)
        for notify in self.on_sample:
            notify()
        every = self.policy.every if busy else self.policy.idle_every
        return every.total_seconds() / self._clock.scale

    def _say(self, found: Look, flows: Mapping[str, tuple[str, str]]) -> None:
        """A line for every open episode that this look holds back, and one of no flow when there is none."""
        red = {name for name, check in found.checks.items() if not check.green}
        if red and not flows:
            log.warning("health_red", status="red", health_window=", ".join(sorted(red))[:500])
        for scope, (episode_id, correlation_id) in flows.items():
            own = found.scopes.get(scope)
            lost = red if own is None else {name for name in red if name not in SCOPED} | own.keys()
            if lost:
                log.warning(
                    "health_red", flow_id="F-06", correlation_id=correlation_id, tenant_id=tenant_of(scope), status="red",
                    scope=scope, episode_id=episode_id, health_window=", ".join(sorted(lost))[:500],
                )  # fmt: skip

    def stores_up(self) -> None:
        """That both stores were silent has led to safe mode: nothing is left to be remembered."""
        self.stores_down_at = None
        self._marker.clear()

    async def look(self) -> Look:
        """Every check once."""
        now = self._clock.now()
        checks = {"database_write": await self._timed(self._database.write(probe_write, self._node_id, now))}
        if isinstance(self._locks, RedisLocks):
            checks["redis"] = await self._redis(self._locks)
            self.stores_silent = not checks["redis"].green and not checks["database_write"].green
            if self.stores_silent:
                if self.stores_down_at is None:
                    self.stores_down_at = now
                    self._marker.write(now)
                log.critical("stores_down", flow_id="F-06", status=LockResult.LOCK_ACQUIRE_FAILED_SAFE_BLOCK)
        checks["channels"] = self._channels()
        late = await self._late(now)
        checks |= _backlog_checks(late)
        checks["loops"] = self._loops()
        if not self._database.is_sqlite:
            checks["clock_skew"] = await self._clock_skew()
        folder = self._folder()
        if folder is not None:
            checks["disk_space"] = await asyncio.to_thread(_disk_space, folder)
        return Look(checks=checks, scopes=await self._scopes(late, now))

    async def _scopes(self, late: Mapping[str, Backlogs] | str, now: datetime) -> Mapping[str, Mapping[str, str]]:
        """For each scope with an open episode its own red checks; `{}` where that cannot be said: then the whole counts."""
        if isinstance(late, str):
            return {}
        scopes = await self._database.read(open_scopes)
        lost = await self._reach.look(scopes, now) if scopes else {}
        found = {}
        for scope in scopes:
            # for the installation a clinic whose own channel is dead is late as well; that is its contingency's to judge
            mine = late.get(scope, _ON_TIME) if scope != GLOBAL_SCOPE else _worst(late, without=self._reach.dead_clinics)
            checks = _backlog_checks({scope: mine}) | {"channels": Check(green=not lost[scope], detail=lost[scope])}
            found[scope] = {name: checks[name].detail for name in SCOPED if not checks[name].green}
        return found

    async def _timed(self, probe: Awaitable[object]) -> Check:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.policy.probe_s):
                await probe
        except (StorageError, DBAPIError, RedisError, OSError) as error:  # TimeoutError is an OSError
            return Check(green=False, detail=type(error).__name__, ms=_ms(started))
        return Check(green=True, ms=_ms(started))

    async def _redis(self, locks: RedisLocks) -> Check:
        async def write() -> None:
            # a write: a read-only or full Redis answers a ping and is not well
            await cast("Awaitable[Any]", locks.redis.set(f"probe:{new_id()}", "1", px=1000))

        check = await self._timed(write())
        if check.green and locks.mode == "fallback":
            return replace(check, green=False, detail="locks are on the database until Redis has been stable")
        return check

    def _channels(self) -> Check:
        closed = self._circuits.open_targets()
        return Check(green=not closed, detail=", ".join(kind_of(key) for key in closed)[:200])

    async def _late(self, now: datetime) -> Mapping[str, Backlogs] | str:
        """What is late at which clinic; the name of the error when it cannot be read."""
        try:
            async with asyncio.timeout(self.policy.probe_s):
                return await self._database.read(backlogs, now, self.policy.outbox_late_max, self.policy.lane_wait_max)
        except (StorageError, OSError) as error:
            return type(error).__name__

    def _loops(self) -> Check:
        silent = set(self._supervisor.stalled())
        failing = {name for name, beat in self._supervisor.heartbeats.items() if beat.last_error is not None}
        return Check(green=not (silent | failing), detail=", ".join(sorted(silent | failing)))

    async def _clock_skew(self) -> Check:
        try:
            async with asyncio.timeout(self.policy.probe_s):
                reference = await self._database.read(database_now)
        except (StorageError, OSError) as error:
            return Check(green=False, detail=type(error).__name__)
        if reference is None:
            return Check(green=False, detail="the database did not say its time")
        off_s = abs(self._clock.off(reference).total_seconds())
        if off_s > self.policy.clock_skew_max_s:
            self._clock.anchor(reference)  # a machine that slept: red once, and right again from here on
        return Check(green=off_s <= self.policy.clock_skew_max_s, detail=f"{off_s:.2f} s")

    def _folder(self) -> Path | None:
        url = make_url(self._database.url)
        return Path(url.database).parent if url.get_backend_name() == "sqlite" and url.database else Path.cwd()


_ON_TIME: Final = Backlogs(outbox_late=None, lane_wait=None)


def _worst(late: Mapping[str, Backlogs], *, without: Collection[str] = ()) -> Backlogs:
    """The latest of some clinics."""
    found = [each for tenant_id, each in late.items() if tenant_id not in without]
    return Backlogs(
        outbox_late=max((b.outbox_late for b in found if b.outbox_late is not None), default=None),
        lane_wait=max((b.lane_wait for b in found if b.lane_wait is not None), default=None),
    )


def _backlog_checks(late: Mapping[str, Backlogs] | str) -> dict[str, Check]:
    if isinstance(late, str):
        unread = Check(green=False, detail=late)
        return {"outbox_age": unread, "lane_wait": unread}
    worst = _worst(late)
    return {"outbox_age": _on_time(worst.outbox_late), "lane_wait": _on_time(worst.lane_wait)}


def _on_time(late: timedelta | None) -> Check:
    return Check(green=late is None, detail=f"{late.total_seconds():.0f} s" if late is not None else "")


def _disk_space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check(green=free >= DISK_FREE_MIN, detail=f"{free // (1024 * 1024)} MiB free")


def _ms(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
