"""Critical alerts (S-PC-03-001) and operational alerts (S-PC-04-002): the escalation ladder as data.

Every step is anchored to the alert's t0 and has a key that is unique per alert, so that it is stored once and claimed once.
Catching up after downtime merges missed resends of a channel into the newest one, but never skips a change of state.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class AlertResult(StrEnum):
    """Terminal states of the stories about alerts."""

    ACK_RECEIVED = "ack_received"
    ACK_TIMEOUT_ESCALATED = "ack_timeout_escalated"
    ALERT_FIRED_ACKNOWLEDGED = "alert_fired_acknowledged"
    ALERT_FIRED_NO_ACK_ESCALATED = "alert_fired_no_ack_escalated"


class Level(StrEnum):
    """How far an unacknowledged critical alert has climbed."""

    RAISED = "raised"
    WARNING = "warning"
    HIGH = "high"
    SAFE_MODE = "safe_mode"
    ESCALATED = "escalated"
    """An operational alert without an ACK in its SLA."""


class Action(StrEnum):
    """What a step of the ladder does."""

    SEND = "send"
    RAISE_WARNING = "raise_warning"
    RAISE_HIGH = "raise_high"
    ENTER_SAFE_MODE = "enter_safe_mode"
    ESCALATE = "escalate"


LEVEL_OF_ACTION: Final = {
    Action.RAISE_WARNING: Level.WARNING,
    Action.RAISE_HIGH: Level.HIGH,
    Action.ENTER_SAFE_MODE: Level.SAFE_MODE,
    Action.ESCALATE: Level.ESCALATED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderPolicy:
    """Minutes and channel kinds of the ladder; copied onto the alert when it is raised."""

    primary: str = "ops"
    redundant: str = "superadmin_whatsapp"
    fallback: str = "superadmin_sms"
    also: tuple[str, ...] = ()
    """Further channels of the first minute."""
    resend_minutes: tuple[int, ...] = (5, 10, 15, 20, 25, 30)
    warning_minute: int = 5
    high_minute: int = 10
    safe_mode_minute: int = 15

    def __post_init__(self) -> None:
        if not 0 < self.warning_minute < self.high_minute < self.safe_mode_minute:
            raise ValueError("the ladder climbs: 0 < warning < high < safe mode")
        if list(self.resend_minutes) != sorted({m for m in self.resend_minutes if m > 0}):
            raise ValueError("resends come after the first message, in rising order, each once")


DEFAULT_LADDER: Final = LadderPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rung. `channel` is a channel kind (`ops`, ...) and `attempt` counts from 1; both None for a change of state."""

    minute: int
    action: Action
    due_at: datetime
    channel: str | None = None
    attempt: int | None = None

    @property
    def key(self) -> str:
        """Unique within the alert, stable over restarts."""
        if self.action is Action.SEND:
            return f"{self.action}:{self.channel}:{self.attempt}"
        return str(self.action)


def steps(t0: datetime, policy: LadderPolicy = DEFAULT_LADDER) -> tuple[Step, ...]:
    """The whole ladder of an alert raised at `t0`, in time order; at one minute the change of state comes first."""
    found = [
        _state(t0, policy.warning_minute, Action.RAISE_WARNING),
        _state(t0, policy.high_minute, Action.RAISE_HIGH),
        _state(t0, policy.safe_mode_minute, Action.ENTER_SAFE_MODE),
        *(_send(t0, 0, channel, 1) for channel in dict.fromkeys((policy.primary, policy.redundant, *policy.also))),
    ]
    found += [_send(t0, minute, policy.redundant, n) for n, minute in enumerate(policy.resend_minutes, start=2)]
    return tuple(sorted(found, key=lambda s: (s.minute, s.action is Action.SEND)))


def _state(t0: datetime, minute: int, action: Action) -> Step:
    return Step(minute=minute, action=action, due_at=t0 + timedelta(minutes=minute))


def _send(t0: datetime, minute: int, channel: str, attempt: int) -> Step:
    return Step(minute=minute, action=Action.SEND, due_at=t0 + timedelta(minutes=minute), channel=channel, attempt=attempt)


def is_for_everybody(step: Step) -> bool:
    """Whether a message of a critical alert goes to all recipients of its channel: from level high on."""
    return step.action is Action.SEND and step.minute >= DEFAULT_LADDER.high_minute


def late_first(t0: datetime, channel: str) -> Step:
    """What the further recipients of a channel without resends get, at level high."""
    return _send(t0, DEFAULT_LADDER.high_minute, channel, 2)


