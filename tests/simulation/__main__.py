"""`python -m tests.simulation`: replay one seed and tell its story, or run many worlds on all cores.

python -m tests.simulation --seed 7                      what happened in world 7, and what is wrong with it
python -m tests.simulation --seed 7 --without NAME       the same without one of our guards (see mutants.py)
python -m tests.simulation --events 1000000              as many worlds as it takes, from --first on
python -m tests.simulation --worlds 50000                that many worlds
"""

import argparse
import os
import sys

from tests.simulation.campaign import many, quiet
from tests.simulation.mutants import MUTANTS, SELDOM, sabotage
from tests.simulation.plan import SIZES, Outcome, run
from tests.simulation.store import SharedStore


def main() -> int:
    """Parse, run, report; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="one world, with its story")
    parser.add_argument("--without", choices=sorted(MUTANTS | SELDOM), action="append", default=[], help="take a guard away")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--events", type=int, default=1_000_000, help="stop after this many events")
    parser.add_argument("--worlds", type=int, help="stop after this many worlds instead")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--log", action="store_true", help="with --seed: the product's own log lines too")
    asked = parser.parse_args()
    quiet(also_info=asked.log)
    if asked.seed is not None:
        with sabotage(*asked.without):
            return _tell(run(SharedStore(), asked.seed, SIZES[asked.size]))
    if asked.without:
        parser.error("--without goes with --seed")
    return many(asked.events, asked.first, asked.jobs, asked.size, worlds_max=asked.worlds)


def _tell(outcome: Outcome) -> int:
    print("\n".join(outcome.trace))
    print(f"seed {outcome.seed}: {outcome.histories} histories, {outcome.events} events, digest {outcome.digest}")
    for finding in outcome.findings:
        print(f"  BROKEN  {finding.what}")
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
