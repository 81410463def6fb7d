"""The loop of alerts: climbs their ladders and sends their messages, each target at its own pace.

A round settles what was answered (a failure gets its fallback in the same breath), writes down the changes of state that
are due, and claims what is to be sent. Calls run beside the loop under a time limit, so a target that hangs delays nobody
else. State lives in the database: any node may die at any moment, its claims run out and another node goes on.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from app.channels.factory import is_apprise
from app.channels.outbound import Channel, OutboundMessage, Outcome, ReplyButton, SendResult, Template
from app.channels.targets import shown
from app.clock import Clock
from app.credentials import new_ack_token
from app.domain import alert_texts
from app.engine.channel_book import ChannelBook, NoChannel
from app.ids import new_id
from app.metrics import Metrics
from app.store.alert_claims import Claimed, claim_due, still_wanted
from app.store.alert_ladder import climb_due
from app.store.alert_steps import Agenda, Sent, agenda, settle
from app.store.alert_voices import spec_of
from app.store.alerts import FLAP_WINDOW, settle_flapping
from app.store.database import Database
from app.store.lanes import GLOBAL_SCOPE

log = structlog.get_logger("engine.alerts")

STOP_PATIENCE_S = 1.0
ACK_PREFIX = "ack:"
"""How the id of an ACK button begins; the token follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPolicy:
    """Sizes and patience; seconds are real ones."""

    in_flight: int = 64
    per_target: int = 2
    send_limit_s: float = 8.0
    """A call that takes longer is taken for lost: its fallback goes out, and it may still arrive."""
    poll_s: float = 1.0

    @property
    def lease_s(self) -> float:
        """Longer than any call can take, so that only a dead sender loses its lease."""
        return self.send_limit_s + 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a test message came to, and where it went (masked)."""

    target: str
    result: SendResult


@dataclass(slots=True)
class _Call:
    claimed: Claimed
    target: str = ""
    result: SendResult | None = None
    stopped: bool = False


class AlertLoop:
    """The loop that alerts. `on_change` is called when something that screens show has changed."""

    name = "alerts"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        channels: ChannelBook,
        metrics: Metrics,
        *,
        public_url: str,
        secret_key: str,
        policy: AlertPolicy | None = None,
    ) -> None:
        self.wake = asyncio.Event()
        self.on_change: list[Callable[[], None]] = []
        self._database, self._clock, self._channels, self._metrics = database, clock, channels, metrics
        self._public_url, self._secret_key = public_url.rstrip("/"), secret_key
        self._policy = policy or AlertPolicy()
        self._calls: dict[asyncio.Task[None], _Call] = {}
        self._answered: list[_Call] = []

    async def tick(self) -> float:
        """One round; returns the real seconds until the next one is due."""
        await self._settle()
        now = self._clock.now()
        plan = await self._database.read(agenda)
        if plan.climb_at is not None and plan.climb_at <= now:
            await self._climb(now)
        if plan.rest_at is not None and plan.rest_at <= now - FLAP_WINDOW:
            await self._database.write(settle_flapping, now)
            self._changed()
        due = plan.left_alone or (plan.send_at is not None and plan.send_at <= now)
        if due and await self._start(now):
            return 0.0
        return self._until(plan, now)

    async def close(self) -> None:
        """Give running calls a moment, settle what was answered, and leave the rest to the lease."""
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=STOP_PATIENCE_S)
        for task in list(self._calls):
            task.cancel()
        if self._calls:
            await asyncio.wait(set(self._calls))
        await self._settle()

    @property
    def in_flight(self) -> int:
        """Messages that are on their way."""
        return len(self._calls)

    async def _channel(self, scope: str, spec: str) -> Channel | NoChannel:
        return await channel_of(self._channels, scope, spec)

    # --- changes of state -----------------------------------------------------------------------------------------------

    async def _climb(self, now: datetime) -> None:
        for row, actions in await self._database.write(climb_due, now):
            for action in actions:
                log.warning(
                    "alert_climbed",
                    flow_id="F-06",
                    correlation_id=row.correlation_id,
                    tenant_id=row.tenant_id,
                    trigger_id=row.trigger,
                    alert_id=row.alert_id,
                    status=action,
                )
        self._changed()

    async def try_channel(self, scope: str, channel: str, recipient: str) -> Tried:
        """Send a test to one recipient of a channel, now, and wait for the answer; touches no alert."""
        settings = await self._channels.settings(scope)
        spec = spec_of(settings["channels"], channel, recipient)
        found = await self._channel(scope, spec)
        if isinstance(found, NoChannel):
            return Tried(target=shown(spec), result=SendResult(outcome=Outcome.REJECTED, detail=found.reason))
        text = alert_texts.test_text(channel, self._clock.now(), str(settings["timezone"]))
        template = _template(settings, text)
        message = OutboundMessage(
            key=f"test-{new_id()}",
            title=alert_texts.TEST_TITLE,
            text=text,
            kind="alert_test",
            tenant_id=None if scope == GLOBAL_SCOPE else scope,
            template=template,
            window_open=False if template else None,
            document={"test": True, "channel": channel, "text": text},
        )
        try:
            async with asyncio.timeout(self._policy.send_limit_s):
                result = await found.send(message)
        except TimeoutError:
            result = SendResult(outcome=Outcome.UNKNOWN, detail="timeout")
        return Tried(target=shown(spec), result=result)

    # --- messages -------------------------------------------------------------------------------------------------------

    async def _start(self, now: datetime) -> bool:
        room = self._policy.in_flight - len(self._calls)
        if room <= 0:
            return False
        claimed = await self._database.write(
            lambda conn: claim_due(
                conn,
                now=now,
                lease_until=now + timedelta(seconds=self._policy.lease_s * self._clock.scale),
                lease_token=new_id(),
                room=room,
                busy=Counter(call.claimed.target for call in self._calls.values()),
                per_target=self._policy.per_target,
                mint=lambda: new_ack_token(self._secret_key),
            )
        )
        for one in claimed:
            call = _Call(one)
            task = asyncio.create_task(self._send(call))
            self._calls[task] = call
            task.add_done_callback(self._done)
        if claimed:
            self._changed()
        return bool(claimed)

    async def _send(self, call: _Call) -> None:
        claimed = call.claimed
        scope = claimed.step.tenant_id or GLOBAL_SCOPE
        settings = await self._channels.settings(scope)
        spec = spec_of(settings["channels"], claimed.step.channel, claimed.step.recipient)
        call.target = shown(spec)
        channel = await self._channel(scope, spec)
        if isinstance(channel, NoChannel):
            call.result = SendResult(outcome=Outcome.REJECTED, detail=channel.reason)
            return
        message = self._message(claimed, settings)
        if not await self._database.read(still_wanted, claimed.step.step_id, claimed.token):
            call.stopped = True  # acknowledged since it was claimed
            return
        try:
            async with asyncio.timeout(self._policy.send_limit_s):
                call.result = await channel.send(message)
        except TimeoutError:
            call.result = SendResult(outcome=Outcome.UNKNOWN, detail="timeout")

    def _message(self, claimed: Claimed, settings: dict[str, Any]) -> OutboundMessage:
        alert, step, now = claimed.alert, claimed.step, self._clock.now()
        facts = alert_texts.AlertMessage(
            severity=alert.severity,
            summary=alert.summary,
            raised_at=alert.raised_at,
            now=now,
            due_at=step.due_at,
            attempt=step.n,
            others=claimed.others,
            clinics=claimed.clinics,
            safe_mode_at=alert.safe_mode_at,
            link=f"{self._public_url}/ack/{claimed.ack_token}",
            clinic=claimed.clinic,
            passed_on=step.step_key.startswith("pass_on:"),
            fallback=step.fallback_of is not None,
            late=(now - step.due_at).total_seconds() > 60,
            timezone=str(settings["timezone"]),
        )
        body = alert_texts.text(facts)
        template = _template(settings, " ".join(body.split()))
        return OutboundMessage(
            key=step.step_id,
            title=alert_texts.title(facts),
            text=body,
            kind="alert",
            tenant_id=alert.tenant_id,
            template=template,
            window_open=False if template else None,
            buttons=(ReplyButton(id=f"{ACK_PREFIX}{claimed.ack_token}", title=alert_texts.ACK_BUTTON),),
            document={
                "alert_id": alert.alert_id,
                "trigger": alert.trigger,
                "severity": alert.severity,
                "attempt": step.n,
                "text": body,
                "correlation_id": alert.correlation_id,
            },
            correlation_id=alert.correlation_id,
        )

    def _done(self, task: asyncio.Task[None]) -> None:
        """A call is over: its outcome waits for the next round to be written."""
        call = self._calls.pop(task)
        if call.result is None and not call.stopped and not task.cancelled() and task.exception() is not None:
            log.error("channel_failed", target=call.target, exc_info=task.exception())
            call.result = SendResult(outcome=Outcome.UNKNOWN, detail="channel_failed")
        if call.result is not None:
            self._answered.append(call)
        self.wake.set()

    async def _settle(self) -> None:
        calls, self._answered = self._answered, []
        if not calls:
            return
        sent = [Sent(claimed=c.claimed, result=c.result, target=c.target) for c in calls if c.result is not None]
        try:
            await self._database.write(settle, sent, self._clock.now())
        except BaseException:
            self._answered = calls + self._answered  # the outcome is known only here: keep it for the next round
            raise
        for one in sent:
            self._note(one)
        self._changed()

    def _note(self, sent: Sent) -> None:
        alert, step = sent.claimed.alert, sent.claimed.step
        self._metrics.alert_messages.labels(outcome=sent.result.outcome).inc()
        level = log.info if sent.result.outcome is Outcome.SENT else log.warning
        level(
            "alert_message",
            flow_id="F-06",
            correlation_id=alert.correlation_id,
            tenant_id=alert.tenant_id,
            trigger_id=alert.trigger,
            alert_id=alert.alert_id,
            channel=step.channel,
            attempt=step.n,
            status=str(sent.result.outcome),
            reason=sent.result.detail,
        )

    # --- time -----------------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        for call in self.on_change:
            call()

    def _until(self, plan: Agenda, now: datetime) -> float:
        """Real seconds until the next rung; other nodes may raise alerts at any time, so never long (and never a busy loop)."""
        if self._answered:
            return 0.0
        poll_s = min(self._policy.poll_s, max(0.1, 10.0 / self._clock.scale))
        moments = [m for m in (plan.send_at, plan.climb_at) if m is not None]
        if not moments:
            return poll_s
        left_s = (min(moments) - now).total_seconds() / self._clock.scale
        # a step can be due and yet wait for room at its target
        return min(poll_s, max(0.02, left_s))


def _load_apprise() -> None:
    """In a thread, and only where somebody uses it: the import alone is most of the time."""
    from app.channels.apprise import load_services

    load_services()


async def channel_of(channels: ChannelBook, scope: str, spec: str) -> Channel | NoChannel:
    """The channel of a spec; what is slow to load is loaded beside the event loop, so that it holds up nobody."""
    if is_apprise(spec):
        await asyncio.to_thread(_load_apprise)
    return await channels.channel(scope, spec)


def _template(settings: dict[str, Any], text: str) -> Template | None:
    """The approved template for alerts, which reaches a person who has not written for a day."""
    whatsapp = settings.get("whatsapp")
    name = whatsapp.get("alert_template") if isinstance(whatsapp, dict) else None
    if not isinstance(whatsapp, dict) or not isinstance(name, str) or not name:
        return None
    language = whatsapp.get("template_language")
    return Template(
        name=name, language=str(language or "pt_BR"), parameters=(text,), buttons=bool(whatsapp.get("alert_template_button"))
    )
