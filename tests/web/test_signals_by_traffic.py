"""Signals of section 9 driven by what really comes in: requests, messages and alerts through the API, loops moved by hand.

Each row says what brings a signal over its warning, over its critical limit, and what ends it; the clock does the rest.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.bootstrap import Services
from app.clock import ManualClock
from app.domain.signals import SIGNALS, SignalLevel, measure
from tests.web.api_client import Api, open_api
from tests.web.conftest import add_key
from tests.web.safe_mode_driver import DONE, acknowledge, hear, look, post, raise_alert, send, serve

pytestmark = pytest.mark.story("S-PC-04-002")

Act = Callable[["World"], Awaitable[None]]


@dataclass
class World:
    """The clinic and the clock."""

    api: Api
    clock: ManualClock
    whole: dict[str, str]

    async def ask(self, n: int, **fields: Any) -> None:
        """So many follow-ups of the same contact, decided at once."""
        for start in range(0, n, 50):
            await send(self.api, *(self.follow_up(**fields) for _ in range(min(50, n - start))))
        await serve(self.api)

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


DRIVEN: dict[str, tuple[Act, Act, Act]] = {
    "blocked_commit_order_violation": (asked(3, 1, behind), asked(7, 0, behind), nothing),
    "waiting_previous_commit_age": (
        both(behind_a_gap(1), passes(seconds=150)),
        behind_a_gap(41),
        both(passes(minutes=6), dispatched),
    ),
    "version_conflict_blocked": (asked(2, 42, unaware), asked(5, 0, unaware), nothing),
    "expired_manual": (asked(2, 28, late(72)), asked(3, 0, late(72)), nothing),
    "conflict_blocked": (asked(2, 42, unaware_and_late), asked(5, 0, unaware_and_late), nothing),
    "replay_manual_backlog": (asked(31, 0, late(72)), passes(minutes=31), settled),
    "replay_backlog": (parked, passes(minutes=31), drained),
    "no_ack_critical_alert": (alarmed, passes(minutes=5), acknowledged),
    "safe_mode_duration": (held, passes(minutes=25), left),
    "ticket_open_latency": (taken_over_late(5), taken_over_late(15), nothing),
    "correlation_id_coverage": (asked(2, 103, unnamed), asked(5, 0, unnamed), nothing),
    "ack_to_enqueue_gap": (heard_late(1, 2), heard_late(3, 5), nothing),
    "takeover_sla_breach_rate": (takeovers(15, 2), takeovers(0, 3), nothing),
    "evidence_pack_generation": (both(ended_and_not_packed, passes(minutes=16)), passes(minutes=16), packed),
}
"""Signal -> what brings it over its warning, over its critical limit, and what ends it."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """How the facts are counted on each database is shown elsewhere (tests/engine/test_signals.py)."""
    return sqlite_url


@pytest.mark.parametrize("name", DRIVEN)
async def test_traffic_drives_a_signal_over_its_limits_and_back(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock, name: str
) -> None:
    world = World(await open_api(services, client), manual_clock, await add_key(services, None))
    signal, (warn, worse, ease) = SIGNALS[name], DRIVEN[name]
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
    manual_clock.advance(minutes=16)
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
        manual_clock.advance(minutes=9)
    assert calm_at is not None
    assert found["level"] == "normal", found
    assert world.api.now - calm_at >= timedelta(minutes=30)
    assert all(f["ended_at"] for f in found["firings"])
    if signal.raises:
        assert [a[1] for a in await world.alerts(name)] == ["resolved", "resolved"]
