"""Safe mode (S-PC-03-002, S-PC-03-004): entry, stay and exit as a table of transitions, and the gates of the exit.

Whether commands are blocked is not asked here but of `facts.Mode.safe_mode_blocks`: the predicate holds even when nobody
steps this machine. The machine makes it visible, and is the only way out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.domain.green_window import Window, WindowPolicy, is_complete
from app.domain.states import ModeState


class SafeModeResult(StrEnum):
    """Terminal states of entry and exit."""

    SAFE_MODE_ACTIVE = "safe_mode_active"
    SAFE_MODE_ACTIVATION_FAILED = "safe_mode_activation_failed"
    SAFE_MODE_EXIT_COMPLETED = "safe_mode_exit_completed"
    SAFE_MODE_EXIT_DENIED_MISSING_CHECKLIST = "safe_mode_exit_denied_missing_checklist"
    SAFE_MODE_EXIT_ABORTED_HEALTH_UNSTABLE = "safe_mode_exit_aborted_health_unstable"


class ContingencyResult(StrEnum):
    """Terminal states of the contingency message and its ticket (S-PC-03-003)."""

    CONTINGENCY_MESSAGE_SENT_TICKET_OPENED = "contingency_message_sent_ticket_opened"
    CONTINGENCY_MESSAGE_FAILED_TICKET_OPENED = "contingency_message_failed_ticket_opened"
    TICKET_OPEN_FAILED_ALERTED = "ticket_open_failed_alerted"


def contingency_result(*, message_sent: bool, ticket_opened: bool) -> ContingencyResult:
    """The result for one affected contact; without a ticket nothing else counts."""
    if not ticket_opened:
        return ContingencyResult.TICKET_OPEN_FAILED_ALERTED
    if message_sent:
        return ContingencyResult.CONTINGENCY_MESSAGE_SENT_TICKET_OPENED
    return ContingencyResult.CONTINGENCY_MESSAGE_FAILED_TICKET_OPENED


class ModeEvent(StrEnum):
    """What can happen to the mode of a scope."""

    ENTER = "enter"
    """No ACK in time, a superadmin's hand, or both stores down; also another cause while it is active."""
    GATES_COMPLETE = "gates_complete"
    """ACK, recovery action and checklist are there: the green window decides from now on."""
    HEALTH_RED = "health_red"
    WINDOW_GREEN = "window_green"
    DRAINED = "drained"


TRANSITIONS: Final[Mapping[tuple[ModeState, ModeEvent], ModeState]] = {
    (ModeState.NORMAL, ModeEvent.ENTER): ModeState.SAFE_MODE_ACTIVE,
    (ModeState.SAFE_MODE_ACTIVE, ModeEvent.ENTER): ModeState.SAFE_MODE_ACTIVE,
    (ModeState.SAFE_MODE_ACTIVE, ModeEvent.GATES_COMPLETE): ModeState.RECOVERING,
    (ModeState.RECOVERING, ModeEvent.ENTER): ModeState.SAFE_MODE_ACTIVE,
    (ModeState.RECOVERING, ModeEvent.HEALTH_RED): ModeState.SAFE_MODE_ACTIVE,
    (ModeState.RECOVERING, ModeEvent.WINDOW_GREEN): ModeState.DRAINING,
    (ModeState.DRAINING, ModeEvent.ENTER): ModeState.SAFE_MODE_ACTIVE,
    (ModeState.DRAINING, ModeEvent.HEALTH_RED): ModeState.SAFE_MODE_ACTIVE,
    (ModeState.DRAINING, ModeEvent.DRAINED): ModeState.NORMAL,
}
"""Every allowed transition; anything not listed changes nothing."""


def step(state: ModeState, event: ModeEvent) -> ModeState | None:
    """The next state, or None when the event is not allowed in this one."""
    return TRANSITIONS.get((state, event))


def is_reentry(state: ModeState, event: ModeEvent) -> bool:
    """Whether the event throws a recovering or draining scope back: counted and alerted."""
    return state in (ModeState.RECOVERING, ModeState.DRAINING) and step(state, event) is ModeState.SAFE_MODE_ACTIVE


