"""Only CONFIRMAR, CONFIRMADO and CONFIRMA confirm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.confirmation import CONFIRMING_WORDS, fold, is_courtesy, is_explicit_confirmation


@pytest.mark.parametrize(
    "text",
    [
        "CONFIRMAR",
        "confirmar",
        "Confirmado",
        "CONFIRMA",
        " confirmar ",
        "Confirmar.",
        "CONFIRMADO!!",
        "\nConfirma\t",
        "cónfirmár",
        "\uff23\uff2f\uff2e\uff26\uff29\uff32\uff2d\uff21\uff32",  # full-width letters
        "confirmar !",
    ],
)
def test_the_three_words_confirm_in_any_case_and_with_accents(text: str) -> None:
    assert is_explicit_confirmation(text)


@pytest.mark.parametrize(
    "text",
    [
        "ok", "sim", "👍", "✅", "", " ", "claro", "pode ser", "confirmo", "confirmada",
        "confirmar?", "não confirmar", "confirmar sim",
        "quero confirmar", "CONFIRMAR CONFIRMAR", "con firmar", "confirm", "yes", ".", "confirmar" + "!" * 100, "confirmar 👍",
    ],
)  # fmt: skip
def test_nothing_else_confirms(text: str) -> None:
    assert not is_explicit_confirmation(text)


@given(text=st.text(max_size=80))
def test_any_text_is_answered_and_only_a_confirming_word_says_yes(text: str) -> None:
    if is_explicit_confirmation(text):
        assert fold(text).strip(" .!,;:") in CONFIRMING_WORDS


@pytest.mark.parametrize(
    "text",
    [
        "obrigada!",
        "Muito obrigado 🙏🏽",
        "obg",
        "valeu!!",
        "obrigada, bom dia",
        "até amanhã!",
        "👍",
        "😊",
        "perfeito, obrigada",
        "oi",
    ],
)
def test_thanks_and_greetings_change_nothing(text: str) -> None:
    assert is_courtesy(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "ok", "sim", "não", "obrigada mas não posso", "obrigada, espera", "não, obrigada", "CONFIRMAR", "oito", "obg?",
        "bom dia, quero cancelar", "beijos " * 20, "👎", "❌", "🙅", "😢",
    ],
)  # fmt: skip
def test_whatever_may_mean_something_must_be_read(text: str) -> None:
    assert not is_courtesy(text)
