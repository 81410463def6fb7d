"""Fixtures of the browser tests: the server as a process of its own, a clinic, signed-in pages that must stay quiet.

Run as a pytest process of its own (`make e2e`): playwright's event loop and the async tests of tests/ do not share one.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, StorageState, expect

from e2e.clinic import Clinic
from tests.server import ASK, Server, init, kora

PASSWORD = "correct horse battery staple"
SECRETARY, MANAGER = "secretaria@clinica.example", "gestora@clinica.example"

expect.set_options(timeout=30_000)  # for what never comes: a busy machine takes long


@pytest.fixture(scope="session")
def base_url() -> str | None:
    """In place of the plugin's own fixture, which pytest 9 warns of; every house has its address."""
    return None


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Debian's Chromium where there is one (or CHROMIUM), else playwright's own."""
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    flags = ["--disable-dev-shm-usage", "--disable-gpu"]  # no GPU here: drawn on the processor, which is quicker than imitating one
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # chromium refuses to start as root without it
    return browser_type_launch_args | ({"executable_path": found} if found else {}) | {"args": flags}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    """A clinic's computer in Sao Paulo."""
    place = {"locale": "pt-BR", "timezone_id": "America/Sao_Paulo", "viewport": {"width": 1366, "height": 768}}
    return {**browser_context_args, **place}


@dataclass
class House:
    """A running server with one clinic and somebody of each role in it."""

    server: Server
    clinic: Clinic
    admin: str
    admin_password: str

    def sign_in(self, page: Page, email: str | None = None) -> None:
        """Through the form, as a person does."""
        page.goto(f"{self.server.url}/login")
        page.locator("#email").fill(email or self.admin)
        page.locator("#password").fill(PASSWORD if email else self.admin_password)
        page.locator("form button").click()
        page.wait_for_url(f"{self.server.url}/")

    def metric(self, name: str) -> float:
        """A number that the server counts."""
        text = ASK.get(f"{self.server.url}/metrics", timeout=30).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)


@dataclass(frozen=True)
class Plan:
    """A database with a clinic and somebody of each role, that no server has open; a house begins as a copy of it."""

    file: Path
    made: dict[str, Any]

    def open(self, folder: Path, **environment: str) -> House:
        """A copy, a server on it, and the clinic's families."""
        url = f"sqlite:///{shutil.copy(self.file, folder / 'kora.db')}"
        server = Server(url, **environment).start()
        clinic = Clinic(server, self.made["tenant"]["id"], "sol", self.made["keys"]["tenant"])
        clinic.furnish()
        return House(server, clinic, self.made["superadmin"]["email"], self.made["superadmin"]["password"])


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Made once: each command is a process."""
    file = tmp_path_factory.mktemp("plan") / "kora.db"
    url = f"sqlite:///{file}"
    made = init(url, "sol")
    for email, role in ((SECRETARY, "secretary"), (MANAGER, "manager")):
        kora(url, "user", "add", email, "--name", role.title(), "--role", role, "--tenant", "sol", "--password", PASSWORD)
    wal = file.with_name("kora.db-wal")
    assert not wal.exists() or wal.stat().st_size == 0, "all of it is in the file"
    return Plan(file, made)


@pytest.fixture(scope="session")
def house(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all tests that leave the server alone."""
    opened = plan.open(tmp_path_factory.mktemp("house"))
    yield opened
    opened.server.kill()
    opened.server.log.unlink(missing_ok=True)


@pytest.fixture
def own_house(plan: Plan, tmp_path: Path) -> Iterator[House]:
    """One that the test may stop, freeze and start again."""
    opened = plan.open(tmp_path)
    yield opened
    opened.server.kill()
    opened.server.log.unlink(missing_ok=True)


@pytest.fixture
def clinic(house: House) -> Clinic:
    """The clinic of `house`."""
    return house.clinic


@dataclass
class Noise:
    """What pages of a context should not do: errors, broken content policy, calls to other hosts."""

    expected: tuple[str, ...] = ()
    """Parts of console messages that a test brings about on purpose."""
    said: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self, context: BrowserContext) -> None:
        """Listen to every page of the context."""
        context.on("console", self._console)
        context.on("weberror", lambda error: self.said.append(f"uncaught: {error.error}"))
        context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        context.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`))"
        )

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in self.expected):
            self.said.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")


@pytest.fixture
def noise() -> Noise:
    """Of the contexts of this test; a test may set `expected`."""
    return Noise()


@pytest.fixture
def people(browser: Browser, browser_context_args: dict[str, Any], noise: Noise) -> Iterator[Callable[..., BrowserContext]]:
    """Browsers of people, each with its own cookies; quiet until the end of the test."""
    opened: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**{**browser_context_args, **options})
        noise.watch(context)
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()
    assert noise.said == []


def _signed_in(browser: Browser, house: House, options: dict[str, Any], email: str | None) -> StorageState:
    context = browser.new_context(**options)
    house.sign_in(context.new_page(), email)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture(scope="session")
def admin_state(browser: Browser, house: House, browser_context_args: dict[str, Any]) -> StorageState:
    """Cookies of a superadmin who signed in."""
    return _signed_in(browser, house, browser_context_args, None)


@pytest.fixture(scope="session")
def secretary_state(browser: Browser, house: House, browser_context_args: dict[str, Any]) -> StorageState:
    """Cookies of a secretary who signed in."""
    return _signed_in(browser, house, browser_context_args, SECRETARY)


@pytest.fixture(scope="session")
def manager_state(browser: Browser, house: House, browser_context_args: dict[str, Any]) -> StorageState:
    """Cookies of a manager who signed in."""
    return _signed_in(browser, house, browser_context_args, MANAGER)


@pytest.fixture
def desk(people: Callable[..., BrowserContext], house: House, admin_state: StorageState) -> BrowserContext:
    """The browser of a superadmin who is signed in at `house`; addresses are relative to it."""
    return people(storage_state=admin_state, base_url=house.server.url)


def live(page: Page) -> None:
    """Wait until the page says that it is live."""
    expect(page.locator("html")).to_have_attribute("data-live", "ok")
