"""The environment, read once into one frozen object; anything unknown or bad stops the start with one clear line."""

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from app.errors import ConfigError

DEVELOPMENT_SECRET: Final = "development-only-secret-not-for-production"  # noqa: S105  # refused in production
SECRET_MIN_CHARS: Final = 32
VAR: Final = Path("var")
DEFAULT_DATABASE: Final = f"sqlite:///{VAR}/kora.db"
DEFAULT_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process needs to know before it starts; each field is `KORA_<NAME>` in the environment."""

    database_url: str = DEFAULT_DATABASE
    redis_url: str | None = None
    host: str = DEFAULT_HOST
    port: int = 8000
    public_url: str = ""
    """Base of links that people open (ACK); defaults to http://host:port."""
    secret_key: str = DEVELOPMENT_SECRET
    env: str = "development"
    log_format: str = "json"
    node_id: str = ""
    """Defaults to host name and a random suffix."""
    time_scale: float = 1.0
    otlp_endpoint: str | None = None
    heartbeat_url: str | None = None
    """Called once a minute while all is well, so that somebody outside notices when the calls stop."""
    breach_list: str | None = None
    """File of SHA-1 hashes of leaked passwords, sorted, beside the short one that is shipped (`passwords.py`)."""

    @property
    def is_production(self) -> bool:
        """Whether defaults that are fine on a laptop are refused."""
        return self.env == "production"

    @property
    def secure_cookies(self) -> bool:
        """Whether browsers reach us over TLS."""
        return self.public_url.startswith("https://")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read and check the environment. Raises ConfigError."""
        known = {f"KORA_{f.name.upper()}" for f in fields(cls)}
        unknown = sorted(name for name in environ if name.startswith("KORA_") and name not in known)
        if unknown:
            raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        given = {name[5:].lower(): value.strip() for name, value in environ.items() if name in known and value.strip()}
        host = given.get("host", DEFAULT_HOST)
        port = _whole_number("KORA_PORT", given.get("port", "8000"), 1, 65_535)
        settings = cls(
            database_url=_database_url(given.get("database_url")),
            redis_url=_redis_url(given.get("redis_url")),
            host=host,
            port=port,
            public_url=_http_url("KORA_PUBLIC_URL", given.get("public_url")) or f"http://{host}:{port}",
            secret_key=given.get("secret_key", DEVELOPMENT_SECRET),
            env=_choice("KORA_ENV", given.get("env", "development"), ("development", "production", "test")),
            log_format=_choice("KORA_LOG_FORMAT", given.get("log_format", "json"), ("json", "console")),
            node_id=given.get("node_id") or f"{socket.gethostname()[:40]}-{secrets.token_hex(3)}",
            time_scale=_number("KORA_TIME_SCALE", given.get("time_scale", "1"), 0.1, 10_000),
            otlp_endpoint=_http_url("KORA_OTLP_ENDPOINT", given.get("otlp_endpoint")),
            heartbeat_url=_http_url("KORA_HEARTBEAT_URL", given.get("heartbeat_url")),
            breach_list=_file("KORA_BREACH_LIST", given.get("breach_list")),
        )
        settings._refuse_unsafe(secret_given="secret_key" in given)
        return settings

    def _refuse_unsafe(self, *, secret_given: bool) -> None:
        if len(self.node_id) > 60:
            raise ConfigError("KORA_NODE_ID: at most 60 characters")
        if not self.is_production:
            return
        if not secret_given or self.secret_key == DEVELOPMENT_SECRET:
            raise ConfigError("KORA_SECRET_KEY is required in production; make one with: openssl rand -hex 32")
        if len(self.secret_key) < SECRET_MIN_CHARS:
            raise ConfigError(f"KORA_SECRET_KEY: at least {SECRET_MIN_CHARS} characters in production")
        if self.time_scale != 1.0:
            raise ConfigError("KORA_TIME_SCALE: refused in production; time passes there at its own pace")


def _database_url(value: str | None) -> str:
    if value is None:
        return DEFAULT_DATABASE
    scheme = value.partition(":")[0].partition("+")[0]
    if scheme not in ("sqlite", "postgresql"):
        raise ConfigError("KORA_DATABASE_URL: must begin with sqlite:/// or postgresql://")
    return value


def _redis_url(value: str | None) -> str | None:
    if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError("KORA_REDIS_URL: must begin with redis://, rediss:// or unix://")
    return value


def _http_url(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{name}: must be an http:// or https:// address")
    return value.rstrip("/")


def _file(name: str, value: str | None) -> str | None:
    if value is not None and not Path(value).is_file():
        raise ConfigError(f"{name}: there is no such file")
    return value


def _choice(name: str, value: str, options: tuple[str, ...]) -> str:
    if value not in options:
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(options)}")
    return value


def _number(name: str, value: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"{name}: {value!r} is not a number") from None
    if not low <= number <= high:
        raise ConfigError(f"{name}: must lie between {low:g} and {high:g}")
    return number


def _whole_number(name: str, value: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"{name}: {value!r} is not a whole number")
    return int(_number(name, value, low, high))
