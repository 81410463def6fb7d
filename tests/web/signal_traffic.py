"""What brings a signal of section 9 over its limits and back: requests, messages and alerts through the API, loops moved by hand.

`drive` takes three acts: what brings a signal over its warning, over its critical limit, and what ends it; the clock does the
rest.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import app.engine.evidence as engine_of_packs
from app.clock import ManualClock
from app.domain.signals import SIGNALS, SignalLevel, measure
from app.errors import StorageUnavailable
from app.ids import new_id
from app.store import log_lines
from tests.provider import Request, accepts, answer, provider
from tests.web.api_client import Api
from tests.web.safe_mode_driver import DONE, acknowledge, deliver, hear, look, post, raise_alert, send, serve, tell

Act = Callable[["World"], Awaitable[None]]


@dataclass
class World:
    """The clinic and the clock."""

    api: Api
    clock: ManualClock
    whole: dict[str, str]

    async def ask(self, n: int, **fields: Any) -> None:
        """So many follow-ups of the same contact, decided at once."""
        await self.accept(n, **fields)
        await serve(self.api)

    async def accept(self, n: int, **fields: Any) -> None:
        """The same, and nobody decides them yet."""
        for start in range(0, n, 50):
            await send(self.api, *(self.follow_up(**fields) for _ in range(min(50, n - start))))

    def follow_up(self, **fields: Any) -> dict[str, Any]:
        return self.api.command("follow_up", {"text": "Oi"}, **fields)

    async def look(self, name: str) -> Any:
        """The signal after the next look."""
        self.clock.advance(seconds=16)
        await self.api.services.signals.tick()
        answer = await self.api.client.get(
            f"/api/v1/signals/{name}", headers=self.whole if SIGNALS[name].is_global else self.api.key
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def alerts(self, name: str) -> list[tuple[str, str, str | None]]:
        """(severity, status, result) of the alerts of a signal, in the order in which they were raised."""
        listed = (await self.api.client.get("/api/v1/alerts", headers=self.whole, params={"limit": 100})).json()["items"]
        mine = sorted((a for a in listed if a["trigger"] == name), key=lambda a: a["raised_at"])
        return [(a["severity"], a["status"], a["result"]) for a in mine]


def late(hours: float) -> Callable[[World], dict[str, Any]]:
    """Fields of a request that happened so long ago."""
    return lambda world: {"occurred_at": (world.api.now - timedelta(hours=hours)).isoformat()}


def asked(n: int, among: int = 0, of: Callable[[World], dict[str, Any]] = lambda _: {}) -> Act:
    """So many requests of one kind, after so many that simply apply."""

    async def act(world: World) -> None:
        await world.ask(among)
        await world.ask(n, **of(world))

    return act


def behind_a_gap(n: int) -> Act:
    async def act(world: World) -> None:
        start = world.api.count
        await send(world.api, *(world.follow_up(contact_id=f"c-gap-{start + i}", commit_order=2) for i in range(n)))
        await serve(world.api)

    return act


def passes(**time: float) -> Act:
    async def act(world: World) -> None:
        world.clock.advance(**time)

    return act


def both(*acts: Act) -> Act:
    async def act(world: World) -> None:
        for one in acts:
            await one(world)

    return act


async def nothing(_: World) -> None:
    """The window passes."""


async def dispatched(world: World) -> None:
    await serve(world.api)


async def settled(world: World) -> None:
    """People close every task."""
    for task in (await world.api.get("/manual-tasks", limit=100))["items"]:
        for act, body in (("claim", {}), ("resolve", {"resolution": "not_needed", "note": "visto"})):
            assert (await world.api.call("POST", f"/manual-tasks/{task['task_id']}/{act}", json=body)).status_code == 200


def contingency(active: bool) -> Act:
    async def act(world: World) -> None:
        await world.api.put("/contingency", {"channel": "whatsapp", "active": active, "reason": "o provedor"})

    return act


async def drained(world: World) -> None:
    await contingency(False)(world)
    for _ in range(12):
        world.clock.advance(seconds=5)
        await world.api.services.safe_mode.tick()
        await world.api.services.drain.tick()
        await serve(world.api)


async def alarmed(world: World) -> None:
    await raise_alert(world.api)
    world.clock.advance(minutes=5)


async def acknowledged(world: World) -> None:
    for alert in (await world.api.get("/alerts"))["items"]:
        if alert["trigger"] == "n8n_down":
            await acknowledge(world.api, alert["alert_id"])


def heard_late(n: int, minutes: float) -> Act:
    async def act(world: World) -> None:
        for _ in range(n):
            await hear(world.api)
        world.clock.advance(minutes=minutes, seconds=1)
        await world.api.services.conversations.tick()

    return act


def taken_over_late(minutes: float) -> Act:
    async def act(world: World) -> None:
        contact_id = f"c-help-{world.api.count}"
        await send(world.api, world.api.command("takeover", {"reason": "family_request"}, contact_id=contact_id))
        world.clock.advance(minutes=minutes, seconds=1)
        await serve(world.api)

    return act


def takeovers(answered: int, late_ones: int) -> Act:
    """Families who asked for a person: most have an answer at once, some wait beyond the deadline."""

    async def act(world: World) -> None:
        start, api = world.api.count, world.api
        named = [f"c-help-{start + i}" for i in range(answered + late_ones)]
        await send(api, *(api.command("takeover", {"reason": "family_request"}, contact_id=name) for name in named))
        await serve(api)
        await api.services.takeovers.tick()
        tickets = {t["contact_id"]: t["ticket_id"] for t in (await api.get("/tickets", limit=100))["items"]}
        for name in named[:answered]:
            assert (await api.call("POST", f"/takeovers/{tickets[name]}/reply", json={"text": "Oi"})).status_code == 200
        world.clock.advance(minutes=16)
        await api.services.takeovers.tick()

    return act


async def ended_and_not_packed(world: World) -> None:
    """A conversation was given back, and nobody builds its pack."""
    await takeovers(0, 1)(world)
    (ticket,) = (await world.api.get("/tickets"))["items"]
    for act, body in (("start", {}), ("close", {"reason": "ok"})):
        assert (await world.api.call("POST", f"/takeovers/{ticket['ticket_id']}/{act}", json=body)).status_code == 200


async def packed(world: World) -> None:
    for _ in range(5):
        await world.api.services.evidence.tick()


def behind(_: World) -> dict[str, Any]:
    """A place in the lane that is taken."""
    return {"commit_order": 1}


def unaware(_: World) -> dict[str, Any]:
    """Decided on a conversation that is not this one."""
    return {"conversation_version": 9}


def unaware_and_late(world: World) -> dict[str, Any]:
    """The same, and late enough to pass the fences."""
    return late(1)(world) | unaware(world)


def unnamed(_: World) -> dict[str, Any]:
    """Without a correlation id."""
    return {"correlation_id": None}


async def parked(world: World) -> None:
    """A booking that contingency stops, and what is behind it."""
    await contingency(True)(world)
    await send(world.api, world.api.command(payload=world.api.slot(1)))
    await world.ask(31)


async def held(world: World) -> None:
    """Nobody took a critical alert on; safe mode has held for a while."""
    await raise_alert(world.api)
    world.clock.advance(minutes=15)
    await look(world.api, world.clock)
    world.clock.advance(minutes=20)


async def left(world: World) -> None:
    """The way out of safe mode, with everything that it needs."""
    await acknowledged(world)
    await post(world.api, "recovery", DONE)
    await post(world.api, "exit", status=202)
    assert (await look(world.api, world.clock, times=24))["state"] == "normal"


async def reentered(world: World) -> None:
    """Safe mode is left with everything that it needs, and entered again within the hour; twice."""
    for _ in range(2):
        await post(world.api, "enter", {"reason": "teste"})
        await left(world)
    await post(world.api, "enter", {"reason": "teste"})


async def exit_without_checklist(world: World) -> None:
    """Somebody asks for the exit with nothing ticked."""
    assert (await post(world.api, "exit"))["missing"]


def told(families: int, refused: int) -> Act:
    """Safe mode parks what so many families ask; WhatsApp refuses what is said to some of them."""

    async def act(world: World) -> None:
        api, start = world.api, world.api.count
        names = [f"c-told-{start + i}" for i in range(families)]
        phones = {name: f"+55119{start * 1000 + i:08d}" for i, name in enumerate(names)}
        for name in names:
            await api.put(f"/contacts/{name}", {"phone": phones[name]})
        unreachable = {phones[name].removeprefix("+") for name in names[:refused]}

        async def cloud(request: Request, writer: Any) -> None:
            behave = answer(400, {"error": {"code": 131026}}) if request.json["to"] in unreachable else accepts(f"wamid.{new_id()}")
            await behave(request, writer)

        async with provider(cloud) as there:
            channel = {"phone_number_id": "1055", "access_token": "t", "base_url": there.url}
            await api.put(f"/settings/{api.clinic.slug}", {"whatsapp": channel})
            await post(api, "enter", {"reason": "teste"})
            await send(api, *(api.command(contact_id=name) for name in names))
            await serve(api)
            await tell(api)
            await look(api, world.clock, times=2, step_s=10)

    return act


async def _asked_for_its_pack(world: World) -> str:
    """A flow that ended, and what somebody who asks for its pack gets."""
    await world.ask(1)
    await deliver(world.api)
    return str((await world.api.get(f"/evidence/corr-{world.api.count}"))["pack"]["result"])


async def well_packed(world: World) -> None:
    """Sixty flows have their packs."""
    assert {await _asked_for_its_pack(world) for _ in range(60)} == {"evidence_pack_generated"}


def unpacked(n: int) -> Act:
    """So many cannot be told whole, however often that is tried: some of what they are made of cannot be read."""

    def unreadable(*_: Any) -> Any:
        raise StorageUnavailable("the disk does not answer")

    async def act(world: World) -> None:
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(engine_of_packs, "surroundings", unreadable)
            broken.setattr(log_lines, "of", unreadable)
            assert {await _asked_for_its_pack(world) for _ in range(n)} == {"evidence_pack_partial"}
            for seconds in (60, 300, 900):
                world.clock.advance(seconds=seconds)
                await world.api.services.evidence.tick()

    return act


async def drive(world: World, name: str, warn: Act, worse: Act, ease: Act) -> None:
    """A signal over its warning, over its critical limit, without ACK, and back to normal for half an hour."""
    signal, services, clock = SIGNALS[name], world.api.services, world.clock
    assert (await world.look(name))["level"] == "normal"
    await warn(world)
    found = await world.look(name)
    assert (found["level"], [(f["level"], f["owner"]) for f in found["firings"]]) == ("warning", [("warning", signal.owner)]), found
    await worse(world)
    await world.look(name)
    found = await world.look(name)
    assert (found["level"], [f["level"] for f in found["firings"]]) == ("critical", ["critical", "warning"]), found
    critical = signal.severity(SignalLevel.CRITICAL)
    if signal.raises:
        assert [a[:2] for a in await world.alerts(name)] == [("warning", "resolved"), (critical, "open")]
    clock.advance(minutes=16)
    await services.alerts.tick()
    if signal.raises:
        expected = "ack_timeout_escalated" if critical == "critical" else "alert_fired_no_ack_escalated"
        assert (await world.alerts(name))[1] == (critical, "open", expected)
    await ease(world)
    calm_at = None
    for _ in range(16):
        found = await world.look(name)
        if found["level"] == "normal":
            break
        if calm_at is None and measure(signal, found["values"]) is SignalLevel.NORMAL:
            calm_at = world.api.now
        clock.advance(minutes=9)
    assert calm_at is not None
    assert found["level"] == "normal", found
    assert world.api.now - calm_at >= timedelta(minutes=30)
    assert all(f["ended_at"] for f in found["firings"])
    if signal.raises:
        assert [a[1] for a in await world.alerts(name)] == ["resolved", "resolved"]
