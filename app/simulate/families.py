"""One family and the orchestrator behind it: what they write, and the commands that follow.

A family greets, wishes for an appointment, answers the proposal (CONFIRMAR, or only "ok"), later moves, confirms or cancels
it, and now and then wants a person. The orchestrator reads the contact's versions right before it decides, as a real one
does, and so loses some races against the next message.
"""

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from app.clock import Clock
from app.ids import new_id
from app.simulate import words
from app.simulate.api import Api, Webhooks

SLOT: Final = timedelta(minutes=50)
DECIDE_WAIT_S: Final = 5


@dataclass(slots=True)
class Agenda:
    """Free slots of the clinic's therapists, handed out one after the other so that most wishes can be met."""

    therapists: list[str]
    first_day: datetime
    """Midnight UTC of the first day."""
    handed_out: int = 0

    def next_slot(self) -> tuple[str, datetime]:
        """A therapist and a start time."""
        number = self.handed_out
        self.handed_out += 1
        therapist = self.therapists[number % len(self.therapists)]
        turn = number // len(self.therapists)
        return therapist, self.first_day + timedelta(days=turn // 10, hours=11 + turn % 10)


@dataclass(slots=True, kw_only=True)
class Family:
    """A contact, its child, and where their story stands."""

    contact_id: str
    patient_id: str
    phone: str
    name: str
    permitted: bool = True
    numbers_itself: bool = False
    """Its source gives each command its `commit_order`."""
    appointment_id: str | None = None
    wish: str | None = None
    """What the open proposal is about; None when there is none."""
    candidate: str | None = None
    """The appointment that the open proposal would make."""
    next_order: int = 0
    busy: bool = False
    last_message: dict[str, Any] | None = None


class Storyteller:
    """Takes one family one step further."""

    def __init__(
        self,
        api: Api,
        agenda: Agenda,
        dice: random.Random,
        clock: Clock,
        run: str,
        *,
        hooks: Webhooks | None = None,
        gap_s: float = 0.0,
    ) -> None:
        self._api, self._agenda, self._dice, self._clock, self._run = api, agenda, dice, clock, run
        self._hooks = hooks
        self._gap_s = gap_s
        """How long the first of some overtaken commands is held back (longer gaps can be watched in the queue)."""

    async def step(self, family: Family) -> int:
        """The next step of the story; returns how many items were offered."""
        dice = self._dice.random()
        if family.numbers_itself:
            return await self._numbered(family)
        if dice < 0.03:
            return await self._broken()
        if dice < 0.08 and family.last_message is not None:
            return await self._say_again(family)
        if dice < 0.11:
            return await self._out_of_order(family)
        if family.wish is not None:
            return await self._answer(family)
        if dice < 0.40:
            return await self._say(family, words.some(self._dice, words.SMALL_TALK + words.GREETINGS))
        if dice < 0.41:
            return await self._say(family, words.some(self._dice, words.PERSON + words.COMPLAINT))
        if dice < 0.50:
            return await self._follow_up(family)
        if family.appointment_id is None:
            return await self._wish_appointment(family)
        return await self._change_appointment(family)

    # --- messages -------------------------------------------------------------------------------------------------------

    def _event(self, family: Family, text: str, *, age_s: float = 0.0, button: str | None = None) -> dict[str, Any]:
        moment = self._clock.now() - timedelta(seconds=age_s)
        payload: dict[str, Any] = {"text": text, "kind": "button_reply" if button else "text"}
        return {
            "contact_id": family.contact_id,
            "conversation_id": f"conv-{family.contact_id}",
            "external_id": f"wamid.{new_id()}",
            "event_type": "message",
            "occurred_at": _rfc3339(moment),
            "correlation_id": f"sim-{new_id()}",
            "payload": payload | ({"button_id": button} if button else {}),
        }

    async def _say(self, family: Family, text: str, *, button: str | None = None) -> int:
        event = self._event(family, text, button=button)
        family.last_message = event
        await self._deliver(family, [event])
        return 1

    async def _deliver(self, family: Family, events: list[dict[str, Any]]) -> None:
        hooks = self._hooks
        if hooks is not None and self._dice.random() < hooks.share:
            await self._api.webhook(hooks, [_cloud(family, e) for e in events], [])
        elif len(events) == 1 or self._dice.random() < 0.5:
            await self._api.events(events)
        else:
            for event in events:
                await self._api.events([event])

    async def _say_again(self, family: Family) -> int:
        """The provider sends a message a second time."""
        assert family.last_message is not None
        await self._api.events([family.last_message])
        return 1

    async def _out_of_order(self, family: Family) -> int:
        """Two messages of one thought; the second overtakes the first."""
        first = self._event(family, words.some(self._dice, words.GREETINGS), age_s=2)
        second = self._event(family, words.some(self._dice, words.SMALL_TALK))
        await self._deliver(family, [second, first])
        return 2

    async def _broken(self) -> int:
        """What a faulty integration sends; kept for a person, never an error 500."""
        now = _rfc3339(self._clock.now())
        broken = self._dice.choice(
            (
                {"event_type": "message", "occurred_at": now, "payload": {"text": "sem contato"}},
                {
                    "contact_id": f"sim-broken-{self._run}",
                    "event_type": "message",
                    "occurred_at": "2026-11-23T12:00:00",
                    "payload": {},
                },
                {"contact_id": 7, "event_type": "message", "occurred_at": now, "payload": "texto"},
                {"contact_id": f"sim-broken-{self._run}", "event_type": "message", "occurred_at": "9999-12-31T23:59:59Z"},
            )
        )
        await self._api.events([broken])
        return 1

    # --- commands -------------------------------------------------------------------------------------------------------

    async def _command(
        self, family: Family, kind: str, payload: dict[str, Any], *, entity_version: int | None = None, wait_s: int = 0, **over: Any
    ) -> dict[str, Any] | None:
        """Read the contact, decide, command."""
        contact = await self._api.get(f"/contacts/{family.contact_id}")
        if contact is None:
            return None
        return await self._api.command(self._envelope(family, contact, kind, payload, entity_version) | over, wait_s=wait_s)

    def _envelope(
        self, family: Family, contact: dict[str, Any], kind: str, payload: dict[str, Any], entity_version: int | None = None
    ) -> dict[str, Any]:
        now = _rfc3339(self._clock.now())
        command_id = new_id()
        return {
            "command_id": command_id,
            "contact_id": family.contact_id,
            "conversation_id": f"conv-{family.contact_id}",
            "command_type": kind,
            "patient_id": family.patient_id,
            "requested_by": "ai",
            "confirmed_by_contact": False,
            "guardian_version": contact["guardian_version"],
            "conversation_version": contact["conversation_version"],
            "as_of": now,
            "occurred_at": now,
            "idempotency_key": f"sim:{command_id}",
            "correlation_id": f"sim-{command_id}",
            "payload": payload,
        } | ({"entity_version": entity_version} if entity_version is not None else {})

    async def _wish_appointment(self, family: Family) -> int:
        await self._say(family, words.some(self._dice, words.SCHEDULE))
        therapist, start = self._agenda.next_slot()
        candidate = f"sim-a-{new_id()}"
        payload = {"appointment_id": candidate, "therapist_id": therapist, **_slot(start)}
        receipt = await self._command(family, "schedule", payload, wait_s=DECIDE_WAIT_S)
        if receipt is not None and receipt.get("result") == "blocked_unconfirmed":
            family.wish, family.candidate = "schedule", candidate
        return 2

    async def _change_appointment(self, family: Family) -> int:
        appointment = await self._api.get(f"/appointments/{family.appointment_id}")
        if appointment is None or appointment["status"] == "cancelled":
            family.appointment_id = None
            return await self._say(family, words.some(self._dice, words.GREETINGS))
        dice = self._dice.random()
        identity = {"appointment_id": family.appointment_id}
        if dice < 0.25:
            await self._command(
                family,
                "d1_confirmation",
                identity | {"answer": "yes"},
                entity_version=appointment["version"],
                wait_s=DECIDE_WAIT_S,
            )
            return 1
        kind = "reschedule" if dice < 0.75 else "cancel"
        await self._say(family, words.some(self._dice, words.RESCHEDULE if kind == "reschedule" else words.CANCEL))
        payload = identity | (_slot(self._agenda.next_slot()[1]) if kind == "reschedule" else {})
        receipt = await self._command(family, kind, payload, entity_version=appointment["version"], wait_s=DECIDE_WAIT_S)
        if receipt is not None and receipt.get("result") == "blocked_unconfirmed":
            family.wish = kind
        return 2

    async def _answer(self, family: Family) -> int:
        """Most families confirm; some only say ok, which must not move anything."""
        dice = self._dice.random()
        if dice < 0.12:
            return await self._say(family, words.some(self._dice, words.VAGUE))
        if dice < 0.9:
            button = "CONFIRMAR" if self._dice.random() < 0.3 else None
            await self._say(family, words.some(self._dice, words.CONFIRM), button=button)
            if family.wish == "schedule":
                family.appointment_id = family.candidate
        else:
            await self._say(family, "deixa, vou ver com meu marido")
        family.wish = family.candidate = None
        return 1

    async def _follow_up(self, family: Family) -> int:
        await self._command(family, "follow_up", {"text": words.some(self._dice, words.FOLLOW_UPS)})
        return 1

    async def _numbered(self, family: Family) -> int:
        """A source with its own numbers, whose commands overtake each other on the way."""
        contact = await self._api.get(f"/contacts/{family.contact_id}")
        if contact is None:
            return 0
        family.next_order = max(family.next_order, contact["lane"]["last_assigned"])
        items = []
        for _ in range(self._dice.choice((2, 2, 3))):
            family.next_order += 1
            payload = {"text": words.some(self._dice, words.FOLLOW_UPS)}
            items.append(self._envelope(family, contact, "follow_up", payload) | {"commit_order": family.next_order})
        first, *later = items
        for item in reversed(later):
            await self._api.command(item)
        if self._gap_s:
            await asyncio.sleep(self._gap_s * self._dice.uniform(0.5, 1.5))
        await self._api.command(first)
        return len(items)


def _slot(start: datetime) -> dict[str, str]:
    return {"start": _rfc3339(start), "end": _rfc3339(start + SLOT)}


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cloud(family: Family, event: dict[str, Any]) -> dict[str, Any]:
    """The event as the Cloud API would send it."""
    seconds = int(datetime.fromisoformat(event["occurred_at"].replace("Z", "+00:00")).timestamp())
    base = {"from": family.phone.removeprefix("+"), "id": event["external_id"], "timestamp": str(seconds), "_name": family.name}
    payload = event["payload"]
    if "button_id" in payload:
        reply = {"type": "button_reply", "button_reply": {"id": payload["button_id"], "title": payload["text"]}}
        return base | {"type": "interactive", "interactive": reply}
    return base | {"type": "text", "text": {"body": payload["text"]}}
