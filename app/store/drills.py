"""Failure drills as rows, the drill's own clinic, and the check of its effects against the ledger (S-PC-05-002).

The clinic `drill` is an ordinary tenant whose families are nobody and whose messages end on the simulated phone. Nothing
here names any other tenant: a drill cannot touch a real one's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, delete, func, or_, select, update

from app.domain.drill import TENANT, DrillMeasures, DrillPhase, DrillResult, DrillVerdict, is_normal
from app.domain.envelopes import canonical_json
from app.domain.evidence_kinds import EvidenceKind, stamp
from app.domain.states import EFFECT_RESULTS
from app.errors import Conflict
from app.ids import new_id
from app.store import accounts, audit, evidence, people
from app.store.alerts import raise_alert
from app.store.bulk import insert_rows
from app.store.events import publish
from app.store.people import By
from app.store.settings import GLOBAL_SCOPE, load, save
from app.store.tables import Alert, Appointment, AppointmentVersion, Drill, InboxCommand, Lane, Ledger, ModeRow, Outbox, table

_DRILL, _MODE, _LEDGER, _COMMAND, _ALERT = table(Drill), table(ModeRow), table(Ledger), table(InboxCommand), table(Alert)
_VERSION, _OUTBOX, _LANE, _APPOINTMENT = table(AppointmentVersion), table(Outbox), table(Lane), table(Appointment)

TOPIC: Final = "drills"
REQUESTED: Final = "requested"
INTERRUPTED: Final = "interrupted"
LEASE: Final = timedelta(seconds=20)
FAMILIES: Final = 6
ACTOR: Final = "system:drill"
_PERMISSION: Final = {
    "is_primary": True,
    "can_schedule": True,
    "can_cancel": True,
    "verified_by": "drill",
    "verification_method": "drill",
    "reason": "drill",
}


def ask(conn: Connection, by: By, reason: str) -> str:
    """Ask for a run; returns its id. Raises Conflict while one is open, or while anything is not in its normal mode."""
    if not all_normal(conn):
        raise Conflict("Safe mode or contingency holds somewhere. A drill waits until everything is normal; nothing was started.")
    drill_id = new_id()
    row = {"drill_id": drill_id, "kind": "redis", "requested_at": by.now, "requested_by": by.actor[:200], "reason": reason[:500]}
    insert_rows(conn, _DRILL, [row], ignore_conflicts=True)
    if drill(conn, drill_id) is None:
        raise Conflict("A drill is running already; nothing was started.")
    audit.append(
        conn,
        chain=GLOBAL_SCOPE,
        actor=by.actor,
        action="drill.request",
        object=f"drills/{drill_id}",
        reason=reason,
        origin=by.origin,
        correlation_id=by.correlation_id,
        now=by.now,
    )
    publish(conn, None, TOPIC, [drill_id], by.now)
    return drill_id


def all_normal(conn: Connection) -> bool:
    """Whether neither safe mode nor contingency holds anywhere."""
    return conn.execute(select(_MODE.c.scope).where(or_(_MODE.c.state != "normal", _MODE.c.contingency))).first() is None


def trouble(conn: Connection, drill_id: str, since: datetime) -> str | None:
    """What has gone wrong in the installation since a run began, which it must not make worse; None when nothing has."""
    if not all_normal(conn):
        return "mode_not_normal"
    mine = (_ALERT.c.correlation_id != f"drill-{drill_id}", _ALERT.c.severity == "critical", _ALERT.c.raised_at >= since)
    if conn.execute(select(_ALERT.c.alert_id).where(*mine, _ALERT.c.resolved_at.is_(None)).limit(1)).first() is not None:
        return "critical_alert"
    return None


def next_due(conn: Connection) -> datetime | None:
    """When the schedule asks for the next run; None without a schedule, and before the first run (then it is due now)."""
    days = float(load(conn, GLOBAL_SCOPE).get("drill_every_d") or 0)
    last: datetime | None = conn.execute(select(func.max(_DRILL.c.requested_at))).scalar()
    return last + timedelta(days=days) if days > 0 and last is not None else None


def schedule_if_due(conn: Connection, now: datetime) -> str | None:
    """Ask for a scheduled run when the last one began `drill_every_d` days ago (0 = never); returns its id."""
    days = float(load(conn, GLOBAL_SCOPE).get("drill_every_d") or 0)
    due = next_due(conn)
    if days <= 0 or (due is not None and now < due):
        return None
    try:
        return ask(conn, By(actor=ACTOR, now=now), "scheduled")
    except Conflict:
        return None


def drill(conn: Connection, drill_id: str) -> Row[Any] | None:
    """One run."""
    return conn.execute(select(_DRILL).where(_DRILL.c.drill_id == drill_id)).first()


def drills(conn: Connection, limit: int = 50) -> Sequence[Row[Any]]:
    """Runs, the newest first."""
    return conn.execute(select(_DRILL).order_by(_DRILL.c.requested_at.desc(), _DRILL.c.drill_id.desc()).limit(limit)).all()


def normal(conn: Connection) -> bool:
    """Whether the last two runs were clean."""
    ended = select(_DRILL.c.result).where(_DRILL.c.ended_at.is_not(None)).order_by(_DRILL.c.ended_at.desc()).limit(2)
    return is_normal([DrillResult(result) for result in reversed(list(conn.execute(ended).scalars()))])


def claim(conn: Connection, node_id: str, now: datetime) -> Row[Any] | None:
    """Take the run that waits, for this node; None when there is none, and while not everything is normal: it waits on."""
    if not all_normal(conn):
        return None
    row = conn.execute(select(_DRILL).where(_DRILL.c.phase == REQUESTED, _DRILL.c.ended_at.is_(None))).first()
    if row is None or not _move(conn, row.drill_id, REQUESTED, DrillPhase.BASELINE, now, node_id=node_id, started_at=now):
        return None
    return drill(conn, row.drill_id)


def phase(
    conn: Connection, drill_id: str, before: str, after: str, now: datetime, measures: DrillMeasures, extra: Mapping[str, Any]
) -> bool:
    """Go to the next phase and keep what was measured; False when the run is no longer ours (its lease ran out)."""
    told = canonical_json(asdict(measures) | dict(extra))
    return _move(conn, drill_id, before, after, now, measures_json=told)


def _move(conn: Connection, drill_id: str, before: str, after: str, now: datetime, **values: Any) -> bool:
    mine = (_DRILL.c.drill_id == drill_id, _DRILL.c.phase == before, _DRILL.c.ended_at.is_(None))
    won = conn.execute(update(_DRILL).where(*mine).values(phase=after, lease_until=now + LEASE, **values)).rowcount == 1
    if won:
        publish(conn, None, TOPIC, [drill_id], now)
    return won


def beat(conn: Connection, drill_id: str, now: datetime) -> None:
    """The run's process lives."""
    mine = (_DRILL.c.drill_id == drill_id, _DRILL.c.ended_at.is_(None))
    conn.execute(update(_DRILL).where(*mine).values(lease_until=now + LEASE))


