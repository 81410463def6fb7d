"""The product as a process of its own: `kora` commands and a server that a test may kill."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Final

import httpx

from tests.services import STOP_LIMIT_S, free_port

ROOT = Path(__file__).parent.parent
START_LIMIT_S = 120.0
ENTRY = "from app.cli import main; main()"
"""What a process of the product runs."""
ONE_EACH: Final = httpx.Limits(max_keepalive_connections=0)
"""A connection of its own for each request: one that was left open to a killed node says nothing about what arrived."""
ASK: Final = httpx.Client(trust_env=False, limits=ONE_EACH, timeout=30)
"""Asks any server. A client for each request would read the certificates of all authorities each time: 30 ms of the processor."""


def environment(database_url: str, **extra: str) -> dict[str, str]:
    """The environment of a process on this database, without anything of KORA_ from outside."""
    # compiled modules are kept aside: a process that compiles everything anew takes seconds to start
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KORA_") and k != "PYTHONDONTWRITEBYTECODE"}
    cache = os.environ.get("PYTHONPYCACHEPREFIX") or str(Path(tempfile.gettempdir()) / "kora-test-pycache")
    ours = {"KORA_DATABASE_URL": database_url, "KORA_ENV": "test", "PYTHONUNBUFFERED": "1", "PYTHONPYCACHEPREFIX": cache}
    return clean | ours | extra


def kora(database_url: str, *words: str, **extra: str) -> str:
    """Run one `kora` command to its end; returns what it printed. Raises with its words when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, *words],
        cwd=ROOT,
        env=environment(database_url, **extra),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"kora {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def init(database_url: str, slug: str = "sol") -> dict[str, Any]:
    """`kora init --json`: the first tenant, the superadmin and two keys."""
    document: dict[str, Any] = json.loads(kora(database_url, "init", "--json", "--tenant", slug))
    return document


class Server:
    """One `kora` process that serves HTTP on a port of its own; as a context it is killed at the end."""

    program: ClassVar[tuple[str, ...]] = ("-c", ENTRY)
    """What Python runs; a test may put something around it."""

    def __init__(self, database_url: str, *words: str, entry: str | None = None, **extra: str) -> None:
        """`entry`: code in the place of `program`, for one whose limits or clock are others, so that a test reaches them."""
        self.database_url = database_url
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(tempfile.mkstemp(prefix="kora-server-", suffix=".log")[1])
        self._words = words or ("serve",)
        self.entry = entry
        self._env = environment(database_url, KORA_PORT=str(self.port), **extra)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        """Start on the same port; returns once `/healthz` answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *(("-c", self.entry) if self.entry else self.program), *self._words],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not self._answers():
            assert self._process.poll() is None, f"the server ended with {self._process.returncode}: {self.tail()}"
            assert time.monotonic() < deadline, f"the server does not answer: {self.tail()}"
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            return ASK.get(f"{self.url}/healthz", timeout=1).is_success
        except httpx.HTTPError:
            return False

    @property
    def pid(self) -> int | None:
        """The process's id; None while it does not run."""
        return self._process.pid if self._process is not None else None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_LIMIT_S)
            self._process = None

    def stop(self, how: signal.Signals = signal.SIGTERM, limit_s: float = STOP_LIMIT_S) -> int:
        """Ask it to end; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        code = self._process.wait(limit_s)
        self._process = None
        return code

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is said."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def tail(self, size: int = 3000) -> str:
        """The last of what it printed."""
        return self.log.read_text(errors="replace")[-size:]

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self.log.is_file():  # a test may have named a device instead
            self.log.unlink()
