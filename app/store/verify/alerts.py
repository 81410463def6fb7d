"""Checks over alerts (reliability.md, I6 and I7): whole ladders climbed in time, nothing after an ACK, deadlines that hold.

Nothing here reads a clock. That time passed is shown by the nodes: one that was seen for long enough while a step was due had
its turn.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, and_, case, exists, func, or_, select

from app.domain.alerts import AlertResult, ladder_of, safe_deadline
from app.domain.states import ModeState
from app.store.alert_ladder import route_in, rungs
from app.store.tables import AckRecord, Alert, AlertStep, ModeRow, Node, SafeCause, ScaledTime, table
from app.store.verify.violation import Violation, stream

_ALERT, _STEP, _RECORD, _MODE = table(Alert), table(AlertStep), table(AckRecord), table(ModeRow)
_NODE, _SCALED, _CAUSE = table(Node), table(ScaledTime), table(SafeCause)

OVERDUE: Final = timedelta(minutes=5)
"""Of real time: a living node has climbed, sent and entered long before."""
LEASE_LEAST: Final = timedelta(seconds=10)
"""Less than any sender may keep a message (engine.alerts): who claims it again sooner takes it from a living one."""


def acks_are_what_they_say(conn: Connection) -> Iterator[Violation]:
    """An acknowledged alert has its moment, its record and the result that follows from both; nobody else's has."""
    a, effective = _ALERT.c, _RECORD.c.effective.is_(True)
    taken = and_(_RECORD.c.alert_id == a.alert_id, _RECORD.c.kind == "ack", _RECORD.c.at == a.acked_at, effective)
    # its deadline was a cause of safe mode: whoever took it on came after that
    cause = exists().where(_CAUSE.c.cause_id == a.alert_id, _CAUSE.c.at == a.safe_mode_at)
    wrong = or_(
        and_(a.result == AlertResult.ACK_RECEIVED, cause),
        and_(a.status == "acknowledged", a.acked_at.is_(None)),
        and_(a.acked_at.is_not(None), _RECORD.c.record_id.is_(None)),
        and_(a.safe_mode_at.is_not(None), a.acked_at < a.safe_mode_at, a.result != AlertResult.ACK_RECEIVED),
        and_(a.safe_mode_at.is_not(None), a.acked_at >= a.safe_mode_at, a.result != AlertResult.ACK_TIMEOUT_ESCALATED),
        and_(a.acked_at.is_(None), a.result.in_([AlertResult.ACK_RECEIVED, AlertResult.ALERT_FIRED_ACKNOWLEDGED])),
    )
    query = (
        select(a.alert_id, a.tenant_id, a.status, a.result, a.acked_at).select_from(_ALERT.outerjoin(_RECORD, taken)).where(wrong)
    )
    for row in stream(conn, query):
        told = (
            f"It is {row.status} with result {row.result} and ACK at {row.acked_at}, which do not fit each other and its records."
        )
        yield Violation("alert_ack", row.tenant_id, f"alert {row.alert_id}", told)


def nothing_is_claimed_after_an_ack(conn: Connection) -> Iterator[Violation]:
    """No message of an alert was taken up after its ACK, and none waits to be."""
    a, s = _ALERT.c, _STEP.c
    query = (
        select(s.step_id, a.alert_id, a.tenant_id, s.begun_at, a.acked_at)
        .select_from(_STEP.join(_ALERT, a.alert_id == s.alert_id))
        .where(a.acked_at.is_not(None), or_(s.begun_at > a.acked_at, s.done_at.is_(None)))
    )
    for row in stream(conn, query):
        told = f"Step {row.step_id} was claimed at {row.begun_at}, but the ACK came at {row.acked_at}."
        yield Violation("alert_step_after_ack", row.tenant_id, f"alert {row.alert_id}", told)


def ladders_are_whole(conn: Connection) -> Iterator[Violation]:
    """Every alert has all rungs of its policy, and a rung that is done says how."""
    own = and_(_STEP.c.fallback_of.is_(None), _STEP.c.step_key.not_like("pass_on:%"))
    steps = (
        select(
            _STEP.c.alert_id,
            func.sum(case((own, 1), else_=0)).label("rungs"),
            func.sum(case((and_(_STEP.c.done_at.is_not(None), _STEP.c.outcome.is_(None)), 1), else_=0)).label("mute"),
        )
        .group_by(_STEP.c.alert_id)
        .subquery()
    )
    query = select(_ALERT, steps.c.rungs, steps.c.mute).outerjoin(steps, steps.c.alert_id == _ALERT.c.alert_id)
    for row in stream(conn, query):
        expected = len(rungs(row))
        if (row.rungs or 0) < expected:
            told = f"It has {row.rungs or 0} of the {expected} steps of its ladder."
            yield Violation("alert_ladder", row.tenant_id, f"alert {row.alert_id}", told)
        if row.mute:
            told = f"{row.mute} steps are done without an outcome."
            yield Violation("alert_ladder", row.tenant_id, f"alert {row.alert_id}", told)


