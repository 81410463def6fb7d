"""The deferred item S-PC-P1-001 on live facts: what counts towards its trigger, the reopening, and people's decision.

A met trigger stays met until somebody decides: a reopening is taken back by a decision, never by time. Whoever looks first
reopens it (a compare-and-set), so any number of nodes may look; alert and evidence are written in the same transaction.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, Row, or_, select, update

from app.domain.deferred import DEFAULT_POLICY, OWNERS, DeferredState, DeferredStatus, Incident, evaluate
from app.domain.envelopes import canonical_json
from app.domain.evidence_kinds import EvidenceKind
from app.errors import Conflict
from app.store import audit, evidence
from app.store.alerts import raise_alert
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.people import By
from app.store.settings import GLOBAL_SCOPE, load
from app.store.tables import Alert, DeferredItem, SignalCritical, table

_ITEM, _ALERT, _CRITICAL = table(DeferredItem), table(Alert), table(SignalCritical)

ITEM: Final = "S-PC-P1-001"
TRIGGER: Final = "deferred_reopen_trigger"
TOPIC: Final = "deferred"
ORCHESTRATION: Final = ("n8n", "orchestrator", "orchestration")
"""An alert belongs to the orchestration when its trigger is one of these words, or begins with one and an underscore."""
BACKLOG: Final = "replay_backlog"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Where the item stands now. `row` is None while nothing has happened to it."""

    row: Row[Any] | None
    status: DeferredStatus

    @property
    def state(self) -> DeferredState:
        """The stored state: a trigger that was met stays met until somebody decides."""
        return DeferredState(self.row.state) if self.row is not None else DeferredState.DEFERRED_WITH_TRIGGER


def look(conn: Connection, now: datetime) -> Deferred:
    """The live trigger: facts since the last decision, within the window."""
    row = conn.execute(select(_ITEM).where(_ITEM.c.item_id == ITEM)).first()
    since = now - DEFAULT_POLICY.within
    decided_at = row.decided_at if row is not None else None
    incidents = [i for i in _incidents(conn, since) if decided_at is None or i.at > decided_at]
    return Deferred(row=row, status=evaluate(incidents, _critical_days(conn, max(since, decided_at or since)), now))


def _incidents(conn: Connection, since: datetime) -> list[Incident]:
    """Critical alerts of the orchestration raised at `since` or later, each once, by when it was raised."""
    mine = or_(*(or_(_ALERT.c.trigger == word, _ALERT.c.trigger.startswith(f"{word}_", autoescape=True)) for word in ORCHESTRATION))
    query = select(_ALERT.c.alert_id, _ALERT.c.raised_at).where(mine, _ALERT.c.severity == "critical", _ALERT.c.raised_at >= since)
    return [Incident(incident_id=row.alert_id, at=row.raised_at) for row in conn.execute(query.order_by(_ALERT.c.raised_at))]


def _critical_days(conn: Connection, since: datetime) -> set[date]:
    """Local days on which the replay backlog of some clinic, or of all, was measured critical.

    Not the days of a firing: a level that rose stays until all is below warning, which may be days after the backlog was critical.
    """
    zones: dict[str, ZoneInfo] = {}
    days: set[date] = set()
    for row in conn.execute(
        select(_CRITICAL.c.scope, _CRITICAL.c.at).where(_CRITICAL.c.signal == BACKLOG, _CRITICAL.c.at >= since)
    ):
        if row.scope not in zones:
            zones[row.scope] = ZoneInfo(load(conn, row.scope)["timezone"])
        days.add(row.at.astimezone(zones[row.scope]).date())
    return days


