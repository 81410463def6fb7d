"""A `kora` process on a machine whose clock is wrong: the outside world that is faked here is the clock.

Run as `python -m tests.faults.stepped_clock serve ...`; `CLOCK_OFF_FILE` names a file with the seconds by which the machine's
clock is ahead (negative: behind). It is read at every look at the clock, so a test steps the clock of a running process by
writing the file. Steps of wall time do not touch the monotonic clock, as on a real machine.
"""

import os
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import app.clock
from app.cli import main


def off_s() -> float:
    """How far the clock is ahead now."""
    return float(Path(os.environ["CLOCK_OFF_FILE"]).read_text() or 0)


class SteppedDatetime(datetime):
    """`datetime` with the wrong clock behind `now`."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # a plain one, as everywhere
        """The wrong time."""
        return datetime.now(tz) + timedelta(seconds=off_s())  # noqa: TID251  # outside the product


def step() -> None:
    """Put the wrong clock in the place of the right one: for the product, which reads it in one place, and for its libraries."""
    right, right_ns = time.time, time.time_ns  # noqa: TID251  # outside the product
    app.clock.datetime = SteppedDatetime  # type: ignore[attr-defined]
    time.time = lambda: right() + off_s()  # noqa: TID251  # outside the product
    time.time_ns = lambda: right_ns() + int(off_s() * 1e9)  # noqa: TID251  # outside the product


if __name__ == "__main__":
    step()
    main()
