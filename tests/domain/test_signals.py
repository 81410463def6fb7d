"""Every row of section 9 over its edges, and a level that does not flicker."""

import itertools
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.signals import (
    SIGNALS,
    Firing,
    SignalLevel,
    SignalState,
    carried_forward,
    clean_limits,
    limit_disorder,
    limit_faults,
    limited,
    measure,
    observe,
    percentile,
    preview,
    with_limits,
)
from tests.domain.cases import NOON as T0

N, W, C = SignalLevel.NORMAL, SignalLevel.WARNING, SignalLevel.CRITICAL

EDGES: list[tuple[str, str, list[tuple[float, SignalLevel]]]] = [
    ("blocked_commit_order_violation", "count", [(2, N), (3, W), (9, W), (10, C)]),
    ("waiting_previous_commit_age", "age_p95_s", [(120, N), (121, W), (300, W), (301, C)]),
    ("waiting_previous_commit_age", "backlog", [(40, N), (41, C)]),
    ("version_conflict_blocked", "rate", [(0.02, N), (0.021, W), (0.05, W), (0.051, C)]),
    ("version_conflict_blocked", "per_hour", [(7, N), (8, W), (19, W), (20, C)]),
    ("expired_manual", "rate", [(0.03, N), (0.031, W), (0.08, W), (0.081, C)]),
    ("expired_manual", "per_hour", [(30, N), (31, C)]),
    ("conflict_blocked", "rate", [(0.02, N), (0.021, W), (0.05, W), (0.051, C)]),
    ("conflict_blocked", "per_hour", [(20, N), (21, C)]),
    ("replay_manual_backlog", "backlog", [(30, N), (31, W), (80, W), (81, C)]),
    ("replay_manual_backlog", "age_p95_s", [(900, N), (901, W), (1800, W), (1801, C)]),
    ("replay_backlog", "backlog", [(30, N), (31, W), (80, W), (81, C)]),
    ("replay_backlog", "age_p95_s", [(900, N), (901, W), (1800, W), (1801, C)]),
    ("no_ack_critical_alert", "oldest_unacknowledged_s", [(299, N), (300, W), (599, W), (600, C), (900, C)]),
    ("safe_mode_duration", "duration_s", [(1200, N), (1201, W), (2700, W), (2701, C)]),
    ("safe_mode_duration", "contingency_queue", [(50, N), (51, W), (120, W), (121, C)]),
    ("safe_mode_duration", "oldest_parked_s", [(1800, N), (1801, C)]),
    ("safe_mode_reentry", "count", [(1, N), (2, W), (3, C)]),
    ("safe_mode_reentry", "exits_without_checklist", [(0, N), (1, C)]),
    ("contingency_message_failure", "rate", [(0.02, N), (0.03, W), (0.05, W), (0.06, C)]),
    ("contingency_message_failure", "per_hour", [(10, N), (11, C)]),
    ("ticket_open_latency", "p95_s", [(300, N), (301, W), (900, W), (901, C)]),
    ("correlation_id_coverage", "coverage", [(1, N), (0.995, N), (0.994, W), (0.98, W), (0.979, C)]),
    ("ack_to_enqueue_gap", "p95_s", [(120, N), (121, W), (300, W), (301, C)]),
    ("ack_to_enqueue_gap", "events", [(20, N), (21, C)]),
    ("takeover_sla_breach_rate", "rate", [(0.05, N), (0.06, W), (0.12, W), (0.13, C)]),
    ("redis_fallback_rate", "rate", [(0.05, N), (0.06, W), (0.2, W), (0.21, C)]),
    ("fallback_db_lock_latency", "p95_ms", [(500, N), (501, W), (1200, W), (1201, C)]),
    ("evidence_pack_completeness", "completeness", [(0.98, N), (0.979, W), (0.95, W), (0.949, C)]),
    ("evidence_pack_generation", "p95_s", [(900, N), (901, W), (1800, W), (1801, C)]),
    ("drill_result", "invalid_side_effects", [(0, N), (1, C)]),
    ("drill_result", "recovery_s", [(600, N), (601, W), (1200, W), (1201, C)]),
]


@pytest.mark.story("S-PC-04-002")
@pytest.mark.parametrize(("name", "metric", "edges"), EDGES)
def test_each_threshold_sits_exactly_on_its_edge(name: str, metric: str, edges: list[tuple[float, SignalLevel]]) -> None:
    assert [measure(SIGNALS[name], {metric: value}) for value, _ in edges] == [level for _, level in edges]


def test_every_signal_has_its_edges_tested_an_owner_and_the_window_of_the_contract() -> None:
    assert {name: s.metrics for name, s in SIGNALS.items()} == {
        name: frozenset(m for n, m, _ in EDGES if n == name) for name in SIGNALS
    }
    assert all(s.owners for s in SIGNALS.values())
    minutes = {name: s.window and s.window.total_seconds() / 60 for name, s in SIGNALS.items()}
    assert minutes["waiting_previous_commit_age"] == 10
    assert {n for n, m in minutes.items() if m is None} == {
        "replay_manual_backlog",
        "replay_backlog",
        "no_ack_critical_alert",
        "safe_mode_duration",
        "drill_result",
    }
    assert {n for n, s in SIGNALS.items() if s.is_global} == {
        "safe_mode_reentry",
        "correlation_id_coverage",
        "redis_fallback_rate",
        "fallback_db_lock_latency",
    }


def test_what_was_not_measured_raises_no_level() -> None:
    assert measure(SIGNALS["drill_result"], {}) is N


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


