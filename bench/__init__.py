"""Benchmarks; figures are ratios within one run (see the README)."""
