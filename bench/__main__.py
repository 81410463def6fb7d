"""`python -m bench`: every benchmark, one after the other."""

from bench.throughput import main

main()
