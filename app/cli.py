"""The `kora` command. Every failure is one clear line on standard error and a non-zero exit code."""

import asyncio
import json
import math
import os
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from sqlalchemy import Connection, text

from app import passwords
from app.bootstrap import prepare_folder
from app.cli_drill import drill_commands
from app.cli_evidence import evidence_commands, first_key
from app.cli_replay import replay_commands
from app.cli_subject import subject_commands
from app.clock import SystemClock
from app.credentials import hash_password, new_api_key
from app.domain.alerts import ROUTING
from app.errors import KoraError
from app.ids import new_id
from app.settings import DEVELOPMENT_SECRET, Settings
from app.store import accounts, audit
from app.store.database import SQLITE_SOUND_FROM, Database
from app.store.lanes import GLOBAL_SCOPE
from app.store.migrate import current, head, upgrade
from app.store.settings import load as load_settings
from app.store.verify import verify as verify_history
from app.store.views.channels import without_template
from app.store.walls import missing_walls, role_above_walls

T = TypeVar("T")

ALL_SCOPES: Final = ("intake", "read", "operate", "admin")
ROLES: Final = ("secretary", "manager", "superadmin")
ACTOR: Final = "system:cli"


class _Amount(click.FloatRange):
    """A number above zero; `nan` and `inf`, which no comparison stops, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails with one line."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number that can be used.", param, ctx)
        return number


_ABOVE_ZERO: Final = _Amount(min=0, min_open=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """KoraOS Console: decides whether, when and in which order a command may change a clinic's agenda."""


