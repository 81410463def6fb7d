"""Traceability over HTTP: what was planned, who owns it, how it ends and what shows it."""

from typing import Final

from litestar import get

from app.web.api.common import Document, problems
from app.web.stories import stories


@get(
    "/api/v1/stories",
    opt={"access": "scope:read"},
    tags=["traceability"],
    summary="The sixteen items of the plan",
    responses=problems(),
)
async def list_stories() -> Document:
    """Id, title, source, ADR, owner, wave, dependencies, readiness, terminal states, signal, alert, tests."""
    return {"items": list(stories()), "next_cursor": None}


story_routes: Final = [list_stories]
