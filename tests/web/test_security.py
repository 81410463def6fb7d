"""Headers, CSRF, rates and slow bodies, on the real application."""

import asyncio
import re

import httpx
import pytest
from litestar import Litestar, get, post

from app.bootstrap import Services
from app.errors import TooManyRequests
from app.web.app import STRANGERS_BURST, STRANGERS_PER_S
from app.web.security import BODY_MAX, CONTENT_POLICY, TokenBuckets, hurried
from tests.web.conftest import Browser, app_over, browser_client


@post("/probe", opt={"access": "page"}, status_code=200, include_in_schema=False)
async def act() -> str:
    return "done"


@get("/probe", opt={"access": "page"}, include_in_schema=False)
async def look() -> str:
    return "seen"


@pytest.fixture
def app(services: Services) -> Litestar:
    return app_over(services, act, look)


async def test_every_answer_carries_the_policy_that_allows_our_own_files_only(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/nowhere", "/api/v1/nowhere", "/static/nothing.css", "/probe"):
        answer = await client.get(path)
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" not in answer.headers
    assert "unsafe" not in CONTENT_POLICY
    assert "default-src 'none'" in CONTENT_POLICY


async def test_answers_are_not_stored_by_caches(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/health")).headers["cache-control"] == "no-store"


async def test_a_change_needs_the_token_of_its_own_session(admin_session: Browser, secretary_session: Browser) -> None:
    assert (await admin_session.client.get("/probe")).text == "seen"
    for token in ("", "x", secretary_session.csrf_token):
        refused = await admin_session.client.post("/probe", headers={"X-CSRF-Token": token})
        assert refused.status_code == 403
    assert (await admin_session.client.post("/probe")).status_code == 403
    assert (await admin_session.client.post("/probe", headers=admin_session.headers)).text == "done"


async def test_a_form_may_carry_the_token_in_a_field(admin_session: Browser) -> None:
    assert (await admin_session.client.post("/probe", data={"_csrf": admin_session.csrf_token})).text == "done"
    assert (await admin_session.client.post("/probe", data={"_csrf": "x"})).status_code == 403


async def test_pages_travel_compressed_and_show_the_token_in_other_bytes_each_time(admin_session: Browser) -> None:
    shown = set()
    for _ in range(3):
        page = await admin_session.client.get("/queue", headers={"Accept-Encoding": "gzip"})
        assert page.headers["content-encoding"] == "gzip"
        assert admin_session.csrf_token not in page.text
        shown.update(re.findall(r'name="_csrf" value="([0-9a-f]+)"', page.text))
    assert len(shown) == 3  # one mask for a page, another for the next
    for token in shown:
        assert (await admin_session.client.post("/probe", data={"_csrf": token})).text == "done"
        spoilt = token[:-1] + ("0" if token[-1] != "0" else "1")
        assert (await admin_session.client.post("/probe", data={"_csrf": spoilt})).status_code == 403
    assert (await admin_session.client.post("/probe", data={"_csrf": "g" * 128})).status_code == 403


@pytest.mark.parametrize(("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)])
async def test_what_another_site_sends_is_refused_even_with_the_token(admin_session: Browser, site: str, status: int) -> None:
    answer = await admin_session.client.post("/probe", headers={**admin_session.headers, "Sec-Fetch-Site": site})
    assert answer.status_code == status


async def test_guessing_keys_is_slowed_down_and_good_keys_are_not_held_up_by_it(
    app: Litestar, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # no time passes between guesses: on a slow machine the bucket would refill while the test is still guessing
    monkeypatch.setattr(app.state.rates, "strangers", TokenBuckets(STRANGERS_PER_S, STRANGERS_BURST, monotonic=lambda: 100.0))
    async with browser_client(app, "192.0.2.66") as guesser:
        statuses = []
        for number in range(110):
            answer = await guesser.post("/probe", headers={"Authorization": f"Bearer kora_nobody_{number}"})
            statuses.append(answer.status_code)
        assert statuses == [401] * int(STRANGERS_BURST) + [429] * (110 - int(STRANGERS_BURST))
        assert int(answer.headers["retry-after"]) >= 1
        assert (await guesser.get("/schema/openapi.json", headers=key)).status_code == 200
    async with browser_client(app, "192.0.2.67") as neighbour:
        assert (await neighbour.post("/probe", headers={"Authorization": "Bearer kora_nobody_1"})).status_code == 401


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    now = 100.0
    buckets = TokenBuckets(2, 3, monotonic=lambda: now)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b") == 0.0
    now += 0.5
    assert buckets.take("a") == 0.0
    with pytest.raises(TooManyRequests) as refused:
        buckets.require("a")
    assert refused.value.retry_after_s == 1


def test_buckets_of_names_that_went_away_are_forgotten() -> None:
    buckets = TokenBuckets(1, 1, names_max=2, monotonic=lambda: 0.0)
    assert buckets.take("a") == 0.0
    assert buckets.take("b") == 0.0
    assert buckets.take("c") == 0.0
    assert buckets.take("b") > 0
    assert buckets.take("a") == 0.0


async def test_a_body_that_never_ends_is_given_up_and_a_stream_may_wait() -> None:
    parts = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def dripping() -> dict[str, object]:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()
        raise AssertionError

    receive = hurried(dripping, within_s=0.05)  # type: ignore[arg-type]
    assert (await receive())["type"] == "http.request"
    with pytest.raises(Exception, match="too long") as late:
        await receive()
    assert getattr(late.value, "status_code", None) == 408

    left = asyncio.Event()

    async def complete() -> dict[str, object]:
        if not left.is_set():
            left.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    receive = hurried(complete, within_s=0.01)  # type: ignore[arg-type]
    await receive()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await receive()


async def test_a_large_form_is_refused_before_it_is_looked_at(admin_session: Browser) -> None:
    answer = await admin_session.client.post("/probe", data={"_csrf": "x" * (BODY_MAX + 1)})
    assert answer.status_code == 413
