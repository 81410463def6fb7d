"""What was known about the contact at a chosen moment; read only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from app.domain.states import State
from app.store.views.known import Known, known
from app.web.console.lane import head_of
from app.web.console.sentences import Badge, command_name, state_badge
from app.web.console.visit import Visit
from app.web.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRight:
    """A permission of then, in words."""

    patient: str
    said: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRequest:
    """A request as it stood then."""

    number: int | None
    name: str
    state: Badge
    accepted_at: datetime
    done_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneKnown:
    """Context of the fragment `lane_known`; without a moment (`at` None) there is only the form."""

    here: str
    field: str
    at: datetime | None
    known: Known | None
    permissions: tuple[KnownRight, ...]
    requests: tuple[KnownRequest, ...]


def load_lane_known(conn: Connection, visit: Visit) -> LaneKnown:
    """The contact at the moment in `known`, a time of the clinic's clock."""
    head, words = head_of(conn, visit), visit.words
    at = _moment(words, visit.one("known", 30))
    here = visit.urls.lane(head.clinic, head.contact_id)
    field = f"{words.local(at or words.now):%Y-%m-%dT%H:%M:%S}"
    if at is None:
        return LaneKnown(here=here, field=field, at=None, known=None, permissions=(), requests=())
    found = known(conn, head.clinic.tenant_id, head.contact_id, at)
    return LaneKnown(
        here=here,
        field=field,
        at=at,
        known=found,
        permissions=tuple(KnownRight(patient=p.patient, said=_rights(words, p.after), at=p.at) for p in found.permissions),
        requests=tuple(_request(words, row, at) for row in found.commands),
    )


def _moment(words: Words, text: str) -> datetime | None:
    """The moment in the address, not after now; None when it names none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is not None or not 2000 <= found.year < 2100:
        return None
    return min(found.replace(tzinfo=words.zone).astimezone(UTC), words.now)


def _rights(words: Words, after: Mapping[str, Any]) -> str:
    if after.get("revoked"):
        return words.text("revoked")
    if not (after.get("verified_by") and after.get("verification_method")):
        return words.text("not verified")
    may = [words.text("schedule")] if after.get("can_schedule") else []
    may += [words.text("cancel")] if after.get("can_cancel") else []
    may += [words.text("reschedule")] if len(may) == 2 else []  # both rights together are the third
    return ", ".join(may) or words.text("nothing")


def _request(words: Words, row: Any, at: datetime) -> KnownRequest:
    """What is decided later was in the queue then: how it waited is not kept."""
    decided = row.done_at is not None and row.done_at <= at
    return KnownRequest(
        number=row.commit_order,
        name=command_name(words, row.command_type),
        state=state_badge(words, (row.result or row.status) if decided else State.QUEUED_FOR_DISPATCH),
        accepted_at=row.accepted_at,
        done_at=row.done_at if decided else None,
    )
