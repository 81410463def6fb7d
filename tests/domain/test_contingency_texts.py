"""What families read in safe mode: nothing was changed, by when a person answers, and no technical word."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.business_hours import Hours
from app.domain.contingency_texts import HOURS_NAMES, INTENTS, TEXTS, Notice, answer_by, faults, notice

HOURS = Hours()
MONDAY_10 = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
MONDAY_20 = MONDAY_10 + timedelta(hours=10)
FRIDAY_1730 = datetime(2026, 11, 27, 20, 30, tzinfo=UTC)


def said(intent: str, now: datetime = MONDAY_10, phone: str | None = "(11) 4000-0000", **edited: dict[str, str]) -> Notice:
    return notice(intent, hours=HOURS, now=now, received_at=now - timedelta(minutes=5), phone=phone, edited=edited)


@pytest.mark.story("S-PC-03-003")
def test_a_wish_to_reschedule_hears_that_the_old_time_holds() -> None:
    assert said("reschedule").text == (
        "Recebemos seu pedido de mudança. Por enquanto, vale o horário já marcado. "
        "Só mude a rotina depois da nossa confirmação, até 11:00. Telefone: (11) 4000-0000."
    )


def test_a_cancellation_says_when_it_came_and_that_it_is_not_done() -> None:
    assert "às 09:55. Ainda não foi concluído." in said("cancel").text


def test_outside_opening_hours_the_answer_comes_after_the_next_opening() -> None:
    text = said("schedule", MONDAY_20).text
    assert "a clínica está fechada agora" in text
    assert "até terça-feira, 24/11 às 08:30" in text
    assert said("schedule", MONDAY_20).template.startswith("schedule/closed ")


def test_an_hour_of_opening_time_goes_over_the_weekend() -> None:
    assert answer_by(HOURS, FRIDAY_1730) == datetime(2026, 11, 30, 11, 30, tzinfo=UTC)
    never = Hours(week={})
    assert answer_by(never, MONDAY_10) == MONDAY_10 + timedelta(days=1)


@pytest.mark.parametrize("intent", INTENTS)
def test_without_a_number_no_sentence_speaks_of_one(intent: str) -> None:
    text = said(intent, phone=None).text
    assert "elefone" not in text
    assert "Clínica:" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("intent", INTENTS)
@pytest.mark.parametrize("kind", HOURS_NAMES)
def test_no_technical_word_reaches_a_family(intent: str, kind: str) -> None:
    assert not re.search(r"(?i)redis|servidor|modo seguro|banco de dados|autis|tdah|erro\b|\berror", TEXTS[intent][kind])
    assert "{hora}" in TEXTS[intent][kind]


def test_an_intent_without_a_text_gets_the_general_one_and_an_edited_text_wins() -> None:
    assert said("follow_up").text.startswith("Sua mensagem chegou.")
    edited = said("schedule", schedule={"open": "Até {hora}, {tel}."})
    assert edited.text == "Até 11:00, (11) 4000-0000."
    assert edited.template != said("schedule").template
    assert said("schedule", MONDAY_20, schedule={"open": "Até {hora}."}).text == said("schedule", MONDAY_20).text


@pytest.mark.parametrize(
    ("texts", "path"),
    [
        ([], ""),
        ({"holiday": {}}, "/holiday"),
        ({"cancel": "x"}, "/cancel"),
        ({"cancel": {"night": "{hora}"}}, "/cancel/night"),
        ({"cancel": {"open": " "}}, "/cancel/open"),
        ({"cancel": {"open": 1}}, "/cancel/open"),
        ({"cancel": {"open": "{hora} {nome}"}}, "/cancel/open"),
        ({"cancel": {"open": "Até logo."}}, "/cancel/open"),
        ({"cancel": {"open": "x" * 1001}}, "/cancel/open"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(texts: object, path: str) -> None:
    assert [p for p, _ in faults(texts)] == [path]


def test_a_good_text_and_one_that_is_taken_back_are_fine() -> None:
    assert faults({"cancel": {"open": "Até {hora}. {tel} {recebido}", "closed": None}}) == []
