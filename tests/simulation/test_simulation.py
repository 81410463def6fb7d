"""The real engine under thousands of random histories; and the proof that the simulation would notice.

A failing seed is replayed with its whole story by `python -m tests.simulation --seed N`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.simulation.mutants import MUTANTS, sabotage
from tests.simulation.plan import SIZES, Outcome, run
from tests.simulation.store import SharedStore

PARTS = 8
WORLDS = {"small": 8, "large": 30}
"""In each part: more than 10,000 contacts' histories together. A history costs half as much in a large world."""
SEEDS_UNTIL_FOUND = 300
"""How many worlds a missing guard may stay unnoticed; each takes a fraction of a second."""


@pytest.fixture(scope="module")
def store() -> Iterator[SharedStore]:
    store = SharedStore()
    yield store
    store.close()


@pytest.fixture(autouse=True)
def without_log_lines() -> Iterator[None]:
    before: dict[str, Any] = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.mark.story("S-PC-01-001")
@pytest.mark.story("S-PC-01-002")
@pytest.mark.story("S-PC-01-003")
@pytest.mark.story("S-PC-05-001")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_promise_holds_whatever_meets_and_whoever_dies(store: SharedStore, part: int) -> None:
    seen: set[str] = set()
    for name, size in SIZES.items():
        for seed in range(part * WORLDS[name], (part + 1) * WORLDS[name]):
            outcome = run(store, seed, size)
            assert not outcome.findings, f"seed {seed}, {name}: {[f.what for f in outcome.findings[:5]]}"
            seen |= outcome.notes.keys()
    # a simulation in which nothing goes wrong would prove nothing
    assert {"answer_lost", "commit_lost", "redis_failed", "redis_flushed", "wake_lost", "rush", "skip", "contingency"} <= seen
    assert {name for name in seen if name.startswith("crash at ")} >= {
        "crash at read done",
        "crash at write",
        "crash at write done",
    }


@pytest.mark.parametrize("missing", sorted(MUTANTS))
def test_a_missing_guard_is_noticed(store: SharedStore, missing: str) -> None:
    with sabotage(missing):
        found = next((outcome for seed in range(SEEDS_UNTIL_FOUND) if (outcome := run(store, seed)).findings), None)
        assert found is not None
        again = run(store, found.seed)
    assert again == found  # a failing seed fails again, in the same way


def test_a_seed_is_the_same_history_in_every_process(store: SharedStore) -> None:
    here = [run(store, seed) for seed in (3, 4)]
    for hash_seed in ("1", "2"):
        assert _digests_elsewhere(hash_seed, here) == [outcome.digest for outcome in here]


def _digests_elsewhere(hash_seed: str, outcomes: list[Outcome]) -> list[str]:
    found = []
    for outcome in outcomes:
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", str(outcome.seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        found.append(told.rstrip().rsplit(" ", 1)[1])
    return found