def reopen(conn: Connection, now: datetime) -> tuple[str, str] | None:
    """Reopen the item if its trigger is met and nobody has yet: state, alert, evidence.

    Returns the alert's id and the correlation id of all of it, or None.
    """
    found = look(conn, now)
    if found.status.state is not DeferredState.REOPEN_TRIGGERED or found.state is DeferredState.REOPEN_TRIGGERED:
        return None
    facts = facts_of(found.status)
    blank = {"item_id": ITEM, "state": DeferredState.DEFERRED_WITH_TRIGGER, "since": now, "facts_json": "{}", "rev": 1}
    insert_rows(conn, _ITEM, [blank], ignore_conflicts=True)
    won = conn.execute(
        update(_ITEM)
        .where(_ITEM.c.item_id == ITEM, _ITEM.c.state == DeferredState.DEFERRED_WITH_TRIGGER)
        .values(state=DeferredState.REOPEN_TRIGGERED, since=now, facts_json=canonical_json(facts), rev=_ITEM.c.rev + 1)
    )
    if won.rowcount != 1:
        return None
    correlation_id = f"deferred-{ITEM}-{int(now.timestamp())}"
    pack_id = evidence.request(
        conn,
        tenant_id=None,
        kind=EvidenceKind.DEFERRED,
        subject=ITEM,
        reason=str(DeferredState.REOPEN_TRIGGERED),
        now=now,
        document={"item": ITEM, "state": str(DeferredState.REOPEN_TRIGGERED), "owners": list(OWNERS), **facts},
        correlation_id=correlation_id,
    )
    raised = raise_alert(
        conn,
        tenant_id=None,
        trigger=TRIGGER,
        severity="high",
        summary=f"{ITEM}: o gatilho de reabertura foi atingido. Responsáveis: PO e arquitetura.",
        dedup_key=f"{TRIGGER}:{ITEM}",
        correlation_id=correlation_id,
        now=now,
    )
    conn.execute(update(_ITEM).where(_ITEM.c.item_id == ITEM).values(alert_id=raised.alert_id, pack_id=pack_id))
    publish(conn, None, TOPIC, [ITEM], now)
    return raised.alert_id, correlation_id


def decide(conn: Connection, by: By, decision: str, *, rev: int) -> None:
    """Somebody has looked at a reopened item and defers it again: facts from before do not count again. Raises Conflict."""
    before = conn.execute(select(_ITEM).where(_ITEM.c.item_id == ITEM)).first()
    values = {"decided_at": by.now, "decided_by": by.actor[:200], "decision": decision[:500], "since": by.now}
    done = conn.execute(
        update(_ITEM)
        .where(_ITEM.c.item_id == ITEM, _ITEM.c.state == DeferredState.REOPEN_TRIGGERED, _ITEM.c.rev == rev)
        .values(state=DeferredState.DEFERRED_WITH_TRIGGER, rev=_ITEM.c.rev + 1, **values)
    )
    if before is None or done.rowcount != 1:
        raise Conflict("The item is not open, or somebody has decided meanwhile. Nothing was changed.")
    audit.append(
        conn,
        chain=GLOBAL_SCOPE,
        actor=by.actor,
        action="deferred.decide",
        object=f"deferred/{ITEM}",
        before={"state": before.state, "since": before.since.isoformat()},
        after={"state": DeferredState.DEFERRED_WITH_TRIGGER},
        reason=decision,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    publish(conn, None, TOPIC, [ITEM], by.now)


def facts_of(status: DeferredStatus) -> dict[str, Any]:
    """Counts against their limits, and what they rest on, as JSON."""
    return {
        "incidents": {
            "count": len(status.incidents),
            "limit": DEFAULT_POLICY.incidents,
            "window_days": DEFAULT_POLICY.within.days,
            "items": [{"alert_id": i.incident_id, "at": i.at.isoformat()} for i in status.incidents],
        },
        "critical_replay_backlog": {
            "days_in_a_row": len(status.streak),
            "limit": DEFAULT_POLICY.days_in_a_row,
            "days": [str(day) for day in status.streak],
        },
        "progress": round(status.progress, 3),
    }


def document(found: Deferred) -> dict[str, Any]:
    """The item as the API shows it."""
    row = found.row
    return {
        "id": ITEM,
        "state": found.state,
        "owners": list(OWNERS),
        "since": row.since if row is not None else None,
        **facts_of(found.status),
        "met_by": msgspec.json.decode(row.facts_json) or None if row is not None else None,
        "alert_id": row.alert_id if row is not None else None,
        "evidence_pack_id": row.pack_id if row is not None else None,
        "decided_at": row.decided_at if row is not None else None,
        "decided_by": row.decided_by if row is not None else None,
        "decision": row.decision if row is not None else None,
        "rev": row.rev if row is not None else 0,
    }
