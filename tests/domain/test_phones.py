"""One family is one contact, however a provider writes its number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.phones import e164, from_whatsapp_id, is_group

MARIA = "+5511987654321"


@pytest.mark.parametrize(
    "identifier",
    [
        "5511987654321",
        "551187654321",
        "+5511987654321",
        "5511987654321@s.whatsapp.net",
        "551187654321@s.whatsapp.net",
        "5511987654321@c.us",
        "5511987654321:12@s.whatsapp.net",
        "5511987654321_1:3@s.whatsapp.net",
        " 5511987654321@S.WHATSAPP.NET ",
    ],
)
def test_every_form_of_a_brazilian_mobile_is_the_same_number(identifier: str) -> None:
    assert from_whatsapp_id(identifier) == MARIA


@pytest.mark.parametrize("text", ["(11) 98765-4321", "11 8765-4321", "+55 11 98765 4321", "5511987654321", "011 98765-4321"])
def test_numbers_as_people_write_them(text: str) -> None:
    assert e164(text) == MARIA


def test_a_landline_gets_no_ninth_digit() -> None:
    assert from_whatsapp_id("551134567890") == "+551134567890"


def test_numbers_of_other_countries_stay_as_they_are() -> None:
    assert from_whatsapp_id("16505551111") == "+16505551111"
    assert from_whatsapp_id("351912345678") == "+351912345678"
    assert e164("912 345 678", region="PT") == "+351912345678"


@pytest.mark.parametrize(
    "identifier",
    [
        None, "", "abc", "123@lid", "12036304@g.us", "status@broadcast", "1@newsletter", "5511987654321@g.us", "0", "55",
        "9" * 17, "5511987654321@evil.example", "٥٥١١٩٨٧٦٥٤٣٢١", "55 11 98765-4321", "1" * 500,
    ],
)  # fmt: skip
def test_what_is_nobodys_number_is_none(identifier: str | None) -> None:
    assert from_whatsapp_id(identifier) is None


@pytest.mark.parametrize("text", [None, "", "oi", "1", "+999123", "+55 11", "1" * 60])
def test_what_cannot_be_a_number_is_none(text: str | None) -> None:
    assert e164(text) is None


def test_groups_broadcasts_and_channels_are_nobodys_conversation() -> None:
    assert is_group("1203-1@g.us")
    assert is_group("status@broadcast")
    assert is_group("1@newsletter")
    assert not is_group("5511987654321@s.whatsapp.net")
    assert not is_group("1@lid")
    assert not is_group(None)


@given(st.text(max_size=50))
def test_any_text_gives_a_number_that_stays_itself_or_none(text: str) -> None:
    for found in (e164(text), from_whatsapp_id(text)):
        assert found is None or (e164(found) == found and found.startswith("+") and found[1:].isdigit())
