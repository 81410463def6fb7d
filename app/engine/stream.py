"""The live stream: tails the event log and fans out to the browsers that are connected to this process.

Two kinds of message. A *nudge* names what changed (topic, clinic, refs) and its reader fetches what it shows again, under
its own permissions, so a lost nudge is harmless. A *state* message carries small fragments without personal data, rendered
once per audience (clinics, role, language) and at most four times a second. Positions of the event log are the ids, so
reading on and resuming after a position are one path; a position that is unknown here is answered with `reset`, after which
the browser fetches everything again.

Failure stance: while the database does not answer there is no heartbeat, so screens say themselves that they are stale; a
client that does not read is dropped and resumes. Everything here can be rebuilt from the database.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from app.clock import Clock
from app.errors import KoraError
from app.metrics import Metrics
from app.store.database import Database
from app.store.views.changes import Change, Tail, read_end, read_on

log = structlog.get_logger("engine.stream")

POLL_S: Final = 0.25
IDLE_POLL_S: Final = 1.0
"""Between looks at the log with and without anybody connected; a wake-up shortens it."""
TAIL_GAP_S: Final = 0.1
STATE_GAP_S: Final = 0.25
"""State fragments of one audience go out at most this often."""
HEARTBEAT_S: Final = 5.0
RING_CHANGES: Final = 10_000
"""Changes kept for browsers that come back; behind them a browser fetches everything again."""
START_CHANGES: Final = 1_000
REFS_MAX: Final = 50
QUEUE_BYTES_MAX: Final = 64 * 1024
RETRY_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Audience:
    """Whoever sees the same: clinics (sorted; None = all), role and language. Nothing is rendered for less."""

    tenants: tuple[str, ...] | None
    role: str
    language: str

    @property
    def scope(self) -> str:
        """Name of the clinics, as pages carry it."""
        return "*" if self.tenants is None else " ".join(self.tenants)

    def sees(self, change: Change) -> bool:
        """Whether a change may be told to this audience."""
        return change.tenant_id is None or self.tenants is None or change.tenant_id in self.tenants


Render = Callable[[Audience, frozenset[str]], Awaitable[Mapping[str, str]]]
"""State fragments (id -> HTML) of an audience that depend on any of the topics."""


@dataclass(eq=False)
class Subscriber:
    """One connected browser: a bounded queue of encoded messages. Iterate over it to send them."""

    audience: Audience
    session: str | None
    user_id: str | None
    _queue: deque[bytes] = field(default_factory=deque)
    _bytes: int = 0
    _closed: str | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def closed(self) -> str | None:
        """Why it ended (`slow`, `session`, `shutdown`, `gone`), or None."""
        return self._closed

    def put(self, message: bytes) -> None:
        """Queue a message; too much unread ends the stream."""
        if self._closed is not None:
            return
        if self._bytes + len(message) > QUEUE_BYTES_MAX:
            self.close("slow")
            return
        self._queue.append(message)
        self._bytes += len(message)
        self._ready.set()

    def close(self, reason: str) -> None:
        """End the stream; the browser is told why unless it does not read anyway."""
        if self._closed is not None:
            return
        self._closed = reason
        self._queue.clear()
        self._bytes = 0
        if reason != "slow":
            self._queue.append(_message("bye", {"reason": reason}))
        self._ready.set()

    async def messages(self) -> AsyncIterator[bytes]:
        """Encoded messages until the stream is closed."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._queue:
                message = self._queue.popleft()
                self._bytes = max(0, self._bytes - len(message))
                yield message
            if self._closed is not None:
                return


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one look at the log brought; `late` = it became visible behind positions told before."""

    position: int
    changes: tuple[Change, ...]
    late: bool = False


@dataclass(slots=True)
class _Pending:
    """State fragments that an audience is owed."""

    topics: set[str] = field(default_factory=set)
    everything: bool = False
    rendered_at: float = 0.0
    last: dict[str, str] = field(default_factory=dict)


class StreamHub:
    """Owner of the connected browsers of one process."""

    def __init__(self, database: Database, clock: Clock, metrics: Metrics) -> None:
        self._database, self._clock, self._metrics = database, clock, metrics
        self._tail = Tail(0, 0)
        self._known = 0
        """Position before the oldest batch of the ring."""
        self._ring: deque[_Batch] = deque()
        self._kept = 0
        """Changes in the ring."""
        self._audiences: dict[Audience, set[Subscriber]] = {}
        self._pending: dict[Audience, _Pending] = defaultdict(_Pending)
        self._woken, self._state_due = asyncio.Event(), asyncio.Event()
        self._read_at = float("-inf")
        self._draining = False
        self.ready = asyncio.Event()
        """Set once the end of the log is known."""
        self.render: Render | None = None
        """How state fragments are made; the web layer puts it here."""

    @property
    def position(self) -> int:
        """How far the log has been read: what a page that is rendered now may resume after."""
        return self._tail.position

    @property
    def clients(self) -> int:
        """Browsers connected now."""
        return sum(len(group) for group in self._audiences.values())

    # --- browsers -------------------------------------------------------------------------------------------------------

    def subscribe(self, audience: Audience, since: int | None, *, session: str | None, user_id: str | None) -> Subscriber:
        """Connect a browser that knows everything up to `since`; it gets what came later, or `reset`."""
        subscriber = Subscriber(audience, session, user_id)
        missed = self._missed(since)
        kind = "reset" if missed is None else "hello"
        subscriber.put(_message(kind, self._now(), event_id=self.position, retry=True))
        if missed:
            nudge = _nudge(self.position, [c for c in missed if audience.sees(c)])
            if nudge is not None:
                subscriber.put(nudge)
        if self._draining:
            subscriber.close("shutdown")
            return subscriber
        group = self._audiences.setdefault(audience, set())
        group.add(subscriber)
        self._metrics.stream_clients.set(self.clients)
        self._owe(audience, None)
        self._woken.set()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget a browser that is gone."""
        if subscriber.closed == "slow":
            self._metrics.stream_dropped.inc()
        subscriber.close("gone")
        group = self._audiences.get(subscriber.audience)
        if group is not None:
            group.discard(subscriber)
            if not group:
                del self._audiences[subscriber.audience]
                self._pending.pop(subscriber.audience, None)
        self._metrics.stream_clients.set(self.clients)

    def end(self, *, session: str | None = None, user_id: str | None = None) -> int:
        """End the streams of a session, or of all sessions of a person; returns how many."""
        ended = 0
        for subscriber in self._everyone():
            if (session is not None and subscriber.session == session) or (user_id is not None and subscriber.user_id == user_id):
                subscriber.close("session")
                ended += 1
        return ended

    def drain(self) -> None:
        """End every stream, and every new one at once: the process is stopping."""
        self._draining = True
        for subscriber in self._everyone():
            subscriber.close("shutdown")

    def wake(self) -> None:
        """Something was written: look at the log now."""
        self._woken.set()

    def _everyone(self) -> list[Subscriber]:
        return [subscriber for group in self._audiences.values() for subscriber in group]

    def _missed(self, since: int | None) -> list[Change] | None:
        """Changes behind a position; None when that is not known here (too old, or from another database)."""
        if since is None or not self.ready.is_set() or since > self.position or since < self._known:
            return None
        batches = (b for b in self._ring if b.position > since or (b.late and b.position == since))
        return [change for batch in batches for change in batch.changes]

    # --- the loop -------------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Tail, render and beat until `stop`; a defect is raised, a database that does not answer is waited for."""
        tasks = [asyncio.create_task(work) for work in (self._tail_log(), self._render_states(), self._beat())]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            stopping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    async def _tail_log(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._read()
            except (OSError, KoraError) as error:
                if isinstance(error, KoraError) and error.permanent:
                    raise
                log.warning("stream_waits_for_database", error=str(error)[:200])
            await asyncio.sleep(TAIL_GAP_S)
            try:
                async with asyncio.timeout(POLL_S if self._audiences else IDLE_POLL_S):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _read(self) -> None:
        if not self.ready.is_set():
            self._tail = await self._database.read(read_end, START_CHANGES)
            changes = self._tail.changes
            self._known = changes[0].position - 1 if changes else self._tail.position
            for change in changes:
                self._keep(_Batch(change.position, (change,)))
            self.ready.set()
            self._read_at = time.monotonic()
            return
        before = self._tail.position
        self._tail = tail = await self._database.read(read_on, self._tail)
        self._read_at = time.monotonic()
        if tail.overflow:
            self._ring.clear()
            self._kept, self._known = 0, tail.position
            for audience, group in self._audiences.items():
                self._owe(audience, None)
                _send(group, _message("reset", self._now(), event_id=tail.position))
        elif tail.changes:
            self._keep(_Batch(tail.position, tail.changes, late=tail.position == before))
            self._tell(tail.changes)

    def _keep(self, batch: _Batch) -> None:
        self._ring.append(batch)
        self._kept += len(batch.changes)
        while self._kept > RING_CHANGES and len(self._ring) > 1:
            oldest = self._ring.popleft()
            self._kept -= len(oldest.changes)
            self._known = oldest.position

    def _tell(self, changes: Iterable[Change]) -> None:
        """One nudge per audience, encoded once."""
        for audience, group in self._audiences.items():
            seen = [change for change in changes if audience.sees(change)]
            nudge = _nudge(self.position, seen)
            if nudge is not None:
                _send(group, nudge)
                self._owe(audience, {change.topic for change in seen})

    def _owe(self, audience: Audience, topics: set[str] | None) -> None:
        pending = self._pending[audience]
        if topics is None:
            pending.everything = True
        else:
            pending.topics |= topics
        self._state_due.set()

    async def _render_states(self) -> None:
        while True:
            await self._state_due.wait()
            self._state_due.clear()
            started = time.monotonic()
            for audience in list(self._audiences):
                await self._render_one(audience)
            await asyncio.sleep(max(0.0, STATE_GAP_S - (time.monotonic() - started)))

    async def _render_one(self, audience: Audience) -> None:
        pending = self._pending.get(audience)
        if pending is None or self.render is None or not (pending.topics or pending.everything):
            return
        everything, topics = pending.everything, frozenset(pending.topics)
        pending.topics, pending.everything = set(), False
        try:
            fragments = await self.render(audience, frozenset() if everything else topics)
        except (OSError, KoraError):
            pending.everything = True  # owed still
            self._state_due.set()
            return
        except Exception:
            # a screen that cannot be drawn must not stop the engine: the log has the trace, pages answer with their own error
            log.exception("state_not_rendered", role=audience.role, language=audience.language)
            return
        changed = {name: html for name, html in fragments.items() if everything or pending.last.get(name) != html}
        pending.last.update(fragments)
        group = self._audiences.get(audience)
        if changed and group:
            _send(group, _message("state", {"scope": audience.scope, "fragments": changed}, event_id=self.position))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if time.monotonic() - self._read_at < HEARTBEAT_S:
                beat = _message("hb", self._now(), event_id=self.position)
                for group in list(self._audiences.values()):
                    _send(group, beat)

    def _now(self) -> dict[str, object]:
        """The server's time, for clocks and countdowns in the browser."""
        return {"rev": self.position, "now": self._clock.now().isoformat(timespec="milliseconds"), "scale": self._clock.scale}


def _send(group: Iterable[Subscriber], message: bytes) -> None:
    for subscriber in list(group):
        subscriber.put(message)


def _nudge(position: int, changes: Iterable[Change]) -> bytes | None:
    """One message about all the changes, merged by clinic and topic; None when there are none."""
    merged: dict[tuple[str | None, str], set[str] | None] = {}
    for change in changes:
        key = (change.tenant_id, change.topic)
        known = merged.get(key, set())
        merged[key] = None if known is None or not change.refs else known | set(change.refs)
    if not merged:
        return None
    told = [
        {"tenant": tenant, "topic": topic, "refs": sorted(refs) if refs is not None and len(refs) <= REFS_MAX else []}
        for (tenant, topic), refs in merged.items()
    ]
    return _message("nudge", {"rev": position, "changes": told}, event_id=position)


def _message(event: str, data: Mapping[str, object], *, event_id: int | None = None, retry: bool = False) -> bytes:
    lines = [] if event_id is None else [f"id: {event_id}"]
    lines.append(f"event: {event}")
    if retry:
        lines.append(f"retry: {RETRY_MS}")
    # JSON has no raw line breaks, so one data line is enough
    lines.append(f"data: {msgspec.json.encode(data).decode()}")
    return ("\n".join(lines) + "\n\n").encode()
