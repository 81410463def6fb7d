"""The pace of a drain (F-05): parked commands leave at a rate that halves while the backlog does not fall.

Pure: a `Pace` in, a `Pace` out. `store.drain` keeps it in a row, so that any node may go on with it.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPolicy:
    """Numbers of a drain: commands a second, how many may leave at once, and how the backlog is judged."""

    rate_per_s: float = 2.0
    floor: float = 0.1
    """The rate never falls below this share of `rate_per_s`, so that a drain always ends."""
    burst: int = 10
    window: timedelta = timedelta(seconds=10)
    """The backlog is compared this often."""
    incident_after: int = 3
    """Windows in a row in which the backlog grew."""


class Trend(StrEnum):
    """What the backlog did in a window."""

    FALLING = "falling"
    STEADY = "steady"
    GROWING = "growing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a drain goes. `tokens` is how many commands may leave at `filled_at`; negative = already lent."""

    rate_per_s: float
    tokens: float
    filled_at: datetime
    backlog: int
    looked_at: datetime
    released_since: int = 0
    growing: int = 0
    slowed: int = 0


def begin(backlog: int, now: datetime, policy: DrainPolicy) -> Pace:
    """The pace of a drain that starts now: a first burst may leave at once."""
    return Pace(rate_per_s=policy.rate_per_s, tokens=policy.burst, filled_at=now, backlog=backlog, looked_at=now)


def fill(pace: Pace, now: datetime, policy: DrainPolicy) -> Pace:
    """The pace with what the time since then allows; a clock that went back allows nothing."""
    gained = max(0.0, (now - pace.filled_at).total_seconds()) * pace.rate_per_s
    return replace(pace, tokens=min(pace.tokens + gained, max(policy.burst, pace.rate_per_s)), filled_at=now)


def spend(pace: Pace, commands: int) -> Pace:
    """The pace after so many commands left. A lane leaves whole, so the tokens may go below zero for a while."""
    return replace(pace, tokens=pace.tokens - commands, released_since=pace.released_since + commands)


def look(pace: Pace, backlog: int, now: datetime, policy: DrainPolicy) -> tuple[Pace, Trend | None]:
    """Judge the window that ends now; None while it is still open.

    Half the rate when commands left and the backlog did not fall, twice when it fell, never outside floor and maximum.
    """
    if now - pace.looked_at < policy.window:
        return pace, None
    trend = Trend.FALLING if backlog < pace.backlog else Trend.GROWING if backlog > pace.backlog else Trend.STEADY
    rate, slowed = pace.rate_per_s, pace.slowed
    if trend is Trend.FALLING:
        rate *= 2
    elif trend is Trend.GROWING or pace.released_since:
        rate, slowed = rate / 2, slowed + 1
    rate = min(policy.rate_per_s, max(policy.rate_per_s * policy.floor, rate))
    growing = pace.growing + 1 if trend is Trend.GROWING else 0
    judged = replace(pace, rate_per_s=rate, backlog=backlog, looked_at=now, released_since=0, growing=growing, slowed=slowed)
    return judged, trend


def is_incident(pace: Pace, policy: DrainPolicy) -> bool:
    """Whether the backlog has grown for so long that a person must know."""
    return pace.growing >= policy.incident_after
