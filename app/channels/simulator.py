"""The simulated phone: messages land in our own database and are shown on a page. For the demo and for tests."""

from app.channels.outbound import OutboundMessage, Outcome, PhoneEntry, PhoneWriter, SendResult, refused
from app.channels.reach import Endpoint
from app.errors import StorageUnavailable


class SimulatorChannel:
    """A phone for every address; an attempt that is repeated shows once."""

    key = "simulator"
    addressable = True
    endpoint: Endpoint | None = None

    def __init__(self, write: PhoneWriter, *, target: str | None = None) -> None:
        self._write = write
        self._target = target

    async def send(self, message: OutboundMessage) -> SendResult:
        """Show it on the phone."""
        to = message.to or self._target
        if not to:
            return refused("no_recipient")
        body = f"{message.title}\n{message.text}" if message.title else message.text
        entry = PhoneEntry(
            tenant_id=message.tenant_id, target=to[:60], kind=message.kind[:30], body=body, idempotency_key=message.key[:200]
        )
        try:
            await self._write(entry)
        except (StorageUnavailable, OSError) as error:
            return SendResult(outcome=Outcome.FAILED, detail=type(error).__name__)
        return SendResult(outcome=Outcome.SENT, provider_message_id=f"sim.{message.key}")
