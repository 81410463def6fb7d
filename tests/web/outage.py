"""A clinic in an outage, through the API: what the tests of contingency and replay share."""

from typing import Any

from tests.web.api_client import PERMISSION, Api


async def switch(api: Api, active: bool, channel: str = "whatsapp", reason: str = "o provedor caiu") -> Any:
    """Contingency on or off."""
    return await api.put("/contingency", {"channel": channel, "active": active, "reason": reason})


async def parked(api: Api, **command: Any) -> str:
    """Send a command and wait until it is parked; returns its id."""
    sent = await api.one(api.command(**command), wait=0)
    await api.once(f"/commands/{sent['command_id']}", lambda c: c["status"] == "pending_contingency")
    return str(sent["command_id"])


async def ended(api: Api, command_id: str) -> Any:
    """The command once it has its result."""
    return await api.once(f"/commands/{command_id}", lambda c: c["result"] is not None)


async def family(api: Api, contact_id: str) -> None:
    """Another contact who may do everything for Pedro."""
    await api.put(f"/contacts/{contact_id}", {"name": contact_id})
    await api.put(f"/patients/p-pedro/guardians/{contact_id}", PERMISSION)
