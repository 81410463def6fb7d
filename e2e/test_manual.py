"""What a secretary does with a late request and with a family that asks for a person, in a real browser."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from e2e.clinic import THERAPIST, until
from e2e.conftest import MANAGER, SECRETARY, House, Noise, Plan, live
from e2e.test_looks import AXE, RUN


def clean(page: Page, noise: Noise) -> None:
    """No finding of axe in light and dark, no sideways scroll at 360 px."""
    noise.expected += ("Content Security Policy", "policy: style-src")  # axe tries inline styles of its own
    page.evaluate(AXE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert page.evaluate(RUN) == [], scheme
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1366, "height": 900})


def test_a_secretary_finds_a_late_request_sees_why_and_settles_it_with_a_new_one(
    own_house: House, people: Callable[..., BrowserContext], noise: Noise
) -> None:
    clinic = own_house.clinic
    families = [clinic.family(name) for name in ("Maria", "João", "Ana")]
    page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page, SECRETARY)
    page.goto("/manual")
    live(page)
    late = (datetime.now(UTC) - timedelta(hours=3)).isoformat()  # noqa: TID251  # the test is outside the product
    for contact_id in families:
        clinic.command(contact_id, occurred_at=late)
    rows = page.locator("#manual_rows .task")
    expect(rows).to_have_count(3)  # they appear by themselves
    expect(page.locator("#manual_count")).to_contain_text("3")
    rows.filter(has_text="Maria").get_by_role("link").click()
    detail = page.locator("#manual_detail")
    expect(detail).to_contain_text("O pedido chegou há 3 h e o prazo era 2 h. Fale com a família antes de refazer.")
    clean(page, noise)
    detail.get_by_role("button", name="Eu cuido").click()
    expect(detail).to_contain_text("com Secretary")
    detail.locator("#task_apply summary").click()
    detail.locator("#task_reason").fill("confirmado por telefone")
    detail.locator("input[name=confirmed]").check()
    detail.get_by_role("button", name="Executar: Agendar").click()
    expect(detail).to_contain_text("Executado")
    until(lambda: len(clinic.call("GET", "/manual-tasks")["items"]) == 2, "the task is closed")
    # several at once: it asks first
    page.goto("/manual")
    for row in (0, 1):
        page.locator("#manual_rows .task input[type=checkbox]").nth(row).check()
    page.locator("#close_many summary").click()
    page.locator("#many_outcome").select_option("not_needed")
    page.locator("input[name=sure]").check()
    page.get_by_role("button", name="Encerrar as marcadas").click()
    expect(page.locator("#manual_rows")).to_contain_text("Nenhuma tarefa aqui.")


def test_a_secretary_finds_an_expired_reschedule_sees_why_calls_the_family_and_resolves_it_with_a_new_command(
    own_house: House, people: Callable[..., BrowserContext], noise: Noise
) -> None:
    clinic = own_house.clinic
    contact_id = clinic.family("Maria")
    begin = (clinic.start + timedelta(days=3)).replace(minute=0, second=0, microsecond=0)
    start = begin + timedelta(hours=3)

    def slot(at: datetime) -> dict[str, str]:
        return {"appointment_id": "a-visit", "start": at.isoformat(), "end": (at + timedelta(minutes=50)).isoformat()}

    clinic.command(contact_id, wait=True, payload={"therapist_id": THERAPIST, **slot(begin)})
    late = (datetime.now(UTC) - timedelta(hours=2, minutes=10, seconds=1)).isoformat()  # noqa: TID251  # the test is outside the product
    clinic.command(contact_id, command_type="reschedule", payload=slot(start), entity_version=1, occurred_at=late)
    page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page, SECRETARY)
    page.goto("/manual")
    live(page)
    detail = page.locator("#manual_detail")
    expect(detail).to_contain_text("O pedido chegou há 2 h 10 min e o prazo era 2 h. Fale com a família antes de refazer.")
    expect(detail).to_contain_text("Em jogo")
    assert (detail.get_by_role("link", name="Ligar para").get_attribute("href") or "").startswith("tel:+55")
    detail.get_by_role("button", name="Eu cuido").click()
    detail.locator("#task_apply summary").click()
    detail.locator("#task_reason").fill("a mãe confirmou por telefone")
    detail.locator("input[name=confirmed]").check()
    detail.get_by_role("button", name="Executar: Remarcar").click()
    expect(detail).to_contain_text("Executado")
    after = clinic.call("GET", "/appointments/a-visit")
    assert (datetime.fromisoformat(after["start"]), after["version"]) == (start, 2)
    assert clinic.call("GET", "/manual-tasks")["items"] == []


def test_a_family_asks_for_a_person_who_answers_and_gives_the_conversation_back(
    own_house: House, people: Callable[..., BrowserContext], noise: Noise
) -> None:
    clinic = own_house.clinic
    contact_id = clinic.family("Maria")
    page = people(base_url=own_house.server.url).new_page()
    own_house.sign_in(page, SECRETARY)
    page.goto("/takeovers")
    live(page)
    clinic.message(contact_id, "quero falar com uma pessoa")
    detail = page.locator("#takeover_detail")
    expect(page.locator("#takeover_rows .row-link")).to_have_text("Maria")
    expect(detail).to_contain_text("quero falar com uma pessoa")
    expect(detail).to_contain_text("O robô não responde desde")
    clean(page, noise)
    detail.get_by_role("button", name="Eu cuido").click()
    expect(detail).to_contain_text("com Secretary")
    detail.locator("#takeover_text").fill("Oi, Maria, aqui é a Rita.")
    detail.get_by_role("button", name="Enviar").click()
    expect(detail).to_contain_text("A família já tem resposta")
    detail.locator("#takeover_close summary").click()
    detail.locator("#takeover_reason").fill("resolvido")
    detail.get_by_role("button", name="Devolver").click()
    expect(detail).to_contain_text("Devolvida")
    assert not clinic.call("GET", f"/contacts/{contact_id}")["takeover_active"]


@pytest.fixture
def fast_house(plan: Plan, tmp_path: Path) -> Iterator[House]:
    """A house in which a minute lasts a second, at a clinic that never closes."""
    opened = plan.open(tmp_path, KORA_TIME_SCALE="60")
    always = {day: [["00:00", "23:59"]] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")}
    sla = {"open_hours": 5, "warn_before": 2, "escalate_after": 11}  # a busy screen looks every other second
    settings = {"hours": always, "national_holidays": "", "takeover_sla_min": sla}
    opened.clinic.call("PUT", f"/settings/{opened.clinic.slug}", json=settings)
    yield opened
    opened.server.kill()
    opened.server.log.unlink(missing_ok=True)


def test_the_clock_of_a_takeover_counts_breaches_and_escalates_before_ones_eyes(
    fast_house: House, people: Callable[..., BrowserContext], noise: Noise
) -> None:
    clinic = fast_house.clinic
    contact_id = clinic.family("Maria")
    page = people(base_url=fast_house.server.url).new_page()
    fast_house.sign_in(page, MANAGER)
    page.goto("/takeovers")
    live(page)
    clinic.call("POST", "/takeovers", json={"contact_id": contact_id, "reason": "a família pediu"})
    detail, clock = page.locator("#takeover_detail"), page.locator("#takeover_detail .alert-clock strong")
    expect(clock).to_be_visible()
    first = clock.inner_text()
    expect(clock).not_to_have_text(first)  # it counts by itself
    expect(detail).to_contain_text("agora com: Gestão")  # late
    expect(detail).to_contain_text("agora com: Superadmin")  # and still unanswered
    (ticket,) = clinic.call("GET", "/tickets", params={"kind": "takeover"})["items"]
    assert (ticket["state"], ticket["level"]) == ("escalated", "superadmin")
    detail.locator("#takeover_close summary").click()
    detail.locator("#takeover_reason").fill("resolvido por telefone")
    detail.get_by_role("button", name="Devolver").click()
    expect(detail).to_contain_text("Devolvida")
    assert not clinic.call("GET", f"/contacts/{contact_id}")["takeover_active"]
