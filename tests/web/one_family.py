"""One family whose words reach every part of the product: what must be gone after its erasure, and in no log line or pack.

`live` drives the public API and the loops by hand; whoever types something (a family, staff, another system) types the
family's full name, number, or a word that stands nowhere else.
"""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.d1 import D1
from app.store.tables import Outbox, table
from tests.channels import payloads
from tests.web.api_client import CONTACT, PATIENT, PERMISSION, Api, open_api
from tests.web.safe_mode_driver import DONE, acknowledge, deliver, hear, look, post, raise_alert, send, serve, tell

NAME, CHILD, PHONE, WA_ID = "Zuleica Quintanilha", "Benício Quintanilha", "+5511976543210", "5511976543210"
SEEDED = ("Zuleica", "Quintanilha", "Benício", "Ben\\u00edcio", "976543210", "97654-3210")
"""Of the family itself."""
WORDS = ("girafa", "capivara", "tamandu\u00e1", "tatu-bola", "ornitorrinco")
"""Said by the family, sent to it, or TYPED by staff about it."""
TYPED = f"{NAME} ligou de {PHONE} por causa de {CHILD}: ornitorrinco"
"""By staff, about the family."""
ASIDE = f"depois que {NAME} reclamou em {PHONE}"
"""By staff, about the clinic."""
APP_SECRET = "app-secret"
OUTBOX = table(Outbox)


@dataclass
class Family:
    """The clinic it belongs to, and what its life left behind: kind -> subject of what evidence can be asked about."""

    api: Api
    about: dict[str, str] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """Every text that was sent to it."""


async def live(services: Services, client: httpx.AsyncClient, clock: ManualClock) -> Family:
    """Its whole life: everything it began has ended."""
    family = await begin(services, client)
    for part in (asks, is_asked_the_day_before, speaks_with_a_person, is_replayed, is_held_by_safe_mode):
        await part(family, clock)
    await is_not_understood(family)
    await comes_to_rest(family, clock)
    return family


async def begin(services: Services, client: httpx.AsyncClient) -> Family:
    """The family as its clinic knows it."""
    api = await open_api(services, client, "clinica-da-familia")
    whatsapp = {"app_secret": APP_SECRET, "verify_token": "v", "phone_number_id": payloads.PHONE_NUMBER_ID}
    await api.put(f"/settings/{api.clinic.slug}", {"whatsapp": whatsapp})
    await api.put(f"/contacts/{CONTACT}", {"phone": PHONE, "name": NAME})
    await api.put(f"/patients/{PATIENT}", {"name": CHILD})
    await api.put(f"/patients/{PATIENT}/guardians/{CONTACT}", PERMISSION | {"reason": TYPED})
    return Family(api)


async def _versions(api: Api) -> dict[str, Any]:
    """What a command must say to be decided on what is so now."""
    found = await api.get(f"/contacts/{CONTACT}")
    return {name: found[name] for name in ("conversation_version", "guardian_version")}


async def asks(family: Family, clock: ManualClock) -> None:
    api = family.api
    fields = {"conversation_id": f"{WA_ID}@s.whatsapp.net", "external_id": f"wamid.{WA_ID}.1"}
    await hear(api, f"aqui é {NAME}, a girafa de {CHILD} sumiu, {PHONE}", correlation_id="corr-oi", **fields)
    await api.services.conversations.tick()
    now = await _versions(api)
    await send(api, api.command(payload=api.slot(30, "a-1"), correlation_id="corr-book", conversation_id=f"{WA_ID}@c.us", **now))
    await send(api, api.command("follow_up", {"text": f"Oi {NAME}, a capivara chegou"}, correlation_id="corr-follow", **now))
    late = (api.now - timedelta(days=3)).isoformat()
    await send(api, api.command("follow_up", {"text": f"capivara de {CHILD}"}, occurred_at=late, correlation_id="corr-late", **now))
    await serve(api)
    await deliver(api)
    clock.advance(seconds=30)
    family.about |= {"flow": "corr-book"}


async def is_asked_the_day_before(family: Family, clock: ManualClock) -> None:
    clock.advance(hours=25)
    await D1(family.api.services.db, clock).tick()
    await deliver(family.api)
    clock.advance(hours=7)
    await D1(family.api.services.db, clock).tick()


async def speaks_with_a_person(family: Family, clock: ManualClock) -> None:
    api = family.api
    await send(
        api, api.command("takeover", {"reason": TYPED}, requested_by="human", correlation_id="corr-help", **await _versions(api))
    )
    await serve(api)
    (ticket_id,) = [t["ticket_id"] for t in (await api.get("/tickets"))["items"]]
    await api.services.takeovers.tick()
    clock.advance(hours=3)
    await api.services.takeovers.tick()
    await hear(api, f"tamanduá, diz {NAME}", correlation_id="corr-zoo", external_id=f"wamid.{WA_ID}.2")
    await api.services.conversations.tick()
    for act, body in (("start", {}), ("reply", {"text": f"{NAME}, o tatu-bola voltou"}), ("close", {"reason": TYPED})):
        answer = await api.call("POST", f"/takeovers/{ticket_id}/{act}", json=body)
        assert answer.status_code == 200, answer.text
    await deliver(api)
    family.about |= {"takeover": ticket_id}


