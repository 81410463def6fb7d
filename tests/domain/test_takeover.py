"""The takeover's SLA clock and its states, in and out of business hours."""

from datetime import UTC, date, datetime, timedelta
from itertools import product

import pytest

from app.domain.business_hours import Hours
from app.domain.takeover import (
    LEVEL_OF_STATE,
    SlaPolicy,
    TakeoverEvent,
    TakeoverLevel,
    TakeoverState,
    due_event,
    next_due_at,
    sla_clock,
    step,
)

S, E = TakeoverState, TakeoverEvent
POLICY = SlaPolicy()
TABLE: dict[TakeoverState, dict[TakeoverEvent, TakeoverState]] = {
    S.OPEN: {E.START: S.IN_PROGRESS, E.WARN: S.SLA_WARNING, E.BREACH: S.SLA_BREACHED},
    S.IN_PROGRESS: {E.WARN: S.SLA_WARNING, E.BREACH: S.SLA_BREACHED},
    S.SLA_WARNING: {E.BREACH: S.SLA_BREACHED},
    S.SLA_BREACHED: {E.ESCALATE: S.ESCALATED},
    S.ESCALATED: {},
    S.RESOLVED: {},
}
for _state in set(S) - {S.RESOLVED}:
    TABLE[_state] |= {E.ANSWER: S.IN_PROGRESS, E.CLOSE: S.RESOLVED}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(("state", "event"), list(product(S, E)))
def test_every_cell_of_the_table(state: TakeoverState, event: TakeoverEvent) -> None:
    assert step(state, event) is TABLE[state].get(event)


@pytest.mark.parametrize(
    ("opened", "due"),
    [
        ("2026-11-23T15:00", "2026-11-23T15:15"),
        ("2026-11-23T20:55", "2026-11-24T11:10"),
        ("2026-11-23T21:00", "2026-11-24T11:30"),
        ("2026-11-23T05:00", "2026-11-23T11:30"),
        ("2026-11-21T15:00", "2026-11-23T11:30"),
    ],
)
def test_the_clock_runs_in_business_hours_and_starts_with_the_next_shift_outside(opened: str, due: str) -> None:
    clock = sla_clock(utc(opened), Hours(), POLICY)
    assert clock.due_at == utc(due)
    assert clock.warn_at == utc(due) - timedelta(minutes=5)
    assert clock.escalate_at == utc(due) + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("opened", "moments"),
    [
        ("2026-11-23T20:44", ("2026-11-23T20:54", "2026-11-23T20:59", "2026-11-24T11:14")),
        ("2026-11-23T20:48", ("2026-11-23T20:58", "2026-11-24T11:03", "2026-11-24T11:18")),
        ("2026-11-27T20:50", ("2026-11-27T21:00", "2026-11-30T11:05", "2026-11-30T11:20")),
    ],
)
def test_warning_and_escalation_wait_while_the_clinic_is_closed(opened: str, moments: tuple[str, ...]) -> None:
    """Shortly before closing at six: fifteen minutes of waiting are fifteen minutes of open time, whatever the step."""
    clock = sla_clock(utc(opened), Hours(), POLICY)
    assert (clock.warn_at, clock.due_at, clock.escalate_at) == tuple(utc(m) for m in moments)


def test_a_holiday_moves_the_clock_to_the_next_working_day() -> None:
    hours = Hours(holidays=frozenset({date(2026, 11, 23)}))
    assert sla_clock(utc("2026-11-23T15:00"), hours, POLICY).due_at == utc("2026-11-24T11:30")


def test_a_clinic_in_another_timezone_has_its_own_night() -> None:
    assert sla_clock(utc("2026-11-23T21:30"), Hours(timezone="America/Manaus"), POLICY).due_at == utc("2026-11-23T21:45")


def test_a_clinic_without_shifts_is_not_an_excuse() -> None:
    assert sla_clock(utc("2026-11-23T15:00"), Hours(week={}), POLICY).due_at == utc("2026-11-23T15:15")
    last = Hours(week={0: Hours().week[0]}, holidays=frozenset(date(2026, 11, 23) + timedelta(weeks=n) for n in range(1, 20)))
    assert sla_clock(utc("2026-11-23T20:55"), last, POLICY).due_at == utc("2026-11-23T21:10")


def test_a_short_limit_warns_at_once_and_never_before_it_was_opened() -> None:
    clock = sla_clock(utc("2026-11-23T15:00"), Hours(), SlaPolicy(open_hours=timedelta(minutes=3)))
    assert clock.warn_at == utc("2026-11-23T15:00")


def run_clock(state: TakeoverState, minute: float) -> list[TakeoverEvent]:
    clock = sla_clock(utc("2026-11-23T15:00"), Hours(), POLICY)
    events = []
    while (event := due_event(state, clock, utc("2026-11-23T15:00") + timedelta(minutes=minute))) is not None:
        events.append(event)
        state = TABLE[state][event]
    return events


@pytest.mark.parametrize(
    ("state", "minute", "events"),
    [
        (S.OPEN, 9.9, []),
        (S.OPEN, 10, [E.WARN]),
        (S.IN_PROGRESS, 10, [E.WARN]),
        (S.SLA_WARNING, 14, []),
        (S.SLA_WARNING, 15, [E.BREACH]),
        (S.OPEN, 15, [E.BREACH]),
        (S.SLA_BREACHED, 30, [E.ESCALATE]),
        (S.OPEN, 600, [E.BREACH, E.ESCALATE]),
        (S.ESCALATED, 600, []),
        (S.RESOLVED, 600, []),
    ],
)
def test_the_clock_warns_breaches_and_escalates_on_its_minute(
    state: TakeoverState, minute: float, events: list[TakeoverEvent]
) -> None:
    assert run_clock(state, minute) == events


def test_the_next_call_of_the_clock_is_known() -> None:
    clock = sla_clock(utc("2026-11-23T15:00"), Hours(), POLICY)
    assert [next_due_at(s, clock) for s in S] == [
        clock.warn_at,
        clock.warn_at,
        clock.due_at,
        clock.escalate_at,
        None,
        None,
    ]


def test_each_breach_goes_one_level_up() -> None:
    assert set(LEVEL_OF_STATE) == set(S)
    assert [LEVEL_OF_STATE[s] for s in (S.OPEN, S.SLA_BREACHED, S.ESCALATED)] == list(TakeoverLevel)
