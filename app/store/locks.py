"""The database's per-contact lock: owner token, expiry, compare-and-delete; many keys in one statement.

Locks save work; they are never a reason to believe that an effect may happen (see `store.ledger`).
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, text

from app.store.bulk import encode
from app.store.columns import json_time
from app.store.tables import LaneLock, table

_LOCK = table(LaneLock)

_RECORDS = {
    "postgresql": "jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(lock_key text, token text, expires_at timestamptz)",
    "sqlite": "(SELECT json_extract(value, '$.lock_key') AS lock_key, json_extract(value, '$.token') AS token, "
    "json_extract(value, '$.expires_at') AS expires_at FROM json_each(:rows)) AS r",
}

_RELEASE = text(
    # in the order in which `acquire_locks` takes them: it holds on to rows of others for the length of its transaction
    "WITH own AS (SELECT lock_key FROM lane_lock WHERE lock_key = ANY(:keys) AND token = :token ORDER BY lock_key FOR UPDATE) "
    "DELETE FROM lane_lock USING own WHERE lane_lock.lock_key = own.lock_key"
)


def acquire_locks(conn: Connection, keys: Sequence[str], token: str, now: datetime, expires_at: datetime) -> set[str]:
    """Take the free and the expired ones of `keys` for `token` until `expires_at`; returns those taken."""
    dialect = conn.dialect.name
    rows = [{"lock_key": k, "token": token, "expires_at": expires_at} for k in sorted(keys)]
    where = "WHERE true" if dialect == "sqlite" else "ORDER BY lock_key"
    taken = conn.execute(
        text(
            "INSERT INTO lane_lock (lock_key, token, expires_at) "
            f"SELECT lock_key, token, expires_at FROM {_RECORDS[dialect]} {where} "
            "ON CONFLICT (lock_key) DO UPDATE SET token = excluded.token, expires_at = excluded.expires_at "
            "WHERE lane_lock.expires_at <= :now RETURNING lock_key"
        ),
        {"rows": encode(rows, dialect), "now": _bound(now, dialect)},
    )
    return {row[0] for row in taken}


def release_locks(conn: Connection, keys: Sequence[str], token: str) -> None:
    """Give back those of `keys` that `token` still owns."""
    if conn.dialect.name == "postgresql":
        conn.execute(_RELEASE, {"keys": list(keys), "token": token})
    else:
        conn.execute(delete(_LOCK).where(_LOCK.c.lock_key.in_(list(keys)), _LOCK.c.token == token))


def _bound(moment: datetime, dialect: str) -> object:
    return json_time(moment, dialect) if dialect == "sqlite" else moment
