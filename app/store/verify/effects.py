"""Checks over side effects: each has its entry, each entry its effect, once."""

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, func, or_, select

from app.domain.states import EFFECT_RESULTS, SENSITIVE, CommandType
from app.store.tables import Appointment, AppointmentVersion, InboxCommand, Ledger, Outbox, Ticket, table
from app.store.verify.violation import Violation, stream

_COMMAND, _LEDGER, _OUTBOX, _TICKET = (table(t) for t in (InboxCommand, Ledger, Outbox, Ticket))
_APPOINTMENT, _VERSION = table(Appointment), table(AppointmentVersion)

_AGENDA_TYPES: Final = SENSITIVE | {CommandType.D1_CONFIRMATION}
_SLOT: Final = ("therapist_id", "start_at", "end_at", "status", "version")


def keys_used_once(conn: Connection) -> Iterator[Violation]:
    """An idempotency key has at most one effect, and the ledger carries exactly the keys of effects."""
    e, c = _LEDGER.c, _COMMAND.c
    joined = _LEDGER.join(_COMMAND, and_(c.tenant_id == e.tenant_id, c.command_id == e.command_id))
    twice = (
        select(e.tenant_id, c.idempotency_key, func.count().label("times"))
        .select_from(joined)
        .where(e.result.in_(EFFECT_RESULTS))
        .group_by(e.tenant_id, c.idempotency_key)
        .having(func.count() > 1)
    )
    for row in stream(conn, twice):
        subject = f"idempotency key {row.idempotency_key}"
        yield Violation("effect_twice", row.tenant_id, subject, f"{row.times} commands with this key had an effect.")
    wrong = (
        select(e.tenant_id, e.command_id, e.result)
        .select_from(joined)
        .where(
            or_(
                and_(e.result.in_(EFFECT_RESULTS), or_(e.effect_key.is_(None), e.effect_key != c.idempotency_key)),
                and_(e.result.not_in(EFFECT_RESULTS), e.effect_key.is_not(None)),
            )
        )
    )
    for row in stream(conn, wrong):
        yield Violation(
            "effect_key", row.tenant_id, f"command {row.command_id}", f"Its entry ({row.result}) carries the wrong effect key."
        )


def effects_happened(conn: Connection) -> Iterator[Violation]:
    """Every entry that says that something happened has what happened, and only that."""
    e, t, o = _LEDGER.c, _TICKET.c, _OUTBOX.c
    query = (
        select(
            e.tenant_id,
            e.command_id,
            e.command_type,
            e.result,
            e.entity_id,
            e.entity_version,
            _VERSION.c.appointment_id,
            _VERSION.c.version,
            t.ticket_id,
            o.outbox_id,
        )
        .outerjoin(_VERSION, and_(_VERSION.c.tenant_id == e.tenant_id, _VERSION.c.command_id == e.command_id))
        .outerjoin(
            _TICKET, and_(_TICKET.c.tenant_id == e.tenant_id, _TICKET.c.cause_id == e.command_id, _TICKET.c.kind == "takeover")
        )
        .outerjoin(
            _OUTBOX, and_(_OUTBOX.c.tenant_id == e.tenant_id, _OUTBOX.c.cause_id == e.command_id, _OUTBOX.c.step == "effect")
        )
        .where(e.command_id.is_not(None), e.result.in_(EFFECT_RESULTS))
    )
    for row in stream(conn, query):
        fault = _effect_fault(row)
        if fault is not None:
            yield Violation(
                "effect_missing", row.tenant_id, f"command {row.command_id}", f"Its entry says {row.result}, but {fault}."
            )


def _effect_fault(row: Row[Any]) -> str | None:
    if (row.entity_id, row.entity_version) != (row.appointment_id, row.version):
        return f"the agenda has version {row.version} of {row.appointment_id} from it, not {row.entity_version} of {row.entity_id}"
    kind = row.command_type
    if kind == CommandType.FOLLOW_UP:
        return None if row.outbox_id is not None else "no message was put into the outbox"
    if kind == CommandType.TAKEOVER or (kind == CommandType.D1_CONFIRMATION and row.version is None):
        return None if row.ticket_id is not None else "no takeover was opened"
    return None if row.version is not None else "the agenda has no version from it"


