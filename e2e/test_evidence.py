"""Evidence on the screen: a pack appears by itself, is downloaded, checked after an upload, and readable for every eye."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from e2e.conftest import MANAGER, House, live
from e2e.test_looks import axe, prefer

__all__ = ["axe"]


@pytest.mark.parametrize(("width", "language", "theme"), [(360, "en", "dark"), (1366, "pt_BR", "light")])
def test_a_pack_is_built_taken_home_and_proven(
    people: Callable[..., BrowserContext],
    house: House,
    axe: Callable[[Page], list[str]],
    tmp_path: Path,
    width: int,
    language: str,
    theme: str,
) -> None:
    contact = house.clinic.family(f"Provada {width}")
    house.clinic.message(contact, "Oi")
    page = people(base_url=house.server.url, viewport={"width": width, "height": 800}).new_page()
    house.sign_in(page, MANAGER)
    prefer(page, language=language, theme=theme)
    page.goto(f"/evidence?kind=contact&subject={contact}")
    live(page)
    page.locator("#evidence_form form button").click()
    row = page.locator("#evidence_rows [data-row]").first
    expect(row).to_contain_text(contact)
    with page.expect_download() as download:
        row.locator("a[download]").click()
    file = tmp_path / "pack.zip"
    download.value.save_as(file)
    page.locator("#pack_file").set_input_files(file)
    page.locator("form[action='/evidence/verify'] button").click()
    said = {"en": "Whole: not one byte was changed", "pt_BR": "Íntegra: nenhum byte mudou"}
    expect(page.locator("#evidence_checked")).to_contain_text(said[language])
    live(page)
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    prefer(page, language="pt_BR", theme="auto")
