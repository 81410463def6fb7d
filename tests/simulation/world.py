"""One simulated installation: nodes with the product's own loops, one database, one Redis, one provider.

Every await of a node that reaches outside it (a transaction, a lock, a call to the provider) passes `Node.step`: there time
passes, the others run, and there a node may die. A dead node's coroutines stay where they are for ever, like the memory
of a killed process; no `finally` of theirs changes anything any more.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import Connection, select

from app.channels.outbound import Outcome, SendResult
from app.engine.conversations import Conversations
from app.engine.dispatch import Dispatch, DispatchPolicy, decide_and_apply
from app.engine.drain import Drain
from app.engine.intake import Intake
from app.engine.locks import DatabaseLocks, LaneLocks
from app.engine.outbox import OutboxLoop
from app.engine.policies import PolicyCache
from app.engine.recent import Recent
from app.engine.redis_locks import RedisLocks
from app.engine.side_by_side import Wake
from app.engine.supervisor import Loop, Supervisor
from app.errors import OutcomeUnknown, StorageUnavailable
from app.metrics import Metrics
from app.store.database import Database
from app.store.holds import EVERYTHING
from app.store.lanes import GLOBAL_SCOPE, merge_modes
from app.store.ledger import apply
from app.store.plans import LanePlan
from app.store.tables import Hold, Lane, ModeRow, table
from tests.simulation.store import SharedStore, start_of_world

T = TypeVar("T")

_HOLD, _LANE, _MODE = table(Hold), table(Lane), table(ModeRow)
_COMPARED = ("last_committed", "conversation_version", "guardian_version", "takeover_id")
_MODES, _HOLDS = select(_MODE), select(_HOLD.c.tenant_id, _HOLD.c.command_type)
_LANES = select(*(_LANE.c[name] for name in ("tenant_id", "contact_id", "paused_at", "step_credit", *_COMPARED)))
AWAITS = ("read", "read done", "write", "write done", "redis", "redis done", "send", "sent")
"""Kinds of awaits at which a process may be killed."""
METRICS = Metrics()
"""Shared by all worlds of a process: counters are not part of what is simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How likely each misfortune is, per step (0 to 1)."""

    slow: float = 0.005
    """A step takes seconds instead of milliseconds."""
    refused: float = 0.01
    """The database does not answer; nothing happened."""
    unknown: float = 0.01
    """The connection is lost around the commit, which happened or did not."""
    redis_fails: float = 0.03
    redis_lies: float = 0.03
    """A lock is granted although somebody has it (flushed, split, restarted empty)."""
    wake_lost: float = 0.2
    wake_repeated: float = 0.1


STORMY = Weather()
CALM = Weather(slow=0, refused=0, unknown=0, redis_fails=0, redis_lies=0, wake_lost=0, wake_repeated=0)


class SimClock:
    """The database's time as every node sees it: virtual seconds, plus what `skip` has added."""

    scale = 1.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._skipped = loop, timedelta(0)

    def now(self) -> datetime:
        """Aware UTC time."""
        return start_of_world() + timedelta(seconds=self._loop.time()) + self._skipped

    def skip(self, seconds: float) -> None:
        """Let time pass in which nothing happens."""
        self._skipped += timedelta(seconds=seconds)

    def anchor(self, reference: datetime) -> timedelta:
        """Nodes are anchored already."""
        return timedelta(0)

    def off(self, reference: datetime) -> timedelta:
        """Nodes are anchored already."""
        return timedelta(0)

    async def sleep(self, seconds: float) -> None:
        """Sleep virtual seconds."""
        await asyncio.sleep(seconds)


