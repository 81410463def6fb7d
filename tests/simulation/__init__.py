"""A seeded simulation of the real engine: virtual time, random interleavings, crashes at any await, failing locks.

`python -m tests.simulation --seed 7` replays one world and prints what happened in it; `--events 1000000` runs as many
worlds as it takes. What one world is made of stands in `world.py`, what is done to it in `plan.py`, and what must hold
afterwards in `check.py`.
"""
