"""The only place where concrete objects are built and joined: stores, channels, engine loops, streams."""

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from app.channels.addresses import AllowList
from app.channels.factory import World
from app.channels.http import new_client
from app.clock import Clock, SystemClock
from app.domain.fallback import FallbackLimits
from app.engine.alerts import AlertLoop
from app.engine.channel_book import ChannelBook
from app.engine.channel_watch import ChannelWatch
from app.engine.conversations import Conversations
from app.engine.d1 import D1
from app.engine.deferred import DeferredWatch
from app.engine.dispatch import Dispatch
from app.engine.drain import Drain
from app.engine.drill import Drills
from app.engine.evidence import Evidence
from app.engine.health import Health
from app.engine.intake import Intake
from app.engine.locks import DatabaseLocks, LaneLocks
from app.engine.log_keeper import LineBuffer, LogKeeper
from app.engine.nodes import Nodes
from app.engine.outbox import OutboxLoop
from app.engine.phone_writer import PhoneWriter
from app.engine.policies import PolicyCache
from app.engine.queue_watch import QueueWatch
from app.engine.recent import Recent
from app.engine.redis_locks import RedisLocks, redis_answers
from app.engine.repeats import Repeats
from app.engine.replay import Replay
from app.engine.retention import Retention
from app.engine.safe_mode import SafeModeLoop
from app.engine.signals import SignalWatch
from app.engine.skew import SkewWatch
from app.engine.stores_down import Marker
from app.engine.stream import StreamHub
from app.engine.supervisor import Loop, Supervisor
from app.engine.takeover import Takeovers
from app.engine.wakeups import Wakeups, over_postgres, over_redis
from app.engine.watch import Audit, Heartbeat, report_defect
from app.errors import ConfigError, StorageError
from app.logsink import LogSink
from app.metrics import Metrics
from app.settings import VAR, Settings
from app.store.database import Database
from app.store.ledger import database_now
from app.store.migrate import current, head
from app.store.nodes import keep_time, newest_moment, shared_time
from app.store.plans import LanePlan
from app.telemetry import configure
from app.tracing import Tracing, tracing

log = structlog.get_logger("app.bootstrap")


@dataclass(kw_only=True)
class Services:
    """Everything that one process shares; handed to the web app and to the process."""

    settings: Settings
    clock: Clock
    db: Database
    metrics: Metrics
    tracing: Tracing
    sink: LogSink | None
    intake: Intake
    dispatch: Dispatch
    conversations: Conversations
    outbox: OutboxLoop
    takeovers: Takeovers
    drain: Drain
    drills: Drills
    alerts: AlertLoop
    evidence: Evidence
    replay: Replay
    skew: SkewWatch
    signals: SignalWatch
    channel_watch: ChannelWatch
    channels: ChannelBook
    policies: PolicyCache
    locks: LaneLocks
    hub: StreamHub
    health: Health
    safe_mode: SafeModeLoop
    supervisor: Supervisor
    wakeups: Wakeups | None
    """Between nodes; None on SQLite, where there is one."""
    http: httpx.AsyncClient
    loops: Sequence[Loop] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)

    @property
    def node_id(self) -> str:
        """Name of this process."""
        return self.settings.node_id

    async def schema_is_current(self) -> bool:
        """Whether the database has the schema that this code was written for."""
        return await current(self.db) == head()

    async def close(self) -> None:
        """Give everything back."""
        await self.outbox.close()
        await self.alerts.close()
        await self.drills.close()
        if self.wakeups is not None:
            await self.wakeups.close()
        if not isinstance(self.supervisor.defect, ConfigError):
            await report_defect(self.db, self.clock, self.supervisor, self.node_id)
        if isinstance(self.locks, RedisLocks):
            await self.locks.close()
        await self.http.aclose()
        await self.db.close()
        await asyncio.to_thread(self.tracing.close)
        if self.sink is not None:
            self.sink.close()


