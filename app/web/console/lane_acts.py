"""What may be done to the contact in view and to the clinic's queue, and what it would do, in numbers."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from app.domain.states import CommandType
from app.store import holds
from app.store.lanes import gather
from app.web.console.lane import head_of
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.sentences import COMMAND_NAMES
from app.web.console.visit import Visit

STEERS = (MANAGER, SUPERADMIN)
"""Roles that pause, release, step and skip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneActs:
    """Context of the fragment `lane_acts`; `front` is the place whose turn it is, None while nothing waits."""

    may_act: bool
    clinic: str
    contact_id: str
    csrf: str
    paused: bool
    waiting: int
    front: int | None
    front_name: str
    missing: bool
    """Nobody has come to the front place yet."""
    takeover: bool
    """A person has the conversation already."""


def load_lane_acts(conn: Connection, visit: Visit) -> LaneActs:
    """The acts that make sense for the lane as it is."""
    head = head_of(conn, visit)
    key = (head.clinic.tenant_id, head.contact_id)
    facts = gather(conn, [key], 1) if head.waiting else None
    commands = facts.lanes[key].commands if facts is not None else []
    front = head.last_committed + 1
    here = next((c for c in commands if c.commit_order == front), None)
    return LaneActs(
        may_act=visit.role in STEERS,
        clinic=head.clinic.slug,
        contact_id=head.contact_id,
        csrf=visit.csrf_token,
        paused=head.paused_since is not None,
        waiting=head.waiting,
        front=front if head.waiting else None,
        front_name=visit.words.text(COMMAND_NAMES[here.command_type]) if here is not None else "",
        missing=here is None,
        takeover=head.takeover,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLine:
    """One pause of the clinic."""

    command_type: str
    name: str
    since: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueHolds:
    """Context of the fragment `queue_holds`; nothing can be paused while several clinics are in view."""

    may_act: bool
    clinic: str | None
    clinic_name: str
    csrf: str
    lines: tuple[HoldLine, ...]
    free: tuple[tuple[str, str], ...]
    """Command types that are not paused: value and name."""


def load_queue_holds(conn: Connection, visit: Visit) -> QueueHolds:
    """What is paused in the clinic in view, and what could be."""
    words, clinic = visit.words, visit.chosen
    names = {holds.EVERYTHING: words.text("all requests of the clinic")} | {
        t.value: words.text(COMMAND_NAMES[t]) for t in CommandType
    }
    rows = holds.holds(conn, clinic.tenant_id) if clinic is not None else []
    lines = tuple(
        HoldLine(
            command_type=row["command_type"],
            name=names.get(row["command_type"], row["command_type"]),
            since=row["since"],
            by=row["by"],
            reason=row["reason"],
        )
        for row in rows
    )
    taken = {line.command_type for line in lines}
    return QueueHolds(
        may_act=visit.role in STEERS and clinic is not None,
        clinic=clinic.slug if clinic is not None else None,
        clinic_name=clinic.name if clinic is not None else "",
        csrf=visit.csrf_token,
        lines=lines,
        free=tuple((value, name) for value, name in names.items() if value not in taken),
    )