def effects_have_their_entry(conn: Connection) -> Iterator[Violation]:
    """Every agenda version, message and takeover that a command caused stands in the ledger."""
    e = _LEDGER.c
    happened = e.result.in_(EFFECT_RESULTS)
    sources = (
        ("version", _VERSION.c.appointment_id, _VERSION.c.command_id, _VERSION, happened),
        ("takeover", _TICKET.c.ticket_id, _TICKET.c.cause_id, _TICKET, happened),
        # an answer may also say why nothing happened; what it answers must be in the ledger all the same
        ("message", _OUTBOX.c.outbox_id, _OUTBOX.c.cause_id, _OUTBOX, or_(_OUTBOX.c.step != "effect", happened)),
    )
    for kind, name, cause, source, needed in sources:
        query = (
            select(source.c.tenant_id, name.label("name"), cause.label("cause"), _COMMAND.c.command_id)
            .select_from(source)
            .outerjoin(_COMMAND, and_(_COMMAND.c.tenant_id == source.c.tenant_id, _COMMAND.c.command_id == cause))
            .outerjoin(_LEDGER, and_(e.tenant_id == source.c.tenant_id, e.command_id == cause, needed))
            .where(e.command_id.is_(None))
        )
        if source is _TICKET:
            query = query.where(_TICKET.c.kind == "takeover")
        if source is not _VERSION:  # tickets and messages may have other causes: an alert, an episode, a clock
            query = query.where(_COMMAND.c.command_id.is_not(None))
        if source is _OUTBOX:  # what got no place in its lane ended at acceptance, and its result is told all the same
            query = query.where(or_(_OUTBOX.c.step != "result", _COMMAND.c.commit_order.is_not(None)))
        for row in stream(conn, query):
            sentence = f"It was caused by the command {row.cause}, whose ledger entry says no such thing."
            yield Violation("effect_without_entry", row.tenant_id, f"{kind} {row.name}", sentence)


def versions_dense(conn: Connection) -> Iterator[Violation]:
    """An appointment's versions are 1, 2, 3, ..., and those that one contact made follow its commit order."""
    v, e = _VERSION.c, _LEDGER.c
    query = (
        select(v.tenant_id, v.appointment_id, v.version, e.contact_id, e.commit_order)
        .outerjoin(_LEDGER, and_(e.tenant_id == v.tenant_id, e.command_id == v.command_id))
        .order_by(v.tenant_id, v.appointment_id, v.version)
    )
    for (tenant_id, appointment_id), rows in groupby(stream(conn, query), key=lambda r: (r.tenant_id, r.appointment_id)):
        subject = f"appointment {appointment_id}"
        expected = 1
        orders: dict[str, int] = {}
        for row in rows:
            if row.version != expected:
                yield Violation("version_gap", tenant_id, subject, f"Version {row.version} follows version {expected - 1}.")
            expected = row.version + 1
            if row.contact_id is None:
                continue  # said by effects_have_their_entry
            if row.commit_order < orders.get(row.contact_id, 0):
                sentence = f"Version {row.version} is from place {row.commit_order}, an earlier one from {orders[row.contact_id]}."
                yield Violation("effect_order", tenant_id, subject, sentence)
            orders[row.contact_id] = row.commit_order


def agenda_equals_history(conn: Connection) -> Iterator[Violation]:
    """Every appointment is what its last version says, and every version belongs to an appointment."""
    a, v = _APPOINTMENT.c, _VERSION.c
    last = (
        select(v.tenant_id, v.appointment_id, func.max(v.version).label("version"))
        .group_by(v.tenant_id, v.appointment_id)
        .subquery()
    )
    query = (
        select(a.tenant_id, a.appointment_id, *(a[n].label(n) for n in _SLOT), *(v[n].label(f"last_{n}") for n in _SLOT))
        .outerjoin(last, and_(last.c.tenant_id == a.tenant_id, last.c.appointment_id == a.appointment_id))
        .outerjoin(_VERSION, and_(v.tenant_id == a.tenant_id, v.appointment_id == a.appointment_id, v.version == last.c.version))
    )
    for row in stream(conn, query):
        wrong = [n for n in _SLOT if getattr(row, n) != getattr(row, f"last_{n}")]
        if wrong:
            sentence = f"It differs from its last version in {', '.join(wrong)}."
            yield Violation("agenda_differs", row.tenant_id, f"appointment {row.appointment_id}", sentence)
    orphans = (
        select(last.c.tenant_id, last.c.appointment_id)
        .outerjoin(_APPOINTMENT, and_(a.tenant_id == last.c.tenant_id, a.appointment_id == last.c.appointment_id))
        .where(a.appointment_id.is_(None))
    )
    for row in stream(conn, orphans):
        yield Violation(
            "agenda_differs", row.tenant_id, f"appointment {row.appointment_id}", "It has versions, but is not in the agenda."
        )


def no_overlaps(conn: Connection) -> Iterator[Violation]:
    """No two active appointments of one therapist at the same time."""
    a = _APPOINTMENT.c
    query = (
        select(a.tenant_id, a.therapist_id, a.appointment_id, a.start_at, a.end_at)
        .where(a.status != "cancelled")
        .order_by(a.tenant_id, a.therapist_id, a.start_at, a.end_at)
    )
    for (tenant_id, therapist_id), rows in groupby(stream(conn, query), key=lambda r: (r.tenant_id, r.therapist_id)):
        ends: datetime | None = None
        holder = ""
        for row in rows:
            if ends is not None and row.start_at < ends:
                sentence = f"It overlaps {holder} in the agenda of {therapist_id}."
                yield Violation("agenda_overlap", tenant_id, f"appointment {row.appointment_id}", sentence)
            if ends is None or row.end_at > ends:
                ends, holder = row.end_at, row.appointment_id
