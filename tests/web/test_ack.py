"""The page behind an alert's link: looking changes nothing, the button does, and nobody guesses."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import Connection, select, update

from app.bootstrap import Services
from app.clock import ManualClock
from app.credentials import bound_token, new_ack_token
from app.domain.alerts import Action
from app.store import alerts
from app.store.alert_claims import claim_due
from app.store.tables import AckRecord, AckToken, Alert, AlertStep, UserAccount, table
from tests.web.conftest import SECRET_KEY, Clinic, Person, browser_client

ALERT, STEP, TOKEN, RECORD = table(Alert), table(AlertStep), table(AckToken), table(AckRecord)
BOTS = ("WhatsApp/2.23.20.0", "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "TelegramBot")


@pytest.fixture
async def opened(services: Services, tenant: Clinic) -> dict[str, str]:
    """An alert whose messages left: the tokens by recipient, and `alert_id`."""
    return await raise_and_send(services, tenant)


async def raise_and_send(services: Services, tenant: Clinic, **fields: Any) -> dict[str, str]:
    now = services.clock.now()
    given: dict[str, Any] = {
        "tenant_id": tenant.tenant_id,
        "trigger": "redis_down",
        "severity": "critical",
        "summary": "Envios parados: o Redis não responde (+55 11 98765-4321)",
        "dedup_key": "redis",
        "correlation_id": None,
    }

    def write(conn: Connection) -> dict[str, str]:
        return {"alert_id": alerts.raise_alert(conn, now=now, **{**given, **fields}).alert_id}

    return await services.db.write(write) | await tokens_due(services)


async def tokens_due(services: Services) -> dict[str, str]:
    """The tokens of the messages that are due now, by recipient."""
    now = services.clock.now()
    claimed = await services.db.write(
        lambda conn: claim_due(
            conn,
            now=now,
            lease_until=now,
            lease_token="test",
            room=9,
            busy={},
            per_target=5,
            mint=lambda: new_ack_token(SECRET_KEY),
        )
    )
    return {c.step.recipient: c.ack_token for c in claimed}


async def alert_of(services: Services, opened: dict[str, str]) -> Any:
    query = select(ALERT).where(ALERT.c.alert_id == opened["alert_id"])
    return await services.db.read(lambda conn: conn.execute(query).one())


def plain(page: httpx.Response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())


@pytest.mark.story("S-PC-03-001")
@pytest.mark.parametrize("agent", BOTS)
async def test_a_preview_bots_get_and_head_leave_the_alert_open(
    services: Services, client: httpx.AsyncClient, opened: dict[str, str], agent: str
) -> None:
    path = f"/ack/{opened['superadmin_whatsapp']}"
    before = await alert_of(services, opened)
    for method in ("GET", "HEAD", "GET", "HEAD"):
        answer = await client.request(method, path, headers={"User-Agent": agent})
        assert answer.status_code == 200
        assert "noindex" in answer.headers["x-robots-tag"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert await alert_of(services, opened) == before
    assert before.status == "open"


@pytest.mark.story("S-PC-03-001")
async def test_the_button_acknowledges_once_and_again_without_effect(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock, opened: dict[str, str]
) -> None:
    path = f"/ack/{opened['superadmin_whatsapp']}"
    manual_clock.advance(minutes=10, seconds=50)
    page = await client.get(path)
    assert "4 min" in plain(page)
    assert "Estou cuidando" in page.text
    assert "98765" not in page.text, "no personal data"
    assert "http-equiv" not in page.text
    first = await client.post(path, data={"act": "ack"})
    assert (first.status_code, first.headers["location"]) == (303, path)
    row = await alert_of(services, opened)
    assert (row.status, row.result, row.acked_by, row.ack_how) == (
        "acknowledged",
        "ack_received",
        "recipient:superadmin_whatsapp",
        "link",
    )
    manual_clock.advance(minutes=1)
    again = await client.post(path)
    assert again.status_code == 303
    assert await alert_of(services, opened) == row
    page = await client.get(path)
    assert "Confirmado às 09:10" in plain(page)
    assert "<button" not in page.text
    records = await services.db.read(lambda conn: conn.execute(select(RECORD)).all())
    assert [(r.kind, r.effective, r.step_id is not None) for r in records] == [("ack", True, True)]
    other = await client.get(f"/ack/{opened['ops']}")
    assert "Outra pessoa confirmou" in plain(other)
    assert "Você não precisa fazer nada" in plain(other)


async def test_two_links_pressed_at_once_have_one_effect_and_leave_a_record_each(
    services: Services, client: httpx.AsyncClient, opened: dict[str, str]
) -> None:
    answers = await asyncio.gather(*(client.post(f"/ack/{opened[name]}") for name in ("ops", "superadmin_whatsapp")))
    assert [a.status_code for a in answers] == [303, 303]
    records = await services.db.read(lambda conn: conn.execute(select(RECORD)).all())
    assert sorted(r.by for r in records) == ["recipient:ops", "recipient:superadmin_whatsapp"]
    assert sorted(r.effective for r in records) == [False, True]


async def test_passing_on_tells_the_next_one_and_leaves_the_alert_open(
    services: Services, client: httpx.AsyncClient, opened: dict[str, str]
) -> None:
    path = f"/ack/{opened['superadmin_whatsapp']}"
    for _ in range(2):
        assert (await client.post(path, data={"act": "pass"})).status_code == 303
    row = await alert_of(services, opened)
    assert (row.status, row.acked_at) == ("open", None)
    query = select(STEP).where(STEP.c.step_key.like("pass_on:%"), STEP.c.action == Action.SEND)
    steps = await services.db.read(lambda conn: conn.execute(query).all())
    assert [(s.recipient, s.due_at) for s in steps] == [("ops", services.clock.now())]
    page = await client.get(path)
    assert "Passado adiante às 09:00" in plain(page)
    assert page.text.count("<button") == 1
    # the next one passes it on too, and so does the last one: then nobody is left
    assert (await client.post(f"/ack/{opened['ops']}", data={"act": "pass"})).status_code == 303
    assert "a próxima pessoa já foi avisada" in plain(await client.get(f"/ack/{opened['ops']}"))
    last = (await tokens_due(services))["superadmin_sms"]
    assert (await client.post(f"/ack/{last}", data={"act": "pass"})).status_code == 303
    assert "Todas as pessoas da lista" in plain(await client.get(f"/ack/{last}"))
    assert (await client.post(path)).status_code == 303
    assert (await alert_of(services, opened)).status == "acknowledged"


async def test_after_the_deadline_the_page_says_that_safe_mode_stays(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock, opened: dict[str, str]
) -> None:
    path = f"/ack/{opened['ops']}"
    manual_clock.advance(minutes=15)
    assert "O modo seguro está ligado desde 09:15" in plain(await client.get(path))
    await client.post(path)
    row = await alert_of(services, opened)
    assert (row.status, row.result) == ("acknowledged", "ack_timeout_escalated")
    assert "primeiro passo para sair" in plain(await client.get(path))


async def test_who_of_the_console_acknowledged_is_named_by_first_name(
    services: Services, client: httpx.AsyncClient, opened: dict[str, str], admin: Person
) -> None:
    now = services.clock.now()

    def act(conn: Connection) -> None:
        user = table(UserAccount)
        conn.execute(update(user).where(user.c.user_id == admin.user_id).values(name="Ana Souza"))
        alerts.acknowledge(conn, opened["alert_id"], by=f"user:{admin.user_id}", how="console", now=now)

    await services.db.write(act)
    page = plain(await client.get(f"/ack/{opened['ops']}"))
    assert "Ana confirmou às 09:00" in page
    assert "Souza" not in page


async def test_expired_forged_and_foreign_links_get_a_clear_page_and_do_nothing(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock, opened: dict[str, str]
) -> None:
    good = opened["ops"]
    forged = f"{good.split('.')[0]}x.{good.split('.')[1]}"
    foreign = new_ack_token("another-installations-secret-key-of-length")[0]
    unknown = f"zzz.{bound_token(SECRET_KEY, 'ack', 'zzz')[:16]}"
    for token in (forged, foreign, unknown, "x" * 300):
        for answer in (await client.get(f"/ack/{token}"), await client.post(f"/ack/{token}")):
            assert answer.status_code == 404
            assert "Este link não vale" in answer.text
            assert "Redis" not in answer.text
    manual_clock.advance(hours=12)
    for answer in (await client.get(f"/ack/{good}"), await client.post(f"/ack/{good}")):
        assert answer.status_code == 410
        assert "Este link venceu" in answer.text
    assert (await alert_of(services, opened)).status == "open"


async def test_a_link_of_before_the_alert_became_worse_has_expired(
    services: Services, client: httpx.AsyncClient, tenant: Clinic, manual_clock: ManualClock
) -> None:
    mild = await raise_and_send(services, tenant, severity="warning")
    manual_clock.advance(minutes=1)
    worse = await raise_and_send(services, tenant)
    assert worse["alert_id"] != mild["alert_id"]
    assert "Este link venceu" in (await client.get(f"/ack/{mild['ops_chat']}")).text
    assert (await client.post(f"/ack/{mild['ops_chat']}")).status_code == 410
    assert (await alert_of(services, worse)).status == "open"
    assert (await client.post(f"/ack/{worse['ops']}")).status_code == 303
    assert (await alert_of(services, worse)).status == "acknowledged"


async def test_an_alert_that_is_over_needs_nobody(services: Services, client: httpx.AsyncClient, opened: dict[str, str]) -> None:
    now = services.clock.now() + timedelta(minutes=1)
    await services.db.write(lambda conn: alerts.resolve(conn, opened["alert_id"], by="key:x", now=now))
    page = await client.get(f"/ack/{opened['ops']}")
    assert "Isto já terminou" in plain(page)
    assert "<button" not in page.text
    await client.post(f"/ack/{opened['ops']}")
    assert (await alert_of(services, opened)).acked_at is None


async def test_guesses_are_slowed_down_and_good_links_are_not(
    services: Services, client: httpx.AsyncClient, app: Litestar, opened: dict[str, str]
) -> None:
    app.state.guesses.buckets._monotonic = lambda: 0.0
    statuses = [(await client.get(f"/ack/guess-{i}")).status_code for i in range(100)]
    assert statuses == [404] * 10 + [429] * 90
    assert (await client.post(f"/ack/{opened['ops']}")).status_code == 303
    async with browser_client(app, "192.0.2.99") as neighbour:
        assert (await neighbour.get("/ack/guess")).status_code == 404


async def test_a_form_of_another_site_cannot_acknowledge(
    services: Services, client: httpx.AsyncClient, opened: dict[str, str]
) -> None:
    answer = await client.post(f"/ack/{opened['ops']}", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert (await alert_of(services, opened)).status == "open"


async def test_only_hashes_of_links_are_stored(services: Services, opened: dict[str, str]) -> None:
    stored = await services.db.read(lambda conn: [r.token_hash for r in conn.execute(select(TOKEN))])
    assert len(stored) == 2
    assert not set(stored) & set(opened.values())
