"""Failures are RFC 9457 problems with a correlation id, and say nothing about our insides."""

import asyncio
from typing import Any

import httpx
import pytest
from litestar import Litestar, post
from litestar.params import FromPath, FromQuery, JSONBody

from app.bootstrap import Services
from app.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    KoraError,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    RequestError,
    StorageUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from app.web.security import BODY_MAX
from tests.web.conftest import app_over, browser_client

PROBLEM = "application/problem+json"

FAILURES: dict[str, Exception] = {
    "invalid": InvalidRequest("no", errors=[{"pointer": "/a", "detail": "is required"}]),
    "unauthenticated": Unauthenticated("no"),
    "forbidden": Forbidden("no"),
    "not-found": NotFound("no"),
    "conflict": Conflict("no"),
    "too-large": PayloadTooLarge("no"),
    "too-many": TooManyRequests("no", retry_after_s=7),
    "storage": StorageUnavailable("password=hunter2"),
    "unknown": OutcomeUnknown("password=hunter2"),
    "defect": ValueError("password=hunter2"),
    "our-defect": KoraError("password=hunter2"),
}


@post("/api/v1/probe/{name:str}", opt={"access": "public"}, status_code=200, include_in_schema=False)
async def fail(name: FromPath[str]) -> None:
    raise FAILURES[name]


@post("/api/v1/probe-body", opt={"access": "public"}, status_code=200, include_in_schema=False)
async def read(data: JSONBody[dict[str, Any]]) -> dict[str, Any]:
    return data


@post("/api/v1/probe-number", opt={"access": "public"}, status_code=200, include_in_schema=False)
async def number(limit: FromQuery[int]) -> int:
    return limit


@pytest.fixture
def app(services: Services) -> Litestar:
    return app_over(services, fail, read, number)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("invalid", 400),
        ("unauthenticated", 401),
        ("forbidden", 403),
        ("not-found", 404),
        ("conflict", 409),
        ("too-large", 413),
        ("too-many", 429),
        ("storage", 503),
        ("unknown", 503),
        ("defect", 500),
        ("our-defect", 500),
    ],
)
async def test_each_failure_has_its_status_and_the_same_shape(client: httpx.AsyncClient, name: str, status: int) -> None:
    answer = await client.post(f"/api/v1/probe/{name}", headers={"X-Correlation-ID": "corr-1"})
    body = answer.json()
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    assert {"type", "title", "status", "detail", "instance", "correlation_id"} <= body.keys()
    assert (body["status"], body["instance"], body["correlation_id"]) == (status, f"/api/v1/probe/{name}", "corr-1")
    assert answer.headers["x-correlation-id"] == "corr-1"
    assert "hunter2" not in answer.text
    if isinstance(FAILURES[name], RequestError):
        assert body["detail"] == "no"


async def test_a_bad_field_is_named_by_a_json_pointer(client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/v1/probe/invalid")).json()["errors"] == [{"pointer": "/a", "detail": "is required"}]
    answer = await client.post("/api/v1/probe-number?limit=many")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "/limit"


async def test_a_caller_who_must_wait_is_told_how_long(client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/v1/probe/too-many")).headers["retry-after"] == "7"
    assert (await client.post("/api/v1/probe/storage")).headers["retry-after"] == "1"


async def test_an_unusable_correlation_id_is_replaced(client: httpx.AsyncClient) -> None:
    for given in ("x" * 201, "with\ttab", "caf\u00e9"):
        answer = await client.get("/healthz", headers=[(b"X-Correlation-ID", given.encode("latin-1"))])
        echoed = answer.headers["x-correlation-id"]
        assert echoed != given
        assert len(echoed) == 32


async def test_an_unknown_address_and_a_wrong_method_are_problems_too(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/api/v1/nowhere")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, PROBLEM)
    wrong = await client.post("/healthz")
    assert (wrong.status_code, wrong.headers["content-type"]) == (405, PROBLEM)
    assert "GET" in wrong.headers["allow"]


async def test_a_body_that_is_not_json_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/probe-body", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)


async def test_a_body_over_a_mebibyte_is_refused_whether_its_length_is_said_or_not(client: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        for _ in range(2 * BODY_MAX // 65_536):
            yield b" " * 65_536

    said = await client.post("/api/v1/probe-body", content=b" " * (BODY_MAX + 1), headers={"Content-Type": "application/json"})
    unsaid = await client.post("/api/v1/probe-body", content=chunks(), headers={"Content-Type": "application/json"})
    for answer in (said, unsaid):
        assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)
        assert answer.headers["connection"] == "close"


async def test_a_browser_gets_a_page_where_there_is_one_and_programs_never_do(client: httpx.AsyncClient) -> None:
    page = await client.get("/nowhere", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert page.headers["content-type"].partition(";")[0] in ("text/html", PROBLEM)
    api = await client.get("/api/v1/nowhere", headers={"Accept": "text/html"})
    assert api.headers["content-type"] == PROBLEM


async def test_without_the_database_the_process_lives_and_is_not_ready(services: Services, app: Litestar) -> None:
    async def down(*_args: object, **_kwargs: object) -> None:
        raise StorageUnavailable("gone")

    async with browser_client(app) as client:
        assert (await client.get("/readyz")).json() == {"status": "ready", "reasons": []}
        services.db.read = down  # type: ignore[method-assign, assignment]  # the outside world: a database that went away
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["the database does not answer"])
        health = (await client.get("/api/v1/health")).json()
        assert (health["status"], health["components"][0]["name"], health["components"][0]["status"]) == ("red", "database", "red")
        nobody = await client.post("/logout", headers={"Authorization": "Bearer kora_0_0"})
        assert nobody.status_code == 503  # whether the key is good cannot be known, so it is not called wrong


async def test_health_names_each_component_with_its_latency_and_since_when(running_client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        while True:
            health = (await running_client.get("/api/v1/health")).json()
            names = {c["name"] for c in health["components"]}
            if {"database", "locks", "loop:intake", "loop:dispatch"} <= names:
                break
            await asyncio.sleep(0.02)
    assert health["status"] == "green"
    assert health["lock_mode"] == "database"
    database = next(c for c in health["components"] if c["name"] == "database")
    assert database["latency_ms"] >= 0
    assert database["since"].endswith("Z")
    again = (await running_client.get("/api/v1/health")).json()
    assert next(c for c in again["components"] if c["name"] == "database")["since"] == database["since"]


async def test_the_numbers_are_served_in_both_formats_without_ids(client: httpx.AsyncClient) -> None:
    await client.get("/healthz")
    plain = await client.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'kora_http_requests_total{method="GET",status="2xx"}' in plain.text
    assert 'kora_http_seconds_count{route="/healthz"}' in plain.text
    opened = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert opened.headers["content-type"].count("charset") == 1


async def test_the_interface_describes_itself_as_json(client: httpx.AsyncClient) -> None:
    answer = await client.get("/schema/openapi.json")
    assert answer.status_code == 200
    assert answer.json()["openapi"].startswith("3.")
    assert "/api/v1/health" in answer.json()["paths"]
