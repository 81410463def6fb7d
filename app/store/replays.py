"""Replay batches (S-PC-02-003, F-05): choosing what to replay, the frozen plan, and each step of its run.

A batch never decides anything. It gives items their place in the lane (`inbox.accept`, a command with source `replay`) or
lets a parked command go, one item of a contact at a time, by raising `lane.replay_until`; the gate decides at the lane's
turn, and `advance` reads what came of it. While a batch has a lane (`lane.replay_id`), everything else of that contact
waits. All of it is in the database: any node goes on with a batch, after any crash, by calling `advance` again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace as changed
from sqlalchemy import Connection, Row, select, update

from app.domain.envelopes import Command, sha256_hex
from app.domain.manual import due_after
from app.domain.reasons import Reason
from app.domain.replay_batch import (
    REPLAYABLE,
    SELECTABLE,
    BatchAct,
    BatchStatus,
    ItemKind,
    ItemState,
    Step,
    is_fresh,
    is_surprise,
    item_result,
    may_go,
    step,
)
from app.domain.replay_filter import ReplayFilter
from app.domain.states import PARKED, PRIORITY_BY_RANK, PRIORITY_OF_COMMAND, CommandType, Source, State
from app.errors import Conflict, NotFound
from app.store import evidence
from app.store.audit import append
from app.store.bulk import insert_rows, joined_rows, update_rows
from app.store.drain import allowed
from app.store.effects import MANUAL_RESULTS
from app.store.events import publish_many
from app.store.inbox import accept
from app.store.intake_facts import Submission
from app.store.lanes import PARKED_BY, command_of
from app.store.lines import say
from app.store.manual import applied
from app.store.people import By
from app.store.tables import InboxCommand, Lane, ManualTask, ReplayBatch, ReplayItem, table
from app.store.tasks import open_tasks, task_row

_BATCH, _ITEM, _COMMAND, _LANE = table(ReplayBatch), table(ReplayItem), table(InboxCommand), table(Lane)
_TASK = table(ManualTask)

ITEMS_MAX: Final = 5_000
OPEN: Final = (ItemState.PLANNED, ItemState.PLACED, ItemState.RELEASED)


# --- choosing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A command that a filter found; `command` is what the gate would be asked (for `again`, the new command)."""

    row: Any
    kind: ItemKind
    command: Command
    pulled_in: bool = False


def choose(conn: Connection, tenant_id: str, wanted: ReplayFilter) -> list[Chosen]:
    """What a filter asks for, oldest first, at most `ITEMS_MAX` + 1.

    Of a parked lane everything before a chosen command comes along, because it stands before it. What was replayed once
    is not found again, so a batch made twice is empty the second time.
    """
    c = _COMMAND.c
    query = select(_COMMAND).where(
        c.tenant_id == tenant_id,
        c.status.in_(wanted.states or tuple(SELECTABLE)),
        c.commit_order.is_not(None),
        c.accepted_at <= wanted.to_at,
    )
    if wanted.from_at is not None:
        query = query.where(c.accepted_at >= wanted.from_at)
    ranks = [rank for rank, name in enumerate(PRIORITY_BY_RANK) if name in wanted.priorities]
    narrow = (
        (c.command_type, wanted.intents),
        (c.priority, ranks),
        (c.contact_id, wanted.contacts),
        (c.command_id, wanted.commands),
    )
    for column, values in narrow:
        if values:
            query = query.where(column.in_(values))
    rows = conn.execute(query.order_by(c.accepted_at, c.command_id).limit(ITEMS_MAX + 1)).all()
    parked = {
        row.command_id: Chosen(row=row, kind=ItemKind.PARKED, command=command_of(row)) for row in rows if row.status in PARKED
    }
    parked |= _standing_before(conn, parked)
    ended = [row for row in rows if row.status in REPLAYABLE]
    known = _known(conn, tenant_id, [again_id(row) for row in ended])
    again = [
        Chosen(row=row, kind=ItemKind.AGAIN, command=again_command(command_of(row))) for row in ended if again_id(row) not in known
    ]
    return [*parked.values(), *again]


