"""Tenants, settings, users, sessions, keys."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from app.store.tables.base import doc, key, when


class Tenant(SQLModel, table=True):
    """One clinic."""

    __tablename__ = "tenant"
    tenant_id: str = key(40)
    slug: str = Field(max_length=60, unique=True)
    name: str = Field(max_length=200)
    timezone: str = Field(default="America/Sao_Paulo", max_length=60)
    created_at: datetime = when()
    disabled_at: datetime | None = when(default=None)


class SettingsDoc(SQLModel, table=True):
    """Editable settings of a tenant, or of `global`; `version` grows with every change."""

    __tablename__ = "settings_doc"
    scope: str = key(60)
    version: int = 1
    data_json: str = doc(default="{}")
    updated_at: datetime = when()
    updated_by: str = Field(max_length=200)


class UserAccount(SQLModel, table=True):
    """A person who signs in to the console."""

    __tablename__ = "user_account"
    __table_args__ = (CheckConstraint("role IN ('secretary','manager','superadmin')", name="role"),)
    user_id: str = key(40)
    email: str = Field(max_length=254, unique=True)
    name: str = Field(max_length=200)
    role: str = Field(max_length=20)
    password_hash: str = Field(max_length=300)
    language: str = Field(default="pt_BR", max_length=5)
    theme: str = Field(default="auto", max_length=5)
    shortcuts: bool = True
    failed_logins: int = 0
    locked_until: datetime | None = when(default=None)
    created_at: datetime = when()
    disabled_at: datetime | None = when(default=None)
    signed_in_at: datetime | None = when(default=None)
    """Last time."""
    left_at: datetime | None = when(default=None)
    """Last use of the last session that has ended: since then the person has not looked."""


class SavedView(SQLModel, table=True):
    """A filter of a list under a name, for the person who keeps it."""

    __tablename__ = "saved_view"
    user_id: str = key(40, foreign_key="user_account.user_id", ondelete="CASCADE")
    page: str = key(20)
    name: str = key(60)
    filter: str = Field(max_length=1000)
    """As in the address: `state=...&class=...`."""
    created_at: datetime = when()


class UserTenant(SQLModel, table=True):
    """Which clinics a secretary or manager works for (a superadmin sees all)."""

    __tablename__ = "user_tenant"
    user_id: str = key(40, foreign_key="user_account.user_id", ondelete="CASCADE")
    tenant_id: str = key(40, foreign_key="tenant.tenant_id", ondelete="CASCADE")


class WebSession(SQLModel, table=True):
    """A signed-in browser; the key is the SHA-256 of the cookie, never the cookie."""

    __tablename__ = "web_session"
    key_hash: str = key(64)
    user_id: str = Field(max_length=40, foreign_key="user_account.user_id", ondelete="CASCADE", index=True)
    created_at: datetime = when()
    seen_at: datetime = when()
    expires_at: datetime = when(index=True)
    address: str = Field(default="", max_length=60)
    user_agent: str = Field(default="", max_length=300)


class ApiKey(SQLModel, table=True):
    """A machine's key: prefix shown, secret hashed. `tenant_id` None = global."""

    __tablename__ = "api_key"
    key_id: str = key(40)
    secret_hash: str = Field(max_length=64, unique=True)
    name: str = Field(max_length=100)
    tenant_id: str | None = Field(default=None, max_length=40, foreign_key="tenant.tenant_id", ondelete="CASCADE")
    scopes: str = Field(max_length=100)
    """Space-separated: intake read operate admin."""
    created_at: datetime = when()
    expires_at: datetime | None = when(default=None)
    revoked_at: datetime | None = when(default=None)
    last_used_at: datetime | None = when(default=None)
