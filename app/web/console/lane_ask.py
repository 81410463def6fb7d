"""A person's command for the contact in view: the agenda's own form and answer, with the family filled in."""

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from app.store.views.lane import permissions, visits
from app.web.console.agenda import AgendaAct, load_agenda_act
from app.web.console.lane import head_of
from app.web.console.visit import Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneAsk:
    """Context of the fragment `lane_ask`; `act`: the form, its suggestions narrowed to the contact's own patients."""

    act: AgendaAct
    contact_id: str
    visits: tuple[tuple[str, str], ...]
    """What can be changed: name and address of the form."""
    here: str


def load_lane_ask(conn: Connection, visit: Visit) -> LaneAsk:
    """The form for a new appointment, or for the one in `pick`, and the result of the request in `done`."""
    head, words = head_of(conn, visit), visit.words
    tenant_id, contact_id = head.clinic.tenant_id, head.contact_id
    act = load_agenda_act(conn, visit)
    own = tuple(
        (p.patient_id, p.patient_name or p.patient_id) for p in permissions(conn, tenant_id, contact_id) if p.revoked_at is None
    )
    coming = visits(conn, tenant_id, contact_id, words.now)
    return LaneAsk(
        act=replace(act, contacts=((contact_id, head.name or contact_id),), patients=own or act.patients),
        contact_id=contact_id,
        visits=tuple(
            (
                f"{words.visit(v.start_at)} {v.patient_name or v.patient_id}",
                visit.urls.lane(head.clinic, contact_id, pick=v.appointment_id) + "#lane_ask",
            )
            for v in coming
            if v.status != "cancelled"
        ),
        here=visit.urls.lane(head.clinic, contact_id),
    )
