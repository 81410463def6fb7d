"""What each signal is driven with: the rows that the product's own parts would have written, in a clinic of its own.

A `Drive` says how a signal is brought over its warning, over its critical limit, and back; the clock does the rest.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, update

from app.ids import new_id
from app.store.alerts import acknowledge, raise_alert
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import (
    Alert,
    ContingencyNotice,
    Drill,
    EvidencePack,
    InboxCommand,
    InboxMessage,
    Lane,
    Ledger,
    ManualTask,
    SafeEpisode,
    SafeStep,
    Ticket,
    table,
)

Act = Callable[[Connection, str, datetime], None]


@dataclass(frozen=True)
class Drive:
    """How one signal rises and falls; acts take (connection, clinic, now)."""

    signal: str
    warn: Act
    worse: Act
    owner: str
    ease: Act | None = None
    """What ends a state of now; None = its window passes."""
    severity: str = "high"
    scope: str | None = None
    """`global` for a signal of the installation."""


def _insert(conn: Connection, model: Any, rows: Iterable[dict[str, Any]]) -> None:
    made = list(rows)
    if made:
        conn.execute(insert(table(model)), made)


def results(
    conn: Connection,
    tenant_id: str,
    now: datetime,
    n: int,
    result: str = "applied_once",
    lock_mode: str = "database",
    lock_ms: float = 1.0,
) -> None:
    """Ledger entries of one result."""
    base = {"reason": "ok", "conversation_version": 1, "guardian_version": 1, "takeover_active": False, "mode_epoch": 0}
    end = {"node_id": "n", "attempt": "a", "accepted_at": now, "committed_at": now, "prev_hash": "", "hash": ""}
    backend = "lock_acquired_primary" if lock_mode != "fallback" else "lock_acquired_fallback"
    rows = []
    for _ in range(n):
        name = new_id()
        rows.append(
            {"tenant_id": tenant_id, "contact_id": name, "commit_order": 1, "command_id": name, "command_type": "schedule"}
            | {"result": result, "lock_backend": backend, "lock_mode": lock_mode, "lock_ms": lock_ms, "correlation_id": name}
            | base
            | end
        )
    _insert(conn, Ledger, rows)


def command(tenant_id: str, now: datetime, status: str, *, order: int | None = 1, waited_s: float | None = None) -> dict[str, Any]:
    """A command row; one that waits since `waited_s` has no end."""
    name, waits = new_id(), waited_s is not None
    since = now - timedelta(seconds=waited_s or 0)
    return {
        "tenant_id": tenant_id,
        "command_id": name,
        "contact_id": name,
        "commit_order": order,
        "command_type": "schedule",
        "priority": 2,
        "status": status,
        "result": None if waits else status,
        "idempotency_key": name,
        "fingerprint": name,
        "requested_by": "ai",
        "source": "whatsapp",
        "accepted_at": since,
        "waiting_since": since if waits else None,
        "done_at": None if waits else now,
        "correlation_id": name,
        "payload_json": "{}",
    }


def waiting(conn: Connection, tenant_id: str, now: datetime, n: int, waited_s: float, status: str) -> None:
    """Commands that stand still."""
    _insert(conn, InboxCommand, [command(tenant_id, now, status, waited_s=waited_s) for _ in range(n)])


def violations(conn: Connection, tenant_id: str, now: datetime, n: int) -> None:
    """Commands below the end of their lane."""
    _insert(conn, InboxCommand, [command(tenant_id, now, "blocked_commit_order_violation", order=None) for _ in range(n)])


def messages(conn: Connection, tenant_id: str, now: datetime, n: int, gap_s: float = 0.0, generated: bool = False) -> None:
    """Messages that were heard `gap_s` after they came."""
    rows = []
    for _ in range(n):
        name = new_id()
        rows.append(
            {"tenant_id": tenant_id, "event_id": name, "channel": "whatsapp", "external_id": name, "contact_id": name}
            | {"sequence": 1, "conversation_version": 1, "source": "whatsapp", "event_type": "message", "status": "processed"}
            | {"priority": 2, "occurred_at": now, "received_at": now - timedelta(seconds=gap_s), "done_at": now}
            | {"correlation_id": name, "correlation_generated": generated, "payload_version": 1, "payload_json": "{}"}
        )
    _insert(conn, InboxMessage, rows)


def unheard(conn: Connection, tenant_id: str, now: datetime, n: int) -> None:
    """A lane with messages that nobody has heard for three minutes."""
    since = now - timedelta(minutes=3)
    _insert(conn, Lane, [{"tenant_id": tenant_id, "contact_id": new_id(), "unheard": n, "unheard_since": since}])


def tasks(conn: Connection, tenant_id: str, now: datetime, n: int, age_s: float = 0.0) -> None:
    """Open tasks that replays left behind."""
    at = now - timedelta(seconds=age_s)
    rows = []
    for _ in range(n):
        name = new_id()
        rows.append(
            {"task_id": name, "tenant_id": tenant_id, "dedup_key": name, "cause": "expired_manual", "reason": "ttl_exceeded"}
            | {"priority": 2, "correlation_id": name, "created_at": at, "due_at": at}
        )
    _insert(conn, ManualTask, rows)


def episode(conn: Connection, scope: str, at: datetime, *, ended_at: datetime | None = None, kind: str = "entered") -> None:
    """A stay in safe mode with one sentence of its story."""
    episode_id = new_id()
    row = {"episode_id": episode_id, "scope": scope, "entered_at": at, "written_at": at, "entered_by": "system:test"}
    _insert(conn, SafeEpisode, [row | {"correlation_id": "c", "ended_at": ended_at}])
    _insert(conn, SafeStep, [{"episode_id": episode_id, "at": at, "kind": kind, "actor": "system:test"}])


def notices(conn: Connection, tenant_id: str, now: datetime, n: int, *, failed: bool) -> None:
    """Contingency messages that were sent, or failed."""
    result = "contingency_message_failed_ticket_opened" if failed else "contingency_message_sent_ticket_opened"
    rows = [
        {"tenant_id": tenant_id, "episode_id": "e", "contact_id": new_id(), "intent": "schedule", "at": now, "outbox_id": "o"}
        | {"template": "t", "correlation_id": "c", "result": result, "done_at": now}
        for _ in range(n)
    ]
    _insert(conn, ContingencyNotice, rows)


def tickets(conn: Connection, tenant_id: str, now: datetime, waited_s: float) -> None:
    """A conversation that became a ticket so long after it was asked for."""
    asked = command(tenant_id, now - timedelta(seconds=waited_s), "applied_once")
    _insert(conn, InboxCommand, [asked])
    _insert(conn, Ticket, [_ticket(tenant_id, now, asked["command_id"])])


def _ticket(tenant_id: str, now: datetime, cause_id: str, **values: Any) -> dict[str, Any]:
    name = new_id()
    row = {"ticket_id": name, "tenant_id": tenant_id, "kind": "takeover", "state": "open", "contact_id": name}
    return row | {"cause_id": cause_id, "reason": "r", "opened_at": now, "correlation_id": "c"} | values


def takeovers(conn: Connection, tenant_id: str, now: datetime, answered: int, late: int) -> None:
    """Conversations that were answered in time, and some over their SLA."""
    long_ago = now - timedelta(hours=3)
    _insert(conn, Ticket, [_ticket(tenant_id, long_ago, "x", answered_at=now) for _ in range(answered)])
    rows = []
    for _ in range(late):
        name = new_id()
        rows.append(
            {"alert_id": name, "scope": tenant_id, "tenant_id": tenant_id, "trigger": "takeover_sla", "severity": "high"}
            | {"summary": "s", "dedup_key": f"takeover:{name}", "owner": "sre", "correlation_id": "c", "raised_by": "t"}
            | {"raised_at": now, "last_seen_at": now, "group_id": name, "group_started_at": now, "policy_json": "{}"}
            | {"status": "resolved", "changes_json": "[]"}
        )
    _insert(conn, Alert, rows)


def packs(
    conn: Connection, tenant_id: str, now: datetime, n: int, result: str = "evidence_pack_generated", took_s: float = 1.0
) -> None:
    """Evidence packs that were settled just now."""
    rows = []
    for _ in range(n):
        name = new_id()
        rows.append(
            {"pack_id": name, "scope": tenant_id, "tenant_id": tenant_id, "kind": "flow", "subject": name, "span": ""}
            | {"reason": "r", "requested_by": "system:test", "requested_at": now - timedelta(seconds=took_s), "result": result}
            | {"finished_at": now, "missing_json": "[]"}
        )
    _insert(conn, EvidencePack, rows)


def critical_alert(conn: Connection, tenant_id: str, now: datetime, age_s: float) -> None:
    """A critical alert that nobody has taken on."""
    raise_alert(
        conn,
        tenant_id=tenant_id,
        trigger="n8n_down",
        severity="critical",
        summary="s",
        dedup_key=f"k-{tenant_id}",
        correlation_id=None,
        now=now - timedelta(seconds=age_s),
    )


def clear_commands(conn: Connection, tenant_id: str, now: datetime) -> None:
    """Whatever stood still was decided."""
    own = table(InboxCommand).c.tenant_id == tenant_id
    conn.execute(update(table(InboxCommand)).where(own).values(status="applied_once", result="applied_once", done_at=now))


def clear_tasks(conn: Connection, tenant_id: str, now: datetime) -> None:
    """People closed every task."""
    conn.execute(
        update(table(ManualTask)).where(table(ManualTask).c.tenant_id == tenant_id).values(status="resolved", resolved_at=now)
    )


def clear_lanes(conn: Connection, tenant_id: str, now: datetime) -> None:
    """Every message was heard."""
    conn.execute(delete(table(Lane)).where(table(Lane).c.tenant_id == tenant_id))


def clear_safe_mode(conn: Connection, tenant_id: str, now: datetime) -> None:
    """Safe mode was left and everything parked went on."""
    conn.execute(update(table(SafeEpisode)).where(table(SafeEpisode).c.scope == tenant_id).values(ended_at=now))
    clear_commands(conn, tenant_id, now)


def ack_all(conn: Connection, tenant_id: str, now: datetime) -> None:
    """Somebody took the critical alerts on."""
    mine = table(Alert).select().where(table(Alert).c.scope == tenant_id, table(Alert).c.trigger == "n8n_down")
    for row in conn.execute(mine).all():
        acknowledge(conn, row.alert_id, by="user:ana", how="console", now=now)


def both(first: Act, second: Act) -> Act:
    """Two acts as one."""

    def act(conn: Connection, tenant_id: str, now: datetime) -> None:
        first(conn, tenant_id, now)
        second(conn, tenant_id, now)

    return act


def drill(conn: Connection, now: datetime, recovery_s: float = 1.0, invalid_side_effects: int = 0) -> None:
    """A failure drill that ended just now."""
    row = {"drill_id": new_id(), "kind": "redis", "phase": "done", "requested_by": "user:test", "reason": "r"}
    numbers = {"recovery_s": recovery_s, "invalid_side_effects": invalid_side_effects}
    _insert(conn, Drill, [row | numbers | {"requested_at": now, "ended_at": now, "measures_json": "{}", "report_json": "{}"}])


def _rated(name: str, owner: str) -> Drive:
    def warn(conn: Connection, tenant_id: str, now: datetime) -> None:
        results(conn, tenant_id, now, 96)
        results(conn, tenant_id, now, 4, name)

    def worse(conn: Connection, tenant_id: str, now: datetime) -> None:
        results(conn, tenant_id, now, 8, name)

    return Drive(name, warn, worse, owner)


def _twice(conn: Connection, now: datetime, scope: str) -> None:
    episode(conn, scope, now - timedelta(minutes=30), ended_at=now - timedelta(minutes=20))
    episode(conn, scope, now - timedelta(minutes=10), ended_at=now - timedelta(minutes=5))
    episode(conn, scope, now, ended_at=now)


DRIVES = [
    Drive(
        "blocked_commit_order_violation",
        lambda c, t, now: violations(c, t, now, 3),
        lambda c, t, now: violations(c, t, now, 7),
        "backend,superadmin",
        severity="critical",
    ),
    Drive(
        "waiting_previous_commit_age",
        lambda c, t, now: waiting(c, t, now, 1, 150, "waiting_previous_commit"),
        lambda c, t, now: waiting(c, t, now, 40, 1, "waiting_previous_commit"),
        "backend,platform",
        clear_commands,
    ),
    _rated("version_conflict_blocked", "backend,qa"),
    _rated("expired_manual", "backend,ops"),
    _rated("conflict_blocked", "backend"),
    Drive(
        "replay_manual_backlog",
        lambda c, t, now: tasks(c, t, now, 31),
        lambda c, t, now: tasks(c, t, now, 50),
        "ops,superadmin",
        clear_tasks,
    ),
    Drive(
        "replay_backlog",
        lambda c, t, now: waiting(c, t, now, 2, 16 * 60, "pending_contingency"),
        lambda c, t, now: waiting(c, t, now, 40, 31 * 60, "pending_contingency"),
        "sre,superadmin",
        clear_commands,
    ),
    Drive(
        "no_ack_critical_alert",
        lambda c, t, now: critical_alert(c, t, now, 5 * 60),
        lambda c, t, now: None,  # the clock does it: three more rounds of two minutes
        "superadmin",
        ack_all,
    ),
    Drive(
        "safe_mode_duration",
        lambda c, t, now: episode(c, t, now - timedelta(minutes=21)),
        lambda c, t, now: waiting(c, t, now, 121, 1, "pending_safe_mode"),
        "superadmin,devops",
        clear_safe_mode,
    ),
    Drive(
        "safe_mode_reentry",
        lambda c, t, now: _twice(c, now, t),
        lambda c, t, now: episode(c, t, now, ended_at=now, kind="exit_denied"),
        "devops,superadmin",
        scope=GLOBAL_SCOPE,
    ),
    Drive(
        "contingency_message_failure",
        both(lambda c, t, now: notices(c, t, now, 48, failed=False), lambda c, t, now: notices(c, t, now, 2, failed=True)),
        lambda c, t, now: notices(c, t, now, 3, failed=True),
        "ops,superadmin",
    ),
    Drive("ticket_open_latency", lambda c, t, now: tickets(c, t, now, 301), lambda c, t, now: tickets(c, t, now, 901), "ops"),
    Drive(
        "correlation_id_coverage",
        both(lambda c, t, now: messages(c, t, now, 1200), lambda c, t, now: messages(c, t, now, 20, generated=True)),
        lambda c, t, now: messages(c, t, now, 200, generated=True),
        "sre",
        scope=GLOBAL_SCOPE,
    ),
    Drive(
        "ack_to_enqueue_gap",
        lambda c, t, now: messages(c, t, now, 3, gap_s=121),
        lambda c, t, now: unheard(c, t, now, 21),
        "sre",
        clear_lanes,
    ),
    Drive(
        "takeover_sla_breach_rate",
        lambda c, t, now: takeovers(c, t, now, 20, 2),
        lambda c, t, now: takeovers(c, t, now, 0, 3),
        "sre,qa",
    ),
    Drive(
        "redis_fallback_rate",
        both(
            lambda c, t, now: results(c, t, now, 90, lock_mode="primary"),
            lambda c, t, now: results(c, t, now, 8, lock_mode="fallback"),
        ),
        lambda c, t, now: results(c, t, now, 40, lock_mode="fallback"),
        "platform,superadmin",
        severity="critical",
        scope=GLOBAL_SCOPE,
    ),
    Drive(
        "fallback_db_lock_latency",
        lambda c, t, now: results(c, t, now, 9, lock_mode="fallback", lock_ms=501),
        lambda c, t, now: results(c, t, now, 40, lock_mode="fallback", lock_ms=1201),
        "platform",
        scope=GLOBAL_SCOPE,
    ),
    Drive(
        "evidence_pack_completeness",
        both(lambda c, t, now: packs(c, t, now, 48), lambda c, t, now: packs(c, t, now, 2, "evidence_pack_partial")),
        lambda c, t, now: packs(c, t, now, 3, "evidence_pack_failed_alerted"),
        "sre,qa",
    ),
    Drive(
        "evidence_pack_generation",
        lambda c, t, now: packs(c, t, now, 1, took_s=901),
        lambda c, t, now: packs(c, t, now, 1, took_s=1801),
        "sre,qa",
    ),
    Drive(
        "drill_result",
        lambda c, t, now: drill(c, now, recovery_s=601),
        lambda c, t, now: drill(c, now, invalid_side_effects=1),
        "platform,superadmin",
        lambda c, t, now: drill(c, now),
        severity="critical",
        scope=GLOBAL_SCOPE,
    ),
]
