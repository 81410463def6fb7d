"""The page of safe mode: who sees it, what it says, and that its forms do what the API does."""

import re

import httpx
import pytest
from litestar import Litestar

from app.bootstrap import Services
from app.clock import ManualClock
from app.store.tables import AuditEntry, table
from app.store.views.safe_mode import episodes
from tests.web.api_client import Api, open_api
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in
from tests.web.safe_mode_driver import (
    ALL_TICKS,
    DONE,
    acknowledge,
    break_channel,
    look,
    post,
    raise_alert,
    send,
    serve,
    tell,
)

PAGE = "/safe-mode?clinic=clinica-aurora"


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient, tenant: Clinic, key: dict[str, str]) -> Api:
    return Api(client, services, tenant, key)


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The page asks nothing of the database that its store functions are not tested for on both."""
    url: str = request.getfixturevalue("sqlite_url")
    return url


async def words(browser: Browser, path: str = PAGE) -> str:
    """The text of a page, without tags."""
    answer = await browser.client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))


async def submit(browser: Browser, act: str, scope: str, **fields: str) -> httpx.Response:
    data = {"_csrf": browser.csrf_token, "scope": scope, "clinic": "clinica-aurora", **fields}
    return await browser.client.post(f"/safe-mode/{act}", data=data)


async def test_a_superadmin_switches_it_on_recovers_and_leaves_with_forms_alone(
    api: Api, admin_session: Browser, services: Services, manual_clock: ManualClock
) -> None:
    assert "Modo seguro desligado" in await words(admin_session)
    scope = api.clinic.tenant_id
    answer = await submit(admin_session, "enter", scope, reason="o Redis parou")
    assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
    assert (await api.get("/safe-mode"))["causes"][0]["summary"] == "o Redis parou"
    await submit(admin_session, "exit", scope)
    refused = await words(admin_session)
    assert "A saída foi recusada. Falta: o que foi feito, o passo do roteiro, marcar: confirmação conferida" in refused
    ticks = dict.fromkeys(ALL_TICKS, "on")
    await submit(admin_session, "recovery", scope, action="Redis reiniciado", runbook_step="redis-3", **ticks)
    await look(api, manual_clock)
    await submit(admin_session, "exit", scope)
    assert "Saindo do modo seguro: esperando dez minutos no verde" in await words(admin_session)
    await look(api, manual_clock, 21)
    story = await words(admin_session)
    assert "Modo seguro desligado" in story
    for sentence in ("Modo seguro ligado: o Redis parou.", "Recuperação: Redis reiniciado · redis-3.", "Normal de novo."):
        assert sentence in story
    assert "Superadmin" in story
    episode_id = (await services.db.read(episodes, None, 1))[0].episode_id
    alone = await words(admin_session, f"{PAGE}&episode={episode_id}")
    for fact in ("Passo do roteiro redis-3", "Registrado por Superadmin", "Lista de conferência 4 de 4"):
        assert fact in alone
    assert "Ligar o modo seguro" not in alone
    assert (await admin_session.client.get(f"{PAGE}&episode=nowhere", headers={"Accept": "text/html"})).status_code == 404


@pytest.mark.story("S-PC-03-004")
async def test_the_strip_goes_back_to_zero_and_names_the_check_that_did_it(
    api: Api, admin_session: Browser, manual_clock: ManualClock
) -> None:
    await post(api, "enter", {"reason": "teste"})
    await look(api, manual_clock, 13)
    strip = await words(admin_session)
    assert "6 min de 10 min no verde" in strip
    await break_channel(api)
    await look(api, manual_clock)
    strip = await words(admin_session)
    assert "0 s de 10 min no verde" in strip
    assert "Voltou a zero às 09:07: um canal falhou no minuto 7." in strip


async def test_the_page_says_who_acknowledged_what_and_what_families_were_told(
    api: Api, admin_session: Browser, manual_clock: ManualClock
) -> None:
    await api.furnish()
    alert_id = await raise_alert(api, summary="O agendador parou")
    manual_clock.advance(minutes=15)
    await look(api, manual_clock)
    assert "ninguém confirmou" in await words(admin_session)
    await acknowledge(api, alert_id)
    await tell(api)
    shown = await words(admin_session)
    assert "O agendador parou há 30 s (09:15) confirmado" in shown
    assert "1 chamado crítico para o próximo turno" in shown
    assert "Confirmado depois de 15 min: O agendador parou." in shown


async def test_a_stale_form_saves_nothing_and_shows_what_a_colleague_saved_beside_what_was_typed(
    api: Api, admin_session: Browser
) -> None:
    await post(api, "enter", {"reason": "teste"})
    scope, rev = api.clinic.tenant_id, (await api.get("/safe-mode"))["recovery"]["rev"]
    assert f'name="rev" value="{rev}"' in (await admin_session.client.get(PAGE, headers={"Accept": "text/html"})).text
    await post(api, "recovery", {"action": "Fila esvaziada", "checklist": {"ops_notified": True}})
    answer = await submit(admin_session, "recovery", scope, action="Redis reiniciado", runbook_step="r-1", rev=str(rev))
    assert answer.status_code == 409
    assert "Alguém mudou isto enquanto você escrevia" in answer.text
    assert "Redis reiniciado" in answer.text
    recovery = (await api.get("/safe-mode"))["recovery"]
    assert (recovery["action"], recovery["checklist"]["ops_notified"]) == ("Fila esvaziada", True)


async def test_the_banner_says_how_far_the_way_out_is(api: Api, admin_session: Browser, manual_clock: ManualClock) -> None:
    await api.furnish()
    await post(api, "enter", {"reason": "teste"})
    await post(api, "recovery", DONE)
    for n in range(2):
        await send(api, api.command(contact_id="c-maria", idempotency_key=f"k-{n}"))
    await serve(api)
    await tell(api)
    assert "Modo seguro ligado" in await words(admin_session, "/queue?clinic=clinica-aurora")
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    assert "A saída começou: esperando dez minutos no verde." in await words(admin_session, "/queue?clinic=clinica-aurora")
    await look(api, manual_clock, 20)
    draining = await words(admin_session, "/queue?clinic=clinica-aurora")
    assert "Modo seguro encerrado" in draining
    assert "Modo seguro ligado" not in draining
    story = await words(admin_session)
    assert "Dez minutos no verde: o que estava parado começa a sair (2 pedidos parados)." in story
    assert "1 mensagem às famílias: agendar 1." in story


async def test_a_manager_sees_why_and_cannot_act_and_a_secretary_does_not_see_the_page(
    api: Api, app: Litestar, services: Services, secretary_session: Browser
) -> None:
    await post(api, "enter", {"reason": "teste"})
    person = await add_person(services, "manager", [api.clinic.tenant_id])
    async with browser_client(app) as opened:
        manager = await sign_in(services, opened, person)
        assert "Quem liga e encerra o modo seguro é um superadmin." in await words(manager, "/safe-mode")
        for act in ("enter", "recovery", "exit"):
            assert (await submit(manager, act, api.clinic.tenant_id, reason="x")).status_code == 403
            direct = await opened.post(f"/api/v1/safe-mode/{act}", json={"reason": "x"}, headers=manager.headers)
            assert direct.status_code == 403
    assert (await secretary_session.client.get("/safe-mode", headers={"Accept": "text/html"})).status_code == 403


async def test_a_form_for_another_scope_or_without_its_token_changes_nothing(
    api: Api, admin_session: Browser, client: httpx.AsyncClient, services: Services
) -> None:
    other = await open_api(services, client, "clinica-vizinha")
    assert (await submit(admin_session, "enter", "nowhere", reason="x")).status_code == 403
    assert (await submit(admin_session, "enter", api.clinic.tenant_id, reason=" ")).status_code == 400
    forged = await admin_session.client.post("/safe-mode/enter", data={"scope": "global", "reason": "x"})
    assert forged.status_code == 403
    assert (await other.get("/safe-mode"))["state"] == "normal"
    assert (await submit(admin_session, "exit", "global")).status_code == 409  # nothing to leave: the page says so


@pytest.mark.story("S-PC-03-003")
async def test_a_superadmin_words_what_families_read_and_sees_how_it_reads(
    api: Api, admin_session: Browser, services: Services
) -> None:
    scope = api.clinic.tenant_id
    before = await words(admin_session)
    assert "nada foi marcado ainda. Nossa equipe responde até 10:00." in before
    answer = await submit(admin_session, "texts", scope, schedule_open="Recebemos. Resposta até {hora}.", reason="mais curto")
    assert answer.status_code == 303
    after = await words(admin_session)
    assert "Recebemos. Resposta até 10:00." in after
    assert "texto próprio" in after
    assert (await submit(admin_session, "texts", scope, schedule_open="Até logo, {nome}.", reason="x")).status_code == 400
    await submit(admin_session, "texts", scope, schedule_open="", reason="de volta")
    assert "texto próprio" not in await words(admin_session)
    entries = await services.db.read(lambda conn: conn.execute(table(AuditEntry).select()).all())
    assert [e.reason for e in entries if e.action == "settings.save"] == ["mais curto", "de volta"]