class LossyWake(Wake):
    """A wake-up that may get lost, or come again later for nothing."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world

    def set(self) -> None:
        """Wake, perhaps."""
        self._perhaps(super().set)

    def look(self) -> None:
        """The same."""
        self._perhaps(super().look)

    def hear(self) -> None:
        """The same."""
        self._perhaps(super().hear)

    def _perhaps(self, wake: Callable[[], None]) -> None:
        rng, weather = self._world.rng, self._world.weather
        if rng.random() < weather.wake_lost:
            self._world.note("wake_lost")
            return
        wake()
        if rng.random() < weather.wake_repeated:
            self._world.note("wake_repeated")
            asyncio.get_running_loop().call_later(rng.uniform(0, 1), wake)


class SimDatabase(Database):
    """The product's seam to the database over the world's store: whole transactions, with faults around them."""

    def __init__(self, node: "Node") -> None:  # no connections of its own: the parent's constructor would open some
        self.url, self.dialect = "sqlite://", "sqlite"
        self._node = node

    async def read(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """One read transaction."""
        node = self._node
        await node.step("read")
        node.maybe_refuse()
        result = node.world.store.read(fn, *args, **kwargs)
        await node.step("read done")
        return result

    async def write(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """One write transaction; a caller that is cancelled leaves only once it is over, as in the real one."""
        task = asyncio.ensure_future(self._transaction(fn, *args, **kwargs))
        self._node.tasks.append(task)
        task.add_done_callback(_seen)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._node.alive:
                await asyncio.wait({task})
            raise

    async def _transaction(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        node, world = self._node, self._node.world
        await node.step("write")
        node.maybe_refuse()
        lost = world.rng.random() < world.weather.unknown
        if lost and world.rng.random() < 0.5:
            world.note("commit_lost")
            raise OutcomeUnknown("simulated: lost before the commit")
        watched: Any = partial(witnessed, fn, world=world) if fn in (apply, decide_and_apply) else fn
        result: T = world.store.run(watched, *args, **kwargs)
        if lost:
            world.note("answer_lost")
            raise OutcomeUnknown("simulated: lost after the commit")
        await node.step("write done")
        return result


def _seen(task: "asyncio.Future[Any]") -> None:
    """A write whose caller died has nobody to tell."""
    if not task.cancelled():
        task.exception()


class Watched(Protocol):
    """Where broken promises are noted."""

    broken_promises: list[str]


def witnessed(fn: Callable[..., list[LanePlan]], conn: Connection, *args: Any, world: Watched, **how: Any) -> list[LanePlan]:
    """The effect's transaction with a witness inside: what was decided on must still be so at this very moment."""
    modes = {row.scope: row for row in conn.execute(_MODES)}
    lanes = {(row.tenant_id, row.contact_id): row for row in conn.execute(_LANES)}
    held = {(row.tenant_id, row.command_type) for row in conn.execute(_HOLDS)}
    written = fn(conn, *args, **how)
    for plan in written:
        row = lanes[plan.key]
        commands = [entry.command for entry in plan.entries if entry.command is not None]
        if row.paused_at is not None and len(commands) > row.step_credit:
            world.broken_promises.append(f"{plan.key} took {len(commands)} steps while it was paused with {row.step_credit}")
        for command in commands:
            if held & {(command.tenant_id, command.command_type), (command.tenant_id, EVERYTHING)}:
                world.broken_promises.append(f"{plan.key} took a {command.command_type} while a person held it")
        for name in _COMPARED:
            if plan.entries and getattr(row, name) != getattr(plan.facts.row, name):
                world.broken_promises.append(f"{plan.key} was decided on a {name} that had changed before its commit")
        mode = merge_modes(modes.get(GLOBAL_SCOPE), modes.get(plan.key[0]))
        if mode.epoch != plan.mode.epoch:
            world.broken_promises.append(f"{plan.key} was decided in a mode that had ended before its commit")
    return written


