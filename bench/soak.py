"""`python -m bench.soak`: the long run. The same proofs as in `make test`, ten times and more of each, within an hour.

    python -m bench.soak [PART ...] [--share 1.0] [--minutes 60]

    nodes     200,000 events through three nodes while nodes and Redis die and hang
    faults    each fault that is promised to be survived, one after the other, on running servers, three times
    lives     1,000 kill -9 at the named points of the product, on SQLite and PostgreSQL in turn
    worlds    50,000 seeds of the simulation
    cases     20,000 requests drawn from our OpenAPI description
    machine   5,000 histories of 100 steps of one contact's lane (an hour of one core by itself)

Each part is a process of its own and says how it ended; the parts run one after the other until the time is up, and what
had no time is said too. `--share 0.01` is a hundredth of everything.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Part:
    """One proof: its figure in the whole run, and how it is asked for `count`."""

    figure: int
    unit: str
    words: Callable[[int], list[str]]
    variables: Callable[[int], dict[str, int]]


def _pytest(*words: str) -> list[str]:
    return ["-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--show-capture=no", "-s", *words]


PARTS: Final = {
    "nodes": Part(
        200_000,
        "events",
        lambda count: _pytest("tests/faults/test_three_nodes.py"),
        lambda count: {"SOAK_EVENTS": count, "SOAK_PAUSE_S": 30 if count >= 100_000 else 0},
    ),
    "faults": Part(
        3, "rounds", lambda count: _pytest(*["tests/faults/test_each_fault.py"] * count, "--keep-duplicates"), lambda count: {}
    ),
    "lives": Part(
        1_000,
        "kills",
        lambda count: _pytest("tests/faults/test_failpoints.py"),
        lambda count: {"SOAK_KILLS": math.ceil(count / 2)},  # on each of two databases
    ),
    "worlds": Part(50_000, "seeds", lambda count: ["-m", "tests.simulation", "--worlds", str(count)], lambda count: {}),
    "cases": Part(
        20_000,
        "requests",
        lambda count: _pytest("tests/web/test_openapi_cases.py"),
        lambda count: {"SOAK_CASES": count},
    ),
    "machine": Part(
        5_000,
        "histories",
        lambda count: _pytest("tests/engine/test_lane_machine.py", "-k", "whatever"),
        lambda count: {"SOAK_EXAMPLES": count},
    ),
}
"""By name, in the order in which they run."""


def run(name: str, part: Part, count: int, left_s: float) -> bool:
    """Run one part in what time is left; whether it held."""
    print(f"--- {name}: {count} {part.unit}", flush=True)
    environment = os.environ | {key: str(value) for key, value in part.variables(count).items()}
    began = time.monotonic()
    try:
        done = subprocess.run([sys.executable, *part.words(count)], cwd=ROOT, env=environment, timeout=left_s, check=False)
    except subprocess.TimeoutExpired:
        print(f"--- {name}: NOT FINISHED, the time is up after {time.monotonic() - began:.0f} s", flush=True)
        return False
    said = "held" if done.returncode == 0 else f"BROKEN (exit {done.returncode})"
    print(f"--- {name}: {said} in {time.monotonic() - began:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run the parts; 1 unless every one of them held."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="The long run of tests.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them without")
    parser.add_argument("--share", type=float, default=1.0, help="of each part's figure")
    parser.add_argument("--minutes", type=float, default=60.0, help="of all together")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    until = time.monotonic() + asked.minutes * 60
    held = True
    for name, part in PARTS.items():
        if asked.parts and name not in asked.parts:
            continue
        left_s = until - time.monotonic()
        if left_s <= 0:
            print(f"--- {name}: NOT RUN, the time is up", flush=True)
            held = False
            continue
        held = run(name, part, max(1, round(part.figure * asked.share)), left_s) and held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
