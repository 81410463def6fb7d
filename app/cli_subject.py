"""`kora subject`: a contact's personal data (LGPD), exported or erased, from the command line."""

from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec

from app.clock import SystemClock
from app.store import accounts, subjects
from app.store.database import Database
from app.store.people import By

ACTOR = "system:cli"
Run = Callable[[Callable[[Database], Awaitable[Any]]], Any]


def subject_commands(run: Run) -> click.Group:
    """The group; `run` runs work on the configured, migrated database."""

    @click.group()
    def subject() -> None:
        """Personal data of one contact: export, erase."""

    @subject.command("export")
    @click.argument("contact_id")
    @click.option("--tenant", "slug", required=True, help="Clinic (slug or id).")
    def export(contact_id: str, slug: str) -> None:
        """Print everything that is kept about a contact, as JSON; audited."""
        found = run(lambda db: _export(db, slug, contact_id))
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))

    @subject.command("erase")
    @click.argument("contact_id")
    @click.option("--tenant", "slug", required=True, help="Clinic (slug or id).")
    @click.option("--reason", required=True, help="Stays in the audit trail.")
    @click.option("--yes", is_flag=True, help="Do not ask: there is no way back.")
    def erase(contact_id: str, slug: str, reason: str, yes: bool) -> None:
        """Erase name, number, words and permissions for good; ids, times and results stay."""
        if not yes:
            click.confirm(f"Erase everything personal about {contact_id}? There is no way back.", abort=True)
        gone = run(lambda db: _erase(db, slug, contact_id, reason))
        click.echo(", ".join(f"{n} {what}" for what, n in gone.items()) or "It was erased before; nothing changed.")

    return subject


async def _export(db: Database, slug: str, contact_id: str) -> dict[str, Any]:
    return await db.write(subjects.export, await _tenant(db, slug), contact_id, _by())


async def _erase(db: Database, slug: str, contact_id: str, reason: str) -> dict[str, int]:
    return await db.write(subjects.erase, await _tenant(db, slug), contact_id, _by(), reason)


async def _tenant(db: Database, slug: str) -> str:
    row = await db.read(accounts.find_tenant, slug)
    if row is None:
        raise click.ClickException(f"There is no clinic {slug!r}.")
    return str(row.tenant_id)


def _by() -> By:
    return By(actor=ACTOR, now=SystemClock().now(), origin="cli")