class SimRedis:
    """A Redis with a mind of its own: it fails, hangs, answers too late, forgets, and grants what is taken."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._held: dict[str, tuple[str, float]] = {}
        self.down = False

    def flush(self) -> None:
        """FLUSHALL."""
        self._held.clear()

    async def trouble(self, node: "Node") -> None:
        """Time passes; the call may fail before it is heard, or be heard and not answered in time."""
        await node.step("redis")
        if self.down or self._world.rng.random() < self._world.weather.redis_fails:
            self._world.note("redis_failed")
            if self._world.rng.random() < 0.5:
                await asyncio.sleep(3)
            raise RedisConnectionError("simulated")

    def take(self, keys: Sequence[str], token: str, ttl_ms: int) -> list[str]:
        """SET NX PX per key."""
        now = asyncio.get_running_loop().time()
        taken = []
        for key in keys:
            lies = self._world.rng.random() < self._world.weather.redis_lies
            if key not in self._held or self._held[key][1] <= now or lies:
                self._held[key] = (token, now + ttl_ms / 1000)
                taken.append(key)
        return taken

    def give_back(self, keys: Sequence[str], token: str) -> int:
        """Compare and delete; how many."""
        own = [key for key in keys if self._held.get(key, ("", 0.0))[0] == token]
        for key in own:
            del self._held[key]
        return len(own)


class _Redis:
    """One node's connection to it, in the shape that `RedisLocks` uses."""

    def __init__(self, node: "Node") -> None:
        self._node, self._redis = node, node.world.redis

    async def acquire(self, keys: Sequence[str], args: Sequence[Any]) -> list[str]:
        await self._redis.trouble(self._node)
        taken = self._redis.take(keys, args[0], args[1])
        await self._node.step("redis done")
        return taken

    async def release(self, keys: Sequence[str], args: Sequence[Any]) -> int:
        await self._redis.trouble(self._node)
        given = self._redis.give_back(keys, args[0])
        await self._node.step("redis done")
        return given

    async def set(self, key: str, value: str, px: int) -> None:
        await self._redis.trouble(self._node)

    async def aclose(self) -> None:
        """Nothing is open."""


class Phone:
    """The provider: takes messages, sometimes says so too late, sometimes not at all."""

    key, addressable = "simulator", True

    def __init__(self, node: "Node") -> None:
        self._node, self._world = node, node.world

    async def send(self, message: Any) -> SendResult:
        """One call."""
        await self._node.step("send")
        dice = self._world.rng.random()
        if dice < 0.05:
            return SendResult(outcome=Outcome.FAILED, detail="simulated")
        self._world.delivered[message.key] += 1
        await self._node.step("sent")
        return SendResult(outcome=Outcome.UNKNOWN if dice < 0.1 else Outcome.SENT, detail=None)


class _Book:
    """Every delivery leaves through the phone."""

    def __init__(self, node: "Node") -> None:
        self._phone = Phone(node)

    async def for_delivery(self, delivery: Any) -> Phone:
        return self._phone

    async def settings(self, tenant_id: str) -> dict[str, Any]:
        return {}


