"""The Redis failure drill (S-PC-05-002): really cut this process's path to Redis, carry real traffic, and prove the effects.

A run sends requests of the drill's own clinic through intake like everybody's, in four phases: with Redis, at the cut, in
the fallback, after the path is back. While the path is cut, real clinics' commits on this node use the fallback too, as in
any failure. The cut expires by itself and dies with the process; a run whose process died is ended by whichever node sees it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import structlog

from app.clock import Clock
from app.domain.drill import DrillMeasures, DrillPhase, DrillVerdict, running_risks, verdict
from app.domain.signals import percentile
from app.domain.states import EFFECT_RESULTS
from app.engine.intake import Intake
from app.engine.locks import LaneLocks
from app.engine.redis_locks import RedisLocks
from app.errors import StorageUnavailable
from app.store import drills
from app.store.database import Database

log = structlog.get_logger("engine.drill")

POLL_S: Final = 1.0
CUT_MAX_S: Final = 60.0
"""Real seconds after which the path comes back, whatever happens to the run."""
PHASE_MAX_S: Final = 30.0
ROUNDS: Final = 3
"""Rounds of requests of one phase; a round is one booking, its cancellation and a repeated one per family."""
BROKE: Final = "the drill itself broke: the log has the trace"
Tamper = Callable[[Any, str], None]


@dataclass(slots=True)
class _Run:
    """What one run knows."""

    drill_id: str
    measures: DrillMeasures = field(default_factory=DrillMeasures)
    phase: str = DrillPhase.BASELINE
    phases: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    sent: int = 0

    def name(self) -> str:
        """The next command's id."""
        self.sent += 1
        return f"drill-{self.drill_id}-{self.sent}"


class RiskSeen(Exception):
    """A wrong effect: the run stops at once."""


