"""What a webhook needs to know before it believes anything: the tenant of its URL and the tenant's settings."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from app.store.accounts import find_tenant
from app.store.settings import load


@dataclass(frozen=True, slots=True)
class WebhookTenant:
    """The addressed clinic and its settings document, secrets included."""

    tenant_id: str
    settings: dict[str, Any]

    def secret(self, section: str, name: str) -> str | None:
        """A credential of a provider's section; None when it is not configured."""
        part = self.settings.get(section)
        value = part.get(name) if isinstance(part, dict) else None
        return value if isinstance(value, str) and value else None


def webhook_tenant(conn: Connection, name: str) -> WebhookTenant | None:
    """The active tenant with this id or slug."""
    row = find_tenant(conn, name)
    return WebhookTenant(row.tenant_id, load(conn, row.tenant_id)) if row else None
