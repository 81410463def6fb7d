"""The environment of a process: what production refuses, and that it says how to mend it."""

import pytest

from app.errors import ConfigError
from app.settings import DEVELOPMENT_SECRET, Settings

SAFE = {"KORA_ENV": "production", "KORA_SECRET_KEY": "x" * 64, "KORA_DATABASE_URL": "postgresql://db/kora"}


def test_what_is_safe_starts() -> None:
    assert Settings.from_env(SAFE).is_production


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"KORA_SECRET_KEY": None}, "KORA_SECRET_KEY"),
        ({"KORA_SECRET_KEY": DEVELOPMENT_SECRET}, "KORA_SECRET_KEY"),
        ({"KORA_SECRET_KEY": "short"}, "KORA_SECRET_KEY"),
        ({"KORA_TIME_SCALE": "60"}, "KORA_TIME_SCALE"),
    ],
)
def test_production_refuses_what_only_a_laptop_may_have(changes: dict[str, str | None], named: str) -> None:
    given = {k: v for k, v in (SAFE | changes).items() if v is not None}
    with pytest.raises(ConfigError, match=named):
        Settings.from_env(given)
    assert Settings.from_env(given | {"KORA_ENV": "test"}).env == "test"


@pytest.mark.parametrize("port", ["80.5", "8e3", "0", "65536", "-1", "٨٠", "many"])
def test_a_port_is_a_whole_number(port: str) -> None:
    with pytest.raises(ConfigError, match="KORA_PORT"):
        Settings.from_env(SAFE | {"KORA_PORT": port})
    assert Settings.from_env(SAFE | {"KORA_PORT": "8080"}).port == 8_080
