"""One contact's lane under everything that may happen to it, step by step, against a reference that fits on a page.

The real planner, store and loops on SQLite in memory; only the clock is the test's. Two nodes look at the lane and write
what they decided at some later step, whatever has happened meanwhile: nothing but the guards in the effect's transaction
keeps the order then. `SOAK_EXAMPLES` (of 100 steps each) asks for more.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from app.clock import ManualClock
from app.domain.envelopes import parse_event
from app.domain.green_window import WindowPolicy
from app.domain.lanes import GAP_MAX
from app.domain.safe_mode import Checklist
from app.domain.states import PENDING, State
from app.engine.conversations import Conversations
from app.engine.dispatch import Dispatch, DispatchPolicy
from app.engine.drain import Drain
from app.engine.intake import command_submission, message_submission
from app.engine.locks import DatabaseLocks
from app.engine.planning import plan_lanes
from app.engine.policies import PolicyCache
from app.errors import Conflict
from app.ids import new_id
from app.metrics import Metrics
from app.store import holds, lane_acts, safe_mode, takeovers
from app.store.contingency import switch
from app.store.database import Database
from app.store.episodes import SafeModePolicy, open_episode
from app.store.inbox import Receipt, accept
from app.store.lanes import gather
from app.store.ledger import apply
from app.store.people import By
from app.store.plans import Attempt, LanePlan, LostRace
from app.store.stabilisation import advance
from app.store.tables import AppointmentVersion, HealthSample, InboxCommand, Lane, Ledger, Ticket, table
from app.store.verify import findings
from app.store.waiting import why_waiting
from tests.builders import Clinic, clinic
from tests.simulation.mutants import sabotage
from tests.simulation.store import SharedStore, start_of_world
from tests.simulation.virtual import VirtualLoop
from tests.simulation.world import witnessed

T = TypeVar("T")
_LANE, _COMMAND, _LEDGER, _TICKET = table(Lane), table(InboxCommand), table(Ledger), table(Ticket)
_VERSION, _SAMPLE = table(AppointmentVersion), table(HealthSample)

EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "80"))
"""A third of a second of CPU each: 300 of them, the figure for every run, would be a minute and a half of the suite."""
LONG = 100
"""Steps of a long history, in which a missing guard shows sooner."""
STEPS = LONG if "SOAK_EXAMPLES" in os.environ else 50
UNTIL_FOUND = 80
"""How many histories a missing guard may stay unnoticed."""
POLICY = SafeModePolicy(window=WindowPolicy(needed=timedelta(seconds=20)))
"""The exit's green window is short here: how long it is has its own tests."""
CAUSES = {"paused", "held", "gap", "safe_mode", "contingency", "locked", "dispatch"}


@dataclass(slots=True)
class Sent:
    """What a client sent, and the answer that binds."""

    raw: dict[str, Any]
    receipt: Receipt


@dataclass(slots=True)
class Reference:
    """What must hold of the lane, told without any of our code."""

    sent: dict[str, Sent] = field(default_factory=dict)
    """By command id, only what was accepted as a command."""
    places: dict[int, str] = field(default_factory=dict)
    """Commit order -> command id."""
    said: int = 1
    """The conversation's version."""
    paused: bool = False
    held: set[str] = field(default_factory=set)
    history: list[tuple[int, str | None, str]] = field(default_factory=list)
    """(commit order, command id, result) as far as it has been written; it only ever grows."""

    @property
    def committed(self) -> int:
        """The last place that is done."""
        return len(self.history)

    @property
    def waiting(self) -> int:
        """Commands whose turn has not come."""
        return sum(number > self.committed for number in self.places)

    def place(self, given: int | None) -> int | None:
        """Where a command belongs; None: nowhere."""
        highest = max([self.committed, *self.places])
        if given is None:
            return highest + 1
        free = given > self.committed and given not in self.places and given - highest <= GAP_MAX
        return given if free else None


