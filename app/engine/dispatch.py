"""Dispatch and group commit (S-PC-01-001, S-PC-01-002): rank lanes, lock, gather, decide, apply.

One round serves up to `lanes_per_round` lanes and up to `chain` commands of each. Priority decides which lanes are served;
inside a lane only `commit_order` counts. A round that loses a race changes nothing for the losers: they come up again.

Several loops of one process may dispatch (`Dispatch.sibling`): a clinic is with one of them at a time, and while others are
at work a clinic that floods gets rounds of its own, so that nobody waits in a flood's transaction.

One lane never stops the others: what the database refuses, or the code cannot read, is tried lane by lane, and the lane that
it belongs to is handed to a person, or left alone for a while. Only what concerns everybody (`StorageError`: no answer) ends
a round.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.clock import Clock
from app.domain.fallback import FallbackLimits
from app.domain.lanes import LaneCandidate, rank
from app.domain.states import PriorityClass, State
from app.engine.lanes_last import LanesLast
from app.engine.locks import Grant, LaneLocks
from app.engine.planning import handed_over, plan_lanes
from app.engine.policies import PolicyCache
from app.engine.recent import Recent
from app.engine.side_by_side import Reason, SideBySide, Wake
from app.errors import StorageError
from app.ids import new_id
from app.metrics import Metrics
from app.store.database import Database, before_each_statement
from app.store.lanes import Facts, Known, LaneKey, candidates_or_due, front_of, gather
from app.store.ledger import apply
from app.store.locks import lock_name
from app.store.plans import Attempt, LanePlan, LostRace
from app.telemetry import LineKind
from app.tracing import Tracing

log = structlog.get_logger("engine.dispatch")
DECIDED: Final = LineKind("engine.dispatch", "decided")

POLL_S = 0.5
SIBLING_POLL_S = 5.0
"""A sibling is woken when there is something for it; what it does not hear of, the first loop finds."""
ELSEWHERE_S = 0.05
"""A lane whose lock another node had is left out for this long, so that two nodes do not run after the same lanes."""
LIMIT_TOLD_EVERY = timedelta(minutes=1)
CHOICE = 4
"""Of each clinic, while several are at work, so many times `lanes_beside` lanes are looked at."""
PART_MIN = 32
"""Lanes of half a round at least, or it is done in one piece."""
AT_ONCE = 8
"""Lanes that are read, decided and written in one transaction at most: more of them are better served in halves."""
STEPS_ASIDE_S = 0.05
"""A flood's round waits so long at most, over all its statements, while rounds of others are under way."""
POISON_AFTER = 5
"""Attempts after which a lane whose plan the database keeps refusing is handed to a person."""
LEFT_ALONE_S = 60.0
"""A lane that cannot even be read, or handed over, is looked at again after this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPolicy:
    """Sizes of a round."""

    lanes_per_round: int = 256
    chain: int = 16
    """Commands of one lane at most."""
    commands_per_round: int = 1024
    """With many lanes each gets fewer, but `chain_beside` in any case: what is urgent waits for the round at hand."""
    per_tenant: int = 256
    lanes_beside: int = 16
    chain_beside: int = 4
    """While several clinics are at work, of each at most so many lanes and commands: a round stays short, whoever floods."""
    lanes_of_flood: int = 64
    """A clinic with more lanes than `lanes_beside` floods; in rounds of its own, beside which a sibling serves the others, it
    gets so many: fewer rounds cost the others less."""
    beside_s: float = 1.0
    """A clinic counts as at work for this long after it was served."""
    lanes_last: bool | None = None
    """Whether a transaction locks its lanes last (`store.ledger.apply`); None: where several write at once, so not on SQLite."""
    at_once: int | None = None
    """Lanes up to which a round is read, decided and written in one transaction; None: `AT_ONCE`, and on SQLite, where only
    writing waits for its turn, 0."""
    part_min: int | None = None
    """Lanes from which on half a round is worth a transaction of its own; None: `PART_MIN`, and on SQLite never."""


class Dispatch:
    """The loop that commits."""

    name: str = "dispatch"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        locks: LaneLocks,
        policies: PolicyCache,
        metrics: Metrics,
        *,
        node_id: str,
        policy: DispatchPolicy | None = None,
        tracing: Tracing | None = None,
        limits: FallbackLimits | None = None,
        recent: Recent | None = None,
    ) -> None:
        self.wake = Wake()
        self.on_committed: list[Callable[[Sequence[LanePlan]], None]] = []
        self.on_failed: list[Callable[[], None]] = []
        """Called when the database did not answer a round."""
        self._database, self._clock, self._locks, self._policies, self._metrics = database, clock, locks, policies, metrics
        self._node_id = node_id
        self._tracing = tracing or Tracing()
        self._policy = policy or DispatchPolicy()
        self._shared = SideBySide()
        self._siblings: list[Dispatch] = []
        """The loops beside the first one."""
        self._limits = limits or FallbackLimits()
        self._recent = recent
        self._known: Known | None = recent.find if recent is not None else None
        self._limit_told_at: datetime | None = None
        self._is_first = True
        self._more = False
        """Whether the last round left something to do."""
        self._look_by = float("-inf")
        """When (monotonic) the next look is due, whatever was heard."""
        self._chain = self._policy.chain
        """Commands of one lane in this round."""
        self._aside_s = 0.0
        """What is left of `STEPS_ASIDE_S` to this round."""
        self._given_back: set[LaneKey] = set()
        """Lanes of this round whose locks were given back with a commit."""
        self._emptied = 0
        """Lanes of this round in which nothing waits any more."""
        self._lanes_last = LanesLast(not database.is_sqlite if self._policy.lanes_last is None else self._policy.lanes_last)
        self._part_min = self._policy.part_min or (None if database.is_sqlite else PART_MIN)
        self._at_once = (0 if database.is_sqlite else AT_ONCE) if self._policy.at_once is None else self._policy.at_once

    def sibling(self, name: str) -> "Dispatch":
        """One more loop that dispatches beside this one and tells the same listeners."""
        other = copy(self)
        other.name, other.wake, other._is_first = name, Wake(), False
        self._siblings.append(other)
        return other

    def arrived(self, lanes: Collection[LaneKey]) -> None:
        """Wake the loop for lanes that got commands, and a sibling too when a clinic is among them that no loop is at."""
        tenants = {tenant_id for tenant_id, _ in lanes}
        wake = Wake.hear if self._shared.hear(lanes) else Wake.look
        wake(self.wake)
        if not self._shared.flooding_until.keys() >= tenants:
            self._shared.calm.clear()
        if self._shared.in_hand and not self._shared.in_hand.issuperset(tenants):
            self._wake_siblings(wake)

    def _wake_siblings(self, wake: Callable[[Wake], None] = Wake.set) -> None:
        for sibling in self._siblings:
            wake(sibling.wake)

    async def tick(self) -> float:
        """Serve one round of lanes; what the database refuses is raised, and told before."""
        try:
            return await self._round()
        except (StorageError, DBAPIError, OSError):
            self.wake.reason = Reason.ANYTHING  # what it was woken for is still to be found
            for notify in self.on_failed:
                notify()
            raise

    async def _round(self) -> float:
        reason, now = self.wake.why(), time.monotonic()
        more, self._more = self._more, True
        self._shared.expire(now)
        try:
            due = self._shared.due is not None and self._shared.due <= self._clock.now()
            if reason is Reason.HEARD and not (more or due or now >= self._look_by):
                left_s = await self._serve_heard()
            else:
                known = reason in (Reason.HEARD, Reason.LANES) or (reason is Reason.NONE and more)
                left_s = await self._look_and_serve(asked=due or not known)
        finally:
            if not self._shared.others:
                self._shared.calm.set()
        self._more = left_s is not None
        return self._until() if left_s is None else left_s

    async def _serve_heard(self) -> float | None:
        """Serve lanes that have just got commands, without a look: they are all there is to do."""
        if not self._shared.waiting():  # another loop has them
            return None
        keys = self._shared.free()
        if not keys:
            return await self._look_and_serve(asked=False)
        self._chain = self._policy.chain_beside
        return await self._take_in_hand(keys, self._shared.under_way(), of=len(keys))

    async def _look_and_serve(self, *, asked: bool) -> float | None:
        """Seconds until the next round, None when all is done that was found; `asked`: for anything, also of clinics in hand."""
        now, shared = self._clock.now(), self._shared
        shared.looking(asked=asked)
        self._look_by = time.monotonic() + (POLL_S if self._is_first else SIBLING_POLL_S)
        most = self._policy.per_tenant if len(shared.served_until) < 2 else self._policy.lanes_beside * CHOICE
        ready, due = await self._database.read(candidates_or_due, now, most, without=sorted(shared.in_hand))
        # fewer than were asked for are all that there are; of as many nobody knows how many more wait behind them
        every = all(count < most for count in Counter(c.tenant_id for c in ready).values())
        shared.overlooked |= shared.in_hand.intersection(c.tenant_id for c in ready)  # taken since the look began
        not_now = shared.elsewhere.keys() | shared.alone.keys()
        ready = [c for c in ready if c.tenant_id not in shared.in_hand and (c.tenant_id, c.contact_id) not in not_now]
        if not ready:
            shared.due = due
            return None
        at_work = {*shared.served_until, *(c.tenant_id for c in ready)}
        self._chain = self._policy.chain if len(at_work) == 1 else self._policy.chain_beside
        chosen, floods = self._choose(ready, now, alone=len(at_work) == 1)
        self._chain = min(self._chain, max(self._policy.chain_beside, self._policy.commands_per_round // len(chosen)))
        tenants = {c.tenant_id for c in chosen}
        if self.wake.is_set() or not tenants.issuperset(c.tenant_id for c in ready):
            self._wake_siblings()  # for what came during the look, and what is not in this round
        keys = [(c.tenant_id, c.contact_id) for c in chosen]
        way = self._stepping_aside() if floods else shared.under_way()
        return await self._take_in_hand(keys, way, of=len(ready) if every else None)

    async def _take_in_hand(self, keys: Sequence[LaneKey], way: AbstractContextManager[None], *, of: int | None) -> float | None:
        """Serve these lanes, out of so many (None: nobody knows); seconds until the next round, None when nothing is left."""
        shared, left_out = self._shared, False
        tenants = shared.take(keys, time.monotonic() + self._policy.beside_s)
        try:
            with way:
                served = await self._serve(keys)
        finally:
            left_out = shared.leave(tenants)
        if self._emptied == of and not left_out:
            return None
        return 0.0 if served or shared.elsewhere else ELSEWHERE_S

    def _choose(self, ready: Sequence[LaneCandidate], now: datetime, *, alone: bool) -> tuple[list[LaneCandidate], bool]:
        """The lanes of one round, and whether it is a flood's.

        Beside a sibling a round has lanes of clinics that flood or those of all others, as the first of them is.
        """
        policy = self._policy
        if alone or not self._siblings:
            return rank(ready, now, limit=policy.lanes_per_round, per_tenant=None if alone else policy.lanes_beside), False
        flooding, until = self._shared.flooding_until, time.monotonic() + policy.beside_s
        lanes = Counter(c.tenant_id for c in ready)
        flooding |= {tenant: until for tenant, count in lanes.items() if count > policy.lanes_beside}
        chosen = rank(ready, now, limit=policy.lanes_per_round, per_tenant=policy.lanes_of_flood)
        floods = chosen[0].tenant_id in flooding
        return [c for c in chosen if (c.tenant_id in flooding) == floods], floods

    def _stepping_aside(self) -> AbstractContextManager[None]:
        """A round whose statements let the rounds of others go first."""
        self._aside_s = STEPS_ASIDE_S
        return before_each_statement(self._step_aside)

    async def _step_aside(self) -> None:
        """Wait until no round of others is under way, but over a whole round no longer than `STEPS_ASIDE_S`."""
        if self._shared.calm.is_set() or self._aside_s <= 0:
            return
        started = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._aside_s):
                await self._shared.calm.wait()
        self._aside_s -= time.monotonic() - started

    def _until(self) -> float:
        """Seconds until the next round, when nothing is left to do now."""
        if self._shared.waiting():  # heard of while a loop was at the clinic, or not to be served without a look
            self.wake.hear()
            return 0.0
        look_s = max(0.0, self._look_by - time.monotonic())
        if not self._is_first:
            return look_s
        if self._shared.elsewhere:
            return ELSEWHERE_S
        due = self._shared.due
        if due is None:
            return look_s
        return max(0.0, min(look_s, (due - self._clock.now()).total_seconds() / self._clock.scale))

    async def _serve(self, chosen: Sequence[LaneKey]) -> bool:
        """Lock, gather, decide, apply; whether anything was written."""
        names = {lock_name(key): key for key in chosen}
        self._given_back, self._emptied = set(), 0
        grant = await self._locks.acquire(list(names))
        self._metrics.lock(grant.mode, grant.ms, len(grant.keys))
        try:
            keys = [key for name, key in names.items() if name in grant.keys]
            elsewhere = [key for name, key in names.items() if name not in grant.keys]
            self._shared.elsewhere |= dict.fromkeys(elsewhere, time.monotonic() + ELSEWHERE_S)
            if not keys:
                return False
            if grant.mode != "fallback":
                return await self._in_parts(keys, grant)
            self._aside_s = 0.0  # the others may wait for this lock
            async with self._shared.fallback:
                return await self._in_parts(keys, grant)
        finally:
            left = [name for name, key in names.items() if name in grant.keys and key not in self._given_back]
            await self._locks.release(grant.only(left))

    async def _in_parts(self, keys: Sequence[LaneKey], grant: Grant) -> bool:
        """Two halves side by side, where there is enough for both: one is planned while the other is written."""
        left = self._effects_left(grant)
        if self._part_min is None or left is not None or len(keys) < 2 * self._part_min:
            return await self._work(keys, left, grant)
        parts = (self._work(part, None, grant) for part in (keys[::2], keys[1::2]))
        done = await asyncio.gather(*parts, return_exceptions=True)
        for outcome in done:  # each has told what it wrote
            if isinstance(outcome, BaseException):
                raise outcome
        return any(done)

    async def _work(self, keys: Sequence[LaneKey], effects_left: int | None, grant: Grant) -> bool:
        """Gather, decide, apply; whether anything was written."""
        if self._at_once and len(keys) <= self._at_once and grant.mode != "fallback":
            written = await self._all_at_once(keys, grant)
            if written is not None:
                return self._told(written)
        plans = await self._plan(keys, effects_left)
        unsound = [key for key in keys if key in self._shared.alone]  # not those that the database refuses from here on
        written = await self._apply([p for p in plans if p.changes_anything], grant)
        written += await self._go_on(unsound, grant)
        if grant.mode == "fallback":
            effects = sum(entry.decision.effect is not None for plan in written for entry in plan.entries)
            self._limits.applied(effects, self._clock.now())
        return self._told(written)

    def _told(self, written: Sequence[LanePlan]) -> bool:
        """Tell the listeners what was written; whether anything was."""
        for notify in self.on_committed:
            notify(written)
        return bool(written)

    async def _all_at_once(self, keys: Sequence[LaneKey], grant: Grant) -> list[LanePlan] | None:
        """A few lanes in one transaction instead of two; None when something is wrong, which the careful way finds out."""
        if self._lanes_last.careful:
            return None
        started = time.perf_counter()
        policies = await self._policies.get({t for t, _ in keys})
        attempt = self._attempt(grant)
        plans: list[LanePlan] = []

        def decide(facts: Facts) -> list[LanePlan]:
            plans[:] = (plan for plan in plan_lanes(facts, policies, self._clock.now()) if plan.changes_anything)
            return plans

        how = {"lanes_last": self._lanes_last.wanted, "leave_busy": self._leaves_busy(grant.mode)}
        try:
            written = await self._database.write(decide_and_apply, keys, attempt, decide, self._chain, known=self._known, **how)
        except (StorageError, OSError):
            raise
        except (LostRace, IntegrityError):
            self._lanes_last.lost()
            return None
        except Exception as error:  # noqa: BLE001  # nothing was written, and told below or by the careful way
            if isinstance(error, DBAPIError) and len(plans) == 1:
                return await self._refuse(plans[0], grant, error)
            log.info("round_repeated", flow_id="F-02", lanes=len(keys), error=type(error).__name__)
            return None  # whose fault it is shows when reading, deciding and writing are steps of their own
        return self._written(written, plans, attempt, started) if plans else []

    async def _plan(self, keys: Sequence[LaneKey], effects_left: int | None) -> list[LanePlan]:
        """What to do with each lane, from one read; lanes that cannot be read or planned are left out."""
        await self._policies.get({t for t, _ in keys})  # a failure there is no lane's fault
        try:
            return await self._read_and_plan(keys, effects_left)
        except (StorageError, OSError):
            raise
        except Exception:
            sound = [key for key in keys if await self._is_sound(key)]
            if len(sound) == len(keys):
                raise  # no lane's fault
        return await self._plan(sound, effects_left) if sound else []

    async def _read_and_plan(self, keys: Sequence[LaneKey], effects_left: int | None, chain: int | None = None) -> list[LanePlan]:
        facts = await self._database.read(gather, keys, chain or self._chain, known=self._known)
        policies = await self._policies.get({t for t, _ in keys})
        return plan_lanes(facts, policies, self._clock.now(), effects_left=effects_left)

    async def _is_sound(self, key: LaneKey) -> bool:
        """Whether one lane can be read and planned by itself; one that cannot is told, and left alone."""
        try:
            await self._read_and_plan([key], None)
        except (StorageError, OSError):
            raise
        except Exception:
            log.exception("lane_unreadable", flow_id="F-02", tenant_id=key[0], contact_id=key[1], status="failed")
            self._shared.alone[key] = time.monotonic() + LEFT_ALONE_S
            return False
        return True

    async def _go_on(self, unsound: Sequence[LaneKey], grant: Grant) -> list[LanePlan]:
        """Lanes that cannot be planned take one step each: their first command alone, or without a decision to a person."""
        written = []
        for key in unsound:
            plan = await self._one_step(key, grant)
            if plan is not None and plan.changes_anything:
                done = await self._apply([plan], grant)
                if done:
                    self._shared.alone.pop(key, None)
                written += done
        return written

    async def _one_step(self, key: LaneKey, grant: Grant) -> LanePlan | None:
        """The lane's first command decided alone; handed over when it is the one at fault; None when not even that can be read."""
        told = {"flow_id": "F-02", "tenant_id": key[0], "contact_id": key[1], "status": State.MANUAL_REVIEW_REQUIRED}
        try:
            plans = await self._read_and_plan([key], 0 if grant.mode == "fallback" else None, chain=1)
            return plans[0] if plans else None
        except (StorageError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  # its trace stands beside `lane_unreadable`
            log.warning("command_unreadable", error=repr(error)[:200], **told)
        try:
            policy = (await self._policies.get([key[0]]))[key[0]]
            return handed_over(await self._database.read(front_of, key), key, tell_results=policy.tell_results)
        except (StorageError, OSError):
            raise
        except Exception:
            log.exception("command_not_handed_over", **told)
            return None

    def _effects_left(self, grant: Grant) -> int | None:
        """What the limits of the fallback lock allow in this round; None outside the fallback."""
        if grant.mode != "fallback":
            return None
        now = self._clock.now()
        self._limits.locked(grant.ms, now)
        left = self._limits.effects_left(now)
        if left == 0 and (self._limit_told_at is None or now - self._limit_told_at >= LIMIT_TOLD_EVERY):
            self._limit_told_at = now
            p95_ms = self._limits.lock_p95_ms(now)
            log.warning("fallback_limit_reached", flow_id="F-02", lock_backend=grant.backend, lock_p95_ms=p95_ms)
        return left

    async def _apply(self, plans: list[LanePlan], grant: Grant) -> list[LanePlan]:
        """All plans in one transaction; after a conflict without the losers; at last each alone."""
        if not plans:
            return []
        try:
            return await self._write(plans, grant)
        except LostRace as race:
            rest = [p for p in plans if p.key not in race.keys]
            log.info("race_lost", flow_id="F-02", lanes=len(plans) - len(rest))
            return await self._apply(rest, grant) if len(rest) < len(plans) else []
        except DBAPIError as error:  # not transient, or it were a StorageError: the database does not take what it was given
            if len(plans) > 1:
                written = []
                for plan in plans:
                    written.extend(await self._apply([plan], grant))
                return written
            return await self._refuse(plans[0], grant, error)

    async def _refuse(self, plan: LanePlan, grant: Grant, error: DBAPIError) -> list[LanePlan]:
        """The database refused this lane's plan alone: the next read shows why; after too often a person takes over."""
        times = self._shared.refused[plan.key] = self._shared.refused.get(plan.key, 0) + 1
        told = {"flow_id": "F-02", "tenant_id": plan.key[0], "contact_id": plan.key[1], "attempt": times}
        log.warning("plan_refused", error=str(error.orig)[:200], **told)
        if times < POISON_AFTER:
            return []
        del self._shared.refused[plan.key]
        try:
            if plan.entries:
                return await self._write([plan.poisoned()], grant)
        except (DBAPIError, LostRace):
            log.exception("plan_not_handed_over", status="failed", **told)
        self._shared.alone[plan.key] = time.monotonic() + LEFT_ALONE_S
        return []

    async def _write(self, plans: list[LanePlan], grant: Grant) -> list[LanePlan]:
        started = time.perf_counter()
        attempt = self._attempt(grant)
        return self._written(await self._commit(plans, attempt), plans, attempt, started)

    def _attempt(self, grant: Grant) -> Attempt:
        return Attempt(
            token=new_id(),
            node_id=self._node_id,
            clock=self._clock.now,
            lock_backend=grant.backend,
            lock_mode=grant.mode,
            lock_ms=round(grant.ms, 3),
            lock_token=grant.token if grant.in_rows else None,
        )

    def _written(self, written: list[LanePlan], plans: Sequence[LanePlan], attempt: Attempt, started: float) -> list[LanePlan]:
        """What a transaction with these plans wrote, counted and told."""
        now = self._clock.now()
        if attempt.lock_token is not None:
            self._given_back.update(plan.key for plan in plans)
        self._emptied += sum(plan.empties for plan in written)
        self._metrics.commit_batch_size.observe(sum(len(p.entries) for p in written))
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        for plan in written:
            if self._recent is not None:
                for entry in plan.entries:
                    if entry.command is not None:
                        self._recent.forget(entry.command.tenant_id, entry.command.command_id)
            self._shared.refused.pop(plan.key, None)
            if plan.not_before is not None:
                self._shared.due = min(plan.not_before, self._shared.due or plan.not_before)
        self._count(written, attempt, now)
        DECIDED.info(_decided(written, attempt))
        return written

    async def _commit(self, plans: list[LanePlan], attempt: Attempt) -> list[LanePlan]:
        """Write the plans with their lanes locked last; where somebody else is at one of them, all again with the lanes first."""
        leave_busy = self._leaves_busy(attempt.lock_mode)
        if self._lanes_last.may:
            try:
                return await self._database.write(apply, plans, attempt, lanes_last=True, leave_busy=leave_busy)
            except (LostRace, IntegrityError):  # nothing was written; whose fault it is shows with the lanes first
                self._lanes_last.lost()
        return await self._database.write(apply, plans, attempt, leave_busy=leave_busy)

    def _leaves_busy(self, lock_mode: str) -> bool:
        """Whether a transaction asks which lanes others are at."""
        # claims in the database itself are of one mind with what they guard
        return not self._database.is_sqlite and lock_mode != "database"

    def _count(self, written: Sequence[LanePlan], attempt: Attempt, now: datetime) -> None:
        """Results and how long they took, for the metrics and the trace."""
        done: Counter[tuple[State, PriorityClass, datetime]] = Counter()
        for plan in written:
            for entry in plan.entries:
                command, decision = entry.command, entry.decision
                if command is None:
                    continue
                done[decision.state, command.priority, entry.accepted_at] += 1
                if self._tracing.active:
                    self._tracing.span(
                        "decide", command.correlation_id, entry.accepted_at, now, tenant_id=plan.key[0],
                        command_id=command.command_id, intent=str(command.command_type), result=str(decision.state),
                        reason=decision.reason, commit_order=entry.order, lock_mode=attempt.lock_mode,
                    )  # fmt: skip
        for (result, priority, accepted_at), count in done.items():
            waited_s = (now - accepted_at).total_seconds()
            self._metrics.done(result, priority, waited_s, count)


def decide_and_apply(
    conn: Connection,
    keys: Sequence[LaneKey],
    attempt: Attempt,
    decide: Callable[[Facts], list[LanePlan]],
    chain: int,
    *,
    known: Known | None = None,
    lanes_last: bool = False,
    leave_busy: bool = False,
) -> list[LanePlan]:
    """`gather`, `decide` and `apply` in one transaction; returns the plans that were written. Raises what they raise."""
    plans = decide(gather(conn, keys, chain, known=known))
    return apply(conn, plans, attempt, lanes_last=lanes_last, leave_busy=leave_busy) if plans else []


def _decided(written: Sequence[LanePlan], attempt: Attempt) -> Iterator[dict[str, Any]]:
    """The fields of one line for each decision."""
    for plan in written:
        tenant_id, contact_id = plan.key
        for entry in plan.entries:
            command, decision = entry.command, entry.decision
            yield {
                "flow_id": "F-05" if decision.late else "F-02",
                "correlation_id": command.correlation_id if command else None,
                "tenant_id": tenant_id,
                "contact_id": contact_id,
                "intent": command.command_type if command else None,
                "status": State.COMMITTED_CAUSAL if decision.effect is not None else decision.state,
                "result": decision.state,
                "reason": decision.reason,
                "commit_order": entry.order,
                "dispatch_priority": command.priority if command else None,
                "lock_backend": attempt.lock_backend,
                "event_age": decision.event_age_s,
                "ttl_limit": decision.ttl_limit_s,
                "expected_version": decision.expected_version,
                "event_version": decision.event_version,
                "idempotency_key": command.idempotency_key if command else None,
                "version_guard": command.entity_version if command else None,
                "as_of": command.as_of if command else None,
            }
