"""Redis locks with the database as fallback (S-PC-05-001, D-AR-006).

Primary: one script call takes the locks of a whole batch (`SET NX PX` per key with the owner's token), another gives back
those still owned. A circuit watches every call: no answer within `TIMEOUT_S`, or any error, opens it at once and the
database's locks take over; from then on a probe runs every `PROBE_EVERY_S`, and only after `STABLE_FOR_S` without a miss does
the primary come back. What Redis may still hold for us from before (it answered too late, or could not be told any more) is
given back as soon as it answers again, so that no lane stands still until its lock expires; correctness never rests on it.
No fencing number comes from Redis: a flushed Redis would hand out old ones again.
"""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.domain.states import LockResult
from app.engine.locks import LOCK_TTL_S, DatabaseLocks, Grant
from app.ids import new_id

log = structlog.get_logger("engine.locks")

T = TypeVar("T")

TIMEOUT_S = 0.2
PROBE_EVERY_S = 0.25
STABLE_FOR_S = 5.0
OWED_MAX = 256
"""Attempts whose locks are remembered while Redis is away; those in flight when it went are few, and the oldest expire first."""

_ACQUIRE = """
local taken = {}
for i, key in ipairs(KEYS) do
  if redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) then taken[#taken + 1] = key end
end
return taken
"""
_RELEASE = """
local given = 0
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then given = given + redis.call('DEL', key) end
end
return given
"""


async def redis_answers(url: str) -> bool:
    """Whether a Redis answers at all, asked once over a connection of its own."""
    redis: Redis = Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), health_check_interval=0
    )
    try:
        await cast("Awaitable[Any]", redis.ping())
    except (RedisError, OSError):
        return False
    else:
        return True
    finally:
        await redis.aclose()


