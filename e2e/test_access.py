"""Accounts: a superadmin lets somebody in and gives a machine a key; both pages for every eye."""

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from e2e.conftest import House, live
from e2e.test_looks import axe, prefer

__all__ = ["axe"]


@pytest.mark.parametrize(("width", "language", "theme"), [(360, "en", "dark"), (1366, "pt_BR", "light")])
def test_a_new_person_signs_in_with_the_password_that_was_shown_once(
    people: Callable[..., BrowserContext],
    desk: BrowserContext,
    house: House,
    axe: Callable[[Page], list[str]],
    width: int,
    language: str,
    theme: str,
) -> None:
    page = desk.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    prefer(page, language=language, theme=theme)
    page.goto("/access")
    live(page)
    email = f"nova-{width}@clinica.example"
    page.locator("#user_name").fill("Nova Pessoa")
    page.locator("#user_email").fill(email)
    page.locator("input[name=clinics]").first.check()
    page.locator("#reason_add").fill("entrou na equipe")
    page.locator("form:has([value=add_user]) button").click()
    password = page.locator("#secret_value").inner_text()
    for address in ("/access", page.locator(".access-list a", has_text="Nova Pessoa").first.get_attribute("href"), "/account"):
        assert address is not None
        page.goto(address)
        live(page)
        assert password not in page.content()
        for details in page.locator("main details").all():
            details.evaluate("element => { element.open = true; }")
        assert axe(page) == [], address
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, address
    page.goto("/access?tab=keys")
    page.locator("#key_name").fill("n8n")
    page.locator("#reason_add_key").fill("integração")
    page.locator("form:has([value=add_key]) button").click()
    expect(page.locator("#secret_value")).to_contain_text("kora_")
    assert axe(page) == []
    prefer(page, language="pt_BR", theme="auto")
    newcomer = people(base_url=house.server.url).new_page()
    newcomer.goto("/login")
    newcomer.locator("#email").fill(email)
    newcomer.locator("#password").fill(password)
    newcomer.locator("form button").click()
    newcomer.wait_for_url(f"{house.server.url}/")
    newcomer.goto("/account")
    expect(newcomer.locator(".session")).to_have_count(1)
