"""Counting what signals are made of, at a cost that does not grow with history (docs/decisions/0016).

What happens often (ledger entries, messages) is counted into one bucket per minute while the minute is young; a window is a sum
of buckets. What happens rarely, and what is true now, is read by index within its window. Recounting a minute replaces its
buckets, so a round that dies, comes late or runs twice counts nothing twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, bindparam, text

from app.domain.drill import TENANT as DRILL_TENANT
from app.domain.evidence import EvidenceResult
from app.domain.signal_facts import Facts
from app.domain.states import State
from app.store.bulk import insert_rows
from app.store.columns import UTCDateTime
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import SignalMinute, table
from app.store.tables.inbox import HELD

_MINUTE = table(SignalMinute)

HOUR, QUARTER, TEN = timedelta(hours=1), timedelta(minutes=15), timedelta(minutes=10)
YOUNG: Final = timedelta(seconds=90)
"""A minute is counted again while it is not this old: a transaction may become visible a little after its time."""
GAP: Final = timedelta(minutes=2)
"""A message that waits this long to be heard is one of the `events` of ack_to_enqueue_gap."""

_ITEMS: Final = frozenset({"done", "unplaced", "heard_s"})
"""Measures that together count everything that was accepted and has ended: what has a correlation id, or had to be given one."""
RATED: Final = (State.VERSION_CONFLICT_BLOCKED, State.EXPIRED_MANUAL, State.CONFLICT_BLOCKED)
REAL: Final = f"tenant_id <> '{DRILL_TENANT}'"
"""A drill judges its own traffic; here it would turn a rehearsal into an outage of the installation."""
REPLAY_CAUSES: Final = "'expired_manual','conflict_blocked','invalid_event_manual','manual_review_required'"
"""Causes of manual tasks that a replay can leave behind."""

_MINUTE_OF: Final = {
    "sqlite": "CAST(strftime('%s', {0}) AS INTEGER) / 60",
    "postgresql": "CAST(floor(extract(epoch FROM {0}) / 60) AS bigint)",
}
_SECONDS: Final = {  # from {1} to {0}, rounded up; the noise below a millisecond is none of it
    "sqlite": "max(0, CAST(round((julianday({0}) - julianday({1})) * 86400, 3) + 0.999 AS INTEGER))",
    "postgresql": "greatest(0, CAST(floor(round(CAST(extract(epoch FROM {0} - {1}) AS numeric), 3) + 0.999) AS bigint))",
}
_WHOLE: Final = {"sqlite": "CAST({0} + 0.999 AS INTEGER)", "postgresql": "CAST(floor({0} + 0.999) AS bigint)"}

Bucket = tuple[int, str, str, int]
"""Minute, tenant, measure, value."""


@dataclass(slots=True)
class Gathered:
    """One look: facts by scope, the young minutes' buckets to be kept, and the alert behind no_ack_critical_alert."""

    now: datetime
    since_minute: int
    facts: dict[str, Facts] = field(default_factory=dict)
    buckets: dict[Bucket, int] = field(default_factory=dict)
    unacknowledged: dict[str, str] = field(default_factory=dict)
    """Scope -> the oldest critical alert without an ACK."""

    def of(self, scope: str) -> Facts:
        """The facts of a scope."""
        return self.facts.setdefault(scope, Facts())