class Drills:
    """Starts what was asked for or is due, ends what died, and runs one drill at a time."""

    name = "drills"

    def __init__(
        self, database: Database, clock: Clock, intake: Intake, locks: LaneLocks, *, node_id: str, tamper: Tamper | None = None
    ) -> None:
        self.wake = asyncio.Event()
        self._database, self._clock, self._intake, self._locks, self._node_id = database, clock, intake, locks, node_id
        self._tamper = tamper
        """Only for tests: called inside the fallback phase with a connection and the drill's id, to do what must be noticed."""
        self._running: asyncio.Task[None] | None = None

    async def tick(self) -> float:
        """One look; a run goes on beside it."""
        now = self._clock.now()
        if self._running is not None:
            if not self._running.done():
                return POLL_S
            task, self._running = self._running, None
            task.result()
        for drill_id in await self._database.read(drills.orphans, now):
            await self._interrupted(drill_id)
        if not isinstance(self._locks, RedisLocks) or self._locks.is_cut:
            return POLL_S
        await self._database.write(drills.schedule_if_due, now)
        row = await self._database.write(drills.claim, self._node_id, now)
        if row is not None:
            self._running = asyncio.create_task(self._run(_Run(row.drill_id), self._locks), name=f"drill-{row.drill_id}")
        return POLL_S

    async def close(self) -> None:
        """Give the path back and let the run go: it is ended as interrupted later."""
        if isinstance(self._locks, RedisLocks):
            self._locks.restore()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _interrupted(self, drill_id: str) -> None:
        measures = DrillMeasures()
        found = replace(verdict(measures), risks=(drills.INTERRUPTED, *verdict(measures).risks))
        await self._end(_Run(drill_id), found)

    # --- one run --------------------------------------------------------------------------------------------------------

    async def _run(self, run: _Run, locks: RedisLocks) -> None:
        try:
            async with asyncio.timeout(4 * PHASE_MAX_S):
                await self._phases(run, locks)
        except* (RiskSeen, TimeoutError, StorageUnavailable) as stops:
            causes = ", ".join(str(cause) or type(cause).__name__ for cause in stops.exceptions)
            log.warning("drill_stopped", correlation_id=f"drill-{run.drill_id}", status=run.phase, error=causes[:200])
        except* Exception:
            # a defect of the drill ends the run, which then has proven nothing and fails; the process goes on serving clinics
            log.exception("drill_broke", correlation_id=f"drill-{run.drill_id}", status=run.phase)
            run.wrong.append(BROKE)
        finally:
            locks.restore()
        await self._end(run, verdict(run.measures))

    async def _phases(self, run: _Run, locks: RedisLocks) -> None:
        await self._database.write(drills.furnish, self._clock.now())
        await _reached(locks, "primary")
        await self._traffic(run)
        await self._next(run, DrillPhase.CUT)
        locks.cut(CUT_MAX_S)
        cut_at = time.monotonic()
        async with asyncio.TaskGroup() as together:
            detecting = together.create_task(_reached(locks, "fallback"))
            together.create_task(self._traffic(run, rounds=1))
        run.measures = replace(run.measures, detection_s=round(detecting.result() - cut_at, 3))
        await self._next(run, DrillPhase.FALLBACK)
        await self._traffic(run)
        if self._tamper is not None:
            await self._database.write(self._tamper, run.drill_id)
            await self._prove(run)
        await self._next(run, DrillPhase.RESTORE)
        locks.restore()
        back_at = time.monotonic()
        recovered_at = await _reached(locks, "primary")
        run.measures = replace(run.measures, recovery_s=round(recovered_at - back_at, 3), restored=not locks.is_cut)
        await self._traffic(run, rounds=1)
        await self._next(run, DrillPhase.VERIFY)
        await self._prove(run)

    async def _next(self, run: _Run, phase: DrillPhase) -> None:
        """Prove what happened so far, write it down, go on; a risk stops the run here."""
        await self._prove(run)
        ours = await self._database.write(
            drills.phase, run.drill_id, run.phase, phase, self._clock.now(), run.measures, {"phases": run.phases}
        )
        if not ours:
            raise RiskSeen("the run was ended elsewhere")
        run.phase = phase
        log.info("drill_phase", correlation_id=f"drill-{run.drill_id}", status=phase)

    async def _prove(self, run: _Run) -> None:
        run.wrong = await self._database.read(drills.invalid_effects, run.drill_id)
        run.measures = replace(run.measures, invalid_side_effects=len(run.wrong))
        risks = running_risks(run.measures)
        if risks:
            raise RiskSeen(", ".join(risks))

    async def _traffic(self, run: _Run, rounds: int = ROUNDS) -> None:
        """Book and cancel for every family, with repeats, and wait for every decision."""
        ids: list[str] = []
        began = time.monotonic()
        for _ in range(rounds):
            known = await self._database.read(drills.versions)
            batch = [raw for contact_id in sorted(known) for raw in self._requests(run, contact_id, *known[contact_id])]
            await self._intake.commands(drills.TENANT, batch)
            again = batch[:: len(batch) // 3]  # what was sent before changes nothing
            await self._intake.commands(drills.TENANT, again)
            for raw in batch:
                await self._intake.result(drills.TENANT, raw["command_id"], PHASE_MAX_S)
            ids += [raw["command_id"] for raw in batch]
            await self._database.write(drills.beat, run.drill_id, self._clock.now())
        took_s = time.monotonic() - began
        entries = await self._database.read(drills.settled, ids)
        if len(entries) < len(ids):
            run.wrong.append(f"{len(ids) - len(entries)} requests were not decided in time")
            raise RiskSeen("not every request was decided")
        waits = sorted((entry.committed_at - entry.accepted_at).total_seconds() for entry in entries)
        fallback = [e.lock_ms for e in entries if e.lock_mode == "fallback" and e.result in EFFECT_RESULTS]
        run.phases.append(
            {
                "phase": str(run.phase),
                "requests": len(entries),
                "per_s": round(len(entries) / took_s, 1),
                "in_fallback": len(fallback),
                "wait_p95_s": percentile(waits, 0.95),
                "lock_p95_ms": percentile([entry.lock_ms for entry in entries], 0.95),
            }
        )
        if fallback and run.phase == DrillPhase.FALLBACK:
            run.measures = replace(
                run.measures, commits_in_fallback=len(fallback), lock_p95_ms=round(percentile(fallback, 0.95) or 0.0, 3)
            )

    def _requests(self, run: _Run, contact_id: str, conversation: int, permission: int) -> list[dict[str, Any]]:
        """A booking far ahead, and its cancellation: together they leave the agenda as it was."""
        now = self._clock.now()
        book = run.name()
        start = now + timedelta(days=400, hours=run.sent)
        same = {
            "contact_id": contact_id,
            "patient_id": contact_id.replace("c-", "p-", 1),
            "requested_by": "human",
            "confirmed_by_contact": True,
            "guardian_version": permission,
            "conversation_version": conversation,
            "as_of": now.isoformat(),
            "occurred_at": now.isoformat(),
            "correlation_id": f"drill-{run.drill_id}",
        }
        slot = {"start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat(), "therapist_id": "t-drill"}
        booked = same | {
            "command_id": book,
            "idempotency_key": book,
            "command_type": "schedule",
            "payload": {"appointment_id": f"a-{book}", **slot},
        }
        cancel = run.name()
        cancelled = same | {
            "command_id": cancel,
            "idempotency_key": cancel,
            "command_type": "cancel",
            "entity_version": 1,
            "payload": {"appointment_id": f"a-{book}"},
        }
        return [booked, cancelled]

    async def _end(self, run: _Run, found: DrillVerdict) -> None:
        report = {
            "drill_id": run.drill_id,
            "kind": "redis",
            "node_id": self._node_id,
            "phases": run.phases,
            "wrong": run.wrong[:50],
            "requests": run.sent,
        }
        ended = await self._database.write(drills.end, run.drill_id, found, run.measures, report, self._clock.now())
        if ended:
            log.info(
                "drill_ended",
                correlation_id=f"drill-{run.drill_id}",
                status=found.result,
                reason=", ".join((*found.risks, *found.warnings)) or None,
            )


async def _reached(locks: RedisLocks, mode: str) -> float:
    """When the locks had this mode (monotonic seconds); raises TimeoutError."""
    async with asyncio.timeout(PHASE_MAX_S):
        await locks.reached(mode)
    return time.monotonic()
