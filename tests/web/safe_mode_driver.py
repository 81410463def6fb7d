"""Safe mode moved by hand in tests: time passes, the loops look, and what they did is read through the API."""

import asyncio
from typing import Any

from app.clock import ManualClock
from app.store.outbox import backlog
from tests.web.api_client import Api

ALL_TICKS = {"ack_validated": True, "recovery_action_logged": True, "ops_notified": True, "ticket_in_recovery": True}
DONE = {"action": "Redis reiniciado", "runbook_step": "redis-3", "checklist": ALL_TICKS}


async def post(api: Api, path: str, body: Any = None, status: int = 200) -> Any:
    answer = await api.call("POST", f"/safe-mode/{path}", **({"json": body} if body is not None else {}))
    assert answer.status_code == status, answer.text
    return answer.json()


async def look(api: Api, clock: ManualClock, times: int = 1, step_s: float = 30) -> Any:
    """Time passes and the loops look; returns the state then."""
    for _ in range(times):
        clock.advance(seconds=step_s)
        await api.services.health.tick()
        await api.services.safe_mode.tick()
        await deliver(api)
    return await api.get("/safe-mode")


async def serve(api: Api) -> None:
    """Dispatch until nothing is left to do now."""
    while await api.services.dispatch.tick() == 0.0:
        pass


async def break_channel(api: Api) -> None:
    """Nobody answers any more where the clinic's operations are told."""
    await api.put(f"/settings/{api.clinic.slug}", {"channels": {"ops": "webhook:http://127.0.0.1:9/"}})


async def mend_channel(api: Api) -> None:
    """The simulated phone takes its place."""
    await api.put(f"/settings/{api.clinic.slug}", {"channels": {"ops": None}})


async def send(api: Api, *commands: dict[str, Any]) -> list[str]:
    """Accept commands with the intake moved by hand; returns their ids."""
    asked = asyncio.create_task(api.send(*commands, wait=0))
    while not asked.done():
        await api.services.intake.tick()
        await asyncio.sleep(0)
    return [item["command_id"] for item in await asked]


async def hear(api: Api, text: str = "Oi", **fields: Any) -> str:
    """Accept a family's message with the intake moved by hand; returns its id."""
    asked = asyncio.create_task(api.call("POST", "/events", json=api.event(text, **fields)))
    while not asked.done():
        await api.services.intake.tick()
        await asyncio.sleep(0)
    return str((await asked).json()["event_id"])


async def result(api: Api, command_id: str) -> Any:
    return await api.get(f"/commands/{command_id}")


async def deliver(api: Api) -> None:
    """Let the outbox send until nothing is due."""
    async with asyncio.timeout(30):
        while True:
            waiting = await api.services.db.read(backlog)
            if waiting.next_lease_at is None and (waiting.next_due_at is None or waiting.next_due_at > api.now):
                return
            await api.services.outbox.tick()


async def raise_alert(api: Api, trigger: str = "n8n_down", severity: str = "critical", **fields: Any) -> str:
    """Raise an alert of the clinic; returns its id."""
    body = {"trigger": trigger, "severity": severity, "summary": f"{trigger} aconteceu", "dedup_key": trigger, **fields}
    answer = await api.call("POST", "/alerts", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["alert_id"])


async def acknowledge(api: Api, alert_id: str) -> None:
    """Take an alert on."""
    answer = await api.call("POST", f"/alerts/{alert_id}/ack")
    assert answer.status_code == 200, answer.text


async def tell(api: Api) -> None:
    """One look of safe mode's loop that does not wait for its pace."""
    api.services.safe_mode._told_at = 0.0
    await api.services.safe_mode.tick()
