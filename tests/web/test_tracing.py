"""One request's story in one trace: taken over from the caller, carried to webhooks, sent to a collector (S-PC-04-001)."""

import asyncio
import gzip
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import Connection, select

from app.bootstrap import Services, build, running
from app.channels.addresses import AllowList
from app.channels.http import new_client
from app.channels.outbound import OutboundMessage
from app.channels.webhook import WebhookChannel
from app.store.tables import Outbox, table
from tests.provider import Request, answer, provider
from tests.web.api_client import open_api
from tests.web.conftest import app_over, browser_client, make_settings

pytestmark = pytest.mark.story("S-PC-04-001")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


def plain(request: Request) -> bytes:
    return gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body


def spans(requests: list[Request]) -> dict[str, dict[str, Any]]:
    """What the collector got, by the span's name: trace, attributes."""
    found = {}
    for request in requests:
        if request.path != "/v1/traces":
            continue
        for resource in ExportTraceServiceRequest.FromString(plain(request)).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                    found[span.name] = {"trace": span.trace_id.hex(), **attributes}
    return found


async def test_a_request_under_a_callers_trace_is_one_trace_from_intake_to_the_family(sqlite_url: str) -> None:
    async with provider(answer(200)) as collector:
        services = await build(make_settings(sqlite_url, otlp_endpoint=collector.url), logs=False)
        async with running(services), browser_client(app_over(services)) as client:
            api = await open_api(services, client)
            body = api.command(payload=api.slot(1, "a-1"))
            body.pop("correlation_id", None)
            sent = await client.post("/api/v1/commands?wait=10", json=body, headers={**api.key, **PARENT})
            assert (sent.json()["result"], sent.json()["correlation_id"]) == ("applied_once", TRACE)
            assert sent.headers["x-correlation-id"] == TRACE
            async with asyncio.timeout(10):
                while not await services.db.read(delivered):
                    await asyncio.sleep(0.05)
        found = spans(collector.requests)
        assert {found[name]["trace"] for name in ("intake", "decide", "deliver")} == {TRACE}
        assert found["decide"]["kora.result"] == "applied_once"
        assert found["decide"]["kora.commit_order"] == 1
        assert "Pedro" not in str(found)
        assert "+55" not in str(found)
        sums = [plain(r) for r in collector.requests if r.path == "/v1/metrics"]
        exported = ExportMetricsServiceRequest.FromString(sums[-1])
        names = {m.name for r in exported.resource_metrics for s in r.scope_metrics for m in s.metrics}
        assert {"kora_commands_done_total", "kora_commit_seconds_count"} <= names


def delivered(conn: Connection) -> bool:
    outbox = table(Outbox)
    return {row.status for row in conn.execute(select(outbox.c.status))} == {"sent"}


async def test_a_collector_that_is_gone_holds_nothing(sqlite_url: str) -> None:
    services = await build(make_settings(sqlite_url, otlp_endpoint="http://127.0.0.1:9"), logs=False)
    async with running(services), browser_client(app_over(services)) as client:
        api = await open_api(services, client)
        assert (await api.one(api.command(payload=api.slot(1, "a-1"))))["result"] == "applied_once"


async def test_a_webhook_hands_the_correlation_over_as_it_is_and_as_a_trace() -> None:
    async with provider(answer(200)) as there, new_client() as client:
        channel = WebhookChannel(client, f"{there.url}/hook", allowed=AllowList.of(["127.0.0.0/8"]))
        await channel.send(OutboundMessage(key="k-1", text="oi", correlation_id=TRACE))
        await channel.send(OutboundMessage(key="k-2", text="oi", correlation_id="corr-1"))
        await channel.send(OutboundMessage(key="k-3", text="oi"))
    first, second, third = (request.headers for request in there.requests)
    assert (first["x-correlation-id"], first["traceparent"].split("-")[1]) == (TRACE, TRACE)
    assert second["x-correlation-id"] == "corr-1"
    assert second["traceparent"].split("-")[1] != TRACE
    assert "traceparent" not in third


async def test_an_item_keeps_its_own_id_and_a_header_names_the_others(
    running_client: httpx.AsyncClient, running_services: Services
) -> None:
    api = await open_api(running_services, running_client)
    own, other = api.event("oi", correlation_id="corr-own", external_id="w-1"), api.event("oi", external_id="w-2")
    other.pop("correlation_id", None)
    headers = {**api.key, "X-Correlation-ID": "corr-header"}
    got = await running_client.post("/api/v1/events", json={"events": [own, other]}, headers=headers)
    assert [item["correlation_id"] for item in got.json()["items"]] == ["corr-own", "corr-header"]
