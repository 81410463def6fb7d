"""The job of our own engine on other tools: what a team would have to write to leave the same rows behind.

Every command is a `follow_up`: a message to the family. These peers work on the product's own schema, with all of its
indexes, constraints and walls, and leave for each command what the engine leaves: the inbox row with its unique keys, a
ledger entry (one per place, one per effect key, hashed over the entry before), a message in the outbox, and the rows of the
event log that streams read, all of it in the transaction of the effect. Afterwards every command must be done once, in
its contact's order, and `kora verify`, the product's own check, must find nothing.

Done by hand are: giving places and storing a batch of commands (one statement for 200), claiming lanes that are ready and
reading their front command and whether its key had an effect before (one statement), and everything that one command
writes (one statement). What the engine does besides is not asked of them: answering repeats at acceptance, the gate (mode,
fences, versions, takeover, permissions), policies per clinic, fair turns, gaps in the order, locks between nodes, metrics.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
import msgspec

from app.clock import SystemClock
from app.domain.envelopes import canonical_json, sha256_hex
from app.domain.facts import GatePolicy
from app.domain.ledger_chain import entry_hash
from app.domain.reasons import Reason
from app.domain.states import PRIORITY_OF_COMMAND, CommandType, LockResult, RequestedBy, Source, State
from app.ids import new_id
from app.store.database import Database
from app.store.migrate import upgrade
from app.store.tables import Contact, Lane, table
from app.store.tenancy import EVERYONE, SETTING
from bench.peers import (
    FIFTY,
    FIFTY_TOGETHER,
    ONE,
    PROCRASTINATE,
    WARM_ROUNDS,
    WORKERS,
    WORKERS_OF_FIFTY,
    Defer,
    Peer,
    drained,
    kept_connection,
    phases,
    procrastinated,
)
from tests.builders import clinic

TENANT: Final = "ten-sol"
TYPE: Final = CommandType.FOLLOW_UP
LATE_AFTER: Final = GatePolicy().late_after
TTL: Final = GatePolicy().replay_ttl[TYPE]
_RANK: Final = PRIORITY_OF_COMMAND[TYPE].rank

_TOLD: Final = """
INSERT INTO event_log (tenant_id, topic, refs_json, at, xid)
SELECT '{tenant}', topic, {refs}, {at}, pg_current_xact_id()::text::bigint FROM unnest(ARRAY['queue', 'lane']) AS topic
"""

_ENQUEUE: Final = f"""
WITH given AS (
    SELECT g.*, row_number() OVER (PARTITION BY contact_id ORDER BY n) AS place
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY
        AS g (command_id, contact_id, idempotency_key, fingerprint, correlation_id, payload_json, n)
), more AS (
    SELECT contact_id, count(*) AS n FROM given GROUP BY contact_id
), locked AS (
    SELECT lane.contact_id, lane.last_assigned, more.n FROM lane JOIN more USING (contact_id)
    WHERE lane.tenant_id = '{TENANT}' ORDER BY lane.contact_id FOR UPDATE OF lane
), stored AS (
    INSERT INTO command (
        tenant_id, command_id, contact_id, commit_order, command_type, priority, status, idempotency_key, fingerprint,
        requested_by, source, confirmed_by_contact, conversation_version, as_of, occurred_at, accepted_at, attempts,
        was_parked, replayed, correlation_id, correlation_generated, payload_json, payload_level
    )
    SELECT
        '{TENANT}', command_id, contact_id, last_assigned + place, '{TYPE}', {_RANK}, '{State.QUEUED_FOR_DISPATCH}',
        idempotency_key, fingerprint, '{RequestedBy.AI}', '{Source.WHATSAPP}', false, 1, $7, $7, $7, 0,
        false, false, correlation_id, false, payload_json, 0
    FROM given JOIN locked USING (contact_id) ORDER BY given.n
), told AS (
    {_TOLD.format(tenant=TENANT, refs="$8", at="$7")}
)
UPDATE lane SET
    last_assigned = lane.last_assigned + locked.n, waiting = waiting + locked.n, wait_{_RANK} = wait_{_RANK} + locked.n,
    ready_since = coalesce(ready_since, $7)
