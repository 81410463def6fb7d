"""What may be shown of a target."""

import pytest

from app.channels.targets import shown


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("whatsapp:+5511987654321", "whatsapp:+55...4321"),
        ("evolution:+551", "evolution:"),
        ("uazapi:", "uazapi:"),
        ("simulator:ops", "simulator:ops"),
        ("webhook:https://user:pass@hooks.example.com:8443/services/T0/B0/secret?token=1", "webhook:hooks.example.com"),
        ("json://user:secret@alerts.example.com/path", "json:alerts.example.com"),
    ],
)
def test_a_target_is_recognised_without_its_secrets(spec: str, expected: str) -> None:
    assert shown(spec) == expected


@pytest.mark.parametrize(
    "spec", ["tgram://123456:bottoken/42", "mailto://u:p@gmail.com", "webhook:http://[broken", "", "slack://a/b/c"]
)
def test_where_the_host_may_be_a_secret_only_a_digest_is_shown(spec: str) -> None:
    text = shown(spec)
    assert len(text.partition("#")[2]) == 6
    assert not any(part in text for part in ("bottoken", "123456", "gmail", "p@", "broken"))
    assert shown(spec + "x") != text
