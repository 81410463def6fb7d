"""The escalation ladder: every minute of it, what downtime merges, and what an ACK stops."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.alerts import (
    ROUTING,
    Action,
    AlertResult,
    LadderPolicy,
    Level,
    Raised,
    Route,
    Step,
    acknowledge,
    due,
    is_flapping,
    is_for_everybody,
    ladder_of,
    level_at,
    next_recipient,
    next_step,
    operational_result,
    operational_steps,
    safe_deadline,
    steps,
    storms,
)
from tests.domain.cases import NOON as T0


def at(minutes: float) -> timedelta:
    return timedelta(minutes=minutes)


def keys(found: tuple[Step, ...]) -> list[str]:
    return [s.key for s in found]


@pytest.mark.story("S-PC-03-001")
def test_the_ladder_is_the_contracts() -> None:
    assert [(s.minute, s.key) for s in steps(T0)] == [
        (0, "send:ops:1"),
        (0, "send:superadmin_whatsapp:1"),
        (5, "raise_warning"),
        (5, "send:superadmin_whatsapp:2"),
        (10, "raise_high"),
        (10, "send:superadmin_whatsapp:3"),
        (15, "enter_safe_mode"),
        (15, "send:superadmin_whatsapp:4"),
        (20, "send:superadmin_whatsapp:5"),
        (25, "send:superadmin_whatsapp:6"),
        (30, "send:superadmin_whatsapp:7"),
    ]
    assert all(s.due_at == T0 + at(s.minute) for s in steps(T0))
    assert safe_deadline(T0) == T0 + at(15)


@pytest.mark.parametrize(
    ("minutes", "level"),
    [
        (0, Level.RAISED),
        (4.99, Level.RAISED),
        (5, Level.WARNING),
        (10, Level.HIGH),
        (14.99, Level.HIGH),
        (15, Level.SAFE_MODE),
        (99, Level.SAFE_MODE),
    ],
)
def test_the_level_climbs_at_5_10_and_15_minutes(minutes: float, level: Level) -> None:
    assert level_at(T0, T0 + at(minutes)) is level


@pytest.mark.parametrize(
    "policy",
    [{"warning_minute": 0}, {"high_minute": 5}, {"safe_mode_minute": 10}, {"resend_minutes": (5, 5)}, {"resend_minutes": (0, 5)}],
)
def test_a_ladder_that_does_not_climb_is_refused(policy: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"ladder climbs|rising order"):
        LadderPolicy(**policy)  # type: ignore[arg-type]


def test_at_each_tick_of_a_healthy_system_each_step_runs_once_on_its_minute() -> None:
    done: list[str] = []
    ran: list[tuple[int, str]] = []
    for minute in range(40):
        found = due(steps(T0), done, T0 + at(minute))
        assert found.merged == ()
        ran += [(minute, s.key) for s in found.run]
        done += keys(found.run)
    assert ran == [(s.minute, s.key) for s in steps(T0)]


@pytest.mark.story("S-PC-03-001")
def test_after_downtime_missed_messages_become_one_but_no_change_of_state_is_skipped() -> None:
    found = due(steps(T0), ["send:ops:1", "send:superadmin_whatsapp:1"], T0 + at(17))
    assert keys(found.run) == ["raise_warning", "raise_high", "enter_safe_mode", "send:superadmin_whatsapp:4"]
    assert keys(found.merged) == ["send:superadmin_whatsapp:2", "send:superadmin_whatsapp:3"]


@given(ticks=st.lists(st.floats(0, 60), min_size=1, max_size=12))
def test_whenever_the_system_is_up_every_step_ends_run_or_merged_and_states_always_run(ticks: list[float]) -> None:
    run: list[str] = []
    merged: list[str] = []
    for tick in [*sorted(ticks), 61]:
        found = due(steps(T0), [*run, *merged], T0 + at(tick))
        run += keys(found.run)
        merged += keys(found.merged)
    everything = keys(steps(T0))
    assert sorted(run + merged) == sorted(everything)
    assert {"raise_warning", "raise_high", "enter_safe_mode", "send:ops:1"} <= set(run)


def test_the_next_step_is_known_until_the_ladder_is_climbed() -> None:
    ahead = next_step(steps(T0), [], T0 + at(11))
    assert ahead is not None
    assert ahead.key == "enter_safe_mode"
    after_done = next_step(steps(T0), ["enter_safe_mode"], T0 + at(11))
    assert after_done is not None
    assert after_done.key == "send:superadmin_whatsapp:4"
    assert next_step(steps(T0), [], T0 + at(30)) is None


@pytest.mark.story("S-PC-03-001")
@pytest.mark.parametrize(
    ("seconds", "result", "prevents"),
    [
        (0, AlertResult.ACK_RECEIVED, True),
        (14 * 60 + 59, AlertResult.ACK_RECEIVED, True),
        (15 * 60, AlertResult.ACK_TIMEOUT_ESCALATED, False),
    ],
)
def test_an_ack_before_15_minutes_prevents_safe_mode_and_one_at_15_does_not(
    seconds: int, result: AlertResult, prevents: bool
) -> None:
    effect = acknowledge(T0, T0 + timedelta(seconds=seconds), [])
    assert (effect.result, effect.prevents_safe_mode, effect.delay_s) == (result, prevents, float(seconds))
    stops_safe_mode = any(s.action is Action.ENTER_SAFE_MODE for s in effect.stopped)
    assert stops_safe_mode is prevents


def test_an_ack_stops_every_unsent_message_also_one_that_is_due() -> None:
    done = ["send:ops:1", "send:superadmin_whatsapp:1", "raise_warning"]
    effect = acknowledge(T0, T0 + at(12), done)
    assert keys(effect.stopped) == [f"send:superadmin_whatsapp:{n}" for n in (2, 3)] + ["enter_safe_mode"] + [
        f"send:superadmin_whatsapp:{n}" for n in (4, 5, 6, 7)
    ]


def test_passing_it_on_reaches_the_next_who_has_not_passed_it_on() -> None:
    assert next_recipient(["ana", "bia", "caio"], ["ana"]) == "bia"
    assert next_recipient(["ana"], ["ana"]) is None


@pytest.mark.story("S-PC-04-002")
@pytest.mark.parametrize(
    ("acked", "now", "result"),
    [
        (None, 10, None),
        (None, 10.01, AlertResult.ALERT_FIRED_NO_ACK_ESCALATED),
        (10, 60, AlertResult.ALERT_FIRED_ACKNOWLEDGED),
        (10.01, 60, AlertResult.ALERT_FIRED_NO_ACK_ESCALATED),
    ],
)
def test_an_operational_alert_is_acknowledged_in_its_sla_or_escalated(
    acked: float | None, now: float, result: AlertResult | None
) -> None:
    ack_at = None if acked is None else T0 + at(acked)
    assert operational_result(T0, ack_at, T0 + at(now), sla_min=10) is result


def test_the_routing_matrix_is_the_contracts() -> None:
    assert ROUTING["critical"].channels == ("ops", "superadmin_whatsapp")
    assert [
        (ROUTING[k].fallback, ROUTING[k].owner, ROUTING[k].ack_sla_min) for k in ("critical", "gap", "takeover", "replay_backlog")
    ] == [
        ("superadmin_sms", "superadmin", 15),
        ("email", "sre", 10),
        ("email", "sre", 10),
        ("email", "sre,superadmin", 15),
    ]


def test_a_storm_of_500_alerts_of_3_kinds_is_3_messages_and_hides_none() -> None:
    raised = [Raised(alert_id=f"{i:03}", group=f"kind-{i % 3}", at=T0 + timedelta(milliseconds=100 * i)) for i in range(500)]
    found = storms(raised)
    assert [s.group for s in found] == ["kind-0", "kind-1", "kind-2"]
    assert sorted(a for s in found for a in s.alert_ids) == [r.alert_id for r in raised]


def test_a_storm_goes_on_until_a_minute_passes_without_its_kind() -> None:
    raised = [Raised(alert_id=str(i), group="k", at=T0 + timedelta(seconds=s)) for i, s in enumerate((0, 59, 118, 178, 179))]
    assert [s.alert_ids for s in storms(reversed(raised))] == [("0", "1", "2"), ("3", "4")]


def test_an_alert_that_goes_on_and_off_is_flapping_until_it_rests() -> None:
    changes = [T0 + at(m) for m in (0, 2, 4, 6)]
    assert is_flapping(changes, T0 + at(6))
    assert not is_flapping(changes, T0 + at(5))
    assert not is_flapping(changes, T0 + at(15))


# --- ladders by route ---------------------------------------------------------------------------------------------------


def test_a_routes_first_channel_is_primary_the_second_is_resent_and_the_others_hear_it_once() -> None:
    ladder = ladder_of(Route(channels=("siren", "phone", "mail"), fallback="sms", owner="ops", ack_sla_min=15))
    assert (ladder.primary, ladder.redundant, ladder.fallback, ladder.also) == ("siren", "phone", "sms", ("mail",))
    sends = [s for s in steps(T0, ladder) if s.action is Action.SEND]
    assert [(s.channel, s.minute) for s in sends][:4] == [("siren", 0), ("phone", 0), ("mail", 0), ("phone", 5)]


@pytest.mark.parametrize(
    ("channels", "primary", "redundant", "also"),
    [
        (("phone",), "phone", "superadmin_whatsapp", ()),
        (("superadmin_whatsapp", "ops"), "ops", "superadmin_whatsapp", ()),
        (("ops", "mail", "superadmin_whatsapp"), "ops", "superadmin_whatsapp", ("mail",)),
        (("ops", "phone", "ops"), "ops", "phone", ()),
        (("superadmin_whatsapp",), "superadmin_whatsapp", "superadmin_whatsapp", ()),
    ],
)
def test_what_is_resent_does_not_hang_on_the_order_or_on_one_channel(
    channels: tuple[str, ...], primary: str, redundant: str, also: tuple[str, ...]
) -> None:
    ladder = ladder_of(Route(channels=channels, fallback="sms", owner="ops", ack_sla_min=15))
    assert (ladder.primary, ladder.redundant, ladder.also) == (primary, redundant, also)
    resent = [s for s in steps(T0, ladder) if s.action is Action.SEND and s.channel == redundant]
    assert [s.attempt for s in resent] == list(range(1, 8))


def test_from_level_high_on_a_message_is_for_everybody() -> None:
    found = {s.minute: is_for_everybody(s) for s in steps(T0) if s.action is Action.SEND and s.channel == "superadmin_whatsapp"}
    assert found == {0: False, 5: False, 10: True, 15: True, 20: True, 25: True, 30: True}


def test_a_route_needs_a_channel() -> None:
    with pytest.raises(ValueError, match="channel"):
        ladder_of(Route(channels=(), fallback="sms", owner="ops", ack_sla_min=15))


def test_an_operational_alert_is_escalated_at_its_sla() -> None:
    found = operational_steps(T0, ROUTING["gap"])
    assert [(s.key, s.minute) for s in found] == [
        ("send:ops_chat:1", 0),
        ("escalate", 10),
        ("send:superadmin_whatsapp:1", 10),
    ]
    loud = operational_steps(T0, Route(channels=("superadmin_whatsapp",), fallback="sms", owner="ops", ack_sla_min=3))
    assert [s.key for s in loud] == ["send:superadmin_whatsapp:1", "escalate", "send:superadmin_whatsapp:2"]
