"""From counts to numbers: rates that need enough samples, exact percentiles, and clinics taken together."""

import pytest

from app.domain.alerts import family_of
from app.domain.signal_facts import MIN_LOCKS, MIN_SAMPLES, MIN_SAMPLES_RARE, NOTHING, Facts, combined, measured, percentile_of
from app.domain.signal_texts import METRICS, NAMES, quantity, summary
from app.domain.signals import SIGNALS, SignalLevel, Unit, limited, measure

pytestmark = pytest.mark.story("S-PC-04-002")


def counted(**counts: int) -> Facts:
    facts = Facts()
    for name, n in counts.items():
        facts.count(name, n, in_quarter=n)
    return facts


def test_nothing_counted_is_nothing_measured() -> None:
    for name in SIGNALS:
        assert not measured(name, Facts()).values, name
        assert measure(SIGNALS[name], measured(name, Facts()).values) is SignalLevel.NORMAL


def test_one_of_one_is_no_rate_and_one_of_many_is_none_either() -> None:
    assert measured("conflict_blocked", counted(done=1, conflict_blocked=1)).values == {"per_hour": 1}
    assert measured("conflict_blocked", counted(done=MIN_SAMPLES - 1, conflict_blocked=9)).values == {"per_hour": 9}
    assert measured("conflict_blocked", counted(done=MIN_SAMPLES, conflict_blocked=1)).values == {"rate": 0, "per_hour": 1}
    found = measured("conflict_blocked", counted(done=MIN_SAMPLES, conflict_blocked=2))
    assert (found.values, found.samples, found.hits) == ({"rate": 0.1, "per_hour": 2}, 20, 2)


@pytest.mark.parametrize(
    ("signal", "facts", "values"),
    [
        ("takeover_sla_breach_rate", {"takeover": MIN_SAMPLES_RARE, "takeover_breached": 2}, {"rate": 0.4}),
        ("takeover_sla_breach_rate", {"takeover": 4, "takeover_breached": 2}, {}),
        ("redis_fallback_rate", {"lock_primary": 15, "lock_fallback": 5}, {"rate": 0.25}),
        ("redis_fallback_rate", {"lock_primary": 0}, {}),
        ("correlation_id_coverage", {"items": 100, "generated": 3}, {"coverage": 0.97}),
        ("correlation_id_coverage", {"items": 5, "generated": 3}, {}),
        ("evidence_pack_completeness", {"pack": 50, "pack_incomplete": 2}, {"completeness": 0.96}),
        ("evidence_pack_completeness", {"pack": 1, "pack_incomplete": 1}, {}),
        ("contingency_message_failure", {"notice": 10, "notice_failed": 2}, {"rate": 0.2, "per_hour": 2}),
        ("blocked_commit_order_violation", {"blocked_commit_order_violation": 3}, {"count": 3}),
    ],
)
def test_each_count_becomes_its_number(signal: str, facts: dict[str, int], values: dict[str, float]) -> None:
    assert measured(signal, counted(**facts)).values == pytest.approx(values)


def test_a_percentile_is_of_what_was_seen_and_exact_at_a_whole_limit() -> None:
    assert percentile_of({}) is None
    assert percentile_of({7: 1}) == (7, 1)
    assert percentile_of({1: 95, 100: 5}) == (1, 100)
    assert percentile_of({1: 94, 100: 6}) == (100, 100)
    facts = Facts()
    facts.spot("heard_s", 120, 3)
    facts.spot("heard_s", 1, 0)
    assert measure(SIGNALS["ack_to_enqueue_gap"], measured("ack_to_enqueue_gap", facts).values) is SignalLevel.NORMAL
    facts.spot("heard_s", 121, 1)
    assert measure(SIGNALS["ack_to_enqueue_gap"], measured("ack_to_enqueue_gap", facts).values) is SignalLevel.WARNING


def test_few_locks_have_no_percentile() -> None:
    facts = Facts()
    facts.spot("lock_ms", 2_000, MIN_LOCKS - 1)
    assert (measured("fallback_db_lock_latency", facts).values, measured("fallback_db_lock_latency", facts).samples) == ({}, 4)
    facts.spot("lock_ms", 2_000, 1)
    assert measured("fallback_db_lock_latency", facts).values == {"p95_ms": 2_000}


def test_clinics_together_add_up_what_is_a_number_and_keep_the_worst_of_what_is_an_age() -> None:
    one, two = counted(done=10), counted(done=20, conflict_blocked=3)
    one.now |= {"parked": 5, "oldest_parked_s": 60}
    two.now |= {"parked": 7, "oldest_parked_s": 30, "safe_mode_s": 90}
    one.spot("replay_s", 60, 2)
    two.spot("replay_s", 60, 1)
    both = combined([one, two])
    assert (both.hour["done"], both.quarter["conflict_blocked"], both.spread) == (30, 3, {"replay_s": {60: 3}})
    found = measured("safe_mode_duration", both)
    assert found.values == {"duration_s": 90, "contingency_queue": 12, "oldest_parked_s": 60}
    assert NOTHING.values == {}


def test_every_signal_and_number_has_words() -> None:
    assert NAMES.keys() == SIGNALS.keys()
    assert METRICS.keys() == {metric for signal in SIGNALS.values() for metric in signal.metrics}


def test_the_alerts_line_names_what_passed_its_limit() -> None:
    text = summary(SIGNALS["replay_backlog"], SignalLevel.CRITICAL, {"backlog": 81, "age_p95_s": 10})
    assert text == "Fila de reenvio, crítico: itens na fila 81 (limite: mais de 80)."
    text = summary(SIGNALS["correlation_id_coverage"], SignalLevel.WARNING, {"coverage": 0.9912})
    assert text == "Pedidos com código de acompanhamento, atenção: cobertura 99,1 % (limite: menos de 99,5 %)."
    assert [quantity(v, Unit.SECONDS) for v in (59, 90)] == ["59 s", "1,5 min"]
    assert quantity(501, Unit.MILLISECONDS) == "501 ms"


def test_the_alert_of_a_signal_goes_the_way_of_its_family() -> None:
    assert [family_of(t) for t in ("ack_to_enqueue_gap", "takeover_sla_breach_rate", "replay_manual_backlog", "other")] == [
        "gap",
        "takeover",
        "replay_backlog",
        "default",
    ]
    signal = limited(SIGNALS["drill_result"], {})
    assert [signal.severity(level) for level in (SignalLevel.WARNING, SignalLevel.CRITICAL)] == ["warning", "critical"]
    assert (SIGNALS["replay_backlog"].severity(SignalLevel.CRITICAL), signal.owner) == ("high", "platform,superadmin")
