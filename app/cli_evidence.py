"""`kora evidence`: build packs, check them offline, export the public key."""

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import click
import structlog
from sqlalchemy import Connection

from app.clock import SystemClock
from app.domain.envelopes import parse_time
from app.domain.evidence_check import Checked, check
from app.domain.evidence_kinds import EvidenceKind
from app.domain.evidence_zip import SIZE_MAX
from app.engine.evidence import Evidence
from app.metrics import Metrics
from app.settings import Settings
from app.signing import ALGORITHM, is_signed, key_id_of
from app.store import accounts, evidence, signing_keys
from app.store.database import Database
from app.store.people import By
from app.store.views.evidence import scope_of_subject

ACTOR: Final = "system:cli"
Run = Callable[[Callable[[Database], Awaitable[Any]]], Any]
SUBJECTS: Final = {
    "correlation": EvidenceKind.FLOW,
    "contact": EvidenceKind.CONTACT,
    "alert": EvidenceKind.ALERT,
    "episode": EvidenceKind.SAFE_MODE,
    "replay": EvidenceKind.REPLAY,
    "takeover": EvidenceKind.TAKEOVER,
}
"""Options of `build` and the kind of pack that each asks for."""


def evidence_commands(run: Run) -> click.Group:
    """The group; `run` runs work on the configured, migrated database."""

    @click.group("evidence")
    def group() -> None:
        """Evidence packs: build one, verify one (offline, with the public key alone), export the key."""
        # only the answer goes to standard output
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    @group.command("build")
    @click.option("--tenant", "slug", default=None, help="Clinic (slug or id); an alert or episode knows its own.")
    @click.option("--correlation", default=None, help="Correlation id of a flow.")
    @click.option("--contact", default=None, help="Contact id; --from and --until bound it.")
    @click.option("--alert", default=None, help="Alert id.")
    @click.option("--episode", default=None, help="Id of a stay in safe mode.")
    @click.option("--replay", default=None, help="Id of a replay batch.")
    @click.option("--takeover", default=None, help="Id of a takeover.")
    @click.option("--from", "from_at", default=None, help="RFC 3339 time, with --contact.")
    @click.option("--until", "until_at", default=None, help="RFC 3339 time, with --contact.")
    @click.option("--reason", default="asked for with kora evidence build", show_default=True)
    @click.option(
        "--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="File to write (default: by its id)."
    )
    def build(
        slug: str | None, from_at: str | None, until_at: str | None, reason: str, out: Path | None, **subjects: str | None
    ) -> None:
        """Build a redacted pack now and write it to a file."""
        given = {name: value for name, value in subjects.items() if value}
        if len(given) != 1:
            raise click.ClickException(f"name exactly one of {', '.join(f'--{name}' for name in SUBJECTS)}")
        ((name, subject),) = given.items()
        span = (_time(from_at), _time(until_at))
        row, content = run(lambda db: _build(db, slug, SUBJECTS[name], subject, reason, span))
        target = out or Path(f"evidence-{row.pack_id}.zip")
        target.write_bytes(content)
        click.echo(f"{target}\t{row.result}\t{row.terminal_state or 'running'}\t{row.root}")

    @group.command("key")
    @click.option("--all", "every", is_flag=True, help="Also keys that signed before.")
    def key(*, every: bool) -> None:
        """Print the public key (hex); give it to whoever must verify packs."""
        for row in run(_keys):
            if row.retired_at is None:
                click.echo(row.public_key if not every else f"{row.public_key}\t{row.key_id}\tsigns now")
            elif every:
                click.echo(f"{row.public_key}\t{row.key_id}\tuntil {row.retired_at:%Y-%m-%dT%H:%M:%SZ}")

    group.add_command(verify)
    return group


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key", "keys", multiple=True, help="Public key (hex, or a file that holds it); may be repeated.")
def verify(file: Path, keys: tuple[str, ...]) -> None:
    """Check a pack offline: every byte, the signature, the ledger's chain. Exit 1 and a line per fault."""
    if file.stat().st_size > SIZE_MAX:
        raise click.ClickException(f"{file} is larger than any pack ({SIZE_MAX // 2**20} MB)")
    known = [_public_key(text) for text in keys] or None
    found = check(file.read_bytes(), is_signed, public_keys=known, key_id_of=key_id_of)
    for fault in found.faults:
        row = f" row {fault.row}" if fault.row is not None else ""
        click.echo(f"{fault.name}{row}\t{fault.fault}")
    if not found.valid:
        raise click.ClickException(f"{file}: {len(found.faults)} fault(s)")
    click.echo(_sentence(file, found, known=known is not None))


def _sentence(file: Path, found: Checked, *, known: bool) -> str:
    about = found.about
    lines = [
        f"{file}: whole, signed ({ALGORITHM}, key {found.key_id}), {found.entries} ledger entries computed again",
        f"{about.get('kind')} {about.get('subject')}\t{about.get('result')}\tbuilt {about.get('built_at')}\troot {found.root}",
    ]
    if not known:
        lines.append(f"note: the key came with the pack; compare {found.public_key} with `kora evidence key` of its installation")
    return "\n".join(lines)


def _public_key(text: str) -> str:
    """A key as given: hex, or the name of a file that begins with it."""
    given = Path(text).read_text(encoding="utf-8") if Path(text).is_file() else text
    word = (given.split() or [""])[0].lower()
    try:
        if len(bytes.fromhex(word)) == 32:
            return word
    except ValueError:
        pass  # said below, the same for every text that is no key
    raise click.ClickException("--key wants a public key of 64 hex digits, or a file with it")


def _time(text: str | None) -> Any:
    try:
        return parse_time(text) if text else None
    except ValueError as error:
        raise click.ClickException(f"{text}: {error}") from error


def _service(database: Database) -> Evidence:
    return Evidence(database, SystemClock(), Metrics(), secret_key=Settings.from_env(os.environ).secret_key)


async def _build(
    database: Database, slug: str | None, kind: EvidenceKind, subject: str, reason: str, span: tuple[Any, Any]
) -> tuple[Any, bytes]:
    tenant_id = await database.read(_tenant, slug, kind, subject)
    now = SystemClock().now()
    wanted = evidence.Wanted(
        tenant_id=tenant_id, kind=kind, subject=subject, reason=reason, requested_at=now, from_at=span[0], until_at=span[1]
    )
    row = await _service(database).on_demand(wanted, By(actor=ACTOR, now=now, origin="cli"))
    content = await database.read(evidence.content, row.pack_id) if row is not None else None
    if row is None or content is None:
        raise click.ClickException(f"there is nothing to prove about {kind} {subject!r}")
    await database.write(evidence.note_download, row, "zip", By(actor=ACTOR, now=now, origin="cli"))
    return row, content


def _tenant(conn: Connection, slug: str | None, kind: EvidenceKind, subject: str) -> str | None:
    if slug is not None:
        row = accounts.find_tenant(conn, slug)
        if row is None:
            raise click.ClickException(f"no tenant {slug!r}; see: kora tenant list")
        return str(row.tenant_id)
    if kind not in (EvidenceKind.ALERT, EvidenceKind.SAFE_MODE):
        raise click.ClickException("--tenant is needed; see: kora tenant list")
    exists, tenant_id = scope_of_subject(conn, kind, subject)
    if not exists:
        raise click.ClickException(f"no {kind} {subject!r}")
    return tenant_id


async def _keys(database: Database) -> list[Any]:
    await first_key(database)
    return await database.read(signing_keys.every)


async def first_key(database: Database) -> None:
    """Make the installation's signing key when it has none."""
    await _service(database).keys.signer()
