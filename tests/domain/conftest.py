"""Hypothesis on shared machines: no wall-clock limits, which say nothing about pure functions."""

from hypothesis import HealthCheck, settings

settings.register_profile("kora", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kora")
