"""Day-before confirmations on the clinic's wall clock; nothing to a family at night, nothing skipped for staff."""

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.business_hours import Hours
from app.domain.d1 import DAY_ENDS, DAY_STARTS, D1Action, D1Policy, due, is_late, next_due_at, plan

A = D1Action
POLICY = D1Policy()
HOURS = Hours()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


START = utc("2026-11-25T13:00")
STEPS = plan(START, HOURS, POLICY)


def test_the_day_before_runs_by_the_contracts_wall_clock() -> None:
    assert [(s.action, s.due_at) for s in STEPS] == [
        (A.ASK_FAMILY, utc("2026-11-24T12:00")),
        (A.OPEN_TASK, utc("2026-11-24T19:00")),
        (A.ALERT_STAFF, utc("2026-11-24T20:00")),
        (A.NOTIFY_OPENING, utc("2026-11-25T10:30")),
    ]


def test_the_day_is_the_clinics_own_and_not_utcs() -> None:
    late_evening = utc("2026-11-26T00:30")  # still the 25th in São Paulo
    assert plan(late_evening, HOURS, POLICY)[0].due_at == utc("2026-11-24T12:00")
    assert plan(START, Hours(timezone="America/Manaus"), POLICY)[0].due_at == utc("2026-11-24T13:00")


def test_a_clock_change_moves_utc_and_not_the_wall_clock() -> None:
    new_york = Hours(timezone="America/New_York", week=dict.fromkeys(range(7), ((time(8), time(18)),)))
    steps = plan(utc("2026-11-01T15:00"), new_york, POLICY)  # the clock goes back that night
    assert [s.due_at for s in steps] == [
        utc("2026-10-31T13:00"),
        utc("2026-10-31T20:00"),
        utc("2026-10-31T21:00"),
        utc("2026-11-01T12:30"),
    ]


def test_clinics_that_open_at_other_hours_are_told_half_an_hour_before() -> None:
    early = Hours(week=dict.fromkeys(range(7), ((time(6), time(12)),)))
    assert plan(START, early, POLICY)[3].due_at == utc("2026-11-25T08:30")
    assert plan(utc("2026-11-25T10:00"), HOURS, POLICY)[3].due_at == utc("2026-11-25T09:30"), "before the early appointment"
    assert plan(utc("2026-11-28T13:00"), HOURS, POLICY)[3].due_at == utc("2026-11-28T12:30"), "closed on Saturdays"


@pytest.mark.parametrize(
    ("booked", "asked", "actions"),
    [
        ("2026-11-24T10:59", "2026-11-24T12:00", [A.ASK_FAMILY, A.OPEN_TASK, A.ALERT_STAFF, A.NOTIFY_OPENING]),
        ("2026-11-24T11:59", "2026-11-24T12:59", [A.ASK_FAMILY, A.OPEN_TASK, A.ALERT_STAFF, A.NOTIFY_OPENING]),
        ("2026-11-24T12:30", "2026-11-24T13:30", [A.ASK_FAMILY, A.OPEN_TASK, A.ALERT_STAFF, A.NOTIFY_OPENING]),
        ("2026-11-24T18:00", None, [A.OPEN_TASK, A.ALERT_STAFF, A.NOTIFY_OPENING]),
        ("2026-11-24T19:00", None, [A.OPEN_TASK, A.ALERT_STAFF, A.NOTIFY_OPENING]),
        ("2026-11-24T19:01", None, [A.ALERT_STAFF, A.NOTIFY_OPENING]),
        ("2026-11-24T20:01", None, [A.NOTIFY_OPENING]),
        ("2026-11-25T10:31", None, []),
    ],
)
def test_an_appointment_booked_on_the_day_before_gets_what_is_left_of_it(
    booked: str, asked: str | None, actions: list[D1Action]
) -> None:
    """A family that has just booked is asked an hour later, by day; what was over by then is not made up for."""
    steps = plan(START, HOURS, POLICY, booked_at=utc(booked))
    assert [s.action for s in steps] == actions
    assert [s.due_at for s in steps if s.action is A.ASK_FAMILY] == ([utc(asked)] if asked else [])


@pytest.mark.parametrize(
    ("now", "run", "missed"),
    [
        ("2026-11-24T11:59", [], []),
        ("2026-11-24T12:00", [A.ASK_FAMILY], []),
        ("2026-11-24T18:59", [A.ASK_FAMILY], []),
        ("2026-11-24T19:00", [A.OPEN_TASK], [A.ASK_FAMILY]),
        ("2026-11-24T23:30", [A.OPEN_TASK, A.ALERT_STAFF], [A.ASK_FAMILY]),
        ("2026-11-25T12:59", [A.OPEN_TASK, A.ALERT_STAFF, A.NOTIFY_OPENING], [A.ASK_FAMILY]),
        ("2026-11-25T13:00", [], [A.ASK_FAMILY, A.OPEN_TASK, A.ALERT_STAFF, A.NOTIFY_OPENING]),
    ],
)
def test_after_downtime_staff_are_told_and_a_family_is_not_woken(now: str, run: list[D1Action], missed: list[D1Action]) -> None:
    found = due(STEPS, [], utc(now))
    assert [s.action for s in found.run] == run
    assert [s.action for s in found.missed] == missed


def test_what_is_done_is_not_done_again_and_late_is_marked() -> None:
    assert due(STEPS, [A.ASK_FAMILY], utc("2026-11-24T13:00")).run == ()
    ask = STEPS[0]
    assert not is_late(ask, utc("2026-11-24T15:00"))
    assert is_late(ask, utc("2026-11-24T15:01"))


def test_the_next_step_is_known() -> None:
    assert next_due_at(STEPS, [], utc("2026-11-23T00:00")) == STEPS[0].due_at
    assert next_due_at(STEPS, [A.OPEN_TASK], STEPS[0].due_at) == STEPS[2].due_at
    assert next_due_at(STEPS, [], STEPS[3].due_at) is None


@given(
    start=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),  # noqa: DTZ001 - made aware below
    ticks=st.lists(st.integers(0, 72 * 60), max_size=10),
    zone=st.sampled_from(["America/Sao_Paulo", "America/New_York", "Australia/Lord_Howe", "Pacific/Chatham"]),
)
def test_no_family_is_written_to_at_night_and_no_step_runs_twice(start: datetime, ticks: list[int], zone: str) -> None:
    hours = Hours(timezone=zone)
    start_at = start.replace(tzinfo=UTC)
    steps = plan(start_at, hours, POLICY)
    done: list[D1Action] = []
    for minutes in sorted(ticks):
        now = start_at - timedelta(hours=60) + timedelta(minutes=minutes)
        for one in due(steps, done, now).run:
            assert one.action not in done
            assert one.due_at <= now < start_at
            if one.action is A.ASK_FAMILY:
                assert DAY_STARTS <= hours.local(now).time() < DAY_ENDS
            done.append(one.action)


@pytest.mark.parametrize(
    "bad",
    [
        {"ask_from": time(13)},
        {"task_at": time(11)},
        {"alert_at": time(15)},
        {"ask_from": time(6)},
        {"task_at": time(21), "alert_at": time(22)},
    ],
)
def test_a_policy_that_would_write_at_night_or_out_of_order_is_refused(bad: dict[str, time]) -> None:
    with pytest.raises(ValueError, match=r"night|day before"):
        D1Policy(**bad)  # type: ignore[arg-type]
