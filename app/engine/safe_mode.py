"""Safe mode's loop (S-PC-03-002 to -004): makes an entry visible, tells families, opens the ticket, judges the exit.

Nothing rests on this loop for safety: commands are blocked by what is read in their own transaction, also when no loop
runs. Every step is one transaction that locks its scope or writes under a name that is unique, so any number of nodes may
run it and any of them may die anywhere.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.clock import Clock
from app.domain.safe_mode import ContingencyResult, ExitAnswer, SafeModeResult, activation_retry_s
from app.domain.states import ModeState
from app.engine.health import Health
from app.errors import StorageError
from app.metrics import Metrics
from app.store import critical_tickets, notices
from app.store.alerts import raise_alert
from app.store.database import Database
from app.store.episodes import STORES_DOWN, SafeModePolicy, open_scopes, tenant_of
from app.store.lanes import GLOBAL_SCOPE
from app.store.people import By
from app.store.safe_mode import (
    Cause,
    Entry,
    ask_exit,
    enter_by_hand,
    enter_overdue,
    enter_stores_down,
    overdue,
    record_recovery,
)
from app.store.stabilisation import Progress, advance

log = structlog.get_logger("engine.safe_mode")

POLL_S: Final = 1.0
"""Real seconds between looks while nothing is open; less under a faster clock."""
BUSY_POLL_S: Final = 0.25
TELL_EVERY_S: Final = 0.5
"""Real seconds between looks for families that have not heard."""
TELL_AT_ONCE: Final = 100
GREEN_NEEDED: Final = timedelta(minutes=10)


@dataclass(slots=True)
class _Failures:
    """An activation that could not be written: how often, when it is tried again, and the same of the alert about it."""

    causes: tuple[str, ...]
    again_at: datetime
    correlation_id: str
    count: int = 0
    alerted: bool = False
    alert_count: int = 0
    alert_again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What one look found: alerts past their deadline by scope, open scopes, and whether a message to a family has ended."""

    overdue: dict[str, list[Cause]]
    scopes: list[str]
    unsettled: bool


def _glance(conn: Connection, now: datetime) -> _Seen:
    """All that a quiet round needs, in one read."""
    return _Seen(overdue=overdue(conn, now), scopes=open_scopes(conn), unsettled=notices.unsettled(conn))


