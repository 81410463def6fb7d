"""Traces and metrics to an OpenTelemetry collector (`KORA_OTLP_ENDPOINT`); without one nothing is imported and nothing costs.

A span is written after the fact, with the times that are known anyway, under the trace of its correlation id
(`domain.trace_context`), so the steps of one request stand in one trace whichever process and hour they happened in. The SDK
buffers (bounded) and exports in a thread of its own: a collector that is slow or gone never holds a request or a commit.
"""

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app.domain.trace_context import span_id_of, trace_id_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

EXPORT_EVERY_MS: Final = 15_000
CLOSE_S: Final = 1.0
QUEUE_MAX: Final = 4_096
"""Spans that wait for the collector; more are dropped."""


class Tracing:
    """Nothing is traced."""

    active = False
    """Whether a span goes anywhere: whoever has one for each of many things asks first."""

    def span(self, name: str, correlation_id: str | None, start: datetime, end: datetime, **attributes: Any) -> None:
        """One step of a flow, from `start` to `end`; attributes are ids, states and numbers, never words or phone numbers."""

    def close(self) -> None:
        """Hand over what is buffered."""


class OtlpTracing(Tracing):
    """To a collector, over HTTP with protobuf."""

    active = True

    def __init__(self, endpoint: str, registry: "CollectorRegistry", *, node_id: str) -> None:
        # the SDK takes a second and 20 MB to import: only who uses it pays
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        base = endpoint.rstrip("/")
        resource = Resource.create({"service.name": "koraos-console", "service.instance.id": node_id})
        self._traces = TracerProvider(resource=resource)
        self._traces.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=2), max_queue_size=QUEUE_MAX)
        )
        self._tracer = self._traces.get_tracer("koraos")
        exporter = OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=2)
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=EXPORT_EVERY_MS)
        self._metrics = MeterProvider(metric_readers=[reader], resource=resource)
        self._export(registry)

    def span(self, name: str, correlation_id: str | None, start: datetime, end: datetime, **attributes: Any) -> None:
        """One step of a flow."""
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        if correlation_id is None:
            return
        parent = SpanContext(
            trace_id=int(trace_id_of(correlation_id), 16),
            span_id=int(span_id_of(correlation_id), 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
        known = {f"kora.{key}": value for key, value in attributes.items() if value is not None}
        span = self._tracer.start_span(
            name,
            context=set_span_in_context(NonRecordingSpan(parent)),
            start_time=_nanoseconds(start),
            attributes={"kora.correlation_id": correlation_id, **known},
        )
        span.end(_nanoseconds(max(start, end)))

    def _export(self, registry: "CollectorRegistry") -> None:
        """The same numbers as on /metrics: sums as counters, everything else as it stands."""
        from opentelemetry.metrics import CallbackOptions, Observation

        meter = self._metrics.get_meter("koraos")

        def of(name: str) -> Any:
            def read(_: CallbackOptions) -> Iterable[Observation]:
                for family in registry.collect():
                    for sample in family.samples:
                        if sample.name == name:
                            yield Observation(sample.value, sample.labels)

            return read

        for family in registry.collect():
            if family.type == "counter":
                meter.create_observable_counter(f"{family.name}_total", callbacks=[of(f"{family.name}_total")])
            elif family.type == "gauge":
                meter.create_observable_gauge(family.name, callbacks=[of(family.name)])
            elif family.type == "histogram":
                for part in ("count", "sum"):
                    meter.create_observable_counter(f"{family.name}_{part}", callbacks=[of(f"{family.name}_{part}")])

    def close(self) -> None:
        """Hand over what is buffered; a collector that does not take it within a second does not get it."""
        ends = [threading.Thread(target=end, daemon=True) for end in (self._traces.shutdown, self._metrics.shutdown)]
        for thread in ends:
            thread.start()
        for thread in ends:
            thread.join(CLOSE_S)


def tracing(endpoint: str | None, registry: "CollectorRegistry", *, node_id: str) -> Tracing:
    """Where spans go."""
    return OtlpTracing(endpoint, registry, node_id=node_id) if endpoint else Tracing()


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000_000)
