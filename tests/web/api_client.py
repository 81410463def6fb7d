"""A program that talks to the API with a tenant's key, and the small clinic it works for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from app.bootstrap import Services
from tests.web.conftest import Clinic, add_key, add_tenant

CONTACT, PATIENT, THERAPIST = "c-maria", "p-pedro", "t-ana"
PERMISSION = {
    "is_primary": True,
    "can_schedule": True,
    "can_cancel": True,
    "verified_by": "recepcao",
    "verification_method": "in_person",
    "reason": "cadastro",
}


@dataclass
class Api:
    """One caller: its client, its key, and how it writes commands."""

    client: httpx.AsyncClient
    services: Services
    clinic: Clinic
    key: dict[str, str]
    count: int = field(default=0)

    @property
    def now(self) -> datetime:
        """The product's time."""
        return self.services.clock.now()

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request with the key."""
        headers = {**self.key, **options.pop("headers", {})}
        return await self.client.request(method, f"/api/v1{path}", headers=headers, **options)

    async def get(self, path: str, **params: Any) -> Any:
        """The JSON of a GET that must succeed."""
        answer = await self.call("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def put(self, path: str, body: Any) -> Any:
        """The JSON of a PUT that must succeed."""
        answer = await self.call("PUT", path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def send(self, *commands: dict[str, Any], wait: float = 10) -> list[Any]:
        """Answers to commands sent in one request."""
        answer = await self.call("POST", "/commands", json={"commands": list(commands)}, params={"wait": wait} if wait else {})
        assert answer.status_code == 202, answer.text
        items: list[Any] = answer.json()["items"]
        return items

    async def one(self, command: dict[str, Any], wait: float = 10) -> Any:
        """The answer to one command."""
        answer = await self.call("POST", "/commands", json=command, params={"wait": wait} if wait else {})
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def processed(self, event_id: str) -> Any:
        """The event once it has been heard."""
        return await self.once(f"/events/{event_id}", lambda found: found["status"] == "processed")

    async def once(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """The JSON of a GET once something holds of it; asked again until then, for half a minute at least."""
        for _ in range(1_500):
            found = await self.get(path)
            if holds(found):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"{path} did not become what was expected: {found}")

    async def furnish(self) -> None:
        """Maria, who may do everything for Pedro, and the therapist Ana: all through the API."""
        await self.put(f"/therapists/{THERAPIST}", {"name": "Ana"})
        await self.put(f"/patients/{PATIENT}", {"name": "Pedro"})
        await self.put(f"/contacts/{CONTACT}", {"phone": "+5511987654321", "name": "Maria"})
        await self.put(f"/patients/{PATIENT}/guardians/{CONTACT}", PERMISSION)

    def command(self, command_type: str = "schedule", payload: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """A command that applies as it is, unless `fields` say otherwise (None leaves a field out)."""
        self.count += 1
        moment = self.now.isoformat()
        made = {
            "contact_id": CONTACT,
            "command_type": command_type,
            "patient_id": PATIENT,
            "requested_by": "ai",
            "confirmed_by_contact": True,
            "guardian_version": 1,
            "conversation_version": 1,
            "as_of": moment,
            "occurred_at": moment,
            "idempotency_key": f"k-{self.count}",
            "correlation_id": f"corr-{self.count}",
            "payload": self.slot(self.count) if payload is None else payload,
            **fields,
        }
        return {k: v for k, v in made.items() if v is not None}

    def slot(self, hours: float = 1, appointment_id: str | None = None) -> dict[str, str]:
        """Payload of a schedule, so many hours after tomorrow's first."""
        start = self.now + timedelta(days=1, hours=hours)
        given = {"appointment_id": appointment_id} if appointment_id else {}
        return {**given, "therapist_id": THERAPIST, "start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat()}

    def event(self, text: str = "Oi", **fields: Any) -> dict[str, Any]:
        """An inbound message."""
        self.count += 1
        made = {
            "contact_id": CONTACT,
            "external_id": f"wamid.{self.count}",
            "event_type": "message",
            "occurred_at": self.now.isoformat(),
            "payload": {"text": text},
            **fields,
        }
        return {k: v for k, v in made.items() if v is not None}


async def open_api(services: Services, client: httpx.AsyncClient, slug: str = "clinica-aurora") -> Api:
    """A clinic of its own with a key, furnished."""
    clinic = await add_tenant(services, slug)
    api = Api(client, services, clinic, await add_key(services, clinic.tenant_id))
    await api.furnish()
    return api
