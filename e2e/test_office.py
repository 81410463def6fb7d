"""Settings, shift handover and the family's page: their main acts in a browser, for every eye."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from e2e.conftest import House, live
from e2e.test_looks import axe, prefer

__all__ = ["axe"]


def fits(page: Page) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.mark.parametrize(("width", "language", "theme"), [(360, "pt_BR", "dark"), (1366, "en", "light")])
def test_a_change_is_seen_before_it_is_saved_and_both_pages_are_accessible(
    desk: BrowserContext, house: House, axe: Callable[[Page], list[str]], width: int, language: str, theme: str
) -> None:
    contact = house.clinic.family("Passagem Silva")
    house.clinic.waiting(contact, 4)
    page = desk.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    prefer(page, language=language, theme=theme)
    page.goto("/settings")
    live(page)
    page.locator("[name='clock_skew_s']").fill(str(width))
    page.locator("[value=preview]").click()
    expect(page.locator("#settings_diff ins")).to_have_text(f"{width} s")
    assert axe(page) == []
    assert fits(page)
    page.locator("#settings_reason").fill("relógios diferentes")
    page.locator("[value=save]").click()
    expect(page.locator("#settings_history")).to_contain_text("relógios diferentes")
    page.goto("/shift")
    live(page)
    expect(page.locator("#shift_waiting")).to_be_visible()
    assert axe(page) == []
    assert fits(page)
    page.emulate_media(media="print")
    expect(page.locator(".topbar")).to_be_hidden()
    expect(page.locator("#shift_report .no-print")).to_be_hidden()
    expect(page.locator("#shift_tasks")).to_be_visible()
    prefer(page, language="pt_BR", theme="auto")


@pytest.mark.parametrize(("width", "language", "theme"), [(360, "en", "dark"), (1366, "pt_BR", "light")])
def test_a_person_schedules_on_the_familys_page_and_looks_back(
    desk: BrowserContext, house: House, axe: Callable[[Page], list[str]], width: int, language: str, theme: str
) -> None:
    contact = house.clinic.family("Remarcada Souza")
    page = desk.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    prefer(page, language=language, theme=theme)
    page.goto(f"/contacts/sol/{contact}")
    live(page)
    page.locator("#lane_new > summary").click()
    form = page.locator("#lane_new form")
    form.locator("[name=date]").fill("2031-05-20")
    form.locator("[name=time]").fill("09:00" if width == 360 else "11:00")
    form.locator("[name=reason]").fill("a mãe ligou")
    form.locator("[name=confirmed]").check()
    form.locator("button").click()
    expect(page.locator("#lane_done .sign")).to_have_text({"en": "Done", "pt_BR": "Feito"}[language])
    page.locator("#known form button").click()
    expect(page.locator("#known_facts")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")  # what is halfway under the bar at the top is no small target
    assert axe(page) == []
    assert fits(page)
    page.locator("#lane_facts a.row-link").first.click()
    expect(page.locator("#lane_ask [value=reschedule]")).to_have_count(1)
    page.evaluate("scrollTo(0, 0)")
    assert axe(page) == []
    assert fits(page)
    prefer(page, language="pt_BR", theme="auto")
