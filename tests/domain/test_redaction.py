"""What must not leave the product: by the name of its field, and by its shape wherever it stands."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import redaction
from app.domain.redaction import (
    DEPTH_MAX,
    ITEMS_MAX,
    REDACTED,
    is_open,
    is_private,
    is_word,
    names_pattern,
    redact,
    redact_text,
    without_names,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("liga para +55 11 98765-4321 hoje", "liga para [phone] hoje"),
        ("de 5511987654321@s.whatsapp.net", "de [phone]"),
        ("(11) 98765-4321", "[phone]"),
        ("ana.souza@clinica.com.br escreveu", "[email] escreveu"),
        ("CPF 123.456.789-09", "CPF [document]"),
        ("GET /ack/AbCdEf123456 200", "GET /ack/[token] 200"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [token]"),
        ("redis://:hunter2@host:6379/0", "redis://[secret]@host:6379/0"),
        ("nothing private: order 12 of lane c-maria", "nothing private: order 12 of lane c-maria"),
    ],
)
def test_what_looks_private_is_replaced_by_its_kind(text: str, shown: str) -> None:
    assert redact_text(text) == shown


@given(st.from_regex(redaction._PLAIN, fullmatch=True) | st.from_regex(r"[0-9a-z+ ().@:T-]{4,40}", fullmatch=True) | st.text())
def test_what_is_let_through_at_a_glance_is_what_no_pattern_matches(text: str) -> None:
    assert redact_text(text) == redaction._redact(text)


@given(st.text("aZ_-159", max_size=40) | st.text("15-", min_size=8, max_size=20) | st.text())
def test_what_passes_for_a_word_is_what_no_pattern_matches(text: str) -> None:
    assert not is_word(text) or redaction._redact(text) == text


def test_private_fields_are_hidden_whole_and_empty_ones_stay_visible_as_empty() -> None:
    found = redact({"profile_name": "Maria", "text": "", "contact_id": "c-maria", "access_token": "x", "phone": None, "n": 1.5})
    assert found == {
        "profile_name": REDACTED,
        "text": "",
        "contact_id": "c-maria",
        "access_token": REDACTED,
        "phone": None,
        "n": 1.5,
    }
    assert is_private("Guardian_Phone")
    assert not is_private("commit_order")
    assert is_open(("commit_order", "contact_id"))
    assert not is_open(("commit_order", "guardian_phone"))
    assert not is_open(("5511987654321",))


def test_lists_and_depth_are_bounded_and_say_so() -> None:
    assert redact(list(range(ITEMS_MAX + 3)))[-1] == "[3 more]"
    assert redact(("a", {"b"})) == ["a", ["b"]]
    deep: Any = "x"
    for _ in range(DEPTH_MAX + 1):
        deep = {"in": deep}
    assert "[too deep]" in str(redact(deep))


def test_anything_else_is_shown_as_text() -> None:
    assert redact(datetime(2026, 11, 23, tzinfo=UTC)) == "2026-11-23 00:00:00+00:00"


def test_known_names_are_hidden_in_texts_and_ids_stay() -> None:
    names = names_pattern(["Maria de Souza", "Pedro", "Jô"])
    told = {"note": ["a mãe MARIA ligou", ("de Pedro",)], "object": "contacts/c-maria", "n": 1, "to": "5511987654321"}
    shown = {"note": ["a mãe [name] ligou", ["de [name]"]], "object": "contacts/c-maria", "n": 1, "to": "[phone]"}
    assert without_names(told, names) == shown
    whole = names_pattern(["Maria de Souza"], whole=True)
    assert without_names("Maria de Souza, Maria", whole) == "[name], Maria"


def test_without_names_only_numbers_and_secrets_go() -> None:
    assert names_pattern(["Jô", ""]) is None
    assert without_names("Jô ligou de +55 11 98765-4321", None) == "Jô ligou de [phone]"
