"""The Redis failure drill (S-PC-05-002): really cut this process's path to Redis, carry real traffic, and prove the effects.

A run sends requests of the drill's own clinic through intake like everybody's, in four phases: with Redis, at the cut, in
the fallback, after the path is back. While the path is cut, real clinics' commits on this node use the fallback too, as in
any failure. The cut expires by itself and dies with the process; a run whose process died is ended by whichever node sees it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from app.clock import Clock
from app.domain.drill import DEFAULT_LIMITS, TENANT, DrillMeasures, DrillPhase, DrillResult, DrillVerdict, running_risks, verdict
from app.domain.evidence_kinds import FLOW_OF_KIND, EvidenceKind, stamp
from app.domain.fallback import FallbackLimits
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
RECOVERY_MAX_S: Final = DEFAULT_LIMITS.recovery_critical_s + 30
"""Past the critical limit nothing more is learned by waiting on."""
WATCH_S: Final = 0.5
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
    risks: list[str] = field(default_factory=list)
    """Why it was stopped, where the measures do not say so."""
    began_at: datetime | None = None
    sent: int = 0

    def name(self) -> str:
        """The next command's id."""
        self.sent += 1
        return f"drill-{self.drill_id}-{self.sent}"


class RiskSeen(Exception):
    """A wrong effect, or trouble in the installation: the run stops at once."""


class Drills:
    """Starts what was asked for or is due, ends what died, and runs one drill at a time."""

    name = "drills"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        intake: Intake,
        locks: LaneLocks,
        *,
        limits: FallbackLimits,
        node_id: str,
        tamper: Tamper | None = None,
    ) -> None:
        self.wake = asyncio.Event()
        self._limits = limits
        """Those of this node's commits: a drill that uses them up would hold back real clinics."""
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
        """End a run whose process died: with what it had measured, and with the proof of what it left behind."""
        row = await self._database.read(drills.drill, drill_id)
        if row is None:
            return
        measures, phases = drills.kept(row)
        run = _Run(drill_id, measures=measures, phase=row.phase, phases=phases, risks=[drills.INTERRUPTED], began_at=row.started_at)
        run.wrong = await self._database.read(drills.invalid_effects, drill_id)
        run.measures = replace(measures, invalid_side_effects=len(run.wrong), restored=True)  # a cut dies with its process
        await self._end(run)

    # --- one run --------------------------------------------------------------------------------------------------------

    async def _run(self, run: _Run, locks: RedisLocks) -> None:
        run.began_at = self._clock.now()
        try:
            async with asyncio.timeout(4 * PHASE_MAX_S + RECOVERY_MAX_S), asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(run))
                await self._phases(run, locks)
                watching.cancel()
        except* (RiskSeen, TimeoutError, StorageUnavailable) as stops:
            causes = ", ".join(str(cause) or type(cause).__name__ for cause in _leaves(stops))
            log.warning("drill_stopped", **_about(run), status=run.phase, error=causes[:200])
        except* Exception:
            # a defect of the drill ends the run, which then has proven nothing and fails; the process goes on serving clinics
            log.exception("drill_broke", **_about(run), status=run.phase)
            run.wrong.append(BROKE)
        finally:
            locks.restore()
        await self._end(run)

    async def _watch(self, run: _Run) -> None:
        """Beside the run: keep its lease, and stop it as soon as anything but the rehearsal itself is in trouble."""
        assert run.began_at is not None
        while True:
            now = self._clock.now()
            seen = await self._database.read(drills.trouble, run.drill_id, run.began_at)
            if seen is None and self._limits.effects_left(now) == 0:
                seen = "fallback_limit_reached"
            if seen is not None:
                run.risks.append(seen)
                raise RiskSeen(seen)
            await self._database.write(drills.beat, run.drill_id, now)
            await asyncio.sleep(WATCH_S)

    async def _phases(self, run: _Run, locks: RedisLocks) -> None:
        await self._database.write(drills.furnish, self._clock.now())
        await _reached(locks, "primary")
        await self._traffic(run)
        await self._next(run, DrillPhase.CUT)
        await _reached(locks, "primary")  # a path that was lost already cannot be seen to be cut
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
        recovered_at = await _reached(locks, "primary", RECOVERY_MAX_S)
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
        log.info("drill_phase", **_about(run), status=phase)

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
            await self._intake.commands(TENANT, batch)
            again = batch[:: len(batch) // 3]  # what was sent before changes nothing
            await self._intake.commands(TENANT, again)
            for raw in batch:
                await self._intake.result(TENANT, raw["command_id"], PHASE_MAX_S)
            ids += [raw["command_id"] for raw in batch]
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
                "at": stamp(self._clock.now()),
                "requests": len(entries),
                "per_s": round(len(entries) / took_s, 1),
                "in_fallback": len(fallback),
                "wait_p95_s": percentile(waits, 0.95),
                "lock_p95_ms": percentile([entry.lock_ms for entry in entries], 0.95),
            }
        )
        if run.phase == DrillPhase.BASELINE:
            run.measures = replace(run.measures, fallback_before_cut=sum(e.lock_mode == "fallback" for e in entries))
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

    async def _end(self, run: _Run) -> None:
        found = verdict(run.measures)
        if run.risks:
            found = DrillVerdict(
                result=DrillResult.DRILL_FAILED_SIDE_EFFECT_RISK, risks=(*run.risks, *found.risks), warnings=found.warnings
            )
        report = {
            "drill_id": run.drill_id,
            "kind": "redis",
            "node_id": self._node_id,
            "started_at": stamp(run.began_at),
            "phases": run.phases,
            "wrong": run.wrong[:50],
            "requests": run.sent,
        }
        ended = await self._database.write(drills.end, run.drill_id, found, run.measures, report, self._clock.now())
        if ended:
            log.info(
                "drill_ended",
                **_about(run),
                status=found.result,
                reason=", ".join((*found.risks, *found.warnings)) or None,
            )


async def _reached(locks: RedisLocks, mode: str, limit_s: float = PHASE_MAX_S) -> float:
    """When the locks had this mode (monotonic seconds); raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        await locks.reached(mode)
    return time.monotonic()


def _about(run: _Run) -> dict[str, str]:
    """What every line of a run carries."""
    flow_id = FLOW_OF_KIND[EvidenceKind.DRILL]
    return {"flow_id": flow_id, "correlation_id": f"drill-{run.drill_id}", "tenant_id": TENANT}


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    """The exceptions themselves, out of groups within groups."""
    return [leaf for e in group.exceptions for leaf in (_leaves(e) if isinstance(e, BaseExceptionGroup) else [e])]
