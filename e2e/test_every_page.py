"""Every page of the registry for every role that has it: accessible, never too wide, usable at 200 %; two people at one task."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, StorageState, expect

from app.web.console.pages import MANAGER, PAGES, SECRETARY, SUPERADMIN
from e2e.clinic import Clinic
from e2e.conftest import House, Noise, live
from e2e.test_looks import AXE, RUN, prefer

LOOKS = (("dark", "en", 360), ("light", "pt_BR", 1366), ("dark", "pt_BR", 1366), ("light", "en", 360))
"""Theme, language and width; each page gets another one for each role, so that all are met."""


def late_request(clinic: Clinic, name: str) -> str:
    """A task of manual review: the id."""
    moment = datetime.now(UTC) - timedelta(hours=3)  # noqa: TID251  # the test is outside the product
    contact_id = clinic.family(name)
    clinic.command(contact_id, occurred_at=moment.isoformat(), wait=True)
    tasks = clinic.call("GET", "/manual-tasks")["items"]
    return str(next(t["task_id"] for t in tasks if t["contact_id"] == contact_id))


@pytest.fixture
def states(admin_state: StorageState, manager_state: StorageState, secretary_state: StorageState) -> dict[str, StorageState]:
    """Cookies by role."""
    return {SUPERADMIN: admin_state, MANAGER: manager_state, SECRETARY: secretary_state}


@pytest.mark.parametrize(("role", "begin"), [(SUPERADMIN, 0), (MANAGER, 1), (SECRETARY, 2)])
def test_axe_finds_nothing_on_the_pages_of_a_role_with_all_details_open(
    people: Callable[..., BrowserContext],
    house: House,
    states: dict[str, StorageState],
    noise: Noise,
    role: str,
    begin: int,
) -> None:
    noise.expected += ("Content Security Policy", "policy: style-src")  # axe tries inline styles of its own
    late_request(house.clinic, "Página Prado")
    page = people(storage_state=states[role], base_url=house.server.url).new_page()
    own = [p.url for p in PAGES if role in p.roles]
    looks = [LOOKS[(n + begin) % len(LOOKS)] for n in range(len(own))]
    found: dict[str, Any] = {}
    for theme, language, width in LOOKS:
        page.goto("/")
        prefer(page, theme=theme, language=language)
        page.set_viewport_size({"width": width, "height": 800})
        for url in (url for url, look in zip(own, looks, strict=True) if look == (theme, language, width)):
            page.goto(url)
            page.evaluate("for (const more of document.querySelectorAll('main details')) more.open = true")
            page.evaluate(AXE)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            found[f"{url} {theme} {language} {width}"] = page.evaluate(RUN) + ([f"{wide} px too wide"] if wide > 0 else [])
    prefer(page, theme="auto", language="pt_BR")
    assert len(found) == len(own)
    assert {where: problems for where, problems in found.items() if problems} == {}


def test_at_200_percent_every_page_fits_and_its_main_part_can_be_used(
    people: Callable[..., BrowserContext], house: House, admin_state: StorageState
) -> None:
    page = people(storage_state=admin_state, base_url=house.server.url, viewport={"width": 683, "height": 384}).new_page()
    for entry in PAGES:
        page.goto(entry.url)
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, entry.url
        assert page.evaluate("document.querySelector('main h1').getBoundingClientRect().top") < 384, entry.url


def test_two_people_see_each_others_claim_and_the_slower_one_gets_409_with_what_she_typed(
    people: Callable[..., BrowserContext], house: House, states: dict[str, StorageState], noise: Noise
) -> None:
    noise.expected = ("status of 409",)
    task_id = late_request(house.clinic, "Duas Pessoas")
    first, second = (people(storage_state=states[r], base_url=house.server.url).new_page() for r in (SECRETARY, MANAGER))
    for page in (first, second):
        page.goto(f"/manual?task={task_id}")
        live(page)
    second.locator("#task_outcome").select_option("duplicate")
    second.locator("#task_note").fill("já estava marcado")  # held: she does not see what comes
    first.locator("#manual_detail").get_by_role("button", name="Eu cuido").click()
    expect(second.locator("#manual_rows")).to_contain_text("Secretary")  # the list tells her
    with second.expect_response("**/manual/act*") as answered:
        second.get_by_role("button", name="Encerrar esta tarefa").click()
    assert answered.value.status == 409
    expect(second.locator("#refusal")).to_contain_text("Nada foi feito")
    expect(second.locator("#refusal")).to_contain_text("já estava marcado")
    expect(second.locator("#manual_detail")).to_contain_text("com Secretary")
    assert second.url.endswith(f"/manual?task={task_id}")
    assert house.clinic.call("GET", f"/manual-tasks/{task_id}")["status"] == "claimed"


def test_manual_review_works_without_javascript(
    people: Callable[..., BrowserContext], house: House, secretary_state: StorageState
) -> None:
    task_id = late_request(house.clinic, "Sem Script")
    page = people(storage_state=secretary_state, base_url=house.server.url, java_script_enabled=False).new_page()
    page.goto(f"/manual?task={task_id}")
    page.get_by_role("button", name="Eu cuido").click()
    expect(page.locator("#manual_detail")).to_contain_text("com Secretary")
    page.locator("#task_outcome").select_option("done_with_family")
    page.locator("#task_note").fill("falei por telefone")
    page.get_by_role("button", name="Encerrar esta tarefa").click()
    expect(page.locator("#manual_detail")).to_contain_text("Resolvido com a família")
    assert house.clinic.call("GET", f"/manual-tasks/{task_id}")["resolution"] == "done_with_family"


def test_a_filter_is_shared_by_its_address_kept_as_a_view_and_left_with_the_back_button(
    desk: BrowserContext, clinic: Clinic
) -> None:
    clinic.waiting(clinic.family("Visão Guardada"), 3)
    page = desk.new_page()
    page.goto("/queue")
    live(page)
    page.locator("#filter_contact").fill("Visão Guard")
    page.wait_for_url("**/queue?*contact=*")
    page.locator("#keep_view summary").click()
    page.locator("#view_name").fill("Só ela")
    page.get_by_role("button", name="Guardar", exact=True).click()
    view = page.locator(".view a", has_text="Só ela")
    expect(view).to_have_attribute("aria-current", "true")
    shared = desk.new_page()
    shared.goto(page.url)
    expect(shared.locator("#queue_rows tr[data-row]")).to_have_count(1)
    page.goto("/queue")
    view.click()
    expect(page.locator("#queue_rows tr[data-row]")).to_have_count(1)
    page.go_back()
    expect(page.locator("#filter_contact")).to_have_value("")
    page.get_by_role("button", name="Apagar a visão Só ela").click()
    expect(view).to_have_count(0)


def test_the_palette_goes_to_a_page_and_to_a_contact(desk: BrowserContext, clinic: Clinic) -> None:
    clinic.family("Zulmira Paleta")
    page = desk.new_page()
    page.goto("/stories")
    live(page)
    page.keyboard.press("Control+k")
    page.keyboard.type("simulacoes")  # without accents
    expect(page.locator("#palette_list li").first).to_have_text("Simulações")
    page.locator("#palette_text").fill("zulmira")
    expect(page.locator("#palette_list li")).to_have_text(["Zulmira Paletacontato"])
    page.keyboard.press("Enter")
    page.wait_for_url("**/contacts/sol/**")


def printable(page: Page) -> list[str]:
    """What stands on paper that should not: navigation, banners of the screen, closed stories."""
    page.emulate_media(media="print")
    return [name for name in (".topbar", ".side", ".tabs", "#live_chip") if page.locator(name).is_visible()]


@pytest.mark.parametrize("path", ["/evidence", "/safe-mode", "/queue", "/manual"])
def test_on_paper_there_is_the_content_and_no_navigation(desk: BrowserContext, path: str) -> None:
    page = desk.new_page()
    page.goto(path)
    assert printable(page) == []
    expect(page.locator("main h1")).to_be_visible()