def main() -> None:
    """Entry of the `kora` script."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KoraError, OSError) as error:
        click.echo(f"kora: {error}", err=True)
        sys.exit(1)


def _with_database(work: Callable[[Database], Awaitable[T]], *, settings: Settings | None = None) -> T:
    """Run `work` on the configured database; says so when its schema is behind."""
    settings = settings or Settings.from_env(os.environ)

    async def go() -> T:
        prepare_folder(settings.database_url)
        database = Database(settings.database_url, pool_size=2, checkpoints=False)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(go())


async def _migrated(database: Database) -> None:
    if await current(database) != head():
        raise click.ClickException("the database schema is not up to date; run: kora migrate")


# --- running ------------------------------------------------------------------------------------------------------------


def _listening(command: Callable[..., None]) -> Callable[..., None]:
    """Options of the commands that serve; each stands before its environment variable."""
    command = click.option("--port", type=click.IntRange(1, 65_535), help="Port to listen on (KORA_PORT, 8000).")(command)
    return click.option("--host", help="Address to listen on (KORA_HOST, 127.0.0.1).")(command)


def serving_environment(host: str | None, port: int | None) -> dict[str, str]:
    """The process environment with an address given on the command line."""
    given = {"KORA_HOST": host, "KORA_PORT": str(port) if port is not None else None}
    return {**os.environ, **{name: value for name, value in given.items() if value is not None}}


@cli.command()
@_listening
def serve(*, host: str | None, port: int | None) -> None:
    """Serve HTTP and run the engine until SIGTERM or Ctrl-C."""
    from app.__main__ import run

    sys.exit(run(Settings.from_env(serving_environment(host, port))))


@cli.command()
@click.option("--fresh", is_flag=True, help="Throw the demo's SQLite file away first.")
@_listening
def demo(*, fresh: bool, host: str | None, port: int | None) -> None:
    """Three demo clinics, simulated traffic and a simulated phone; needs nothing but Python."""
    from app.__main__ import run
    from app.demo import sibling

    environ = {"KORA_DATABASE_URL": "sqlite:///var/demo.db", "KORA_LOG_FORMAT": "console", **serving_environment(host, port)}
    settings = Settings.from_env(environ)
    if settings.is_production:
        raise click.ClickException("the demo is not for production (KORA_ENV=production)")
    if fresh and settings.database_url == "sqlite:///var/demo.db":
        for suffix in ("", "-wal", "-shm"):
            Path(f"var/demo.db{suffix}").unlink(missing_ok=True)
    _with_database(upgrade, settings=settings)
    sys.exit(run(settings, sibling))


@cli.command()
def migrate() -> None:
    """Bring the database schema up to date."""

    async def work(database: Database) -> tuple[str | None, str | None]:
        before = await current(database)
        await upgrade(database)
        return before, await current(database)

    before, after = _with_database(work)
    click.echo(f"schema {after}" + (" (was already up to date)" if before == after else f" (was {before or 'empty'})"))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
@click.option("--tenant", "slug", default="clinica", show_default=True, help="Slug of the first clinic.")
@click.option("--email", default="admin@koraos.local", show_default=True, help="Login of the superadmin.")
def init(*, as_json: bool, slug: str, email: str) -> None:
    """Migrate, then create the first tenant, a superadmin and two keys; prints the secrets once."""

    async def work(database: Database) -> dict[str, Any]:
        await upgrade(database)
        password = secrets.token_urlsafe(15)
        password_hash = await asyncio.to_thread(hash_password, password)
        made = await database.write(_init, slug, email, password, password_hash)
        await first_key(database)
        return made

    made = _with_database(work)
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"tenant      {made['tenant']['slug']} ({made['tenant']['id']})")
    click.echo(f"superadmin  {made['superadmin']['email']}  password {made['superadmin']['password']}")
    click.echo(f"global key  {made['keys']['global']}")
    click.echo(f"tenant key  {made['keys']['tenant']}")
    click.echo("These secrets are shown once; keep them.")


def _init(conn: Connection, slug: str, email: str, password: str, password_hash: str) -> dict[str, Any]:
    now = SystemClock().now()
    if accounts.find_tenant(conn, slug, include_disabled=True) is not None:
        raise click.ClickException(f"tenant {slug!r} exists already; nothing was changed")
    if accounts.find_user_by_email(conn, email) is not None:
        raise click.ClickException(f"user {email!r} exists already; nothing was changed")
    tenant_id, user_id = new_id(), new_id()
    accounts.create_tenant(
        conn, tenant_id=tenant_id, slug=slug, name=slug.replace("-", " ").title(), timezone="America/Sao_Paulo", now=now
    )
    accounts.create_user(
        conn,
        user_id=user_id,
        email=email,
        name="Superadmin",
        role="superadmin",
        password_hash=password_hash,
        tenant_ids=[],
        now=now,
    )
    keys = {
        "global": _add_key(conn, "init global", None, ALL_SCOPES),
        "tenant": _add_key(conn, "init tenant", tenant_id, ALL_SCOPES),
    }
    _note(conn, "installation.init", f"tenant/{slug}", {"superadmin": user_id})
    return {"tenant": {"id": tenant_id, "slug": slug}, "superadmin": {"email": email, "password": password}, "keys": keys}


def _note(conn: Connection, action: str, thing: str, after: dict[str, Any]) -> None:
    audit.append(
        conn, chain=audit.GLOBAL_CHAIN, actor=ACTOR, action=action, object=thing, after=after, origin="cli", now=SystemClock().now()
    )


# --- tenants, users, keys -----------------------------------------------------------------------------------------------


@cli.group()
def tenant() -> None:
    """Clinics."""


@tenant.command("add")
@click.argument("slug")
@click.option("--name", default=None, help="Name on screen (default: from the slug).")
@click.option("--timezone", default="America/Sao_Paulo", show_default=True)
def tenant_add(slug: str, name: str | None, timezone: str) -> None:
    """Create a clinic."""

    def work(conn: Connection) -> str:
        if accounts.find_tenant(conn, slug, include_disabled=True) is not None:
            raise click.ClickException(f"tenant {slug!r} exists already")
        tenant_id = new_id()
        shown = name or slug.replace("-", " ").title()
        accounts.create_tenant(conn, tenant_id=tenant_id, slug=slug, name=shown, timezone=timezone, now=SystemClock().now())
        _note(conn, "tenant.add", f"tenant/{slug}", {"tenant_id": tenant_id})
        return tenant_id

    click.echo(f"{slug}\t{_write(work)}")


@tenant.command("list")
def tenant_list() -> None:
    """List clinics."""
    for row in _read(accounts.list_tenants):
        click.echo(f"{row.slug}\t{row.tenant_id}\t{row.timezone}\t{'disabled' if row.disabled_at else 'active'}\t{row.name}")


@tenant.command("disable")
@click.argument("slug")
def tenant_disable(slug: str) -> None:
    """Disable a clinic: its keys and people get no access, its data stays."""

    def work(conn: Connection) -> None:
        row = _tenant(conn, slug)
        accounts.disable_tenant(conn, row.tenant_id, SystemClock().now())
        _note(conn, "tenant.disable", f"tenant/{slug}", {})

    _write(work)
    click.echo(f"{slug} disabled")


@cli.group()
def user() -> None:
    """People who sign in to the console."""


@user.command("add")
@click.argument("email")
@click.option("--name", required=True)
@click.option("--role", type=click.Choice(ROLES), default="secretary", show_default=True)
@click.option("--tenant", "slugs", multiple=True, help="Clinic of a secretary or manager; may be repeated.")
@click.option("--password", default=None, help="Default: a random one, printed once.")
def user_add(email: str, name: str, role: str, slugs: tuple[str, ...], password: str | None) -> None:
    """Create a person."""
    chosen = password or secrets.token_urlsafe(12)
    refused = passwords.fault(chosen, Settings.from_env(os.environ).breach_list)
    if refused is not None:
        raise click.ClickException(passwords.SENTENCES[refused])
    if role != "superadmin" and not slugs:
        raise click.ClickException(f"a {role} needs at least one --tenant")
    password_hash = hash_password(chosen)

    def work(conn: Connection) -> None:
        if accounts.find_user_by_email(conn, email) is not None:
            raise click.ClickException(f"user {email!r} exists already")
        ids = [_tenant(conn, slug).tenant_id for slug in slugs]
        user_id = new_id()
        accounts.create_user(
            conn,
            user_id=user_id,
            email=email,
            name=name,
            role=role,
            password_hash=password_hash,
            tenant_ids=ids,
            now=SystemClock().now(),
        )
        _note(conn, "user.add", f"user/{user_id}", {"role": role, "tenants": list(slugs)})

    _write(work)
    click.echo(f"{email}\t{role}" + ("" if password else f"\tpassword {chosen}"))


@user.command("list")
def user_list() -> None:
    """List people."""
    for row in _read(accounts.list_users):
        click.echo(f"{row.email}\t{row.role}\t{'disabled' if row.disabled_at else 'active'}\t{row.name}")


@user.command("disable")
@click.argument("email")
def user_disable(email: str) -> None:
    """Disable a person and end their sessions."""

    def work(conn: Connection) -> None:
        row = accounts.find_user_by_email(conn, email)
        if row is None:
            raise click.ClickException(f"no user {email!r}")
        accounts.set_disabled(conn, row.user_id, SystemClock().now())
        _note(conn, "user.disable", f"user/{row.user_id}", {})

    _write(work)
    click.echo(f"{email} disabled")


@cli.group()
def key() -> None:
    """Keys of machines."""


@key.command("add")
@click.argument("name")
@click.option("--tenant", "slug", default=None, help="Clinic of the key (default: a global key).")
@click.option("--scope", "scopes", type=click.Choice(ALL_SCOPES), multiple=True, help="May be repeated (default: intake and read).")
def key_add(name: str, slug: str | None, scopes: tuple[str, ...]) -> None:
    """Create a key; it is printed once."""

    def work(conn: Connection) -> str:
        tenant_id = _tenant(conn, slug).tenant_id if slug else None
        return _add_key(conn, name, tenant_id, scopes or ("intake", "read"))

    click.echo(_write(work))


@key.command("list")
def key_list() -> None:
    """List keys (never their secrets)."""
    for row in _read(accounts.list_keys):
        state = "revoked" if row.revoked_at else "active"
        click.echo(
            f"{row.key_id}\t{row.tenant_id or 'global'}\t{row.scopes}\t{state}\t{row.last_used_at or 'never used'}\t{row.name}"
        )


@key.command("disable")
@click.argument("key_id")
def key_disable(key_id: str) -> None:
    """Revoke a key."""

    def work(conn: Connection) -> None:
        if accounts.find_key(conn, key_id) is None:
            raise click.ClickException(f"no key {key_id!r}")
        accounts.revoke_key(conn, key_id, SystemClock().now())
        _note(conn, "key.disable", f"key/{key_id}", {})

    _write(work)
    click.echo(f"{key_id} revoked")


def _add_key(conn: Connection, name: str, tenant_id: str | None, scopes: tuple[str, ...]) -> str:
    key_id, token, secret_hash = new_api_key()
    accounts.create_key(
        conn,
        key_id=key_id,
        secret_hash=secret_hash,
        name=name,
        tenant_id=tenant_id,
        scopes=" ".join(scopes),
        now=SystemClock().now(),
    )
    _note(conn, "key.add", f"key/{key_id}", {"tenant_id": tenant_id, "scopes": list(scopes)})
    return token


def _tenant(conn: Connection, slug: str) -> Any:
    row = accounts.find_tenant(conn, slug)
    if row is None:
        raise click.ClickException(f"no tenant {slug!r}; see: kora tenant list")
    return row


def _write(work: Callable[[Connection], T]) -> T:
    async def go(database: Database) -> T:
        await _migrated(database)
        return await database.write(work)

    return _with_database(go)


def _read(work: Callable[[Connection], T]) -> T:
    async def go(database: Database) -> T:
        await _migrated(database)
        return await database.read(work)

    return _with_database(go)


# --- checking -----------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--limit", default=50, show_default=True, help="How many violations are listed.")
def verify(limit: int) -> None:
    """Check every invariant over the stored history; exit 1 and a list on a violation."""
    found = _read(verify_history)
    for violation in found[:limit]:
        click.echo(f"{violation.code}\t{violation.tenant_id}\t{violation.subject}\t{violation.sentence}")
    if found:
        raise click.ClickException(f"{len(found)} violation(s)")
    click.echo("0 violations")


async def _on_migrated(database: Database, work: Callable[[Database], Awaitable[Any]]) -> Any:
    await _migrated(database)
    return await work(database)


cli.add_command(replay_commands(lambda work: _with_database(lambda database: _on_migrated(database, work))))
cli.add_command(drill_commands(lambda work: _with_database(lambda database: _on_migrated(database, work))))
cli.add_command(subject_commands(lambda work: _with_database(lambda database: _on_migrated(database, work))))
cli.add_command(evidence_commands(lambda work: _with_database(lambda database: _on_migrated(database, work))))


@cli.command()
@click.option("--rate", type=_ABOVE_ZERO, default=20.0, show_default=True, help="Items a second.")
@click.option("--contacts", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@click.option("--seconds", type=_ABOVE_ZERO, default=30.0, show_default=True)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
@click.option("--key", "token", required=True, help="API key with the intake, read and operate scopes.")
@click.option("--journal", type=click.Path(path_type=Path), default=None, help="Append every accepted item to this file.")
def simulate(rate: float, contacts: int, seconds: float, url: str, token: str, journal: Path | None) -> None:
    """Realistic WhatsApp traffic through the public API, with latency percentiles at the end."""
    from app.simulate import run

    report = asyncio.run(run(url, token, rate=rate, contacts=contacts, seconds=seconds, journal=journal))
    click.echo(report.text())
    if not report.accepted:
        raise click.ClickException("nothing was accepted; is the server up, and may the key write?")


@cli.command()
def doctor() -> None:
    """Say what is missing or weak, and how to fix it; exit 1 when something must be fixed."""
    settings = Settings.from_env(os.environ)
    findings = asyncio.run(_findings(settings))
    for fine, sentence in findings:
        click.echo(f"{'ok  ' if fine else 'FIX '} {sentence}")
    if not all(fine for fine, _ in findings):
        raise click.ClickException("something must be fixed")


async def _findings(settings: Settings) -> list[tuple[bool, str]]:
    found = [(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} (3.11 or later is needed)")]
    prepare_folder(settings.database_url)
    database = Database(settings.database_url, pool_size=1, checkpoints=False)
    try:
        version = await database.read(
            lambda c: c.execute(text("SELECT sqlite_version()" if database.is_sqlite else "SHOW server_version")).scalar()
        )
        found.append((True, f"database answers ({database.dialect} {version})"))
        found.append(await _durability_finding(settings, database))
        revision = await current(database)
        fix = "" if revision == head() else "; run: kora migrate"
        found.append((revision == head(), f"schema is {revision or 'empty'}, the code wants {head()}{fix}"))
        if revision == head():
            found.append(await _channels_finding(settings, database))
            found += await _template_findings(database)
            found.append(await _walls_finding(settings, database))
    except (KoraError, OSError) as error:
        found.append((False, f"database does not answer: {error}; check KORA_DATABASE_URL"))
    finally:
        await database.close()
    found.append(await _redis_finding(settings))
    found.append(_heartbeat_finding(settings))
    weak = settings.secret_key == DEVELOPMENT_SECRET
    note = "; set KORA_SECRET_KEY (openssl rand -hex 32) before production" if weak else ""
    found.append((not (weak and settings.is_production), f"secret key is {'the development default' if weak else 'set'}{note}"))
    free = shutil.disk_usage(Path.cwd()).free // 2**20
    found.append((free > 500, f"{free} MB free on this disk (500 MB or more are needed)"))
    found.append((True, f"serving would listen on {settings.host}:{settings.port}, people reach {settings.public_url}"))
    return found


async def _durability_finding(settings: Settings, database: Database) -> tuple[bool, str]:
    """Whether what the database calls committed is on disk, and whether commands may run beside the server."""
    if not database.is_sqlite:
        fsync = await database.read(lambda c: c.execute(text("SHOW fsync")).scalar())
        if fsync == "on":
            return True, "PostgreSQL waits for the disk (fsync is on; our connections raise synchronous_commit themselves)"
        return not settings.is_production, "fsync is off: a power failure loses what was acknowledged; set fsync = on"
    version = ".".join(map(str, sqlite3.sqlite_version_info))
    if sqlite3.sqlite_version_info >= SQLITE_SOUND_FROM:
        return True, f"SQLite {version} keeps a WAL file that several processes write"
    wanted = ".".join(map(str, SQLITE_SOUND_FROM))
    return True, (
        f"SQLite {version} is older than {wanted}: only the server moves its WAL file, commands beside it never do; "
        "do not open the file with other programs while the server runs"
    )


async def _channels_finding(settings: Settings, database: Database) -> tuple[bool, str]:
    """Whether a critical alert would reach anybody: without a target, a channel is the simulated phone."""
    targets = (await database.read(load_settings, GLOBAL_SCOPE))["channels"]
    route = ROUTING["critical"]
    silent = [name for name in (*route.channels, route.fallback) if not targets.get(name)]
    if not silent:
        return True, "critical alerts have targets on every channel of their route"
    note = f"channels without a target, only the simulated phone shows their alerts: {', '.join(silent)}"
    return not settings.is_production, f"{note}; set them on the Channels page or in /api/v1/settings/global"


async def _template_findings(database: Database) -> list[tuple[bool, str]]:
    """A warning where alerts leave by WhatsApp's Cloud API without an approved template."""
    names = without_template(await database.read(load_settings, GLOBAL_SCOPE))
    if not names:
        return []
    note = "whoever has not written within 24 hours gets no alert; set whatsapp.alert_template"
    return [(True, f"warning: no approved template for alerts on WhatsApp ({', '.join(names)}): {note}")]


