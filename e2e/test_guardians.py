"""Permissions on the screen: a person without one is denied, gets one with proof, and is allowed; for every eye."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from e2e.clinic import Clinic
from e2e.conftest import MANAGER, SECRETARY, House, live
from e2e.test_looks import axe, prefer

__all__ = ["axe"]


def wish(clinic: Clinic, contact_id: str, guardian_version: int, day: int) -> Any:
    """A request to schedule for the child Nina; returns the answer with its result."""
    begin = datetime.now(UTC) + timedelta(days=400 + day)  # noqa: TID251  # the test is outside the product
    slot = {"therapist_id": "t-ana", "start": begin.isoformat(), "end": (begin + timedelta(minutes=50)).isoformat()}
    return clinic.command(contact_id, wait=True, patient_id="p-nina", guardian_version=guardian_version, payload=slot)


def test_denied_then_granted_without_scripts_then_allowed(
    people: Callable[..., BrowserContext], house: House, clinic: Clinic
) -> None:
    clinic.call("PUT", "/patients/p-nina", json={"name": "Nina"})
    clinic.call("PUT", "/contacts/c-avo", json={"phone": "+5511977770001", "name": "Avó da Nina"})
    denied = wish(clinic, "c-avo", 0, 1)
    assert (denied["status"], denied["reason"]) == ("blocked_guardian_denied", "no_guardian_link")

    page = people(base_url=house.server.url, java_script_enabled=False).new_page()
    house.sign_in(page, MANAGER)
    page.goto("/guardians?q=nina")
    page.get_by_role("link", name="Nina").click()
    page.locator("input[name=who]").fill("c-avo")
    page.locator("select[name=act]").select_option("schedule")
    page.get_by_role("button", name="Perguntar à política").click()
    expect(page.locator("#answer")).to_contain_text("Não: Avó da Nina não pode")
    expect(page.locator("#answer code")).to_have_text("link-required")

    page.locator("#grant_more summary").click()
    grant = page.locator("#grant_more form")
    expect(grant.locator("input[type=checkbox]:checked")).to_have_count(0)  # everything is off
    grant.locator("#grant_contact").fill("(11) 97777-0001")
    grant.get_by_label("agendar").check()
    grant.locator("select").select_option("document")
    grant.locator("#why_new").fill("guarda compartilhada")
    grant.locator("button").click()
    expect(page.locator("#guardian_links")).to_contain_text("Avó da Nina")
    expect(page.locator("#guardian_links")).to_contain_text("com documento")
    expect(page.locator("#guardian_history")).to_contain_text("guarda compartilhada")
    expect(page.locator("#guardian_history")).to_contain_text("Manager")

    assert wish(clinic, "c-avo", 1, 2)["result"] == "applied_once"
    page.goto("/guardians?patient=p-nina&who=c-avo&act=schedule")
    expect(page.locator("#answer")).to_contain_text("Sim: Avó da Nina pode")
    expect(page.locator("#answer code")).to_have_text("may-schedule")


def test_a_permission_given_elsewhere_appears_and_a_secretary_only_reads(
    people: Callable[..., BrowserContext], house: House, clinic: Clinic
) -> None:
    clinic.call("PUT", "/patients/p-theo", json={"name": "Theo"})
    page = people(base_url=house.server.url).new_page()
    house.sign_in(page, SECRETARY)
    page.goto("/guardians?patient=p-theo")
    live(page)
    expect(page.locator("#guardian_links")).to_contain_text("Nenhum contato pode agir por esta criança")
    rights = {"can_schedule": True, "verified_by": "recepcao", "verification_method": "in_person", "reason": "cadastro"}
    clinic.call("PUT", "/patients/p-theo/guardians/c-pai", json=rights)
    expect(page.locator("#guardian_links")).to_contain_text("c-pai")
    expect(page.locator("#guardian_links form")).to_have_count(0)


@pytest.mark.parametrize(("width", "language", "theme"), [(360, "en", "dark"), (1366, "pt_BR", "light")])
def test_the_page_is_accessible_and_never_scrolls_sideways(
    people: Callable[..., BrowserContext],
    house: House,
    clinic: Clinic,
    axe: Callable[[Page], list[str]],
    width: int,
    language: str,
    theme: str,
) -> None:
    contact = clinic.family("Beatriz Carolina de Albuquerque e Vasconcelos")
    page = people(base_url=house.server.url, viewport={"width": width, "height": 800}).new_page()
    house.sign_in(page, MANAGER)
    prefer(page, language=language, theme=theme)
    for path in ("/guardians", f"/guardians?patient=p-pedro&who={contact}&act=reschedule"):
        page.goto(path)
        live(page)
        for details in page.locator("main details").all():
            details.evaluate("element => { element.open = true; }")
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path
    prefer(page, language="pt_BR", theme="auto")
