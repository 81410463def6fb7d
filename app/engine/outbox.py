"""The outbox loop: delivers what effects left to be said, each target at its own pace.

A round settles what was answered, looks through what waits when a look is due (`lookahead`), deals with senders that vanished,
and starts what is due. Calls run beside the loop, so a target that hangs delays nobody else. Messages to families are sent at
most once: whatever may have been sent becomes `unknown` and goes to a person. Webhooks and notices are sent at least once,
always under the same idempotency key.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from app.channels.http import TOTAL_S
from app.channels.outbound import Channel, OutboundMessage, Outcome, ReplyButton, SendResult, Template
from app.clock import Clock
from app.domain.delivery import OutboxStatus, after_attempt
from app.engine.channel_book import ChannelBook, NoChannel
from app.engine.circuits import Circuits
from app.engine.lookahead import Lookahead
from app.ids import new_id
from app.metrics import Metrics
from app.store.database import Database
from app.store.outbox import NOT_SENT_IN_TIME, Due, Settlement, backlog, claim, defer, due, expire_leases, settle
from app.store.outbox_limits import ENDS_AS, drop_outdated
from app.telemetry import LineKind
from app.tracing import Tracing

log = structlog.get_logger("engine.outbox")
DELIVERY: Final = LineKind("engine.outbox", "delivery")

POLL_S = 1.0
STOP_PATIENCE_S = 1.0
ROUNDS_AHEAD = 10
"""How many rounds of deliveries a look brings at most: as many as there can be until the next one."""
WINDOW = timedelta(hours=24)
"""Providers take free text for this long after the recipient's last message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxPolicy:
    """Sizes and patience. Seconds of `backoff` are the clock's, those of `send_limit_s` are real ones."""

    in_flight: int = 64
    per_target: int = 8
    attempts_max: int = 8
    backoff_s: float = 2.0
    backoff_max_s: float = 300.0
    linger_s: float = 0.05
    """Rounds begin at most this often (real seconds), so that under load each writes for many deliveries."""
    send_limit_s: float = TOTAL_S + 5.0
    """A call that takes longer is taken for lost."""

    @property
    def lease_s(self) -> float:
        """Longer than any call can take, so that only a dead sender loses its lease."""
        return self.send_limit_s + 10.0


@dataclass(slots=True)
class _Call:
    delivery: Due
    channel: Channel
    token: str
    result: SendResult | None = None


