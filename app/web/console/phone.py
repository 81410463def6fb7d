"""The simulated phone: what families and people on call would see, for demos, training and tests (channel `simulator:`)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from app.store.phone import Bubble, Chat, chat, chats
from app.web.console.contacts import phone_text
from app.web.console.visit import Visit

OWN: Final = "-"
"""Stands in an address for the installation's own people, who belong to no clinic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLine:
    """One phone in the list."""

    url: str
    name: str
    detail: str
    preview: str
    at: datetime
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneChats:
    """Context of the fragment `phone_chats`."""

    lines: tuple[ChatLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneChat:
    """Context of the fragment `phone_chat`; without a name no phone is shown."""

    name: str
    detail: str
    lane_url: str | None
    bubbles: tuple[Bubble, ...]


def load_phone_chats(conn: Connection, visit: Visit) -> PhoneChats:
    """Phones of the clinics that are looked at, latest first."""
    found = chats(conn, visit.scope)
    chosen = _chosen(visit, found)
    return PhoneChats(
        lines=tuple(
            ChatLine(
                url=visit.urls.to("/phone", of=_slug(visit, c), to=c.target),
                name=c.name or phone_text(c.target),
                detail=_detail(visit, c),
                preview=" ".join(c.last_body.split())[:80],
                at=c.last_at,
                chosen=c is chosen,
            )
            for c in found
        )
    )


def load_phone_chat(conn: Connection, visit: Visit) -> PhoneChat:
    """The phone that the address names, else the latest one."""
    found = chats(conn, visit.scope)
    chosen = _chosen(visit, found)
    if chosen is None:
        return PhoneChat(name="", detail="", lane_url=None, bubbles=())
    clinic = next((c for c in visit.clinics if c.tenant_id == chosen.tenant_id), None)
    lane = visit.urls.lane(clinic, chosen.contact_id) if clinic is not None and chosen.contact_id is not None else None
    return PhoneChat(
        name=chosen.name or phone_text(chosen.target),
        detail=_detail(visit, chosen),
        lane_url=lane,
        bubbles=tuple(chat(conn, chosen.tenant_id, chosen.target)),
    )


def _chosen(visit: Visit, found: list[Chat]) -> Chat | None:
    """Only among what the viewer may see: an address that names another phone shows the latest one."""
    of, to = visit.one("of"), visit.one("to")
    named = next((c for c in found if c.target == to and _slug(visit, c) == of), None) if to else None
    return named or (found[0] if found else None)


def _slug(visit: Visit, found: Chat) -> str:
    if found.tenant_id is None:
        return OWN
    return next((c.slug for c in visit.clinics if c.tenant_id == found.tenant_id), "")


def _detail(visit: Visit, found: Chat) -> str:
    """Number and clinic, where they say more than the name."""
    clinic = next((c.name for c in visit.clinics if c.tenant_id == found.tenant_id), "") if visit.several else ""
    number = phone_text(found.target) if found.name else ""
    return " · ".join(part for part in (number, clinic) if part)
