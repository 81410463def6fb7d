"""What this process has accepted a moment ago and not yet decided: commands that dispatch need not read again.

A command's content never changes once it is accepted; where it stands does, and that is always read. A command found here
must have been accepted at the very moment that its row says, or it is another one and its row is read whole.
"""

from datetime import datetime
from typing import Final

from app.domain.envelopes import Command

LIMIT: Final = 8_192
"""Commands kept at most, the oldest go first; about 2 kB each."""


class Recent:
    """Accepted commands by (tenant, command id); lost with the process, and nothing is lost with it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept: dict[tuple[str, str], tuple[datetime, Command]] = {}

    def keep(self, command: Command, accepted_at: datetime) -> None:
        """Keep a command that is durable and has its place."""
        self._kept[(command.tenant_id, command.command_id)] = (accepted_at, command)
        if len(self._kept) > self._limit:
            del self._kept[next(iter(self._kept))]

    def find(self, tenant_id: str, command_id: str, accepted_at: datetime) -> Command | None:
        """The command that was accepted under this id at this moment; None: read it."""
        found = self._kept.get((tenant_id, command_id))
        return found[1] if found is not None and found[0] == accepted_at else None

    def forget(self, tenant_id: str, command_id: str) -> None:
        """It has its result."""
        self._kept.pop((tenant_id, command_id), None)