class OutboxLoop:
    """The loop that delivers. `close` waits a moment for calls that are on their way."""

    name = "outbox"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        channels: ChannelBook,
        metrics: Metrics,
        *,
        policy: OutboxPolicy | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self.wake = asyncio.Event()
        self.circuits = Circuits(time.monotonic)
        self._database, self._clock, self._channels, self._metrics = database, clock, channels, metrics
        self._policy = policy or OutboxPolicy()
        self._calls: dict[asyncio.Task[None], _Call] = {}
        self._answered: list[_Call] = []
        self._ahead = Lookahead()
        self._began_at = 0.0

    async def tick(self) -> float:
        """One round; returns the real seconds until the next one is due."""
        await asyncio.sleep(self._began_at + self._policy.linger_s - time.monotonic())
        self._began_at = time.monotonic()
        await self._settle()
        looks = self._ahead.pause_s == 0.0
        if looks and await self._look():
            return 0.0
        if await self._start():
            return 0.0
        # what woke this round may have come after the last look, so the next one is not left to a poll
        return min(self._until(), self._ahead.pause_s or (POLL_S if looks else 0.0))

    async def close(self) -> None:
        """Give running calls a moment, settle what was answered, and leave the rest to the lease."""
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=STOP_PATIENCE_S)
        for task in list(self._calls):
            task.cancel()
        if self._calls:
            await asyncio.wait(set(self._calls))
        await self._settle()

    # --- looking and starting -------------------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Find what is due; whether something else had to be done first, after which one looks again."""
        started, now, policy = time.monotonic(), self._clock.now(), self._policy
        waiting = await self._database.read(backlog)
        self._metrics.outbox_pending.set(waiting.count)
        if waiting.next_lease_at is not None and waiting.next_lease_at <= now:
            lost = await self._database.write(expire_leases, now, policy.attempts_max)
            log.warning("senders_vanished", deliveries=len(lost))
            return True
        if waiting.next_limit_at is not None and waiting.next_limit_at <= now:
            dropped = await self._database.write(drop_outdated, now)
            self._tell((d, "none", ENDS_AS.get(d.kind, OutboxStatus.FAILED), NOT_SENT_IN_TIME) for d in dropped)
            return True
        found: list[Due] = []
        if waiting.next_due_at is not None and waiting.next_due_at <= now:
            groups, limit = policy.per_target * ROUNDS_AHEAD, policy.in_flight * ROUNDS_AHEAD
            found = await self._database.read(due, now, per_group=groups, limit=limit)
        self._ahead.looked(waiting, found, time.monotonic() - started)
        return False

    async def _start(self) -> bool:
        room = self._policy.in_flight - len(self._calls)
        if room <= 0:
            return False
        busy = Counter(call.channel.key for call in self._calls.values())
        chosen: dict[str, _Call] = {}
        waiting: dict[float, list[str]] = {}
        refused: list[tuple[Due, str]] = []
        token = new_id()
        full: set[tuple[str, str, object]] = set()
        for delivery in self._ahead:
            if len(chosen) == room:
                break
            group = (delivery.tenant_id, delivery.kind, delivery.body.get("channel"))
            if group in full:
                continue
            try:
                channel = await self._channels.for_delivery(delivery)
            except BaseException:
                self._abandon(chosen.values())
                raise
            if isinstance(channel, NoChannel):
                refused.append((delivery, channel.reason))
                continue
            wait_s = self.circuits.wait_s(channel.key)
            if wait_s > 0:
                waiting.setdefault(round(wait_s, 1), []).append(delivery.outbox_id)
            elif busy[channel.key] < self._policy.per_target:
                busy[channel.key] += 1
                self.circuits.begin(channel.key)
                chosen[delivery.outbox_id] = _Call(delivery, channel, token)
            else:
                full.add(group)
        self._ahead.drop({*chosen, *(d.outbox_id for d, _ in refused), *(i for ids in waiting.values() for i in ids)})
        await self._launch(chosen, token)  # first: should the database refuse another of these, no circuit waits for its probe
        await self._hold(waiting)
        await self._refuse(refused, token)
        return bool(chosen or refused)

    async def _hold(self, waiting: dict[float, list[str]]) -> None:
        """Deliveries to a target whose circuit is open wait, without costing an attempt."""
        for wait_s, ids in waiting.items():
            until = self._clock.now() + timedelta(seconds=max(wait_s, 0.2) * self._clock.scale)
            await self._database.write(defer, ids, until)

    async def _refuse(self, refused: list[tuple[Due, str]], token: str) -> None:
        """Deliveries without a usable channel end at once, with a task for a person."""
        if not refused:
            return
        now = self._clock.now()
        won = await self._database.write(claim, {d.outbox_id: d.attempts for d, _ in refused}, token, self._lease(now), now)
        settlements = [
            Settlement(outbox_id=d.outbox_id, token=token, status=OutboxStatus.FAILED, detail=reason)
            for d, reason in refused
            if d.outbox_id in won
        ]
        await self._database.write(settle, settlements, now)
        self._tell((d, "none", OutboxStatus.FAILED, reason) for d, reason in refused if d.outbox_id in won)

    async def _launch(self, chosen: dict[str, _Call], token: str) -> None:
        if not chosen:
            return
        now = self._clock.now()
        try:
            won = await self._database.write(
                claim, {i: c.delivery.attempts for i, c in chosen.items()}, token, self._lease(now), now
            )
        except BaseException:
            self._abandon(chosen.values())
            raise
        for outbox_id, call in chosen.items():
            if outbox_id not in won:
                self.circuits.abandoned(call.channel.key)
                continue
            task = asyncio.create_task(self._send(call))
            self._calls[task] = call
            task.add_done_callback(self._done)

    def _abandon(self, calls: Iterable[_Call]) -> None:
        """None of these was made: whoever comes next may be the probe of its target."""
        for call in calls:
            self.circuits.abandoned(call.channel.key)

    def _lease(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._policy.lease_s * self._clock.scale)

    # --- one call -------------------------------------------------------------------------------------------------------

    async def _send(self, call: _Call) -> None:
        delivery = call.delivery
        to = delivery.phone
        if to is None and delivery.contact_id is not None:
            if call.channel.key != "simulator":
                call.result = SendResult(outcome=Outcome.REJECTED, detail="contact_without_phone")
                return
            to = delivery.contact_id
        settings = await self._channels.settings(delivery.tenant_id)
        message = _message(delivery, to, settings, self._clock.now())
        started = self._clock.now()
        try:
            async with asyncio.timeout(self._policy.send_limit_s):
                call.result = await call.channel.send(message)
        except TimeoutError:
            call.result = SendResult(outcome=Outcome.UNKNOWN, detail="timeout")
        if self._tracing.active:
            self._tracing.span(
                "deliver", delivery.correlation_id, started, self._clock.now(), tenant_id=delivery.tenant_id, kind=delivery.kind,
                outbox_id=delivery.outbox_id, outcome=str(call.result.outcome), attempt=delivery.attempts + 1,
            )  # fmt: skip

    def _done(self, task: asyncio.Task[None]) -> None:
        """A call is over: its outcome waits for the next round to be written."""
        call = self._calls.pop(task)
        if call.result is None:
            # cancelled, or a defect in the channel: nobody knows what happened, and the lease says so later
            self.circuits.abandoned(call.channel.key)
            if not task.cancelled() and task.exception() is not None:
                log.error("channel_failed", target=call.channel.key, exc_info=task.exception())
                call.result = SendResult(outcome=Outcome.UNKNOWN, detail="channel_failed")
        if call.result is not None:
            self._note(call)  # at once: the call's place at its target is free from here, and the circuit must know first
            self._answered.append(call)
        self.wake.set()

    # --- settling -------------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        calls, self._answered = self._answered, []
        if not calls:
            return
        now = self._clock.now()
        settlements = [self._settlement(call, now) for call in calls]
        try:
            won = await self._database.write(settle, settlements, now)
        except BaseException:
            self._answered = calls + self._answered  # the outcome is known only here: keep it for the next round
            raise
        self._tell(
            (c.delivery, c.channel.key, s.status if c.delivery.outbox_id in won else "superseded", s.detail)
            for c, s in zip(calls, settlements, strict=True)
        )

    def _settlement(self, call: _Call, now: datetime) -> Settlement:
        result = call.result
        assert result is not None
        attempt = call.delivery.attempts + 1
        status = after_attempt(call.delivery.kind, result.outcome, attempt, self._policy.attempts_max)
        again = now + self._backoff(attempt, result.retry_after_s) if status is OutboxStatus.PENDING else None
        return Settlement(
            outbox_id=call.delivery.outbox_id,
            token=call.token,
            status=status,
            detail=result.detail,
            provider_message_id=result.provider_message_id,
            due_at=again,
        )

    def _backoff(self, attempt: int, retry_after_s: float | None) -> timedelta:
        """Full jitter (a random share of an exponential limit), but never before the target's own wish."""
        limit = min(self._policy.backoff_max_s, self._policy.backoff_s * 2.0 ** (attempt - 1))
        return timedelta(seconds=max(random.uniform(0.0, limit), retry_after_s or 0.0))

    def _note(self, call: _Call) -> None:
        result = call.result
        assert result is not None
        if result.outcome in (Outcome.SENT, Outcome.REJECTED):
            self.circuits.succeeded(call.channel.key)
        else:
            self.circuits.failed(call.channel.key, result.retry_after_s)

    def _tell(self, ended: Iterable[tuple[Due, str, str, str | None]]) -> None:
        """Count and write down what became of deliveries: target, status, detail."""
        told = list(ended)
        for _, _, status, _ in told:
            self._metrics.delivered(status)
        DELIVERY.info(
            {
                "flow_id": "F-05" if delivery.kind == "contingency_message" else "F-02",
                "correlation_id": delivery.correlation_id,
                "tenant_id": delivery.tenant_id,
                "contact_id": delivery.contact_id,
                "intent": delivery.kind,
                "status": status,
                "channel": target.partition(":")[0],
                "attempt": delivery.attempts + 1,
                "reason": detail,
            }
            for delivery, target, status, detail in told
        )

    def _until(self) -> float:
        """Real seconds until the next delivery or lease is due; what ends before then wakes the loop."""
        if self._answered:
            return 0.0
        waiting = self._ahead.backlog
        moments = [waiting.next_due_at, waiting.next_lease_at, waiting.next_limit_at] if waiting is not None else []
        known = [moment for moment in moments if moment is not None]
        if not known:
            return POLL_S
        left_s = (min(known) - self._clock.now()).total_seconds() / self._clock.scale
        # a row can be due and yet wait for the one before it, or for room at its target: no busy loop over those
        return min(POLL_S, max(0.2, left_s))


