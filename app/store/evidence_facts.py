"""What an evidence pack rests on: every stored row about a flow, a contact and time, an alert, an episode, a batch, a takeover.

Rows are found by indexes that begin with the tenant, so a pack costs what it contains and not what history holds. Nothing is
judged or redacted here. A tenant's pack never reads another tenant's row, and of what was everybody's only its own slice; a
pack of the whole installation holds every clinic's rows, up to the same bounds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Table, and_, func, or_, select

from app.domain.d1_texts import question_cause
from app.domain.drill import TENANT as DRILL_TENANT
from app.domain.envelopes import parse_time
from app.domain.evidence_kinds import EvidenceKind
from app.store.bulk import joined_rows
from app.store.lanes import GLOBAL_SCOPE
from app.store.private import full_names_in
from app.store.tables import (
    AckRecord,
    Alert,
    AlertStep,
    AppointmentVersion,
    Contact,
    ContingencyNotice,
    D1StepRow,
    DeliveryStatus,
    Guardian,
    InboxCommand,
    InboxMessage,
    Lane,
    Ledger,
    MalformedItem,
    ManualTask,
    Outbox,
    Patient,
    Proposal,
    ReplayBatch,
    ReplayItem,
    SafeCause,
    SafeEpisode,
    SafeStep,
    Tenant,
    Ticket,
    table,
)

_COMMAND, _MESSAGE, _LEDGER = table(InboxCommand), table(InboxMessage), table(Ledger)
_VERSION, _PROPOSAL, _OUTBOX, _DELIVERY = table(AppointmentVersion), table(Proposal), table(Outbox), table(DeliveryStatus)
_TASK, _TICKET, _ALERT, _STEP, _ACK = table(ManualTask), table(Ticket), table(Alert), table(AlertStep), table(AckRecord)
_EPISODE, _CAUSE, _SAFE_STEP, _NOTICE = table(SafeEpisode), table(SafeCause), table(SafeStep), table(ContingencyNotice)
_BATCH, _ITEM, _D1, _MALFORMED = table(ReplayBatch), table(ReplayItem), table(D1StepRow), table(MalformedItem)
_CONTACT, _PATIENT, _GUARDIAN, _LANE, _TENANT = table(Contact), table(Patient), table(Guardian), table(Lane), table(Tenant)

ROWS_MAX: Final = 2_000
"""Rows of one kind in one pack; a pack that would have more says so (`cut`)."""
LINKS_MAX: Final = 1_000
AROUND_MAX: Final = 50
LATEST: Final = timedelta(days=1)
_TYPED: Final = {
    "alerts": ("summary",),
    "around": ("summary",),
    "causes": ("summary",),
    "safe_steps": ("detail",),
    "episodes": ("recovery_action", "runbook_step", "exit_reason"),
    "tickets": ("reason", "close_reason"),
}
"""Texts in which people, or other systems, may have named a family that the rows say nothing else about."""

Document = dict[str, Any]


@dataclass(slots=True)
class Gathered:
    """Rows by the names of `app.domain.evidence_timeline.PARTS`, and what is needed to tell and to redact them."""

    timezone: str = "UTC"
    facts: dict[str, list[Document]] = field(default_factory=dict)
    around: list[Document] = field(default_factory=list)
    """Alerts that were open meanwhile and are not part of the story itself."""
    chains: list[Document] = field(default_factory=list)
    """Per lane: its head, and every link from the first entry of the pack to it."""
    private: tuple[str, ...] = ()
    """Names and numbers of the people that these rows are about."""
    cut: tuple[str, ...] = ()
    """Kinds of rows of which there are more than a pack holds."""

    def rows(self, name: str) -> list[Document]:
        """Rows of one kind."""
        return self.facts.get(name, [])

    @property
    def found(self) -> bool:
        """Whether there is anything at all."""
        return any(self.facts.values())


def gather(conn: Connection, pack: Any) -> Gathered:
    """Everything about a pack's subject."""
    return _Reader(conn, pack).read()