async def build(settings: Settings, *, clock: Clock | None = None, logs: bool = True) -> Services:
    """Build the services of one process; nothing runs yet. `logs=False` leaves logging as it is (tests)."""
    clock = clock or SystemClock(settings.time_scale)
    failures: queue.SimpleQueue[str] = queue.SimpleQueue()
    lines = LineBuffer()
    sink = (
        configure(log_format=settings.log_format, now=clock.now, node_id=settings.node_id, on_failure=failures.put, keep=lines.add)
        if logs
        else None
    )
    prepare_folder(settings.database_url)
    database = Database(settings.database_url)
    marker = Marker(_note_folder(settings.database_url), settings.database_url)
    try:
        reference = await database.read(database_now)
    except (StorageError, DBAPIError):
        if settings.redis_url and not await redis_answers(settings.redis_url):
            marker.write(clock.now())  # a process that starts between the two ends too early to see it with its own loops
        raise
    if reference is not None:
        off = clock.anchor(reference)
        log.info("clock_anchored", off_ms=round(off.total_seconds() * 1000))
    await _go_on(database, clock)
    metrics = Metrics()
    traces = tracing(settings.otlp_endpoint, metrics.registry, node_id=settings.node_id)
    if sink is not None:
        metrics.watch_sink(sink)
    policies = PolicyCache(database)
    locks: LaneLocks
    if settings.redis_url:
        locks = RedisLocks(settings.redis_url, DatabaseLocks(database, clock, mode="fallback", node_id=settings.node_id))
    else:
        locks = DatabaseLocks(database, clock, node_id=settings.node_id)
    http = new_client()
    allowed = AllowList(anything=not settings.is_production)  # a laptop's webhooks and sinks live on loopback
    channels = ChannelBook(database, World(client=http, phone=PhoneWriter(database, clock), allowed=allowed))
    repeats = Repeats(database, locks, metrics) if isinstance(locks, RedisLocks) else None
    recent = Recent()
    intake = Intake(database, clock, policies, metrics, tracing=traces, repeats=repeats, recent=recent)
    conversations = Conversations(database, clock)
    limits = FallbackLimits()
    dispatch = Dispatch(
        database, clock, locks, policies, metrics, node_id=settings.node_id, tracing=traces, limits=limits, recent=recent
    )
    outbox = OutboxLoop(database, clock, channels, metrics, tracing=traces)
    takeovers = Takeovers(database, clock)
    drain = Drain(database, clock)
    drills = Drills(database, clock, intake, locks, limits=limits, node_id=settings.node_id)
    alerts = AlertLoop(database, clock, channels, metrics, public_url=settings.public_url, secret_key=settings.secret_key)
    evidence = Evidence(database, clock, metrics, secret_key=settings.secret_key)
    replay = Replay(database, clock, policies)
    skew = SkewWatch(database, clock)
    channel_watch = ChannelWatch(database, clock)
    queue_watch = QueueWatch(database, clock, policies)
    hub = StreamHub(database, clock, metrics)
    queue_watch.on_change += [alerts.wake.set, hub.wake]
    supervisor = Supervisor()
    nodes = Nodes(database, clock, supervisor, locks, node_id=settings.node_id)
    health = Health(database, clock, supervisor, locks, outbox.circuits, metrics, channels, node_id=settings.node_id, marker=marker)
    safe_mode = SafeModeLoop(database, clock, health, metrics, public_url=settings.public_url)
    audit = Audit(database, clock, metrics, failures)
    audit.on_raised.append(alerts.wake.set)
    signals = SignalWatch(database, clock, metrics)
    loops: list[Loop] = [
        intake,
        conversations,
        dispatch,
        *([] if database.is_sqlite else [dispatch.sibling("dispatch_2")]),  # where several write at once
        drain,
        replay,
        skew,
        channel_watch,
        queue_watch,
        outbox,
        takeovers,
        D1(database, clock),
        DeferredWatch(database, clock),
        drills,
        Retention(database, clock, node_id=settings.node_id),
        alerts,
        audit,
        nodes,
        health,
        safe_mode,
        evidence,
        LogKeeper(database, clock, lines),
        signals,
    ]
    wakeups = None
    if not database.is_sqlite:
        wire = over_redis(settings.redis_url) if settings.redis_url else over_postgres(database)
        wakeups = Wakeups(wire, node_id=settings.node_id)
        loops.append(wakeups)
    if settings.heartbeat_url:
        loops.append(Heartbeat(http, settings.heartbeat_url, supervisor, audit))
    services = Services(
        tracing=traces,
        settings=settings,
        clock=clock,
        db=database,
        metrics=metrics,
        sink=sink,
        intake=intake,
        dispatch=dispatch,
        conversations=conversations,
        outbox=outbox,
        takeovers=takeovers,
        drain=drain,
        drills=drills,
        alerts=alerts,
        evidence=evidence,
        replay=replay,
        skew=skew,
        signals=signals,
        channel_watch=channel_watch,
        channels=channels,
        policies=policies,
        locks=locks,
        hub=hub,
        health=health,
        safe_mode=safe_mode,
        supervisor=supervisor,
        wakeups=wakeups,
        http=http,
        loops=loops,
    )
    _join(services)
    return services


