"""What happens at a clinic, sent through the public API while a person looks at the screen."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from tests.server import ASK, Server

THERAPIST, PATIENT = "t-ana", "p-pedro"
WAIT_S = 10
_NUMBERS = count(1)


@dataclass
class Clinic:
    """One tenant with a key, and the names of people in it."""

    server: Server
    tenant_id: str
    slug: str
    key: str
    start: datetime = field(default_factory=lambda: datetime.now(UTC))  # noqa: TID251  # the test is outside the product

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a request that must succeed."""
        answer = ASK.request(
            method,
            f"{self.server.url}/api/v1{path}",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=20 + WAIT_S,
            **options,
        )
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def furnish(self) -> None:
        """A therapist and a child."""
        self.call("PUT", f"/therapists/{THERAPIST}", json={"name": "Ana"})
        self.call("PUT", f"/patients/{PATIENT}", json={"name": "Pedro"})

    def family(self, name: str) -> str:
        """A new contact who may do everything for Pedro; returns its id."""
        number = next(_NUMBERS)
        contact_id = f"c-{number}"
        self.call("PUT", f"/contacts/{contact_id}", json={"phone": f"+55119{80000000 + number}", "name": name})
        rights = {"is_primary": True, "can_schedule": True, "can_cancel": True}
        proof = {"verified_by": "recepcao", "verification_method": "in_person", "reason": "cadastro"}
        self.call("PUT", f"/patients/{PATIENT}/guardians/{contact_id}", json=rights | proof)
        return contact_id

    def command(self, contact_id: str, command_type: str = "schedule", *, wait: bool = False, **fields: Any) -> Any:
        """Send one command; returns the answer (with the result when `wait`)."""
        number = next(_NUMBERS)
        moment = datetime.now(UTC)  # noqa: TID251  # the test is outside the product
        begin = self.start + timedelta(days=2, hours=number)
        slot = {"therapist_id": THERAPIST, "start": begin.isoformat(), "end": (begin + timedelta(minutes=50)).isoformat()}
        body = {
            "contact_id": contact_id,
            "command_type": command_type,
            "patient_id": PATIENT,
            "requested_by": "ai",
            "confirmed_by_contact": True,
            "guardian_version": 1,
            "conversation_version": 1,
            "as_of": moment.isoformat(),
            "occurred_at": moment.isoformat(),
            "idempotency_key": f"k-{number}",
            "correlation_id": f"corr-{number}",
            "payload": slot,
        }
        return self.call("POST", "/commands", json=body | fields, params={"wait": WAIT_S} if wait else {})

    def waiting(self, contact_id: str, commit_order: int, **fields: Any) -> str:
        """A request that stays in the queue: one before it has not arrived. Returns its id."""
        return str(self.command(contact_id, commit_order=commit_order, **fields)["command_id"])

    def message(self, contact_id: str, text: str) -> str:
        """The family writes; returns the event's id once it has been heard."""
        number = next(_NUMBERS)
        body = {
            "contact_id": contact_id,
            "external_id": f"wamid.{number}",
            "event_type": "message",
            "occurred_at": datetime.now(UTC).isoformat(),  # noqa: TID251  # the test is outside the product
            "payload": {"text": text},
        }
        event_id = str(self.call("POST", "/events", json=body)["event_id"])
        until(lambda: self.call("GET", f"/events/{event_id}")["status"] == "processed", "the message was heard")
        return event_id


def until(holds: Callable[[], bool], what: str, limit_s: float = 30.0) -> float:
    """Poll until it holds; returns the seconds it took. Fails with `what` at the limit."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began