def minute_of(moment: datetime) -> int:
    """Minutes since 1970."""
    return int(moment.timestamp() // 60)


def young_since(now: datetime, folded_minute: int) -> int:
    """From which minute on to count again: what was young at the last look, at most an hour back."""
    return max(min(minute_of(now - YOUNG), folded_minute), minute_of(now - HOUR))


def gather(conn: Connection, now: datetime, folded_minute: int) -> Gathered:
    """Count everything; writes nothing."""
    found = Gathered(now=now, since_minute=young_since(now, folded_minute))
    _count_young(conn, found)
    _sum_windows(conn, found)
    _held(conn, found)
    _unheard(conn, found)
    _tasks(conn, found)
    _replays(conn, found)
    _unacknowledged(conn, found)
    _safe_mode(conn, found)
    _notices(conn, found)
    _tickets(conn, found)
    _takeovers(conn, found)
    _packs(conn, found)
    _drill(conn, found)
    return found


def keep(conn: Connection, found: Gathered) -> None:
    """Write the young minutes' buckets in place of what they had, and drop what no window reaches any more."""
    current = minute_of(found.now)
    conn.execute(
        text(
            "DELETE FROM signal_minute WHERE minute < :gone OR (minute >= :since AND measure <> 'waiting_s') OR minute >= :current"
        ),
        {"gone": current - 120, "since": found.since_minute, "current": current},
    )
    rows = [
        {"minute": minute, "tenant_id": tenant_id, "measure": measure, "bucket": bucket, "n": n}
        for (minute, tenant_id, measure, bucket), n in found.buckets.items()
    ]
    insert_rows(conn, _MINUTE, rows)


# --- minutes ------------------------------------------------------------------------------------------------------------


def _count_young(conn: Connection, found: Gathered) -> None:
    since = datetime.fromtimestamp(found.since_minute * 60, tz=found.now.tzinfo)
    minute, seconds, whole = (kind[conn.dialect.name] for kind in (_MINUTE_OF, _SECONDS, _WHOLE))

    def add(row: Any, measure: str, bucket: int = 0, scope: str | None = None) -> None:
        key = (int(row.minute), scope or row.tenant_id, measure, bucket)
        found.buckets[key] = found.buckets.get(key, 0) + int(row.n)

    def rows(query: str) -> Any:
        return _rows(conn, query, since=since)

    for row in rows(
        f"SELECT tenant_id, {minute.format('committed_at')} AS minute, result, lock_mode, count(*) AS n "
        f"FROM ledger WHERE committed_at >= :since AND {REAL} GROUP BY 1, 2, 3, 4"
    ):
        add(row, "done")
        if row.result in RATED:
            add(row, row.result)
        if row.lock_mode in ("primary", "fallback"):
            add(row, f"lock_{row.lock_mode}", scope=GLOBAL_SCOPE)  # of the installation: one row a minute for all clinics
    for row in rows(
        f"SELECT {minute.format('committed_at')} AS minute, {whole.format('lock_ms')} AS bucket, count(*) AS n "
        f"FROM ledger WHERE committed_at >= :since AND lock_mode = 'fallback' AND {REAL} GROUP BY 1, 2"
    ):
        add(row, "lock_ms", int(row.bucket), scope=GLOBAL_SCOPE)
    for row in rows(
        f"SELECT tenant_id, {minute.format('done_at')} AS minute, {seconds.format('done_at', 'received_at')} AS bucket, "
        f"correlation_generated AS generated, count(*) AS n FROM message WHERE done_at >= :since AND {REAL} GROUP BY 1, 2, 3, 4"
    ):
        add(row, "heard_s", int(row.bucket))
        if row.generated:
            add(row, "generated")
    for row in rows(
        f"SELECT tenant_id, {minute.format('done_at')} AS minute, result, count(*) AS n "
        f"FROM command WHERE commit_order IS NULL AND done_at >= :since AND {REAL} GROUP BY 1, 2, 3"
    ):
        add(row, "unplaced")
        if row.result == State.BLOCKED_COMMIT_ORDER_VIOLATION:
            add(row, row.result)
    for row in rows(
        f"SELECT tenant_id, {minute.format('done_at')} AS minute, count(*) AS n "
        f"FROM command WHERE correlation_generated AND done_at >= :since AND {REAL} GROUP BY 1, 2"
    ):
        add(row, "generated")


def _sum_windows(conn: Connection, found: Gathered) -> None:
    hour, quarter, ten = (minute_of(found.now - window) for window in (HOUR, QUARTER, TEN))
    current = minute_of(found.now)
    kept = conn.execute(
        text(
            "SELECT tenant_id, measure, bucket, sum(n) AS hour, "
            "sum(CASE WHEN minute >= :quarter THEN n ELSE 0 END) AS quarter, "
            "sum(CASE WHEN minute >= :ten THEN n ELSE 0 END) AS ten "
            "FROM signal_minute WHERE minute >= :hour AND minute < :current AND (minute < :since OR measure = 'waiting_s') "
            "GROUP BY tenant_id, measure, bucket"
        ),
        {"hour": hour, "quarter": quarter, "ten": ten, "current": current, "since": found.since_minute},
    )
    for row in kept:
        _add(found.of(row.tenant_id), row.measure, int(row.bucket), int(row.hour), int(row.quarter), int(row.ten))
    for (minute, tenant_id, measure, bucket), n in found.buckets.items():
        if minute >= hour:
            _add(found.of(tenant_id), measure, bucket, n, n if minute >= quarter else 0, n if minute >= ten else 0)


def _add(facts: Facts, measure: str, bucket: int, hour: int, quarter: int, ten: int) -> None:
    if measure in _ITEMS:
        facts.count("items", hour, in_quarter=quarter)
    if measure == "waiting_s":
        facts.spot(measure, bucket, ten)
    elif measure in ("heard_s", "lock_ms"):
        facts.spot(measure, bucket, quarter)
    else:
        facts.count(measure, hour, in_quarter=quarter)


# --- now ----------------------------------------------------------------------------------------------------------------


def _held(conn: Connection, found: Gathered) -> None:
    """Commands that wait behind a gap (their ages count in this minute's bucket too), and parked ones."""
    seconds = _SECONDS[conn.dialect.name].format(":now", "coalesce(waiting_since, accepted_at)")
    query = (
        f"SELECT tenant_id, status, {_bound(conn, seconds)} AS age, count(*) AS n FROM command WHERE {HELD} "
        "AND done_at IS NULL GROUP BY 1, 2, 3"
    )
    minute = minute_of(found.now)
    for row in _rows(conn, query, now=found.now):
        facts, age, n = found.of(row.tenant_id), int(row.age), int(row.n)
        if row.status == State.WAITING_PREVIOUS_COMMIT:
            facts.now["waiting"] = facts.now.get("waiting", 0) + n
            facts.spot("waiting_s", age, n)
            found.buckets[(minute, row.tenant_id, "waiting_s", age)] = n
        else:
            for name in ("parked", "replay"):
                facts.now[name] = facts.now.get(name, 0) + n
            facts.now["oldest_parked_s"] = max(age, facts.now.get("oldest_parked_s", 0))
            facts.spot("replay_s", age, n)


def _unheard(conn: Connection, found: Gathered) -> None:
    """Messages that were acknowledged to their sender and wait to be heard."""
    age = _bound(conn, _SECONDS[conn.dialect.name].format(":now", "unheard_since"))
    query = f"SELECT tenant_id, {age} AS age, sum(unheard) AS n FROM lane WHERE unheard > 0 AND unheard_since < :gap GROUP BY 1, 2"
    for row in _rows(conn, query, now=found.now, gap=found.now - GAP):
        facts = found.of(row.tenant_id)
        facts.now["gap_events"] = facts.now.get("gap_events", 0) + int(row.n)
        facts.spot("heard_s", int(row.age), int(row.n))


def _tasks(conn: Connection, found: Gathered) -> None:
    age = _bound(conn, _SECONDS[conn.dialect.name].format(":now", "created_at"))
    query = (
        f"SELECT tenant_id, {age} AS age, count(*) AS n FROM manual_task WHERE status <> 'resolved' "
        f"AND cause IN ({REPLAY_CAUSES}) GROUP BY 1, 2"
    )
    for row in _rows(conn, query, now=found.now):
        facts = found.of(row.tenant_id)
        facts.now["manual"] = facts.now.get("manual", 0) + int(row.n)
        facts.spot("manual_s", int(row.age), int(row.n))


def _replays(conn: Connection, found: Gathered) -> None:
    """Items of running batches that make a new command; parked ones are counted as what they are."""
    age = _bound(conn, _SECONDS[conn.dialect.name].format(":now", "b.started_at"))
    query = (
        f"SELECT i.tenant_id, {age} AS age, count(*) AS n FROM replay_batch b JOIN replay_item i ON i.replay_id = b.replay_id "
        "WHERE (b.status IN ('running','paused') OR (b.status = 'cancelled' AND b.ended_at IS NULL)) AND b.status <> 'cancelled' "
        "AND i.state IN ('planned','placed','released') AND i.kind = 'again' AND i.sent GROUP BY 1, 2"
    )
    for row in _rows(conn, query, now=found.now):
        facts = found.of(row.tenant_id)
        facts.now["replay"] = facts.now.get("replay", 0) + int(row.n)
        facts.spot("replay_s", int(row.age), int(row.n))


def _unacknowledged(conn: Connection, found: Gathered) -> None:
    query = (
        "SELECT scope, alert_id, raised_at FROM alert WHERE acked_at IS NULL AND safe_mode_at IS NOT NULL "
        "AND status <> 'resolved' ORDER BY raised_at, alert_id"
    )
    for row in conn.execute(text(query).columns(raised_at=UTCDateTime())):
        if row.scope not in found.unacknowledged:
            found.unacknowledged[row.scope] = row.alert_id
            found.of(row.scope).now["unacknowledged_s"] = (found.now - row.raised_at).total_seconds()


def _safe_mode(conn: Connection, found: Gathered) -> None:
    """How long safe mode has held, and within the hour: entries anew, and exits that were refused."""
    held = "SELECT scope, entered_at FROM safe_episode WHERE ended_at IS NULL AND draining_since IS NULL"
    for row in conn.execute(text(held).columns(entered_at=UTCDateTime())):
        found.of(row.scope).now["safe_mode_s"] = max(0.0, (found.now - row.entered_at).total_seconds())
    steps = (
        "SELECT s.kind, e.entered_at, (SELECT max(b.ended_at) FROM safe_episode b WHERE b.scope = e.scope "
        "AND b.ended_at <= e.entered_at) AS before_at FROM safe_step s JOIN safe_episode e ON e.episode_id = s.episode_id "
        "WHERE s.at >= :since AND s.kind IN ('entered','reentered','exit_denied')"
    )
    everywhere = found.of(GLOBAL_SCOPE).now
    for row in _rows(conn, steps, {"entered_at": UTCDateTime(), "before_at": UTCDateTime()}, since=found.now - HOUR):
        again = row.before_at is not None and row.entered_at - row.before_at <= HOUR
        if row.kind == "exit_denied":
            everywhere["denied_exits"] = everywhere.get("denied_exits", 0) + 1
        elif row.kind == "reentered" or again:
            everywhere["reentries"] = everywhere.get("reentries", 0) + 1


def _drill(conn: Connection, found: Gathered) -> None:
    """What the last failure drill came to; a bad one is the signal's value until the next one."""
    last = text("SELECT invalid_side_effects, recovery_s FROM drill WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1")
    row = conn.execute(last).first()
    if row is None:
        return
    numbers = {"drill_invalid_side_effects": row.invalid_side_effects, "drill_recovery_s": row.recovery_s}
    found.of(GLOBAL_SCOPE).now.update({name: float(n) for name, n in numbers.items() if n is not None})


# --- within a window ----------------------------------------------------------------------------------------------------


def _notices(conn: Connection, found: Gathered) -> None:
    query = (
        "SELECT tenant_id, result, CASE WHEN done_at >= :quarter THEN 1 ELSE 0 END AS lately, count(*) AS n "
        "FROM contingency_notice WHERE done_at >= :hour GROUP BY 1, 2, 3"
    )
    for row in _rows(conn, query, hour=found.now - HOUR, quarter=found.now - QUARTER):
        facts, n = found.of(row.tenant_id), int(row.n)
        facts.count("notice", n, in_quarter=n * row.lately)
        if row.result != "contingency_message_sent_ticket_opened":
            facts.count("notice_failed", n, in_quarter=n * row.lately)


def _tickets(conn: Connection, found: Gathered) -> None:
    """From what asks for a ticket (command, escalation, safe mode) to the ticket."""
    seconds = _SECONDS[conn.dialect.name].format("t.opened_at", "coalesce(c.accepted_at, s.due_at, e.entered_at, t.opened_at)")
    query = (
        f"SELECT t.tenant_id, {seconds} AS took, count(*) AS n FROM ticket t "
        "LEFT JOIN command c ON c.tenant_id = t.tenant_id AND c.command_id = t.cause_id AND t.kind = 'takeover' "
        "LEFT JOIN alert_step s ON s.alert_id = t.cause_id AND s.action = 'escalate' AND s.outcome = 'done' "
        "LEFT JOIN safe_episode e ON e.episode_id = t.cause_id WHERE t.opened_at >= :since GROUP BY 1, 2"
    )
    for row in _rows(conn, query, since=found.now - QUARTER):
        found.of(row.tenant_id).spot("ticket_s", int(row.took), int(row.n))


def _takeovers(conn: Connection, found: Gathered) -> None:
    """Takeovers whose wait ended within the hour, answered, closed or over their SLA; each counts once."""
    seen: dict[str, str] = {}
    breached: set[str] = set()
    answered = (
        "SELECT tenant_id, ticket_id FROM ticket WHERE kind = 'takeover' AND answered_at >= :since "
        "UNION SELECT tenant_id, ticket_id FROM ticket WHERE kind = 'takeover' AND closed_at >= :since"
    )
    for row in _rows(conn, answered, since=found.now - HOUR):
        seen[row.ticket_id] = row.tenant_id
    late = "SELECT tenant_id, dedup_key FROM alert WHERE raised_at >= :since AND trigger = 'takeover_sla'"
    for row in _rows(conn, late, since=found.now - HOUR):
        ticket_id = row.dedup_key.removeprefix("takeover:")
        seen[ticket_id] = row.tenant_id
        breached.add(ticket_id)
    for ticket_id, tenant_id in seen.items():
        found.of(tenant_id).count("takeover", 1)
        if ticket_id in breached:
            found.of(tenant_id).count("takeover_breached", 1)


def _packs(conn: Connection, found: Gathered) -> None:
    """Evidence packs settled within the hour, and how long they took; one that is due and was never tried ages."""
    names = _SECONDS[conn.dialect.name]
    settled = (
        f"SELECT scope, result, {names.format('finished_at', 'requested_at')} AS took, count(*) AS n FROM evidence_pack "
        "WHERE finished_at >= :since AND due_at IS NULL AND NOT running GROUP BY 1, 2, 3"
    )
    for row in _rows(conn, settled, since=found.now - HOUR):
        facts, n = found.of(row.scope), int(row.n)
        facts.count("pack", n)
        facts.spot("pack_s", int(row.took), n)
        if row.result != EvidenceResult.EVIDENCE_PACK_GENERATED:
            facts.count("pack_incomplete", n)
    late = (
        f"SELECT scope, {_bound(conn, names.format(':now', 'requested_at'))} AS took, count(*) AS n FROM evidence_pack "
        "WHERE due_at IS NOT NULL AND due_at <= :now AND result IS NULL GROUP BY 1, 2"
    )
    for row in _rows(conn, late, now=found.now):
        found.of(row.scope).spot("pack_s", int(row.took), int(row.n))


# --- shared -------------------------------------------------------------------------------------------------------------


def _bound(conn: Connection, expression: str) -> str:
    """A bound time inside a difference needs its type said on PostgreSQL."""
    return expression.replace(":now", "CAST(:now AS timestamptz)") if conn.dialect.name == "postgresql" else expression


def _rows(conn: Connection, query: str, columns: Mapping[str, Any] | None = None, **times: datetime) -> Any:
    """Run a query whose parameters are times."""
    statement = text(query).bindparams(*(bindparam(name, type_=UTCDateTime()) for name in times))
    return conn.execute(statement.columns(**columns) if columns else statement, times)