class _Reader:
    """Collects rows, following one to the next."""

    def __init__(self, conn: Connection, pack: Any) -> None:
        self.conn, self.pack = conn, pack
        self.tenant_id: str | None = pack.tenant_id
        self.found = Gathered()
        self._cut: set[str] = set()

    def read(self) -> Gathered:
        self._timezone()
        _BEGIN[EvidenceKind(self.pack.kind)](self)
        self._follow_commands()
        self._outbox()
        self._chains()
        self._alert_rows()
        self._around()
        self._people()
        self.found.cut = tuple(sorted(self._cut))
        return self.found

    # --- where each kind begins -----------------------------------------------------------------------------------------

    def flow(self) -> None:
        """By correlation id."""
        name = self.pack.subject
        if self.tenant_id is not None:
            for part, of, order in (
                ("commands", _COMMAND, "accepted_at"),
                ("messages", _MESSAGE, "received_at"),
                ("unusable", _MALFORMED, "received_at"),
                ("tickets", _TICKET, "opened_at"),
                ("replays", _BATCH, "planned_at"),
            ):
                if of is _BATCH and not name.startswith("replay-"):
                    continue
                self._put(part, of, and_(of.c.tenant_id == self.tenant_id, of.c.correlation_id == name), order)
            self._day_before(name)
            for batch in self.found.rows("replays"):
                self._items(batch["replay_id"])
            for ticket in self.found.rows("tickets"):
                self._told_in_takeover(ticket)
        scope = self.tenant_id or GLOBAL_SCOPE
        self._put("alerts", _ALERT, and_(_ALERT.c.correlation_id == name, _ALERT.c.scope == scope), "raised_at")
        self._put("episodes", _EPISODE, and_(_EPISODE.c.scope == scope, _EPISODE.c.correlation_id == name), "entered_at")
        self._episode_rows()

    def contact(self) -> None:
        """By contact and time."""
        for part, of, at, place in (
            ("commands", _COMMAND, "accepted_at", "commit_order"),
            ("messages", _MESSAGE, "received_at", "sequence"),
        ):
            mine = [of.c.tenant_id == self.tenant_id, of.c.contact_id == self.pack.subject, *self._within(_by_no_index(of.c[at]))]
            self._put(part, of, and_(*mine), place, newest=True)
        mine = [_TICKET.c.tenant_id == self.tenant_id, _TICKET.c.contact_id == self.pack.subject]
        self._put("tickets", _TICKET, and_(*mine, *self._within(_TICKET.c.opened_at)), "opened_at", newest=True)
        for ticket in self.found.rows("tickets"):
            self._told_in_takeover(ticket)

    def alert(self) -> None:
        """By alert: with the safe mode that it caused."""
        self._put("alerts", _ALERT, and_(_ALERT.c.alert_id == self.pack.subject, self._seen(_ALERT)), "raised_at")
        caused = select(_CAUSE.c.episode_id).where(_CAUSE.c.cause_id == self.pack.subject)
        for row in self.found.rows("alerts"):
            mine = and_(self._own(_TICKET), _TICKET.c.correlation_id == row["correlation_id"])
            self._put("tickets", _TICKET, mine, "opened_at")
        self._put("episodes", _EPISODE, and_(self._seen(_EPISODE), _EPISODE.c.episode_id.in_(caused)), "entered_at")
        self._episode_rows()
        self._families_told()

    def safe_mode(self) -> None:
        """By episode: with its causes, their alerts, and the families who were told."""
        self._put("episodes", _EPISODE, and_(_EPISODE.c.episode_id == self.pack.subject, self._seen(_EPISODE)), "entered_at")
        self._episode_rows()
        causes = [row["cause_id"] for row in self.found.rows("causes")]
        self._put("alerts", _ALERT, and_(_ALERT.c.alert_id.in_(causes), self._seen(_ALERT)), "raised_at")
        self._families_told()
        for episode in self.found.rows("episodes"):
            self._committed(episode["entered_at"], episode["ended_at"])

    def replay(self) -> None:
        """By replay batch: every item with what came of it."""
        mine = and_(_BATCH.c.replay_id == self.pack.subject, _BATCH.c.tenant_id == self.tenant_id)
        self._put("replays", _BATCH, mine, "planned_at")
        if self.found.rows("replays"):
            self._items(self.pack.subject)

    def takeover(self) -> None:
        """By ticket: the conversation while a person had it."""
        self._put(
            "tickets", _TICKET, and_(_TICKET.c.ticket_id == self.pack.subject, _TICKET.c.tenant_id == self.tenant_id), "opened_at"
        )
        for ticket in self.found.rows("tickets"):
            self._told_in_takeover(ticket)
            if ticket["cause_id"]:
                mine = and_(_COMMAND.c.tenant_id == self.tenant_id, _COMMAND.c.command_id == ticket["cause_id"])
                self._put("commands", _COMMAND, mine, "accepted_at")

    def drill(self) -> None:
        """A failure drill: its report is handed over; its alerts are the installation's, everything else is of its own clinic."""
        self.handed_over()
        self.tenant_id = DRILL_TENANT
        mine = and_(_COMMAND.c.tenant_id == DRILL_TENANT, _COMMAND.c.correlation_id == self.pack.correlation_id)
        self._put("commands", _COMMAND, mine, "accepted_at")

    def handed_over(self) -> None:
        """Deferred item: what it says is in its document; here is what carries the same correlation id."""
        if self.pack.correlation_id:
            mine = and_(_ALERT.c.correlation_id == self.pack.correlation_id, _ALERT.c.scope == self._scope)
            self._put("alerts", _ALERT, mine, "raised_at")
            if self.tenant_id is not None:
                mine = and_(_COMMAND.c.tenant_id == self.tenant_id, _COMMAND.c.correlation_id == self.pack.correlation_id)
                self._put("commands", _COMMAND, mine, "accepted_at")

    # --- following ------------------------------------------------------------------------------------------------------

    def _follow_commands(self) -> None:
        commands = self.found.rows("commands")
        for row in commands:
            row.update(_wish(row))
        ids = [row["command_id"] for row in commands]
        known = {row["command_id"] for row in self.found.rows("ledger")}
        self._join("ledger", _LEDGER, [{"command_id": i} for i in ids if i not in known])
        self._join("versions", _VERSION, [{"command_id": i} for i in ids])
        self._join("proposals", _PROPOSAL, [{"command_id": i} for i in ids])
        self._join("tasks", _TASK, [{"dedup_key": f"command:{i}"[:300]} for i in ids])
        if not self.found.rows("replay_items"):
            self._join("replay_items", _ITEM, [{"command_id": i} for i in ids])
        self._old_starts()
        contact_of = {row["command_id"]: row["contact_id"] for row in commands}
        correlation_of = {row["command_id"]: row["correlation_id"] for row in commands}
        for name in ("versions", "proposals"):
            for row in self.found.rows(name):
                row.update(contact_id=contact_of.get(row["command_id"]), correlation_id=correlation_of.get(row["command_id"]))
        self.found.facts["ledger"] = sorted(
            self.found.rows("ledger"), key=lambda r: (r["tenant_id"], r["contact_id"], r["commit_order"])
        )

    def _old_starts(self) -> None:
        """When the appointment was before each change."""
        versions = self.found.rows("versions")
        before = [
            {"tenant_id": self.tenant_id, "appointment_id": v["appointment_id"], "version": v["version"] - 1} for v in versions
        ]
        rows = (
            joined_rows(
                self.conn,
                _VERSION,
                before,
                keys=("tenant_id", "appointment_id", "version"),
                columns=("appointment_id", "version", "start_at"),
            )
            if before
            else ()
        )
        starts = {(row.appointment_id, row.version + 1): row.start_at for row in rows}
        for version in versions:
            version["old_start"] = starts.get((version["appointment_id"], version["version"]))

    def _outbox(self) -> None:
        ids = [row["command_id"] for row in self.found.rows("commands")]
        causes = [*ids, *(f"takeover:{row['ticket_id']}" for row in self.found.rows("tickets"))]
        self._join("outbox", _OUTBOX, [{"cause_id": cause} for cause in causes])
        known = {row["outbox_id"] for row in self.found.rows("outbox")}
        told = [_keys(row, "outbox_id") for row in self.found.rows("notices") if row["outbox_id"] not in known]
        self._join("outbox", _OUTBOX, told)
        sent = [_keys(row, "provider_message_id") for row in self.found.rows("outbox") if row["provider_message_id"]]
        self._join("deliveries", _DELIVERY, sent)
        sent_as = {row["provider_message_id"]: row for row in self.found.rows("outbox")}
        for row in self.found.rows("deliveries"):  # a provider's id carries the number: what it speaks of goes by ours
            ours = sent_as[row["provider_message_id"]]
            row.update(outbox_id=ours["outbox_id"], correlation_id=ours["correlation_id"], contact_id=ours["contact_id"])

    def _day_before(self, name: str) -> None:
        """Steps of a day-before confirmation, and what they sent and opened."""
        if not name.startswith("d1-"):
            return
        appointment_id = name.removeprefix("d1-")
        mine = and_(_D1.c.tenant_id == self.tenant_id, _D1.c.appointment_id == appointment_id)
        self._put("d1_steps", _D1, mine, "done_at")
        causes = sorted({question_cause(appointment_id, row["start_at"]) for row in self.found.rows("d1_steps")})
        for row in self.found.rows("d1_steps"):
            row["correlation_id"] = name
        self._join("outbox", _OUTBOX, [{"cause_id": cause} for cause in causes])
        self._join("tasks", _TASK, [{"dedup_key": cause} for cause in causes])
        self._answers(appointment_id)

    def _answers(self, appointment_id: str) -> None:
        """The commands that answered the question of the day before: those that changed the appointment since it was asked."""
        asked = [row["done_at"] for row in self.found.rows("d1_steps")]
        if not asked:
            return
        query = select(_VERSION.c.command_id).where(
            _VERSION.c.tenant_id == self.tenant_id, _VERSION.c.appointment_id == appointment_id, _VERSION.c.at >= min(asked)
        )
        self._join("commands", _COMMAND, [{"command_id": i} for i in self.conn.execute(query).scalars()])

    def _items(self, replay_id: str) -> None:
        self._put("replay_items", _ITEM, _ITEM.c.replay_id == replay_id, "n")
        runs = {row["run_command_id"] for row in self.found.rows("replay_items")}
        self._join("commands", _COMMAND, [{"command_id": i} for i in sorted(runs)])

    def _told_in_takeover(self, ticket: Document) -> None:
        """What the family wrote while a person had the conversation."""
        mine = [_MESSAGE.c.tenant_id == self.tenant_id, _MESSAGE.c.contact_id == ticket["contact_id"]]
        received_at = _by_no_index(_MESSAGE.c.received_at)
        mine.append(received_at >= ticket["opened_at"])
        if ticket["closed_at"] is not None:
            mine.append(received_at <= ticket["closed_at"])
        known = {row["event_id"] for row in self.found.rows("messages")}
        before = self.found.rows("messages")
        self._put("messages", _MESSAGE, and_(*mine), "sequence", newest=True)
        self.found.facts["messages"] = [*before, *(r for r in self.found.rows("messages") if r["event_id"] not in known)]

    def _episode_rows(self) -> None:
        ids = [row["episode_id"] for row in self.found.rows("episodes")]
        self._put("causes", _CAUSE, _CAUSE.c.episode_id.in_(ids), "at")
        self._put("safe_steps", _SAFE_STEP, _SAFE_STEP.c.episode_id.in_(ids), "position")

    def _families_told(self) -> None:
        """Notices and tickets of the episodes: of every clinic where the pack is the whole installation's."""
        ids = [row["episode_id"] for row in self.found.rows("episodes")]
        self._put("notices", _NOTICE, and_(self._own(_NOTICE), _NOTICE.c.episode_id.in_(ids)), "at")
        before = self.found.rows("tickets")
        known = {row["ticket_id"] for row in before}
        since = min((row["entered_at"] for row in self.found.rows("episodes")), default=self.pack.requested_at)
        self._put(
            "tickets", _TICKET, and_(self._own(_TICKET), _TICKET.c.cause_id.in_(ids), _TICKET.c.opened_at >= since), "opened_at"
        )
        self.found.facts["tickets"] = [*before, *(r for r in self.found.rows("tickets") if r["ticket_id"] not in known)]

    def _alert_rows(self) -> None:
        ids = [row["alert_id"] for row in self.found.rows("alerts")]
        self._put("alert_steps", _STEP, _STEP.c.alert_id.in_(ids), "due_at")
        self._put("acks", _ACK, _ACK.c.alert_id.in_(ids), "at")
        correlation_of = {row["alert_id"]: row["correlation_id"] for row in self.found.rows("alerts")}
        for row in [*self.found.rows("alert_steps"), *self.found.rows("acks")]:
            row.update(correlation_id=correlation_of[row["alert_id"]], told=row["recipient"])

    def _around(self) -> None:
        """Alerts of the clinic and of everybody that were open at the time of the story."""
        parts = ("commands", "messages", "tickets", "episodes", "replays", "alerts")
        moments = [m for name in parts for m in _moments(self.found.rows(name))]
        if not moments:
            return
        first, last = min(moments), max(moments)
        own = {row["alert_id"] for row in self.found.rows("alerts")}
        scopes = sorted({GLOBAL_SCOPE, self._scope})
        recent = and_(_ALERT.c.raised_at >= first - LATEST, _ALERT.c.raised_at <= last)
        still = or_(_ALERT.c.resolved_at.is_(None), _ALERT.c.resolved_at >= first)
        query = select(_ALERT).where(_ALERT.c.scope.in_(scopes), recent, still).order_by(_ALERT.c.raised_at, _ALERT.c.alert_id)
        rows = (dict(row._mapping) for row in self.conn.execute(query.limit(AROUND_MAX + len(own))))
        self.found.around = [row for row in rows if row["alert_id"] not in own][:AROUND_MAX]

    def _committed(self, since: datetime, until: datetime | None) -> None:
        """Ledger entries of the clinic, or of all, in an interval: what took effect, and what did not, while safe mode held."""
        mine = [_LEDGER.c.committed_at >= since]
        if until is not None:
            mine.append(_LEDGER.c.committed_at <= until)
        if self.tenant_id is not None:
            mine.append(_LEDGER.c.tenant_id == self.tenant_id)
        self._put("ledger", _LEDGER, and_(*mine), "committed_at", newest=self.tenant_id is None)

    def _chains(self) -> None:
        """The hash links of every lane in the pack, from its first entry here to the lane's head."""
        firsts: dict[tuple[str, str], int] = {}
        for row in self.found.rows("ledger"):
            lane = (row["tenant_id"], row["contact_id"])
            firsts[lane] = min(firsts.get(lane, row["commit_order"]), row["commit_order"])
        if len(firsts) > AROUND_MAX:
            self._cut.add("chains")
        for (tenant_id, contact_id), first in sorted(firsts.items())[:AROUND_MAX]:
            mine = and_(_LEDGER.c.tenant_id == tenant_id, _LEDGER.c.contact_id == contact_id, _LEDGER.c.commit_order >= first)
            query = select(_LEDGER.c.commit_order, _LEDGER.c.prev_hash, _LEDGER.c.hash).where(mine)
            links = [dict(row._mapping) for row in self.conn.execute(query.order_by(_LEDGER.c.commit_order).limit(LINKS_MAX))]
            at_head = self.conn.execute(
                select(_LANE.c.last_committed, _LANE.c.last_assigned, _LANE.c.chain_hash).where(
                    _LANE.c.tenant_id == tenant_id, _LANE.c.contact_id == contact_id
                )
            ).first()
            head = dict(at_head._mapping) if at_head is not None else {}
            self.found.chains.append(
                {"tenant_id": tenant_id, "contact_id": contact_id, "first": first, "head": head, "links": links}
            )

    def _people(self) -> None:
        """Names and numbers that must not be in a redacted pack, wherever somebody may have typed them."""
        parts = ("commands", "messages", "tickets", "ledger", "notices", "outbox", "tasks")
        contacts = {(row["tenant_id"], row["contact_id"]) for name in parts for row in self.found.rows(name) if row["contact_id"]}
        if self.tenant_id is not None and self.pack.kind == EvidenceKind.CONTACT:
            contacts.add((self.tenant_id, self.pack.subject))
        names = self._named()
        self.found.private = tuple(sorted(names))
        if not contacts:
            return
        keys = [{"tenant_id": t, "contact_id": c} for t, c in sorted(contacts)]
        pair = ("tenant_id", "contact_id")
        for row in joined_rows(self.conn, _CONTACT, keys, keys=pair, columns=("name", "phone")):
            names |= {row.name, row.phone}
        patients = {(row["tenant_id"], row["patient_id"]) for row in self.found.rows("commands") if row["patient_id"]}
        guardians = joined_rows(self.conn, _GUARDIAN, keys, keys=pair, columns=("tenant_id", "patient_id"))
        patients |= {(row.tenant_id, row.patient_id) for row in guardians}
        if patients:
            keys = [{"tenant_id": t, "patient_id": p} for t, p in sorted(patients)]
            names |= {r.name for r in joined_rows(self.conn, _PATIENT, keys, keys=("tenant_id", "patient_id"), columns=("name",))}
        self.found.private = tuple(sorted(name for name in names if name))

    def _named(self) -> set[str]:
        """Full names that somebody typed into a text of these rows, whoever they belong to."""
        facts = {**self.found.facts, "around": self.found.around}
        said = {str(row[name]) for part, names in _TYPED.items() for row in facts.get(part, ()) for name in names if row.get(name)}
        said |= {text for text in (self.pack.reason, self.pack.document_json) if text}
        return full_names_in(self.conn, self.pack.tenant_id, "\n".join(sorted(said))) if said else set()

    # --- shared ---------------------------------------------------------------------------------------------------------

    @property
    def _scope(self) -> str:
        return self.tenant_id or GLOBAL_SCOPE

    def _seen(self, of: Table) -> Any:
        """Of what has a scope: the pack's own; in a clinic's pack also the installation's, which held for it too."""
        return of.c.scope.in_(sorted({self._scope, GLOBAL_SCOPE}))

    def _own(self, of: Table) -> Any:
        """Of what belongs to a clinic: the pack's clinic, or every one, so that the indexes that begin with it serve."""
        return of.c.tenant_id == self.tenant_id if self.tenant_id is not None else of.c.tenant_id.in_(select(_TENANT.c.tenant_id))

    def _timezone(self) -> None:
        zone = self.conn.execute(select(_TENANT.c.timezone).where(_TENANT.c.tenant_id == self.tenant_id)).scalar()
        if zone:
            self.found.timezone = zone

    def _within(self, column: Any) -> list[Any]:
        found = [] if self.pack.from_at is None else [column >= self.pack.from_at]
        return found if self.pack.until_at is None else [*found, column < self.pack.until_at]

    def _put(self, name: str, of: Table, condition: Any, order: str, *, newest: bool = False) -> None:
        """Rows of one table by `order`; at most `ROWS_MAX`, with `newest` those with the highest.

        Without `newest` they are sorted here: an ORDER BY would tempt the database to walk another index from its beginning.
        """
        query = select(of).where(condition).limit(ROWS_MAX + 1)
        if newest:
            query = query.order_by(of.c[order].desc())
        rows = [dict(row._mapping) for row in self.conn.execute(query)]
        if len(rows) > ROWS_MAX:
            self._cut.add(name)
        ids = [c.name for c in of.primary_key.columns]
        rows = sorted(rows[:ROWS_MAX], key=lambda r: tuple(str(r[i]) for i in ids))
        self.found.facts[name] = sorted(rows, key=lambda r: (r[order] is not None, r[order]))

    def _join(self, name: str, of: Table, keys: Sequence[Document]) -> None:
        """Rows of one table by the given keys, of this clinic where they name none, added to what is there."""
        if not keys:
            return
        if len(keys) > ROWS_MAX:
            self._cut.add(name)
        wanted = [{"tenant_id": self.tenant_id} | key for key in keys[:ROWS_MAX]]
        rows = joined_rows(self.conn, of, wanted, keys=tuple(wanted[0]), columns=tuple(of.c.keys()))
        found = [dict(row._mapping) for row in rows]
        ids = [c.name for c in of.primary_key.columns]
        known = {tuple(row[i] for i in ids) for row in self.found.rows(name)}
        added = [row for row in found if tuple(row[i] for i in ids) not in known]
        self.found.facts[name] = [*self.found.rows(name), *sorted(added, key=lambda r: tuple(str(r[i]) for i in ids))]


