"""Which passwords are refused."""

import hashlib
from pathlib import Path

import pytest

from app import passwords
from app.errors import ConfigError
from app.settings import Settings


def listed(*texts: str, tail: str = "") -> str:
    return "".join(sorted(hashlib.sha1(t.encode()).hexdigest().upper() + tail + "\n" for t in texts))  # the lists' own


def test_length_and_the_shipped_list_decide() -> None:
    assert passwords.fault("abc") == passwords.TOO_SHORT
    assert passwords.fault("a" * 1025) == passwords.TOO_LONG
    for common in ("123456789012", "Senha@123456", "qwerty123456", "1qaz2wsx3edc"):
        assert passwords.fault(common) == passwords.BREACHED, common
    assert passwords.fault("cavalo correto bateria grampo") is None


def test_every_line_of_the_shipped_list_is_found_and_sorted() -> None:
    lines = passwords.SHIPPED.read_text().splitlines()
    assert lines == sorted(set(lines))
    assert len(lines) > 500
    assert all(passwords._listed(passwords.SHIPPED, line) for line in lines)
    assert not any(passwords._listed(passwords.SHIPPED, line[:-1] + "x") for line in lines[:50])


@pytest.mark.parametrize("tail", ["", ":42"])
def test_a_larger_list_is_searched_beside_it(tmp_path: Path, tail: str) -> None:
    texts = [f"vazada numero {n}" for n in range(200)]
    file = tmp_path / "leaks.txt"
    file.write_text(listed(*texts, tail=tail))
    assert all(passwords.fault(text, str(file)) == passwords.BREACHED for text in texts)
    assert passwords.fault("vazada numero 200", str(file)) is None
    assert passwords.fault("123456789012", str(file)) == passwords.BREACHED


def test_a_list_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KORA_BREACH_LIST"):
        passwords.fault("cavalo correto bateria grampo", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="KORA_BREACH_LIST"):
        Settings.from_env({"KORA_BREACH_LIST": str(tmp_path / "none")})
