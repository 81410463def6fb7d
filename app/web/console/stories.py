"""Stories: the plan's sixteen items as a table; what no test shows yet is said."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.web.console.visit import Visit
from app.web.stories import stories


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryRows:
    """Context of the fragment `story_rows`."""

    stories: tuple[dict[str, Any], ...]
    shown: int
    """How many of them a test shows."""


def load_story_rows(_conn: Connection, _visit: Visit) -> StoryRows:
    """All of them, in the plan's order."""
    found = stories()
    return StoryRows(stories=found, shown=sum(bool(s["tests"]) for s in found))
