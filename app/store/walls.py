"""Row-level security by tenant on PostgreSQL: which column says whose a row is, and the policy over it.

A second wall behind the tenant filters of the queries: under the scope of clinic A (`tenancy.py`) no statement, however
it was written, reads or changes a row of clinic B, and without a scope none is seen at all. The policies are FORCEd, so
they hold for the owner of the tables too; superusers and roles with BYPASSRLS stand above them (`kora doctor` says so).

Rows of nobody in particular (`tenant_id` NULL, scope `global`) are seen under every scope. Tables that hang on another
one have its wall. Accounts, sessions, nodes and locks belong to the installation and have none.
"""

import hashlib
from typing import Final

from sqlalchemy import Connection, MetaData, text

from app.store.audit import MACHINE_PREFIX
from app.store.tables import metadata
from app.store.tenancy import SETTING

_SCOPE_COLUMNS: Final = ("tenant_id", "chain", "scope")
"""Where a table says whose a row is, in the order in which they are looked for."""

_CHILDREN: Final = {
    "ack_token": ("alert", "alert_id"),
    "evidence_file": ("evidence_pack", "pack_id"),
    "safe_cause": ("safe_episode", "episode_id"),
    "safe_step": ("safe_episode", "episode_id"),
}
"""Tables without such a column: the row that they belong to, and the column that names it in both."""

WITHOUT_WALL: Final = frozenset(
    {
        "deferred_item",
        "drill",
        "health_probe",
        "health_sample",
        "lane_lock",
        "node",
        "retention_round",
        "saved_view",
        "scaled_time",
        "signal_round",
        "signing_key",
        "user_account",
        "web_session",
    }
)
"""Tables of the installation: nothing in them is a clinic's."""

# sub-selects: PostgreSQL then reads the setting once per statement, not once per row it looks at
_NOW: Final = f"(SELECT current_setting('{SETTING}', true))"
_SET: Final = f"NULLIF({_NOW}, '')"
_OPEN: Final = f"{_NOW} = '*'"
_IDS: Final = f"(SELECT string_to_array(NULLIF(current_setting('{SETTING}', true), ''), ','))::text[]"


def walls(tables: MetaData = metadata) -> dict[str, str]:
    """The policy's expression of every table that has one, by name. Raises AssertionError for a table nobody thought of."""
    found = {}
    for name, held in sorted(tables.tables.items()):
        column = next((c for c in _SCOPE_COLUMNS if c in held.c), None)
        if name in WITHOUT_WALL:
            continue
        if name in _CHILDREN:
            parent, link = _CHILDREN[name]
            found[name] = f"{_OPEN} OR EXISTS (SELECT 1 FROM {parent} AS p WHERE p.{link} = {name}.{link})"
            continue
        if column is None:
            raise AssertionError(f"whose are the rows of {name}? Say so in app/store/walls.py")
        # the setting is '' after a transaction that had set it, and '' must open nothing
        owner = f"regexp_replace({column}, '^{MACHINE_PREFIX}', '')" if column == "chain" else column  # a clinic's two chains
        own = f"{owner} = ANY ({_IDS})"
        if column != "tenant_id":
            own += f" OR ({owner} = 'global' AND {_SET} IS NOT NULL)"
        elif held.c[column].nullable and name != "api_key":
            own += f" OR ({column} IS NULL AND {_SET} IS NOT NULL)"
        found[name] = f"{_OPEN} OR {own}"
    return found


def policy_name(expression: str) -> str:
    """The policy's name: it carries a fingerprint of the expression, so that a changed one is seen as a difference."""
    return f"tenant_wall_{hashlib.sha256(expression.encode()).hexdigest()[:8]}"


def statements() -> list[str]:
    """The DDL that puts up every wall, for the migration."""
    return [
        statement
        for name, expression in walls().items()
        for statement in (
            f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY {policy_name(expression)} ON {name} USING ({expression})",
        )
    ]


def missing_walls(conn: Connection) -> list[tuple[str, str]]:
    """("add_wall" | "remove_wall", table) where the database's walls are not the code's; empty on SQLite, which has none."""
    if conn.dialect.name != "postgresql":
        return []
    rows = conn.execute(
        text(
            "SELECT c.relname, p.polname, c.relrowsecurity AND c.relforcerowsecurity AS forced FROM pg_class c "
            "LEFT JOIN pg_policy p ON p.polrelid = c.oid "
            "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND (c.relrowsecurity OR p.oid IS NOT NULL)"
        )
    )
    held = {(r.relname, r.polname) for r in rows if r.forced}
    wanted = {(name, policy_name(expression)) for name, expression in walls().items()}
    return [("add_wall", name) for name, _ in sorted(wanted - held)] + [
        ("remove_wall", name) for name, _ in sorted(held - wanted, key=str)
    ]


def role_above_walls(conn: Connection) -> str | None:
    """Name of the connected role when no wall holds it (superuser or BYPASSRLS); None when they do, and on SQLite."""
    if conn.dialect.name != "postgresql":
        return None
    row = conn.execute(text("SELECT rolname, rolsuper OR rolbypassrls AS above FROM pg_roles WHERE rolname = current_user")).one()
    return str(row.rolname) if row.above else None
