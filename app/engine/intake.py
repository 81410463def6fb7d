"""Durable intake (F-01): many requests, one transaction.

Requests put their parsed items into a buffer and wait; the loop takes what has gathered, accepts it in one transaction and
answers everybody. No answer leaves before its batch is durable. While a batch is being written the next one gathers, so
the batch size follows the load by itself; after a crowd a batch waits some milliseconds more, a lone request never does.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

import structlog
from msgspec.structs import replace as changed
from sqlalchemy.exc import IntegrityError

from app.clock import Clock
from app.domain.envelopes import Command, Malformed, Message, not_storable, parse_command, parse_event
from app.domain.states import State
from app.domain.triage import triage
from app.engine.lanes_last import LanesLast
from app.engine.policies import PolicyCache
from app.engine.recent import Recent
from app.engine.repeats import Repeats
from app.errors import KoraError, StorageUnavailable
from app.ids import new_id
from app.metrics import Metrics
from app.store.database import Database
from app.store.inbox import LanesMoved, Receipt, accept, queue_sizes
from app.store.intake_facts import Submission, ensure_lanes
from app.store.lanes import LaneKey
from app.store.ledger import result_of
from app.telemetry import LineKind
from app.tracing import Tracing

log = structlog.get_logger("engine.intake")
ACCEPTED: Final = LineKind("engine.intake", "accepted")

BATCH_MAX = 512
CROWD = 4
"""Requests in one batch from which on the next one lets some more gather."""
GATHER_S = 0.004
"""For how long: a transaction costs the same for six requests as for twelve, and at 1,000 a second there is no time for both."""
LANES_MAX = 50_000
"""Lanes remembered as existing; beyond, they are asked for once more."""
SIZES_FRESH_FOR_S = 0.5
WAIT_POLL_S = 0.5
STOPPING = "the server is stopping; nothing was accepted, send it again"


class Wakeable(Protocol):
    """Something that sleeps until there is work."""

    def __call__(self) -> None:
        """There may be work."""
        ...


@dataclass(slots=True)
class _Request:
    submissions: list[Submission]
    answer: "asyncio.Future[list[Receipt]]"


@dataclass(slots=True)
class _Sizes:
    """Queue lengths as last read, counted on from there."""

    read_at: float = float("-inf")
    known: dict[str, int] = field(default_factory=dict)


class Intake:
    """The loop that accepts, and the calls that web handlers make."""

    name = "intake"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        policies: PolicyCache,
        metrics: Metrics,
        *,
        tracing: Tracing | None = None,
        repeats: Repeats | None = None,
        recent: Recent | None = None,
        lanes_last: bool | None = None,
    ) -> None:
        """`lanes_last`: whether acceptances lock their lanes last; None: where several transactions write at once."""
        self.wake = asyncio.Event()
        self.on_accepted: list[Wakeable] = []
        self.on_commands: list[Callable[[Collection[LaneKey]], None]] = []
        """Called after `on_accepted` with the lanes of the commands among what was accepted."""
        self.on_messages: list[Wakeable] = []
        """The same for messages."""
        self.on_item: list[Callable[[Command | Message | Malformed, datetime], None]] = []
        """Called with each item that was queued and when it was received."""
        self._database, self._clock, self._policies, self._metrics = database, clock, policies, metrics
        self._tracing = tracing or Tracing()
        self._repeats = repeats
        self._recent = recent
        self._durable: list[tuple[str, list[tuple[Submission, Receipt]]]] = []
        """What is committed and not yet remembered on Redis, with the database's life from before."""
        self._buffer: list[_Request] = []
        self._sizes = _Sizes()
        self._lanes_last = LanesLast(not database.is_sqlite if lanes_last is None else lanes_last)
        self._lanes: set[LaneKey] = set()
        """Lanes that are known to exist."""
        self._crowded = False
        """Whether the last batch held a crowd of requests."""
        self._results: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._closed = False

    # --- what web handlers call -----------------------------------------------------------------------------------------

    async def commands(self, tenant_id: str, raw_items: Sequence[object]) -> list[Receipt]:
        """Accept Command envelopes; one receipt each, in order, once durable. Raises StorageUnavailable (nothing accepted)."""
        return await self.submit([command_submission(tenant_id, raw) for raw in raw_items])

    async def events(self, tenant_id: str, raw_items: Sequence[object]) -> list[Receipt]:
        """Accept Event envelopes; one receipt each, in order, once durable."""
        items = [(parse_event(raw, tenant_id=tenant_id, new_id=spare), spare) for raw in raw_items for spare in (new_id(),)]
        return await self.submit([message_submission(tenant_id, item, spare) for item, spare in items])

    async def messages(self, items: Sequence[Message | Malformed], tenant_id: str) -> list[Receipt]:
        """Accept what a webhook has parsed already."""
        return await self.submit([message_submission(tenant_id, item, new_id()) for item in items])

    async def submit(self, submissions: list[Submission]) -> list[Receipt]:
        """Accept prepared items; they stay together in one transaction."""
        if not submissions:
            return []
        if self._closed:
            raise StorageUnavailable(STOPPING)
        request = _Request(submissions, asyncio.get_running_loop().create_future())
        self._buffer.append(request)
        self.wake.set()
        started = time.perf_counter()
        receipts = await request.answer
        self._metrics.intake_seconds.observe(time.perf_counter() - started)
        return receipts

    async def result(self, tenant_id: str, command_id: str, timeout_s: float) -> None:
        """Return when the command has its terminal result, after the timeout, or when the server stops."""
        key = (tenant_id, command_id)
        done = asyncio.Event()
        self._results.setdefault(key, set()).add(done)
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._is_decided(tenant_id, command_id, done) and not self._closed:
                    try:
                        async with asyncio.timeout(WAIT_POLL_S):  # another node may decide it
                            await done.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            return
        finally:
            waiting = self._results[key]
            waiting.discard(done)
            if not waiting:
                del self._results[key]

    async def _is_decided(self, tenant_id: str, command_id: str, done: asyncio.Event) -> bool:
        done.clear()  # before the look: what is said during it is looked at again
        return await self._database.read(result_of, tenant_id, command_id) is not None

    def decided(self, tenant_id: str, command_ids: Sequence[str]) -> None:
        """Tell whoever waits that these commands have their result."""
        if not self._results:
            return
        for command_id in command_ids:
            for done in self._results.get((tenant_id, command_id), ()):
                done.set()

    def close(self) -> None:
        """Refuse new items and those that no batch holds yet; whoever waits for a result is answered as it stands.

        The loop may have done its last round already, so what still lay in the buffer would wait for nobody.
        """
        self._closed = True
        left, self._buffer = self._buffer, []
        for request in left:
            _refuse(request, StorageUnavailable(STOPPING))
        self.wake.set()
        for waiting in self._results.values():
            for done in waiting:
                done.set()

    # --- the loop -------------------------------------------------------------------------------------------------------

    async def tick(self) -> float:
        """Accept one batch. Every request of it has its answer when this returns or raises."""
        if self._crowded:
            await asyncio.sleep(GATHER_S)
        batch = self._take()
        self._crowded = len(batch) >= CROWD
        if not batch:
            return 30.0
        submissions = [s for request in batch for s in request.submissions]
        failure: Exception | None = None
        try:
            receipts = await self._accept(submissions)
        except (KoraError, OSError) as error:
            for request in batch:
                _refuse(request, error)
            raise
        except Exception as error:  # noqa: BLE001  # each request finds out for itself; what stays unexplained is raised below
            log.warning("batch_split", flow_id="F-01", requests=len(batch), error=_brief(error))
            failure = await self._accept_each(batch)
        else:
            self._metrics.intake_batch_size.observe(len(submissions))
            offset = 0
            for request in batch:
                count = len(request.submissions)
                _answer(request, receipts[offset : offset + count])
                offset += count
        items = [s.item for s in submissions]
        messages = self.on_messages if any(isinstance(item, Message) for item in items) else []
        for wake in (*self.on_accepted, *messages):
            wake()
        lanes = {(item.tenant_id, item.contact_id) for item in items if isinstance(item, Command)}
        for arrived in self.on_commands if lanes else ():
            arrived(lanes)
        await self._remember()
        if failure is not None:
            if not isinstance(failure, KoraError | OSError):  # the loop ends here: whoever waits would wait for nobody
                self.close()
            raise failure
        return 0.0 if self._buffer else 30.0

    def _take(self) -> list[_Request]:
        taken, size = 0, 0
        while taken < len(self._buffer) and (size == 0 or size + len(self._buffer[taken].submissions) <= BATCH_MAX):
            size += len(self._buffer[taken].submissions)
            taken += 1
        batch, self._buffer = self._buffer[:taken], self._buffer[taken:]
        return batch

    async def _accept(self, submissions: list[Submission]) -> list[Receipt]:
        receipts, now = await self._answers(submissions)
        told = list(zip(submissions, receipts, strict=True))
        for (kind, status), count in Counter((r.kind, r.status) for r in receipts).items():
            self._metrics.accepted(kind, status, count)
        known = self._sizes.known
        for submission, receipt in told:
            if receipt.status is State.QUEUED_FOR_DISPATCH:
                known[submission.tenant_id] = known.get(submission.tenant_id, 0) + 1
                for look in self.on_item:
                    look(submission.item, now)
                if self._recent is not None and isinstance(submission.item, Command):
                    self._recent.keep(changed(submission.item, commit_order=receipt.number), now)
        if self._tracing.active:
            for submission, receipt in told:
                self._tracing.span(
                    "intake", receipt.correlation_id, now, self._clock.now(), tenant_id=submission.tenant_id,
                    item_id=receipt.item_id, status=str(receipt.status), number=receipt.number,
                )  # fmt: skip
        ACCEPTED.info(
            {
                "flow_id": "F-01",
                "correlation_id": receipt.correlation_id,
                "tenant_id": submission.tenant_id,
                "contact_id": receipt.contact_id,
                "intent": submission.intent or getattr(submission.item, "command_type", None),
                "status": receipt.status,
                "dispatch_priority": receipt.dispatch_priority,
                "commit_order": receipt.number,
                "reason": receipt.reason,
            }
            for submission, receipt in told
        )
        return receipts

    async def _answers(self, submissions: list[Submission]) -> tuple[list[Receipt], datetime]:
        """One receipt each: exact repeats that Redis knows, everything else from one transaction; and when that was."""
        recalled = await self._repeats.recall(submissions) if self._repeats is not None else None
        known = recalled.receipts if recalled is not None else {}
        rest = [s for i, s in enumerate(submissions) if i not in known]
        room = await self._room(rest) if rest else {}
        now = self._clock.now()
        await self._create_lanes(rest, now)
        written = await self._store(rest, now, room) if rest else []
        if recalled is not None and rest:
            self._durable.append((recalled.life, list(zip(rest, written, strict=True))))
        answers = iter(written)
        return [known[i] if i in known else next(answers) for i in range(len(submissions))], now

    async def _store(self, submissions: list[Submission], now: datetime, room: Mapping[str, int]) -> list[Receipt]:
        """Accept with the lanes locked last; where others were at one of them, again and for a while with the lanes first."""
        if self._lanes_last.may:
            try:
                return await self._database.write(accept, submissions, now, room=room, lanes_last=True)
            except (LanesMoved, IntegrityError):  # nothing was written; an item's own fault shows again
                self._lanes_last.lost()
        return await self._database.write(accept, submissions, now, room=room)

    async def _create_lanes(self, submissions: Sequence[Submission], now: datetime) -> None:
        """Lanes that this process sees for the first time, in a transaction of their own.

        Acceptance would create them too, but holding those it has locked already: nodes that meet new families in one moment
        would wait for each other.
        """
        if self._database.is_sqlite:
            return
        items = [s.item for s in submissions if not isinstance(s.item, Malformed)]
        new = {(item.tenant_id, item.contact_id) for item in items if item.contact_id is not None} - self._lanes
        if not new:
            return
        await self._database.write(ensure_lanes, sorted(new), now)
        if len(self._lanes) + len(new) > LANES_MAX:
            self._lanes.clear()
        self._lanes |= new

    async def _remember(self) -> None:
        """Tell Redis what is durable; its answers have left by now."""
        durable, self._durable = self._durable, []
        for life, taken in durable:
            if self._repeats is not None:
                await self._repeats.remember(life, taken)

    async def _accept_each(self, batch: Sequence[_Request]) -> Exception | None:
        """Each request alone, after a batch that the database refused; answers all of them.

        Returns what the loop must still raise: the store went away, or it refuses whatever it is given.
        """
        failure: Exception | None = None
        for position, request in enumerate(batch):
            try:
                _answer(request, await self._accept_alone(request.submissions))
            except (KoraError, OSError) as error:
                for left in batch[position:]:
                    _refuse(left, error)
                return failure or error
            except _Raced as error:
                _refuse(request, StorageUnavailable(str(error)))
            except Exception as error:  # noqa: BLE001  # the others of the batch are answered first, then it is raised
                _refuse(request, error)
                failure = failure or error
        return failure

    async def _accept_alone(self, submissions: list[Submission]) -> list[Receipt]:
        """One request in its own transaction; where the database refuses an item of it, item by item."""
        try:
            return await self._accept_again(submissions)
        except (KoraError, OSError, _Raced):
            raise
        except Exception as error:  # noqa: BLE001  # which item it is shows when each is alone
            log.warning("request_split", flow_id="F-01", items=len(submissions), error=_brief(error))
        receipts: list[Receipt] = []
        for submission in submissions:
            try:
                receipts += await self._accept_again([submission])
            except (KoraError, OSError, _Raced):
                raise
            except Exception as error:  # noqa: BLE001  # it becomes an item for a person; where even that fails, that is raised
                receipts += await self._accept([set_aside(submission, error)])
        return receipts

    async def _accept_again(self, submissions: list[Submission]) -> list[Receipt]:
        """Accept, meeting up to twice what another node stored at the same moment; then raises _Raced."""
        for attempt in (1, 2, 3):
            try:
                return await self._accept(submissions)
            except IntegrityError as error:
                if not _is_race(error):
                    raise
                if attempt == 3:
                    raise _Raced(f"could not be stored beside what arrived at the same moment: {error.orig}") from error
        raise AssertionError("unreachable")

    async def _room(self, submissions: list[Submission]) -> dict[str, int]:
        """How many more items each tenant's queue takes."""
        tenants = {s.tenant_id for s in submissions}
        limits = await self._policies.queue_limits(tenants)
        now = asyncio.get_running_loop().time()
        if now - self._sizes.read_at > SIZES_FRESH_FOR_S or not tenants <= self._sizes.known.keys():
            self._sizes.known = await self._database.read(queue_sizes, tenants | self._sizes.known.keys())
            self._sizes.read_at = now
        return {t: limits[t].size - self._sizes.known.get(t, 0) for t in tenants}