@pytest.mark.story("S-PC-04-002")
def test_a_level_rises_at_once_and_falls_only_after_thirty_calm_minutes() -> None:
    state = observe(SignalState(), W, at(0))
    assert (state.level, state.since) == (W, at(0))
    state = observe(state, C, at(1))
    assert (state.level, state.since) == (C, at(1))
    state = observe(state, W, at(2))
    assert (state.level, state.since) == (C, at(1)), "easing to warning does not end a critical"
    state = observe(state, N, at(3))
    assert (state.level, state.calm_since) == (C, at(3))
    state = observe(state, W, at(32))
    assert state.calm_since is None
    state = observe(observe(state, N, at(33)), N, at(62.9))
    assert state.level is C
    state = observe(state, N, at(63))
    assert (state.level, state.since, state.calm_since) == (N, at(63), None)
    assert observe(state, N, at(64)) == state


@given(levels=st.lists(st.sampled_from(SignalLevel), max_size=80))
def test_between_two_firings_of_one_level_lie_thirty_calm_minutes(levels: list[SignalLevel]) -> None:
    state, raised = SignalState(), []
    for minute, level in enumerate(levels):
        after = observe(state, level, at(minute))
        if after.level.rank > state.level.rank:
            raised.append((minute, after.level))
        state = after
    for (first, level), (second, again) in itertools.pairwise(raised):
        assert again.rank > level.rank or second - first > 30


def test_a_changed_limit_is_previewed_on_what_was_measured() -> None:
    signal = SIGNALS["replay_backlog"]
    history = [(at(0), {"backlog": 20.0}), (at(1), {"backlog": 35.0}), (at(2), {"backlog": 90.0}), (at(3), {"backlog": 20.0})]
    assert preview(signal, history) == [Firing(level=W, at=at(1)), Firing(level=C, at=at(2))]
    relaxed = with_limits(signal, warning={"backlog": 100}, critical={"backlog": 200})
    assert preview(relaxed, history) == []
    assert measure(relaxed, {"age_p95_s": 901}) is W, "other limits stay"


def test_a_limit_on_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="per_hour"):
        with_limits(SIGNALS["expired_manual"], warning={"per_hour": 3})


def test_percentiles_are_nearest_rank() -> None:
    assert percentile([], 0.95) is None
    assert percentile([7], 0.95) == 7
    assert percentile(range(100, 0, -1), 0.95) == 95
    assert percentile([1, 2, 3], 0) == 1
    assert percentile([1, 2, 3], 1) == 3


def test_points_of_change_hold_until_the_next_one_and_so_end_a_calm() -> None:
    signal = SIGNALS["replay_backlog"]
    high, low = {"backlog": 31.0}, {"backlog": 1.0}
    points = [(at(0), high), (at(1), low), (at(200), high), (at(201), low), (at(210), high)]
    assert len(preview(signal, points)) == 1, "points alone never were calm for half an hour"
    assert [f.at for f in preview(signal, carried_forward(points, at(300)))] == [at(0), at(200)]
    assert list(carried_forward(points[:2], at(30))) == points[:2]
    assert list(carried_forward(points[:2], at(31)))[-1] == (at(31), low)
    assert list(carried_forward([], at(1))) == []


def test_limits_as_settings_say_them_are_checked() -> None:
    good = {"replay_backlog": {"warning": {"backlog": 10, "age_p95_s": None}, "critical": None}, "expired_manual": None}
    assert list(limit_faults(good)) == []
    for bad, pointer in (
        ({"nothing": {}}, "/nothing"),
        ({"replay_backlog": 3}, "/replay_backlog"),
        ({"replay_backlog": {"loud": {}}}, "/replay_backlog/loud"),
        ({"replay_backlog": {"warning": 3}}, "/replay_backlog/warning"),
        ({"replay_backlog": {"warning": {"rate": 1}}}, "/replay_backlog/warning/rate"),
        ({"replay_backlog": {"warning": {"backlog": True}}}, "/replay_backlog/warning/backlog"),
        ({"replay_backlog": {"warning": {"backlog": -1}}}, "/replay_backlog/warning/backlog"),
        ({"expired_manual": {"warning": {"rate": 1.5}}}, "/expired_manual/warning/rate"),
    ):
        assert [found for found, _ in limit_faults(bad)] == [pointer]


def test_a_later_document_goes_over_an_earlier_one_and_what_means_nothing_is_left_out() -> None:
    stored = {"replay_backlog": {"warning": {"backlog": 10}}, "gone": {"warning": {"x": 1}}}
    own = {"replay_backlog": {"warning": {"age_p95_s": 60, "backlog": None}, "critical": None}, "conflict_blocked": None}
    held = clean_limits(stored, own, None)
    assert held == {"replay_backlog": {"warning": {"backlog": 10, "age_p95_s": 60}, "critical": {}}}
    changed = limited(SIGNALS["replay_backlog"], held)
    assert [t.value for t in changed.warning] == [10, 60]
    assert limited(SIGNALS["expired_manual"], held) is SIGNALS["expired_manual"]


def test_a_warning_comes_before_its_critical() -> None:
    signal = SIGNALS["replay_backlog"]
    assert limit_disorder(signal) == []
    assert limit_disorder(with_limits(signal, warning={"backlog": 81})) == ["backlog"]
    coverage = SIGNALS["correlation_id_coverage"]
    assert limit_disorder(with_limits(coverage, critical={"coverage": 0.999})) == ["coverage"]
    assert limit_disorder(SIGNALS["waiting_previous_commit_age"]) == []
