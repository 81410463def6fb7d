"""Watching the watcher: an independent look at the ladders, and a sign of life to the outside while all is well.

`Audit` reads the steps by itself and shares no code path with the loop that does them: it finds rungs that were never
written, deadlines that are not in force and steps that should have been done and were not. It repairs the first two, and
raises an alert about each. `Heartbeat` calls an outside URL once a minute, only while every loop is healthy and nothing is
overdue: when the calls stop, whoever watches that URL knows, also when this whole machine is gone.
"""

import asyncio
import queue
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
import structlog
from sqlalchemy import Connection

from app.clock import Clock
from app.engine.supervisor import Supervisor
from app.metrics import Metrics
from app.store.alert_ladder import write_steps
from app.store.alert_steps import open_alerts, overdue
from app.store.alerts import Kind, lock_kinds, raise_alert
from app.store.database import Database
from app.store.lanes import GLOBAL_SCOPE
from app.store.safe_deadline import bring_forward, lock_mode, unacknowledged_deadline

log = structlog.get_logger("engine.watch")

GRACE = timedelta(seconds=90)
"""How late a step may be before somebody else says so."""
AUDIT_EVERY_S = 15.0
HEARTBEAT_EVERY_S = 60.0
CALL_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Findings:
    """What one audit found."""

    overdue: int
    rungs_written: int
    deadlines_set: int


def audit(conn: Connection, now: datetime, grace: timedelta = GRACE) -> Findings:
    """Look at every alert that climbs; repair what is missing and raise an alert about what was found."""
    late = overdue(conn, now, grace)
    written, scopes = 0, set()
    for row in open_alerts(conn):
        written += write_steps(conn, row)
        if row.safe_mode_at is not None:
            scopes.add(row.scope)
    deadlines = sum(_enforce(conn, scope, now) for scope in sorted(scopes))
    if late or written or deadlines:
        kinds = [Kind(GLOBAL_SCOPE, trigger, "high") for trigger in ("alert_step_overdue", "alert_ladder_repaired")]
        lock_kinds(conn, kinds)
    if late:
        _say(conn, "alert_step_overdue", f"{len(late)} alert steps are overdue since {late[0].due_at:%H:%M:%S} UTC", now)
    if written or deadlines:
        _say(conn, "alert_ladder_repaired", f"{written} missing alert steps and {deadlines} missing deadlines were written", now)
    return Findings(overdue=len(late), rungs_written=written, deadlines_set=deadlines)


def _enforce(conn: Connection, scope: str, now: datetime) -> bool:
    """Put the deadline of a scope in force if it is not; returns whether it had to."""
    mode, deadline = lock_mode(conn, scope), unacknowledged_deadline(conn, scope)
    if deadline is None or (mode.safe_deadline is not None and mode.safe_deadline <= deadline):
        return False
    bring_forward(conn, scope, deadline, now)
    return True


def _say(conn: Connection, trigger: str, summary: str, now: datetime) -> None:
    raise_alert(
        conn,
        tenant_id=None,
        trigger=trigger,
        severity="high",
        summary=summary,
        dedup_key=trigger,
        correlation_id=None,
        now=now,
        raised_by="system:watch",
    )


class Audit:
    """The loop that audits; `failures` are sentences of the log sink, put there by its thread."""

    name = "alert_audit"

    def __init__(self, database: Database, clock: Clock, metrics: Metrics, failures: "queue.SimpleQueue[str]") -> None:
        self.wake = asyncio.Event()
        self.last: Findings | None = None
        self.on_raised: list[Callable[[], None]] = []
        self._database, self._clock, self._metrics, self._failures = database, clock, metrics, failures

    async def tick(self) -> float:
        """One look."""
        now = self._clock.now()
        self.last = found = await self._database.write(audit, now)
        self._metrics.alert_steps_overdue.set(found.overdue)
        if found.overdue or found.rungs_written or found.deadlines_set:
            log.error(
                "alert_audit_found",
                flow_id="F-06",
                status="alert_step_overdue" if found.overdue else "alert_ladder_repaired",
                overdue=found.overdue,
                rungs_written=found.rungs_written,
                deadlines_set=found.deadlines_set,
            )
        await self._report_sink(now)
        # also under a scaled clock a look must come before the grace is over
        return min(AUDIT_EVERY_S, max(0.5, GRACE.total_seconds() / self._clock.scale))

    async def _report_sink(self, now: datetime) -> None:
        """An outage of the log sink becomes an alert: its own lines cannot say so (S-PC-04-001)."""
        sentence = None
        while True:
            try:
                sentence = self._failures.get_nowait()
            except queue.Empty:
                break
        if sentence is None:
            return
        summary = sentence
        try:
            await self._database.write(
                lambda conn: raise_alert(
                    conn,
                    tenant_id=None,
                    trigger="log_emit_failed",
                    severity="high",
                    summary=summary,
                    dedup_key="log_emit_failed",
                    correlation_id=None,
                    now=now,
                    raised_by="system:log",
                )
            )
        except BaseException:
            self._failures.put(sentence)
            raise
        for call in self.on_raised:
            call()


class Heartbeat:
    """The loop that calls the outside URL. A call that fails is logged; the next one comes a minute later all the same."""

    name = "heartbeat"

    def __init__(self, client: httpx.AsyncClient, url: str, supervisor: Supervisor, audited: Audit) -> None:
        self.wake = asyncio.Event()
        self._client, self._url, self._supervisor, self._audited = client, url, supervisor, audited

    @property
    def well(self) -> bool:
        """Whether every loop is healthy, the last audit found nothing overdue, and there was one."""
        return self._supervisor.healthy and self._audited.last is not None and self._audited.last.overdue == 0

    async def tick(self) -> float:
        """One call, if all is well; soon again if the first audit has not been yet."""
        if not self.well:
            if self._audited.last is None:
                return 1.0  # just started: the first look at the ladders comes any moment
            log.warning("heartbeat_withheld", status="unhealthy", stalled=self._supervisor.stalled())
            return min(5.0, HEARTBEAT_EVERY_S)
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                answer = await self._client.get(self._url)
            if answer.status_code >= 400:
                log.warning("heartbeat_refused", status=f"http_{answer.status_code}")
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            log.warning("heartbeat_failed", status=type(error).__name__)
        return HEARTBEAT_EVERY_S


async def report_defect(database: Database, clock: Clock, supervisor: Supervisor, node_id: str) -> None:
    """A critical alert about the defect that ends this process; its ladder is climbed by whoever runs next."""
    defect = supervisor.defect
    if defect is None:
        return
    summary = f"A process stopped because of a defect: {type(defect).__name__} on {node_id}"
    try:
        async with asyncio.timeout(3.0):
            await database.write(
                lambda conn: raise_alert(
                    conn,
                    tenant_id=None,
                    trigger="loop_defect",
                    severity="critical",
                    summary=summary,
                    dedup_key=f"loop_defect:{type(defect).__name__}",
                    correlation_id=None,
                    now=clock.now(),
                    raised_by="system:supervisor",
                )
            )
    except Exception:  # the process ends anyway, with the defect itself in the log and in its exit code
        log.exception("defect_not_reported")
