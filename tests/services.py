"""The real servers that tests run against: PostgreSQL and Redis, each on a private port of 127.0.0.1.

`REDIS_SERVER` and `PG_BIN` name the binaries (set by `scripts/dev.py`); otherwise the usual places are searched. A
binary that cannot be found is an error with one clear sentence, never a skipped test.
"""

import asyncio
import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import asyncpg

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
ANSWER_LIMIT_S = 10.0


class MissingBinary(RuntimeError):
    """A server that the tests need is not installed."""


_LOWEST_PORT, _PORTS = 12_000, 20_000
"""Below what Linux gives to whoever asks for any port (from 32768 on), also for its end of a connection."""
_ports: list[IO[bytes]] = []
"""Open files whose locks say that a port is this process's, as long as it lives."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and which no other process of tests is given, also while it is not used.

    A server listens a moment after it was told its port, and is stopped and started again: what anybody may be given meanwhile,
    sooner or later somebody is.
    """
    folder = Path(tempfile.gettempdir()) / f"kora-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for _ in range(_PORTS):
        port = _LOWEST_PORT + secrets.randbelow(_PORTS)
        lock = (folder / str(port)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:  # somebody has it
            lock.close()
            continue
        _ports.append(lock)
        return port
    raise RuntimeError("no port is free")


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    """Poll `condition` until it holds; raises with `what` when it does not within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {limit_s:g} s")
        time.sleep(0.01)


def busy() -> float:
    """Where others use the machine, too, everything takes as many times longer."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def answers(port: int, request: bytes, expected: bytes, limit_s: float = ANSWER_LIMIT_S) -> bool:
    """Whether whoever listens on the port answers `request` with `expected`, within the limit."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as sock:
            sock.sendall(request)
            return sock.recv(256).startswith(expected)
    except OSError:
        return False


class RedisServer:
    """A Redis of its own, without persistence, that a test may hurt."""

    def __init__(self) -> None:
        self.binary = _redis_binary()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = Path(tempfile.mkdtemp(prefix="kora-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running server's process id."""
        assert self._process is not None, "Redis is not running"
        return self._process.pid

    def start(self) -> None:
        """Start empty on the same port; returns once it answers. Does nothing while it runs."""
        if self._process is not None:
            return
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(self._folder)}
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self.binary, *(word for k, v in options.items() for word in (f"--{k}", v))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: answers(self.port, b"PING\r\n", b"+PONG"), "redis-server must answer PING")
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"redis-server did not start: {(self._folder / 'log').read_text()[-2000:]}") from error

    def kill(self) -> None:
        """SIGKILL: connections are reset, everything in it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_LIMIT_S)
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def flush(self) -> None:
        """FLUSHALL: every lock and key is forgotten."""
        assert answers(self.port, b"FLUSHALL\r\n", b"+OK"), "Redis did not flush"

    def restart(self) -> None:
        """Kill and start again, empty, on the same port."""
        self.kill()
        self.start()

    def heal(self) -> None:
        """Whatever a test did: running, answering, empty."""
        if self._process is None or self._process.poll() is not None:
            self._process = None
            self.start()
        else:
            self.resume()
        # a slow command left behind by a test may still run
        wait_until(lambda: answers(self.port, b"FLUSHALL\r\n", b"+OK"), "Redis must answer again")

    def close(self) -> None:
        """Stop for good and remove the folder."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class PostgresServer:
    """A PostgreSQL cluster of its own in a temporary folder.

    `durable=False` (the default) switches fsync off: tests of order and constraints need no disk; a test that asks for
    durability starts its own with `durable=True`. The product connects as `kora`, who owns its databases and is no
    superuser, so that row-level security holds in every test as it does in production. PostgreSQL refuses to run as
    root, so as root it runs as `postgres` or `nobody`.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.bin = _postgres_bin()
        self.port = free_port()
        self.durable = durable
        self._user = _unprivileged_user()
        self._folder = Path(tempfile.mkdtemp(prefix="kora-pg-", dir=None if durable else _memory_folder()))
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self._has_role = False
        self._version = _major_version(self.bin)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        done = subprocess.run(
            [
                f"{self.bin}/initdb",
                "-D",
                str(self._folder / "data"),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ],
            user=self._user,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stderr[-2000:]}")

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None, "PostgreSQL is not running"
        return self._process.pid

    def start(self) -> None:
        """Start on the same port; returns once it accepts connections. Does nothing while it runs."""
        if self._process is not None:
            return
        sync = "on" if self.durable else "off"
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": sync,
            "full_page_writes": sync,
            "synchronous_commit": "on",
            "max_connections": "100",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "checkpoint_timeout": "1h",
            "shared_buffers": "64MB",
            "autovacuum_naptime": "10s",
            "timezone": "UTC",
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [f"{self.bin}/postgres", "-D", str(self._folder / "data"), *(f"--{k}={v}" for k, v in options.items())],
                user=self._user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._ready, "PostgreSQL must accept connections")
        except TimeoutError as error:
            self.stop(signal.SIGQUIT)
            raise RuntimeError(f"PostgreSQL did not start: {self.log()[-2000:]}") from error
        if not self._has_role:
            self.execute("CREATE ROLE kora LOGIN")
            self._has_role = True

    def _ready(self) -> bool:
        done = subprocess.run(
            [f"{self.bin}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], stdin=subprocess.DEVNULL, check=False
        )
        return done.returncode == 0

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast shutdown (connections are cut, data is kept); SIGQUIT: as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_LIMIT_S)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start again with the same data."""
        self.stop(how)
        self.start()

    def log(self) -> str:
        """What the server wrote."""
        return (self._folder / "log").read_text(errors="replace")

    def url(self, database: str, *, user: str = "kora") -> str:
        """SQLAlchemy URL of one of its databases, as the product's role or as the superuser `postgres`."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def new_name(self) -> str:
        """A database name not used before."""
        self._count += 1
        return f"test_{self._count}"

    def create_database(self, name: str, *, template: str = "template0") -> None:
        """CREATE DATABASE from a template that nobody is connected to."""
        # copying files is the fastest way where nothing has to reach a disk (before PostgreSQL 15 it was the only way)
        strategy = " STRATEGY FILE_COPY" if self._version >= 15 and not self.durable else ""
        self.execute(f'CREATE DATABASE "{name}" OWNER kora TEMPLATE "{template}"{strategy}')

    def drop_database(self, name: str) -> None:
        """DROP DATABASE, connections included."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement as the superuser, outside any running loop."""

        async def run() -> None:
            conn = await asyncpg.connect(self.url(database, user="postgres"), timeout=START_LIMIT_S)
            try:
                await conn.execute(statement)
            finally:
                await conn.close(timeout=STOP_LIMIT_S)

        _outside_any_loop(run)

    def close(self) -> None:
        """Stop for good and remove the data."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)


def _outside_any_loop(run: Callable[[], object]) -> None:
    """Run a coroutine function to its end, also when this thread already runs a loop."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(run())).result()  # type: ignore[arg-type]  # callers pass coroutine functions


def _redis_binary() -> str:
    named = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    if not named or not Path(named).exists():
        raise MissingBinary("redis-server is missing: run `make test`, which installs it, or set REDIS_SERVER to its path")
    return named


def _postgres_bin() -> Path:
    named = os.environ.get("PG_BIN")
    candidates = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    if not named and on_path:
        candidates.append(Path(on_path).resolve().parent)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise MissingBinary("PostgreSQL is missing: run `make test`, which installs it, or set PG_BIN to the folder of initdb")


def _major_version(folder: Path) -> int:
    """15 out of `postgres (PostgreSQL) 15.18 (Debian ...)`."""
    said = subprocess.run([f"{folder}/postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split(")")[1].split(".")[0].split()[0])


def _memory_folder() -> str | None:
    """A file system in memory with room to spare (copying a template there is several times faster), if there is one."""
    folder = "/dev/shm"
    roomy = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 1 << 30
    return folder if roomy else None


def _unprivileged_user() -> str | None:
    """Who runs PostgreSQL when we are root (it refuses to run as root); None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise MissingBinary("PostgreSQL cannot run as root and there is no user `postgres` or `nobody` to run it as")