class Node:
    """One process: the product's loops under the product's supervisor."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name, self.alive = world, name, True
        self.tasks: list[asyncio.Future[Any]] = []
        self.steps, self.dies_at = 0, 0
        self.dies_in: str | None = None
        """Only at an await of this kind (None: at any), the first after `dies_at` steps (0: never)."""
        self._grave: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        db, clock = SimDatabase(self), world.clock
        self.db = db
        policies = PolicyCache(db)
        self.locks = self._locks(db)
        recent = Recent(limit=(1, 2, 64)[world.seed % 3]) if world.seed % 5 else None
        self.intake = Intake(db, clock, policies, METRICS, recent=recent, lanes_last=world.seed % 3 != 0)
        self.conversations = Conversations(db, clock)
        size = DispatchPolicy(
            lanes_per_round=world.rng.choice((1, 2, 4)),
            chain=3,
            lanes_beside=(1, 2, 16)[world.seed % 3],
            lanes_of_flood=world.rng.choice((1, 4)),
            lanes_last=world.seed % 2 == 0,
            part_min=1 if world.seed % 7 < 3 else None,
            at_once=(0, 1, 2)[world.seed % 11 % 3],
        )
        self.dispatch = Dispatch(db, clock, self.locks, policies, METRICS, node_id=name, policy=size, recent=recent)
        self.drain = Drain(db, clock)
        self.outbox = OutboxLoop(db, clock, _Book(self), METRICS)  # type: ignore[arg-type]  # the book, as far as it is used
        self.supervisor = Supervisor()
        dispatches = [self.dispatch, *([self.dispatch.sibling("dispatch_2")] if world.seed % 4 else [])]
        woken: tuple[Conversations | Drain | OutboxLoop | Dispatch, ...] = (
            self.conversations,
            self.drain,
            self.outbox,
            *dispatches,
        )
        for loop in woken:
            loop.wake = LossyWake(world)
        loops: tuple[Loop, ...] = (self.intake, *woken)
        self.intake.on_accepted.append(self._notify)
        self.intake.on_commands.append(self.dispatch.arrived)
        self.intake.on_messages.append(self.conversations.wake.set)
        self.conversations.on_commands.append(self.dispatch.arrived)
        self.drain.on_released.append(self.dispatch.wake.set)
        self.dispatch.on_committed.append(self._committed)
        self.tasks += [asyncio.ensure_future(self.supervisor.run(loop)) for loop in loops]

    def _locks(self, db: Database) -> LaneLocks:
        if not self.world.with_redis:
            return DatabaseLocks(db, self.world.clock)
        locks = RedisLocks("redis://simulated", DatabaseLocks(db, self.world.clock, mode="fallback"))
        connection: Any = _Redis(self)
        locks.redis, locks._acquire, locks._release = connection, connection.acquire, connection.release
        return locks

    def _committed(self, plans: Sequence[Any]) -> None:
        for plan in plans:
            self.intake.decided(plan.key[0], [e.command.command_id for e in plan.entries if e.command is not None])
        if plans:
            self.outbox.wake.set()

    def _notify(self) -> None:
        """The other nodes hear of it too, a moment later."""
        for node in self.world.alive():
            if node is not self:
                delay_s = self.world.rng.uniform(0, 0.01)
                asyncio.get_running_loop().call_later(delay_s, node.dispatch.wake.set)
                asyncio.get_running_loop().call_later(delay_s, node.conversations.wake.set)

    async def step(self, what: str) -> None:
        """An await that reaches outside: time passes, others run, and here the process may be killed."""
        rng, weather = self.world.rng, self.world.weather
        self.steps += 1
        if self.alive and 0 < self.dies_at <= self.steps and self.dies_in in (None, what):
            self.world.note(f"crash at {what}")
            self.die()
        if not self.alive:
            await self._grave
        await asyncio.sleep(rng.choice((0.5, 2, 17)) if rng.random() < weather.slow else rng.uniform(0, rng.choice((0.004, 0.06))))
        if not self.alive:
            await self._grave

    def maybe_refuse(self) -> None:
        """The database may not answer."""
        if self.world.rng.random() < self.world.weather.refused:
            self.world.note("refused")
            raise StorageUnavailable("simulated")

    def die(self) -> None:
        """kill -9."""
        self.alive = False

    async def bury(self) -> None:
        """Take the dead process apart after the story is over: whatever it still tries ends at its next step."""
        self._grave.cancel()
        if isinstance(self.locks, RedisLocks):
            await self.locks.close()
        left = [task for task in (*self.tasks, *self.outbox._calls) if not task.done()]
        while left:
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            left = [task for task in self.tasks if not task.done()]


@dataclass(slots=True)
class World:
    """Everything there is. `journal` is the clients' own record of what they were promised."""

    seed: int
    store: SharedStore
    rng: random.Random
    clock: SimClock
    weather: Weather
    with_redis: bool
    nodes: list[Node] = field(default_factory=list)
    buried: list[Node] = field(default_factory=list)
    journal: dict[tuple[str, str], tuple[str, str, int | None]] = field(default_factory=dict)
    """(kind, what the client sent it under) -> (item id, status, number) of the first answer."""
    broken_promises: list[str] = field(default_factory=list)
    delivered: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    redis: SimRedis = field(init=False)

    def __post_init__(self) -> None:
        self.redis = SimRedis(self)

    def note(self, what: str) -> None:
        """Count what happened, and keep it for the replay's story."""
        self.notes[what] += 1
        self.trace.append(f"{asyncio.get_running_loop().time():9.3f}  {what}")

    def start_node(self) -> Node:
        """One more process."""
        node = Node(self, f"n{len(self.nodes) + len(self.buried) + 1}")
        self.nodes.append(node)
        return node

    def alive(self) -> list[Node]:
        """Processes that run."""
        return [n for n in self.nodes if n.alive]