def withdraw(conn: Connection, drill_id: str) -> bool:
    """Take back a run that nobody has begun; False when somebody has."""
    mine = (_DRILL.c.drill_id == drill_id, _DRILL.c.phase == REQUESTED, _DRILL.c.ended_at.is_(None))
    return conn.execute(delete(_DRILL).where(*mine)).rowcount == 1


def kept(row: Row[Any]) -> tuple[DrillMeasures, list[dict[str, Any]]]:
    """What a run had measured when it last wrote it down, and its phases."""
    told = msgspec.json.decode(row.measures_json or "{}")
    known = {f.name for f in fields(DrillMeasures)}
    return DrillMeasures(**{name: value for name, value in told.items() if name in known}), list(told.get("phases", []))


def orphans(conn: Connection, now: datetime) -> list[str]:
    """Runs whose process died."""
    dead = (_DRILL.c.ended_at.is_(None), _DRILL.c.phase != REQUESTED, _DRILL.c.lease_until <= now)
    return list(conn.execute(select(_DRILL.c.drill_id).where(*dead)).scalars())


def end(
    conn: Connection, drill_id: str, found: DrillVerdict, measures: DrillMeasures, report: dict[str, Any], now: datetime
) -> bool:
    """Write the verdict; with a risk an alert, and always an evidence pack. False when it has ended already."""
    mine = (_DRILL.c.drill_id == drill_id, _DRILL.c.ended_at.is_(None))
    document = report | {"result": str(found.result), "risks": list(found.risks), "warnings": list(found.warnings)}
    document |= asdict(measures) | {"ended_at": stamp(now)}
    values = {
        "phase": DrillPhase.DONE,
        "ended_at": now,
        "lease_until": None,
        "result": found.result,
        "measures_json": canonical_json(asdict(measures)),
        "report_json": canonical_json(document),
        "invalid_side_effects": measures.invalid_side_effects,
        "recovery_s": measures.recovery_s,
    }
    if conn.execute(update(_DRILL).where(*mine).values(**values)).rowcount != 1:
        return False
    correlation_id = f"drill-{drill_id}"
    pack_id = evidence.request(
        conn,
        tenant_id=None,
        kind=EvidenceKind.DRILL,
        subject=drill_id,
        reason=str(found.result),
        now=now,
        document=document,
        correlation_id=correlation_id,
    )
    alert_id = None
    if found.result is DrillResult.DRILL_FAILED_SIDE_EFFECT_RISK:
        alert_id = raise_alert(
            conn,
            tenant_id=None,
            trigger=str(found.result),
            # a wrong effect was seen: critical; a run that proved nothing is urgent, but stops nobody's therapy
            severity="critical" if measures.invalid_side_effects else "high",
            summary=f"A simulação de falha do Redis não passou: {', '.join(found.risks)}.",
            dedup_key=f"drill:{drill_id}",
            correlation_id=correlation_id,
            now=now,
        ).alert_id
    conn.execute(update(_DRILL).where(_DRILL.c.drill_id == drill_id).values(pack_id=pack_id, alert_id=alert_id))
    publish(conn, None, TOPIC, [drill_id], now)
    return True


