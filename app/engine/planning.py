"""Deciding a batch of lanes from one read, in memory: the step between gathering facts and applying them.

Each lane's commands are decided in `commit_order`, every one on the state that those before it leave behind. Lanes of one
batch are independent: a command that touches an agenda which another lane of the batch has just changed is left for the
next round, so no decision ever rests on an effect that may still lose its race.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
import structlog

from app.domain.agenda import slot_conflict
from app.domain.envelopes import Command
from app.domain.facts import Appointment, BookAppointment, ChangeAppointment, Decision, GatePolicy, Mode, OpenTakeover, Snapshot
from app.domain.gate import decide
from app.domain.reasons import Reason
from app.domain.replay_batch import item_result
from app.domain.states import SENSITIVE, AppointmentStatus, CommandType, State
from app.ids import new_id
from app.store.holds import EVERYTHING
from app.store.lanes import PARKED_BY, Facts, LaneFacts, LaneKey, wanted_slot
from app.store.plans import Entry, LanePlan, PendingChange

log = structlog.get_logger("engine.planning")

RECHECK_PARKED_S = 3_600
"""A parked lane is looked at again this often; what opens it before is the drain (store.drain) or a replay batch."""
RECHECK_HELD_S = 3_600
RECHECK_FALLBACK_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPolicy:
    """What planning needs to know about one tenant."""

    gate: GatePolicy
    timezone: str
    tell_results: bool = False
    """Whether it has a webhook for results."""


def is_held(blocked_by: str | None, mode: Mode, now: datetime) -> bool:
    """Whether a lane that was parked has to wait for its turn in the drain, although its mode allows commands again."""
    return blocked_by in PARKED_BY and not mode.contingency and not mode.safe_mode_blocks(now)


def plan_lanes(
    facts: Facts, policies: Mapping[str, TenantPolicy], now: datetime, *, effects_left: int | None = None
) -> list[LanePlan]:
    """One plan per lane that was read, in the order given; with `effects_left` at most so many sensitive side effects in all."""
    planner = _Planner(facts, now, effects_left)
    return [planner.lane(lane, policies[lane.row.tenant_id]) for lane in facts.lanes.values()]


def handed_over(facts: Facts, key: LaneKey, *, tell_results: bool = False) -> LanePlan | None:
    """The lane's first command for a person, undecided; None when it has none, or a place before it is still empty."""
    lane = facts.lanes.get(key)
    if lane is None or not lane.commands or lane.commands[0].commit_order != lane.row.last_committed + 1:
        return None
    command = lane.commands[0]
    decision = Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=Reason.UNEXPECTED_FAILURE, terminal=True)
    order, accepted_at = lane.row.last_committed + 1, lane.rows[0].accepted_at
    entry = Entry(order=order, decision=decision, command=command, accepted_at=accepted_at, new_id=new_id())
    mode = facts.mode_of(key[0])
    plan = LanePlan(facts=lane, mode=mode, entries=[entry], next_ready_since=lane.more, tell_results=tell_results)
    plan.steps_used = int(lane.row.paused_at is not None)
    return plan.poisoned()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a batch leaves: at most `rate_per_s` items a second after a first handful, in the order of the plan."""

    rate_per_s: float
    parked: frozenset[str]
    """Command ids of items that leave whatever is foreseen; of the others only what would be replayed leaves."""
    again: frozenset[str] = frozenset()

    def after(self, left: int) -> timedelta:
        """How long an item waits for its turn when so many left before it."""
        return timedelta(seconds=max(0.0, left + 1 - max(1.0, self.rate_per_s)) / self.rate_per_s)


def foresee(facts: Facts, policies: Mapping[str, TenantPolicy], now: datetime, pace: Pace) -> dict[str, Decision]:
    """What the gate would say to every command of these lanes, by command id: a dry run, which changes nothing.

    Lane after lane in the order given, each command on what those before it leave behind, in a mode that parks nothing, at
    the time when its turn comes at this pace: what expires before that is foreseen to expire.
    """
    planner, left = _Planner(facts, now), 0
    facts.modes.clear()
    found: dict[str, Decision] = {}
    for lane in facts.lanes.values():
        policy, takeover = policies[lane.row.tenant_id].gate, lane.row.takeover_id is not None
        for command in lane.commands:
            planner.now = now + pace.after(left)
            decision = planner.decide(lane, command, (command.commit_order or 1) - 1, takeover, Mode(), policy)
            planner.remember(lane.key, command, decision)
            takeover = takeover or isinstance(decision.effect, OpenTakeover)
            found[command.command_id] = decision
            leaves = command.command_id in pace.again and item_result(decision.state) is State.REPLAYED
            left += command.command_id in pace.parked or leaves
    return found


def agenda_names(facts: Facts, command: Command) -> list[tuple[str, str, str]]:
    """(tenant, kind, id) of the appointment and the agenda that a command looks at."""
    names = []
    target = facts.appointments.get((command.tenant_id, command.appointment_id or ""))
    if command.appointment_id:
        names.append((command.tenant_id, "appointment", command.appointment_id))
    therapist_id = target.therapist_id if target else command.therapist_id
    if therapist_id is not None:
        names.append((command.tenant_id, "therapist", therapist_id))
    return names


def _commands(plan: LanePlan) -> int:
    """How many steps the plan takes: a person lets commands through one by one, missing places before them are free."""
    return sum(entry.command is not None for entry in plan.entries)


class _Planner:
    def __init__(self, facts: Facts, now: datetime, effects_left: int | None = None) -> None:
        self.facts = facts
        self.now = now
        self.effects_left = effects_left
        """What the fallback lock's limits still allow; None = no limit."""
        self.touched: dict[tuple[str, str, str], LaneKey] = {}
        """(tenant, kind, id) of agendas and appointments changed in this batch, and by which lane."""

    def lane(self, lane: LaneFacts, policy: TenantPolicy) -> LanePlan:
        row = lane.row
        mode = self.facts.mode_of(row.tenant_id)
        ttl = policy.gate.replay_ttl[CommandType.RESCHEDULE]
        plan = LanePlan(facts=lane, mode=mode, timezone=policy.timezone, ttl=ttl, tell_results=policy.tell_results)
        plan.late_after = policy.gate.late_after
        expected = row.last_committed + 1
        takeover = row.takeover_id is not None
        credit = row.step_credit if row.paused_at is not None else None
        if (row.tenant_id, EVERYTHING) in self.facts.held_types:
            plan.not_before, plan.blocked_by = row.not_before, row.blocked_by  # paused since the round began: left as it is
            return plan
        if credit == 0:
            plan.not_before, plan.blocked_by = row.not_before, row.blocked_by  # a person holds the lane
            return plan
        if is_held(row.blocked_by, mode, self.now) and row.replay_id is None:
            self._hold(plan, lane)
            return plan
        for index, command in enumerate(lane.commands):
            order = command.commit_order or 0
            if credit is not None and _commands(plan) >= credit:
                break
            if row.replay_id is not None and order > row.replay_until:
                self._block(plan, "replay", self.now + timedelta(seconds=RECHECK_HELD_S))
                break
            if (row.tenant_id, command.command_type) in self.facts.held_types:
                self._block(plan, "held", self.now + timedelta(seconds=RECHECK_HELD_S))
                break
            if order > expected and not self._gap_is_over(lane, index, policy):
                self._wait_for_gap(plan, lane, index, policy)
                break
            if order > expected:
                plan.entries.extend(self._tombstone(missing, lane.rows[index].accepted_at) for missing in range(expected, order))
                decision = Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=Reason.WAITED_TOO_LONG, terminal=True)
                plan.entries.append(self._entry(lane, index, decision))
                expected = order + 1
                continue
            withdrawn = lane.rows[index].withdrawn
            if withdrawn is not None:
                decision = Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=withdrawn, terminal=True)
                plan.entries.append(self._entry(lane, index, decision))
                expected = order + 1
                continue
            if self._shares_agenda(lane.key, command):
                break
            decision = self.decide(lane, command, expected - 1, takeover, mode, policy.gate)
            if not decision.terminal:
                self._park(plan, lane, index, decision)
                break
            if decision.effect is not None and not self._may_happen(command):
                self._throttle(plan, lane, index)
                break
            plan.entries.append(self._entry(lane, index, decision))
            self.remember(lane.key, command, decision)
            takeover = takeover or isinstance(decision.effect, OpenTakeover)
            expected = order + 1
        plan.steps_used = _commands(plan) if credit is not None else 0
        left = next((r for r in lane.rows if r.commit_order >= expected), None)
        plan.next_ready_since = left.accepted_at if left is not None else lane.more
        return plan

    # --- one command ----------------------------------------------------------------------------------------------------

    def decide(
        self, lane: LaneFacts, command: Command, last_committed: int, takeover: bool, mode: Mode, policy: GatePolicy
    ) -> Decision:
        snapshot = self._snapshot(lane, command, last_committed, takeover, mode)
        try:
            return decide(command, snapshot, self.now, policy)
        except Exception:
            # one command that breaks the rules' code must not stop its contact: a person takes it, the log has the trace
            log.exception(
                "gate_failed",
                flow_id="F-02",
                correlation_id=command.correlation_id,
                tenant_id=command.tenant_id,
                contact_id=command.contact_id,
                intent=command.command_type,
                status=State.MANUAL_REVIEW_REQUIRED,
            )
            return Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=Reason.UNEXPECTED_FAILURE, terminal=True)

    def _snapshot(self, lane: LaneFacts, command: Command, last_committed: int, takeover: bool, mode: Mode) -> Snapshot:
        row, tenant_id = lane.row, command.tenant_id
        plain = Snapshot(
            last_committed=last_committed,
            conversation_version=row.conversation_version,
            guardian_version=row.guardian_version,
            takeover_active=takeover,
            mode=mode,
            key_use=self.facts.key_use(command),
            patient_known=False,
            therapist_known=False,
        )
        if not command.touches_agenda:
            return plain
        target = self.facts.appointments.get((tenant_id, command.appointment_id or ""))
        patient_id = target.patient_id if target else command.patient_id
        therapist_id = target.therapist_id if target else command.therapist_id
        slot = wanted_slot(command)
        conflict = None
        if slot and therapist_id is not None and command.command_type in (CommandType.SCHEDULE, CommandType.RESCHEDULE):
            booked = self.facts.booked.get((tenant_id, therapist_id), [])
            moved = command.appointment_id if command.command_type is CommandType.RESCHEDULE else None
            conflict = slot_conflict(booked, *slot, ignore=moved, now=self.now)
        return msgspec.structs.replace(
            plain,
            appointment=target,
            guardian=self.facts.guardians.get((tenant_id, patient_id or "", command.contact_id)),
            patient_known=(tenant_id, patient_id) in self.facts.patients,
            therapist_known=target is not None or (tenant_id, therapist_id) in self.facts.therapists,
            slot_conflict=conflict,
        )

    def _shares_agenda(self, key: LaneKey, command: Command) -> bool:
        """Whether another lane of this batch has changed what this command looks at."""
        return bool(self.touched) and any(self.touched.get(name, key) != key for name in self._names(command))

    def _names(self, command: Command) -> list[tuple[str, str, str]]:
        return agenda_names(self.facts, command)

    def remember(self, key: LaneKey, command: Command, decision: Decision) -> None:
        """Carry an agenda effect over to the commands decided after it."""
        effect, tenant_id = decision.effect, command.tenant_id
        if isinstance(effect, BookAppointment):
            changed = Appointment(
                appointment_id=effect.appointment_id,
                patient_id=effect.patient_id,
                therapist_id=effect.therapist_id,
                start_at=effect.start_at,
                end_at=effect.end_at,
                status=AppointmentStatus.SCHEDULED,
                version=1,
                as_of=command.as_of or self.now,
            )
        elif isinstance(effect, ChangeAppointment):
            before = self.facts.appointments[(tenant_id, effect.appointment_id)]
            changed = replace(
                before,
                start_at=effect.start_at,
                end_at=effect.end_at,
                status=effect.status,
                version=effect.expected_version + 1,
                as_of=max(command.as_of or self.now, before.as_of),
            )
        else:
            return
        for name in self._names(command):
            self.touched[name] = key
        self.facts.appointments[(tenant_id, changed.appointment_id)] = changed
        column = self.facts.booked.setdefault((tenant_id, changed.therapist_id), [])
        column[:] = [a for a in column if a.appointment_id != changed.appointment_id]
        column.append(changed)

    def _entry(self, lane: LaneFacts, index: int, decision: Decision) -> Entry:
        command = lane.commands[index]
        return Entry(
            order=command.commit_order or 0,
            decision=decision,
            command=command,
            accepted_at=lane.rows[index].accepted_at,
            target=self.facts.appointments.get((command.tenant_id, command.appointment_id or ""))
            if self.facts.appointments
            else None,
            new_id=new_id(),
        )

    def _tombstone(self, order: int, accepted_at: datetime) -> Entry:
        decision = Decision(state=State.MANUAL_REVIEW_REQUIRED, reason=Reason.PLACE_NEVER_FILLED, terminal=True)
        return Entry(order=order, decision=decision, command=None, accepted_at=accepted_at, new_id=new_id())

    # --- staying pending ------------------------------------------------------------------------------------------------

    def _gap_is_over(self, lane: LaneFacts, index: int, policy: TenantPolicy) -> bool:
        since = lane.rows[index].waiting_since
        return since is not None and self.now - since >= policy.gate.wait_limit

    def _wait_for_gap(self, plan: LanePlan, lane: LaneFacts, index: int, policy: TenantPolicy) -> None:
        since = lane.rows[index].waiting_since or self.now
        self._block(plan, "gap", since + policy.gate.wait_limit)
        self._mark(plan, lane, index, State.WAITING_PREVIOUS_COMMIT, Reason.PREVIOUS_MISSING, Reason.PREVIOUS_WAITING)

    def _park(self, plan: LanePlan, lane: LaneFacts, index: int, decision: Decision) -> None:
        cause = "contingency" if decision.state is State.PENDING_CONTINGENCY else "safe_mode"
        self._block(plan, cause, self.now + timedelta(seconds=RECHECK_PARKED_S))
        self._mark(plan, lane, index, decision.state, decision.reason, Reason.BEHIND_PARKED)
        if lane.more is not None:
            plan.park_rest = (decision.state, lane.commands[-1].commit_order or 0)

    def _may_happen(self, command: Command) -> bool:
        """Whether the limits allow one more side effect; it is counted. Only sensitive ones are ever stopped."""
        if self.effects_left is None:
            return True
        if self.effects_left <= 0 and command.command_type in SENSITIVE:
            return False
        self.effects_left -= 1
        return True

    def _throttle(self, plan: LanePlan, lane: LaneFacts, index: int) -> None:
        """The fallback lock reached its limits: the command keeps its place and is looked at again soon."""
        self._block(plan, "fallback", self.now + timedelta(seconds=RECHECK_FALLBACK_S))
        self._mark(plan, lane, index, State.QUEUED_FOR_DISPATCH, Reason.FALLBACK_THROTTLED, Reason.BEHIND_PARKED)

    def _hold(self, plan: LanePlan, lane: LaneFacts) -> None:
        """The mode would let a parked lane go, but it leaves at the drain's pace: what came since is parked behind it."""
        row = lane.row
        state = State.PENDING_CONTINGENCY if row.blocked_by == "contingency" else State.PENDING_SAFE_MODE
        self._block(plan, row.blocked_by, self.now + timedelta(seconds=RECHECK_PARKED_S))
        if lane.rows:
            self._mark(plan, lane, 0, state, Reason.WAITS_FOR_DRAIN, Reason.BEHIND_PARKED)
            if lane.more is not None:
                plan.park_rest = (state, lane.commands[-1].commit_order or 0)
        plan.next_ready_since = lane.rows[0].accepted_at if lane.rows else lane.more

    def _mark(self, plan: LanePlan, lane: LaneFacts, index: int, state: State, first: str, behind: str) -> None:
        """Make the state of a stopped command, and of those behind it, visible."""
        for offset, row in enumerate(lane.rows[index:]):
            beside = offset > 0 and row.commit_order == lane.rows[index + offset - 1].commit_order + 1
            reason = behind if beside or (behind == Reason.BEHIND_PARKED and offset > 0) else first  # a second gap is a gap too
            if row.status != state or row.reason != reason:
                plan.pending.append(PendingChange(command_id=row.command_id, state=state, reason=reason))

    def _block(self, plan: LanePlan, cause: str, until: datetime) -> None:
        plan.blocked_by, plan.not_before = cause, until
