"""The console: what people see. `pages` lists the pages, `routes` their addresses, `render` how they are shown."""

from typing import Any

__all__ = ["console_routes"]


def __getattr__(name: str) -> Any:
    """`console_routes`, on first use: the modules of this package are also imported one by one."""
    if name == "console_routes":
        from app.web.console.routes import console_routes

        return console_routes
    raise AttributeError(name)