class DirectDatabase(Database):
    """The engine's seam to the database: whole transactions of the shared store, at once."""

    def __init__(self, store: SharedStore) -> None:  # no connections of its own: the parent's constructor would open some
        self.url, self.dialect = "sqlite://", "sqlite"
        self._store = store

    async def read(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """One read transaction."""
        return self._store.read(fn, *args, **kwargs)

    async def write(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """One write transaction."""
        return self._store.run(fn, *args, **kwargs)


class LaneMachine(RuleBasedStateMachine):
    """Everything that anybody may do, one step at a time."""

    store: SharedStore
    loop: VirtualLoop

    def __init__(self) -> None:
        super().__init__()
        self.ref, self.clock = Reference(), ManualClock(start_of_world())
        self.broken_promises: list[str] = []
        self.plans: dict[str, list[LanePlan]] = {}
        self.count = 0
        self.contingency = False
        self.looked_at: tuple[Any, ...] = ()
        self.store.begin()
        self.clinic: Clinic = self.store.run(clinic, now=self.clock.now())
        self.tenant, self.contact = self.clinic.tenant_id, self.clinic.contact_id
        database: Any = DirectDatabase(self.store)
        self.policies = PolicyCache(database)
        locks = DatabaseLocks(database, self.clock)
        size = DispatchPolicy(lanes_per_round=4, chain=3)
        self.dispatch = Dispatch(database, self.clock, locks, self.policies, METRICS, node_id="loop", policy=size)
        self.conversations, self.drain = Conversations(database, self.clock), Drain(database, self.clock)

    def teardown(self) -> None:
        """What `kora verify` would say of it all."""
        try:
            found = self.store.run(findings, 100)
            assert not found, [(v.code, v.sentence) for v in found]
        finally:
            self.store.end()

    # --- what comes in --------------------------------------------------------------------------------------------------

    @initialize(messages=st.integers(0, 1))
    def begin(self, messages: int) -> None:
        """A family that has written, or not."""
        for _ in range(messages):
            self.say("oi")

    @rule(
        kind=st.sampled_from(["schedule", "schedule", "follow_up", "follow_up", "takeover", "cancel"]),
        ahead=st.sampled_from([None, None, None, 0, 0, 0, 1, 1, 2, -1, -3, 5_000]),
        by=st.sampled_from(["ai", "ai", "human"]),
        stale=st.sampled_from([0, 0, 0, 0, 1]),
        age_s=st.sampled_from([0, 0, 0, 0, 0, 120, 9_000]),
    )
    def command(self, kind: str, ahead: int | None, by: str, stale: int, age_s: int) -> None:
        """A command, with or without a place of its own choice: the next, one ahead, one that is taken or over, one far off."""
        self.count += 1
        now = self.clock.now()
        start = start_of_world() + timedelta(days=2, hours=self.count)
        payload: dict[str, Any] = {
            "schedule": {"appointment_id": f"a-{self.count}", "therapist_id": self.clinic.therapist_id}
            | {"start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat()},
            "follow_up": {"text": f"tudo bem? {self.count}"},
            "takeover": {"reason": "pediu uma pessoa"},
            "cancel": {"appointment_id": f"a-{max(1, self.count - 2)}"},
        }[kind]
        given = None if ahead is None else max(1, (self.ref.place(None) or 1) + ahead)
        self._hand_over(
            {
                "command_id": f"k-{self.count}",
                "contact_id": self.contact,
                "command_type": kind,
                "patient_id": self.clinic.patient_id,
                "requested_by": by,
                "confirmed_by_contact": True,
                "guardian_version": 1,
                "conversation_version": self.ref.said - stale if self.ref.said > stale else 1,
                "entity_version": 1,
                "as_of": now.isoformat(),
                "occurred_at": (now - timedelta(seconds=age_s)).isoformat(),
                "idempotency_key": f"key-{self.count}",
                "commit_order": given,
                "payload": payload,
            }
        )

    @rule(count=st.integers(1, 4), own=st.booleans(), kind=st.sampled_from(["schedule", "follow_up"]))
    def a_busy_moment(self, count: int, own: bool, kind: str) -> None:
        """Commands as they should be, and a round for them."""
        for _ in range(count):
            self.command(kind, 0 if own else None, "ai", 0, 0)
        self.serve()

    @precondition(lambda self: self.ref.sent)
    @rule(which=st.integers(0, 50))
    def the_same_again(self, which: int) -> None:
        """The first answer binds, whatever has become of the command."""
        first = self._one_sent(which)
        (again,) = self._accept(first.raw)
        assert again.duplicate
        assert (again.item_id, again.number) == (first.receipt.item_id, first.receipt.number)

    @precondition(lambda self: self.ref.sent)
    @rule(which=st.integers(0, 50))
    def the_same_key_for_something_else(self, which: int) -> None:
        """It gets a place, and must not have a second effect under that key."""
        self.count += 1
        first = self._one_sent(which)
        payload = {"text": f"outra coisa {self.count}"}
        changed = {"command_id": f"k-{self.count}", "command_type": "follow_up", "payload": payload, "commit_order": None}
        self._hand_over(first.raw | changed)

    @rule(text=st.sampled_from(["oi", "obrigada", "quero falar com uma pessoa"]))
    def say(self, text: str) -> None:
        """The family writes; what was decided on an older conversation is not true any more."""
        self.count += 1
        raw = {
            "contact_id": self.contact,
            "event_type": "message",
            "channel": "whatsapp",
            "external_id": f"m-{self.count}",
            "occurred_at": self.clock.now().isoformat(),
            "payload": {"text": text},
        }
        spare = new_id()
        item = message_submission(self.tenant, parse_event(raw, tenant_id=self.tenant, new_id=spare), spare)
        (receipt,) = self.store.run(accept, [item], self.clock.now(), room={})
        assert receipt.status is State.QUEUED_FOR_DISPATCH
        self.ref.said += 1

    def _one_sent(self, which: int) -> Sent:
        return list(self.ref.sent.values())[which % len(self.ref.sent)]

    def _accept(self, raw: dict[str, Any]) -> list[Receipt]:
        return self.store.run(accept, [command_submission(self.tenant, raw)], self.clock.now(), room={})

    def _hand_over(self, raw: dict[str, Any]) -> None:
        expected = self.ref.place(raw["commit_order"])
        (receipt,) = self._accept(raw)
        assert receipt.number == expected
        if expected is None:
            assert receipt.status not in PENDING
        if receipt.status is not State.INVALID_PAYLOAD_MANUAL:
            self.ref.sent[receipt.item_id] = Sent(raw, receipt)
        if expected is not None:
            self.ref.places[expected] = receipt.item_id

    # --- what nodes do --------------------------------------------------------------------------------------------------

    @rule()
    def hear(self) -> None:
        """One round of the loop that hears messages; what they ask for becomes commands at the end of the lane."""
        self._run(self.conversations.tick())
        for row in self.store.read(_commands_of, self.contact):
            if row.command_id not in self.ref.sent and row.commit_order not in self.ref.places:
                assert row.commit_order == self.ref.place(None)
                self.ref.places[row.commit_order] = row.command_id

    @rule()
    def serve(self) -> None:
        """One round of dispatch: look, lock, decide, write."""
        self._run(self.dispatch.tick())

    @rule(node=st.sampled_from(["a", "b"]), chain=st.sampled_from([1, 3]))
    def look(self, node: str, chain: int) -> None:
        """A node without any lock decides on what it reads now, and stops there."""
        policies = self._run(self.policies.get([self.tenant]))
        facts = self.store.read(gather, [(self.tenant, self.contact)], chain)
        self.plans[node] = [p for p in plan_lanes(facts, policies, self.clock.now()) if p.changes_anything]

    @precondition(lambda self: self.plans)
    @rule(node=st.sampled_from(["a", "b"]))
    def write(self, node: str) -> None:
        """It goes on, and writes what it decided then, perhaps for the second time."""
        plans = self.plans.get(node)
        if not plans:
            return
        attempt = Attempt(token=new_id(), node_id=node, clock=self.clock.now, lock_backend="none", lock_mode="none", lock_ms=0.0)
        try:
            self.store.run(partial(witnessed, apply, world=self), plans, attempt)
        except LostRace:
            return

    @rule(
        what=st.sampled_from(
            ["pause", "pause", "pause", "skip", "*", "schedule", "contingency", "safe_mode", "takeover", "oi", "serve", "other"]
        )
    )
    def overtaken(self, what: str) -> None:
        """Between looking and writing something happens, or another node is faster."""
        self.look("a", 3)
        if what == "other":
            self.look("b", 1)
            self.write("b")
        elif what == "serve":
            self.serve()
        elif what == "oi":
            self.say("oi")
        elif what in ("pause", "skip"):
            self.at_the_lane(what, 0)
        else:
            self.at_the_clinic(what)
        self.every_promise_holds()
        self.write("a")

    @rule()
    def let_go(self) -> None:
        """One step of the drain of what was parked."""
        self._run(self.drain.tick())

    @rule(seconds=st.sampled_from([1, 1, 20, 20, 70, 301, 1_000, 7_500]))
    def time_passes(self, seconds: int) -> None:
        """Gaps, times to live and waiting times run out."""
        self.clock.advance(seconds=seconds)

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    # --- what people do -------------------------------------------------------------------------------------------------

    @rule(off=st.sampled_from([0, 0, 0, 1, -1]), act=st.sampled_from(["pause", "release", "step", "step", "retry", "skip", "skip"]))
    def at_the_lane(self, act: str, off: int) -> None:
        """A person at the console, who may be wrong about how the lane stands (`off`: about its next place)."""
        ref = self.ref
        if act == "pause":
            self._act(lane_acts.pause, "olhar", possible=not ref.paused)
            ref.paused = True
        elif act == "release":
            self._act(lane_acts.release, "segue", possible=ref.paused)
            ref.paused = False
        elif act == "step":
            credit = self._lane().step_credit
            self._act(lane_acts.single_step, "um", possible=ref.paused and credit < ref.waiting)
        elif act == "retry":
            self._act(lane_acts.retry, "agora", possible=ref.waiting > 0)
        else:
            possible = off == 0 and ref.waiting > 0
            self._act(lane_acts.skip, "pular", possible=possible, number=ref.committed + 1 + off, node_id="console")

    @rule(what=st.sampled_from(["*", "schedule", "takeover", "contingency", "safe_mode"]))
    def at_the_clinic(self, what: str) -> None:
        """What stops one type of command, the robot, or everything, goes on or off."""
        if what == "takeover":
            self._take_over_or_give_back()
        elif what == "contingency":
            self.contingency = not self.contingency
            reason = "o canal"
            self.store.run(switch, self.tenant, "whatsapp", active=self.contingency, reason=reason, by=self._by())
        elif what == "safe_mode" and self.store.read(open_episode, self.tenant) is None:
            self.store.run(safe_mode.enter_by_hand, self.tenant, f"motivo {self.count}", self._by())
        elif what == "safe_mode":
            self._leave_safe_mode()
        else:
            act = holds.resume if what in self.ref.held else holds.hold
            self.store.run(act, self.tenant, what, self._by(), "sistema")
            self.ref.held ^= {what}

    @rule()
    def all_is_well_again(self) -> None:
        """Whatever stopped the lane ends, and what may happen does."""
        if self.ref.paused:
            self.at_the_lane("release", 0)
        for what in sorted(self.ref.held):
            self.at_the_clinic(what)
        if self.contingency:
            self.at_the_clinic("contingency")
        if self.store.read(open_episode, self.tenant) is not None:
            self._leave_safe_mode()
        if (found := self.store.read(_open_takeover, self.tenant)) is not None and found.owner is not None:
            self._take_over_or_give_back()
        for _ in range(3):
            self.let_go()
            self.serve()

    def _take_over_or_give_back(self) -> None:
        found = self.store.read(_open_takeover, self.tenant)
        if found is None:
            self.command("takeover", None, "human", 0, 0)
        elif found.owner is None:
            self.store.run(takeovers.start, self.tenant, found.ticket_id, self._by())
        else:
            self.store.run(takeovers.close, self.tenant, found.ticket_id, self._by(), "resolvido")

    def _leave_safe_mode(self) -> None:
        """Through all four gates: everything ticked, health green for long enough, then the drain."""
        ticks = dict.fromkeys(Checklist.__slots__, True)
        done = {"action": f"reparo {self.count}", "runbook_step": "RB-1", "checklist": ticks}
        self.store.run(safe_mode.record_recovery, self.tenant, self._by(), **done)
        for _ in range(3):
            self.clock.advance(seconds=11)
            self.store.run(_all_is_green, self.clock.now())
            self.store.run(advance, self.tenant, POLICY, self.clock.now())
        self.store.run(safe_mode.ask_exit, self.tenant, POLICY, self._by())
        for _ in range(2):
            self.store.run(advance, self.tenant, POLICY, self.clock.now())

    def _by(self) -> By:
        return By(actor="user:u1", now=self.clock.now(), origin="console")

    def _act(self, act: Callable[..., Any], reason: str, *, possible: bool, **details: Any) -> None:
        """Do it; whoever acts on what is not so gets a conflict, and nothing happens."""
        before = self._lane()
        try:
            self.store.run(act, self.tenant, self.contact, self._by(), reason, **details)
        except Conflict:
            assert not possible
            assert self._lane() == before
        else:
            assert possible

    # --- what holds after every step ------------------------------------------------------------------------------------

    def _lane(self) -> Any:
        return self.store.read(_lane_of, self.contact)

    @invariant()
    def every_promise_holds(self) -> None:
        """In this order: the reference learns from the ledger how far the lane has come. Not again while nothing has moved."""
        now = (self.store.read(_changes), self.clock.now())
        if now == self.looked_at:
            return
        self.looked_at = now
        self._nobody_decided_on_what_was_not_so()
        self._the_ledger_grows_by_dense_places_and_says_what_the_inbox_says()
        self._an_effect_happens_once()
        self._the_lane_says_what_waits_and_why()

    def _nobody_decided_on_what_was_not_so(self) -> None:
        """Seen from inside every transaction that `write` made."""
        assert not self.broken_promises, self.broken_promises

    def _the_ledger_grows_by_dense_places_and_says_what_the_inbox_says(self) -> None:
        """Orders without gaps, one entry each, never changed; the place is the one that was answered; results agree."""
        ledger = self.store.read(_ledger_of, self.contact)
        assert [row.commit_order for row in ledger] == list(range(1, len(ledger) + 1))
        assert all(a.committed_at <= b.committed_at for a, b in pairwise(ledger))
        history = [(row.commit_order, row.command_id, row.result) for row in ledger]
        assert history[: self.ref.committed] == self.ref.history
        self.ref.history = history
        for number, command_id, _ in history:
            assert command_id == self.ref.places.get(number)
        keys = [row.effect_key for row in ledger if row.effect_key is not None]
        assert len(keys) == len(set(keys))
        results = {command_id: result for _, command_id, result in history}
        rows = self.store.read(_commands_of, self.contact)
        assert {row.command_id for row in rows} == {*self.ref.sent, *self.ref.places.values()}
        for row in rows:
            if row.commit_order is None:
                assert row.result is not None
            elif row.command_id in results:
                assert row.result == results[row.command_id]
            else:
                assert (row.result, row.status in PENDING) == (None, True)

    def _an_effect_happens_once(self) -> None:
        """Versions of appointments are written by as many commands as there are versions."""
        written = self.store.read(_effects)
        assert written[0] == written[1]

    def _the_lane_says_what_waits_and_why(self) -> None:
        """Its counters are the reference's, and there is a reason for every wait."""
        lane = self._lane()
        assert (lane.last_committed, lane.waiting, lane.conversation_version) == (
            self.ref.committed,
            self.ref.waiting,
            self.ref.said,
        )
        assert (lane.paused_at is not None) == self.ref.paused
        said = self.store.read(why_waiting, self.tenant, [lane], self.clock.now())
        if self.ref.waiting:
            assert said[self.contact]["cause"] in CAUSES
            assert said[self.contact]["since"] is not None


METRICS = Metrics()


def _changes(conn: Connection) -> int:
    """Rows that this connection has written since it was opened, undone ones too."""
    driver: Any = conn.connection.driver_connection
    return int(driver.total_changes)


def _lane_of(conn: Connection, contact_id: str) -> Any:
    return conn.execute(select(_LANE).where(_LANE.c.contact_id == contact_id)).one()


def _commands_of(conn: Connection, contact_id: str) -> Any:
    columns = (_COMMAND.c.command_id, _COMMAND.c.commit_order, _COMMAND.c.status, _COMMAND.c.result)
    return conn.execute(select(*columns).where(_COMMAND.c.contact_id == contact_id).order_by(_COMMAND.c.commit_order)).all()


def _ledger_of(conn: Connection, contact_id: str) -> Any:
    columns = (_LEDGER.c.commit_order, _LEDGER.c.command_id, _LEDGER.c.result, _LEDGER.c.effect_key, _LEDGER.c.committed_at)
    return conn.execute(select(*columns).where(_LEDGER.c.contact_id == contact_id).order_by(_LEDGER.c.commit_order)).all()


def _effects(conn: Connection) -> tuple[int, int]:
    row = conn.execute(select(func.count(), func.count(_VERSION.c.command_id.distinct())).select_from(_VERSION)).one()
    return int(row[0]), int(row[1])


def _open_takeover(conn: Connection, tenant_id: str) -> Any:
    where = (_TICKET.c.tenant_id == tenant_id, _TICKET.c.kind == "takeover", _TICKET.c.closed_at.is_(None))
    return conn.execute(select(_TICKET).where(*where)).first()


def _all_is_green(conn: Connection, now: Any) -> None:
    checks = msgspec.json.encode({"database": {"green": True}}).decode()
    conn.execute(_SAMPLE.insert().values(at=now, node_id="n1", green=True, checks_json=checks, scopes_json="{}"))


@pytest.fixture(scope="module")
def machine() -> Iterator[type[LaneMachine]]:
    LaneMachine.store, LaneMachine.loop = SharedStore(), VirtualLoop()
    yield LaneMachine
    LaneMachine.store.close()
    LaneMachine.loop.close()


@pytest.fixture(autouse=True)
def without_log_lines() -> Iterator[None]:
    before: dict[str, Any] = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


def run(machine: type[LaneMachine], count: int, *phases: Phase, steps: int = STEPS) -> None:
    """So many histories: the same ones every time, in the long run others."""
    chosen = settings(
        max_examples=count,
        stateful_step_count=steps,
        derandomize="SOAK_EXAMPLES" not in os.environ,
        phases=phases,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)


def test_a_lane_keeps_its_order_and_every_command_ends_once_whatever_people_and_nodes_do(machine: type[LaneMachine]) -> None:
    run(machine, EXAMPLES, Phase.generate, Phase.shrink)


@pytest.mark.parametrize("missing", ["no_compare_and_set", "modes_not_read_again", "pauses_not_seen_at_the_commit"])
def test_a_missing_guard_turns_the_machine_red(machine: type[LaneMachine], missing: str) -> None:
    with sabotage(missing), pytest.raises((AssertionError, IntegrityError)):
        run(machine, UNTIL_FOUND, Phase.generate, steps=LONG)
