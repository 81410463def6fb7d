"""The sixteen items of the plan with owner, readiness, states, signal, alert and tests, as `docs/stories.toml` lists them."""

import tomllib
from functools import cache
from typing import Any, Final

from app.web.i18n import ROOT

STORIES_FILE: Final = ROOT / "docs" / "stories.toml"


@cache
def stories() -> tuple[dict[str, Any], ...]:
    """Every item in the plan's order, each with all fields of the file."""
    return tuple(tomllib.loads(STORIES_FILE.read_text(encoding="utf-8"))["story"])
