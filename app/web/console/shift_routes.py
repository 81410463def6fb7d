"""Address of the shift handover."""

from typing import Any, Final

from litestar import Response, Router, get

from app.web.console.render import show, view
from app.web.console.visit import AnyRequest

SHIFT: Final = view("shift", "shift.html", "shift_report")


@get("/shift")
async def page(request: AnyRequest) -> Response[str]:
    """What happened since `since` (a moment in the clinic's timezone), else since the person's last session ended."""
    return await show(request, SHIFT)


shift_pages: Final[list[Any]] = [Router("/", route_handlers=[page], opt={"access": "page"}, include_in_schema=False)]
