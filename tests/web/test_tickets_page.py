"""Critical tickets on the screen: what the next shift reads, takes and closes, and how they end with safe mode."""

import re
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.store.tables import Ticket, table
from tests.web.api_client import Api
from tests.web.conftest import Browser, Clinic
from tests.web.safe_mode_driver import DONE, deliver, look, post, send, serve, tell

PAGE = "/manual/tickets"


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient, tenant: Clinic, key: dict[str, str]) -> Api:
    made = Api(client, services, tenant, key)
    await made.furnish()
    return made


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Its statements run on both databases in the tests of safe mode."""
    url: str = request.getfixturevalue("sqlite_url")
    return url


async def words(browser: Browser, path: str = PAGE) -> str:
    """The text of a page, without tags."""
    answer = await browser.client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))


async def act(browser: Browser, ticket: Any, name: str, **fields: str) -> int:
    data = {"_csrf": browser.csrf_token, "ticket_id": ticket.ticket_id, "rev": str(ticket.rev), "act": name, **fields}
    return (await browser.client.post(f"{PAGE}/act", data=data)).status_code


async def ticket(api: Api) -> Any:
    def read(conn: Connection) -> Any:
        return conn.execute(select(table(Ticket))).one()

    return await api.services.db.read(read)


async def park(api: Api) -> None:
    """A request on hold whose family is told."""
    await send(api, api.command())
    await serve(api)
    for _ in range(2):
        await tell(api)
        await deliver(api)
    await tell(api)


@pytest.mark.story("S-PC-03-003")
async def test_the_next_shift_reads_what_came_after_the_opening_takes_it_and_it_ends_with_safe_mode(
    api: Api, secretary_session: Browser, admin_session: Browser, manual_clock: ManualClock
) -> None:
    assert "Nenhum chamado crítico em aberto." in await words(secretary_session)
    await post(api, "enter", {"reason": "o Redis parou"})
    await tell(api)  # the ticket is there before anybody asked for anything
    manual_clock.advance(minutes=1)
    await park(api)
    seen = await words(secretary_session)
    for part in ("o Redis parou", "1 pedido parado Maria", "corr-1", "Maria · agendar · avisada", "depois de aberto o chamado"):
        assert part in seen
    before = await ticket(api)
    assert await act(secretary_session, before, "take") == 303
    assert await act(admin_session, before, "close", reason="x") == 409
    assert "com Secretary" in await words(admin_session)
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 20)
    for _ in range(3):
        await look(api, manual_clock, step_s=5)
        await serve(api)
    assert (await api.get("/safe-mode"))["state"] == "normal"
    after = await ticket(api)
    assert (after.state, after.close_reason, after.closed_at is not None) == ("resolved", "safe_mode_over", True)
    ended = await words(secretary_session, f"{PAGE}?ticket={after.ticket_id}")
    assert "O modo seguro acabou e tudo o que estava parado já saiu." in ended


@pytest.mark.story("S-PC-03-003")
async def test_with_a_family_that_may_not_have_heard_it_waits_for_a_person(
    api: Api, secretary_session: Browser, manual_clock: ManualClock
) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"contacts_channel": "whatsapp:"})
    await post(api, "enter", {"reason": "o Redis parou"})
    await park(api)
    assert "talvez não tenha sido avisada: ligue" in await words(secretary_session)
    await api.put(f"/settings/{api.clinic.slug}", {"contacts_channel": None})
    await post(api, "recovery", DONE)
    await look(api, manual_clock)
    await post(api, "exit", status=202)
    await look(api, manual_clock, 20)
    for _ in range(3):
        await look(api, manual_clock, step_s=5)
        await serve(api)
    assert (await api.get("/safe-mode"))["state"] == "normal"
    left = await ticket(api)
    assert (left.state, left.closed_at) == ("in_progress", None)
    assert await act(secretary_session, left, "close", reason=" ") == 400
    assert await act(secretary_session, left, "close", reason="Liguei para a Maria") == 303
    assert ((await ticket(api)).state, (await ticket(api)).close_reason) == ("resolved", "Liguei para a Maria")
