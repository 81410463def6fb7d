"""The audit trail and the stories on the screen: what a person did is there, for every eye."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from e2e.conftest import MANAGER, House, live
from e2e.test_looks import axe, prefer

__all__ = ["axe"]


@pytest.mark.parametrize(("width", "language", "theme"), [(360, "en", "dark"), (1366, "pt_BR", "light")])
def test_what_was_changed_is_found_and_both_pages_are_accessible(
    people: Callable[..., BrowserContext], house: House, axe: Callable[[Page], list[str]], width: int, language: str, theme: str
) -> None:
    contact = house.clinic.family("Auditada Silva")
    page = people(base_url=house.server.url, viewport={"width": width, "height": 800}).new_page()
    house.sign_in(page, MANAGER)
    prefer(page, language=language, theme=theme)
    page.goto(f"/audit?object={contact}&check=yes")
    live(page)
    expect(page.locator("#audit_rows")).to_contain_text(f"contacts/{contact}")
    expect(page.locator("#audit_chains")).to_contain_text({"en": "whole", "pt_BR": "íntegra"}[language])
    for path in (f"/audit?object={contact}&check=yes", "/stories"):
        page.goto(path)
        live(page)
        for details in page.locator("main details").all():
            details.evaluate("element => { element.open = true; }")
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
    prefer(page, language="pt_BR", theme="auto")
