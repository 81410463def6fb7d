"""Counters and histograms of one process, in a registry of its own (Prometheus and OpenMetrics).

Label values come from small closed sets (states, modes, loops): never an id, a tenant, a phone or a name, so the number of
series is bounded and a scrape carries no personal data.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.domain.signals import SIGNALS, SignalLevel
from app.logsink import LogSink

LATENCY_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _Waits(Histogram):
    """A histogram that takes equal values together: what was accepted in one transaction and decided in another."""

    def observe_all(self, amount: float, count: int) -> None:
        """The same as `count` times `observe(amount)`."""
        self._sum.inc(amount * count)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(count)


_Metric = TypeVar("_Metric", Counter, _Waits)


class _ByLabel(dict[str, _Metric]):
    """The children of a metric with one label; each is looked up in the metric once, which costs more than counting."""

    def __init__(self, parent: _Metric) -> None:
        super().__init__()
        self._parent: _Metric = parent

    def __missing__(self, label: str) -> _Metric:
        child: _Metric = self._parent.labels(label)
        self[label] = child
        return child


class Metrics:
    """Everything that is counted. Call sites: `metrics.commands_done.labels(result=...).inc()`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        r = self.registry

        self.events_accepted = Counter("kora_events_accepted", "Messages by the status of their receipt", ["status"], registry=r)
        self.commands_accepted = Counter(
            "kora_commands_accepted", "Commands by the status of their receipt", ["status"], registry=r
        )
        self.commands_done = Counter("kora_commands_done", "Terminal results", ["result"], registry=r)
        self.messages_done = Counter("kora_messages_done", "Messages processed", ["intent"], registry=r)
        self.correlation_generated = Counter(
            "kora_correlation_generated", "Accepted items that came without a correlation id", registry=r
        )
        self._accepted_events, self._accepted_commands = _ByLabel(self.events_accepted), _ByLabel(self.commands_accepted)
        self._results = _ByLabel(self.commands_done)
        self.intake_batch_size = Histogram(
            "kora_intake_batch_size", "Items per intake transaction", buckets=BATCH_BUCKETS, registry=r
        )
        self.intake_seconds = Histogram(
            "kora_intake_seconds", "From request to durable receipt", buckets=LATENCY_BUCKETS_S, registry=r
        )
        self.intake_repeats = Counter(
            "kora_intake_repeats",
            "Items looked up on Redis: exact repeats (hit), others (miss)",
            ["answer"],
            registry=r,
        )
        self.commit_batch_size = Histogram(
            "kora_commit_batch_size", "Commands per commit transaction", buckets=BATCH_BUCKETS, registry=r
        )
        self.commit_seconds = Histogram("kora_commit_seconds", "Commit transaction", buckets=LATENCY_BUCKETS_S, registry=r)
        self.accept_to_commit_seconds = _Waits(
            "kora_accept_to_commit_seconds",
            "From acceptance to terminal result",
            ["priority"],
            buckets=LATENCY_BUCKETS_S,
            registry=r,
        )
        self._waits = _ByLabel(self.accept_to_commit_seconds)
        self.races_lost = Counter("kora_races_lost", "Compare-and-set writes that matched no row", registry=r)
        self.lock_acquired = Counter("kora_lock_acquired", "Lane locks by mode (primary, fallback, database)", ["mode"], registry=r)
        self.lock_failed = Counter("kora_lock_failed", "Lane locks that nobody could give", registry=r)
        self.lock_seconds = Histogram(
            "kora_lock_seconds", "Time to take the locks of a batch", ["mode"], buckets=LATENCY_BUCKETS_S, registry=r
        )
        self.loop_heartbeat_age_seconds = Gauge(
            "kora_loop_heartbeat_age_seconds", "Seconds since an engine loop was last seen alive", ["loop"], registry=r
        )
        self.loop_failures = Counter("kora_loop_failures", "Failures of engine loops", ["loop", "kind"], registry=r)
        self.stream_clients = Gauge("kora_stream_clients", "Open live streams", registry=r)
        self.stream_dropped = Counter("kora_stream_dropped", "Streams closed because their client did not read", registry=r)
        self.outbox = Counter("kora_outbox", "Deliveries by status", ["status"], registry=r)
        self._deliveries = _ByLabel(self.outbox)
        self.outbox_pending = Gauge("kora_outbox_pending", "Deliveries that are due and not done", registry=r)
        self.alert_messages = Counter("kora_alert_messages", "Alert messages by outcome", ["outcome"], registry=r)
        self.alert_steps_overdue = Gauge("kora_alert_steps_overdue", "Alert steps that should have been done", registry=r)
        self.evidence_packs = Counter("kora_evidence_packs", "Evidence packs built, by result of the try", ["result"], registry=r)
        self.evidence_seconds = Histogram(
            "kora_evidence_seconds", "Work on one evidence pack", buckets=LATENCY_BUCKETS_S, registry=r
        )
        self.evidence_flows = Gauge(
            "kora_evidence_flows", "Flows that ended within the last hour, with and without a pack", ["pack"], registry=r
        )
        self.lanes_waiting = Gauge("kora_lanes_waiting", "Lanes with waiting commands", registry=r)
        self.items_waiting = Gauge("kora_items_waiting", "Waiting commands and unheard messages", ["kind"], registry=r)
        self.safe_mode = Gauge("kora_safe_mode_scopes", "Scopes not in normal mode", registry=r)
        self.health_check = Gauge("kora_health_check", "1 = green at this node's newest look, 0 = red", ["check"], registry=r)
        self.http_requests = Counter("kora_http_requests", "Requests by method and status class", ["method", "status"], registry=r)
        self.http_seconds = Histogram("kora_http_seconds", "Time to answer", ["route"], buckets=LATENCY_BUCKETS_S, registry=r)

        self.signal_look_seconds = Histogram(
            "kora_signal_look_seconds", "Time to measure all signals once", buckets=LATENCY_BUCKETS_S, registry=r
        )
        self.signal_level = Gauge(
            "kora_signal_level", "Highest level of a signal: 0 normal, 1 warning, 2 critical", ["signal"], registry=r
        )
        self.signal_scopes = Gauge(
            "kora_signal_scopes", "Scopes (clinics, installation) of a signal by level", ["signal", "level"], registry=r
        )
        self._signals = {
            name: Gauge(
                f"kora_signal_{name}",
                f"{name} (section 9): its numbers over all clinics and in the worst one",
                ["measure", "of"],
                registry=r,
            )
            for name in SIGNALS
        }

        ProcessCollector(registry=r)
        GCCollector(registry=r)

    def accepted(self, kind: str, status: str, count: int = 1) -> None:
        """Receipts: `kind` is command or message."""
        (self._accepted_commands if kind == "command" else self._accepted_events)[status].inc(count)

    def done(self, result: str, priority: str, waited_s: float, count: int = 1) -> None:
        """Terminal results, each `waited_s` after its acceptance."""
        self._results[result].inc(count)
        self._waits[priority].observe_all(max(0.0, waited_s), count)

    def delivered(self, status: str) -> None:
        """One delivery in a new status."""
        self._deliveries[status].inc()

    def lock(self, mode: str, took_ms: float, count: int) -> None:
        """One round of locking: how many lanes were locked, in which mode, and how long it took."""
        self.lock_acquired.labels(mode=mode).inc(count)
        self.lock_seconds.labels(mode=mode).observe(took_ms / 1000)

    def show_signals(self, summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """The newest look: per signal `all` and `worst` (measure -> value) and `scopes` (level -> how many).

        A measure that has no value now (nothing there, too few samples) is absent.
        """
        for name, gauge in self._signals.items():
            one = summary.get(name, {})
            gauge.clear()
            for of in ("all", "worst"):
                for measure, value in one.get(of, {}).items():
                    gauge.labels(measure=measure, of=of).set(value)
            scopes = one.get("scopes", {})
            for level in SignalLevel:
                self.signal_scopes.labels(signal=name, level=level).set(scopes.get(level, 0))
            self.signal_level.labels(signal=name).set(max((level.rank for level in SignalLevel if scopes.get(level)), default=0))

    def watch_sink(self, sink: LogSink) -> None:
        """Export the log sink's own counts."""
        self.registry.register(_SinkCollector(sink))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics when the scraper asks for it, else Prometheus text."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _SinkCollector(Collector):
    def __init__(self, sink: LogSink) -> None:
        self._sink = sink

    def collect(self) -> Iterator[Metric]:
        for name, text, value in (
            ("kora_log_emitted", "Log lines written", self._sink.emitted),
            ("kora_log_emit_failed", "Attempts to write log lines that failed", self._sink.failed),
            ("kora_log_dropped", "Log lines lost because the buffer was full", self._sink.dropped),
        ):
            family = CounterMetricFamily(name, text)
            family.add_metric([], value)
            yield family