def _standing_before(conn: Connection, parked: Mapping[str, Chosen]) -> dict[str, Chosen]:
    """Parked commands that stand before a chosen one in its lane."""
    last: dict[tuple[str, str], int] = defaultdict(int)
    for item in parked.values():
        key = (item.row.tenant_id, item.row.contact_id)
        last[key] = max(last[key], item.row.commit_order)
    if not last:
        return {}
    keys = [{"tenant_id": t, "contact_id": c, "was_commit_order": order} for (t, c), order in last.items()]
    rows = joined_rows(
        conn,
        _COMMAND,
        keys,
        keys=("tenant_id", "contact_id"),
        columns=_COMMAND.c.keys(),
        where="t.done_at IS NULL AND t.commit_order < r.was_commit_order",
    )
    return {
        row.command_id: Chosen(row=row, kind=ItemKind.PARKED, command=command_of(row), pulled_in=True)
        for row in rows
        if row.command_id not in parked
    }


def _known(conn: Connection, tenant_id: str, command_ids: Sequence[str]) -> set[str]:
    if not command_ids:
        return set()
    keys = [{"tenant_id": tenant_id, "command_id": i} for i in command_ids]
    found = joined_rows(conn, _COMMAND, keys, keys=("tenant_id", "command_id"), columns=("command_id",))
    return {str(row.command_id) for row in found}


def again_id(row: Any) -> str:
    """The id of the command that replays another one: the same however often it is asked for."""
    return sha256_hex(f"replay:{row.tenant_id}:{row.command_id}")[:32]


def again_command(original: Command) -> Command:
    """The same request once more, as late as it is: its own key, the original as its cause, on the original's versions."""
    new_id = again_id(original)
    payload = original.payload
    if original.appointment_id is not None and "appointment_id" not in payload:
        payload = {**payload, "appointment_id": original.appointment_id}
    return changed(
        original,
        command_id=new_id,
        idempotency_key=f"replay:{new_id}",
        payload=payload,
        commit_order=None,
        causation_id=original.command_id,
        source=Source.REPLAY,
        was_parked=False,
        replayed=True,
    )


# --- the plan -----------------------------------------------------------------------------------------------------------


def save_plan(
    conn: Connection,
    *,
    replay_id: str,
    tenant_id: str,
    wanted: ReplayFilter,
    rate_per_s: float,
    items: Sequence[Mapping[str, Any]],
    by: By,
) -> None:
    """Freeze a plan: the batch as `planned`, its items in order. Audited and published; nothing else changes."""
    document = wanted.document()
    row = {
        "replay_id": replay_id,
        "tenant_id": tenant_id,
        "status": BatchStatus.PLANNED,
        "filter_json": msgspec.json.encode(document).decode(),
        "rate_per_s": rate_per_s,
        "tokens": 1.0,
        "filled_at": by.now,
        "planned_at": by.now,
        "planned_by": by.actor[:200],
        "total": len(items),
        "correlation_id": f"replay-{replay_id}",
    }
    insert_rows(conn, _BATCH, [row])
    insert_rows(conn, _ITEM, [{"replay_id": replay_id, "tenant_id": tenant_id, "n": n, **i} for n, i in enumerate(items, start=1)])
    _audit(conn, tenant_id, replay_id, "replay.plan", by, after={"filter": document, "items": len(items), "rate": rate_per_s})
    publish_many(conn, {(tenant_id, "replay"): [replay_id]}, by.now)


def act(conn: Connection, tenant_id: str, replay_id: str, what: BatchAct, by: By, *, rev: int | None = None) -> None:
    """Run, pause, resume or cancel. Raises NotFound, and Conflict when it is not possible (any more); then nothing changed."""
    batch = _lock(conn, tenant_id, replay_id)
    after = step(BatchStatus(batch.status), what)
    if after is None or (rev is not None and rev != batch.rev):
        raise Conflict(f"The replay is {batch.status} now; nothing was changed.")
    values: dict[str, Any] = {"status": after, "rev": batch.rev + 1}
    if what is BatchAct.RUN:
        if not is_fresh(batch.planned_at, by.now):
            raise Conflict("The dry run is too old; make a new one. Nothing was sent.")
        values |= {"started_at": by.now, "started_by": by.actor[:200], "filled_at": by.now, "tokens": max(1.0, batch.rate_per_s)}
        values["done"] = _settle_unsent(conn, batch, by.now)
        _reserve(conn, batch)
    elif what is BatchAct.RESUME:
        values["filled_at"] = by.now
    elif what is BatchAct.CANCEL:
        _withdraw_all(conn, batch, by.now)
        if batch.status == BatchStatus.PLANNED:
            values["ended_at"] = by.now
    conn.execute(update(_BATCH).where(_BATCH.c.replay_id == replay_id).values(values))
    _audit(conn, tenant_id, replay_id, f"replay.{what}", by, before={"status": batch.status}, after={"status": after})
    publish_many(conn, {(tenant_id, topic): [replay_id] for topic in ("replay", "queue", "lane")}, by.now)