def safe_deadline(t0: datetime, policy: LadderPolicy = DEFAULT_LADDER) -> datetime:
    """When safe mode holds without an ACK, whether any timer runs or not; written when the alert is raised."""
    return t0 + timedelta(minutes=policy.safe_mode_minute)


def level_at(t0: datetime, now: datetime, policy: LadderPolicy = DEFAULT_LADDER) -> Level:
    """Level of an unacknowledged alert at `now`; exactly at a rung it is reached."""
    reached = [LEVEL_OF_ACTION[s.action] for s in steps(t0, policy) if s.action in LEVEL_OF_ACTION and s.due_at <= now]
    return reached[-1] if reached else Level.RAISED


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What to do now. `merged` were missed and are covered by a later one in `run`: recorded, not sent."""

    run: tuple[Step, ...] = ()
    merged: tuple[Step, ...] = ()


def due(ladder: Sequence[Step], done: Collection[str], now: datetime) -> Due:
    """Steps of an unacknowledged alert that are due and not in `done` (keys), in order.

    Of several missed messages of one channel only the newest is sent (it says which attempt it is and that the alert is
    still open); changes of state all run.
    """
    waiting = [s for s in ladder if s.due_at <= now and s.key not in done]
    newest = {s.channel: s for s in waiting if s.action is Action.SEND}
    merged = tuple(s for s in waiting if s.action is Action.SEND and newest[s.channel] is not s)
    return Due(run=tuple(s for s in waiting if s not in merged), merged=merged)


def next_step(ladder: Iterable[Step], done: Collection[str], now: datetime) -> Step | None:
    """The next step that will come due after `now`; None when the ladder is climbed."""
    return next((s for s in ladder if s.due_at > now and s.key not in done), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AckEffect:
    """What an ACK does.

    It always stops every message that has not been sent, claimed ones included. `prevents_safe_mode` says that it came in
    time; if not, safe mode stays and the ACK is the first gate of its exit.
    """

    result: AlertResult
    stopped: tuple[Step, ...]
    prevents_safe_mode: bool
    delay_s: float


def acknowledge(t0: datetime, at: datetime, done: Collection[str], policy: LadderPolicy = DEFAULT_LADDER) -> AckEffect:
    """Effect of an ACK at `at`; exactly at the deadline is too late.

    Changes of state that were due before the ACK are not stopped: they happened, even if nobody wrote them down yet.
    """
    in_time = at < safe_deadline(t0, policy)
    left = [s for s in steps(t0, policy) if s.key not in done]
    return AckEffect(
        result=AlertResult.ACK_RECEIVED if in_time else AlertResult.ACK_TIMEOUT_ESCALATED,
        stopped=tuple(s for s in left if s.action is Action.SEND or s.due_at > at),
        prevents_safe_mode=in_time,
        delay_s=(at - t0).total_seconds(),
    )


def next_recipient(recipients: Sequence[str], passed_on: Collection[str]) -> str | None:
    """Who is told after somebody passed it on (which is no ACK): the first who has not; None when all have."""
    return next((r for r in recipients if r not in passed_on), None)


# --- routing and operational alerts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Row of the routing matrix: where a trigger's alerts go, who owns them, and how soon an ACK is expected."""

    channels: tuple[str, ...]
    fallback: str
    owner: str
    ack_sla_min: int


ROUTING: Final = {
    "critical": Route(channels=("ops", "superadmin_whatsapp"), fallback="superadmin_sms", owner="superadmin", ack_sla_min=15),
    "gap": Route(channels=("ops_chat",), fallback="email", owner="sre", ack_sla_min=10),
    "takeover": Route(channels=("ops_chat",), fallback="email", owner="sre", ack_sla_min=10),
    "takeover_sla_warning": Route(channels=("secretary",), fallback="ops_chat", owner="secretary", ack_sla_min=10),
    "takeover_sla": Route(channels=("ops_chat", "manager"), fallback="email", owner="manager,sre", ack_sla_min=10),
    "takeover_sla_escalated": Route(
        channels=("superadmin_whatsapp", "ops_chat"), fallback="superadmin_sms", owner="superadmin", ack_sla_min=10
    ),
    "day_before_unconfirmed": Route(
        channels=("secretary", "manager", "ops_chat"), fallback="email", owner="secretary,manager", ack_sla_min=60
    ),
    "replay_backlog": Route(channels=("ops_chat",), fallback="email", owner="sre,superadmin", ack_sla_min=15),
    "deferred_reopen_trigger": Route(channels=("ops_chat",), fallback="email", owner="po,architect", ack_sla_min=60),
    "default": Route(channels=("ops_chat",), fallback="email", owner="ops", ack_sla_min=15),
}
"""Defaults of the routing matrix, by trigger family or trigger; tenants and the superadmin may change them."""