ACTIVATION_RETRY_S: Final = (1, 2, 5, 10, 30, 60)
"""Waits between attempts to write an activation (or its P0 alert) that failed; from the last one on it goes on at that pace.

What is bounded is the rate, not the number: a disk that is full for an hour must not leave safe mode without an episode,
for without one there is no way out.
"""


def activation_retry_s(failures: int) -> int:
    """Seconds until the next attempt after `failures` (1, 2, ...) failed ones."""
    return ACTIVATION_RETRY_S[min(failures, len(ACTIVATION_RETRY_S)) - 1]


# --- the gates of the exit ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checklist:
    """Gate (c): what a person ticks."""

    ack_validated: bool = False
    recovery_action_logged: bool = False
    ops_notified: bool = False
    ticket_in_recovery: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Gates (a) to (c). `acks` says for every causing alert whether it is acknowledged."""

    acks: Mapping[str, bool]
    recovery_action: str | None = None
    recovery_by: str | None = None
    runbook_step: str | None = None
    checklist: Checklist = Checklist()


def missing(gates: Gates) -> tuple[str, ...]:
    """What the gates still lack, in their order; empty when all three are complete."""
    lacks = [f"ack:{alert_id}" for alert_id, acknowledged in sorted(gates.acks.items()) if not acknowledged]
    lacks += [name for name in ("recovery_action", "recovery_by", "runbook_step") if not getattr(gates, name)]
    lacks += [f.name for f in fields(Checklist) if not getattr(gates.checklist, f.name)]
    return tuple(lacks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitAnswer:
    """Answer to an attempt to leave, or to the clock's look at a running window.

    `result` is None while the window is still running. `event` is what to step the machine with, None for nothing.
    """

    result: SafeModeResult | None
    event: ModeEvent | None = None
    missing: tuple[str, ...] = ()
    reason: str | None = None


def attempt_exit(state: ModeState, gates: Gates, window: Window, now: datetime, policy: WindowPolicy) -> ExitAnswer:
    """Judge the exit at `now`. Without the gates it is denied, whatever the window says; the window is never skipped."""
    lacks = missing(gates)
    if lacks:
        return ExitAnswer(result=SafeModeResult.SAFE_MODE_EXIT_DENIED_MISSING_CHECKLIST, missing=lacks)
    if state is ModeState.SAFE_MODE_ACTIVE:
        return ExitAnswer(result=None, event=ModeEvent.GATES_COMPLETE)
    if state is not ModeState.RECOVERING:
        return ExitAnswer(result=None)
    if is_complete(window, now, policy):
        return ExitAnswer(result=SafeModeResult.SAFE_MODE_EXIT_COMPLETED, event=ModeEvent.WINDOW_GREEN)
    return ExitAnswer(result=None)


def on_reset(state: ModeState, window: Window, failing: Sequence[str]) -> ExitAnswer:
    """What a red or missing sample does: a recovery is aborted, with the checks that broke it as reason."""
    if state is ModeState.RECOVERING:
        result: SafeModeResult | None = SafeModeResult.SAFE_MODE_EXIT_ABORTED_HEALTH_UNSTABLE
    else:
        result = None
    event = ModeEvent.HEALTH_RED if step(state, ModeEvent.HEALTH_RED) is not None else None
    return ExitAnswer(result=result, event=event, reason=", ".join(failing) or window.reset_by)


# --- the drain ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPolicy:
    """How fast parked lanes leave: so many lanes a minute, and never more than `burst` at once, also after a pause."""

    lanes_per_minute: float = 60.0
    burst: int = 20


def drain_allowance(since: datetime, now: datetime, policy: DrainPolicy) -> int:
    """How many lanes may leave now, when the last ones left (or the drain began) at `since`."""
    earned = max(0.0, (now - since).total_seconds()) * policy.lanes_per_minute / 60
    return min(policy.burst, int(earned))
