"""One contact: why it waits in one sentence, its causal timeline, its versions, permissions and appointments."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from app.domain.envelopes import parse_time
from app.domain.reasons import explain
from app.domain.states import EFFECT_RESULTS, State
from app.errors import InvalidRequest, NotFound
from app.store.views.lane import (
    LaneHead,
    Permission,
    Timeline,
    TimelineItem,
    lane_head,
    permissions,
    timeline,
    visits,
)
from app.store.views.lane import Visit as Appointment
from app.web.console.contacts import phone_text
from app.web.console.sentences import REQUESTERS, Answer, Badge, class_badge, command_name, lane_answer, state_badge
from app.web.console.visit import Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSummary:
    """Context of the fragment `lane_summary`."""

    head: LaneHead
    answer: Answer
    name: str
    phone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineLine:
    """One entry of the timeline."""

    item: TimelineItem
    badge: Badge | None
    state: Badge | None
    title: str
    why: str
    next_action: str
    requester: str
    marked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTimeline:
    """Context of the fragment `lane_timeline`."""

    lines: tuple[TimelineLine, ...]
    older_url: str | None
    newest_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """Context of the fragment `lane_facts`."""

    head: LaneHead
    permissions: tuple[Permission, ...]
    visits: tuple[Appointment, ...]


def head_of(conn: Connection, visit: Visit) -> LaneHead:
    """The contact that the address names. Raises NotFound."""
    if visit.chosen is None:
        raise NotFound("There is no such contact.")
    # the path as it was sent: an id may contain slashes
    contact_id = visit.path.split("/", 3)[3]
    head = lane_head(conn, visit.chosen.tenant_id, contact_id, visit.words.now)
    if head is None:
        raise NotFound("There is no such contact.")
    return head


def load_lane_summary(conn: Connection, visit: Visit) -> LaneSummary:
    """Who it is, and the one answer."""
    head = head_of(conn, visit)
    tenant_id, contact_id = head.clinic.tenant_id, head.contact_id
    found = timeline(conn, tenant_id, contact_id)
    commands = [i for i in found.items if i.kind == "command"]
    pending = [i for i in commands if i.done_at is None and i.number is not None]
    front = min(pending, key=lambda i: i.number or 0, default=None)
    last = max((i for i in commands if i.done_at is not None), key=lambda i: (i.done_at, i.number or 0), default=None)
    coming = visits(conn, tenant_id, contact_id, visit.words.now)
    answer = lane_answer(visit.words, head, front, last, coming)
    return LaneSummary(head=head, answer=answer, name=head.name or contact_id, phone=phone_text(head.phone))


def load_lane_timeline(conn: Connection, visit: Visit) -> LaneTimeline:
    """Messages and commands, newest first."""
    head = head_of(conn, visit)
    before = _before(visit.one("before"))
    found: Timeline = timeline(conn, head.clinic.tenant_id, head.contact_id, before=before)
    older = found.older.isoformat().replace("+00:00", "Z") if found.older is not None else None
    marked = visit.one("item")
    front = head.last_committed + 1
    return LaneTimeline(
        lines=tuple(_line(visit, item, marked, front) for item in found.items),
        older_url=visit.urls.lane(head.clinic, head.contact_id, before=older) if older else None,
        newest_url=visit.urls.lane(head.clinic, head.contact_id) if before is not None else None,
    )


def load_lane_facts(conn: Connection, visit: Visit) -> LaneFacts:
    """Versions, permissions and appointments."""
    head = head_of(conn, visit)
    tenant_id, contact_id = head.clinic.tenant_id, head.contact_id
    return LaneFacts(
        head=head,
        permissions=permissions(conn, tenant_id, contact_id),
        visits=visits(conn, tenant_id, contact_id, visit.words.now),
    )


def _before(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise InvalidRequest("The time in this address cannot be read; start again from the contact's page.") from error


def _line(visit: Visit, item: TimelineItem, marked: str, front: int) -> TimelineLine:
    """One entry; `front` is the place whose turn it is, what waits behind it says only for which number it waits."""
    words = visit.words
    if item.kind == "gap":
        run = (item.gap_until or 0) > (item.number or 0)
        if item.done_at is not None:
            title = words.text("No. %(n)d never arrived", n=item.number)
        elif run:
            title = words.text("No. %(n)d to %(last)d have not arrived", n=item.number, last=item.gap_until)
        else:
            title = words.text("No. %(n)d has not arrived", n=item.number)
        told = explain(item.status, item.reason, words.locale)
        return TimelineLine(
            item=item, badge=None, state=None, title=title, why=told.why, next_action=told.next_action, requester="", marked=False
        )
    told = explain(item.result or item.status, item.reason, words.locale)
    quiet = item.result in EFFECT_RESULTS or item.status in (State.PROCESSED, State.QUEUED_FOR_DISPATCH)
    why, next_action = told.why, told.next_action
    if item.kind == "command" and item.done_at is None and item.number is not None and item.number > front:
        why, next_action = words.text("Waits for no. %(n)d of this contact.", n=item.number - 1), ""
    elif quiet:
        why, next_action = told.why if item.was_parked else "", ""
    elif item.result == State.DUPLICATE_IGNORED:
        next_action = ""
    return TimelineLine(
        item=item,
        badge=class_badge(words, item.rank),
        state=state_badge(words, item.status),
        title=command_name(words, item.command_type) if item.kind == "command" else words.text("Message"),
        why=why,
        next_action=next_action,
        requester=words.text(REQUESTERS.get(item.requested_by or "", item.requested_by or "")),
        marked=bool(marked) and marked in (item.item_id, item.correlation_id),
    )
