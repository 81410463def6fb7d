"""Takeovers (F-04): opened by the family or a person, the AI silent, the clock, the answer, given back."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.takeover import Takeovers
from app.store import takeovers
from app.store.people import By
from app.store.tables import AlertStep, AuditEntry, InboxMessage, Outbox, Ticket, table
from app.store.verify import verify
from tests.web.api_client import CONTACT, Api, open_api
from tests.web.conftest import add_key

OUTBOX, STEP, AUDIT = table(Outbox), table(AlertStep), table(AuditEntry)
WHY = "a mãe pediu para falar com alguém"


@pytest.fixture
async def api(running_services: Services, running_client: httpx.AsyncClient) -> Api:
    return await open_api(running_services, running_client)


async def call(api: Api, path: str, status: int = 200, **body: Any) -> Any:
    answer = await api.call("POST", f"/takeovers{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def said(api: Api) -> list[str]:
    def read(conn: Connection) -> list[str]:
        return [row.step for row in conn.execute(select(OUTBOX.c.step).where(OUTBOX.c.cause_id.like("takeover:%")))]

    return await api.services.db.read(read)


async def test_a_person_takes_a_conversation_answers_and_gives_it_back(api: Api) -> None:
    taken = await call(api, "", 201, contact_id=CONTACT, reason=WHY)
    number = taken["takeover_id"]
    assert (taken["kind"], taken["state"], taken["level"], taken["reason"]) == ("takeover", "open", "secretary", WHY)
    assert (await api.get(f"/contacts/{CONTACT}"))["takeover_active"]
    silent = await api.one(api.command(payload=api.slot(1, "a-1")))
    assert silent["result"] == "blocked_takeover_active"
    by_hand = await api.one(api.command(payload=api.slot(1, "a-2"), requested_by="human"))
    assert by_hand["result"] == "applied_once"
    started = await call(api, f"/{number}/start")
    assert started["owner"].startswith("key:")
    answered = await call(api, f"/{number}/reply", text="Oi, aqui é a Rita.")
    assert (answered["state"], answered["due_at"]) == ("in_progress", None)
    closed = await call(api, f"/{number}/close", reason="resolvido por telefone")
    assert (closed["state"], closed["close_reason"]) == ("resolved", "resolvido por telefone")
    assert not (await api.get(f"/contacts/{CONTACT}"))["takeover_active"]
    assert (await api.one(api.command(payload=api.slot(3, "a-3"))))["result"] == "applied_once"
    assert sorted(await said(api)) == ["given-back", f"reply-{started['rev'] + 1}"]
    assert await api.services.db.read(lambda conn: list(verify(conn))) == []


async def test_two_people_do_not_have_one_conversation(api: Api) -> None:
    answers = await asyncio.gather(*(api.call("POST", "/takeovers", json={"contact_id": CONTACT, "reason": WHY}) for _ in range(3)))
    assert sorted(a.status_code for a in answers) == [201, 409, 409]
    number = next(a for a in answers if a.status_code == 201).json()["takeover_id"]
    assert {a.json()["takeover"]["takeover_id"] for a in answers if a.status_code == 409} == {number}
    other = Api(api.client, api.services, api.clinic, await add_key(api.services, api.clinic.tenant_id))
    await call(api, f"/{number}/start")
    assert (await call(other, f"/{number}/start", 409))["ticket"]["state"] == "in_progress"
    closing = await asyncio.gather(*(api.call("POST", f"/takeovers/{number}/close", json={"reason": "ok"}) for _ in range(3)))
    assert sorted(a.status_code for a in closing) == [200, 409, 409]
    assert await said(api) == ["given-back"]


async def test_the_family_asks_for_a_person_in_its_own_words(api: Api) -> None:
    heard = (await api.call("POST", "/events", json=api.event("quero falar com uma pessoa"))).json()
    await api.processed(heard["event_id"])
    await api.once(f"/contacts/{CONTACT}", lambda c: c["takeover_active"])
    (ticket,) = (await api.get("/tickets", kind="takeover"))["items"]
    whole = await api.get(f"/tickets/{ticket['ticket_id']}")
    assert [m["text"] for m in whole["messages"]] == ["quero falar com uma pessoa"]


STRANGE = ("a professora pediu um papel", "não foi isso que perguntei", "é sobre a escola dele")


async def says(api: Api, *texts: str) -> None:
    for text in texts:
        heard = (await api.call("POST", "/events", json=api.event(text))).json()
        await api.processed(heard["event_id"])


async def open_takeovers(api: Api) -> list[str]:
    return [t["reason"] for t in (await api.get("/tickets", kind="takeover"))["items"] if t["closed_at"] is None]


async def test_a_family_that_is_not_understood_three_times_gets_a_person(api: Api) -> None:
    await says(api, *STRANGE[:2], "ok")
    assert await open_takeovers(api) == []
    await says(api, STRANGE[2])
    await api.once(f"/contacts/{CONTACT}", lambda c: c["takeover_active"])
    await says(api, *STRANGE)  # one ticket, however much more they write
    (ticket,) = (await api.get("/tickets", kind="takeover"))["items"]
    assert ticket["reason"] == "frustration"
    whole = await api.get(f"/tickets/{ticket['ticket_id']}")
    assert set(STRANGE) <= {m["text"] for m in whole["messages"]}
    await call(api, f"/{ticket['ticket_id']}/close", reason="conversado")
    await says(api, *STRANGE[:2])  # the count starts anew
    assert await open_takeovers(api) == []
    assert await api.services.db.read(lambda conn: list(verify(conn))) == []


async def test_what_the_orchestrator_understood_is_no_frustration(api: Api) -> None:
    await says(api, *STRANGE[:2])
    await api.one(api.command(payload=api.slot(1, "a-1")))
    await says(api, STRANGE[2], "sobre o que falei antes")
    assert await open_takeovers(api) == []
    await says(api, "e o relatório dele?")
    await api.once(f"/contacts/{CONTACT}", lambda c: c["takeover_active"])


async def test_a_clinic_may_switch_the_rule_off(api: Api) -> None:
    await api.put(f"/settings/{api.clinic.slug}", {"frustration": {"messages": 0}})
    await says(api, *STRANGE, *STRANGE)
    assert await open_takeovers(api) == []


async def test_what_is_missing_or_anothers_is_refused(api: Api) -> None:
    assert (await call(api, "", 400, contact_id=CONTACT, reason=" "))["errors"][0]["pointer"] == "/reason"
    await call(api, "", 404, contact_id="c-nobody", reason=WHY)
    number = (await call(api, "", 201, contact_id=CONTACT, reason=WHY))["takeover_id"]
    assert (await call(api, f"/{number}/reply", 400, text=""))["errors"][0]["pointer"] == "/text"
    await call(api, f"/{number}/close", 409, reason="x", rev=99)
    stranger = await open_api(api.services, api.client, "clinica-vizinha")
    for path, body in (("start", {}), ("reply", {"text": "oi"}), ("close", {"reason": "x"})):
        await call(stranger, f"/{number}/{path}", 404, **body)
    assert (await stranger.call("GET", f"/takeovers/{number}")).status_code == 404


# --- the clock ----------------------------------------------------------------------------------------------------------


async def opened(services: Services, client: httpx.AsyncClient, at: datetime) -> tuple[Api, str, Takeovers]:
    """A takeover opened at `at` with the engine standing still but for its clock."""
    clock = services.clock
    assert isinstance(clock, ManualClock)
    clock.set(at)
    api = await open_api(services, client)
    row = {
        "ticket_id": "t-1",
        "tenant_id": api.clinic.tenant_id,
        "kind": "takeover",
        "state": "open",
        "contact_id": CONTACT,
        "reason": WHY,
        "opened_at": at,
        "correlation_id": "corr-t",
    }

    def insert(conn: Connection) -> None:
        conn.execute(table(Ticket).insert().values(row))

    await services.db.write(insert)
    return api, "t-1", Takeovers(services.db, clock)


async def states(api: Api, loop: Takeovers, *minutes: float) -> list[tuple[str, str]]:
    clock = api.services.clock
    assert isinstance(clock, ManualClock)
    start, found = api.now, []
    for minute in minutes:
        clock.set(start + timedelta(minutes=minute))
        await loop.tick()
        shown = await api.get("/tickets/t-1")
        found.append((shown["state"], shown["level"]))
    return found


async def test_the_clock_warns_breaches_and_escalates_on_its_minute(services: Services, client: httpx.AsyncClient) -> None:
    api, number, loop = await opened(services, client, datetime(2026, 11, 23, 13, 0, tzinfo=UTC))  # 10:00, open
    seen = await states(api, loop, 0, 9.9, 10, 14.9, 15, 29.9, 30)
    assert seen == [
        ("open", "secretary"),
        ("open", "secretary"),
        ("sla_warning", "secretary"),
        ("sla_warning", "secretary"),
        ("sla_breached", "manager"),
        ("sla_breached", "manager"),
        ("escalated", "superadmin"),
    ]
    assert await raised(api) == {
        "takeover_sla_warning": ("resolved", "secretary"),
        "takeover_sla": ("open", "manager,sre"),
        "takeover_sla_escalated": ("open", "superadmin"),
    }
    await call(api, f"/{number}/reply", text="Desculpe a demora.")
    assert (await api.get("/alerts", status="open"))["items"] == []
    assert await states(api, loop, 60) == [("in_progress", "secretary")]


async def raised(api: Api) -> dict[str, tuple[str, str]]:
    """The alerts about the takeover: their status and who owns them."""
    return {a["trigger"]: (a["status"], a["owner"]) for a in (await api.get("/alerts"))["items"]}


async def sent_to(api: Api) -> list[str]:
    """Let the alerts go out; the channels that got one."""
    await api.services.alerts.tick()
    await api.services.alerts.close()
    done = select(STEP.c.channel).where(STEP.c.outcome == "sent").order_by(STEP.c.done_at, STEP.c.channel)
    return await api.services.db.read(lambda conn: list(conn.execute(done).scalars()))


async def test_each_level_is_told_also_when_somebody_took_on_the_level_before(
    services: Services, client: httpx.AsyncClient
) -> None:
    api, _, loop = await opened(services, client, datetime(2026, 11, 23, 13, 0, tzinfo=UTC))
    await states(api, loop, 10)
    assert await sent_to(api) == ["secretary"]
    await states(api, loop, 5)
    assert await sent_to(api) == ["secretary", "manager", "ops_chat"]
    (late,) = (await api.get("/alerts", status="open"))["items"]
    answer = await api.call("POST", f"/alerts/{late['alert_id']}/ack")
    assert answer.status_code == 200
    await states(api, loop, 15)
    assert await sent_to(api) == ["secretary", "manager", "ops_chat", "ops_chat", "superadmin_whatsapp"]


async def test_the_clock_refuses_no_answer(services: Services, client: httpx.AsyncClient) -> None:
    """The warning came while somebody typed: their answer is about the conversation as it is, and goes out."""
    api, number, loop = await opened(services, client, datetime(2026, 11, 23, 13, 0, tzinfo=UTC))
    seen = (await api.get("/tickets/t-1"))["rev"]
    assert await states(api, loop, 15) == [("sla_breached", "manager")]
    await call(api, f"/{number}/reply", text="Oi!", rev=seen)
    assert await said(api) == ["reply-2"]


async def test_a_conversation_is_taken_from_its_owner_with_a_reason_and_never_by_chance(
    services: Services, client: httpx.AsyncClient
) -> None:
    api, number, loop = await opened(services, client, datetime(2026, 11, 23, 13, 0, tzinfo=UTC))
    other = Api(api.client, services, api.clinic, await add_key(services, api.clinic.tenant_id))
    owner = (await call(api, f"/{number}/start"))["owner"]
    await states(api, loop, 15)  # warned and late, it is still theirs
    refused = await call(other, f"/{number}/start", 409)
    assert refused["ticket"]["owner"] == owner
    await call(other, f"/{number}/reply", 409, text="Oi, sou outra pessoa.")
    await call(other, f"/{number}/close", 409, reason="fim")
    assert await said(api) == []
    taken = await call(other, f"/{number}/start", reason="a colega saiu")
    assert (taken["owner"] != owner, taken["state"]) == (True, "sla_breached")
    await call(api, f"/{number}/reply", 409, text="Ainda sou eu.")
    await call(other, f"/{number}/reply", text="Oi!")
    trail = await services.db.read(lambda conn: list(conn.execute(select(AUDIT.c.reason).where(AUDIT.c.action == "ticket_start"))))
    assert [row.reason for row in trail] == [None, "a colega saiu"]


async def test_at_night_the_clock_waits_for_the_next_shift(services: Services, client: httpx.AsyncClient) -> None:
    api, _, loop = await opened(services, client, datetime(2026, 11, 21, 2, 0, tzinfo=UTC))  # Friday 23:00
    await loop.tick()
    assert (await api.get("/tickets/t-1"))["due_at"] == "2026-11-23T11:30:00Z"  # Monday 08:30 in Sao Paulo


async def test_a_family_that_writes_again_starts_the_clock_again(services: Services, client: httpx.AsyncClient) -> None:
    api, number, loop = await opened(services, client, datetime(2026, 11, 23, 13, 0, tzinfo=UTC))
    await call(api, f"/{number}/reply", text="Já vejo.")
    assert await states(api, loop, 20) == [("in_progress", "secretary")]

    def hear(conn: Connection) -> None:
        at = services.clock.now()
        row: dict[str, Any] = {
            "tenant_id": api.clinic.tenant_id,
            "event_id": "e-1",
            "channel": "api",
            "external_id": "x-1",
            "contact_id": CONTACT,
        }
        row |= {"sequence": 1, "conversation_version": 2, "source": "whatsapp", "event_type": "message", "status": "processed"}
        row |= {"priority": 3, "occurred_at": at, "received_at": at, "correlation_id": "c", "correlation_generated": False}
        row |= {"payload_version": 1, "payload_json": '{"text":"alô?"}'}
        conn.execute(table(InboxMessage).insert().values(row))

    await services.db.write(hear)
    assert await states(api, loop, 0, 10, 15) == [
        ("in_progress", "secretary"),
        ("sla_warning", "secretary"),
        ("sla_breached", "manager"),
    ]


async def test_a_step_is_late_after_downtime_and_never_lost_and_two_nodes_write_it_once(
    services: Services, client: httpx.AsyncClient
) -> None:
    api, number, loop = await opened(services, client, datetime(2026, 11, 23, 13, 0, tzinfo=UTC))
    clock = services.clock
    assert isinstance(clock, ManualClock)
    clock.set(api.now + timedelta(hours=3))
    await asyncio.gather(loop.tick(), Takeovers(services.db, clock).tick())
    assert (await api.get("/tickets/t-1"))["state"] == "escalated"
    alerts = (await api.get("/alerts"))["items"]
    assert {a["trigger"]: a["count"] for a in alerts} == {"takeover_sla": 1, "takeover_sla_escalated": 1}
    who = By(actor="user:x", now=api.now)
    await services.db.write(takeovers.close, api.clinic.tenant_id, number, who, "fim")
    assert await services.db.read(takeovers.due, clock.now()) == []