async def is_replayed(family: Family, clock: ManualClock) -> None:
    api = family.api
    await api.put("/contingency", {"channel": "whatsapp", "active": True, "reason": ASIDE})
    now = await _versions(api)
    await send(api, api.command(payload=api.slot(1, "a-2"), **now), api.command("follow_up", {"text": "capivara outra vez"}, **now))
    await serve(api)
    plan = {"filter": {"state": ["pending_contingency"]}, "dry_run": True, "rate": 100}
    await api.call("POST", "/replays", json=plan)  # and leave it at that
    replay_id = (await api.call("POST", "/replays", json=plan)).json()["replay_id"]
    await api.put("/contingency", {"channel": "whatsapp", "active": False, "reason": ASIDE})
    assert (await api.call("POST", f"/replays/{replay_id}/run")).status_code == 200
    for _ in range(6):
        clock.advance(seconds=1)
        await api.services.replay.tick()
        await serve(api)
    await deliver(api)
    items = (await api.get(f"/replays/{replay_id}"))["items"]
    assert any(item["message"] for item in items), items
    family.told |= {item["message"] for item in items if item["message"]}
    family.about |= {"replay": replay_id}


async def is_held_by_safe_mode(family: Family, clock: ManualClock) -> None:
    api = family.api
    alert_id = await raise_alert(api, correlation_id="corr-n8n", summary=f"n8n parou em {NAME} ({PHONE})")
    await api.services.alerts.tick()
    clock.advance(minutes=15)
    await look(api, clock)
    now = await _versions(api)
    await send(api, api.command(payload=api.slot(3, "a-3"), correlation_id="corr-held", **now))
    await serve(api)
    await tell(api)
    await deliver(api)
    await look(api, clock)
    episode_id = (await api.get("/safe-mode"))["episode_id"]
    await acknowledge(api, alert_id)
    await post(api, "recovery", DONE | {"action": f"Falei com {NAME} em {PHONE}"})
    await post(api, "exit", status=202)
    await look(api, clock, times=11, step_s=29)
    for _ in range(20):
        state = await look(api, clock)
        await serve(api)
        if state["state"] == "normal":
            break
    assert state["state"] == "normal"
    assert (await api.call("POST", f"/alerts/{alert_id}/resolve", json={"reason": ASIDE})).status_code == 200
    family.about |= {"alert": alert_id, "safe_mode": episode_id}


async def is_not_understood(family: Family) -> None:
    """Items that cannot be used: one names the contact, one only its number; a receipt that speaks of the number."""
    api = family.api
    await send(api, api.command("schedule", {"start": f"amanhã, diz {NAME}: girafa"}, correlation_id="corr-bad"))

    def carries_the_number(conn: Connection) -> str:
        row = conn.execute(select(OUTBOX.c.outbox_id).where(OUTBOX.c.status == "sent", OUTBOX.c.contact_id == CONTACT)).first()
        assert row is not None
        changed = {"provider_message_id": f"wamid.{WA_ID}.out", "last_error": f"131026: {PHONE} unreachable"}
        conn.execute(OUTBOX.update().where(OUTBOX.c.outbox_id == row.outbox_id).values(**changed))
        return f"wamid.{WA_ID}.out"

    sent_id = await api.services.db.write(carries_the_number)
    elsewhere = payloads.cloud_change([payloads.cloud_message("wamid.x", "girafa", **{"from": WA_ID})], phone_number_id="1")
    receipt = payloads.cloud_change(None, [payloads.cloud_status(sent_id, "read", recipient_id=WA_ID)])
    body = json.dumps(payloads.cloud(elsewhere, receipt)).encode()
    headers = {"x-hub-signature-256": payloads.sign(APP_SECRET, body), "content-type": "application/json"}
    asked = asyncio.create_task(api.client.post(f"/api/v1/webhooks/whatsapp/{api.clinic.slug}", content=body, headers=headers))
    while not asked.done():
        await api.services.intake.tick()
        await asyncio.sleep(0)
    assert (await asked).json()["messages"] == 1, (await asked).text


async def comes_to_rest(family: Family, clock: ManualClock, *, pause: bool = True, days: float = 2) -> None:
    """Every task closed with a note, every delivery done, every appointment over; the lane stays paused, if it is."""
    api = family.api
    await serve(api)
    await deliver(api)
    open_tasks = (await api.get("/manual-tasks", limit=100))["items"]
    assert open_tasks
    for task in open_tasks:
        for act, body in (("claim", {}), ("resolve", {"resolution": "not_needed", "note": TYPED})):
            answer = await api.call("POST", f"/manual-tasks/{task['task_id']}/{act}", json=body)
            assert answer.status_code == 200, answer.text
    if pause:
        answer = await api.call("POST", f"/contacts/{CONTACT}/lane/pause", json={"reason": TYPED})
        assert answer.status_code == 200, answer.text
    clock.advance(days=days)
    family.about |= {"contact": CONTACT}

    def bodies(conn: Connection) -> set[str]:
        found = (
            json.loads(body).get("text")
            for body in conn.execute(select(OUTBOX.c.body_json).where(OUTBOX.c.contact_id == CONTACT)).scalars()
        )
        return {text for text in found if isinstance(text, str)}

    family.told |= await api.services.db.read(bodies)
    assert any("capivara" in text for text in family.told)