def deadlines_are_in_force(conn: Connection) -> Iterator[Violation]:
    """An open critical alert that nobody acknowledged has its moment of safe mode in its scope's mode row."""
    a, m = _ALERT.c, _MODE.c
    query = (
        select(a.alert_id, a.tenant_id, a.safe_mode_at, m.safe_deadline)
        .select_from(_ALERT.outerjoin(_MODE, m.scope == a.scope))
        .where(
            a.status == "open",
            a.acked_at.is_(None),
            a.safe_mode_at.is_not(None),
            or_(m.scope.is_(None), m.state == ModeState.NORMAL),
            or_(m.safe_deadline.is_(None), m.safe_deadline > a.safe_mode_at),
        )
    )
    for row in stream(conn, query):
        told = f"Safe mode begins at {row.safe_mode_at} by it, but the mode of its scope says {row.safe_deadline}."
        yield Violation("alert_deadline", row.tenant_id, f"alert {row.alert_id}", told)


def steps_are_not_forgotten(conn: Connection) -> Iterator[Violation]:
    """No rung is still undone although a node lived long enough after it was due."""
    witnesses, grace = _witnesses(conn)
    query = select(_STEP).where(_STEP.c.done_at.is_(None))
    for row in stream(conn, query):
        if _had_its_turn(witnesses, max(row.due_at, row.lease_until or row.due_at), grace):
            told = f"Step {row.step_id} was due at {row.due_at} and nobody has done it."
            yield Violation("alert_step_overdue", row.tenant_id, f"alert {row.alert_id}", told)


def claims_take_turns(conn: Connection) -> Iterator[Violation]:
    """A message is claimed once, and again only after the lease of who had it: as often as leases fit in, never more."""
    s = _STEP.c
    for row in stream(conn, select(_STEP).where(s.tries > 1)):
        passed = row.begun_at - row.due_at if row.begun_at is not None else timedelta(0)
        if (row.tries - 1) * LEASE_LEAST > passed:
            told = f"Step {row.step_id} was claimed {row.tries} times within {passed}."
            yield Violation("alert_step_tries", row.tenant_id, f"alert {row.alert_id}", told)


def passed_deadlines_entered_safe_mode(conn: Connection) -> Iterator[Violation]:
    """A critical alert's moment of safe mode is its ladder's; when it passed without an ACK, safe mode held from then on.

    Whether somebody took the alert on later, or it ended, changes nothing: its episode names it, from its very moment.
    """
    a = _ALERT.c
    witnesses, grace = _witnesses(conn)
    query = (
        select(_ALERT, _CAUSE.c.at.label("caused_at"))
        .outerjoin(_CAUSE, and_(_CAUSE.c.cause_id == a.alert_id, _CAUSE.c.kind == "alert"))
        .where(a.safe_mode_at.is_not(None))
    )
    for row in stream(conn, query):
        for told in _deadline_faults(row, witnesses, grace):
            yield Violation("alert_safe_mode", row.tenant_id, f"alert {row.alert_id}", told)


def _deadline_faults(row: Row[Any], witnesses: list[Row[Any]], grace: timedelta) -> Iterator[str]:
    expected = safe_deadline(row.raised_at, ladder_of(route_in(msgspec.json.decode(row.policy_json))))
    if row.safe_mode_at != expected:
        yield f"Safe mode begins at {row.safe_mode_at} by it; its ladder says {expected}."
    ends = [at for at in (row.acked_at, row.resolved_at) if at is not None]
    if any(at < row.safe_mode_at for at in ends):
        return  # somebody came in time
    if row.caused_at is None:
        if _had_its_turn(witnesses, row.safe_mode_at, grace):
            yield f"Its deadline passed at {row.safe_mode_at} without an ACK, and no episode of safe mode knows it."
    elif row.caused_at > row.safe_mode_at:  # earlier is no fault: both stores silent enter at once, with an alert of their own
        yield f"Safe mode held by it from {row.safe_mode_at}; its episode says from {row.caused_at}."


def _witnesses(conn: Connection) -> tuple[list[Row[Any]], timedelta]:
    """The nodes that are remembered, and how long one must have lived beside something that was due (the clock's time)."""
    scale = conn.execute(select(func.max(_SCALED.c.scale))).scalar() or 1.0
    return list(conn.execute(select(_NODE)).all()), OVERDUE * max(1.0, float(scale))


def _had_its_turn(witnesses: list[Row[Any]], due_at: datetime, grace: timedelta) -> bool:
    return any(node.seen_at - max(due_at, node.started_at) > grace for node in witnesses)