def open_batches(conn: Connection) -> list[tuple[str, str]]:
    """(tenant, batch) of every batch that has something to do or to hear of."""
    query = select(_BATCH.c.tenant_id, _BATCH.c.replay_id).where(
        _BATCH.c.status != BatchStatus.PLANNED, _BATCH.c.ended_at.is_(None)
    )
    return [(row.tenant_id, row.replay_id) for row in conn.execute(query.order_by(_BATCH.c.started_at))]


def _lock(conn: Connection, tenant_id: str, replay_id: str) -> Row[Any]:
    query = select(_BATCH).where(_BATCH.c.tenant_id == tenant_id, _BATCH.c.replay_id == replay_id).with_for_update()
    row = conn.execute(query).first()
    if row is None:
        raise NotFound("There is no such replay.")
    return row


def _audit(
    conn: Connection,
    tenant_id: str,
    replay_id: str,
    action: str,
    by: By,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    append(
        conn,
        chain=tenant_id,
        actor=by.actor,
        action=action,
        object=f"replay/{replay_id}",
        before=before,
        after=after,
        origin=by.origin,
        correlation_id=f"replay-{replay_id}",
        now=by.now,
    )
    own = f"replay-{replay_id}"
    say(conn, "replay_act", flow_id="F-05", correlation_id=own, tenant_id=tenant_id, status=action, replay_id=replay_id)


# --- running ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Advanced:
    """What one step did."""

    replay_id: str
    status: BatchStatus
    released: list[str]
    """Contacts of which an item was let go."""
    finished: list[dict[str, Any]]
    """Items that got their result."""
    placed: int = 0
    waits_for_mode: bool = False


class _Run:
    """One step of one batch, inside its transaction."""

    def __init__(self, conn: Connection, batch: Row[Any], now: datetime, new_id: Callable[[], str]) -> None:
        self.conn, self.batch, self.now, self.new_id = conn, batch, now, new_id
        rows = conn.execute(
            select(_ITEM).where(_ITEM.c.replay_id == batch.replay_id, _ITEM.c.state.in_(OPEN)).order_by(_ITEM.c.n)
        ).all()
        self.items: dict[int, dict[str, Any]] = {row.n: dict(row._mapping) for row in rows}
        self.changed: set[int] = set()
        self.finished: list[dict[str, Any]] = []
        self.withdrawn: list[dict[str, Any]] = []
        self.until: dict[str, int] = {}
        """Contact -> last place that may be decided now."""

    def put(self, n: int, **values: Any) -> None:
        self.items[n].update(values)
        self.changed.add(n)

    def open(self) -> list[dict[str, Any]]:
        return [item for item in self.items.values() if item["state"] in OPEN]

    def finish(self, n: int, actual: State, reason: str, done_at: datetime) -> None:
        item = self.items[n]
        drift = is_surprise(State(item["predicted_state"]), actual)
        self.put(
            n, state=ItemState.DONE, actual_state=actual, result=item_result(actual), reason=reason, drift=drift, done_at=done_at
        )
        self.finished.append(item)

    # --- what came of it ------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Released items whose command has its result; a surprise stops what is left of its contact.

        What ended before its turn (somebody was faster) is released like any other, and heard of at the next step.
        """
        items = [item for item in self.open() if item["state"] == ItemState.RELEASED]
        if not items:
            return
        keys = [{"tenant_id": self.batch.tenant_id, "command_id": item["run_command_id"]} for item in items]
        columns = ("command_id", "result", "reason", "done_at", "commit_order")
        found = joined_rows(self.conn, _COMMAND, keys, keys=("tenant_id", "command_id"), columns=columns).all()
        rows = {row.command_id: row for row in found}
        surprised: set[str] = set()
        for item in items:
            row = rows.get(item["run_command_id"])
            if row is None or row.done_at is None:
                continue
            stopped = row.reason in (Reason.REPLAY_STOPPED, Reason.REPLAY_CANCELLED)
            self.finish(item["n"], State(row.result), row.reason or "", row.done_at)
            if item["drift"] and not stopped:
                surprised.add(item["contact_id"])
        for contact_id in surprised:
            self.stop(contact_id)

    def stop(self, contact_id: str) -> None:
        """A person gets what is left of a contact's items: those in the lane at their turn, the others at once."""
        for item in self.open():
            if item["contact_id"] != contact_id:
                continue
            if item["kind"] == ItemKind.AGAIN and item["state"] == ItemState.PLANNED:
                self.finish(item["n"], State.MANUAL_REVIEW_REQUIRED, Reason.REPLAY_STOPPED, self.now)
            else:
                self.withdraw(item, Reason.REPLAY_STOPPED)

    def withdraw(self, item: dict[str, Any], reason: str) -> None:
        """Mark a command that has its place: at its turn a person gets it, whatever the mode is."""
        self.withdrawn.append({"tenant_id": item["tenant_id"], "command_id": item["run_command_id"], "withdrawn": reason})
        self.put(item["n"], state=ItemState.RELEASED)
        contact_id = item["contact_id"]
        self.until[contact_id] = max(self.until.get(contact_id, 0), item["commit_order"] or 0)

    # --- letting go -----------------------------------------------------------------------------------------------------

    def let_go(self, tokens: float) -> tuple[float, int]:
        """Release the items whose turn it is; returns the tokens left and how many commands were placed."""
        mine = self.lanes()
        turns = [
            Step(
                n=item["n"],
                contact_id=item["contact_id"],
                state=ItemState(item["state"]),
                agenda=frozenset(msgspec.json.decode(item["agenda_json"])),
            )
            for item in self.open()
        ]
        chosen = []
        for n in may_go(turns):
            if tokens < 1:
                break
            if self.items[n]["contact_id"] in mine:
                chosen.append(n)
                tokens -= 1
        placed = self.place({self.items[n]["contact_id"] for n in chosen if self.items[n]["kind"] == ItemKind.AGAIN})
        for n in chosen:
            item = self.items[n]
            self.put(n, state=ItemState.RELEASED)
            self.until[item["contact_id"]] = max(self.until.get(item["contact_id"], 0), item["commit_order"])
        # a mode that came and went has parked what had been let go
        going = {item["contact_id"] for item in self.open() if item["state"] == ItemState.RELEASED}
        for contact_id, lane in mine.items():
            if contact_id in going and lane.blocked_by in PARKED_BY:
                self.until.setdefault(contact_id, lane.replay_until)
        return tokens, placed

    def place(self, contacts: set[str]) -> int:
        """Give all of a contact's new commands their places in its lane at once, so that nothing gets between them."""
        items = [
            i
            for i in self.open()
            if i["kind"] == ItemKind.AGAIN and i["state"] == ItemState.PLANNED and i["contact_id"] in contacts
        ]
        if not items:
            return 0
        tenant_id = self.batch.tenant_id
        keys = [{"tenant_id": tenant_id, "command_id": item["command_id"]} for item in items]
        rows = joined_rows(self.conn, _COMMAND, keys, keys=("tenant_id", "command_id"), columns=_COMMAND.c.keys())
        originals = {row.command_id: command_of(row) for row in rows}
        submissions = []
        for item in items:
            command = again_command(originals[item["command_id"]])
            submissions.append(
                Submission(tenant_id=tenant_id, item=command, spare_id=self.new_id(), priority=command.priority.rank)
            )
        for item, receipt in zip(items, accept(self.conn, submissions, self.now), strict=True):
            self.put(item["n"], state=ItemState.PLACED, commit_order=receipt.number)
        return len(items)

    def lanes(self) -> dict[str, Any]:
        """The lanes that the batch has."""
        query = select(_LANE.c.contact_id, _LANE.c.blocked_by, _LANE.c.replay_until).where(
            _LANE.c.tenant_id == self.batch.tenant_id, _LANE.c.replay_id == self.batch.replay_id
        )
        return {row.contact_id: row for row in self.conn.execute(query)}

    # --- writing --------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        by_id = ("tenant_id", "command_id")
        update_rows(self.conn, _COMMAND, self.withdrawn, keys=by_id, assign=("withdrawn",), guard="t.done_at IS NULL")
        rows = [
            {
                "tenant_id": self.batch.tenant_id,
                "contact_id": contact_id,
                "was_replay_id": self.batch.replay_id,
                "replay_until": until,
                "blocked_by": None,
                "blocked_since": None,
                "not_before": None,
            }
            for contact_id, until in sorted(self.until.items())
        ]
        update_rows(
            self.conn,
            _LANE,
            rows,
            keys=("tenant_id", "contact_id"),
            in_order=True,
            assign=("replay_until", "blocked_by", "blocked_since", "not_before"),
            guard="t.replay_id = r.was_replay_id",
        )
        columns = ("state", "commit_order", "actual_state", "result", "reason", "drift", "done_at")
        changed = [
            {"replay_id": self.batch.replay_id, "n": n, **{name: self.items[n][name] for name in columns}}
            for n in sorted(self.changed)
        ]
        update_rows(self.conn, _ITEM, changed, keys=("replay_id", "n"), assign=columns)
        open_tasks(self.conn, [_task(self.batch, item, self.new_id(), self.now) for item in self.finished if _needs_task(item)])
        _close_settled(self.conn, self.batch, self.finished, self.now)
        idle = set(self.lanes()) - {item["contact_id"] for item in self.open()}
        _give_back(self.conn, self.batch, idle)


def advance(conn: Connection, tenant_id: str, replay_id: str, now: datetime, new_id: Callable[[], str]) -> Advanced | None:
    """One step of a batch that was started; None when it has ended meanwhile."""
    batch = _lock(conn, tenant_id, replay_id)
    status = BatchStatus(batch.status)
    if batch.ended_at is not None or status is BatchStatus.PLANNED:
        return None
    run = _Run(conn, batch, now, new_id)
    run.collect()
    values: dict[str, Any] = {}
    placed, waits = 0, False
    if status is BatchStatus.RUNNING:
        waits = not allowed(conn, tenant_id, now)
        tokens = batch.tokens + max(0.0, (now - batch.filled_at).total_seconds()) * batch.rate_per_s
        tokens = min(tokens, max(1.0, batch.rate_per_s))
        if not waits:
            _reserve(conn, batch)
            tokens, placed = run.let_go(tokens)
        values |= {"tokens": tokens, "filled_at": now}
    released = sorted(c for c in run.until)
    run.write()
    if run.finished:
        values["done"] = batch.done + len(run.finished)
        values["drifted"] = batch.drifted + sum(bool(item["drift"]) for item in run.finished)
    if not run.open():
        status = step(status, BatchAct.COMPLETE) or status
        values |= {"status": status, "ended_at": now, "rev": batch.rev + 1}
        evidence.ended(conn, tenant_id, "replay", replay_id, now)
    if values:
        conn.execute(update(_BATCH).where(_BATCH.c.replay_id == replay_id).values(values))
    if released or run.finished or "status" in values:
        changes: dict[tuple[str | None, str], Iterable[str]] = {(tenant_id, "replay"): [replay_id]}
        if released:
            changes |= {(tenant_id, "queue"): released, (tenant_id, "lane"): released}
        if any(_needs_task(item) for item in run.finished):
            changes[(tenant_id, "manual")] = []
        publish_many(conn, changes, now)
    return Advanced(
        replay_id=replay_id, status=status, released=released, finished=run.finished, placed=placed, waits_for_mode=waits
    )


def _reserve(conn: Connection, batch: Row[Any]) -> None:
    """Take the lanes of the batch's contacts that nobody has: from now on everything else of them waits."""
    contacts = select(_ITEM.c.contact_id).where(_ITEM.c.replay_id == batch.replay_id, _ITEM.c.state.in_(OPEN))
    conn.execute(
        update(_LANE)
        .where(_LANE.c.tenant_id == batch.tenant_id, _LANE.c.replay_id.is_(None), _LANE.c.contact_id.in_(contacts))
        .values(replay_id=batch.replay_id, replay_until=0)
    )


def _give_back(conn: Connection, batch: Row[Any], contacts: set[str]) -> None:
    """Let go of lanes: what is still parked in them is the drain's again, everything else may go on."""
    if not contacts:
        return
    keys = [{"tenant_id": batch.tenant_id, "contact_id": c} for c in sorted(contacts)]
    rows = joined_rows(
        conn,
        _COMMAND,
        keys,
        keys=("tenant_id", "contact_id"),
        columns=("contact_id", "status"),
        where="t.done_at IS NULL AND t.was_parked AND t.withdrawn IS NULL",
    )
    left: dict[str, str] = {}
    for row in rows:
        left[row.contact_id] = "contingency" if row.status == State.PENDING_CONTINGENCY else "safe_mode"
    update_rows(
        conn,
        _LANE,
        [{**key, "was_replay_id": batch.replay_id, "blocked_by": left.get(key["contact_id"])} for key in keys],
        keys=("tenant_id", "contact_id"),
        in_order=True,
        assign=("blocked_by",),
        expressions={"replay_id": "NULL", "replay_until": "0", "not_before": "NULL"},
        guard="t.replay_id = r.was_replay_id",
    )


def _settle_unsent(conn: Connection, batch: Row[Any], now: datetime) -> int:
    """What the dry run said would be stopped is not sent again: it ends as predicted, and a person gets it."""
    rows = conn.execute(select(_ITEM).where(_ITEM.c.replay_id == batch.replay_id, _ITEM.c.sent.is_(False))).all()
    if not rows:
        return 0
    conn.execute(
        update(_ITEM)
        .where(_ITEM.c.replay_id == batch.replay_id, _ITEM.c.sent.is_(False))
        .values(
            state=ItemState.DONE,
            actual_state=_ITEM.c.predicted_state,
            result=_ITEM.c.predicted_result,
            reason=_ITEM.c.predicted_reason,
            done_at=now,
        )
    )
    settled = [dict(row._mapping) | {"result": row.predicted_result, "actual_state": row.predicted_state} for row in rows]
    tasks = [
        _task(batch, item | {"reason": item["predicted_reason"]}, sha256_hex(f"{batch.replay_id}:{item['n']}")[:32], now)
        for item in settled
        if item["was_status"] not in MANUAL_RESULTS  # those have their task since they ended
    ]
    open_tasks(conn, tasks)
    return len(settled)


def _close_settled(conn: Connection, batch: Row[Any], finished: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """What was asked again and happened needs nobody any more: the task of the request that had ended badly is closed."""
    by = By(actor="system:replay", now=now)
    for item in finished:
        if item["kind"] != ItemKind.AGAIN or item["result"] != State.REPLAYED:
            continue
        keys = (f"command:{item['command_id']}", f"replay:{item['command_id']}")
        query = select(_TASK.c.task_id).where(_TASK.c.tenant_id == batch.tenant_id, _TASK.c.dedup_key.in_(keys))
        for task_id in conn.execute(query).scalars().all():
            applied(conn, batch.tenant_id, task_id, item["run_command_id"], by, reason=f"replay {batch.replay_id}")


def _needs_task(item: Mapping[str, Any]) -> bool:
    """Whether nobody has been told yet: the ledger opens a task by itself for its own manual results."""
    if item["result"] == State.REPLAYED:
        return False
    never_sent = item["kind"] == ItemKind.AGAIN and item["commit_order"] is None
    return never_sent or item["actual_state"] not in MANUAL_RESULTS


def _task(batch: Row[Any], item: Mapping[str, Any], task_id: str, now: datetime) -> dict[str, Any]:
    rank = PRIORITY_OF_COMMAND[CommandType(item["command_type"])].rank
    return task_row(
        tenant_id=batch.tenant_id,
        task_id=task_id,
        dedup_key=f"replay:{item['command_id']}",
        cause=item["result"],
        reason=item["reason"],
        priority=rank,
        correlation_id=item["correlation_id"],
        now=now,
        due_at=now + due_after(rank),
        contact_id=item["contact_id"],
        command_id=item["run_command_id"] if item["commit_order"] is not None else item["command_id"],
    )


def _withdraw_all(conn: Connection, batch: Row[Any], now: datetime) -> None:
    """Cancel: what has no place or is parked stays as it is; what has its place already goes to a person at its turn."""
    run = _Run(conn, batch, now, lambda: "")
    for item in run.open():
        if item["state"] == ItemState.PLACED:
            run.withdraw(item, Reason.REPLAY_CANCELLED)
        elif item["state"] == ItemState.PLANNED:
            run.put(item["n"], state=ItemState.CANCELLED)
    run.write()
    _give_back(conn, batch, set(run.lanes()))
