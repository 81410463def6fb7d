"""Replay batches (S-PC-02-003, F-05): making a plan with the gate's own answer for each item, and running it step by step.

`plan` gathers facts, asks the gate about every item as if it were decided when its turn comes, and freezes the answers: a dry
run that changes nothing but its own rows. The loop steps every open batch (`store.replays.advance`); all state is in the database.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from app.clock import Clock
from app.domain import family_texts
from app.domain.facts import Decision
from app.domain.replay_batch import BatchAct, Family, ItemKind, item_result, order_families
from app.domain.replay_filter import ReplayFilter
from app.domain.states import State
from app.engine.planning import Pace, TenantPolicy, agenda_names, foresee
from app.engine.policies import PolicyCache
from app.errors import InvalidRequest
from app.ids import new_id
from app.store import replays
from app.store.database import Database
from app.store.lanes import Facts, gather, wanted_slot
from app.store.people import By

log = structlog.get_logger("engine.replay")

POLL_S = 1.0
BUSY_S = 0.05
"""Commits do not wake the loop: what they finish is read together, and the next items go together."""
RATE_PER_S = 10 / 60
"""Items a second unless the caller says otherwise: ten a minute."""


@dataclass(slots=True)
class _Draft:
    chosen: list[replays.Chosen]
    facts: Facts


class Replay:
    """Makes plans and is the loop that runs them."""

    name = "replay"

    def __init__(self, database: Database, clock: Clock, policies: PolicyCache) -> None:
        self.wake = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        self._database, self._clock, self._policies = database, clock, policies

    async def plan(self, tenant_id: str, wanted: ReplayFilter, *, rate_per_s: float | None, by: By) -> str:
        """Freeze what a filter asks for, with what would become of each item now; returns the batch's id.

        Raises InvalidRequest when there is more than one batch can hold.
        """
        draft = await self._database.read(_draft, tenant_id, wanted)
        if len(draft.chosen) > replays.ITEMS_MAX:
            raise InvalidRequest(
                f"The filter finds more than {replays.ITEMS_MAX} requests; narrow it.",
                errors=[{"pointer": "/filter", "detail": f"finds more than {replays.ITEMS_MAX}"}],
            )
        policies = await self._policies.get([tenant_id])
        items = _items(draft, policies, by.now, rate_per_s or RATE_PER_S)
        replay_id = new_id()
        await self._database.write(
            lambda conn: replays.save_plan(
                conn,
                replay_id=replay_id,
                tenant_id=tenant_id,
                wanted=wanted,
                rate_per_s=rate_per_s or RATE_PER_S,
                items=items,
                by=by,
            )
        )
        log.info(
            "replay_planned",
            flow_id="F-05",
            correlation_id=f"replay-{replay_id}",
            tenant_id=tenant_id,
            status="planned",
            items=len(items),
            would_replay=sum(item["predicted_result"] == State.REPLAYED for item in items),
        )
        return replay_id

    async def act(self, tenant_id: str, replay_id: str, what: BatchAct, by: By, *, rev: int | None = None) -> None:
        """Run, pause, resume or cancel a batch. Raises NotFound, Conflict."""
        await self._database.write(lambda conn: replays.act(conn, tenant_id, replay_id, what, by, rev=rev))
        self.wake.set()
        for wake in self.on_change:
            wake()

    async def tick(self) -> float:
        """One step of every open batch."""
        batches = await self._database.read(replays.open_batches)
        moved = False
        for tenant_id, replay_id in batches:
            step = await self._database.write(replays.advance, tenant_id, replay_id, self._clock.now(), new_id)
            if step is None:
                continue
            if step.released or step.finished:
                moved = True
                self._log(tenant_id, step)
        if moved:
            for wake in self.on_change:
                wake()
        return BUSY_S if batches else POLL_S

    def _log(self, tenant_id: str, step: replays.Advanced) -> None:
        for item in step.finished:
            log.info(
                "replay_item",
                flow_id="F-05",
                correlation_id=item["correlation_id"],
                tenant_id=tenant_id,
                contact_id=item["contact_id"],
                intent=item["command_type"],
                status=item["result"],
                reason=item["reason"],
                commit_order=item["commit_order"],
                replay_id=step.replay_id,
                predicted=item["predicted_result"],
                drift=item["drift"],
                event_age=item["event_age_s"],
                ttl_limit=item["ttl_limit_s"],
                expected_version=item["expected_version"],
                event_version=item["event_version"],
            )


def _draft(conn: Connection, tenant_id: str, wanted: ReplayFilter) -> _Draft:
    """What the filter finds, and the facts of its lanes with the new commands in their places, in the plan's order."""
    chosen = replays.choose(conn, tenant_id, wanted)
    if len(chosen) > replays.ITEMS_MAX:
        return _Draft(chosen, Facts())
    families: dict[str, list[replays.Chosen]] = defaultdict(list)
    for item in chosen:
        families[item.row.contact_id].append(item)
    order = order_families(
        [
            Family(contact_id=c, rank=min(i.row.priority for i in items), since=min(i.row.accepted_at for i in items))
            for c, items in families.items()
        ]
    )
    ordered = [item for c in order for item in sorted(families[c], key=lambda i: (i.kind is ItemKind.AGAIN, i.row.commit_order))]
    extra = [item.command for item in ordered if item.kind is ItemKind.AGAIN]
    facts = gather(conn, [(tenant_id, c) for c in order], replays.ITEMS_MAX, extra)
    return _Draft(ordered, facts)