FROM locked WHERE lane.tenant_id = '{TENANT}' AND lane.contact_id = locked.contact_id
"""

_FRONT: Final = f"""
WITH mine AS MATERIALIZED (
    SELECT contact_id, last_committed, conversation_version, guardian_version, takeover_id IS NOT NULL AS taken_over, chain_hash
    FROM lane WHERE tenant_id = '{TENANT}' AND {{which}}
)
SELECT
    mine.*, c.command_id, c.commit_order, c.idempotency_key, c.correlation_id, c.occurred_at, c.accepted_at, c.payload_json,
    EXISTS (SELECT 1 FROM ledger AS e WHERE e.tenant_id = '{TENANT}' AND e.effect_key = c.idempotency_key) AS key_used
FROM mine JOIN command AS c
    ON c.tenant_id = '{TENANT}' AND c.contact_id = mine.contact_id AND c.commit_order = mine.last_committed + 1
"""
"""Locks lanes and reads the front command of each.

One statement does nothing twice here: a lane that another worker has just served is locked as that worker left it, and the
front command is the one at the place after the last committed one, whatever was there when the statement began.
"""
_CLAIM: Final = _FRONT.format(
    which="waiting > 0 AND (not_before IS NULL OR not_before <= $2) AND paused_at IS NULL LIMIT $1 FOR UPDATE SKIP LOCKED"
)
_FRONT_OF: Final = _FRONT.format(which="contact_id = $1 FOR UPDATE")

_GIVEN: Final = {
    "contact_id": "text",
    "commit_order": "bigint",
    "command_id": "text",
    "result": "text",
    "reason": "text",
    "effect_key": "text",
    "conversation_version": "int",
    "guardian_version": "int",
    "takeover_active": "boolean",
    "attempt": "text",
    "late": "boolean",
    "event_age_s": "float",
    "ttl_limit_s": "float",
    "correlation_id": "text",
    "accepted_at": "timestamptz",
    "committed_at": "timestamptz",
    "prev_hash": "text",
    "hash": "text",
    "outbox_id": "text",
    "body_json": "text",
    "status": "text",
}
"""What a command's rows are made of, in the order of the parameters, and as which type."""

_WRITE: Final = f"""
WITH g AS ({{given}}), entry AS (
    INSERT INTO ledger (
        tenant_id, contact_id, commit_order, command_id, command_type, result, reason, effect_key, conversation_version,
        guardian_version, takeover_active, mode_epoch, lock_backend, lock_mode, lock_ms, node_id, attempt, late, event_age_s,
        ttl_limit_s, correlation_id, accepted_at, committed_at, prev_hash, hash
    )
    SELECT
        '{TENANT}', contact_id, commit_order, command_id, '{TYPE}', result, reason, effect_key, conversation_version,
        guardian_version, takeover_active, 0, '{LockResult.LOCK_ACQUIRED_PRIMARY}', 'database', 0, 'bench', attempt,
        late, event_age_s, ttl_limit_s, correlation_id, accepted_at, committed_at, prev_hash, hash
    FROM g
), message AS (
    INSERT INTO outbox (
        outbox_id, tenant_id, cause_id, step, contact_id, kind, target, status, attempts, created_at, due_at, correlation_id,
        body_json, payload_level
    )
    SELECT
        outbox_id, '{TENANT}', command_id, 'effect', contact_id, 'family_message', '', 'pending', 0, committed_at, committed_at,
        correlation_id, body_json, 0
    FROM g WHERE outbox_id IS NOT NULL
), done AS (
    UPDATE command AS c SET
        status = g.status, result = g.result, reason = g.reason, done_at = g.committed_at, attempts = attempts + 1
    FROM g WHERE c.tenant_id = '{TENANT}' AND c.command_id = g.command_id
){{told}}
UPDATE lane SET
    last_committed = g.commit_order, waiting = waiting - 1, wait_{_RANK} = wait_{_RANK} - 1, chain_hash = g.hash,
    ready_since = CASE WHEN waiting > 1 THEN ready_since END
FROM g WHERE lane.tenant_id = '{TENANT}' AND lane.contact_id = g.contact_id
"""
_ROW: Final = "SELECT " + ", ".join(f"${n}::{kind} AS {name}" for n, (name, kind) in enumerate(_GIVEN.items(), start=1))
_ROWS: Final = (
    "SELECT * FROM unnest("
    + ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(_GIVEN.values(), start=1))
    + f") AS g ({', '.join(_GIVEN)})"
)
_REFS: Final = len(_GIVEN) + 1
_TOLD_TOO: Final = f", told AS ({_TOLD.format(tenant=TENANT, refs=f'${_REFS}', at=f'${_REFS + 1}')})"
_ONE: Final = _WRITE.format(given=_ROW, told=_TOLD_TOO)
"""All that one command writes, and the event log in the same message."""
_ALL: Final = _WRITE.format(given=_ROWS, told=_TOLD_TOO)
"""All that many commands of as many lanes write, and the event log of all of them."""
_EACH: Final = _WRITE.format(given=_ROW, told="")
_TELL: Final = _TOLD.format(tenant=TENANT, refs="$1", at="$2")
"""The event log of a transaction that served several lanes: one row per topic, as the engine writes it."""


