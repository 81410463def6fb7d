"""The incident of an alert that nobody acknowledged in its SLA: a critical ticket that follows the alert to its end.

Open when the alert is escalated, in progress once somebody takes it on, resolved with it. Alerts that switch safe mode on
have the ticket of their episode instead.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, update

from app.domain.envelopes import canonical_json
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.lanes import GLOBAL_SCOPE
from app.store.tables import Ticket, table

_TICKET = table(Ticket)

DUE: Final = timedelta(minutes=15)


def incident_id(alert_id: str) -> str:
    """The ticket's id: one for each alert, however often somebody looks."""
    return f"inc-{alert_id}"[:40]


def open_incident(conn: Connection, alert: Row[Any], now: datetime) -> None:
    """Open the ticket, once."""
    row = {
        "ticket_id": incident_id(alert.alert_id),
        "tenant_id": alert.tenant_id or GLOBAL_SCOPE,
        "kind": "critical",
        "state": "open",
        "cause_id": alert.alert_id,
        "reason": alert.summary,
        "level": "superadmin",
        "opened_at": now,
        "due_at": now + DUE,
        "correlation_id": alert.correlation_id,
        "context_json": canonical_json({"alert_id": alert.alert_id, "trigger": alert.trigger, "severity": alert.severity}),
    }
    insert_rows(conn, _TICKET, [row], ignore_conflicts=True)
    publish(conn, alert.tenant_id, "tickets", [row["ticket_id"]], now)


def take_up_incident(conn: Connection, alert: Row[Any], owner: str, now: datetime) -> None:
    """Somebody acknowledged after all."""
    _move(conn, alert, now, ("open",), state="in_progress", owner=owner[:200], started_at=now)


def close_incident(conn: Connection, alert: Row[Any], reason: str, now: datetime) -> None:
    """The alert is over."""
    _move(conn, alert, now, ("open", "in_progress"), state="resolved", closed_at=now, close_reason=reason[:500])


def _move(conn: Connection, alert: Row[Any], now: datetime, expected: tuple[str, ...], **values: Any) -> None:
    ticket_id = incident_id(alert.alert_id)
    moved = conn.execute(
        update(_TICKET)
        .where(_TICKET.c.ticket_id == ticket_id, _TICKET.c.state.in_(expected))
        .values(rev=_TICKET.c.rev + 1, **values)
    )
    if moved.rowcount:
        publish(conn, alert.tenant_id, "tickets", [ticket_id], now)