def _items(draft: _Draft, policies: Mapping[str, TenantPolicy], now: datetime, rate_per_s: float) -> list[dict[str, Any]]:
    """The rows of the plan."""
    ids = {kind: frozenset(c.command.command_id for c in draft.chosen if c.kind is kind) for kind in ItemKind}
    pace = Pace(rate_per_s=rate_per_s, parked=ids[ItemKind.PARKED], again=ids[ItemKind.AGAIN])
    starts = {key: appointment.start_at for key, appointment in draft.facts.appointments.items()}
    decisions = foresee(draft.facts, policies, now, pace)
    return [_item(draft.facts, item, decisions[item.command.command_id], policies, starts) for item in draft.chosen]


def _item(
    facts: Facts,
    item: replays.Chosen,
    decision: Decision,
    policies: Mapping[str, TenantPolicy],
    starts: Mapping[tuple[str, str], datetime],
) -> dict[str, Any]:
    command, row = item.command, item.row
    slot = wanted_slot(command)
    known = starts.get((command.tenant_id, command.appointment_id or ""))
    times = [t for t in (known, slot[0] if slot else None) if t is not None]
    result = item_result(decision.state)
    # what is too old or unusable is so whatever the agenda says: it waits for nobody
    blind = decision.state in (State.EXPIRED_MANUAL, State.INVALID_PAYLOAD_MANUAL, State.INVALID_EVENT_MANUAL)
    agendas = [] if blind else [f"{kind}:{name}" for _, kind, name in agenda_names(facts, command)]
    message = None
    if decision.effect is not None:
        message = family_texts.answer(command.command_type, decision.effect, policies[command.tenant_id].timezone)
    return {
        "command_id": row.command_id,
        "contact_id": row.contact_id,
        "kind": item.kind,
        "pulled_in": item.pulled_in,
        "sent": item.kind is ItemKind.PARKED or result is State.REPLAYED,
        "run_command_id": command.command_id,
        "commit_order": row.commit_order if item.kind is ItemKind.PARKED else None,
        "command_type": row.command_type,
        "was_status": row.status,
        "correlation_id": row.correlation_id,
        "occurred_at": row.occurred_at,
        "appointment_id": command.appointment_id,
        "starts_at": min(times, default=None),
        "agenda_json": msgspec.json.encode(agendas).decode(),
        "predicted_state": decision.state,
        "predicted_result": result,
        "predicted_reason": decision.reason,
        "expected_version": decision.expected_version,
        "event_version": decision.event_version,
        "event_age_s": decision.event_age_s,
        "ttl_limit_s": decision.ttl_limit_s,
        "message": message[:1000] if message else None,
        "state": "planned",
    }
