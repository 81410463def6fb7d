"""Settings of providers and addresses: what could never work is said with where it stands, and nothing else is."""

from typing import Any

import pytest

from app.domain.provider_settings import ENTRIES_MAX, MASK, SECRET_MIN, TEXT_MAX, faults


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (
            "whatsapp",
            {"phone_number_id": "1055", "access_token": "t", "base_url": "https://graph.facebook.com", "app_secret": None},
        ),
        ("evolution", {"base_url": "http://10.0.0.7:8080", "allowed_addresses": ["203.0.113.0/24", "2001:db8::1"]}),
        ("uazapi", {"token": MASK, "base_url": "", "something_else": 7}),
        ("phone", "+55 (11) 3000-0000"),
        ("webhook_url", "https://agenda.example:8443/kora?x=1"),
        ("webhook_url", ""),
        ("webhook_secret", "s" * SECRET_MIN),
        ("webhook_secret", MASK),
        ("outbound_allow", ["n8n", "n8n.local.", "10.0.0.0/8", "::1"]),
        ("timezone", "is none of these"),
    ],
)
def test_what_can_work_has_no_fault(key: str, value: Any) -> None:
    assert list(faults(key, value)) == []


@pytest.mark.parametrize(
    ("key", "value", "pointers"),
    [
        ("whatsapp", {"phone_number_id": 1055, "access_token": "x" * (TEXT_MAX + 1)}, ["phone_number_id", "access_token"]),
        ("evolution", {"base_url": "ftp://server"}, ["base_url"]),
        ("evolution", {"base_url": "https://server:0"}, ["base_url"]),
        ("evolution", {"base_url": "https://server:99999"}, ["base_url"]),
        ("uazapi", {"base_url": "https://"}, ["base_url"]),
        ("uazapi", {"allowed_addresses": "203.0.113.1"}, ["allowed_addresses"]),
        ("uazapi", {"allowed_addresses": ["203.0.113.1", "everywhere", 7]}, ["allowed_addresses/1", "allowed_addresses/2"]),
    ],
)
def test_a_providers_section_is_told_field_by_field(key: str, value: Any, pointers: list[str]) -> None:
    assert [pointer for pointer, _ in faults(key, value)] == [f"/{key}/{p}" for p in pointers]


@pytest.mark.parametrize(
    ("key", "value", "pointers"),
    [
        ("phone", "reception", ["/phone"]),
        ("phone", "()-- ..", ["/phone"]),
        ("webhook_url", "agenda.example", ["/webhook_url"]),
        ("webhook_url", "https://user:secret@agenda.example", ["/webhook_url"]),
        ("webhook_url", "https://agenda.example/" + "x" * TEXT_MAX, ["/webhook_url"]),
        ("webhook_secret", "short", ["/webhook_secret"]),
        ("outbound_allow", ["-", "a" * 254, None], ["/outbound_allow/0", "/outbound_allow/1", "/outbound_allow/2"]),
        ("outbound_allow", ["n8n"] * (ENTRIES_MAX + 1), ["/outbound_allow"]),
    ],
)
def test_what_could_never_work_is_told_where_it_stands(key: str, value: Any, pointers: list[str]) -> None:
    assert [pointer for pointer, _ in faults(key, value)] == pointers