async def prepare(url: str, keys: int) -> None:
    """The product's schema, a clinic, and a contact with its lane for every key."""
    database, now = Database(url), SystemClock().now()
    await upgrade(database)
    await database.write(clinic, tenant_id=TENANT, now=now)
    names = [{"tenant_id": TENANT, "contact_id": f"c-{n}"} for n in range(keys)]
    await database.write(lambda conn: conn.execute(table(Contact).insert(), [{**name, "created_at": now} for name in names]))
    await database.write(lambda conn: conn.execute(table(Lane).insert(), names))
    await database.close()


async def one_per_transaction(url: str, count: int, keys: int) -> float:
    """Commands per second: a lane claimed, its front command done, in one transaction of two statements."""

    async def claim(conn: Any) -> int:
        rows = await conn.fetch(_CLAIM, 1, SystemClock().now())
        for row in rows:
            await _do_one(conn, row)
        return len(rows)

    return await _handwritten(url, count, keys, WORKERS, claim)


async def fifty_per_transaction(url: str, count: int, keys: int) -> float:
    """Commands per second: fifty lanes claimed at once, the front command of each done by a statement of its own."""

    async def claim(conn: Any) -> int:
        rows, token = await conn.fetch(_CLAIM, 50, SystemClock().now()), new_id()
        for row in rows:
            await conn.execute(_EACH, *_written(row, token, SystemClock().now()))
        await _tell(conn, rows)
        return len(rows)

    return await _handwritten(url, count, keys, WORKERS_OF_FIFTY, claim)


async def fifty_at_once(url: str, count: int, keys: int) -> float:
    """The same where the effect happens to be the same for all fifty: one statement writes them, no command has code of its own."""

    async def claim(conn: Any) -> int:
        rows = await conn.fetch(_CLAIM, 50, SystemClock().now())
        now, token = SystemClock().now(), new_id()  # of the effect: once the lanes are ours
        if rows:
            columns = zip(*(_written(row, token, now) for row in rows), strict=True)
            await conn.execute(_ALL, *map(list, columns), _refs([row["contact_id"] for row in rows]), now)
        return len(rows)

    return await _handwritten(url, count, keys, WORKERS_OF_FIFTY, claim)


async def with_procrastinate(url: str, count: int, keys: int) -> float:
    """Commands per second with procrastinate's queue and a `lock` per contact: the task does one command in one transaction.

    The inbox rows of a batch are committed before its jobs are deferred, so no job comes too early.
    """
    pool = await _pool(url, connection_class=kept_connection())

    async def work(contact_id: str, command_id: str) -> None:
        async with pool.acquire() as conn, conn.transaction():
            row = await conn.fetchrow(_FRONT_OF, contact_id)
            assert row["command_id"] == command_id, f"{contact_id}: {command_id} came out of order"
            await _do_one(conn, row)

    async def enqueue(defer: Defer, batch: range) -> None:
        stored = await _store(pool, batch, keys)
        await defer([(contact, {"contact_id": contact, "command_id": command}) for contact, command in stored])

    try:
        took_s = await procrastinated(url, phases(count, keys), keys, work, enqueue)
        await _in_order(pool, count + WARM_ROUNDS * keys)
        return count / took_s
    finally:
        await pool.close()


async def _handwritten(url: str, count: int, keys: int, workers: int, claim: Any) -> float:
    pool = await _pool(url)

    try:
        took_s = await drained(pool, phases(count, keys), keys, workers, lambda batch: _store(pool, batch, keys), claim)
        await _in_order(pool, count + WARM_ROUNDS * keys)
        return count / took_s
    finally:
        await pool.close()


async def _pool(url: str, **options: Any) -> Any:
    """Connections that see every clinic, with the planner's settings that the engine's own have."""
    settings = {SETTING: EVERYONE, "timezone": "UTC", "jit": "off", "random_page_cost": "1.1"}
    return await asyncpg.create_pool(url, min_size=WORKERS + 1, max_size=WORKERS + 1, server_settings=settings, **options)


