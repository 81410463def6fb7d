"""Every reason and every state has its sentences, in both languages."""

import re

import pytest

from app.domain.reason_texts import REASONS, STATES
from app.domain.reasons import Explanation, Reason, explain
from app.domain.states import State


def test_every_reason_has_sentences_and_no_sentence_is_left_over() -> None:
    assert set(REASONS) == {r.value for r in Reason}


def test_every_state_has_sentences_and_no_sentence_is_left_over() -> None:
    assert set(STATES) == {s.value for s in State}


@pytest.mark.parametrize("row", [*REASONS.values(), *STATES.values()])
def test_sentences_are_whole_and_say_what_is_next(row: tuple[str, ...]) -> None:
    assert len(row) == 4
    for sentence in row:
        assert re.match(r"^[A-ZÁÀÂÉÊÍÓÔÕÚ].*\.$", sentence), sentence
    assert row[0] != row[2]


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_fits_its_column(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z][a-z_]{2,59}", reason)


def test_the_reason_explains_and_without_one_the_state_does() -> None:
    assert explain(State.BLOCKED_UNCONFIRMED, Reason.NOT_CONFIRMED) == Explanation(
        "Falta a confirmação explícita.", "Peça que a família responda CONFIRMAR."
    )
    assert explain(State.EXPIRED_MANUAL) == explain(State.EXPIRED_MANUAL, "code_of_an_older_version")
    assert explain(State.EXPIRED_MANUAL, None, "en").next_action == "Talk to the family before doing it again."
    assert explain("unheard_of", None, "fr") == explain(State.MANUAL_REVIEW_REQUIRED)