# --- the drill's own clinic ---------------------------------------------------------------------------------------------


def furnish(conn: Connection, now: datetime) -> None:
    """Make the drill's clinic if it is not there: families that may do everything, a therapist, the simulated phone."""
    if accounts.find_tenant(conn, TENANT, include_disabled=True) is not None:
        return
    by = By(actor=ACTOR, now=now)
    accounts.create_tenant(conn, tenant_id=TENANT, slug=TENANT, name="Simulação", timezone="America/Sao_Paulo", now=now)
    people.put_therapist(conn, TENANT, "t-drill", name="Simulação", by=by)
    for n in range(FAMILIES):
        people.put_contact(conn, TENANT, f"c-drill-{n}", phone=None, name="Simulação", by=by)
        people.put_patient(conn, TENANT, f"p-drill-{n}", name="Simulação", by=by)
        people.put_guardian(conn, TENANT, f"p-drill-{n}", f"c-drill-{n}", _PERMISSION, by=by)
    save(conn, TENANT, {"contacts_channel": "simulator:"}, actor=ACTOR, now=now, reason="drill", origin=None)


def versions(conn: Connection) -> dict[str, tuple[int, int]]:
    """Conversation and permission versions of the drill's families."""
    query = select(_LANE.c.contact_id, _LANE.c.conversation_version, _LANE.c.guardian_version).where(_LANE.c.tenant_id == TENANT)
    return {row.contact_id: (row.conversation_version, row.guardian_version) for row in conn.execute(query)}


def settled(conn: Connection, ids: Sequence[str]) -> list[Row[Any]]:
    """The ledger's entries of these commands: result, lock mode and milliseconds, when accepted and committed."""
    query = select(_LEDGER).where(_LEDGER.c.tenant_id == TENANT, _LEDGER.c.command_id.in_(list(ids)))
    return list(conn.execute(query.order_by(_LEDGER.c.committed_at, _LEDGER.c.contact_id, _LEDGER.c.commit_order)))