async def _store(pool: Any, numbers: range, keys: int) -> list[tuple[str, str]]:
    """Accept a batch of commands; (contact, command id) of each."""
    contacts, commands = [f"c-{n % keys}" for n in numbers], [new_id() for _ in numbers]
    payloads, now = [{"text": f"mensagem {n}"} for n in numbers], SystemClock().now()
    await pool.execute(
        _ENQUEUE,
        commands,
        contacts,
        [f"k-{n}" for n in numbers],
        [sha256_hex(canonical_json([c, TYPE, None, p])) for c, p in zip(contacts, payloads, strict=True)],
        [f"corr-{n}" for n in numbers],
        [canonical_json(payload) for payload in payloads],
        now,
        _refs(contacts),
    )
    return list(zip(contacts, commands, strict=True))


async def _do_one(conn: Any, row: Any) -> None:
    now = SystemClock().now()
    await conn.execute(_ONE, *_written(row, new_id(), now), _refs([row["contact_id"]]), now)


async def _tell(conn: Any, rows: Sequence[Any]) -> None:
    if rows:
        await conn.execute(_TELL, _refs([row["contact_id"] for row in rows]), SystemClock().now())


def _refs(contacts: Sequence[str]) -> str:
    return msgspec.json.encode(sorted(set(contacts))).decode()


def _written(row: Any, token: str, now: datetime) -> tuple[Any, ...]:
    """The parameters of `_EACH` for a lane's front command."""
    age: timedelta = now - row["occurred_at"]
    late = age > LATE_AFTER
    if row["key_used"]:
        result, status, reason = State.DUPLICATE_IGNORED, State.DUPLICATE_IGNORED, Reason.SAME_KEY_SAME_REQUEST
    elif late:
        result, status, reason = State.REPLAYED, State.COMMITTED_CAUSAL, Reason.REPLAYED_WITHIN_FENCES
    else:
        result, status, reason = State.APPLIED_ONCE, State.COMMITTED_CAUSAL, Reason.APPLIED
    effect_key = None if row["key_used"] else row["idempotency_key"]
    hashed = {
        "tenant_id": TENANT,
        "contact_id": row["contact_id"],
        "commit_order": row["commit_order"],
        "command_id": row["command_id"],
        "command_type": TYPE,
        "result": result,
        "reason": reason,
        "effect_key": effect_key,
        "entity_id": None,
        "entity_version": None,
        "conversation_version": row["conversation_version"],
        "guardian_version": row["guardian_version"],
        "takeover_active": row["taken_over"],
        "mode_epoch": 0,
        "late": late,
        "correlation_id": row["correlation_id"],
        "committed_at": now,
    }
    return (
        row["contact_id"],
        row["commit_order"],
        row["command_id"],
        result,
        reason,
        effect_key,
        row["conversation_version"],
        row["guardian_version"],
        row["taken_over"],
        token,
        late,
        age.total_seconds() if late else None,
        TTL.total_seconds() if late else None,
        row["correlation_id"],
        row["accepted_at"],
        now,
        row["chain_hash"],
        entry_hash(row["chain_hash"], hashed),
        new_id() if effect_key is not None else None,
        row["payload_json"],
        status,
    )


async def _in_order(pool: Any, count: int) -> None:
    """Every command once and with its message, each contact's in the order in which they were sent."""
    rows = await pool.fetch(
        "SELECT e.contact_id, e.commit_order, c.idempotency_key, o.body_json FROM ledger AS e"
        " JOIN command AS c USING (tenant_id, command_id)"
        " JOIN outbox AS o ON o.tenant_id = e.tenant_id AND o.cause_id = e.command_id"
        " WHERE c.done_at IS NOT NULL ORDER BY e.committed_at, e.commit_order"
    )
    assert len(rows) == count, f"{len(rows)} of {count} commands were done"
    seen: dict[str, tuple[int, int]] = {}
    for row in rows:
        contact, number = row["contact_id"], int(row["idempotency_key"].removeprefix("k-"))
        place, before = seen.get(contact, (0, -1))
        assert row["commit_order"] == place + 1, f"{contact}: place {row['commit_order']} after {place}"
        assert number > before, f"{contact}: command {number} after {before}"
        assert row["body_json"] == f'{{"text":"mensagem {number}"}}', f"{contact}: command {number} says {row['body_json']}"
        seen[contact] = (row["commit_order"], number)


SAME_JOB: Final = {
    ONE: Peer(prepare, one_per_transaction),
    FIFTY: Peer(prepare, fifty_per_transaction),
    FIFTY_TOGETHER: Peer(prepare, fifty_at_once),
    PROCRASTINATE: Peer(prepare, with_procrastinate, slow=True),
}