async def _go_on(database: Database, clock: Clock) -> None:
    """A fast clock goes on where the installation's processes left it, and every process shows the same time.

    On SQLite, which has no clock of its own, no run begins before the last one: the machine's clock may have been set back.
    """
    if not isinstance(clock, SystemClock) or await current(database) != head():
        return
    newest = await database.read(newest_moment) if database.is_sqlite else None
    if clock.scale == 1.0:
        moved = clock.never_before(newest) if newest is not None else timedelta(0)
        if moved:
            log.warning("clock_was_set_back", moved_ms=round(moved.total_seconds() * 1000))
        return
    kept = await database.write(shared_time, clock.scale, *clock.pair())
    clock.go_on(kept.real_at, kept.at, newest)
    await database.write(keep_time, clock.scale, *clock.pair())


def _join(services: Services) -> None:
    """Who wakes whom: a wake-up carries no data, and one that is lost costs a poll period."""
    intake, dispatch, conversations, outbox, hub = (
        services.intake,
        services.dispatch,
        services.conversations,
        services.outbox,
        services.hub,
    )
    intake.on_accepted.append(hub.wake)
    intake.on_commands.append(dispatch.arrived)
    intake.on_messages.append(conversations.wake.set)
    intake.on_item.append(services.skew.note)
    conversations.on_heard.append(hub.wake)
    conversations.on_commands.append(dispatch.arrived)
    services.channel_watch.on_change += [dispatch.wake.set, services.drain.wake.set, hub.wake]
    services.replay.on_change += [dispatch.wake.set, hub.wake]
    services.drain.on_released += [dispatch.wake.set, hub.wake]

    def committed(plans: Sequence[LanePlan]) -> None:
        for plan in plans:
            intake.decided(plan.key[0], [e.command.command_id for e in plan.entries if e.command is not None])
        if plans:
            outbox.wake.set()
            hub.wake()

    dispatch.on_committed.append(committed)
    services.signals.on_fired += [services.alerts.wake.set, hub.wake]
    services.alerts.on_change += [hub.wake, services.safe_mode.wake.set]
    services.evidence.on_change += [hub.wake, services.alerts.wake.set]
    services.health.on_sample.append(services.safe_mode.wake.set)
    if isinstance(services.locks, RedisLocks):
        dispatch.on_failed.append(services.health.wake.set)  # the next look says whether both stores are silent
    services.safe_mode.on_change += [dispatch.wake.set, outbox.wake.set, hub.wake]
    if services.wakeups is not None:
        _join_nodes(services, services.wakeups)


def _join_nodes(services: Services, wakeups: Wakeups) -> None:
    """The same between nodes: what wakes a loop here wakes its twin there."""
    commands, stream = wakeups.teller("commands", "stream"), wakeups.teller("stream")
    services.intake.on_accepted.append(stream)
    services.intake.on_commands.append(lambda _: commands())
    services.intake.on_messages.append(wakeups.teller("messages"))
    services.conversations.on_heard.append(stream)
    services.conversations.on_commands.append(lambda _: commands())
    services.drain.on_released.append(commands)
    services.replay.on_change.append(commands)
    services.safe_mode.on_change += [commands, wakeups.teller("outbox")]
    services.alerts.on_change.append(stream)

    def committed(plans: Sequence[LanePlan]) -> None:
        for plan in plans:
            wakeups.decided(plan.key[0], [e.command.command_id for e in plan.entries if e.command is not None])
        if plans:
            tell()

    tell = wakeups.teller("outbox", "stream")
    services.dispatch.on_committed.append(committed)
    wakeups.on_hint |= {
        "commands": [services.dispatch.wake.set],
        "messages": [services.conversations.wake.set],
        "outbox": [services.outbox.wake.set],
        "stream": [services.hub.wake],
    }
    wakeups.on_decided.append(services.intake.decided)


@asynccontextmanager
async def running(services: Services) -> AsyncIterator[Services]:
    """The engine of `services` running beside the caller (tests, CLI); a defect of a loop is raised at the end."""
    async with asyncio.TaskGroup() as group:
        for loop in services.loops:
            group.create_task(services.supervisor.run(loop), name=loop.name)
        group.create_task(services.hub.run(services.supervisor.stop), name="stream")
        try:
            yield services
        finally:
            services.intake.close()
            services.hub.drain()
            services.supervisor.stop.set()
    await services.close()
    if services.supervisor.defect is not None:
        raise services.supervisor.defect


def _note_folder(database_url: str) -> Path:
    """Where a process keeps what neither store can: beside a SQLite file, else in the working folder's `var`."""
    url = make_url(database_url)
    return Path(url.database).parent if url.get_backend_name() == "sqlite" and url.database else VAR


def prepare_folder(database_url: str) -> None:
    """Make the folder of a SQLite file."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