def invalid_effects(conn: Connection, drill_id: str) -> list[str]:
    """Everything wrong with the effects of a run: double, out of order, without their entry, or missing. Empty = proven."""
    like = f"drill-{drill_id}-%"
    mine = (_COMMAND.c.tenant_id == TENANT, _COMMAND.c.command_id.like(like))
    entries = (_LEDGER.c.tenant_id == TENANT, _LEDGER.c.command_id.like(like))
    done = {row.command_id: row for row in conn.execute(select(_LEDGER).where(*entries))}
    happened = {name for name, row in done.items() if row.result in EFFECT_RESULTS}
    found = []
    twice = select(_LEDGER.c.command_id).where(*entries).group_by(_LEDGER.c.command_id).having(func.count() > 1)
    found += [f"{name} was decided twice" for name in conn.execute(twice).scalars()]
    for row in conn.execute(select(_COMMAND.c.command_id, _COMMAND.c.result, _COMMAND.c.done_at).where(*mine)):
        if row.done_at is not None and (row.command_id not in done or done[row.command_id].result != row.result):
            found.append(f"{row.command_id} says {row.result}, the ledger does not")
    changed = select(_VERSION.c.command_id, func.count().label("n")).where(
        _VERSION.c.tenant_id == TENANT, _VERSION.c.command_id.like(like)
    )
    changes = {row.command_id: row.n for row in conn.execute(changed.group_by(_VERSION.c.command_id))}
    said = select(_OUTBOX.c.cause_id, func.count().label("n")).where(
        _OUTBOX.c.tenant_id == TENANT, _OUTBOX.c.cause_id.like(like), _OUTBOX.c.kind == "family_message"
    )
    messages = {row.cause_id: row.n for row in conn.execute(said.group_by(_OUTBOX.c.cause_id))}
    for name, n in (*changes.items(), *messages.items()):
        if name not in happened:
            found.append(f"{name} had an effect without its ledger entry")
        elif n > 1:
            found.append(f"{name} had its effect {n} times")
    found += [f"{name} has its entry, but no effect" for name in happened - changes.keys() - messages.keys()]
    return found + _order(conn) + _heads(conn)


def _heads(conn: Connection) -> list[str]:
    """Per family of the drill: the lane's head is the ledger's last entry. A commit without its compare-and-set breaks this."""
    last = select(_LEDGER.c.contact_id, func.max(_LEDGER.c.commit_order).label("place")).where(_LEDGER.c.tenant_id == TENANT)
    ends = last.group_by(_LEDGER.c.contact_id).subquery()
    entry = and_(_LEDGER.c.tenant_id == TENANT, _LEDGER.c.contact_id == ends.c.contact_id, _LEDGER.c.commit_order == ends.c.place)
    lane = and_(_LANE.c.tenant_id == TENANT, _LANE.c.contact_id == ends.c.contact_id)
    query = (
        select(ends.c.contact_id, ends.c.place, _LANE.c.last_committed, (_LANE.c.chain_hash == _LEDGER.c.hash).label("chained"))
        .join_from(ends, _LEDGER, entry)
        .join(_LANE, lane)
    )
    return [
        f"the lane of {row.contact_id} stands at place {row.last_committed}, its ledger at {row.place}"
        for row in conn.execute(query)
        if row.last_committed != row.place or not row.chained
    ]


def _order(conn: Connection) -> list[str]:
    """Per family of the drill: places dense, and decided in their order."""
    query = select(_LEDGER.c.contact_id, _LEDGER.c.commit_order, _LEDGER.c.committed_at).where(_LEDGER.c.tenant_id == TENANT)
    last: dict[str, tuple[int, datetime]] = {}
    found = []
    for row in conn.execute(query.order_by(_LEDGER.c.contact_id, _LEDGER.c.commit_order)):
        place, moment = last.get(row.contact_id, (0, row.committed_at))
        if row.commit_order != place + 1:
            found.append(f"{row.contact_id} has no place {place + 1}")
        if row.committed_at < moment:
            found.append(f"{row.contact_id} decided place {row.commit_order} before the one in front of it")
        last[row.contact_id] = (row.commit_order, row.committed_at)
    return found


def document(row: Row[Any]) -> dict[str, Any]:
    """A run as the API shows it."""
    hidden = ("measures_json", "report_json", "lease_until")
    plain = {name: value for name, value in row._mapping.items() if name not in hidden}
    report = msgspec.json.decode(row.report_json)
    return plain | {"measures": msgspec.json.decode(row.measures_json), "report": report or None}
