"""A short, real history of one clinic, made by the product's own intake, planning and commit."""

from datetime import datetime, timedelta
from typing import Any

from app.clock import ManualClock
from app.domain.envelopes import parse_command, parse_event
from app.domain.facts import GatePolicy
from app.engine.conversations import Conversations
from app.engine.planning import TenantPolicy, plan_lanes
from app.ids import new_id
from app.store import audit
from app.store.database import Database
from app.store.inbox import Receipt, accept
from app.store.intake_facts import Submission
from app.store.lanes import candidates, gather
from app.store.ledger import apply
from app.store.plans import Attempt
from tests.builders import Clinic, clinic

SLOT_HOURS = {"a-1": 30, "a-2": 50, "a-3": 70}
"""Where the history's appointments begin, in hours after its start."""


class History:
    """Drives one clinic through intake and commit; every step is the product's own code."""

    def __init__(self, db: Database, clock: ManualClock) -> None:
        self.db, self.clock = db, clock
        self.made: Clinic
        self._conversations = Conversations(db, clock)

    def at(self, hours: float) -> str:
        """RFC 3339 time that many hours after the clock."""
        return (self.clock.now() + timedelta(hours=hours)).isoformat()

    async def begin(self, tenant_id: str = "ten-sol") -> None:
        """The clinic with its family and therapist."""
        self.made = await self.db.write(clinic, tenant_id=tenant_id, now=self.clock.now())

    async def says(self, text: str, **fields: Any) -> Receipt:
        """Maria writes."""
        now = self.clock.now().isoformat()
        raw = {"contact_id": self.made.contact_id, "event_type": "message", "occurred_at": now, "payload": {"text": text}, **fields}
        item = parse_event(raw, tenant_id=self.made.tenant_id, new_id=new_id())
        return await self._accept(item)

    async def asks(self, command_id: str, command_type: str, payload: dict[str, Any], **fields: Any) -> Receipt:
        """The orchestrator asks for something, confirmed and on the versions given."""
        now = self.clock.now().isoformat()
        raw = {
            "command_id": command_id,
            "contact_id": self.made.contact_id,
            "command_type": command_type,
            "patient_id": self.made.patient_id,
            "requested_by": "ai",
            "confirmed_by_contact": True,
            "guardian_version": 1,
            "conversation_version": 1,
            "as_of": now,
            "occurred_at": now,
            "idempotency_key": f"k-{command_id}",
            "payload": payload,
            **fields,
        }
        return await self._accept(parse_command(raw, tenant_id=self.made.tenant_id, new_id=new_id()))

    async def _accept(self, item: Any) -> Receipt:
        submission = Submission(tenant_id=self.made.tenant_id, item=item, spare_id=new_id())
        (receipt,) = await self.db.write(accept, [submission], self.clock.now())
        return receipt

    async def settle(self) -> None:
        """Hear every message and decide every command that can be decided."""
        policies = {self.made.tenant_id: TenantPolicy(gate=GatePolicy(), timezone="America/Sao_Paulo")}
        await self._conversations.tick()
        for _ in range(20):
            now: datetime = self.clock.now()
            ready = await self.db.read(candidates, now, 100)
            if not ready:
                return
            facts = await self.db.read(gather, [(c.tenant_id, c.contact_id) for c in ready], 16)
            attempt = Attempt(
                token=new_id(),
                node_id="n1",
                clock=self.clock.now,
                lock_backend="lock_acquired_primary",
                lock_mode="database",
                lock_ms=1.0,
            )
            await self.db.write(apply, plan_lanes(facts, policies, now), attempt)
            self.clock.advance(seconds=1)
        raise AssertionError("the lanes do not come to rest")


async def small_history(db: Database, clock: ManualClock) -> History:
    """One of everything: effects of each kind, results for a person, a gap, an unheard message, an audited act."""
    h = History(db, clock)
    await h.begin()
    slot = {n: {"start": h.at(hours), "end": h.at(hours + 0.8)} for n, hours in SLOT_HOURS.items()}
    await h.says("quero marcar")  # the conversation is at version 2 from here
    await h.asks(
        "c-1", "schedule", {"appointment_id": "a-1", "therapist_id": "t-ana", **slot["a-1"]}, confirmed_by_contact=False,
        conversation_version=2,
    )  # fmt: skip
    await h.settle()
    await h.says("CONFIRMAR")  # version 3; confirms c-1's proposal
    await h.settle()
    await h.asks("c-2", "schedule", {"appointment_id": "a-2", "therapist_id": "t-ana", **slot["a-2"]}, conversation_version=3)
    await h.asks("c-3", "reschedule", {"appointment_id": "a-1", **slot["a-3"]}, conversation_version=3, entity_version=1)
    await h.asks("c-4", "d1_confirmation", {"appointment_id": "a-1", "answer": "yes"}, conversation_version=3, entity_version=2)
    await h.asks("c-5", "follow_up", {"text": "Como foi a sessão?"}, conversation_version=3)
    await h.asks("c-6", "follow_up", {"text": "outra coisa"}, conversation_version=3, idempotency_key="k-c-5")
    await h.asks("c-7", "schedule", {"therapist_id": "t-ana"}, conversation_version=3)
    await h.settle()
    await h.asks("c-8", "cancel", {"appointment_id": "a-2"}, conversation_version=3, entity_version=1, commit_order=2)
    await h.asks("c-9", "takeover", {"reason": "frustration"}, conversation_version=3, requested_by="human")
    await h.settle()
    await h.says("obrigada")
    await h.says("até logo")
    await h.settle()
    await h.asks("c-10", "follow_up", {"text": "depois"}, conversation_version=5, commit_order=20, requested_by="human")
    await h.settle()
    await h.says("ainda aí?")
    for number in (1, 2, 3):
        await db.write(
            audit.append,
            chain=h.made.tenant_id,
            actor="user:u-1",
            action="settings.change",
            object=f"settings {number}",
            before={"n": number - 1},
            after={"n": number},
            reason="teste",
            origin="console",
            correlation_id=None,
            now=clock.now(),
        )
    return h
