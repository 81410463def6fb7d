"""The story of an episode of safe mode: sentences as they happen, written in the transaction of what they tell."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select

from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.lines import say
from app.store.tables import Alert, SafeCause, SafeEpisode, SafeStep, table

_ALERT, _EPISODE, _CAUSE, _STEP = table(Alert), table(SafeEpisode), table(SafeCause), table(SafeStep)

SYSTEM: Final = "system:safe_mode"


def tell(conn: Connection, episode_id: str, kind: str, now: datetime, *, actor: str = SYSTEM, detail: str | None = None) -> None:
    """Add a sentence to the episode's story, and the same to the log."""
    row = {"episode_id": episode_id, "at": now, "kind": kind, "actor": actor[:200], "detail": detail[:1000] if detail else None}
    conn.execute(insert(_STEP).values(row))
    own = select(_EPISODE.c.scope, _EPISODE.c.correlation_id).where(_EPISODE.c.episode_id == episode_id)
    episode = conn.execute(own).one()
    say(
        conn,
        "safe_mode_step",
        flow_id="F-06",
        correlation_id=episode.correlation_id,
        tenant_id=None if episode.scope == GLOBAL_SCOPE else episode.scope,
        status=kind,
        scope=episode.scope,
        episode_id=episode_id,
    )


def taken_on(conn: Connection, alert_ids: Sequence[str]) -> list[Row[Any]]:
    """Those of some alerts that have been acknowledged, oldest ACK first."""
    query = select(_ALERT).where(_ALERT.c.alert_id.in_(alert_ids), _ALERT.c.acked_at.is_not(None))
    return list(conn.execute(query.order_by(_ALERT.c.acked_at, _ALERT.c.alert_id))) if alert_ids else []


def tell_ack(conn: Connection, episode_id: str, alert: Row[Any], actor: str, at: datetime) -> None:
    """The sentence about an ACK of a cause; its detail is the minutes since the alert was raised and what it said."""
    minutes = int((at - alert.raised_at).total_seconds() // 60)
    tell(conn, episode_id, "acknowledged", at, actor=actor, detail=f"{minutes} · {alert.summary}")


def cause_acknowledged(conn: Connection, alert: Row[Any], actor: str, at: datetime) -> None:
    """Somebody takes on an alert: if it caused an episode that is open, its story says so (in the ACK's transaction)."""
    query = (
        select(_CAUSE.c.episode_id)
        .join(_EPISODE, _EPISODE.c.episode_id == _CAUSE.c.episode_id)
        .where(_CAUSE.c.cause_id == alert.alert_id, _EPISODE.c.ended_at.is_(None))
    )
    for row in conn.execute(query):
        tell_ack(conn, row.episode_id, alert, actor, at)
        publish(conn, alert.tenant_id, "safe_mode", [alert.scope], at)