def _message(delivery: Due, to: str | None, settings: dict[str, object], now: datetime) -> OutboundMessage:
    body = delivery.body
    text, title = body.get("text"), body.get("title")
    heard = delivery.last_inbound_at
    return OutboundMessage(
        key=delivery.outbox_id,
        text=text if isinstance(text, str) else "",
        title=title if isinstance(title, str) else None,
        to=to,
        kind=delivery.kind,
        tenant_id=delivery.tenant_id,
        template=_template(body.get("template"), settings, text),
        window_open=None if heard is None else now - heard < WINDOW,
        document=body.get("document"),
        buttons=_buttons(body.get("buttons")),
        correlation_id=delivery.correlation_id,
    )


def _buttons(given: object) -> tuple[ReplyButton, ...]:
    """Buttons of the body: `[{"id", "title"}]`; anything else is none."""
    found = given if isinstance(given, list) else []
    return tuple(
        ReplyButton(id=str(b["id"]), title=str(b["title"])) for b in found if isinstance(b, dict) and {"id", "title"} <= b.keys()
    )


def _template(named: object, settings: dict[str, object], text: object) -> Template | None:
    """The approved template of this very message, else the tenant's general one with the text as its only parameter."""
    if isinstance(named, dict) and isinstance(named.get("name"), str):
        parameters = tuple(str(p) for p in named.get("parameters") or ())
        return Template(name=named["name"], language=str(named.get("language") or "pt_BR"), parameters=parameters)
    whatsapp = settings.get("whatsapp")
    general = whatsapp.get("message_template") if isinstance(whatsapp, dict) else None
    if isinstance(general, str) and general and isinstance(text, str):
        language = whatsapp.get("template_language") if isinstance(whatsapp, dict) else None
        # a template parameter may hold no line breaks and no run of spaces
        return Template(name=general, language=str(language or "pt_BR"), parameters=(" ".join(text.split()),))
    return None