class _Cut:
    """A path that leads nowhere: a port that is taken, so that nobody else gets it, and on which nobody listens."""

    def __init__(self, end: Callable[[], None], seconds: float) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.redis: Redis = Redis(
            host="127.0.0.1",
            port=self._socket.getsockname()[1],
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._timer = asyncio.get_running_loop().call_later(seconds, end)

    def end(self) -> None:
        """The port is free again."""
        self._timer.cancel()
        self._socket.close()


class RedisLocks:
    """Primary locks behind a circuit, fallback in the database."""

    def __init__(self, url: str, fallback: DatabaseLocks, *, on_change: Callable[[str, str], None] | None = None) -> None:
        self._fallback = fallback
        self._on_change = on_change
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=16,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        self.redis: Redis = Redis.from_pool(pool)
        self._acquire = self.redis.register_script(_ACQUIRE)
        self._release = self.redis.register_script(_RELEASE)
        self._true_path = self.redis
        self._cut: _Cut | None = None
        self._changed = asyncio.Event()
        self._open_since: float | None = None
        self._good_since: float | None = None
        self._probe: asyncio.Task[None] | None = None
        self._owed: deque[tuple[str, list[str]]] = deque(maxlen=OWED_MAX)
        """Token and keys of locks that Redis may hold for us and has not been told to give up."""
        self.last_error: str | None = None

    @property
    def mode(self) -> str:
        """Which backend grants now: primary | fallback."""
        return "fallback" if self._open_since is not None else "primary"

    async def acquire(self, keys: Sequence[str]) -> Grant:
        """Take the free ones, on Redis or, while the circuit is open, in the database."""
        if self._open_since is None:
            token, started = new_id(), time.perf_counter()
            taken = await self._call(self._acquire, list(keys), [token, int(LOCK_TTL_S * 1000)])
            if taken is not None:
                names = frozenset(k.decode() if isinstance(k, bytes) else str(k) for k in taken)
                ms = (time.perf_counter() - started) * 1000
                return Grant(token=token, keys=names, backend=LockResult.LOCK_ACQUIRED_PRIMARY, mode="primary", ms=ms)
            self._owed.append((token, list(keys)))  # it may have granted them and answered too late
        return await self._fallback.acquire(keys)

    async def release(self, grant: Grant) -> None:
        """Give them back where they came from; what Redis does not hear of now it is told once it answers again."""
        if grant.mode != "primary":
            await self._fallback.release(grant)
        elif grant.keys:
            keys = list(grant.keys)
            if self._open_since is not None or await self._call(self._release, keys, [grant.token]) is None:
                self._owed.append((grant.token, keys))

    async def _call(self, script: Any, keys: list[str], args: list[Any]) -> Any:
        """One script call within the time limit; None when the circuit had to open."""
        return await self.ask(lambda _: script(keys=keys, args=args))

    async def ask(self, question: Callable[[Redis], Awaitable[T]]) -> T | None:
        """Anything else that is asked of this Redis, under the same circuit and limit; None when it is open or had to open."""
        if self._open_since is not None:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await question(self.redis)
        except (RedisError, OSError, TimeoutError) as error:
            self._trip(error)
            return None

    def _trip(self, error: BaseException) -> None:
        self.last_error = f"{type(error).__name__}: {error}"[:200]
        self._good_since = None
        if self._open_since is None:
            self._open_since = time.monotonic()
            self._changed.set()
            log.error("redis_circuit_open", lock_backend="fallback", error=self.last_error)
            if self._on_change is not None:
                self._on_change("fallback", self.last_error)
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._watch(), name="redis-probe")

    async def _watch(self) -> None:
        """Probe until Redis has been well for a while, then close the circuit."""
        while self._open_since is not None:
            await asyncio.sleep(PROBE_EVERY_S)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    key = f"probe:{new_id()}"
                    await self.redis.set(key, "1", px=1000)  # a write: a read-only or full Redis is not well
                await self._settle()
            except (RedisError, OSError, TimeoutError) as error:
                self.last_error = f"{type(error).__name__}: {error}"[:200]
                self._good_since = None
                continue
            now = time.monotonic()
            self._good_since = self._good_since or now
            if now - self._good_since >= STABLE_FOR_S:
                self._open_since = self._good_since = None
                self._changed.set()
                log.info("redis_circuit_closed", lock_backend="primary")
                if self._on_change is not None:
                    self._on_change("primary", "stable again")

    async def _settle(self) -> None:
        """Give back what Redis may still hold for us; raises what Redis says, and keeps what it was not told."""
        while self._owed:
            token, keys = owed = self._owed[0]
            async with asyncio.timeout(TIMEOUT_S):
                await self._release(keys=keys, args=[token])
            if self._owed and self._owed[0] is owed:  # not pushed out by newer ones meanwhile
                self._owed.popleft()

    async def reached(self, mode: str) -> None:
        """Return once the mode is this one."""
        while self.mode != mode:
            self._changed.clear()
            await self._changed.wait()

    # --- a drill's cut --------------------------------------------------------------------------------------------------

    @property
    def is_cut(self) -> bool:
        """Whether a drill has this process's path to Redis."""
        return self._cut is not None

    def cut(self, seconds: float) -> None:
        """Really take this process's path to Redis away: every new call goes to a port where nobody listens.

        For at most `seconds`, whatever becomes of the caller; nothing of it outlives the process. Does nothing while cut.
        """
        if self._cut is None:
            self._cut = _Cut(self.restore, seconds)
            self._use(self._cut.redis)
            log.warning("redis_path_cut", seconds=seconds)

    def restore(self) -> None:
        """Give the path back; the circuit closes by itself once Redis has been well for a while. Does nothing when not cut."""
        cut, self._cut = self._cut, None
        if cut is not None:
            self._use(self._true_path)
            cut.end()
            log.warning("redis_path_restored")

    def _use(self, redis: Redis) -> None:
        self.redis = redis
        self._acquire = redis.register_script(_ACQUIRE)
        self._release = redis.register_script(_RELEASE)

    async def close(self) -> None:
        """End the probe and the connections."""
        self.restore()
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self.redis.aclose()
