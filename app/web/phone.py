"""The address of the simulated phone."""

from typing import Any, Final

from litestar import Response, get

from app.web.console.render import show, view
from app.web.console.visit import AnyRequest

PHONE: Final = view("phone", "phone.html", "phone_chats", "phone_chat")


@get("/phone", opt={"access": "page"}, include_in_schema=False)
async def phone(request: AnyRequest) -> Response[str]:
    """What the system said on the simulated phone, and what families wrote."""
    return await show(request, PHONE)


phone_routes: Final[list[Any]] = [phone]
