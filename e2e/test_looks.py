"""Every page, for every eye: accessible by axe (WCAG 2.2 AA), no sideways scrolling, targets that a thumb hits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, StorageState, expect

from e2e.clinic import Clinic
from e2e.conftest import House, Noise, live

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RUN = """async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const found = await axe.run(document, {runOnly: tags, preload: false});
    const where = (node) => node.target.join(' ') + ' ' + (node.any[0]?.message ?? '');
    return found.violations.map((v) => `${v.id}: ${v.help} | ` + v.nodes.slice(0, 4).map(where).join(' | '));
}"""
TRANSFERRED = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .reduce((sum, entry) => sum + entry.transferSize, 0)"""
WIDTHS = (320, 360, 768, 1024, 1366)


@pytest.fixture(scope="session")
def lane(house: House) -> str:
    """The address of a contact with messages, decided and waiting requests, and rows for every list."""
    clinic: Clinic = house.clinic
    contact = clinic.family("Beatriz Carolina de Albuquerque e Vasconcelos")
    clinic.message(contact, "Bom dia! Preciso mudar o horário de quinta-feira, por favor.")
    clinic.command(contact, commit_order=1, conversation_version=2, wait=True)
    clinic.command(contact, "cancel", commit_order=2, conversation_version=2, payload={"appointment_id": "none"}, wait=True)
    clinic.waiting(contact, 5, conversation_version=2)
    clinic.waiting(contact, 6, command_type="takeover", payload={"reason": "pediu uma pessoa"})
    return f"/contacts/sol/{contact}"


@pytest.fixture
def axe(noise: Noise) -> Callable[[Page], list[str]]:
    """Runs axe on a page; returns what it finds. It tries inline styles of its own, which the content policy stops."""
    noise.expected += ("Content Security Policy", "policy: style-src")

    def run(page: Page) -> list[str]:
        page.evaluate(AXE)
        found: list[str] = page.evaluate(RUN)
        return found

    return run


def pages(lane: str) -> tuple[str, ...]:
    """All addresses."""
    return ("/", "/queue", "/queue?contact=ninguem", "/contacts", "/contacts?q=ninguem", lane)


OF_A_SUPERADMIN = ("/safe-mode",)
"""Addresses that other roles do not have."""


def prefer(page: Page, **values: str) -> None:
    """Store the person's language or theme, as the menu does."""
    token = page.locator("input[name=_csrf]").first.get_attribute("value") or ""
    answer = page.request.post("/preferences", form={"_csrf": token, "next": "/", **values})
    assert answer.ok


@pytest.mark.parametrize(
    ("language", "theme", "width"),
    # every pair of two of the three is met
    [("pt_BR", "light", 360), ("en", "light", 1366), ("pt_BR", "dark", 1366), ("en", "dark", 360)],
)
def test_axe_finds_nothing_on_any_page(
    people: Callable[..., BrowserContext],
    house: House,
    lane: str,
    secretary_state: StorageState,
    axe: Callable[[Page], list[str]],
    language: str,
    theme: str,
    width: int,
) -> None:
    context = people(storage_state=secretary_state, base_url=house.server.url, viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto("/")
    prefer(page, language=language, theme=theme)
    found = {}
    for path in pages(lane):
        page.goto(path)
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        expect(page.locator("html")).to_have_attribute("lang", language.replace("_", "-"))
        live(page)
        found[path] = axe(page)
    prefer(page, language="pt_BR", theme="auto")  # other tests of this process read Portuguese
    assert {path: problems for path, problems in found.items() if problems} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["pt-BR", "en"])
@pytest.mark.parametrize("width", [360, 1366])
def test_axe_finds_nothing_on_the_sign_in_page(
    people: Callable[..., BrowserContext], house: House, axe: Callable[[Page], list[str]], scheme: Any, language: str, width: int
) -> None:
    page = people(
        base_url=house.server.url, locale=language, color_scheme=scheme, viewport={"width": width, "height": 800}
    ).new_page()
    page.goto("/login")
    expect(page.locator("html")).to_have_attribute("lang", language)
    assert axe(page) == []


def test_axe_finds_nothing_in_menus_help_and_the_disconnected_banner(
    desk: BrowserContext, lane: str, axe: Callable[[Page], list[str]]
) -> None:
    page = desk.new_page()
    page.goto(lane)
    live(page)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert axe(page) == []
    page.keyboard.press("Escape")
    page.locator("button.person").click()
    expect(page.locator("#menu_user")).to_be_visible()
    assert axe(page) == []
    page.keyboard.press("Escape")
    for details in page.locator("main details").all():
        details.evaluate("element => { element.open = true; }")
    page.evaluate("document.getElementById('banner_off').hidden = false")
    assert axe(page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_scrolls_sideways(
    people: Callable[..., BrowserContext], house: House, lane: str, admin_state: StorageState, width: int
) -> None:
    context = people(storage_state=admin_state, base_url=house.server.url, viewport={"width": width, "height": 800})
    page = context.new_page()
    for path in (*pages(lane), *OF_A_SUPERADMIN):
        page.goto(path)
        live(page)
        assert _wider(page) <= 0, path
    stranger = people(base_url=house.server.url, viewport={"width": width, "height": 800}).new_page()
    stranger.goto("/login")
    assert _wider(stranger) <= 0


@pytest.mark.parametrize("width", [360, 1366])
def test_targets_are_at_least_24_pixels(
    people: Callable[..., BrowserContext], house: House, lane: str, admin_state: StorageState, width: int
) -> None:
    context = people(storage_state=admin_state, base_url=house.server.url, viewport={"width": width, "height": 800})
    page = context.new_page()
    for path in (*pages(lane), *OF_A_SUPERADMIN):
        page.goto(path)
        live(page)
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, summary, select, input:not([type=hidden]), nav a, a.btn, .row-link')]
                .filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.closest('.vh'))
                .map((e) => [e, e.getBoundingClientRect()])
                .filter(([, box]) => box.width > 1 && (box.height < 24 || box.width < 24) && box.bottom > 0)
                .map(([e, box]) => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 30)} ${box.width}x${box.height}`)"""
        )
        assert small == [], path


def test_without_scripts_the_first_paint_shows_the_true_state(
    people: Callable[..., BrowserContext], house: House, lane: str, admin_state: StorageState
) -> None:
    page = people(storage_state=admin_state, base_url=house.server.url, java_script_enabled=False).new_page()
    page.goto(f"/queue?contact={lane.rpartition('/')[2]}")
    expect(page.locator("#queue_rows tr[data-row]")).to_have_count(2)
    expect(page.locator("noscript p")).to_be_visible()
    page.locator("#queue_rows .row-link").first.click()
    expect(page.locator("h1")).to_contain_text("Beatriz")


def test_a_first_load_is_small_and_a_second_one_smaller(
    people: Callable[..., BrowserContext], house: House, admin_state: StorageState
) -> None:
    context = people(storage_state=admin_state, base_url=house.server.url)
    page = context.new_page()
    page.goto("/queue")
    live(page)
    first = page.evaluate(TRANSFERRED)
    page.goto("/contacts")
    live(page)
    second = page.evaluate(TRANSFERRED)
    assert 30 * 1024 < first < 250 * 1024
    assert 0 < second < 30 * 1024


def _wider(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
