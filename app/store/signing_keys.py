"""The public keys that evidence packs are checked with; the newest one that is not retired signs."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from app.store.audit import GLOBAL_CHAIN, append, lock_head
from app.store.bulk import insert_rows
from app.store.tables import SigningKey, table

_KEY = table(SigningKey)


def current(conn: Connection) -> Row[Any] | None:
    """The key that signs; None before the first."""
    query = select(_KEY).where(_KEY.c.retired_at.is_(None)).order_by(_KEY.c.created_at.desc(), _KEY.c.key_id)
    return conn.execute(query.limit(1)).first()


def every(conn: Connection) -> list[Row[Any]]:
    """Every key that ever signed, the newest first."""
    return list(conn.execute(select(_KEY).order_by(_KEY.c.created_at.desc(), _KEY.c.key_id)))


def adopt(
    conn: Connection, *, key_id: str, public_key: str, salt: str, replaces: str | None, now: datetime, actor: str
) -> Row[Any]:
    """Make a key the one that signs, in place of `replaces`; returns the one that signs now, which may be another node's."""
    lock_head(conn, GLOBAL_CHAIN)  # nodes that start together take turns
    found = current(conn)
    if found is not None and found.key_id != replaces:
        return found
    if replaces is not None:
        conn.execute(update(_KEY).where(_KEY.c.key_id == replaces).values(retired_at=now))
    insert_rows(conn, _KEY, [{"key_id": key_id, "public_key": public_key, "salt": salt, "created_at": now}])
    append(
        conn,
        chain=GLOBAL_CHAIN,
        actor=actor,
        action="evidence.key",
        object=f"signing_key/{key_id}",
        before={"key_id": replaces},
        after={"key_id": key_id, "public_key": public_key},
        now=now,
    )
    return conn.execute(select(_KEY).where(_KEY.c.key_id == key_id)).one()