def command_submission(tenant_id: str, raw: object) -> Submission:
    """A raw Command envelope, parsed, with its class."""
    spare = new_id()
    item = parse_command(raw, tenant_id=tenant_id, new_id=spare)
    priority = item.priority.rank if isinstance(item, Command) else 3
    return Submission(tenant_id=tenant_id, item=item, spare_id=spare, priority=priority)


def message_submission(tenant_id: str, item: Message | Malformed, spare_id: str) -> Submission:
    """A parsed message with its triage."""
    if isinstance(item, Malformed):
        return Submission(tenant_id=tenant_id, item=item, spare_id=spare_id)
    found = triage(item.text)
    return Submission(tenant_id=tenant_id, item=item, spare_id=spare_id, priority=found.priority.rank, intent=found.intent)


def set_aside(submission: Submission, error: Exception) -> Submission:
    """An item that the database refused as one for a person, in a form that every database holds."""
    log.error("item_not_storable", flow_id="F-01", tenant_id=submission.tenant_id, error=_brief(error))
    return changed(submission, item=not_storable(submission.item), priority=3, intent=None)


class _Raced(Exception):
    """What is stored kept changing under a request."""


def _is_race(error: IntegrityError) -> bool:
    """Whether another row was there first; any other constraint is broken by the item itself."""
    return getattr(error.orig, "sqlstate", None) == "23505" or "UNIQUE constraint failed" in str(error.orig)


def _brief(error: Exception) -> str:
    """The kind of failure and the database's code, never values: they hold what families wrote."""
    return f"{type(error).__name__} {getattr(getattr(error, 'orig', None), 'sqlstate', '') or ''}".strip()


def _answer(request: _Request, receipts: list[Receipt]) -> None:
    if not request.answer.done():
        request.answer.set_result(receipts)


def _refuse(request: _Request, error: BaseException) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