class SafeModeLoop:
    """The loop behind entry, window, notices and exit. `on_change` is called when a mode changed, lanes or messages may go."""

    name = "safe_mode"

    def __init__(self, database: Database, clock: Clock, health: Health, metrics: Metrics, *, public_url: str) -> None:
        self.wake = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        self.policy = SafeModePolicy(window=health.window(GREEN_NEEDED))
        self._database, self._clock, self._health, self._metrics = database, clock, health, metrics
        self._public_url = public_url
        self._failures: dict[str, _Failures] = {}
        """By the scope of the alerts that are overdue, or by the cause's kind."""
        self._tickets_failed: set[str] = set()
        """Tickets (ids) whose newest attempt failed here."""
        self._told_at = 0.0

    async def tick(self) -> float:
        """One look at everything; returns the real seconds until the next."""
        seen = await self._database.read(_glance, self._clock.now())
        entered = await self._enter(seen.overdue)
        scopes = await self._database.read(open_scopes) if entered else seen.scopes
        self._metrics.safe_mode.set(len(scopes))
        for scope in scopes:
            progress = await self._database.write(advance, scope, self.policy, self._clock.now())
            await self._note(scope, progress)
        if scopes and time.monotonic() - self._told_at >= TELL_EVERY_S:
            self._told_at = time.monotonic()
            for scope in scopes:
                await self._tell(scope)
        if seen.unsettled:
            await self._settle()
        return BUSY_POLL_S if scopes else max(BUSY_POLL_S, min(POLL_S, 5.0 / self._clock.scale))

    # --- what people do -------------------------------------------------------------------------------------------------

    async def enter_by_hand(self, scope: str, reason: str, by: By) -> Entry:
        """A superadmin switches it on, or adds a reason to an episode that is open."""
        entry = await self._database.write(enter_by_hand, scope, reason, by)
        self._notify()
        self.wake.set()
        return entry

    async def recover(
        self,
        scope: str,
        by: By,
        *,
        action: str | None,
        runbook_step: str | None,
        checklist: Mapping[str, bool],
        rev: int | None = None,
    ) -> None:
        """Record what was done and the ticks. Raises Conflict where there is no safe mode, or after `rev` of the episode."""
        await self._database.write(
            record_recovery, scope, by, action=action, runbook_step=runbook_step, checklist=checklist, rev=rev
        )
        self._acted()

    async def leave(self, scope: str, by: By) -> ExitAnswer:
        """Ask for the exit. Raises Conflict where there never was anything to leave."""
        answer = await self._database.write(ask_exit, scope, self.policy, by)
        log.info(
            "safe_mode_exit",  # that somebody asked: also where the story says nothing, because nothing came of it
            flow_id="F-06",
            correlation_id=by.correlation_id,
            scope=scope,
            status=answer.result or ModeState.RECOVERING,
            health_window=answer.reason,
            missing=len(answer.missing),
        )
        if answer.result is SafeModeResult.SAFE_MODE_EXIT_DENIED_MISSING_CHECKLIST:
            summary = "Somebody tried to leave safe mode before its gates were complete."
            await self._alert(tenant_of(scope), "safe_mode_exit_denied", summary, f"safe-mode-exit-denied:{scope}")
        self._acted()
        return answer

    def _acted(self) -> None:
        self.wake.set()
        self._notify()

    # --- entry ----------------------------------------------------------------------------------------------------------

    async def _enter(self, late: Mapping[str, Sequence[Cause]]) -> bool:
        """Write down what holds already; whether there was anything."""
        now, down_at = self._clock.now(), self._health.stores_down_at
        self._failures = {
            name: f for name, f in self._failures.items() if name in late or (name == STORES_DOWN and down_at is not None)
        }
        if down_at is not None and await self._activate(STORES_DOWN, GLOBAL_SCOPE, (STORES_DOWN,), now, enter_stores_down, down_at):
            self._health.stores_up()
        for scope, causes in late.items():
            own = causes[0].correlation_id
            await self._activate(scope, scope, tuple(c.cause_id for c in causes), now, enter_overdue, scope, correlation_id=own)
        return bool(late) or down_at is not None

    async def _activate(
        self,
        name: str,
        scope: str,
        causes: tuple[str, ...],
        now: datetime,
        write: Callable[..., Entry | None],
        *args: object,
        correlation_id: str | None = None,
    ) -> bool:
        """Write the entry; one that fails is tried again, ever more slowly, and people hear of it at once. Whether it is done."""
        failed = self._failures.get(name)
        if failed is not None and failed.causes == causes and now < failed.again_at:
            await self._alert_failure(scope, failed, now)
            return False
        try:
            entry = await self._database.write(write, *args, now)
        except (StorageError, DBAPIError) as error:
            if failed is None or failed.causes != causes:
                failed = self._failures[name] = _Failures(
                    causes, again_at=now, correlation_id=correlation_id or f"safe-mode-{name}"
                )
            await self._activation_failed(scope, failed, error, now)
            return False
        self._failures.pop(name, None)
        if entry is not None:
            self._notify()
            if entry.reentered:
                await self._alert_reentry(scope, entry.episode_id, "another cause")
        return True

    async def _activation_failed(self, scope: str, failed: _Failures, error: Exception, now: datetime) -> None:
        failed.count += 1
        failed.again_at = now + timedelta(seconds=activation_retry_s(failed.count))
        result = SafeModeResult.SAFE_MODE_ACTIVATION_FAILED
        log.critical(
            "safe_mode",
            flow_id="F-06",
            correlation_id=failed.correlation_id,
            tenant_id=tenant_of(scope),
            scope=scope,
            status=result,
            attempt=failed.count,
            reason=type(error).__name__,
        )
        await self._alert_failure(scope, failed, now)

    async def _alert_failure(self, scope: str, failed: _Failures, now: datetime) -> None:
        """The P0 alert about it, tried at its own pace: what refuses the entry need not refuse the alert, nor as long."""
        if failed.alerted or (failed.alert_again_at is not None and now < failed.alert_again_at):
            return
        failed.alerted = await self._alert(
            tenant_of(scope),
            "safe_mode_activation_failed",
            "Safe mode could not be written down; sensitive requests are blocked all the same.",
            f"safe-mode-activation:{scope}",
            severity="critical",
        )
        if not failed.alerted:
            failed.alert_count += 1
            failed.alert_again_at = now + timedelta(seconds=activation_retry_s(failed.alert_count))

    # --- stay and exit --------------------------------------------------------------------------------------------------

    async def _note(self, scope: str, progress: Progress) -> None:
        if progress.changed or progress.released:
            self._notify()
        if not progress.changed:
            return
        if progress.reentered:
            await self._alert_reentry(scope, progress.episode_id, progress.reason or "")

    async def _alert_reentry(self, scope: str, episode_id: str, why: str) -> None:
        summary = f"Safe mode was entered again while it was being left: {why}."
        await self._alert(tenant_of(scope), "safe_mode_reentry", summary, f"safe-mode-reentry:{episode_id}")

    async def _alert(self, tenant_id: str | None, trigger: str, summary: str, key: str, *, severity: str = "high") -> bool:
        """Raise an alert; False when that could not be written either."""

        def write(conn: Connection) -> None:
            raise_alert(
                conn,
                tenant_id=tenant_id,
                trigger=trigger,
                severity=severity,
                summary=summary,
                dedup_key=key,
                correlation_id=None,
                now=self._clock.now(),
                raised_by="system:safe_mode",
            )

        try:
            await self._database.write(write)
        except (StorageError, DBAPIError) as error:
            log.critical("alert_not_raised", flow_id="F-06", trigger_id=trigger, status="failed", reason=type(error).__name__)
            return False
        return True

    # --- families and tickets -------------------------------------------------------------------------------------------

    async def _tell(self, scope: str) -> None:
        now = self._clock.now()
        waiting = await self._database.read(notices.affected, scope, now, TELL_AT_ONCE)
        if waiting:
            told = await self._database.write(notices.tell_families, scope, waiting, now)
            if told:
                self._notify()
        for ticket_id, tenant_id in (await self._database.read(critical_tickets.tickets_wanted, scope)).items():
            try:
                await self._database.write(critical_tickets.open_ticket, scope, tenant_id, self._public_url, now)
            except (StorageError, DBAPIError) as error:
                await self._ticket_failed(ticket_id, tenant_id, error)
                self._tickets_failed.add(ticket_id)
            else:
                self._tickets_failed.discard(ticket_id)

    async def _ticket_failed(self, ticket_id: str, tenant_id: str, error: Exception) -> None:
        said = {"tenant_id": tenant_of(tenant_id), "status": ContingencyResult.TICKET_OPEN_FAILED_ALERTED, "ticket_id": ticket_id}
        log.critical("ticket", flow_id="F-06", correlation_id=f"ticket-{ticket_id}", reason=type(error).__name__, **said)
        await self._alert_ticket(tenant_id)

    async def _alert_ticket(self, tenant_id: str) -> None:
        summary = "The critical ticket of safe mode could not be opened."
        await self._alert(tenant_of(tenant_id), "ticket_open_failed", summary, f"ticket-open:{tenant_id}")

    async def _settle(self) -> None:
        for outcome in await self._database.write(notices.settle, self._clock.now(), frozenset(self._tickets_failed)):
            log.info(
                "contingency_message",
                flow_id="F-06",
                correlation_id=outcome.correlation_id,
                tenant_id=outcome.tenant_id,
                contact_id=outcome.contact_id,
                intent=outcome.intent,
                status=outcome.result,
            )
            if outcome.result is ContingencyResult.CONTINGENCY_MESSAGE_FAILED_TICKET_OPENED:
                summary = "Families could not be told about safe mode; the critical ticket names them."
                await self._alert(outcome.tenant_id, "contingency_message_failed", summary, "contingency-message")
            elif outcome.result is ContingencyResult.TICKET_OPEN_FAILED_ALERTED:
                await self._alert_ticket(outcome.tenant_id)

    def _notify(self) -> None:
        for notify in self.on_change:
            notify()