_FAMILIES: Final = {
    "ack_to_enqueue_gap": "gap",
    "takeover_sla_breach_rate": "takeover",
    "takeover_sla_warning": "takeover",
    "takeover_sla": "takeover",
    "takeover_sla_escalated": "takeover",
    "replay_manual_backlog": "replay_backlog",
}


def family_of(trigger: str) -> str:
    """The row of the matrix that a trigger belongs to by default."""
    family = _FAMILIES.get(trigger, trigger)
    return family if family in ROUTING else "default"


ESCALATION_CHANNEL: Final = "superadmin_whatsapp"
"""Where an operational alert goes when nobody acknowledged it in its SLA."""


def ladder_of(route: Route) -> LadderPolicy:
    """The ladder of a critical alert on this route: the superadmin's WhatsApp is resent, in whatever order it is named.

    A route that leaves it out has its second channel resent, and one with a single channel gets it as the redundant one: no
    critical alert hangs on one channel. The minutes are the frozen rule's and no route changes them.
    """
    if not route.channels:
        raise ValueError("a route names at least one channel")
    named = list(dict.fromkeys(route.channels))
    if len(named) == 1:
        named = [named[0], ESCALATION_CHANNEL] if named[0] != ESCALATION_CHANNEL else named
    redundant = ESCALATION_CHANNEL if ESCALATION_CHANNEL in named else named[1]
    others = [channel for channel in named if channel != redundant] or [redundant]
    return LadderPolicy(primary=others[0], redundant=redundant, fallback=route.fallback, also=tuple(others[1:]))


def operational_steps(t0: datetime, route: Route) -> tuple[Step, ...]:
    """Ladder of an alert that is not critical: every channel at once; without an ACK in its SLA it is escalated."""
    first = [_send(t0, 0, channel, 1) for channel in dict.fromkeys(route.channels)]
    attempt = 2 if ESCALATION_CHANNEL in route.channels else 1
    late = [_state(t0, route.ack_sla_min, Action.ESCALATE), _send(t0, route.ack_sla_min, ESCALATION_CHANNEL, attempt)]
    return (*first, *late)


def operational_result(raised_at: datetime, ack_at: datetime | None, now: datetime, sla_min: int) -> AlertResult | None:
    """Result of an operational alert against its ACK SLA; None while it still has time. Exactly at the limit is in time."""
    limit = raised_at + timedelta(minutes=sla_min)
    if ack_at is not None and ack_at <= limit:
        return AlertResult.ALERT_FIRED_ACKNOWLEDGED
    return AlertResult.ALERT_FIRED_NO_ACK_ESCALATED if ack_at is not None or now > limit else None


# --- storms and flapping ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """One raised alert as grouping sees it."""

    alert_id: str
    group: str
    """What counts as the same kind, for example scope and trigger."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """Alerts of one kind, none of them a window after the one before: one voice that counts, every alert still shown."""

    group: str
    started_at: datetime
    alert_ids: tuple[str, ...]


def storms(raised: Iterable[Raised], window: timedelta = timedelta(minutes=1)) -> list[Storm]:
    """Group alerts of one kind; a storm takes in what comes less than `window` after its latest alert."""
    found: list[Storm] = []
    open_at: dict[str, tuple[int, datetime]] = {}
    for alert in sorted(raised, key=lambda a: (a.at, a.alert_id)):
        index, latest = open_at.get(alert.group, (len(found), None))
        if latest is not None and alert.at < latest + window:
            found[index] = replace(found[index], alert_ids=(*found[index].alert_ids, alert.alert_id))
        else:
            index = len(found)
            found.append(Storm(group=alert.group, started_at=alert.at, alert_ids=(alert.alert_id,)))
        open_at[alert.group] = (index, alert.at)
    return found


def is_flapping(changes: Iterable[datetime], now: datetime, *, window: timedelta = timedelta(minutes=15), limit: int = 4) -> bool:
    """Whether one alert went on and off at least `limit` times in the window: it then stays on, quietly, until it rests."""
    return sum(1 for at in changes if now - window < at <= now) >= limit
