"""Deferred risk: the plan's deferred item with its live trigger, what met it, and the decision that people take."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from app.domain.deferred import DEFAULT_POLICY, DeferredState
from app.store.deferred import ITEM, look
from app.web.console.pages import SUPERADMIN
from app.web.console.visit import Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One condition of the trigger: where it stands and where it is met."""

    id: str
    now: int
    limit: int
    what: tuple[tuple[str, str], ...]
    """What is counted, and its address ('' where there is none)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredRisk:
    """Context of the fragment `deferred_item`."""

    item: str
    reopened: bool
    since: datetime | None
    measures: tuple[Measure, ...]
    window_days: int
    alert_url: str
    pack_url: str
    decided_at: datetime | None
    decision: str
    may_decide: bool
    rev: int
    csrf: str


def load_deferred(conn: Connection, visit: Visit) -> DeferredRisk:
    """The trigger now; alerts behind it are named to who sees every clinic."""
    found, words = look(conn, visit.words.now), visit.words
    row, everyone = found.row, visit.person.role == SUPERADMIN
    reopened = found.state is DeferredState.REOPEN_TRIGGERED
    told = reopened and everyone
    incidents = tuple((words.clock(i.at), visit.urls.to("/alerts", alert=i.incident_id)) for i in found.status.incidents)
    return DeferredRisk(
        item=ITEM,
        reopened=reopened,
        since=row.since if row is not None and reopened else None,
        measures=(
            Measure(
                id="incidents",
                now=len(found.status.incidents),
                limit=DEFAULT_POLICY.incidents,
                what=incidents if everyone else (),
            ),
            Measure(
                id="backlog",
                now=len(found.status.streak),
                limit=DEFAULT_POLICY.days_in_a_row,
                what=tuple((str(day), "") for day in found.status.streak),
            ),
        ),
        window_days=DEFAULT_POLICY.within.days,
        alert_url=visit.urls.to("/alerts", alert=row.alert_id)
        if row is not None and row.alert_id and reopened and everyone
        else "",
        pack_url=visit.urls.to("/evidence", pack=row.pack_id) if row is not None and row.pack_id and told else "",
        decided_at=row.decided_at if row is not None else None,
        decision=(row.decision or "") if row is not None and everyone else "",
        may_decide=reopened and visit.person.role == SUPERADMIN,
        rev=row.rev if row is not None else 0,
        csrf=visit.csrf_token,
    )
