"""Clocks of sources against ours, from what they say about when things happened. Pure.

An item arrives at the earliest when it happened, so its lag (received minus occurred) is the transport's delay minus how far
the source's clock is ahead. One clearly negative lag proves a clock that is ahead; a clock that is behind shows as a whole
window in which nothing was quick, which is why it takes more items to say so.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

BEHIND_NEEDS: Final = 20
"""Items a window must have before slow ones alone say that a clock is behind."""


PATIENCE: Final = timedelta(hours=1)
"""How long a window in which nothing was quick stays open for enough items: slow ones are rare where a clinic is quiet."""


class SkewState(StrEnum):
    """What a source's clock does."""

    FINE = "fine"
    AHEAD = "ahead"
    BEHIND = "behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lags:
    """Lags of one source in one window, in seconds; negative = from the future."""

    samples: int
    least_s: float
    most_s: float

    def join(self, later: "Lags") -> "Lags":
        """Both windows as one."""
        least, most = min(self.least_s, later.least_s), max(self.most_s, later.most_s)
        return Lags(samples=self.samples + later.samples, least_s=least, most_s=most)

    def add(self, lag_s: float) -> "Lags":
        """With one more item."""
        return Lags(samples=self.samples + 1, least_s=min(self.least_s, lag_s), most_s=max(self.most_s, lag_s))


def first(lag_s: float) -> Lags:
    """A window with one item."""
    return Lags(samples=1, least_s=lag_s, most_s=lag_s)


def says_nothing_yet(lags: Lags, threshold_s: float) -> bool:
    """Whether a window is all slow and too short to tell a clock that is behind from a slow transport."""
    return lags.least_s > threshold_s and lags.samples < BEHIND_NEEDS


def judge(lags: Lags, before: SkewState, threshold_s: float) -> SkewState:
    """What the window says; exactly at the threshold is fine. Too few slow items leave a source as it was."""
    if lags.least_s < -threshold_s:
        return SkewState.AHEAD
    if lags.least_s <= threshold_s:
        return SkewState.FINE
    return SkewState.BEHIND if lags.samples >= BEHIND_NEEDS else before


def skew_s(lags: Lags) -> float:
    """How far the source's clock seems ahead (negative: behind): the quickest item says most."""
    return -lags.least_s
