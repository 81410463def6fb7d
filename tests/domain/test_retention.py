"""What is kept how long, and what is left of it."""

from datetime import timedelta

import pytest

from app.domain.retention import LIMITS, Periods, faults, minimised, periods, veiled


def test_by_default_words_stay_a_day_and_content_a_week() -> None:
    assert (periods({}).minimise, periods({"retention": None}).remove) == (timedelta(hours=24), timedelta(days=7))
    assert periods({"retention": {"minimise_h": 2, "remove_d": 1, "events_d": None}}) == Periods(
        minimise=timedelta(hours=2), remove=timedelta(days=1)
    )


def test_every_setting_names_a_period() -> None:
    assert {field for field, _, _ in LIMITS.values()} == set(Periods.__dataclass_fields__)


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"minimise_h": 0}, "/retention/minimise_h"),
        ({"remove_d": 99_999}, "/retention/remove_d"),
        ({"alerts_d": "30"}, "/retention/alerts_d"),
        ({"alerts_d": True}, "/retention/alerts_d"),
        ({"forever": 1}, "/retention/forever"),
    ],
)
def test_what_cannot_be_used_is_named(given: dict[str, object], pointer: str) -> None:
    assert [found for found, _ in faults(given)] == [pointer]


def test_good_settings_have_no_fault() -> None:
    assert list(faults({"minimise_h": 24, "remove_d": None})) == []


def test_a_minimised_payload_has_ids_times_and_choices_but_no_words() -> None:
    payload = {
        "text": "Meu filho ..",
        "appointment_id": "a-1",
        "start": "2026-11-24T10:00:00Z",
        "answer": "yes",
        "target": {"x": 1},
    }
    assert minimised(payload) == {"appointment_id": "a-1", "start": "2026-11-24T10:00:00Z", "answer": "yes"}


@pytest.mark.parametrize(
    ("plain", "kept"), [("Maria", "M***"), ("+5511987654321", "***4321"), ("1234", "1***"), ("", ""), (None, None)]
)
def test_names_and_numbers_are_veiled(plain: str | None, kept: str | None) -> None:
    assert veiled(plain) == kept
