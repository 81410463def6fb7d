"""What SQLAlchemy works out once per engine, kept for all engines of a test process.

A test that builds the application compiles every statement that it comes by: a quarter of a second of the processor. The
product has one engine per process and compiles each statement once; tests have thousands of engines and the same statements.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

from sqlalchemy import Dialect, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from app.store import database

_dialects: dict[str, Dialect] = {}
_compiled: MutableMapping[Any, Any] = {}


def share_compiled_statements() -> None:
    """From here on engines of one kind of database have one dialect and one cache of compiled statements."""
    for name in ("create_engine", "create_async_engine"):
        setattr(database, name, _sharing(getattr(database, name)))


def _sharing(create: Callable[..., Engine | AsyncEngine]) -> Callable[..., Engine | AsyncEngine]:
    def created(*args: Any, **options: Any) -> Engine | AsyncEngine:
        made = create(*args, **options)
        engine = made.sync_engine if isinstance(made, AsyncEngine) else made
        engine.dialect = _dialects.setdefault(engine.dialect.name, engine.dialect)
        engine.update_execution_options(compiled_cache=_compiled)
        return made

    return created
