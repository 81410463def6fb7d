"""The database's per-contact lock: owner token, expiry, compare-and-delete; many keys in one statement.

Locks save work; they are never a reason to believe that an effect may happen (see `store.ledger`). On PostgreSQL neither
statement ever waits for another transaction (decision 0027): one node that stands still with a lock transaction open keeps
its own lanes from the others, and nothing else.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, Row, select, text

from app.store.bulk import Bundle, encode
from app.store.columns import json_time
from app.store.lanes import LaneKey
from app.store.tables import LaneLock, table

_LOCK = table(LaneLock)

_ACQUIRE = {
    # Expired rows are taken over unless another transaction is at them; absent keys unless another transaction is inserting
    # them, which only the advisory lock tells without waiting. A key that changed since the statement began is not granted:
    # its lane comes up again.
    "postgresql": text(
        "WITH asked AS (SELECT lock_key FROM json_to_recordset(CAST(:rows AS json)) AS r(lock_key text)), "
        "old AS (SELECT l.lock_key FROM lane_lock l JOIN asked USING (lock_key) WHERE l.expires_at <= :now "
        "FOR UPDATE OF l SKIP LOCKED), "
        "renewed AS (UPDATE lane_lock SET token = :token, node_id = :node_id, expires_at = :expires_at FROM old "
        "WHERE lane_lock.lock_key = old.lock_key RETURNING lane_lock.lock_key), "
        "absent AS MATERIALIZED (SELECT lock_key FROM asked "
        "WHERE NOT EXISTS (SELECT 1 FROM lane_lock l WHERE l.lock_key = asked.lock_key)), "
        "mine AS MATERIALIZED (SELECT lock_key FROM absent WHERE pg_try_advisory_xact_lock(hashtextextended(lock_key, 0))), "
        "added AS (INSERT INTO lane_lock (lock_key, token, node_id, expires_at) "
        "SELECT lock_key, :token, :node_id, :expires_at FROM mine ON CONFLICT (lock_key) DO NOTHING RETURNING lock_key) "
        "SELECT lock_key FROM renewed UNION ALL SELECT lock_key FROM added"
    ),
    "sqlite": text(
        "INSERT INTO lane_lock (lock_key, token, node_id, expires_at) "
        "SELECT json_extract(value, '$.lock_key'), :token, :node_id, :expires_at FROM json_each(:rows) WHERE true "
        "ON CONFLICT (lock_key) DO UPDATE SET token = excluded.token, node_id = excluded.node_id, expires_at = excluded.expires_at "
        "WHERE lane_lock.expires_at <= :now RETURNING lock_key"
    ),
}

_RELEASE = {
    # A row of ours that another transaction is at has expired and is being taken over: nothing to give back. By their places,
    # which a lock keeps as they are: a join by name compares every lock with every other one, as the planner takes both for few.
    "postgresql": "DELETE FROM lane_lock WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM lane_lock WHERE lock_key = ANY({keys}) AND token = {token} FOR UPDATE SKIP LOCKED))",
    "sqlite": "DELETE FROM lane_lock WHERE lock_key IN (SELECT value FROM json_each({keys})) AND token = {token}",
}


def lock_name(key: LaneKey) -> str:
    """The lock of a lane."""
    return f"lane:{key[0]}:{key[1]}"


def acquire_locks(
    conn: Connection, keys: Sequence[str], token: str, now: datetime, expires_at: datetime, node_id: str | None = None
) -> set[str]:
    """Take the free and the expired ones of `keys` for `token` until `expires_at`; returns those taken, waits for none."""
    dialect = conn.dialect.name
    taken = conn.execute(
        _ACQUIRE[dialect],
        {
            "rows": encode([{"lock_key": key} for key in sorted(keys)], dialect),
            "token": token,
            "node_id": node_id,
            "now": _bound(now, dialect),
            "expires_at": _bound(expires_at, dialect),
        },
    )
    return {row[0] for row in taken}


def release_locks(conn: Connection, keys: Sequence[str], token: str) -> None:
    """Give back those of `keys` that `token` still owns."""
    bundle = Bundle(conn)
    release_with(bundle, keys, token)
    bundle.run()


def release_with(bundle: Bundle, keys: Sequence[str], token: str) -> None:
    """The same as a part of a bundle."""
    names = list(keys) if bundle.dialect == "postgresql" else msgspec.json.encode(list(keys)).decode()
    bundle.add(_RELEASE[bundle.dialect], keys=names, token=token)


def locks_held(conn: Connection, lanes: Sequence[LaneKey], now: datetime) -> Mapping[LaneKey, Row[object]]:
    """Which of `lanes` a node has at `now`: node_id (None: unknown) and expires_at. Locks on Redis are not among them."""
    names = {lock_name(key): key for key in lanes}
    query = select(_LOCK).where(_LOCK.c.lock_key.in_(list(names)), _LOCK.c.expires_at > now)
    return {names[row.lock_key]: row for row in conn.execute(query)}


def _bound(moment: datetime, dialect: str) -> object:
    return json_time(moment, dialect) if dialect == "sqlite" else moment
