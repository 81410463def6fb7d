"""Facts about the languages of the screens."""

import pytest

from app.domain.states import State
from app.web.console.sentences import STATE_NAMES
from app.web.i18n import LOCALES, environment, translations
from scripts.messages import gaps, read, wanted


@pytest.mark.parametrize("locale", LOCALES)
def test_a_catalog_has_every_message_and_no_other(locale: str) -> None:
    assert gaps(locale) == []
    assert len(read(locale)) > 300


@pytest.mark.parametrize("locale", LOCALES)
def test_a_translation_keeps_the_values_of_its_message(locale: str) -> None:
    for message in read(locale):
        assert message.python_format is False or not list(message.check()), message.id


def test_messages_of_macros_and_scripts_are_looked_for_too() -> None:
    ids = {m.id for m in wanted()}
    assert "Show now" in ids  # templates/_macros
    assert "Paused: %(n)d changes" in ids  # said by a script, in words.py


@pytest.mark.parametrize("locale", LOCALES)
def test_every_state_has_a_word(locale: str) -> None:
    assert set(State) == set(STATE_NAMES)
    assert all(translations(locale).gettext(word) for word, _ in STATE_NAMES.values())


@pytest.mark.parametrize(("locale", "button", "tag"), [("pt_BR", "Entrar", "pt-BR"), ("en", "Sign in", "en")])
def test_the_sign_in_form_speaks_its_language(locale: str, button: str, tag: str) -> None:
    page = environment(locale).get_template("login.html")
    html = page.render(error=None, next="/", csrf_token="token", theme="auto")
    assert f'lang="{tag}"' in html
    assert f">{button}</button>" in html
