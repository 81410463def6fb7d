"""The schema's version: forward, back, where it stands, and whether it still says what `tables.py` says.

Every call is one write transaction of `Database`, so a migration that fails leaves the schema as it was (SQLite and
PostgreSQL both roll DDL back). On PostgreSQL an advisory lock makes nodes that start together take turns.
"""

import textwrap
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal

from alembic import command
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations.ops import DowngradeOps, UpgradeOps
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.store.columns import UTCDateTime
from app.store.database import Database
from app.store.tables import metadata
from app.store.walls import missing_walls, statements

_ADVISORY_LOCK: Final = 4_715_218_001
"""Any number that nothing else of ours locks."""

POSTGRESQL_ONLY: Final = frozenset({"ex_appointment_therapist_slot"})
"""Schema objects that only PostgreSQL has and that `tables.py` therefore cannot name."""


def _include_name(name: str | None, kind: str, _parents: Any) -> bool:
    return not (kind in {"index", "unique_constraint"} and name in POSTGRESQL_ONLY)


def _render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    if kind == "type" and isinstance(item, UTCDateTime):
        context.imports.add("from app.store.columns import UTCDateTime")
        return "UTCDateTime()"
    if kind == "type" and type(item).__name__ == "AutoString":
        return f"sa.String(length={item.length})" if item.length else "sa.String()"
    return False


COMPARE_OPTIONS: Final[dict[str, Any]] = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": _include_name,
    "render_item": _render_item,
}
"""How `tables.py` is compared with a database, and how the difference is written down as code."""


async def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema forward to `revision`; does nothing when it is there already."""
    await database.write(_run, lambda config: command.upgrade(config, revision))


async def downgrade(database: Database, revision: str = "base") -> None:
    """Take the schema back to `revision`; `base` removes everything, data included."""
    await database.write(_run, lambda config: command.downgrade(config, revision))


async def current(database: Database) -> str | None:
    """The revision the database is at; None when it was never migrated."""
    return await database.read(current_revision)


def current_revision(conn: Connection) -> str | None:
    """The revision the database is at; None when it was never migrated."""
    return MigrationContext.configure(conn).get_current_revision()


@cache
def head() -> str:
    """The newest revision this program knows; asked once, as finding it compiles every migration."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise AssertionError("there are no migrations in the package")
    return newest


def differences(conn: Connection) -> list[Any]:
    """What `tables.py` has and the database has not, or the other way round; empty when they agree."""
    context = MigrationContext.configure(conn, opts=COMPARE_OPTIONS)
    return [*compare_metadata(context, metadata), *missing_walls(conn)]


def rendered_from_empty(conn: Connection) -> tuple[str, str]:
    """Python code of `upgrade` and `downgrade` that leads from an empty database to `tables.py` and back."""
    context = MigrationContext.configure(conn, opts={**COMPARE_OPTIONS, "target_metadata": metadata})
    script = produce_migrations(context, metadata)
    up, down = script.upgrade_ops, script.downgrade_ops
    assert isinstance(up, UpgradeOps)
    assert isinstance(down, DowngradeOps)
    render = partial(render_python_code, render_item=_render_item, migration_context=context)
    return render(up), render(down)


def rendered_walls() -> str:
    """Python code of the row-level security that PostgreSQL gets with the tables."""
    lines = []
    for statement in statements():
        parts = [part + " " for part in textwrap.wrap(statement, 100, break_long_words=False, break_on_hyphens=False)]
        parts[-1] = parts[-1].rstrip()
        lines += ["op.execute("] + [f"        {part!r}" for part in parts] + [")"]
    return "\n".join("    " + line for line in lines)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _run(conn: Connection, action: Callable[[Config], None]) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    config = _config()
    config.attributes["connection"] = conn
    action(config)
