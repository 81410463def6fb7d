"""Repeats answered from Redis (S-PC-01-003): the idempotency fast path in front of acceptance (contract, section 10).

After a batch is durable, each item that holds its idempotency key (a command's key, a message's provider id) is remembered for
`KEPT_S`: what it was, and the receipt that a repeat gets. A batch that comes later is looked up with one MGET before it is
written. Only an exact repeat (same tenant, contact and content under the same key) is answered from there, with the ids that
the database would have given. Whatever else is found, and a Redis that is slow, down or empty, means: ask the database.

What is remembered is about rows that never change and are never deleted, so it can only be wrong when the database forgets.
Therefore every name carries the database's life (`store.incarnation`): read before the write that it is remembered for, and
read again when something was found. A database that was put back has another life, in which nothing is known yet.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from app.domain.envelopes import Command, Malformed, Message, canonical_json, sha256_hex
from app.domain.states import State
from app.engine.redis_locks import RedisLocks
from app.ids import new_id
from app.metrics import Metrics
from app.store.database import Database
from app.store.inbox import Receipt
from app.store.incarnation import incarnation
from app.store.intake_facts import Submission

log = structlog.get_logger("engine.repeats")

KEPT_S: Final = 600
"""Long enough for a sender's retries; 1,000 items a second are then about 250 MB of Redis."""

LIFE_FRESH_S: Final = 5.0

_REMEMBER: Final = """
for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1]) end
return #KEYS
"""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a look-up found: receipts of exact repeats by place, and the database's life as it was before the batch is written."""

    life: str
    receipts: Mapping[int, Receipt]


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered under one name; a value of another shape is unreadable."""

    content: str
    contact_id: str
    item_id: str
    number: int | None
    dispatch_priority: str
    correlation_id: str


class Repeats:
    """What was accepted lately, on Redis, behind the circuit of the locks."""

    def __init__(self, database: Database, locks: RedisLocks, metrics: Metrics) -> None:
        self._database, self._locks, self._metrics = database, locks, metrics
        self._life: tuple[float, str] = (float("-inf"), "")
        self._own_life = new_id() if database.is_sqlite else None
        """A SQLite file is served by one process, and never exchanged under it: what is remembered ends with the process."""

    async def recall(self, submissions: Sequence[Submission]) -> Recalled:
        """Exact repeats among `submissions`; every other place is the database's to answer. Raises what its read raises."""
        life = await self._last_life()
        names = {i: name for i, s in enumerate(submissions) if (name := _name(s, life)) is not None}
        if not names:
            return Recalled(life, {})
        values = await self._locks.ask(lambda redis: redis.mget(list(names.values())))
        found: dict[int, Receipt] = {}
        for i, value in zip(names, values or [None] * len(names), strict=True):
            receipt = _receipt(submissions[i].item, value)
            if receipt is not None:
                found[i] = receipt
        if found and await self._read_life() != life:
            log.warning("database_life_changed", flow_id="F-01")
            found = {}
        self._metrics.intake_repeats.labels(answer="hit").inc(len(found))
        self._metrics.intake_repeats.labels(answer="miss").inc(len(names) - len(found))
        return Recalled(life, found)

    async def remember(self, life: str, taken: Iterable[tuple[Submission, Receipt]]) -> None:
        """Keep items that are durable; `life` is the one that was read before they were written."""
        kept = {name: _kept(s.item, r) for s, r in taken if r.holds_key and (name := _name(s, life)) is not None}
        if kept:
            names = list(kept)
            values: list[bytes | int] = [KEPT_S, *kept.values()]
            await self._locks.ask(lambda redis: redis.eval(_REMEMBER, len(names), *names, *values))

    async def _last_life(self) -> str:
        """As read at most `LIFE_FRESH_S` ago: under an old one nothing is found, and what is kept under it never will be."""
        read_at, life = self._life
        return life if time.monotonic() - read_at < LIFE_FRESH_S else await self._read_life()

    async def _read_life(self) -> str:
        if self._own_life is not None:
            return self._own_life
        started = time.monotonic()
        life = await self._database.read(incarnation)
        self._life = (started, life)
        return life


def _name(submission: Submission, life: str) -> str | None:
    """The name of an item in Redis: a digest, because senders put what they like into their keys. None: it has no key."""
    item = submission.item
    if isinstance(item, Malformed):
        return None
    key = ["command", item.idempotency_key] if isinstance(item, Command) else ["message", item.channel, item.external_id]
    return "repeat:" + sha256_hex(canonical_json([life, submission.tenant_id, *key]))


def _content(item: Command | Message) -> str:
    """A digest of what an item says; for a message stricter than the database, which compares its id alone."""
    if isinstance(item, Command):
        return item.fingerprint
    return sha256_hex(canonical_json([item.contact_id, item.phone, item.event_type, item.payload]))


def _kept(item: Command | Message | Malformed, receipt: Receipt) -> bytes:
    assert not isinstance(item, Malformed)
    assert receipt.contact_id is not None
    assert receipt.dispatch_priority is not None
    return msgspec.json.encode(
        _Kept(
            content=_content(item),
            contact_id=receipt.contact_id,
            item_id=receipt.item_id,
            number=receipt.number,
            dispatch_priority=receipt.dispatch_priority,
            correlation_id=receipt.correlation_id,
        )
    )


def _receipt(item: Command | Message | Malformed, value: bytes | str | None) -> Receipt | None:
    """The receipt of an exact repeat; None for everything else, also for what cannot be read."""
    if value is None or isinstance(item, Malformed):
        return None
    try:
        kept = msgspec.json.decode(value, type=_Kept)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # somebody else's, or of another version: the database answers
    if kept.content != _content(item) or item.contact_id not in (None, kept.contact_id):
        return None
    return Receipt(
        kind="command" if isinstance(item, Command) else "message",
        item_id=kept.item_id,
        contact_id=kept.contact_id,
        status=State.DUPLICATE_IGNORED,
        number=kept.number,
        dispatch_priority=kept.dispatch_priority,
        correlation_id=kept.correlation_id,
        reason="already_accepted",
        duplicate=True,
        holds_key=True,
    )
