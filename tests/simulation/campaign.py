"""Many worlds, on as many processes as asked for, until enough has happened in them."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial

import structlog

from tests.simulation.plan import SIZES, Outcome, run
from tests.simulation.store import SharedStore


def quiet(*, also_info: bool = False) -> None:
    """The product's log is no part of a run over many worlds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20 if also_info else 50))


def many(events: int, first: int, jobs: int, size: str, *, worlds_max: int | None = None) -> int:
    """Run worlds from seed `first` on until `events` have happened, or that many worlds; 1 when any broke a promise."""
    started, seen, worlds, histories, broken, notes = time.monotonic(), 0, 0, 0, 0, Counter[str]()
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=quiet) as pool:
        for outcome in pool.imap_unordered(partial(_one, size=size), _seeds(first), chunksize=4):
            seen, worlds, histories = seen + outcome.events, worlds + 1, histories + outcome.histories
            notes.update(outcome.notes)
            if outcome.findings:
                broken += 1
                print(f"seed {outcome.seed}: {outcome.findings[0].what}", flush=True)
            if worlds % 1_000 == 0:
                print(f"{worlds} worlds, {seen} events, {seen / (time.monotonic() - started):.0f} events/s", flush=True)
            if worlds >= worlds_max if worlds_max is not None else seen >= events:
                pool.terminate()
                break
    print(f"{worlds} worlds, {histories} histories, {seen} events in {time.monotonic() - started:.0f} s; {broken} broken")
    print(", ".join(f"{what} {n}" for what, n in sorted(notes.items())))
    return 1 if broken else 0


def _seeds(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def _one(seed: int, size: str) -> Outcome:
    return run(_store(), seed, SIZES[size])


@cache
def _store() -> SharedStore:
    """One per process."""
    return SharedStore()