def _heartbeat_finding(settings: Settings) -> tuple[bool, str]:
    """Whether anybody outside would notice that this installation is gone, its own alerts with it."""
    if settings.heartbeat_url:
        return True, "a heartbeat tells the outside while all is well"
    return True, "warning: without KORA_HEARTBEAT_URL nobody outside notices when this machine, and its alerts with it, is gone"


async def _walls_finding(settings: Settings, database: Database) -> tuple[bool, str]:
    """Whether row-level security holds the role that the product connects as."""
    if database.is_sqlite:
        return True, "SQLite has no row-level security: the queries' own tenant filters hold clinics apart (docs/security.md)"
    missing = await database.read(missing_walls)
    if missing:
        return False, f"row-level security is not as the code wants it on: {', '.join(sorted({name for _, name in missing}))}"
    role = await database.read(role_above_walls)
    if role is None:
        return True, "row-level security holds clinics apart for this role"
    note = f"role {role!r} is a superuser or has BYPASSRLS, so row-level security does not hold it"
    return not settings.is_production, f"{note}; connect as a role that owns the tables and has neither (docs/operations.md)"


async def _redis_finding(settings: Settings) -> tuple[bool, str]:
    if settings.redis_url is None:
        return True, "no Redis configured: locks are rows in the database (normal mode)"
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(settings.redis_url, socket_timeout=1, socket_connect_timeout=1)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return False, f"Redis does not answer: {error}; check KORA_REDIS_URL (the engine would run on the database's locks)"
    finally:
        await client.aclose()
    return True, "Redis answers"


if __name__ == "__main__":
    main()