_BEGIN: Final = {
    EvidenceKind.FLOW: _Reader.flow,
    EvidenceKind.CONTACT: _Reader.contact,
    EvidenceKind.ALERT: _Reader.alert,
    EvidenceKind.SAFE_MODE: _Reader.safe_mode,
    EvidenceKind.REPLAY: _Reader.replay,
    EvidenceKind.TAKEOVER: _Reader.takeover,
    EvidenceKind.DRILL: _Reader.drill,
    EvidenceKind.DEFERRED: _Reader.handed_over,
}


_MOMENTS: Final = (
    "accepted_at",
    "received_at",
    "done_at",
    "opened_at",
    "closed_at",
    "entered_at",
    "ended_at",
    "planned_at",
    "raised_at",
    "resolved_at",
)


def _by_no_index(column: Any) -> Any:
    """The column in a form that no index serves.

    SQLite without statistics takes a span of time of the whole clinic for a shorter way to one family's rows than the index
    of its lane.
    """
    return func.coalesce(column, column)


def _moments(rows: Iterable[Document]) -> Iterable[datetime]:
    return (row[name] for row in rows for name in _MOMENTS if isinstance(row.get(name), datetime))


def _keys(row: Document, name: str) -> Document:
    """The key of another table's row of the same clinic."""
    return {"tenant_id": row["tenant_id"], name: row[name]}


def _wish(row: Document) -> Document:
    """What a command asks of the agenda, out of its payload."""
    payload = msgspec.json.decode(row["payload_json"])
    wish = payload if isinstance(payload, dict) else {}
    appointment_id = wish.get("appointment_id")
    return {
        "appointment_id": appointment_id if isinstance(appointment_id, str) else None,
        "wanted_start": _time(wish.get("start")),
        "wanted_end": _time(wish.get("end")),
    }


def _time(text: object) -> datetime | None:
    try:
        return parse_time(text)
    except ValueError:
        return None
